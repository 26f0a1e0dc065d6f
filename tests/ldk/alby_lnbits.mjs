// node alby_lnbits.mjs RELAY LNBITS SCHEME: Alby's own NIP-47 service before a wallet of an LNbits server.
// RELAY and LNBITS are addresses, SCHEME is nip04 or nip44_v2, the only one that is announced and understood. The
// environment: LNBITS_ADMIN_KEY and LNBITS_INVOICE_KEY of the wallet; WALLET_SECRET and CLIENT_SECRET, the
// connection's keys, so that it is the same connection after a restart. Prints a line once it listens.
import { createHash } from 'node:crypto';
import { getPublicKey } from 'nostr-tools';
import WebSocket from 'ws';

globalThis.WebSocket = WebSocket;
const { NWCWalletService, NWCWalletServiceKeyPair } = await import('@getalby/sdk/nwc');

const INFO = 13194, NOTIFICATION = { nip04: 23196, nip44_v2: 23197 };
const METHODS = ['get_info', 'get_balance', 'make_invoice', 'lookup_invoice', 'list_transactions', 'pay_invoice'];
const NOTIFICATIONS = ['payment_received'];
const PAGE = 20, MAX_PAGE = 100, LOOK_MS = 500;

const [relay, lnbits, scheme] = process.argv.slice(2);
const { LNBITS_ADMIN_KEY: adminKey, LNBITS_INVOICE_KEY: invoiceKey, WALLET_SECRET, CLIENT_SECRET } = process.env;
const keys = new NWCWalletServiceKeyPair(WALLET_SECRET, getPublicKey(Buffer.from(CLIENT_SECRET, 'hex')));
const now = () => Math.floor(Date.now() / 1000);

/** Alby's service announces and understands both schemes: this one knows `scheme` alone. */
class OneScheme extends NWCWalletService {
  signEvent(event, secret) {
    const tags = event.tags.map(tag => (event.kind === INFO && tag[0] === 'encryption' ? ['encryption', scheme] : tag));
    return super.signEvent({ ...event, tags }, secret);
  }

  decrypt(keypair, content, encryption) {
    if (encryption !== scheme) throw new Error(`a request in ${encryption}`);
    return super.decrypt(keypair, content, encryption);
  }

  /** The class has no notifications. */
  async notify(type, notification) {
    const content = await this.encrypt(keys, JSON.stringify({ notification_type: type, notification }), scheme);
    const event = await this.signEvent(
      { kind: NOTIFICATION[scheme], created_at: now(), tags: [['p', keys.clientPubkey]], content }, keys.walletSecret);
    await Promise.any(this.pool.publish(this.relayUrls, event));
  }
}

class Refusal extends Error {
  constructor(code, message) { super(message); this.code = code; }
}

// --- LNbits --------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

/** One call with the wallet's key; throws Refused where LNbits does not do it. */
async function call(method, path, body) {
  const answer = await fetch(lnbits + path, {
    method, headers: { 'X-Api-Key': adminKey, 'content-type': 'application/json' }, body: body && JSON.stringify(body) });
  const told = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, String(told.detail));
  return told;
}

/** The invoice or payment of that hash, of this wallet; null where it has none. */
async function find(hash) {
  try {
    return (await call('GET', `/api/v1/payments/${hash}`)).details ?? null; // none: another wallet's
  } catch (e) {
    if (e instanceof Refused && e.status === 404) return null;
    throw e;
  }
}

const seconds = time => (time ? Math.floor(Date.parse(/[Z+]/.test(time) ? time : time + 'Z') / 1000) : undefined);
const opens = (preimage, hash) => /^[0-9a-f]{64}$/.test(preimage ?? '')
  && createHash('sha256').update(Buffer.from(preimage, 'hex')).digest('hex') === hash;

/** A payment of LNbits as NIP-47 shows it. Of what is not settled LNbits may know the preimage, too. */
function transaction(row) {
  const settled = row.status === 'success', expires = seconds(row.expiry);
  const open = row.amount > 0 && expires && expires <= now() ? 'expired' : 'pending';
  return { type: row.amount > 0 ? 'incoming' : 'outgoing', state: settled ? 'settled' : row.status === 'failed' ? 'failed' : open,
    invoice: row.bolt11, description: row.memo ?? undefined, payment_hash: row.payment_hash, amount: Math.abs(row.amount),
    preimage: settled && opens(row.preimage, row.payment_hash) ? row.preimage : undefined, fees_paid: Math.abs(row.fee),
    created_at: seconds(row.time), expires_at: expires, settled_at: settled ? seconds(row.updated_at) : undefined, metadata: {} };
}

// --- NIP-47 --------------------------------------------------------------------------------------------

const handlers = {
  getInfo: async () => ({ alias: 'alby before lnbits', color: '', pubkey: keys.walletPubkey, network: 'regtest',
    block_height: 0, block_hash: '', methods: METHODS, notifications: NOTIFICATIONS }),

  getBalance: async () => ({ balance: (await call('GET', '/api/v1/wallet')).balance }),

  makeInvoice: async ({ amount, description, description_hash, expiry }) => {
    if (amount % 1000) throw new Refusal('OTHER', 'LNbits makes invoices over whole sats');
    const about = description_hash ? { description_hash } : { memo: description || ' ' };
    return transaction(await call('POST', '/api/v1/payments',
      { out: false, unit: 'sat', amount: amount / 1000, expiry: expiry ?? 3600, ...about }));
  },

  lookupInvoice: async ({ payment_hash, invoice }) => {
    const hash = payment_hash ?? (await call('POST', '/api/v1/payments/decode', { data: invoice })).payment_hash;
    const row = await find(hash);
    if (!row) throw new Refusal('NOT_FOUND', 'no invoice or payment has this hash');
    return transaction(row);
  },

  listTransactions: async ({ from, until, limit, offset, unpaid, type }) => {
    const query = new URLSearchParams({ sortby: 'time', direction: 'desc', offset: offset ?? 0,
      limit: limit > 0 ? Math.min(limit, MAX_PAGE) : PAGE });
    if (from) query.set('time[ge]', from);
    if (until) query.set('time[le]', until);
    if (!unpaid) query.set('status', 'success');
    if (type) query.set(type === 'incoming' ? 'amount[gt]' : 'amount[lt]', 0);
    const { data, total } = await call('GET', `/api/v1/payments/paginated?${query}`);
    return { transactions: data.map(transaction), total_count: total };
  },

  payInvoice: async ({ invoice }) => {
    let row;
    try {
      row = await call('POST', '/api/v1/payments', { out: true, bolt11: invoice });
    } catch (e) {
      if (!(e instanceof Refused)) throw e;
      throw new Refusal(/insufficient balance/i.test(e.message) ? 'INSUFFICIENT_BALANCE' : 'PAYMENT_FAILED', e.message);
    }
    while (row.status === 'pending') {
      await new Promise(done => setTimeout(done, LOOK_MS));
      row = await find(row.payment_hash);
    }
    const { state, preimage, fees_paid } = transaction(row);
    if (state !== 'settled') throw new Refusal('PAYMENT_FAILED', 'no way to the payee was found');
    return { preimage, fees_paid };
  },
};

/** As Alby's class wants its handlers: they resolve, with a result or with an error. */
const answering = handle => async params => {
  try {
    return { result: await handle(params), error: undefined };
  } catch (e) {
    return { result: undefined, error: { code: e instanceof Refusal ? e.code : 'INTERNAL', message: e.message } };
  }
};

const service = new OneScheme({ relayUrls: [relay] });
const listener = new WebSocket(`${lnbits.replace(/^http/, 'ws')}/api/v1/ws/${invoiceKey}`);
listener.on('message', message => {
  const { payment } = JSON.parse(message);
  if (payment?.amount > 0) service.notify('payment_received', transaction(payment)).catch(console.error);
});
await new Promise((open, fail) => listener.once('open', open).once('error', fail));
await service.subscribe(keys, Object.fromEntries(Object.entries(handlers).map(([name, handle]) => [name, answering(handle)])));
await service.publishWalletServiceInfoEvent(keys.walletSecret, METHODS, NOTIFICATIONS);
console.log('listening');
