"""What a provider answers about a customer's account, kind 7092: encrypted, in the scheme of the request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

from dvm.nip90.account import MAX_ENTRIES, AccountRequest, Addressee
from dvm.nip90.answers import MAX_EVENT_BYTES, MAX_TEXT_CHARS, TRANSIENT_SECONDS, AnswerTooLarge, payload_length
from dvm.nip90.requests import is_encrypted
from dvm.nip90.wire import (
    ACCOUNT_ANSWER,
    MAX_COUNT,
    MAX_MSAT,
    MAX_TAGS,
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
from dvm.nostr.encryption import Scheme, decrypt, detect, encrypt
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

Status = Literal["success", "processing", "error"]
WithdrawalState = Literal["reserved", "paid", "failed", "refused"]


class InvalidAccountAnswer(ValueError):
    """The event is no answer that can be relied upon; the text says why."""


class Money(Protocol):
    """A balance, in msat: `available`, `held` for running jobs, `leaving` by withdrawals under way."""

    @property
    def available(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def leaving(self) -> int: ...


class Line(Protocol):
    """One line of a statement: a receipt (its id), when, and in msat what it changed and left."""

    @property
    def seq(self) -> int: ...
    @property
    def receipt(self) -> str: ...
    @property
    def at(self) -> int: ...
    @property
    def paid(self) -> int: ...
    @property
    def cost(self) -> int: ...
    @property
    def after(self) -> int: ...
    @property
    def job(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class StatedBalance:
    """`Money`, as the provider states it."""

    available: int
    held: int
    leaving: int


@dataclass(frozen=True, slots=True)
class StatedEntry:
    """`Line`, as the provider states it."""

    seq: int
    receipt: str
    at: int
    paid: int
    cost: int
    after: int
    job: str | None


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """How a withdrawal stands, in msat; `id` is the request's. "reserved" is set aside and perhaps sent."""

    id: str
    state: WithdrawalState
    msat: int
    fee_msat: int
    payment_hash: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class AccountAnswer:
    """Kind 7092, as read. `code` is an error's, for programs; `entries` are the newest first.

    Number 1 is a statement's last line: where the entries end above it there are more, with `before`.
    """

    event: Event
    request: str
    customer: str
    status: Status
    code: str
    text: str
    balance: StatedBalance | None
    entries: tuple[StatedEntry, ...]
    withdrawal: Withdrawal | None
    scheme: Scheme

    @property
    def provider(self) -> str:
        return self.event.pubkey


def make_account_answer(
    keys: Keys,
    to: AccountRequest | Addressee,
    created_at: int,
    *,
    status: Status = "success",
    code: str = "",
    text: str = "",
    balance: Money | None = None,
    entries: Sequence[Line] = (),
    withdrawal: Withdrawal | None = None,
    max_bytes: int = MAX_EVENT_BYTES,
) -> Event:
    """The signed answer. Of `entries`, newest first, it has as many as fit into `max_bytes`.

    An error is said as "code: text". What only tells a moment (a balance, a statement) may vanish from
    relays after an hour; what became of a withdrawal never does. Raises EncryptError if the customer is no
    public key, AnswerTooLarge if not even an answer without entries fits.
    """
    request, customer, scheme = (to.id, to.customer, to.scheme) if isinstance(to, AccountRequest) else to
    said = _utf8((f"{code}: {text}" if text else code) if code else text)
    private: list[list[str]] = [["status", status, said]]
    if balance is not None:
        private.append(["balance", str(balance.available), str(balance.held), str(balance.leaving)])
    if (w := withdrawal) is not None:
        private.append(["withdrawal", w.id, w.state, str(w.msat), str(w.fee_msat), w.payment_hash, _utf8(w.text)])
    tags = [["p", customer], ["e", request], ["encrypted"], ["alt", "Answer about an account"]]
    if status == "success" and withdrawal is None:
        tags.append(["expiration", str(created_at + TRANSIENT_SECONDS)])
    room = max_bytes - Draft(ACCOUNT_ANSWER, tags, "").wire_bytes()
    lines = [
        ["entry", *map(str, (e.seq, e.receipt, e.at, e.paid, e.cost, e.after)), e.job or ""]
        for e in entries[:MAX_ENTRIES]
    ]
    size = len(tags_to_json(private).encode())
    if payload_length(scheme, size) > room:
        raise AnswerTooLarge(max_bytes - room + size, max_bytes)
    for line in lines:
        size += len(tags_to_json([line]).encode()) - 1  # its comma for its two brackets
        if payload_length(scheme, size) > room:
            break
        private.append(line)
    content = encrypt(scheme, keys, customer, tags_to_json(private))
    return Draft(ACCOUNT_ANSWER, tags, content).sign(keys, created_at)


def parse_account_answer(event: Event, keys: Keys, request: Event | None = None) -> AccountAnswer:
    """The answer in an event, which must have been verified. Raises InvalidAccountAnswer, nothing else.

    `keys` are the customer's (the provider's own open it as well). With `request`, it is held to be the
    answer to it: about it, to its author, by the provider that it names, in its own scheme.
    """
    if event.kind != ACCOUNT_ANSWER or len(event.tags) > MAX_TAGS or not is_encrypted(event):
        raise InvalidAccountAnswer(f"kind {ACCOUNT_ANSWER}, encrypted, with at most {MAX_TAGS} tags expected")
    try:
        about, customer = one_value(event.tags, "e"), one_value(event.tags, "p")
        if about is None or customer is None or not is_hex64(about) or not is_hex64(customer):
            raise InvalidAccountAnswer("e, the request, and p, the customer: expected once each")
        scheme = detect(event.content)
        if request is not None:
            _hold_against(request, event, about, customer, scheme)
        return _answer(
            event, about, customer, scheme, tags_from_json(decrypt(keys, other_party(event, keys), event.content)[0])
        )
    except InvalidAccountAnswer:
        raise
    except ValueError as error:  # of the helpers in `wire`, and DecryptError
        raise InvalidAccountAnswer(str(error)) from None


_CODE = re.compile(r"[a-z]+(-[a-z]+){0,7}").fullmatch
_STATES = frozenset(get_args(WithdrawalState))
_STATUSES = frozenset(get_args(Status))


def _utf8(text: str) -> str:
    """What a wallet or an address said may be long, and hold lone surrogates, which no event can carry."""
    return text[:MAX_TEXT_CHARS].encode("utf-8", "replace").decode()


def _hold_against(request: Event, event: Event, about: str, customer: str, scheme: Scheme) -> None:
    if (about, customer) != (request.id, request.pubkey):
        raise InvalidAccountAnswer("it answers another request")
    if event.pubkey != request.tag("p"):
        raise InvalidAccountAnswer("it is not signed by the provider that was asked")
    if scheme != detect(request.content):
        raise InvalidAccountAnswer("it is not encrypted in the scheme in which it was asked")


def _answer(event: Event, about: str, customer: str, scheme: Scheme, tags: list[list[str]]) -> AccountAnswer:
    """Raises ValueError."""
    said, balance, withdrawal = one_tag(tags, "status", 2), one_tag(tags, "balance", 4), one_tag(tags, "withdrawal", 6)
    if said is None or said[1] not in _STATUSES:
        raise InvalidAccountAnswer("status: success, processing or error expected")
    entries = [tag for tag in tags if tag[:1] == ["entry"]]
    if len(entries) > MAX_ENTRIES:
        raise InvalidAccountAnswer(f"at most {MAX_ENTRIES} entries are read")
    text = said[2][:MAX_TEXT_CHARS] if len(said) > 2 else ""
    code, _, rest = text.partition(": ")
    coded = said[1] == "error" and _CODE(code) is not None
    return AccountAnswer(
        event=event,
        request=about,
        customer=customer,
        status=cast("Status", said[1]),
        code=code if coded else "",
        text=rest if coded else text,
        balance=None if balance is None else StatedBalance(*(natural(item, MAX_MSAT) for item in balance[1:4])),
        entries=tuple(_entry(tag) for tag in entries),
        withdrawal=None if withdrawal is None else _withdrawal(withdrawal),
        scheme=scheme,
    )


def _entry(tag: list[str]) -> StatedEntry:
    """Raises ValueError."""
    if len(tag) < 7 or not is_hex64(tag[2]):
        raise InvalidAccountAnswer("entry: number, receipt, time, paid, cost, after and job expected")
    job = tag[7] if len(tag) > 7 and tag[7] else None
    if job is not None and not is_hex64(job):
        raise InvalidAccountAnswer("entry: the job is an event id")
    return StatedEntry(
        seq=natural(tag[1], MAX_COUNT),
        receipt=tag[2],
        at=natural(tag[3], 1 << 53),
        paid=integer(tag[4], MAX_MSAT),
        cost=natural(tag[5], MAX_MSAT),
        after=integer(tag[6], MAX_MSAT),
        job=job,
    )


def _withdrawal(tag: list[str]) -> Withdrawal:
    """Raises ValueError."""
    if not is_hex64(tag[1]) or tag[2] not in _STATES or (tag[5] and not is_hex64(tag[5])):
        raise InvalidAccountAnswer("withdrawal: the request's id, a state, msat, fee and payment hash expected")
    return Withdrawal(
        id=tag[1],
        state=cast("WithdrawalState", tag[2]),
        msat=natural(tag[3], MAX_MSAT),
        fee_msat=natural(tag[4], MAX_MSAT),
        payment_hash=tag[5],
        text=tag[6][:MAX_TEXT_CHARS] if len(tag) > 6 else "",
    )
