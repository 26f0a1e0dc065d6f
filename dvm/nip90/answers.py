"""Everything that the provider says about a job: feedback of kind 7000 and the result (NIP-90).

For an encrypted job each answer is encrypted in the customer's scheme, or not made at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import orjson

from dvm.nip90.requests import JobRequest, is_encrypted
from dvm.nip90.wire import FEEDBACK, MSAT, TO_RESULT, Draft, has, tags_to_json
from dvm.nostr import nip04, nip44
from dvm.nostr.encryption import Scheme, detect, encrypt
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys

MAX_EVENT_BYTES = 65_536
"""What strfry takes of one event unless told otherwise; NIP-11 tells for each relay."""
MAX_TAG_VALUE_BYTES = 1024
"""What strfry takes of the value of a single-letter tag: it refuses the whole event for a longer one."""
MAX_TEXT_CHARS = 1000
"""What is said to people stands twice in each feedback: it is cut off here."""
TRANSIENT_SECONDS = 3600
"""After this `processing` and `partial` may vanish from relays (NIP-40); nothing else ever expires."""


class AnswerTooLarge(ValueError):
    """The answer does not fit into an event, even without everything that may be left out.

    `size` and `limit` are in bytes. `Answers.longest` says how much of a text fits: ask it while the
    text grows and stop the model there, so that nobody pays for what no relay would carry. A partial
    that is too large is simply not sent.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the answer takes {size} bytes of at most {limit}")
        self.size = size
        self.limit = limit


def next_second(now: int, last: int | None) -> int:
    """The `created_at` for a job's next answer: now, but later than its last one.

    Clients keep the newest status and drop a second one of the same second.
    """
    return now if last is None else max(now, last + 1)


class Answers:
    """Makes the signed answers to one job. `relay` is where the job was seen, a hint in its `e` tag.

    A bare event stands for a request that could not be parsed: only an error can come of it. All methods
    take `created_at` in unix seconds, strictly rising within a job (`next_second`), and raise EncryptError
    where the answer to an encrypted job cannot be encrypted (nothing is sent in clear instead) and
    AnswerTooLarge where it cannot be published. Lone surrogates, which UTF-8 cannot carry, become "?".
    """

    scheme: Scheme | None

    def __init__(
        self, keys: Keys, request: JobRequest | Event, relay: str = "", *, max_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        self._keys = keys
        self._max_bytes = max_bytes
        self._event = request.event if isinstance(request, JobRequest) else request
        self.scheme = detect(self._event.content) if is_encrypted(self._event) else None
        self._e = ["e", self._event.id, relay] if relay else ["e", self._event.id]
        self._p = ["p", self._event.pubkey]

    @property
    def customer(self) -> str:
        """The public key of whoever is answered, in hex."""
        return self._event.pubkey

    def payment_required(
        self, msat: int, bolt11: str | None, text: str, created_at: int, *, zap: str | None = None
    ) -> Event:
        """The quote: no work goes on until `msat` is paid. Whole sats, equal to the invoice; never expires.

        With `zap`, a relay where our profile is (or ""), zapping this event pays as well: a zap tag as in
        NIP-57, Appendix G, says so. The amount stands in clear also for an encrypted job, so that a zap and a
        wallet find it.
        """
        target = [] if zap is None else [["zap", self._keys.pubkey, zap, "1"]]
        return self._feedback("payment-required", text, created_at, amount=_amount(msat, bolt11), clear=target)

    def processing(self, text: str, created_at: int) -> Event:
        """The work goes on."""
        return self._feedback("processing", text, created_at, transient=True)

    def error(self, code: str, text: str, created_at: int) -> Event:
        """The job failed, for good. The customer reads "code: text", or the bare code without a text
        (`cancelled`). The code is for programs: lowercase, words joined by hyphens."""
        said = f"{code}: {text}" if text else code
        # The customer cannot read what we encrypt either, if it was the encryption that failed; and this
        # code tells a stranger nothing about what was asked.
        return self._feedback("error", said, created_at, public=code if code == "undecryptable" else "")

    def partial(self, text_so_far: str, created_at: int, extra: Sequence[Sequence[str]] = ()) -> Event:
        """The whole text so far. `extra` are further tags, such as ["remaining", msat, tokens]; for an
        encrypted job they are encrypted with the text."""
        return self._feedback(
            "partial", "", created_at, content=text_so_far, extra=[list(tag) for tag in extra], transient=True
        )

    def result(
        self,
        content: str,
        created_at: int,
        *,
        msat: int | None = None,
        bolt11: str | None = None,
        max_bytes: int | None = None,
    ) -> Event:
        """The result. `msat` is what was quoted, in whole sats, and `bolt11` the invoice over it; the exact
        cost stands in the receipt.

        To fit into `max_bytes`, the echoed inputs go first, then the embedded request. Raises AnswerTooLarge
        if the content alone does not fit. An empty answer cannot be encrypted with NIP-44: EncryptError.
        """
        limit = self._max_bytes if max_bytes is None else max_bytes
        sealed = self._seal(_utf8(content))
        draft = Draft(0, [])
        for request, inputs in ((True, True), (True, False), (False, False)):
            draft = self._result(sealed, msat, bolt11, request=request, inputs=inputs)
            if draft.wire_bytes() <= limit:
                return draft.sign(self._keys, created_at)
        raise AnswerTooLarge(draft.wire_bytes(), limit)

    def longest(
        self,
        content: str,
        *,
        msat: int | None = None,
        bolt11: str | None = None,
        max_bytes: int | None = None,
    ) -> str:
        """The longest beginning of `content` that a `result` with these arguments can carry: all of it, as
        a rule; nothing if there is no room at all. Cheap while the text is far from the limit, so it may be
        asked after each chunk."""
        limit = self._max_bytes if max_bytes is None else max_bytes
        room = limit - self._result("", msat, bolt11, request=False, inputs=False).wire_bytes()
        # A character takes at most 6 bytes in JSON, and 4 in UTF-8: 7 padded and in base64, besides a MAC.
        if 7 * len(content) + 256 <= min(room, nip44.MAX_TEXT):
            return content
        if self._room_for(content) <= room:
            return content
        fits, too_long = 0, len(content)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self._room_for(content[:middle]) <= room:
                fits = middle
            else:
                too_long = middle
        return content[:fits]

    def _feedback(
        self,
        status: str,
        text: str,
        created_at: int,
        *,
        amount: list[str] | None = None,
        content: str | None = None,
        extra: Sequence[list[str]] = (),
        clear: Sequence[list[str]] = (),
        public: str = "",
        transient: bool = False,
    ) -> Event:
        """`text` is for people and stands in `status` and, unless `content` replaces it, in the content. `clear`
        are tags that stand in clear also for an encrypted job."""
        text = _utf8(text[:MAX_TEXT_CHARS])
        said = [["status", status, text] if text else ["status", status]]
        money = [] if amount is None else [amount]
        content = text if content is None else _utf8(content)
        if self.scheme is None:
            tags = [self._e, self._p, *said, *money, *clear, *extra]
        else:
            private = [self._e, *said, *money, *extra, ["content", content]]
            content = self._seal(tags_to_json(private))
            state = ["status", status, public] if public else ["status", status]
            tags = [self._e, self._p, state, *money, *clear, ["encrypted"]]
        tags.append(["alt", f"Job feedback: {status}"])
        if transient:
            tags.append(["expiration", str(created_at + TRANSIENT_SECONDS)])
        draft = Draft(FEEDBACK, tags, content)
        if (size := draft.wire_bytes()) > self._max_bytes:
            raise AnswerTooLarge(size, self._max_bytes)
        return draft.sign(self._keys, created_at)

    def _result(self, sealed: str, msat: int | None, bolt11: str | None, *, request: bool, inputs: bool) -> Draft:
        event = self._event
        tags = [self._e, self._p]
        # NIP-70: a protected event is its author's alone to publish, also inside another.
        if request and not has(event.tags, "-"):
            tags.append(["request", event.to_json()])
        if inputs and self.scheme is None:
            tags += [tag for tag in event.tags if tag and tag[0] == "i" and _is_echoed(tag)]
        if msat is not None:
            tags.append(_amount(msat, bolt11))
        tags.append(["status", "success"])
        if self.scheme is not None:
            tags.append(["encrypted"])
        tags.append(["alt", f"Result of a job of kind {event.kind}"])
        return Draft(event.kind + TO_RESULT, tags, sealed)

    def _seal(self, text: str) -> str:
        """What goes into the content: encrypted where the job was. Raises EncryptError."""
        return text if self.scheme is None else encrypt(self.scheme, self._keys, self._event.pubkey, text)

    def _room_for(self, content: str) -> float:
        """How many bytes the content takes within the event; infinite where it cannot be encrypted."""
        if self.scheme is None:
            return len(orjson.dumps(_utf8(content))) - 2  # less its quotes, which an empty one has too
        return payload_length(self.scheme, len(_utf8(content).encode()))


def payload_length(scheme: Scheme, size: int) -> float:
    """The characters of the payload that carries `size` bytes of text; infinite if none can."""
    if scheme == "nip04":
        padded = size // 16 * 16 + 16
        return -(-padded // 3) * 4 + len("?iv=") + 24 if size <= nip04.MAX_TEXT else math.inf
    # version, nonce, length, padded text, MAC
    binary = 1 + 32 + 2 + nip44.padded_length(size) + 32
    return -(-binary // 3) * 4 if size <= nip44.MAX_TEXT else math.inf


def _amount(msat: int, bolt11: str | None) -> list[str]:
    if msat < 0 or msat % MSAT:
        raise ValueError(f"an amount is a whole number of sats, not {msat} msat")
    return ["amount", str(msat)] if bolt11 is None else ["amount", str(msat), bolt11]


def _is_echoed(tag: Sequence[str]) -> bool:
    return len(tag) > 1 and len(tag[1].encode("utf-8", "replace")) <= MAX_TAG_VALUE_BYTES


def _utf8(text: str) -> str:
    """`text` without lone surrogates: a model's stream may break one character into two chunks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
