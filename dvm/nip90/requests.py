"""Job requests, NIP-90 kinds 5000–5999: read strictly, bounded, decrypted (NIP-04 or NIP-44)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, cast, get_args

from dvm.nip90.wire import (
    DELETION,
    FIRST_REQUEST,
    LAST_REQUEST,
    MAX_MSAT,
    MAX_TAGS,
    Unservable,
    has,
    integer,
    is_hex64,
    natural,
    other_party,
    tags_from_json,
)
from dvm.nostr.encryption import DecryptError, Scheme, decrypt
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

InputType = Literal["url", "event", "job", "text"]

# Kinds whose input is text when no type is said; for any other, guessing would be inventing.
TEXT_KINDS = frozenset({5000, 5001, 5002, 5050, 5100, 5250})

MAX_INPUTS = 64
MAX_PARAMS = 128
MAX_PARAM_CHARS = 4096  # a name or value; `prompt` is an input and as long as the event allows
MAX_PARAM_VALUES = 64
MAX_URL_CHARS = 2048
MAX_RELAYS = 16  # a hint; what is beyond is dropped, not refused
MAX_TOPICS = 32
MAX_PROVIDERS = 256

InvalidRequestCode = Literal[
    "invalid-kind",  # no job request at all
    "invalid-tags",  # too many tags
    "undecryptable",  # encrypted, but not for us, damaged, or no array of tags
    "invalid-input",  # an `i` without data, of unknown type, or whose data is not of its type
    "no-input",  # from `JobRequest.texts` and `require_input` only: a job may be fine without
    "invalid-param",  # a param without name, too long, or not the number that is asked for
    "invalid-bid",  # not a whole number of msat, or stated twice differently
    "invalid-output",
    "invalid-expiration",
    # What an input names, and what was found there (`dvm.jobs.inputs`):
    "input-unavailable",  # nothing was had from there
    "input-too-large",
    "input-type",  # not what it says that it is, or nothing that this kind of job takes
    "input-unreadable",  # encrypted, and not for this customer's eyes or ours
    "input-timeout",  # the prior job has no result in time
    "input-failed",  # the prior job has ended without one
    "input-cycle",  # the prior job waits for this one
    "input-depth",  # a chain of too many jobs
    "input-changed",  # not what was counted when the price was made
    "prompt-too-long",  # more than any of the models has room for
]


class InvalidRequest(Unservable[InvalidRequestCode]):
    """The job request cannot be served as it stands."""


@dataclass(frozen=True, slots=True)
class Input:
    """One `i` tag. `data` is a url, the hex id of an event or of a job, or the text itself.

    A prompt that came in `content`, in `["param", "prompt", …]` or in an `i` of type "prompt" (as the
    definition of kind 5050 has it) is an input of type "text" with the marker "prompt".
    """

    data: str
    type: InputType
    relay: str | None = None
    marker: str | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job, as one customer asks for it; `event` is the exact signed request. `bid` is in msat."""

    event: Event
    inputs: tuple[Input, ...]
    params: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    output: str | None = None
    bid: int | None = None
    relays: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    scheme: Scheme | None = None
    expiration: int | None = None
    protected: bool = False

    @property
    def id(self) -> str:
        return self.event.id

    @property
    def customer(self) -> str:
        """The customer's public key, in hex."""
        return self.event.pubkey

    @property
    def kind(self) -> int:
        return self.event.kind

    def param(self, name: str) -> str | None:
        """The first value of the first param of that name; `top-k` and `top_k` are the same name."""
        tuples = self.param_values(name)
        return tuples[0][0] if tuples and tuples[0] else None

    def param_values(self, name: str) -> tuple[tuple[str, ...], ...]:
        """The values of each param of that name, in order; `top-k` and `top_k` are the same name."""
        return self.params.get(name.replace("-", "_"), ())

    def texts(self) -> tuple[str, ...]:
        """The inputs of type "text", in order, without blank ones. Raises InvalidRequest if there is none.

        Whether a job needs text is the service's business: summaries of events do not.
        """
        texts = tuple(i.data for i in self.inputs if i.type == "text" and not i.data.isspace() and i.data)
        if not texts:
            raise InvalidRequest("no-input", "the request has no text")
        return texts

    def require_input(self) -> tuple[Input, ...]:
        """The inputs, without blank texts. Raises InvalidRequest if there is none."""
        inputs = tuple(i for i in self.inputs if i.data.strip())
        if not inputs:
            raise InvalidRequest("no-input", "the request has no input")
        return inputs


def is_encrypted(event: Event) -> bool:
    """Whether the request (or an answer) says that its content is encrypted."""
    return has(event.tags, "encrypted")


def named(event: Event, pubkey: str) -> bool:
    """Whether the request names this provider. Every `p` is looked at."""
    return any(len(tag) > 1 and tag[0] == "p" and tag[1] == pubkey for tag in event.tags)


def is_for(event: Event, pubkey: str) -> bool:
    """Whether this provider may take the job: it names nobody, or us among others."""
    return named(event, pubkey) or not any(event.values("p"))


Untimely = Literal["too-old", "too-early", "expired"]


def untimely(event: Event, now: int, *, max_age: int = 600, max_ahead: int = 900) -> Untimely | None:
    """Why the event is no news: older or further ahead than allowed (seconds; 0 is no limit), or past
    its NIP-40 expiration. None if it is timely. A malformed expiration is `parse_request`'s matter."""
    if max_age and event.created_at < now - max_age:
        return "too-old"
    if max_ahead and event.created_at > now + max_ahead:
        return "too-early"
    for value in event.values("expiration"):
        if re.fullmatch("[0-9]{1,18}", value) and int(value) <= now:
            return "expired"
    return None


def parse_request(event: Event, keys: Keys | None) -> JobRequest:
    """The job in a request event, which must have been verified. Raises InvalidRequest, nothing else.

    `keys` open an encrypted request: the provider's, or the customer's own. Outer and encrypted tags
    are merged, the encrypted ones first; `p`, `expiration` and `-` count outside only, where relays and
    other providers see them.
    """
    if not FIRST_REQUEST <= event.kind <= LAST_REQUEST:
        raise InvalidRequest("invalid-kind", "not a job request: a kind from 5000 to 5999 expected")
    scheme: Scheme | None = None
    hidden: list[list[str]] = []
    if is_encrypted(event):
        hidden, scheme = _open(event, keys)
    if len(event.tags) + len(hidden) > MAX_TAGS:
        raise InvalidRequest("invalid-tags", f"at most {MAX_TAGS} tags are read")
    tags = [*hidden, *event.tags]
    inputs, params = _inputs(tags, event.kind), _params(tags)
    prompts = _prompts(params, inputs, event.content if scheme is None else "")
    providers = tuple(dict.fromkeys(p for p in event.values("p") if is_hex64(p)))
    if len(inputs) + len(prompts) > MAX_INPUTS:
        raise InvalidRequest("invalid-input", f"at most {MAX_INPUTS} inputs are read")
    if len(providers) > MAX_PROVIDERS:
        raise InvalidRequest("invalid-tags", f"at most {MAX_PROVIDERS} providers may be named")
    return JobRequest(
        event=event,
        inputs=(*inputs, *prompts),
        params=params,
        output=_output(tags),
        bid=_bid(tags),
        relays=_hints((url for tag in tags if tag and tag[0] == "relays" for url in tag[1:]), MAX_RELAYS),
        providers=providers,
        topics=_hints((tag[1] for tag in tags if len(tag) > 1 and tag[0] == "t"), MAX_TOPICS),
        scheme=scheme,
        expiration=_expiration(event),
        protected=has(event.tags, "-"),
    )


def parse_deletion(event: Event) -> tuple[str, ...]:
    """The ids that a kind 5 event (NIP-09) deletes, without repetition, at most 1,000; malformed ones are
    left out, and any other kind deletes nothing. Never raises.

    The caller holds the deletion's author against the author of each job: only their own jobs are cancelled.
    """
    if event.kind != DELETION:
        return ()
    return tuple(dict.fromkeys(value for value in event.values("e")[:MAX_TAGS] if is_hex64(value)))


def int_param(request: JobRequest, name: str, least: int, most: int) -> int | None:
    """A param as a whole number from `least` to `most`; None if it is absent. Raises InvalidRequest."""
    text = _single(request, name)
    if text is None:
        return None
    try:
        number = integer(text, max(abs(least), abs(most)))
    except ValueError:
        number = most + 1
    if not least <= number <= most:
        raise InvalidRequest("invalid-param", f"{name}: a whole number from {least} to {most} expected")
    return number


def float_param(request: JobRequest, name: str, least: float, most: float) -> float | None:
    """A param as a finite decimal from `least` to `most`; None if it is absent. Raises InvalidRequest."""
    text = _single(request, name)
    if text is None:
        return None
    number = float(text) if _DECIMAL(text) else math.nan
    if not least <= number <= most:  # also what is no number
        raise InvalidRequest("invalid-param", f"{name}: a number from {least:g} to {most:g} expected")
    return number


def input_sha256(request: JobRequest) -> str:
    """What a receipt states as `input_sha256`, in hex.

    The SHA-256 of the UTF-8 text of all inputs as the customer gave them (an url, an id or a text: never
    what was fetched from there), joined by one line feed, in the order of `JobRequest.inputs`. So for a
    job with one prompt it is simply that prompt's hash. It is a checksum for people and programs that
    hold the request; which request it was is fixed by the receipt's `e`.
    """
    return text_sha256("\n".join(i.data for i in request.inputs))


def text_sha256(text: str) -> str:
    """SHA-256 of the UTF-8 text, in hex; of a result's plaintext content it is `output_sha256`."""
    return sha256(text.encode("utf-8", "replace")).hexdigest()  # as `Answers` publishes lone surrogates


_DECIMAL = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,32})?([eE][+-]?[0-9]{1,3})?").fullmatch
_MIME = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}/[A-Za-z0-9*][\w.+-]{0,63}(;[ -~]{0,128})?", re.ASCII).fullmatch
_TYPES = frozenset(get_args(InputType))


def _open(event: Event, keys: Keys | None) -> tuple[list[list[str]], Scheme]:
    """The encrypted tags and their scheme. Raises InvalidRequest."""
    if keys is None:
        raise InvalidRequest("undecryptable", "the request is encrypted, and no key was given")
    try:
        text, scheme = decrypt(keys, other_party(event, keys), event.content)
        return tags_from_json(text), scheme
    except DecryptError:
        raise InvalidRequest(
            "undecryptable", "the content is not encrypted to this provider's key with NIP-04 or NIP-44"
        ) from None
    except ValueError as error:
        raise InvalidRequest("undecryptable", str(error)) from None


def _inputs(tags: Sequence[list[str]], kind: int) -> list[Input]:
    found = [tag for tag in tags if tag and tag[0] == "i"]
    if len(found) > MAX_INPUTS:
        raise InvalidRequest("invalid-input", f"at most {MAX_INPUTS} inputs are read")
    return [_input(tag, kind) for tag in found]


def _input(tag: list[str], kind: int) -> Input:
    data, type_, relay, marker = (*tag[1:5], "", "", "", "")[:4]
    if kind in TEXT_KINDS:
        if type_ == "prompt":
            type_, marker = "text", marker or "prompt"
        type_ = type_ or "text"
    if len(tag) < 2 or type_ not in _TYPES:
        raise InvalidRequest("invalid-input", 'each input is ["i", data, "url" | "event" | "job" | "text"]')
    if type_ in ("event", "job") and not is_hex64(data):
        raise InvalidRequest(
            "invalid-input", f"an input of type {type_} is an id of 64 lowercase hex digits, no note1… or nevent1…"
        )
    if type_ == "url" and not (data.startswith(("https://", "http://")) and len(data) <= MAX_URL_CHARS):
        raise InvalidRequest(
            "invalid-input",
            f"an input of type url starts with https:// or http:// and has at most {MAX_URL_CHARS} characters",
        )
    if len(relay) > MAX_URL_CHARS or len(marker) > MAX_PARAM_CHARS:
        raise InvalidRequest("invalid-input", "an input's relay or marker is too long")
    return Input(data, cast("InputType", type_), relay or None, marker or None)


def _params(tags: Sequence[list[str]]) -> dict[str, tuple[tuple[str, ...], ...]]:
    params: dict[str, tuple[tuple[str, ...], ...]] = {}
    found = [tag for tag in tags if tag and tag[0] == "param"]
    if len(found) > MAX_PARAMS:
        raise InvalidRequest("invalid-param", f"at most {MAX_PARAMS} params are read")
    for tag in found:
        if len(tag) < 2 or not tag[1]:
            raise InvalidRequest("invalid-param", 'each param is ["param", name, value, …]')
        name, values = tag[1].replace("-", "_"), tuple(tag[2:])
        checked = (name, *values[1:]) if name == "prompt" else (name, *values)
        if len(values) > MAX_PARAM_VALUES or any(len(item) > MAX_PARAM_CHARS for item in checked):
            raise InvalidRequest(
                "invalid-param",
                f"a param has at most {MAX_PARAM_VALUES} values of {MAX_PARAM_CHARS} characters each",
            )
        params[name] = (*params.get(name, ()), values)
    return params


def _prompts(params: Mapping[str, tuple[tuple[str, ...], ...]], inputs: Sequence[Input], content: str) -> list[Input]:
    """Prompts that stand outside of `i`: each `["param", "prompt", …]`; `content` only if no other text
    was given, since clients also write remarks for human readers there."""
    given = {i.data for i in inputs}
    prompts = [v[0] for v in params.get("prompt", ()) if v and v[0].strip() and v[0] not in given]
    prompts = list(dict.fromkeys(prompts))
    if not prompts and content.strip() and not any(i.type == "text" for i in inputs):
        prompts = [content]
    return [Input(prompt, "text", None, "prompt") for prompt in prompts]


def _bid(tags: Sequence[list[str]]) -> int | None:
    bids = {tag[1] if len(tag) > 1 else "" for tag in tags if tag and tag[0] == "bid"}
    if not bids:
        return None
    if len(bids) > 1:
        raise InvalidRequest("invalid-bid", "the bid is stated twice, differently")
    try:
        return natural(bids.pop(), MAX_MSAT)
    except ValueError:
        raise InvalidRequest("invalid-bid", "a bid is a whole number of millisatoshi, in digits") from None


def _output(tags: Sequence[list[str]]) -> str | None:
    """The first media type of the first `output`; the others are the customer's second choices."""
    for tag in tags:
        if tag and tag[0] == "output":
            value = tag[1] if len(tag) > 1 else ""
            if not value:
                return None
            if not _MIME(value):
                raise InvalidRequest("invalid-output", "a media type such as text/plain expected")
            return value
    return None


def _expiration(event: Event) -> int | None:
    values = event.values("expiration")
    if not values:
        return None
    try:
        return min(natural(value, 1 << 53) for value in values)
    except ValueError:
        raise InvalidRequest("invalid-expiration", "unix seconds expected, in digits") from None


def _hints(values: Iterable[str], most: int) -> tuple[str, ...]:
    """Distinct, non-empty, of bounded length and number: hostile all the same."""
    kept: dict[str, None] = {}
    for value in values:
        if value and len(value) <= MAX_URL_CHARS:
            kept[value] = None
            if len(kept) == most:
                break
    return tuple(kept)


def _single(request: JobRequest, name: str) -> str | None:
    """The param's one value. Raises InvalidRequest if it is stated twice, differently, or has none."""
    tuples = set(request.param_values(name))
    if not tuples:
        return None
    if len(tuples) > 1 or len(only := tuples.pop()) != 1:
        raise InvalidRequest("invalid-param", f"{name}: exactly one value expected")
    return only[0]
