"""The customer's end of the wire: job requests and their cancellation, unsigned (NIP-90, NIP-09)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dvm.nip90.requests import Input
from dvm.nip90.wire import DELETION, FIRST_REQUEST, LAST_REQUEST, Draft, tags_to_json
from dvm.nostr.encryption import Scheme, encrypt
from dvm.nostr.keys import Keys


def request_draft(
    kind: int,
    inputs: Iterable[Input | str],
    *,
    params: Iterable[Sequence[str]] = (),
    output: str | None = None,
    bid: int | None = None,
    relays: Sequence[str] = (),
    providers: Sequence[str] = (),
    topics: Sequence[str] = (),
    expiration: int | None = None,
    keys: Keys | None = None,
    scheme: Scheme | None = None,
) -> Draft:
    """A job request. A `str` among the inputs is a text; each of `params` is (name, value, …); `bid` in msat.

    With a `scheme`, everything but `p`, `t` and `expiration` is encrypted with `keys` to the one provider
    named: then `keys` and exactly one provider are needed. Raises ValueError (EncryptError is one).
    """
    if not FIRST_REQUEST <= kind <= LAST_REQUEST:
        raise ValueError("a job request has a kind from 5000 to 5999")
    private = [_i(one if isinstance(one, Input) else Input(one, "text")) for one in inputs]
    private += [["param", *param] for param in params]
    if output is not None:
        private.append(["output", output])
    if bid is not None:
        private.append(["bid", str(bid)])
    if relays:
        private.append(["relays", *relays])
    public = [["p", provider] for provider in providers] + [["t", topic] for topic in topics]
    if expiration is not None:
        public.append(["expiration", str(expiration)])
    if scheme is None:
        return Draft(kind, [*private, *public])
    if keys is None or len(providers) != 1:
        raise ValueError("an encrypted request needs the customer's keys and names exactly one provider")
    content = encrypt(scheme, keys, providers[0], tags_to_json(private))
    return Draft(kind, [*public, ["encrypted"]], content)


def cancel_draft(job: str, kind: int) -> Draft:
    """The deletion that cancels a job; only its author's counts."""
    return Draft(DELETION, [["e", job], ["k", str(kind)]], "cancelled")


def _i(one: Input) -> list[str]:
    tag = ["i", one.data, one.type]
    if one.relay or one.marker:
        tag.append(one.relay or "")
    if one.marker:
        tag.append(one.marker)
    return tag
