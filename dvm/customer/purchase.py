"""One job bought: publish, be quoted, pay once, listen, check the receipt.

What a subscription brings is a hint: relays drop events, and both they and the provider restart. So the
stored events of the job are asked for regularly, and the request is published again while nobody answers
(its id makes it the same job).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from dvm.customer.account import account_around, fetch_announcements
from dvm.customer.archive import Archive
from dvm.customer.checking import check_receipt, matching, not_sold
from dvm.customer.conversation import Conversation
from dvm.customer.payment import OnePayment, Options, Payer
from dvm.customer.quotes import LEAST_SECONDS
from dvm.customer.updates import (
    Answered,
    Asked,
    Done,
    Due,
    FailCode,
    Failed,
    Quoted,
    Receipted,
    Update,
)
from dvm.customer.waiting import News
from dvm.customer.zapping import Zapper, ZapQuotes
from dvm.nip90 import FEEDBACK, RECEIPT, TO_RESULT, Announcement, JobRequest, Receipt, cancel_draft
from dvm.nip90.wire import is_hex64
from dvm.nostr import Event, Filter, Keys, RelayPool

LEAVING_SECONDS = 5.0
"""How long leaving a job in the middle may take: its cancellation is published on the way out."""


# What our own providers say (docs/events.md); any other error is a refusal.
_CODES: dict[str, FailCode] = {"cancelled": "cancelled", "bid-too-low": "too-dear"}


class Purchase:
    """One job from its request to its end; made by `Customer.ask`, used once."""

    def __init__(
        self,
        request: JobRequest,
        keys: Keys,
        relays: RelayPool,
        *,
        max_msat: int,
        network: str | None,
        payer: Payer | None,
        zapper: Zapper,
        archive: Archive | None,
        timeout: float,
        options: Options,
    ) -> None:
        self._request, self._keys, self._relays = request, keys, relays
        self._max_msat, self._payer, self._archive = max_msat, payer, archive
        self._timeout, self._options = timeout, options
        self._talk = Conversation(request, keys, max_msat=max_msat, network=network, now=time.time)
        self._changed = asyncio.Event()
        self._news = News(self._talk.news, self._changed, options)
        self._zaps = ZapQuotes(zapper, self._talk, self._changed.set, network=network)
        self._accepted: list[str] = []
        self._payment: OnePayment | None = None
        self._announcements: dict[str, asyncio.Task[list[Announcement]]] = {}
        self._heard_at, self._newest = 0.0, 0
        self._failure: Failed | None = None
        self._published = self._cancelled = self._finished = False

    async def updates(self) -> AsyncGenerator[Update, None]:
        """See `Customer.ask`."""
        wanted = self._filter()
        subscription = self._relays.subscribe(wanted, lambda event, _: self._take(event))
        poll = asyncio.get_running_loop().create_task(self._poll_for_ever(), name="customer poll")
        try:
            async with aclosing(self._play()) as play:
                async for update in play:
                    self._finished = isinstance(update, Done | Failed)
                    yield update
        finally:
            subscription.close()
            tasks = (poll, *self._announcements.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, self._zaps.close(), return_exceptions=True)
            if self._payment is not None:
                await self._payment.close()
            if not self._finished and self._talk.result is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LEAVING_SECONDS):
                        await self._cancel()

    # --- the course of things --------------------------------------------------------------------------

    async def _play(self) -> AsyncGenerator[Update, None]:
        if self._talk.named is not None:
            self._ask_for_prices(self._talk.named)
        event = self._request.event
        published = await self._relays.publish(event, timeout=self._options.publish)
        if not published:
            reasons = "; ".join(f"{url}: {reason}" for url, reason in sorted(published.failed.items()))
            yield self._failed("unpublished", f"no relay took the request: {reasons or 'there is none'}")
            return
        self._published, self._accepted = True, published.accepted
        yield Asked(event, tuple(published.accepted))
        async for update in self._find_offer():
            yield update
        if self._failure is None and not self._talk.over:
            quote = self._cheapest()
            if quote is None:
                self._failure = self._failed("no-answer", "the quotes expired before one could be chosen")
            else:
                async for update in self._pay_and_wait(quote):
                    yield update
        async for update in self._end():
            yield update

    async def _find_offer(self) -> AsyncGenerator[Update, None]:
        """Until the job is over, there is an offer to pay, or it has failed."""
        talk, options = self._talk, self._options
        deadline = self._in(self._quote_seconds)

        def somebody() -> object:
            return talk.over or talk.working or talk.offers or self._hopeless

        while True:
            async for update in self._news.until(somebody, deadline, "quote"):
                yield update
            if talk.over:
                return
            if talk.working is not None:
                async for update in self._wait_for_unpaid():
                    yield update
                if self._failure is not None:
                    return
                deadline = max(deadline, self._in(options.window))
            elif talk.offers:
                if talk.named is None:
                    # Others may be cheaper, or our balance with them may cover the job.
                    async for update in self._news.until(lambda: talk.over or talk.working, self._in(options.window)):
                        yield update
                if not talk.over and talk.working is None:
                    return
            else:
                code, text = talk.no_offer(self._quote_seconds)
                known = await self._announcements[talk.named] if talk.named in self._announcements else []
                self._failure = self._failed(code, text + not_sold(known, self._request.kind))
                return

    async def _wait_for_unpaid(self) -> AsyncGenerator[Update, None]:
        """Somebody works without payment: until that is over, it asks for money after all, or falls silent."""
        talk, options = self._talk, self._options
        worker = talk.working
        assert worker is not None  # noqa: S101 - the caller has seen it
        self._ask_for_prices(worker)
        deadline = self._in(self._timeout)
        self._heard_at = self._now()
        while True:
            silent_at = deadline if talk.named else min(deadline, self._heard_at + options.silence)
            async for update in self._news.until(lambda: talk.over or talk.working is None, silent_at, "answer"):
                yield update
            if talk.over or talk.working is None:
                return
            if self._now() >= deadline:
                self._failure = self._failed("timeout", self._no_result)
                return
            if self._heard_at + options.silence <= self._now():
                talk.dismiss()
                return

    async def _pay_and_wait(self, quote: Quoted) -> AsyncGenerator[Update, None]:
        """Pay this one quote, once, and wait for what comes of it."""
        talk = self._talk
        talk.choose(quote)
        self._ask_for_prices(quote.provider)
        by_hand = self._payer is None
        until = min(quote.expires_at, time.time() + self._options.by_hand) if by_hand else quote.expires_at
        yield Due(quote, by_hand=by_hand, until=int(until))
        if by_hand:
            patience = max(until - time.time(), 0)
            async for update in self._news.until(lambda: talk.over or talk.begun, self._in(patience)):
                yield update
            if not talk.over and not talk.begun:
                self._failure = self._failed(
                    "unpaid", "nobody paid the invoice in time: the job is cancelled, do not pay it any more"
                )
                return
        elif self._payer is not None:
            self._payment = OnePayment(self._payer, quote, self._options, talk.news.append, self._changed.set)
        async for update in self._news.until(
            lambda: talk.over or (self._payment and self._payment.refused), self._in(self._timeout), "answer"
        ):
            yield update
        if talk.over:
            return
        if self._payment is not None and self._payment.refused:
            self._failure = self._failed("payment-failed", f"the wallet did not pay: {self._payment.refused}")
        elif self._payment is not None and not self._payment.settled:
            self._failure = self._failed("timeout", f"it is not known whether the wallet paid, and {self._no_result}")
        else:
            self._failure = self._failed("timeout", f"paid, and {self._no_result}")

    async def _end(self) -> AsyncGenerator[Update, None]:
        """The answer, the receipt, and the last update."""
        talk, failure = self._talk, self._failure
        if failure is not None and talk.result is None:
            # Whatever is still open there must not be paid or worked at any more.
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVING_SECONDS):
                    await self._cancel()
        elif talk.unreadable is not None:
            failure = self._failed("unreadable", f"the result cannot be used: {talk.unreadable}")
        # After a failure there is something to wait for only if money may have moved.
        moved = self._may_have_paid or (failure is not None and failure.code == "timeout")
        deadline = self._in(self._options.receipt if talk.result is not None or moved else 0.0)
        if talk.result is None:
            async for update in self._news.until(lambda: talk.result or self._receipt_settled, deadline, "receipt"):
                yield update
        if talk.result is not None:
            yield Answered(talk.result.provider, talk.result.content or "", talk.result.event)
            async for update in self._news.until(lambda: self._receipt_settled, deadline, "receipt"):
                yield update
        receipted = None
        if (receipt := talk.receipt) is not None:
            receipted = await self._checked(receipt)
            yield receipted
        if talk.result is not None:
            yield self._done(receipted)
        else:
            yield self._final_failure(failure, receipted)

    # --- pieces ----------------------------------------------------------------------------------------

    @property
    def _quote_seconds(self) -> float:
        """How long a first word may take: the provider looks at all inputs before it says a price."""
        types = {each.type for each in self._request.inputs}
        if (session := self._request.param("session")) is not None:  # an earlier job, or all that was named before
            types.add("job" if is_hex64(session) else "event")
        options = self._options
        return options.quote + (options.prior if "job" in types else options.inputs if types - {"text"} else 0)

    @property
    def _hopeless(self) -> bool:
        """Whether the only provider that was asked has made an offer that cannot be paid."""
        return self._talk.named is not None and self._talk.named in self._talk.declined

    @property
    def _no_result(self) -> str:
        return f"no result came within {self._timeout:g} seconds"

    @property
    def _may_have_paid(self) -> bool:
        if self._talk.chosen is None:
            return False
        if self._payment is None:
            return self._talk.begun or self._talk.over
        return not self._payment.refused

    @property
    def _receipt_settled(self) -> bool:
        """Whether the receipt is there and, if a payment is under way, the wallet's word on it."""
        here = self._talk.receipt is not None or self._talk.bad_receipt is not None
        return here and (self._payment is None or self._payment.done)

    def _cheapest(self) -> Quoted | None:
        now = time.time()
        live = [quote for quote in self._talk.offers.values() if quote.expires_at >= now + LEAST_SECONDS]
        return min(live, key=lambda quote: quote.msat, default=None)

    def _done(self, receipted: Receipted | None) -> Done:
        talk = self._talk
        assert talk.result is not None  # noqa: S101 - the caller has seen it
        problems = list(talk.problems)
        if receipted is not None:
            problems += receipted.problems
        elif talk.bad_receipt is not None:
            problems.append(f"its receipt cannot be read: {talk.bad_receipt}")
        paid = talk.chosen if self._may_have_paid else None
        return Done(
            provider=talk.result.provider,
            text=talk.result.content or "",
            request=self._request.event,
            result=talk.result.event,
            msat=0 if paid is None else paid.msat,
            payment_hash=None if paid is None else paid.payment_hash,
            receipt=receipted,
            problems=tuple(problems),
        )

    def _final_failure(self, failure: Failed | None, receipted: Receipted | None) -> Failed:
        if failure is not None:
            code, text = failure.code, failure.text
        else:
            said, text = self._talk.error or ("", "")
            code = _CODES.get(said, "refused")
            text = f"{said}: {text}" if text and said != text else said
        return self._failed(code, text, receipted)

    def _failed(self, code: FailCode, text: str, receipted: Receipted | None = None) -> Failed:
        paid = self._talk.chosen if self._may_have_paid else None
        return Failed(
            code,
            text,
            provider=self._talk.provider,
            request=self._request.event,
            msat=0 if paid is None else paid.msat,
            payment_hash=None if paid is None else paid.payment_hash,
            receipt=receipted,
        )

    async def _checked(self, receipt: Receipt) -> Receipted:
        self._ask_for_prices(receipt.provider)  # who answers a broadcast at once has not been asked yet
        announcements = await self._announcements[receipt.provider]
        account = await account_around(receipt, self._relays, self._keys, self._archive, self._options.query)
        return check_receipt(
            receipt,
            request=self._request,
            provider=self._talk.provider or receipt.provider,
            result=self._talk.result,
            quote=self._talk.chosen if self._may_have_paid else None,
            max_msat=self._max_msat,
            announcement=matching(announcements, receipt),
            account=account,
        )

    def _ask_for_prices(self, provider: str) -> None:
        """Fetch the announcement now: its prices may change while the job runs."""
        if provider not in self._announcements:
            self._announcements[provider] = asyncio.get_running_loop().create_task(
                fetch_announcements(self._relays, provider, timeout=self._options.query)
            )

    async def _cancel(self) -> None:
        if self._published and not self._cancelled:
            self._cancelled = True
            await publish_cancel(self._relays, self._keys, self._request.event, self._talk.provider)

    # --- hearing ---------------------------------------------------------------------------------------

    def _filter(self) -> Filter:
        """Whatever mentions the job; from its provider only, where that is known."""
        kinds = [FEEDBACK, RECEIPT, self._request.kind + TO_RESULT]
        provider = self._talk.provider
        return Filter(kinds=kinds, authors=None if provider is None else [provider], tags={"e": [self._request.id]})

    def _take(self, event: Event) -> None:
        # Taken again each time that a query brings it: what counted for nothing then may count now.
        self._talk.take(event)
        self._zaps.start(self._accepted)
        if event.pubkey == self._talk.provider and event.created_at > self._newest:
            self._newest, self._heard_at = event.created_at, self._now()
        self._changed.set()

    async def _poll_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        published_at, pause = loop.time(), self._options.republish
        while True:
            await asyncio.sleep(self._options.poll)
            for event in await self._relays.query(self._filter(), timeout=self._options.query):
                self._take(event)
            quiet_since = max(published_at, self._heard_at)
            if self._published and not self._talk.over and loop.time() - quiet_since >= pause:
                published_at, pause = loop.time(), 2 * pause
                await self._relays.publish(self._request.event, timeout=self._options.publish)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _in(self, seconds: float) -> float:
        return self._now() + seconds


async def publish_cancel(relays: RelayPool, keys: Keys, request: Event, provider: str | None) -> bool:
    """Publish the deletion (kind 5) of a job of ours. Whether a relay took it."""
    draft = cancel_draft(request.id, request.kind)
    named = [p for p in request.values("p") if p] or ([] if provider is None else [provider])
    draft.tags.extend(["p", each] for each in named)
    return bool(await relays.publish(draft.sign(keys, int(time.time()))))
