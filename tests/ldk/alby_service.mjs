// node alby_service.mjs RELAY INVOICE PAYMENT_HASH: Alby's own NIP-47 service, whose wallet knows one invoice.
// Prints its URI. It makes INVOICE, and tells of PAYMENT_HASH that it is settled.
import { generateSecretKey, getPublicKey } from 'nostr-tools';
import WebSocket from 'ws';

globalThis.WebSocket = WebSocket;
const { NWCWalletService, NWCWalletServiceKeyPair } = await import('@getalby/sdk/nwc');

const [relay, invoice, paymentHash] = process.argv.slice(2);
const hex = bytes => Buffer.from(bytes).toString('hex');
const own = hex(generateSecretKey()), client = generateSecretKey();
const keys = new NWCWalletServiceKeyPair(own, getPublicKey(client));
const methods = ['get_info', 'get_balance', 'make_invoice', 'lookup_invoice'];
const service = new NWCWalletService({ relayUrls: [relay] });
await service.publishWalletServiceInfoEvent(own, methods, []);
const transaction = { type: 'incoming', invoice, payment_hash: paymentHash, amount: 21_000, fees_paid: 0,
  created_at: Math.floor(Date.now() / 1000), expires_at: Math.floor(Date.now() / 1000) + 600, metadata: {} };
await service.subscribe(keys, {
  getInfo: async () => ({ result: { methods, alias: 'alby', network: 'regtest', color: '', pubkey: '', block_height: 0, block_hash: '' }, error: undefined }),
  getBalance: async () => ({ result: { balance: 7_000 }, error: undefined }),
  makeInvoice: async () => ({ result: transaction, error: undefined }),
  lookupInvoice: async () => ({ result: { ...transaction, state: 'settled', settled_at: Math.floor(Date.now() / 1000) }, error: undefined }),
});
console.log(`nostr+walletconnect://${keys.walletPubkey}?relay=${encodeURIComponent(relay)}&secret=${hex(client)}`);
