"""Who has paid. The wallet's pushes are hints; its look-ups are the proof (money.md, rule 7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dvm.jobs.outbox import Outbox
from dvm.jobs.shop import Shop, publication
from dvm.jobs.transitions import Effect, TimeUp, step
from dvm.ledger import (
    ConflictError,
    JobState,
    LedgerError,
    Link,
    PendingPayment,
    Publication,
    ReceiptMaker,
)
from dvm.lightning.base import InvoiceState, Lookup
from dvm.nip90 import make_receipt

log = logging.getLogger(__name__)

LOOKUPS = 16  # at once
EXPIRE_BATCH = 1000
# A wallet that cannot say whether a quote was paid keeps it open this much longer; its payment stays
# watched for in any case.
UNKNOWN_GRACE = 86_400
HINT_PAUSES = (0.2, 1.0, 5.0)  # between look-ups when a hint came before the wallet's own books


class Settlements:
    """Watches the invoices of open quotes and credits what settles.

    `paid` is called with a job's id and its customer when its payment has opened its hold, `expired` with
    the customer when a quote's time is over.
    """

    def __init__(
        self, shop: Shop, outbox: Outbox, paid: Callable[[str, str], None], expired: Callable[[str], None]
    ) -> None:
        self._shop = shop
        self._outbox = outbox
        self._paid = paid
        self._expired = expired
        self._expected: dict[str, str] = {}  # payment hash → customer
        self._checking: set[str] = set()
        self._places = asyncio.Semaphore(LOOKUPS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Take up, after a start, every payment that may still settle (money.md, case 19)."""
        self._expected = {each.payment_hash: each.customer for each in await self._shop.store.watched(self._shop.now())}

    def expect(self, payment: PendingPayment) -> None:
        """Watch for one more."""
        self._expected[payment.payment_hash] = payment.customer

    async def watch(self) -> None:
        """Follow the wallet's hints; until cancelled. A hint about a payment that is not ours costs nothing."""
        async for payment_hash in self._shop.wallet.settlements():
            if payment_hash in self._expected and payment_hash not in self._checking:
                self._checking.add(payment_hash)
                task = asyncio.get_running_loop().create_task(self._confirm(payment_hash))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def sweep(self) -> None:
        """Reconcile at once and from then on regularly; until cancelled."""
        while True:
            try:
                await self.reconcile()
            except LedgerError as error:
                log.error("reconciling failed", extra={"error": str(error)})
            await asyncio.sleep(self._shop.settings.reconcile_seconds)

    async def reconcile(self) -> None:
        """Ask the wallet about everything that is open, in one go, and close the quotes whose time is over."""
        now = self._shop.now()
        watched = await self._shop.store.watched(now)
        if not watched:
            return
        found = await self._shop.wallet.lookup_many([each.payment_hash for each in watched], watched[0].created_at)
        settled = [(key, lookup) for key, lookup in found.items() if lookup.state is InvoiceState.SETTLED]
        crediting = (self._credit(key, lookup) for key, lookup in settled)
        outcomes = await asyncio.gather(*crediting, return_exceptions=True)
        for (key, _), outcome in zip(settled, outcomes, strict=True):
            if outcome is not None:
                log.error(
                    "a payment could not be credited; the next sweep tries again",
                    extra={"payment_hash": key, "error": repr(outcome)},
                )
        await self._expire(now, found)
        still = {each.payment_hash for each in await self._shop.store.watched(now)}
        for payment_hash in [each.payment_hash for each in watched if each.payment_hash not in still]:
            self._expected.pop(payment_hash, None)

    async def close(self) -> None:
        """Finish what has begun, `publish_seconds` at most: the next start asks the wallet again."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._shop.settings.publish_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _confirm(self, payment_hash: str) -> None:
        try:
            for pause in (0.0, *HINT_PAUSES):
                if pause:
                    await asyncio.sleep(pause)
                async with self._places:
                    lookup = await self._shop.wallet.lookup(payment_hash)
                if lookup.state is InvoiceState.SETTLED:
                    await self._credit(payment_hash, lookup)
                    return
                if lookup.state is InvoiceState.PENDING:  # the hint was a lie, or the wallet lags
                    continue
            log.info(
                "the wallet does not confirm what was reported as paid; the next sweep asks again",
                extra={"payment_hash": payment_hash},
            )
        except LedgerError as error:
            log.error("a payment could not be credited; the next sweep tries again", extra={"error": str(error)})
        finally:
            self._checking.discard(payment_hash)

    async def _credit(self, payment_hash: str, lookup: Lookup) -> None:
        customer = self._expected.get(payment_hash)
        if customer is None:  # credited meanwhile
            return
        if lookup.msat <= 0:
            log.warning("a settled payment without an amount is not credited", extra={"payment_hash": payment_hash})
            return
        now = self._shop.now()
        made: list[Publication] = []
        deposit = await self._shop.store.deposit(
            payment_hash, lookup.msat, now, self._credit_maker(customer, now, made)
        )
        self._expected.pop(payment_hash, None)
        if deposit is None or not deposit.fresh:
            return
        log.info(
            "paid",
            extra={"payment_hash": payment_hash, "msat": deposit.msat, "job": deposit.job, "to_job": deposit.paid},
        )
        if deposit.paid and deposit.job is not None:
            self._paid(deposit.job, deposit.customer)
        else:
            self._outbox.send(made[-1:])

    def _credit_maker(self, customer: str, now: int, made: list[Publication]) -> ReceiptMaker:
        def make(link: Link) -> Publication:
            event = make_receipt(self._shop.keys, customer, link, now, d=self._shop.announcement)
            made.append(publication(event, "receipt"))
            return made[-1]

        return make

    async def _expire(self, now: int, found: dict[str, Lookup]) -> None:
        for job_id, payment_hash in await self._shop.store.overdue(now, EXPIRE_BATCH):
            lookup = found.get(payment_hash) or await self._shop.wallet.lookup(payment_hash)
            if lookup.state is InvoiceState.SETTLED:
                continue  # credited above, or by the next sweep
            job = await self._shop.store.job(job_id)
            if job is None or (lookup.state is InvoiceState.UNKNOWN and now < (job.expires_at or 0) + UNKNOWN_GRACE):
                continue
            following = step(job.state, TimeUp())
            if Effect.CLOSE not in following.effects:
                continue
            try:
                await self._shop.store.close_unpaid(
                    job_id, to=JobState.EXPIRED, reason="not paid in time", publications=(), at=now, stamp=job.stamp
                )
            except ConflictError:  # paid or cancelled at this very moment
                continue
            self._expired(job.customer)
