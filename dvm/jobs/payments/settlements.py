"""Who has paid. The wallet's pushes are hints; its look-ups are the proof (money.md, rule 7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dvm.jobs.outbox import Outbox
from dvm.jobs.payments.promises import Promises
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
    Unsettled,
)
from dvm.lightning.base import HoldWallet, InvoiceState, Lookup
from dvm.lightning.zaps import make_zap_receipt, relays_of
from dvm.nip90 import InvalidRequest, JobRequest, make_receipt
from dvm.nostr.encryption import Scheme

log = logging.getLogger(__name__)

LOOKUPS = 16  # at once
EXPIRE_BATCH = 1000
# A wallet that cannot say whether a quote was paid keeps it open this much longer; its payment stays
# watched for in any case.
UNKNOWN_GRACE = 86_400
HINT_PAUSES = (0.2, 1.0, 5.0)  # between look-ups when a hint came before the wallet's own books


@dataclass(frozen=True, slots=True)
class _Payer:
    """Whose an expected payment will be, and how its receipt reaches them. `read` is False for one that the
    last run has left: its job is looked at when it is paid."""

    customer: str
    hold: bool
    zap: bool
    scheme: Scheme | None = None
    relays: tuple[str, ...] = ()
    read: bool = True


class Settlements:
    """Watches the invoices of open quotes, of zaps and top-ups, and credits what settles.

    `paid` is called with a job's id and its customer when its payment has opened its hold, `expired` with
    the customer when a quote's time is over. What hold invoices come to is for `promises`.
    """

    promises: Promises

    def __init__(
        self, shop: Shop, outbox: Outbox, paid: Callable[[str, str], None], expired: Callable[[str], None]
    ) -> None:
        self._shop = shop
        self._outbox = outbox
        self._paid = paid
        self._expired = expired
        self._expected: dict[str, _Payer] = {}  # by payment hash
        self._stored: set[str] = set()  # those among them that the last sweep found in the rows
        self._checking: set[str] = set()
        self._places = asyncio.Semaphore(LOOKUPS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Take up, after a start, every payment that may still settle (money.md, case 19)."""
        for each in await self._shop.store.watched(self._shop.now()):
            self._expected[each.payment_hash] = _Payer(
                each.customer, each.hold, each.source == "zap", read=each.job is None
            )

    def expect(self, payment: PendingPayment, request: JobRequest | None = None) -> None:
        """Watch for one more. `request` is the job's, if it is at hand."""
        if payment.payment_hash in self._expected:
            return  # whom a hash credits is fixed when it is first heard of
        self._expected[payment.payment_hash] = _Payer(
            payment.customer,
            payment.hold,
            payment.source == "zap",
            request.scheme if request else None,
            request.relays if request else (),
            read=request is not None or payment.job is None,
        )

    def forget(self, payment_hash: str) -> None:
        """A payment that was expected, and was not stored after all."""
        self._expected.pop(payment_hash, None)

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
        unsettled = await self._shop.store.unsettled(now)
        self._forget_what_is_over(unsettled)
        found = await self._look_up(unsettled) if unsettled.payment_hashes else {}
        told = [
            (key, lookup)
            for key, lookup in found.items()
            if lookup.state is InvoiceState.SETTLED
            # Of a hold invoice more follows than from a payment, but not from one that a quote still waits for.
            or (key in unsettled.holds and (lookup.state is not InvoiceState.PENDING or key not in unsettled.idle))
        ]
        outcomes = await asyncio.gather(
            *(self._follow(key, lookup, key in unsettled.holds) for key, lookup in told), return_exceptions=True
        )
        for (key, _), outcome in zip(told, outcomes, strict=True):
            if outcome is not None:
                log.error(
                    "a payment could not be credited; the next sweep tries again",
                    extra={"payment_hash": key, "error": repr(outcome)},
                )
        await self._expire(now, found)

    def _forget_what_is_over(self, unsettled: Unsettled) -> None:
        """What was in the rows and is not any more: settled, cancelled, or too old. What is not in them yet stays."""
        still = set(unsettled.payment_hashes)
        for payment_hash in self._stored - still:
            self._expected.pop(payment_hash, None)
        self._stored = self._expected.keys() & still

    async def _look_up(self, unsettled: Unsettled) -> dict[str, Lookup]:
        wallet = self._shop.wallet
        if isinstance(wallet, HoldWallet):
            return await wallet.lookup_many(unsettled.payment_hashes, unsettled.since, unsettled.holds)
        return await wallet.lookup_many(unsettled.payment_hashes, unsettled.since)

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
                if lookup.state in (InvoiceState.SETTLED, InvoiceState.HELD):
                    expected = self._expected.get(payment_hash)
                    await self._follow(payment_hash, lookup, expected is not None and expected.hold)
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

    async def _follow(self, payment_hash: str, lookup: Lookup, hold: bool) -> None:
        promise = await self._shop.store.pending(payment_hash) if hold else None
        if promise is not None:
            await self.promises.look(promise, lookup)
        elif lookup.state is InvoiceState.SETTLED:
            await self.credit(payment_hash, lookup)

    async def credit(self, payment_hash: str, lookup: Lookup) -> None:
        """Deposit what the wallet says is settled, once, and go on with what it pays for. Raises LedgerError."""
        payer = self._expected.get(payment_hash)
        if payer is None:  # credited meanwhile
            return
        if lookup.msat <= 0:
            log.warning("a settled payment without an amount is not credited", extra={"payment_hash": payment_hash})
            return
        now = self._shop.now()
        publications: tuple[Publication, ...] = ()
        if payer.zap or not payer.read:
            payer, publications = await self._read(payment_hash, payer, lookup, now)
        made: list[Publication] = []
        deposit = await self._shop.store.deposit(
            payment_hash, lookup.msat, now, self._credit_maker(payer, now, made), publications
        )
        self._expected.pop(payment_hash, None)
        if deposit is None or not deposit.fresh:
            return
        log.info(
            "paid",
            extra={"payment_hash": payment_hash, "msat": deposit.msat, "job": deposit.job, "to_job": deposit.paid},
        )
        self._outbox.send((*publications, *made[-1:]))
        if deposit.paid and deposit.job is not None:
            self._paid(deposit.job, deposit.customer)

    async def _read(
        self, payment_hash: str, payer: _Payer, lookup: Lookup, now: int
    ) -> tuple[_Payer, tuple[Publication, ...]]:
        """What only the rows tell: a zap's request, and how its job is answered."""
        payment = await self._shop.store.pending(payment_hash)
        if payment is None:
            return payer, ()
        relays: Sequence[str] = payer.relays
        scheme = payer.scheme
        if not payer.read and payment.job is not None and (job := await self._shop.store.job(payment.job)):
            try:
                request = self._shop.request_of(job)
                relays, scheme = request.relays, request.scheme
            except InvalidRequest as error:  # its receipt holds an amount and a hash, nothing of what was asked
                log.info("a paid job cannot be read any more", extra={"job": job.id, "error": str(error)})
        publications: tuple[Publication, ...] = ()
        if payment.zap is not None:
            wanted = relays_of(payment.zap)
            receipt = make_zap_receipt(self._shop.keys, payment.zap, payment.bolt11, lookup.settled_at or now)
            publications = (publication(receipt, "zap-receipt", wanted),)
            relays = (*relays, *wanted)
        return _Payer(payer.customer, payer.hold, payer.zap, scheme, tuple(dict.fromkeys(relays))), publications

    def _credit_maker(self, payer: _Payer, now: int, made: list[Publication]) -> ReceiptMaker:
        def make(link: Link) -> Publication:
            event = make_receipt(
                self._shop.keys, payer.customer, link, now, d=self._shop.announcement, scheme=payer.scheme
            )
            made.append(publication(event, "receipt", payer.relays))
            return made[-1]

        return make

    async def _expire(self, now: int, found: dict[str, Lookup]) -> None:
        for job_id, payment_hash in await self._shop.store.overdue(now, EXPIRE_BATCH):
            lookup = Lookup(InvoiceState.FAILED)  # what only a zap could pay has no invoice
            if payment_hash is not None:
                lookup = found.get(payment_hash) or await self._shop.wallet.lookup(payment_hash)
            if lookup.state in (InvoiceState.SETTLED, InvoiceState.HELD):
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
