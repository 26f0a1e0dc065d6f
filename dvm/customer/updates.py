"""What a customer hears of a job, one small object after the other. Amounts are msat, times unix seconds.

The last one is always `Done` or `Failed`. `as_dict` gives each as JSON, in the form that `dvm ask --json`
prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dvm.nip90 import Receipt
from dvm.nostr import Event, Scheme, npub

FailCode = Literal[
    "unpublished",  # no relay took the request
    "no-answer",  # nobody answered in time
    "refused",  # the provider answered with an error
    "cancelled",  # the provider confirms that the job was cancelled
    "unpayable",  # what was quoted must not be paid; the text says why
    "too-dear",  # the quote is above the limit
    "unpaid",  # no wallet is connected, and nobody paid the invoice in time
    "payment-failed",  # the wallet did not pay: no money has moved
    "timeout",  # paid, or under way without payment, and no result in time
    "unreadable",  # the result cannot be decrypted or parsed
]


@dataclass(frozen=True, slots=True)
class Asked:
    """The signed request is on at least one relay."""

    request: Event
    relays: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quoted:
    """A provider asks for `msat`. Its invoice has been checked: it may be paid."""

    provider: str
    msat: int
    bolt11: str
    payment_hash: str
    network: str
    expires_at: int
    text: str


@dataclass(frozen=True, slots=True)
class Declined:
    """A quote that is not paid, or another provider's refusal; the job goes on."""

    provider: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Due:
    """This quote, and no other, is paid now: by the wallet, or (`by_hand`) by whoever sees the invoice, `until`
    then (Unix seconds): no later than the invoice ends."""

    quote: Quoted
    by_hand: bool
    until: int


@dataclass(frozen=True, slots=True)
class Paid:
    """The wallet has paid. `fee_msat` went to Lightning's routing, not to the provider."""

    provider: str
    msat: int
    fee_msat: int
    payment_hash: str


@dataclass(frozen=True, slots=True)
class PaymentUnclear:
    """The wallet does not know whether it has paid. It is never paid again; the result will tell."""

    provider: str
    msat: int
    payment_hash: str


WaitingFor = Literal[
    "wallet",  # the customer's own, before anything is asked
    "quote",  # a first word of any provider: it may be fetching the inputs, or waiting for its wallet or its model
    "answer",  # of a job that is paid, or under way without payment
    "receipt",
]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing has happened for a while; `until` is when (Unix seconds) it is waited for no longer, None if that is
    the wallet's own business."""

    what: WaitingFor
    until: int | None


@dataclass(frozen=True, slots=True)
class Processing:
    """A provider says that it is at work."""

    provider: str
    text: str


@dataclass(frozen=True, slots=True)
class Partial:
    """The whole text so far, and what is left of the quote where the provider says so."""

    provider: str
    text: str
    remaining_msat: int | None = None
    remaining_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The result. The receipt is still to come."""

    provider: str
    text: str
    result: Event


@dataclass(frozen=True, slots=True)
class Receipted:
    """The provider's receipt: `checked` says what it was held against, `problems` what is wrong with it.

    `missing` are numbers of receipts, (first, last), that no relay has: a gap in what could be checked.
    """

    receipt: Receipt
    problems: tuple[str, ...]
    checked: tuple[str, ...]
    missing: tuple[tuple[int, int], ...] = ()

    @property
    def verified(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Done:
    """The end: an answer. `problems` are all that is wrong with it or its receipt.

    `receipt` is None where the provider sent none in time; `msat` is what was paid for this job.
    """

    provider: str
    text: str
    request: Event
    result: Event
    msat: int
    payment_hash: str | None
    receipt: Receipted | None
    problems: tuple[str, ...] = ()

    @property
    def verified(self) -> bool | None:
        """Whether everything checked is right; None where there is no receipt to check."""
        if self.problems:
            return False
        return None if self.receipt is None else True


@dataclass(frozen=True, slots=True)
class Failed:
    """The end: no answer. `msat` is what was paid all the same, or may have been: it stands on the balance
    at the provider, as `receipt` says if there is one."""

    code: FailCode
    text: str
    provider: str | None = None
    request: Event | None = None
    msat: int = 0
    payment_hash: str | None = None
    receipt: Receipted | None = None


Update = (
    Asked
    | Quoted
    | Declined
    | Due
    | Paid
    | PaymentUnclear
    | Waiting
    | Processing
    | Partial
    | Answered
    | Receipted
    | Done
    | Failed
)


def as_dict(update: Update) -> dict[str, Any]:
    """The update for JSON: `event` is its name, keys and ids are hex, events are whole."""
    match update:
        case Asked(request, relays):
            return {"event": "asked", "job": request.id, "request": request.to_dict(), "relays": list(relays)}
        case Quoted():
            return {"event": "quoted", **_quote(update)}
        case Declined(provider, code, text):
            return {"event": "declined", "provider": provider, "code": code, "text": text}
        case Due(quote, by_hand, until):
            return {"event": "due", "by_hand": by_hand, "until": until, **_quote(quote)}
        case Paid(provider, msat, fee, payment_hash):
            return {
                "event": "paid",
                "provider": provider,
                "msat": msat,
                "fee_msat": fee,
                "payment_hash": payment_hash,
            }
        case PaymentUnclear(provider, msat, payment_hash):
            return {"event": "payment_unclear", "provider": provider, "msat": msat, "payment_hash": payment_hash}
        case Waiting(what, until):
            return {"event": "waiting", "for": what, "until": until}
        case Processing(provider, text):
            return {"event": "processing", "provider": provider, "text": text}
        case Partial(provider, text, msat_left, tokens):
            return {
                "event": "partial",
                "provider": provider,
                "text": text,
                "remaining_msat": msat_left,
                "remaining_tokens": tokens,
            }
        case Answered(provider, text, result):
            return {"event": "answered", "provider": provider, "text": text, "result": result.id}
        case Receipted():
            return {"event": "receipt", **_receipted(update)}
        case Done():
            return {
                "event": "done",
                "provider": update.provider,
                "npub": npub(update.provider),
                "job": update.request.id,
                "text": update.text,
                "result": update.result.to_dict(),
                "paid_msat": update.msat,
                "payment_hash": update.payment_hash,
                "verified": update.verified,
                "problems": list(update.problems),
                "receipt": None if update.receipt is None else _receipted(update.receipt),
            }
        case Failed():
            return {
                "event": "failed",
                "code": update.code,
                "text": update.text,
                "provider": update.provider,
                "job": None if update.request is None else update.request.id,
                "paid_msat": update.msat,
                "payment_hash": update.payment_hash,
                "receipt": None if update.receipt is None else _receipted(update.receipt),
            }


def receipt_dict(receipt: Receipt) -> dict[str, Any]:
    """What a receipt says, for JSON: amounts in msat, prices in msat per million tokens (or per `request`)."""
    return {
        "id": receipt.id,
        "provider": receipt.provider,
        "customer": receipt.customer,
        "at": receipt.event.created_at,
        "seq": receipt.seq,
        "prev": receipt.prev,
        "job": receipt.job,
        "result": receipt.result,
        "kind": receipt.kind,
        "model": receipt.model,
        "version": receipt.version,
        "usage": dict(receipt.usage),
        "estimated": sorted(receipt.estimated),
        "prices": dict(receipt.prices),
        "cost_msat": receipt.cost,
        "paid_msat": receipt.paid,
        "payments": [{"source": p.source, "payment_hash": p.payment_hash, "msat": p.msat} for p in receipt.payments],
        "before_msat": receipt.before,
        "after_msat": receipt.after,
        "finish": receipt.finish,
        "encrypted": receipt.scheme,
    }


def scheme_name(scheme: Scheme | None) -> str:
    """How an answer came, for people."""
    return {None: "in clear", "nip04": "in NIP-04", "nip44": "in NIP-44"}[scheme]


def _quote(quote: Quoted) -> dict[str, Any]:
    return {
        "provider": quote.provider,
        "msat": quote.msat,
        "bolt11": quote.bolt11,
        "payment_hash": quote.payment_hash,
        "network": quote.network,
        "expires_at": quote.expires_at,
        "text": quote.text,
    }


def _receipted(receipted: Receipted) -> dict[str, Any]:
    return {
        "verified": receipted.verified,
        "problems": list(receipted.problems),
        "checked": list(receipted.checked),
        "missing": [list(gap) for gap in receipted.missing],
        **receipt_dict(receipted.receipt),
    }
