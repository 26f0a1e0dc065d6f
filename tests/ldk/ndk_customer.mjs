// A customer of a data vending machine who knows NDK and nothing else: what it reads, it reads by NDK's accessors.
//
//     node ndk_customer.mjs RELAY PROVIDER
//
// First line: {"pubkey"}. Then it obeys JSON lines on stdin and says JSON lines on stdout:
//   {"ask": tag, "kind", "inputs", "params", "output", "bid", "scheme": null | "nip44" | "nip04", "beside": bool}
//     → {"asked": tag, "job", "event"}. `beside`: output and bid stand outside of what is encrypted, in clear.
//   {"cancel": job} → {"cancelled": job}
//   {"note": tag, "content"} → {"noted": tag, "event": id}: a text for everybody (kind 1)
//   {"fetch": tag, "url", "key", "nonce"} → {"fetched": tag, "status", "sha256", "opened"}: what is at a URL, by its
//     hash, and, if a key and a nonce are given (hex, AES-GCM), by the hash of what it is in clear
// and {"heard": …} for each answer. It ends with its stdin.
import { createInterface } from "node:readline";
import NDK, { NDKEvent, NDKDVMJobFeedback, NDKDVMJobResult, NDKDVMRequest, NDKPrivateKeySigner } from "@nostr-dev-kit/ndk";
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket; // Node.js has its own from 22 on

const [relay, provider] = process.argv.slice(2);
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const signer = NDKPrivateKeySigner.generate();
const ndk = new NDK({ explicitRelayUrls: [relay], signer, enableOutboxModel: false, autoConnectUserRelays: false });
const dvm = ndk.getUser({ pubkey: provider });
const requests = new Map();

async function ask({ ask: tag, kind, inputs, params, output, bid, scheme, beside }) {
  const request = new NDKDVMRequest(ndk);
  request.kind = kind;
  for (const input of inputs) request.addInput(...input);
  for (const param of params) request.addParam(...param);
  const terms = () => {
    request.output = output;
    request.bid = bid;
  };
  if (!beside) terms();
  if (scheme) {
    const { encrypt } = request; // `encryption` calls it without a scheme, and its default is NIP-44
    request.encrypt = (recipient, by) => encrypt(recipient, by, scheme);
    await request.encryption(dvm, signer);
  } else {
    request.dvm = dvm;
  }
  if (beside) terms();
  await request.sign();
  requests.set(request.id, request);
  await request.publish();
  say({ asked: tag, job: request.id, event: request.rawEvent() });
}

async function note({ note: tag, content }) {
  const event = new NDKEvent(ndk, { kind: 1, content, tags: [] });
  await event.publish();
  say({ noted: tag, event: event.id });
}

async function fetched({ fetch: tag, url, key, nonce }) {
  const response = await fetch(url);
  const data = await response.arrayBuffer();
  const sha256 = async (bytes) => Buffer.from(await crypto.subtle.digest("SHA-256", bytes)).toString("hex");
  let opened;
  if (key) {
    const secret = await crypto.subtle.importKey("raw", Buffer.from(key, "hex"), "AES-GCM", false, ["decrypt"]);
    const clear = await crypto.subtle.decrypt({ name: "AES-GCM", iv: Buffer.from(nonce, "hex") }, secret, data);
    opened = await sha256(clear);
  }
  say({ fetched: tag, status: response.status, sha256: await sha256(data), opened });
}

async function hear(event) {
  const encrypted = event.getMatchingTags("encrypted").length > 0;
  const sealed = encrypted ? event.content : undefined;
  const valid = event.verifySignature(false);
  const told = { kind: event.kind, author: event.pubkey, encrypted, sealed, valid };
  if (event.kind === NDKDVMJobFeedback.kind) {
    const feedback = await NDKDVMJobFeedback.from(event);
    // The last one: what an encrypted answer says within comes after what it says outside.
    const [, , text] = feedback.getMatchingTags("status").at(-1) ?? [];
    const said = feedback.encrypted ? feedback.tagValue("content") : feedback.content;
    return { ...told, job: feedback.tagValue("e"), status: feedback.status, text, content: said,
      amounts: feedback.getMatchingTags("amount").map((amount) => amount.slice(1)) };
  }
  const result = NDKDVMJobResult.from(event);
  if (encrypted) await result.decrypt();
  const asked = NDKDVMRequest.from(result.jobRequest);
  return { ...told, job: result.jobRequestId, status: result.status, result: result.result,
    amounts: result.getMatchingTags("amount").map((amount) => amount.slice(1)),
    inputs: result.getMatchingTags("i").map((input) => input.slice(1)),
    request: { id: asked.id, valid: asked.verifySignature(false), kind: asked.kind, bid: asked.bid,
      output: asked.output, params: asked.params } };
}

await ndk.connect(10_000);
const { pubkey } = await signer.user();
await new Promise((eose) => {
  ndk.subscribe({ kinds: [NDKDVMJobFeedback.kind, ...NDKDVMJobResult.kinds], "#p": [pubkey] }, {
    closeOnEose: false,
    onEose: eose,
    onEvent: (event) => void hear(event).then(
      (heard) => say({ heard }),
      (error) => say({ heard: { unreadable: String(error), event: event.rawEvent() } }),
    ),
  });
});
say({ pubkey });
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.cancel) {
    await requests.get(order.cancel).delete("changed my mind");
    say({ cancelled: order.cancel });
  } else if (order.note) {
    await note(order);
  } else if (order.fetch) {
    await fetched(order);
  } else {
    await ask(order);
  }
}
process.exit(0);
