"""What a customer reads: the feedback and the results of any provider, hostile until parsed (NIP-90)."""

from __future__ import annotations

from dataclasses import dataclass

from dvm.nip90.requests import is_encrypted
from dvm.nip90.wire import (
    FEEDBACK,
    MAX_MSAT,
    MAX_TAGS,
    TO_RESULT,
    is_hex64,
    natural,
    other_party,
    tags_from_json,
)
from dvm.nostr.encryption import DecryptError, Scheme, decrypt, detect
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

MAX_INVOICE_CHARS = 7089
"""Longer invoices do not even fit into a QR code; an honest one has some 300 characters."""
MAX_STATUS_CHARS = 64


class InvalidAnswer(ValueError):
    """The event is no feedback and no result that can be relied upon; the text says why."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """Kind 7000. `text` is for people; `content` is the text so far, where status is "partial".

    `status` is one of payment-required, processing, error, success, partial, or what some other provider
    made up. `msat` and `bolt11` are claims: hold the invoice against them before paying. `tags` are the
    clear and the encrypted ones. Where no key was given, `text` and `content` of an encrypted one are empty.
    """

    event: Event
    job: str
    customer: str | None
    status: str
    text: str
    content: str
    msat: int | None
    bolt11: str | None
    tags: tuple[tuple[str, ...], ...]
    scheme: Scheme | None

    @property
    def provider(self) -> str:
        return self.event.pubkey


@dataclass(frozen=True, slots=True)
class Result:
    """Kind 6000–6999. `content` is the plaintext; None where it is encrypted and no key was given.

    A malformed amount is no amount: nothing is paid on its account, and the content is good all the same.
    """

    event: Event
    job: str
    customer: str | None
    content: str | None
    msat: int | None
    bolt11: str | None
    scheme: Scheme | None

    @property
    def provider(self) -> str:
        return self.event.pubkey

    @property
    def kind(self) -> int:
        """The kind of the result: its request's plus 1000."""
        return self.event.kind


Answer = Feedback | Result


def parse_answer(event: Event, keys: Keys | None) -> Answer:
    """The feedback or result in an event, which must have been verified. Raises InvalidAnswer, nothing else.

    `keys` are the customer's (the provider's own open it as well). Whether it answers *our* job, from a
    provider that we asked, is `is_answer_to`'s question.
    """
    if event.kind != FEEDBACK and not 6000 <= event.kind <= 6999:
        raise InvalidAnswer("neither feedback nor a result: kind 7000 or 6000 to 6999 expected")
    if len(event.tags) > MAX_TAGS:
        raise InvalidAnswer(f"at most {MAX_TAGS} tags are read")
    job = event.tag("e")
    if job is None or not is_hex64(job):
        raise InvalidAnswer("e: the job's id expected")
    customer = event.tag("p")
    if customer is not None and not is_hex64(customer):
        raise InvalidAnswer("p: the customer's public key expected")
    return _feedback(event, job, customer, keys) if event.kind == FEEDBACK else _result(event, job, customer, keys)


def is_answer_to(answer: Answer, request: Event) -> bool:
    """Whether the answer is about this request, to its author, by a provider that it left free or named.

    Anyone may publish an answer to a job that they only saw go by.
    """
    named = [p for p in request.values("p") if p]
    return (
        answer.job == request.id
        and answer.customer in (None, request.pubkey)
        and (not named or answer.provider in named)
        and answer.event.kind in (FEEDBACK, request.kind + TO_RESULT)
    )


def _feedback(event: Event, job: str, customer: str | None, keys: Keys | None) -> Feedback:
    clear = event.tags
    hidden: list[list[str]] = []
    scheme: Scheme | None = None
    if is_encrypted(event):
        scheme = detect(event.content)
        if keys is not None:
            try:
                hidden = tags_from_json(_decrypt(event, keys))
            except ValueError as error:
                raise InvalidAnswer(str(error)) from None
    if len(clear) + len(hidden) > MAX_TAGS:
        raise InvalidAnswer(f"at most {MAX_TAGS} tags are read")
    if any(tag[1:2] != [job] for tag in hidden if tag and tag[0] == "e"):
        raise InvalidAnswer("e: the encrypted one is another job's")
    said = _first(hidden, "status") or _first(clear, "status")
    if said is None or not said[1] or len(said[1]) > MAX_STATUS_CHARS:
        raise InvalidAnswer("status: expected")
    status = said[1].replace("_", "-")  # NDK's name is payment_required
    if (outside := _first(clear, "status")) and outside[1].replace("_", "-") != status:
        raise InvalidAnswer("status: stated twice, differently")
    try:
        outer_amount, inner_amount = _amount(clear), _amount(hidden)
    except ValueError as error:
        raise InvalidAnswer(f"amount: {error}") from None
    if outer_amount and inner_amount and outer_amount != inner_amount:
        raise InvalidAnswer("amount: stated twice, differently")
    msat, bolt11 = inner_amount or outer_amount or (None, None)
    if scheme is None:
        content = event.content
    else:
        inner = _first(hidden, "content")
        content = inner[1] if inner else ""
    text = said[2] if len(said) > 2 else ""
    if status != "partial":
        text, content = text or content, ""
    return Feedback(
        event=event,
        job=job,
        customer=customer,
        status=status,
        text=text,
        content=content,
        msat=msat,
        bolt11=bolt11,
        tags=tuple(tuple(tag) for tag in (*clear, *hidden)),
        scheme=scheme,
    )


def _result(event: Event, job: str, customer: str | None, keys: Keys | None) -> Result:
    scheme: Scheme | None = None
    content: str | None = event.content
    if is_encrypted(event):
        scheme = detect(event.content)
        content = None if keys is None else _decrypt(event, keys)
    try:
        msat, bolt11 = _amount(event.tags) or (None, None)
    except ValueError:
        msat = bolt11 = None
    return Result(event=event, job=job, customer=customer, content=content, msat=msat, bolt11=bolt11, scheme=scheme)


def _decrypt(event: Event, keys: Keys) -> str:
    try:
        return decrypt(keys, other_party(event, keys), event.content)[0]
    except DecryptError as error:
        raise InvalidAnswer(f"cannot be decrypted: {error}") from None


def _amount(tags: list[list[str]]) -> tuple[int, str | None] | None:
    """The msat and the invoice of the first `amount`. Raises ValueError."""
    tag = _first(tags, "amount")
    if tag is None:
        return None
    bolt11 = tag[2] if len(tag) > 2 and tag[2] else None
    if bolt11 is not None and len(bolt11) > MAX_INVOICE_CHARS:
        raise ValueError("the invoice is too long")
    return natural(tag[1], MAX_MSAT), bolt11


def _first(tags: list[list[str]], name: str) -> list[str] | None:
    for tag in tags:
        if len(tag) > 1 and tag[0] == name:
            return tag
    return None
