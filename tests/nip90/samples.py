"""Two parties, a clock, and the shapes that the tests of this room share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from dvm.models import Usage
from dvm.nip90 import JobRequest, Payment, Receipt, Work, input_sha256, make_receipt, parse_receipt, text_sha256
from dvm.nip90.ask import request_draft
from dvm.nip90.requests import parse_request
from dvm.nostr.encryption import Scheme
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

CUSTOMER, PROVIDER, STRANGER = (Keys(bytes([n]) * 32) for n in (1, 2, 3))
NOW = 1_750_000_000
SCHEMES: tuple[Scheme | None, ...] = (None, "nip04", "nip44")
HASH = "ab" * 32
PRICES = {"input": 300_000, "cached": 75_000, "output": 2_500_000}


@dataclass(frozen=True)
class Link:
    seq: int = 1
    prev: str | None = None
    before: int = 0
    after: int = 0
    cost: int = 0
    payments: Sequence[Payment] = field(default_factory=tuple)


def asked(scheme: Scheme | None = None, text: str = "What is a satoshi?", **more: Any) -> Event:
    """A signed request of kind 5050 by CUSTOMER to PROVIDER."""
    more = {"providers": [PROVIDER.pubkey], **more}
    return request_draft(5050, [text], keys=CUSTOMER, scheme=scheme, **more).sign(CUSTOMER, NOW)


def job(scheme: Scheme | None = None, text: str = "What is a satoshi?", **more: Any) -> JobRequest:
    return parse_request(asked(scheme, text, **more), PROVIDER)


def raw(tags: list[list[str]], content: str = "", kind: int = 5050, keys: Keys = CUSTOMER) -> Event:
    return keys.sign(kind, tags, content, NOW)


def unsigned(kind: int, tags: list[list[str]], content: str, author: Keys = CUSTOMER) -> Event:
    """Parsers do not verify, so fuzzing them needs no signature."""
    return Event(
        id="0" * 64, pubkey=author.pubkey, created_at=NOW, kind=kind, tags=tags, content=content, sig="0" * 128
    )


def work(request: JobRequest, result: Event | None, output: str = "", **more: Any) -> Work:
    """What is receipted of a job of 1,000 + 200 input and 300 + 40 output tokens: 1,165 msat."""
    facts: dict[str, Any] = {
        "job": request.id,
        "kind": request.kind,
        "model": "flash",
        "version": "flash-001",
        "input_sha256": input_sha256(request),
        "finish": "stop",
        "result": None if result is None else result.id,
        "output_sha256": None if result is None else text_sha256(output),
        "usage": Usage(1000, 200, 300, 40),
        "prices": PRICES,
    }
    return Work(**{**facts, **more})


COST = 1165  # (1000 × 300,000 + 200 × 75,000 + 340 × 2,500,000) / 10⁶ msat


def read(event: Event) -> Receipt:
    return parse_receipt(event, CUSTOMER)


def signed(receipt: Receipt, tags: list[list[str]], keys: Keys = PROVIDER) -> Receipt:
    """The same clear receipt with other tags, properly signed by whoever forges it."""
    return read(keys.sign(receipt.event.kind, tags, receipt.event.content, receipt.event.created_at))


def swapped(receipt: Receipt, name: str, *tags: list[str]) -> Receipt:
    """The same clear receipt with all tags of one name replaced, signed anew by the provider."""
    kept = list(receipt.event.tags)
    at = next((n for n, tag in enumerate(kept) if tag[0] == name), len(kept))
    others = [tag for tag in kept if tag[0] != name]
    return signed(receipt, [*others[:at], *tags, *others[at:]])


def chain(*steps: tuple[Work | None, int, Sequence[Payment]], scheme: Scheme | None = None) -> list[Receipt]:
    """Receipts that follow one another: (work, cost, payments) each."""
    receipts: list[Receipt] = []
    last = Link(seq=0)
    for facts, cost, payments in steps:
        prev = receipts[-1].id if receipts else None
        after = last.after + sum(p.msat for p in payments) - cost
        last = Link(last.seq + 1, prev, last.after, after, cost, payments)
        event = make_receipt(PROVIDER, CUSTOMER.pubkey, last, NOW, work=facts, d="shop", scheme=scheme)
        receipts.append(read(event))
    return receipts


# Hostile tags: the names that the room knows, in odd shapes, with values that are almost right.
_NAMES = [
    *("i", "param", "output", "bid", "relays", "p", "t", "encrypted", "expiration", "-", "request", "e", "status"),
    *("amount", "content", "d", "k", "price", "model", "usage", "input_sha256", "output_sha256", "cost", "payment"),
    *("balance", "seq", "prev", "a", "finish", "r"),
]
_VALUES = st.one_of(
    st.sampled_from(
        [
            *("", "0", "-0", "-1", "007", "1_000", "+1", " 1", "1.5", "1e3", "nan", "inf", "٣", "9" * 19, "9" * 400),
            *("text", "url", "job", "event", "prompt", "https://example.com", "text/plain", "a/b;" + "c" * 200),
            *("customer", "provider", "input", "output", "thoughts", "request", "bolt11", "balance", "estimate"),
            *(HASH, HASH.upper(), HASH[:-1], CUSTOMER.pubkey, PROVIDER.pubkey, "payment_required", "partial"),
        ]
    ),
    st.text(max_size=40),
    st.integers(-(10**20), 10**20).map(str),
)
_TAG = st.one_of(
    st.builds(lambda name, rest: [name, *rest], st.sampled_from(_NAMES), st.lists(_VALUES, max_size=5)),
    st.lists(_VALUES, max_size=3),
)
TAGS = st.lists(_TAG, max_size=25)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


def altered(receipt: Receipt, **changes: Any) -> Receipt:
    """A receipt whose dataclass says something else than its event: for checks that read the fields."""
    return replace(receipt, **changes)
