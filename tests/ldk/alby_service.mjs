// node alby_service.mjs RELAY INVOICE PAYMENT_HASH BILL PREIMAGE: Alby's own NIP-47 service, whose wallet knows one
// invoice and one payment. Prints its URI. It makes INVOICE, tells of PAYMENT_HASH that it is settled, and pays BILL,
// whose preimage is PREIMAGE. Its service class has no hold invoices and no notifications.
import { createHash } from 'node:crypto';
import { generateSecretKey, getPublicKey } from 'nostr-tools';
import WebSocket from 'ws';

globalThis.WebSocket = WebSocket;
const { NWCWalletService, NWCWalletServiceKeyPair } = await import('@getalby/sdk/nwc');

const [relay, invoice, paymentHash, bill, preimage] = process.argv.slice(2);
const billHash = createHash('sha256').update(Buffer.from(preimage, 'hex')).digest('hex');
const now = () => Math.floor(Date.now() / 1000);
let paidAt = null;
const hex = bytes => Buffer.from(bytes).toString('hex');
const own = hex(generateSecretKey()), client = generateSecretKey();
const keys = new NWCWalletServiceKeyPair(own, getPublicKey(client));
const methods = ['get_info', 'get_balance', 'make_invoice', 'lookup_invoice', 'list_transactions', 'pay_invoice'];
const service = new NWCWalletService({ relayUrls: [relay] });
await service.publishWalletServiceInfoEvent(own, methods, []);
const transaction = { type: 'incoming', invoice, payment_hash: paymentHash, amount: 21_000, fees_paid: 0,
  created_at: now(), expires_at: now() + 600, metadata: {} };
const received = () => ({ ...transaction, state: 'settled', settled_at: now() });
const sent = () => ({ ...transaction, type: 'outgoing', state: 'settled', invoice: bill, payment_hash: billHash, amount: 5_000,
  fees_paid: 1_000, preimage, settled_at: paidAt });
const refusal = (code, message) => ({ result: undefined, error: { code, message } });
await service.subscribe(keys, {
  getInfo: async () => ({ result: { methods, alias: 'alby', network: 'regtest', color: '', pubkey: '', block_height: 0, block_hash: '' }, error: undefined }),
  getBalance: async () => ({ result: { balance: 7_000 }, error: undefined }),
  makeInvoice: async () => ({ result: transaction, error: undefined }),
  lookupInvoice: async ({ payment_hash }) => {
    if (payment_hash === billHash && paidAt) return { result: sent(), error: undefined };
    return payment_hash === paymentHash ? { result: received(), error: undefined } : refusal('NOT_FOUND', 'no such transaction');
  },
  listTransactions: async ({ offset }) => ({ result: { transactions: offset ? [] : [received()], total_count: 1 }, error: undefined }),
  payInvoice: async ({ invoice }) => {
    if (invoice !== bill || paidAt) return refusal('PAYMENT_FAILED', paidAt ? 'the invoice has been paid' : 'no route');
    paidAt = now();
    return { result: { preimage, fees_paid: 1_000 }, error: undefined };
  },
});
console.log(`nostr+walletconnect://${keys.walletPubkey}?relay=${encodeURIComponent(relay)}&secret=${hex(client)}`);
