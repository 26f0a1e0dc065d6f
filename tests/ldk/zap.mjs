// nostr-tools as the one who zaps (NIP-57). Prints one JSON object.
//   node zap.mjs ask ADDRESS RECIPIENT RELAY MSAT COMMENT [EVENT]   the request as it was sent, and what came back
//   node zap.mjs check RECEIPT BOLT11 PAID_AT        whether it is valid, and the receipt that nostr-tools would make
// The server speaks http:// on this machine, where nostr-tools would speak https://.
import { finalizeEvent, generateSecretKey, verifyEvent } from 'nostr-tools/pure';
import * as nip57 from 'nostr-tools/nip57';

const here = url => fetch(String(url).replace('https://', 'http://'));
nip57.useFetchImplementation(here);

async function ask(address, recipient, relay, msat, comment, event) {
  const callback = await nip57.getZapEndpoint({ content: JSON.stringify({ lud16: address }) });
  const about = event ? { event: JSON.parse(event) } : { pubkey: recipient };
  const draft = nip57.makeZapRequest({ ...about, amount: Number(msat), comment, relays: [relay] });
  const request = JSON.stringify(finalizeEvent(draft, generateSecretKey()));
  const query = `amount=${msat}&nostr=${encodeURIComponent(request)}&lnurl=${encodeURIComponent(address)}`;
  const answer = await (await here(`${callback}?${query}`)).json();
  return { request, error: nip57.validateZapRequest(request), answer };
}

function check(receipt, bolt11, paidAt) {
  const { id, pubkey, created_at, kind, tags, content, sig } = JSON.parse(receipt);
  const request = tags.find(([name]) => name === 'description')[1];
  const expected = nip57.makeZapReceipt({ zapRequest: request, bolt11, paidAt: new Date(Number(paidAt) * 1000) });
  return {
    verified: verifyEvent({ id, pubkey, created_at, kind, tags, content, sig }),
    error: nip57.validateZapRequest(request),
    expected,
  };
}

const [what, ...rest] = process.argv.slice(2);
console.log(JSON.stringify(await { ask, check }[what](...rest)));
