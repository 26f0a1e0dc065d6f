"""Zaps, honest and forged: signed requests, invoices and receipts of which each part can be another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from coincurve import PrivateKey

from dvm.lightning.bolt11 import decode, encode
from dvm.lightning.zaps import ZAP_RECEIPT, ZAP_REQUEST
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

NETWORK = "regtest"
NODE = PrivateKey(b"\7" * 32)  # whose invoices a forger has: his own


def zap_request(
    payer: Keys,
    recipient: str,
    *,
    event: str | None = None,
    address: str | None = None,
    msat: int | None = None,
    lnurl: str | None = None,
    relays: Sequence[str] = (),
    comment: str = "",
    extra: Sequence[list[str]] = (),
    kind: int = ZAP_REQUEST,
) -> Event:
    """A signed 9734."""
    tags: list[list[str]] = [["relays", *relays], ["p", recipient]]
    tags += [["e", event]] if event is not None else []
    tags += [["a", address]] if address is not None else []
    tags += [["amount", str(msat)]] if msat is not None else []
    tags += [["lnurl", lnurl]] if lnurl is not None else []
    return payer.sign(kind, [*tags, *extra], comment, int(time.time()))


def invoice(msat: int | None, description: str, **changes: Any) -> str:
    """A valid invoice of the forger's own node, which nobody of ours will ever be paid by."""
    fields: dict[str, Any] = {
        "network": NETWORK,
        "msat": msat,
        "payment_hash": sha256(description.encode() + str(changes).encode()).digest(),
        "description_hash": sha256(description.encode()).digest(),
        "created_at": int(time.time()),
        "expiry": 3600,
    }
    return encode(NODE, **{**fields, **changes})


def zap_receipt(provider: Keys, request: Event | str, bolt11: str, **changes: Any) -> Event:
    """A 9735 as an honest provider signs it (NIP-57, appendix E).

    `drop` names tags to leave out, `extra` are tags to add, `swap` tags to put in the place of their namesakes;
    `kind` is another one.
    """
    text = request if isinstance(request, str) else request.to_json()
    asked = Event.from_json(text)
    tags = [tag for tag in asked.tags if tag and tag[0] in ("p", "e", "a")]
    tags += [["P", asked.pubkey], ["bolt11", bolt11], ["description", text]]
    swap = {tag[0]: tag for tag in changes.get("swap", ())}
    tags = [swap.get(tag[0], tag) for tag in tags if tag[0] not in changes.get("drop", ())]
    tags += list(changes.get("extra", ()))
    return provider.sign(changes.get("kind", ZAP_RECEIPT), tags, "", int(time.time()))


def broken(event: Event, **changes: Any) -> Event:
    """The same event with some fields replaced and nothing signed anew."""
    return Event.parse({**event.to_dict(), **changes})


def payment_hash_of(receipt: Event) -> str:
    bolt11 = receipt.tag("bolt11")
    assert bolt11 is not None
    return decode(bolt11).payment_hash
