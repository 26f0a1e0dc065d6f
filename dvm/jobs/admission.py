"""Whether a job is accepted: small policies, each of which answers None or the reason why not.

A refusal is said to the customer only if the job names this provider: a broadcast that we do not take is
somebody else's chance.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from throttled import RateLimiterType, Throttled, rate_limiter
from throttled.store import BaseStore, MemoryStore

from dvm.nip90.requests import InvalidRequestCode
from dvm.nostr.event import Event
from dvm.nostr.nip13 import is_proof

ErrorCode = (
    InvalidRequestCode
    | Literal[
        # Not taken:
        "bid-too-low",
        "prompt-too-long",
        "rate-limited",
        "too-many-quotes",
        "busy",
        "not-allowed",
        "pow-required",
        "not-trusted",
        "too-many-wrong-answers",
        "payment-unavailable",
        # Not done:
        "bad-request",
        "unavailable",
        "blocked",
        "no-answer",
        "wrong-form",
        "interrupted",
        "payment-lost",
        "undeliverable",
        "cancelled",
    ]
)
"""What an error answer to a job can begin with. docs/events.md says of each what it means, and a test compares."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not taken: a code for programs, a text for people (docs/events.md lists the codes).

    `prepaid`: it is about new quotes only; a job that its customer's balance covers is taken all the same.
    """

    code: ErrorCode
    text: str
    prepaid: bool = False


class RefusedError(Exception):
    """The job is not taken."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.refusal = Refusal(code, text)


class Book(Protocol):
    """What policies may ask about the open quotes."""

    def open_quotes(self, customer: str) -> int: ...
    def open_quotes_total(self) -> int: ...
    def deleted_quotes(self) -> int:
        """Those that were deleted and whose invoices could still be paid."""
        ...


Policy = Callable[[Event, Book], Refusal | None]


@dataclass(frozen=True, slots=True)
class Shared:
    """A policy over something that all customers share. It is not asked of whom another one gives no quote, so that
    refused strangers take no place of others; who pays out of a balance has paid for theirs."""

    policy: Policy

    def __call__(self, request: Event, book: Book) -> Refusal | None:
        return self.policy(request, book)


def first_refusal(policies: Sequence[Policy], request: Event, book: Book) -> Refusal | None:
    """The first policy's reason that applies; one that a balance overrules only if there is no other."""
    overruled: Refusal | None = None
    for policy in policies:
        if overruled and isinstance(policy, Shared):
            continue
        if refusal := policy(request, book):
            if not refusal.prepaid:
                return refusal
            overruled = overruled or refusal
    return overruled


def jobs_per_minute(limit: int, store: BaseStore | None = None) -> Policy:
    """A token bucket for each customer, holding a minute's worth of jobs. `store` is where the buckets are:
    here by default, or where several daemons share them (throttled's RedisStore)."""
    bucket = _bucket(limit, store)

    def policy(request: Event, _book: Book) -> Refusal | None:
        if bucket.limit(request.pubkey).limited:
            return Refusal("rate-limited", f"at most {limit} jobs a minute: try again in a minute")
        return None

    return policy


def jobs_per_minute_total(limit: int, store: BaseStore | None = None) -> Policy:
    """One token bucket for all: keys cost nothing, so a bucket for each of them bounds nobody."""
    bucket = _bucket(limit, store)

    def policy(_request: Event, _book: Book) -> Refusal | None:
        if bucket.limit("all").limited:
            return Refusal("busy", "too many jobs are asked for at the moment: try again in a minute")
        return None

    return Shared(policy)


def _bucket(limit: int, store: BaseStore | None) -> Throttled:
    return Throttled(
        using=RateLimiterType.TOKEN_BUCKET.value,
        quota=rate_limiter.per_min(limit, burst=limit),
        store=store or MemoryStore(options={"MAX_SIZE": 100_000}),
    )


def open_quotes(limit: int) -> Policy:
    """So many unpaid quotes for each customer."""

    def policy(request: Event, book: Book) -> Refusal | None:
        if book.open_quotes(request.pubkey) >= limit:
            return Refusal("too-many-quotes", f"{limit} of your quotes are unpaid or in the making: pay or delete one")
        return None

    return policy


def open_quotes_total(limit: int) -> Policy:
    """So many unpaid quotes in all: each costs the wallet an invoice, which deleting it does not take back."""

    def policy(_request: Event, book: Book) -> Refusal | None:
        if book.open_quotes_total() + book.deleted_quotes() >= limit:
            return Refusal("busy", "too many quotes are unpaid at the moment: try again later", prepaid=True)
        return None

    return policy


class Trust(Protocol):
    """Whom the operator trusts without having named them: see WebOfTrust."""

    @property
    def loaded(self) -> bool: ...
    def __contains__(self, pubkey: object) -> bool: ...


def denied(keys: Container[str]) -> Policy:
    """Nobody of these (public keys in hex), whatever they have paid in."""

    def policy(request: Event, _book: Book) -> Refusal | None:
        return Refusal("not-allowed", "this provider takes no jobs from you") if request.pubkey in keys else None

    return policy


def strangers(allowed: Container[str], *, pow_bits: int = 0, trust: Trust | None = None) -> Policy:
    """Only whom one of these lets in: being among `allowed`, being trusted, or work of `pow_bits` bits (NIP-13)
    on the request's id; each only where it is asked for. Where there are the latter two, or one of them, a balance
    that covers the job does as well: it has cost more than either.

    A web of trust that is not loaded yet can tell nobody that they are not trusted: they are to come again.
    """

    def policy(request: Event, _book: Book) -> Refusal | None:
        if request.pubkey in allowed or (trust is not None and request.pubkey in trust):
            return None
        if pow_bits:
            if is_proof(request, pow_bits):
                return None
            text = f"{pow_bits} bits of proof of work (NIP-13), or a balance that covers the job"
            return Refusal("pow-required", text, prepaid=True)
        if trust is None:
            return Refusal("not-allowed", "this provider takes jobs from certain customers only")
        if not trust.loaded:
            return Refusal("busy", "who is trusted here is not known yet: try again in a minute", prepaid=True)
        text = "nobody whom this provider trusts follows you: only a balance that covers the job is taken"
        return Refusal("not-trusted", text, prepaid=True)

    return policy


def standard_policies(*, per_minute: int, quotes: int, quotes_total: int, per_minute_total: int = 0) -> list[Policy]:
    """The policies of `[limits]`; 0 is no limit."""
    policies: list[Policy] = []
    if quotes:
        policies.append(open_quotes(quotes))
    if quotes_total:
        policies.append(open_quotes_total(quotes_total))
    if per_minute:
        policies.append(jobs_per_minute(per_minute))
    if per_minute_total:  # last: what is refused for another reason takes no place
        policies.append(jobs_per_minute_total(per_minute_total))
    return policies
