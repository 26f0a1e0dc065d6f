"""One job as its customer sees it: events in, updates out. No I/O and no clock of its own.

Anyone may answer a job that they saw go by. So answers count only from the provider that was named; or, for
a broadcast, from the one that was chosen; or from whoever is at work without asking for money.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dvm.customer.quotes import Unpayable, check_quote, check_zappable
from dvm.customer.updates import Declined, FailCode, Partial, Processing, Quoted, Update, scheme_name
from dvm.nip90 import (
    RECEIPT,
    TO_RESULT,
    Feedback,
    InvalidAnswer,
    InvalidReceipt,
    JobRequest,
    Receipt,
    Result,
    is_answer_to,
    parse_answer,
    parse_receipt,
)
from dvm.nip90.wire import MAX_COUNT, MAX_MSAT, natural
from dvm.nostr import Event, Keys, Scheme

MAX_OFFERS = 64
"""The most quotes, and the most refusals, that are kept: a broadcast may be answered by any number of
invented providers, whose refusals must not crowd out an offer."""
MAX_ZAPPED = 8
MAX_RECEIPTS = 8


class Conversation:
    """What has been said about one job.

    `offers` are quotes that may be paid, by provider, the first of each. `working` is who is at work
    without having been paid by us (a free job, or one that our balance covers); `begun` says that who counts
    has said that it works. `result`, `error` (code,
    text) and `unreadable` end it; `news` are the updates that nobody has taken yet. `unpriced` are quotes
    without an invoice: whoever asks for the invoice of a zap takes them out and calls `offer` or `refuse`.
    """

    def __init__(
        self,
        request: JobRequest,
        keys: Keys,
        *,
        max_msat: int,
        network: str | None,
        now: Callable[[], float],
    ) -> None:
        self.news: deque[Update] = deque()
        self.offers: dict[str, Quoted] = {}
        self.declined: dict[str, Declined] = {}
        self.unpriced: deque[Feedback] = deque()
        self.named = request.providers[0] if request.providers else None
        self.chosen: Quoted | None = None
        self.working: str | None = None
        self.begun = False
        self.result: Result | None = None
        self.error: tuple[str, str] | None = None
        self.unreadable: str | None = None
        self.problems: list[str] = []
        self._request, self._keys = request, keys
        self._max_msat, self._network, self._now = max_msat, network, now
        self._receipts: dict[str, Receipt] = {}
        self._bad_receipt: str | None = None
        self._partial: tuple[int, int] = (-1, -1)
        self._processing: set[str] = set()
        self._dismissed: set[str] = set()
        self._zapped: set[str] = set()

    @property
    def provider(self) -> str | None:
        """Whose answers count; None while any broadcast's may."""
        if self.chosen is not None:
            return self.chosen.provider
        return self.named or self.working

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for but the receipt."""
        return self.result is not None or self.error is not None or self.unreadable is not None

    @property
    def receipt(self) -> Receipt | None:
        """The receipt for this job by the provider that counts: the one that names the result, if any does."""
        mine = [r for r in self._receipts.values() if r.provider == self.provider]
        wanted = None if self.result is None else self.result.event.id
        return next((r for r in mine if r.result == wanted), mine[0] if mine else None)

    @property
    def bad_receipt(self) -> str | None:
        """Why a receipt of that provider cannot even be read."""
        return self._bad_receipt

    def choose(self, quote: Quoted) -> None:
        """From now on, and for good, it is this quote that is paid and its provider that answers."""
        self.chosen, self.working, self.begun = quote, None, False

    def dismiss(self) -> None:
        """Wait no longer for who works without payment, and has fallen silent."""
        if self.working is not None:
            self._decline(self.working, "silent", "it began to work and fell silent")
            self._dismissed.add(self.working)
            self.working = None

    def no_offer(self, seconds: float) -> tuple[FailCode, str]:
        """Why, after so many seconds, there is nothing that could be paid or waited for."""
        declined = list(self.declined.values())
        if not declined:
            who = "the provider has not" if self.named else "no provider has"
            return "no-answer", f"{who} answered within {seconds:g} seconds"
        codes = {each.code for each in declined}
        code: FailCode = "unpayable"
        if "too-dear" in codes:
            code = "too-dear"
        elif codes == {"silent"}:
            code = "no-answer"
        elif codes <= {"refused", "silent"}:
            code = "refused"
        return code, "; ".join(dict.fromkeys(each.text for each in declined[:3]))

    def offer(self, quote: Quoted) -> None:
        """A quote that may be paid: the first of its provider counts."""
        if self.chosen is None and quote.provider not in self.offers and len(self.offers) < MAX_OFFERS:
            self.declined.pop(quote.provider, None)
            self.offers[quote.provider] = quote
            self.news.append(quote)

    def refuse(self, provider: str, code: str, text: str) -> None:
        """Why the quote of this provider cannot be paid."""
        if provider not in self.offers:
            self._decline(provider, code, text)

    def take(self, event: Event) -> None:
        """A verified event that mentions the job, from whomever. Never raises for what it says."""
        if event.kind == RECEIPT:
            self._take_receipt(event)
            return
        if self.result is not None or not self._counts(event.pubkey):
            return
        try:
            answer = parse_answer(event, self._keys)
        except InvalidAnswer as error:
            if event.kind == self._request.kind + TO_RESULT and event.pubkey == self.provider:
                self.unreadable = str(error)
            return
        if not is_answer_to(answer, self._request.event):
            return
        if isinstance(answer, Result):
            self._take_result(answer)
        else:
            self._take_feedback(answer)

    def _counts(self, author: str) -> bool:
        """Whether this author may still say something about the job."""
        if self.chosen is not None or self.named is not None:
            return author == self.provider
        return True

    def _take_result(self, result: Result) -> None:
        if self.provider not in (None, result.provider) or result.content is None:
            return
        self._check_scheme(result.scheme, "the result")
        self.result = result
        self.error = self.unreadable = None
        if self.chosen is None:
            self.working = result.provider

    def _take_feedback(self, feedback: Feedback) -> None:
        match feedback.status:
            case "payment-required":
                self._take_quote(feedback)
            case "error":
                self._take_error(feedback)
            case "processing" | "partial" if self._begins(feedback.provider):
                self._check_scheme(feedback.scheme, "an answer")
                self.begun = True
                if feedback.status == "partial":
                    self._take_partial(feedback)
                elif feedback.provider not in self._processing:
                    self._processing.add(feedback.provider)
                    self.news.append(Processing(feedback.provider, feedback.text))

    def _begins(self, provider: str) -> bool:
        """Whether what this provider says of its work counts; it may be how we learn that it works unpaid."""
        if self.chosen is not None:
            return provider == self.chosen.provider
        # It asked for money (until it has that, it only wants to be believed), or was waited for once already.
        if provider in self.offers or provider in self._zapped or provider in self._dismissed:
            return False
        if self.working is None:
            self.working = provider
        return provider == self.working

    def _take_quote(self, feedback: Feedback) -> None:
        provider = feedback.provider
        if provider in self.offers or self.chosen is not None:
            return  # the same again, or a second bill: a job is paid once
        if len(self.offers) >= MAX_OFFERS:
            return
        if self.working == provider:
            self.working = None
        try:
            if feedback.bolt11 is None:
                check_zappable(feedback, max_msat=self._max_msat)
                self._take_unpriced(feedback)
                return
            quote = check_quote(feedback, max_msat=self._max_msat, network=self._network, now=self._now())
        except Unpayable as error:
            self._decline(provider, error.code, str(error))
            return
        self._check_scheme(feedback.scheme, "the quote")
        self.offer(quote)

    def _take_unpriced(self, feedback: Feedback) -> None:
        # Each costs questions to a stranger's server, whom a broadcast lets anybody name.
        if feedback.provider not in self._zapped and len(self._zapped) < MAX_ZAPPED:
            self._zapped.add(feedback.provider)
            self._check_scheme(feedback.scheme, "the quote")
            self.unpriced.append(feedback)

    def _take_error(self, feedback: Feedback) -> None:
        code, _, text = feedback.text.partition(": ")
        if feedback.provider == self.provider and (self.named or self.chosen):
            self.error = self.error or (code, text or feedback.text)
            return
        self.offers.pop(feedback.provider, None)
        if self.working == feedback.provider:
            self.working = None
        self._decline(feedback.provider, "refused", feedback.text)

    def _take_partial(self, feedback: Feedback) -> None:
        # Relays keep no order: the newest counts, and of one second's the longest.
        place = (feedback.event.created_at, len(feedback.content))
        if place <= self._partial:
            return
        self._partial = place
        self.news.append(Partial(feedback.provider, feedback.content, *_remaining(feedback)))

    def _take_receipt(self, event: Event) -> None:
        if not self._counts(event.pubkey):
            return
        if len(self._receipts) >= MAX_RECEIPTS:
            # Strangers may fill this up while nobody is chosen; the next query brings the right one again.
            self._receipts = {id_: r for id_, r in self._receipts.items() if r.provider == self.provider}
            if len(self._receipts) >= MAX_RECEIPTS:
                return
        try:
            receipt = parse_receipt(event, self._keys)
        except InvalidReceipt as error:
            if event.pubkey == self.provider:
                self._bad_receipt = str(error)
            return
        if receipt.job == self._request.id:
            self._receipts.setdefault(receipt.id, receipt)

    def _check_scheme(self, scheme: Scheme | None, what: str) -> None:
        asked = self._request.scheme
        if scheme != asked:
            problem = f"{what} came {scheme_name(scheme)}, and the job was asked {scheme_name(asked)}"
            if problem not in self.problems:
                self.problems.append(problem)

    def _decline(self, provider: str, code: str, text: str) -> None:
        declined = Declined(provider, code, text)
        if self.declined.get(provider) != declined and (provider in self.declined or len(self.declined) < MAX_OFFERS):
            self.declined[provider] = declined
            self.news.append(declined)


def _remaining(feedback: Feedback) -> tuple[int | None, int | None]:
    """`["remaining", msat, tokens]`; a malformed one is none."""
    for tag in feedback.tags:
        if len(tag) > 2 and tag[0] == "remaining":
            try:
                return natural(tag[1], MAX_MSAT), natural(tag[2], MAX_COUNT)
            except ValueError:
                return None, None
    return None, None
