"""The usage receipt, kind 7090: what a job used, what it cost, and what that left on the balance.

Every change of a customer's balance stands on exactly one receipt, and each names the one before it: the
chain is the customer's statement. `dvm.nip90.verify` checks receipts and chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from dvm.nip90.requests import is_encrypted
from dvm.nip90.wire import (
    ANNOUNCEMENT,
    MAX_COUNT,
    MAX_MSAT,
    MAX_TAGS,
    RECEIPT,
    Draft,
    integer,
    is_hex64,
    natural,
    one_tag,
    one_value,
    other_party,
    tags_from_json,
    tags_to_json,
)
from dvm.nostr.encryption import DecryptError, Scheme, decrypt, detect, encrypt
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

MILLION = 1_000_000
MAX_CLASSES = 16
MAX_PAYMENTS = 64
MAX_NAME_CHARS = 256

Source = Literal["bolt11", "zap", "balance", "l402"]
SOURCES = frozenset(get_args(Source))

Finish = Literal["stop", "length", "safety", "timeout", "cancelled", "error"]
FINISHES = frozenset(get_args(Finish))

_CLASSES = ("input", "cached", "output", "thoughts")


class InvalidReceipt(ValueError):
    """The event is no receipt that can be read in one way only; the text says which tag."""


class TokenUsage(Protocol):
    """Tokens in disjoint classes; `estimated` names those that the model did not report."""

    @property
    def input(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def thoughts(self) -> int: ...
    @property
    def estimated(self) -> frozenset[str]: ...


class Paid(Protocol):
    """Money that arrived, or left (negative), in msat."""

    @property
    def source(self) -> str: ...
    @property
    def payment_hash(self) -> str: ...
    @property
    def msat(self) -> int: ...


class Place(Protocol):
    """A receipt's place in its customer's chain, as the ledger fixes it within its transaction, in msat.

    `seq` counts from 1; `prev` is the id of the customer's previous receipt, None for the first.
    """

    @property
    def seq(self) -> int: ...
    @property
    def prev(self) -> str | None: ...
    @property
    def before(self) -> int: ...
    @property
    def after(self) -> int: ...
    @property
    def cost(self) -> int: ...
    @property
    def payments(self) -> Sequence[Paid]: ...


@dataclass(frozen=True, slots=True)
class Payment:
    """One `payment` tag, in msat. A job paid out of the balance has ("balance", "", 0): no new money."""

    source: str
    payment_hash: str
    msat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is receipted of a job: everything that is known before the ledger settles it.

    `prices` are msat per million tokens by class, or {"request": msat}, or {} for a free job. A voided
    job has no `result` and no `output_sha256`, and no `usage` if it never ran.
    """

    job: str
    kind: int
    model: str
    version: str
    input_sha256: str
    finish: Finish
    result: str | None = None
    output_sha256: str | None = None
    usage: TokenUsage | None = None
    prices: Mapping[str, int] = field(default_factory=dict)
    job_relay: str = ""
    result_relay: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as read; amounts in msat. Without a `job` it is a top-up or a withdrawal."""

    event: Event
    customer: str
    seq: int
    prev: str | None
    before: int
    after: int
    payments: tuple[Payment, ...]
    job: str | None
    result: str | None
    kind: int | None
    model: str | None
    version: str | None
    input_sha256: str | None
    output_sha256: str | None
    usage: Mapping[str, int]
    estimated: frozenset[str]
    prices: Mapping[str, int]
    cost: int | None
    announcement: str | None
    finish: str | None
    scheme: Scheme | None

    @property
    def id(self) -> str:
        return self.event.id

    @property
    def provider(self) -> str:
        return self.event.pubkey

    @property
    def paid(self) -> int:
        """The sum of its payments: what came in, less what went out."""
        return sum(payment.msat for payment in self.payments)


def make_receipt(
    keys: Keys,
    customer: str,
    place: Place,
    created_at: int,
    *,
    work: Work | None = None,
    d: str | None = None,
    scheme: Scheme | None = None,
) -> Event:
    """The signed receipt. Cheap and pure, so that the ledger may call it within its transaction.

    `d` is that of our announcement (31990). With a `scheme`, that of the encrypted job, everything
    private is encrypted: only the events, the customer, the job's kind and the place in the chain stand
    in clear. Raises EncryptError if `customer` is no public key, ValueError if the place does not add up.
    """
    if place.after != place.before + sum(p.msat for p in place.payments) - place.cost:
        raise ValueError("the balance after is not the balance before, plus payments, less the cost")
    if work is None and (place.cost or not place.payments):
        raise ValueError("a receipt without a job has a payment and no cost")
    clear: list[list[str]] = []
    private: list[list[str]] = []
    if work is not None:
        clear.append(["e", work.job, work.job_relay, "customer"])
        if work.result is not None:
            clear.append(["e", work.result, work.result_relay, "provider"])
    clear.append(["p", customer])
    if work is not None:
        clear.append(["k", str(work.kind)])
        private = _work_tags(work, place.cost)
    private += [["payment", p.source, p.payment_hash, str(p.msat)] for p in place.payments]
    if work is not None and not place.payments:
        private.append(["payment", "balance", "", "0"])
    private.append(["balance", str(place.before), str(place.after)])
    chain = [["seq", str(place.seq)]]
    if place.prev is not None:
        chain.append(["prev", place.prev])
    if d is not None:
        chain.append(["a", f"{ANNOUNCEMENT}:{keys.pubkey}:{d}"])
    finish = [] if work is None else [["finish", work.finish]]
    if scheme is None:
        return Draft(RECEIPT, [*clear, *private, *chain, *finish]).sign(keys, created_at)
    content = encrypt(scheme, keys, customer, tags_to_json([*private, *finish]))
    return Draft(RECEIPT, [*clear, *chain, ["encrypted"]], content).sign(keys, created_at)


def parse_receipt(event: Event, keys: Keys | None) -> Receipt:
    """The receipt in an event; `keys` (the customer's or the provider's) open an encrypted one.

    Shape only: nothing is verified here, not even the signature; `verify_receipt` does that. Raises
    InvalidReceipt, nothing else.
    """
    if event.kind != RECEIPT:
        raise InvalidReceipt(f"kind {RECEIPT} expected")
    try:
        return _parse(event, keys)
    except InvalidReceipt:
        raise
    except ValueError as error:  # of the helpers below and in `wire`; DecryptError is one too
        raise InvalidReceipt(str(error)) from None


def cost_msat(usage: Mapping[str, int], prices: Mapping[str, int]) -> int:
    """What the usage costs at these prices, in msat: ⌈Σ n × price / 10⁶⌉, or the price of the request.

    Raises ValueError if a class was used that has no price, and the job was not free altogether.
    """
    if "request" in prices:
        return prices["request"]
    if not prices:
        return 0
    total = 0
    for name, count in usage.items():
        if count and name not in prices:
            raise ValueError(f"{name}: used, but without a price")
        total += count * prices.get(name, 0)
    return -(-total // MILLION)


def _work_tags(work: Work, cost: int) -> list[list[str]]:
    tags = [["model", work.model, work.version], ["input_sha256", work.input_sha256]]
    if work.output_sha256 is not None:
        tags.append(["output_sha256", work.output_sha256])
    prices = work.prices
    if (usage := work.usage) is not None:
        estimated = usage.estimated
        for name in _CLASSES:
            tag = ["usage", name, str(getattr(usage, name))]
            if name in estimated:
                tag.append("estimate")
            tags.append(tag)
        if usage.thoughts and "output" in prices and "thoughts" not in prices:
            prices = {**prices, "thoughts": prices["output"]}  # thinking costs what output costs
    tags += [["price", name, str(price)] for name, price in prices.items()]
    tags.append(["cost", str(cost)])
    return tags


def _parse(event: Event, keys: Keys | None) -> Receipt:
    tags, scheme = event.tags, None
    if is_encrypted(event):
        if keys is None:
            raise InvalidReceipt("encrypted, and no key was given")
        scheme = detect(event.content)
        try:
            # What stands in both is stated twice, and refused as such.
            tags = [*tags, *tags_from_json(decrypt(keys, other_party(event, keys), event.content)[0])]
        except DecryptError as error:
            raise InvalidReceipt(f"cannot be decrypted: {error}") from None
    if len(tags) > MAX_TAGS:
        raise InvalidReceipt(f"at most {MAX_TAGS} tags are read")
    customer = _hex(tags, "p")
    seq, balance = one_value(tags, "seq"), one_tag(tags, "balance", 3)
    if customer is None or seq is None or balance is None:
        raise InvalidReceipt("p, seq and balance: expected")
    model, kind, cost = one_tag(tags, "model", 2), one_value(tags, "k"), one_value(tags, "cost")
    usage, estimated = _usage(tags)
    return Receipt(
        event=event,
        customer=customer,
        seq=natural(seq, MAX_COUNT),
        prev=_hex(tags, "prev"),
        before=integer(balance[1], MAX_MSAT),
        after=integer(balance[2], MAX_MSAT),
        payments=_payments(tags),
        job=_marked(tags, "customer"),
        result=_marked(tags, "provider"),
        kind=None if kind is None else natural(kind, 65_535),
        model=None if model is None else _name(model[1]),
        version=None if model is None or len(model) < 3 else _name(model[2]),
        input_sha256=_hex(tags, "input_sha256"),
        output_sha256=_hex(tags, "output_sha256"),
        usage=usage,
        estimated=estimated,
        prices=_counts(tags, "price", MAX_MSAT),
        cost=None if cost is None else natural(cost, MAX_MSAT),
        announcement=one_value(tags, "a"),
        finish=one_value(tags, "finish"),
        scheme=scheme,
    )


def _hex(tags: list[list[str]], name: str) -> str | None:
    value = one_value(tags, name)
    if value is not None and not is_hex64(value):
        raise InvalidReceipt(f"{name}: 64 lowercase hex digits expected")
    return value


def _marked(tags: list[list[str]], marker: str) -> str | None:
    """The id in the one `e` with that marker: the customer's request or the provider's result."""
    found = [tag for tag in tags if len(tag) > 3 and tag[0] == "e" and tag[3] == marker]
    if not found:
        return None
    if len(found) > 1 or not is_hex64(found[0][1]):
        raise InvalidReceipt(f"e: exactly one event id marked {marker} expected")
    return found[0][1]


def _name(text: str) -> str:
    if len(text) > MAX_NAME_CHARS:
        raise InvalidReceipt("model: the name is too long")
    return text


def _usage(tags: list[list[str]]) -> tuple[dict[str, int], frozenset[str]]:
    estimated = [tag[1] for tag in tags if len(tag) > 3 and tag[0] == "usage" and tag[3] == "estimate"]
    return _counts(tags, "usage", MAX_COUNT), frozenset(estimated)


def _counts(tags: list[list[str]], name: str, most: int) -> dict[str, int]:
    """Each [name, class, number]: every class once."""
    counts: dict[str, int] = {}
    for tag in tags:
        if tag and tag[0] == name:
            if len(tag) < 3 or len(tag[1]) > MAX_NAME_CHARS or len(counts) == MAX_CLASSES:
                raise InvalidReceipt(f"{name}: incomplete, too long, or too many")
            if tag[1] in counts:
                raise InvalidReceipt(f"{name}: {tag[1]} is stated twice")
            counts[tag[1]] = natural(tag[2], most)
    return counts


def _payments(tags: list[list[str]]) -> tuple[Payment, ...]:
    payments: list[Payment] = []
    for tag in tags:
        if tag and tag[0] == "payment":
            if len(tag) < 4 or tag[1] not in SOURCES or len(payments) == MAX_PAYMENTS:
                raise InvalidReceipt('payment: ["payment", "bolt11" | "zap" | "balance" | "l402", hash, msat]')
            if tag[1] == "balance" and tag[2:4] != ["", "0"]:
                raise InvalidReceipt("payment: the balance brings no new money and has no payment hash")
            if tag[1] != "balance" and not is_hex64(tag[2]):
                raise InvalidReceipt("payment: a payment hash of 64 lowercase hex digits expected")
            payments.append(Payment(tag[1], tag[2], integer(tag[3], MAX_MSAT)))
    return tuple(payments)
