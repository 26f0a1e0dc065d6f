"""Jobs that are sold on hold invoices: no answer, no charge.

What the wallet says of such an invoice, and the state of its job, decide what is done (`transitions.step`):
run, settle, send back. Nothing of it is remembered here alone: after a crash the same two, looked at again,
lead on to the same end, which is either settled and delivered or sent back and not delivered.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from dvm.jobs.endings import Endings
from dvm.jobs.shop import Shop
from dvm.jobs.transitions import FINAL, Effect, Held, Lost, Settled, step
from dvm.jobs.watching.trouble import Trouble
from dvm.ledger import ConflictError, Job, JobState, LedgerError, PendingPayment
from dvm.ledger.base import HOLDING
from dvm.lightning.base import HoldWallet, Invoice, InvoiceState, Lookup, WalletError
from dvm.nostr.keys import Keys

log = logging.getLogger(__name__)

MAX_PAUSE = 30.0  # seconds between two attempts to settle or to cancel
_NONCES = 1024
_OPEN = HOLDING | {JobState.SETTLING}
_GONE = "the payment was withdrawn before the answer was there"


class Runs(Protocol):
    """Of the runner: to stop a job that is running."""

    def desert(self, job_id: str) -> None: ...


class Promises:
    """Watches accepted hold invoices until each is settled or sent back.

    `paid` is called with a job's id and its customer once its money waits at the wallet.
    """

    def __init__(
        self,
        shop: Shop,
        endings: Endings,
        paid: Callable[[str, str], None],
        credit: Callable[[str, Lookup], Awaitable[None]],
    ) -> None:
        """`credit` deposits what was settled although its job had ended without an answer."""
        self._shop = shop
        self._endings = endings
        self._paid = paid
        self._credit = credit
        self.runs: Runs | None = None
        self._jobs: dict[str, PendingPayment] = {}  # every accepted invoice whose end is open, by its job
        self._due: set[str] = set()  # of these, what is to be settled or sent back
        self._wake = asyncio.Event()
        self._one_at_a_time: dict[str, asyncio.Lock] = {}
        self._trouble = Trouble(
            log,
            logging.ERROR,
            "a hold invoice can be neither settled nor cancelled; trying again: see `dvm doctor`",
            "hold invoices are settled and cancelled again",
        )

    async def load(self) -> None:
        """Take up, after a start, every promise that the last run left."""
        for payment, state in await self._shop.store.promises():
            if payment.job is not None:
                self._jobs[payment.job] = payment
                if state is JobState.SETTLING or state in FINAL:
                    self._due.add(payment.job)

    def pays(self, job_id: str) -> bool:
        """Whether money that still waits pays for this job."""
        return job_id in self._jobs

    def ended(self, job_id: str) -> None:
        """A job that a promise pays is ready to be settled, or has ended without an answer: look at it now."""
        if job_id in self._jobs:
            self._due.add(job_id)
            self._wake.set()

    async def run(self) -> None:
        """Settle and send back what is due, and try again what fails; until cancelled."""
        first = pause = self._shop.settings.retry_seconds
        while True:
            if not self._due:
                self._wake.clear()
                await self._wake.wait()
            due = list(self._due)
            await asyncio.gather(*(self._look_at(job_id) for job_id in due))
            if not self._due.intersection(due):
                pause = first
                continue
            with suppress(TimeoutError):  # what has just become ready does not wait for what fails
                async with asyncio.timeout(pause):
                    self._wake.clear()
                    await self._wake.wait()
            pause = min(2 * pause, MAX_PAUSE)

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109
        """Before the end: settle what is ready, `timeout` seconds at most. The next start goes on."""
        due = [self._look_at(job_id) for job_id in self._due]
        if due:
            tasks = [asyncio.ensure_future(each) for each in due]
            _, left = await asyncio.wait(tasks, timeout=timeout)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def look(self, payment: PendingPayment, found: Lookup) -> None:
        """What the wallet says of a hold invoice, and what follows from it."""
        if payment.job is None:
            return
        async with self._one_at_a_time.setdefault(payment.payment_hash, asyncio.Lock()):
            try:
                job = await self._shop.store.job(payment.job)
                if job is not None:
                    if job.state in _OPEN and not await self._keeps(job, payment):
                        # A zap or the balance pays for it: to this invoice it is as if the job had ended, and what
                        # becomes of the invoice is nothing to the job.
                        job = replace(job, state=JobState.FAILED)
                    await self._follow(job, payment, found)
            except ConflictError as error:  # it has moved on: the next look sees where it is
                log.debug("a promise has moved on", extra={"job": payment.job, "error": str(error)})
            finally:
                if payment.job not in self._jobs:
                    self._one_at_a_time.pop(payment.payment_hash, None)

    async def _keeps(self, job: Job, payment: PendingPayment) -> bool:
        """Whether it is this promise that pays for a job."""
        promise = self._jobs.get(job.id) or await self._shop.store.promise(job.id)
        if promise is None or promise.payment_hash != payment.payment_hash:
            return False
        self._jobs[job.id] = promise  # also one whose acceptance was stored, and then not heard of
        return True

    async def _look_at(self, job_id: str) -> None:
        payment = self._jobs.get(job_id)
        if payment is None:
            self._due.discard(job_id)
            return
        try:
            job = await self._shop.store.job(job_id)
            if job is None or not (job.state is JobState.SETTLING or job.state in FINAL):
                self._due.discard(job_id)
                return
            # Not asked first: settling what is settled and cancelling what is cancelled are no errors.
            await self.look(payment, Lookup(InvoiceState.HELD))
        except LedgerError as error:
            log.error("a job could not be stored; it is tried again", extra={"job": job_id, "error": str(error)})

    async def _follow(self, job: Job, payment: PendingPayment, found: Lookup) -> None:
        match found.state:
            case InvoiceState.HELD:
                await self._held(job, payment, found)
            case InvoiceState.SETTLED:
                await self._settled(job, payment, found)
            case InvoiceState.FAILED:
                await self._lost(job, payment)
            case InvoiceState.PENDING if job.state in FINAL:  # nobody shall pay what is not sold any more
                await self._refund(job, payment)

    async def _held(self, job: Job, payment: PendingPayment, found: Lookup) -> None:
        left = found.blocks_left
        late = left is not None and left <= self._shop.settings.hold_margin_blocks
        # A look-up that tells no amount (our own, on the way to the end) is of money that was accepted before.
        enough = not found.msat or found.msat >= job.quote_msat
        following = step(job.state, Held(enough=enough, late=late))
        if job.state is JobState.QUOTED and Effect.RUN in following.effects:
            accepted = await self._shop.store.accept(payment.payment_hash, found.msat)
            if accepted is not None and accepted.paid:
                self._jobs[job.id] = payment
                log.info("promised", extra={"payment_hash": payment.payment_hash, "job": job.id, "msat": found.msat})
                self._paid(job.id, job.customer)
            elif accepted is not None:
                await self._refund(job, payment)
            return
        if Effect.STOP in following.effects and self.runs is not None:
            log.warning("a payment is about to go back: its job is stopped", extra={"job": job.id, "blocks_left": left})
            self.runs.desert(job.id)
        if Effect.VOID in following.effects:
            await self._give_up(job, following.state)
        if Effect.SETTLE in following.effects:
            await self._settle(job, payment)
        if Effect.REFUND in following.effects:
            await self._refund(job, payment)

    async def _give_up(self, job: Job, to: JobState) -> None:
        await self._endings.give_up(job, "payment-lost", _GONE, to=to, states=(job.state,))
        self._due.discard(job.id)  # it is being looked at

    async def _settle(self, job: Job, payment: PendingPayment) -> None:
        wallet = self._shop.wallet
        preimage = preimage_of(self._shop.keys, job.id, payment.payment_hash)
        if preimage is None or not isinstance(wallet, HoldWallet):
            self._trouble.failing(job=job.id, error="it was made with another key, or for another wallet")
            await self._confirm(job, payment)
            return
        try:
            await wallet.settle_hold(preimage)
        except WalletError as error:
            self._trouble.failing(job=job.id, error=str(error))
        await self._confirm(job, payment)

    async def _refund(self, job: Job, payment: PendingPayment) -> None:
        wallet = self._shop.wallet
        if isinstance(wallet, HoldWallet):
            try:
                await wallet.cancel_hold(payment.payment_hash)
            except WalletError as error:
                self._trouble.failing(job=job.id, error=str(error))
        await self._confirm(job, payment)

    async def _confirm(self, job: Job, payment: PendingPayment) -> None:
        """Only the wallet's look-up says how it ended."""
        found = await self._shop.wallet.lookup(payment.payment_hash)
        if found.state is InvoiceState.SETTLED:
            await self._settled(job, payment, found)
            if found.msat > 0:
                self._trouble.fine()
        elif found.state is InvoiceState.FAILED:
            await self._lost(job, payment)
            self._trouble.fine()

    async def _settled(self, job: Job, payment: PendingPayment, found: Lookup) -> None:
        if found.msat <= 0:  # of nothing no answer is delivered, and one wrong look-up stops no other promise
            self._trouble.failing(job=job.id, error="the wallet calls it settled, and says that nothing was received")
            return
        following = step(job.state, Settled())
        if job.state is JobState.SETTLING and Effect.POST in following.effects:
            finished = await self._shop.store.finished(job.id)
            if finished is None:
                raise LedgerError(f"job {job.id} is settling, and its answer is not there")
            await self._endings.settle(job, finished, found.msat)
        elif job.state in (JobState.PAID, JobState.WAITING, JobState.RUNNING):
            return  # only our preimage settles it, so this wallet errs; the answer, once there, is paid for
        elif job.state is not JobState.DELIVERED:
            await self._credit(payment.payment_hash, found)
        self._forget(payment)

    async def _lost(self, job: Job, payment: PendingPayment) -> None:
        following = step(job.state, Lost())
        if Effect.STOP in following.effects and self.runs is not None:
            self.runs.desert(job.id)
            return  # the run ends the job, and the next look the promise
        if Effect.VOID in following.effects:
            await self._give_up(job, following.state)
        if following.state in FINAL:
            await self._shop.store.cancelled_hold(payment.payment_hash, self._shop.now())
            log.info("sent back", extra={"payment_hash": payment.payment_hash, "job": job.id})
            self._forget(payment)

    def _forget(self, payment: PendingPayment) -> None:
        job_id = payment.job or ""
        if (kept := self._jobs.get(job_id)) is not None and kept.payment_hash == payment.payment_hash:
            del self._jobs[job_id]
            self._due.discard(job_id)


async def hold_invoice(
    wallet: HoldWallet, keys: Keys, job_id: str, msat: int, *, description: str, expiry: int
) -> Invoice:
    """A hold invoice over a preimage that is derived from our key, and so stored nowhere. Raises WalletError.

    Each call takes another preimage: an earlier one that timed out may have left its invoice at the wallet.
    """
    preimage = _preimage(keys, job_id, secrets.randbelow(_NONCES))
    payment_hash = hashlib.sha256(preimage).hexdigest()
    return await wallet.create_hold_invoice(msat, payment_hash=payment_hash, description=description, expiry=expiry)


def preimage_of(keys: Keys, job_id: str, payment_hash: str) -> str | None:
    """The preimage of a job's hold invoice, in hex; None if it was not made with this key."""
    for nonce in range(_NONCES):
        preimage = _preimage(keys, job_id, nonce)
        if hashlib.sha256(preimage).hexdigest() == payment_hash:
            return preimage.hex()
    return None


def _preimage(keys: Keys, job_id: str, nonce: int) -> bytes:
    return keys.derive(f"hold invoice:{job_id}:{nonce}")
