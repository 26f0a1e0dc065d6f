// node alby_client.mjs URI INVOICE: Alby's own NIP-47 client asks a wallet everything, and pays INVOICE.
// Prints one JSON object: what it was told.
import WebSocket from 'ws';

globalThis.WebSocket = WebSocket;
const { NWCClient } = await import('@getalby/sdk/nwc');

const [uri, invoice] = process.argv.slice(2);
const client = new NWCClient({ nostrWalletConnectUrl: uri });
const told = { info: await client.getInfo(), balance: await client.getBalance() };
told.made = await client.makeInvoice({ amount: 21_000, description: "by Alby's client" });
told.unpaid = await client.lookupInvoice({ payment_hash: told.made.payment_hash });
told.paid = await client.payInvoice({ invoice });
told.again = await client.payInvoice({ invoice }).catch(e => ({ code: e.code, name: e.name }));
told.list = await client.listTransactions({ limit: 10 });
console.log(JSON.stringify(told));
client.close();
process.exit(0);
