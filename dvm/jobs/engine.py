"""The life of every job, from the relay to the receipt, over any number of restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dvm.jobs.balances.accounts import Accounts
from dvm.jobs.balances.payouts import Payouts
from dvm.jobs.cancelling import Deletions
from dvm.jobs.endings import Endings
from dvm.jobs.intake import Intake
from dvm.jobs.outbox import Outbox
from dvm.jobs.payments.promises import Promises
from dvm.jobs.payments.settlements import Settlements
from dvm.jobs.payments.zap_receipts import HORIZON_SECONDS, ZapReceipts
from dvm.jobs.payments.zaps import Zaps
from dvm.jobs.quotes import OpenQuotes
from dvm.jobs.runner import Runner
from dvm.jobs.shop import Shop
from dvm.jobs.transitions import Effect, Restarted, step
from dvm.jobs.unpaid import MAX_DELETIONS, Unpaid
from dvm.jobs.watching.spending import Spending
from dvm.jobs.watching.watchdog import Watchdog
from dvm.jobs.watching.wrong_answers import WrongAnswers
from dvm.ledger import JobState, LedgerError
from dvm.nip90 import DELETION, parse_deletion
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.subscription import Subscription

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0  # before work that has failed goes on


class Engine:
    """Start it, and the shop is open; stop it, and what runs is finished or left for the next start."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self.outbox = Outbox(shop)
        self.settlements = Settlements(shop, self.outbox, self._paid, self._expired)
        self.spending = Spending(shop)
        endings = Endings(shop, self.outbox, self.spending)
        self.promises = Promises(shop, endings, self._paid, self.settlements.credit)
        endings.ended = self.promises.ended
        wrong = WrongAnswers(shop)
        self.runner = Runner(shop, self.outbox, endings, self.promises, wrong)
        self.settlements.promises, self.promises.runs = self.promises, self.runner
        self.quotes = OpenQuotes(shop.now)
        self.intake = Intake(shop, self.outbox, self.settlements, self.quotes, self.runner.start, wrong)
        self.unpaid = Unpaid(shop, self.outbox, self.quotes)
        self.payouts = Payouts(shop, self.outbox)
        self.accounts = Accounts(shop, self.outbox, self.payouts, shop.lnurl)
        self.watchdog = Watchdog(shop, self.outbox, self.payouts)
        shop.policies = (*shop.policies, self.watchdog.policy, self.spending.policy)
        shop.receivable = self.watchdog.receivable
        shop.selling = lambda: self.watchdog.selling
        self.zaps: Zaps | None = None
        self.zap_receipts: ZapReceipts | None = None
        if shop.zaps is not None and shop.zaps.own:
            self.zaps = Zaps(shop, self.settlements, shop.zaps)
        elif shop.zaps is not None:
            self.zap_receipts = ZapReceipts(shop, self.settlements, shop.zaps, shop.lnurl)
        self.deletions = Deletions(shop, self._on_deletion)
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up what the last run left, then listen."""
        await self.spending.load()
        await self.settlements.load()
        await self.promises.load()
        await self.payouts.load()
        await self._recover()
        for work in (
            self.outbox.run,
            self.settlements.watch,
            self.settlements.sweep,
            self.promises.run,
            self.runner.keep_leases,
            self.runner.reclaim,
            self.intake.reclaim,
            self.payouts.run,
            self.watchdog.run,
            self.deletions.run,
            *([self.zap_receipts.run] if self.zap_receipts else []),
        ):
            self._background.append(asyncio.create_task(_for_ever(work), name=work.__qualname__))
        settings = self._shop.settings
        kinds = sorted(self._shop.services)
        requests = Filter(kinds=kinds)
        deletions = Filter(kinds=[DELETION], tags={"k": [str(kind) for kind in kinds]})
        addressed = Filter(kinds=[DELETION], tags={"p": [self._shop.keys.pubkey]})
        now = self._shop.now()
        oldest = now - settings.max_age if settings.max_age else None
        self._subscriptions = [
            self._shop.relays.subscribe(
                [requests],
                self._on_request,
                since=oldest,
                sweep=settings.sweep_seconds,
                again=self._on_repetition,
            ),
            # A quote may be cancelled for as long as it is open.
            self._shop.relays.subscribe(
                [deletions, addressed],
                self._on_deletion,
                since=now - settings.quote_seconds,
                sweep=settings.sweep_seconds,
            ),
            self._shop.relays.subscribe(
                self.accounts.filters(), self.accounts.on_request, since=oldest, sweep=settings.sweep_seconds
            ),
        ]
        if self.zap_receipts is not None:
            self._subscriptions.append(
                self._shop.relays.subscribe(
                    [self.zap_receipts.filter],
                    self.zap_receipts.on_receipt,
                    since=now - HORIZON_SECONDS,
                    sweep=settings.sweep_seconds,
                )
            )

    async def stop(self) -> None:
        """Hear nothing more, finish what runs (`shutdown_seconds` at most), store, and say what is ready."""
        for subscription in self._subscriptions:
            subscription.close()
        self.deletions.close()
        self.intake.close()
        self._shop.inputs.close()
        await self.accounts.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._shop.settings.shutdown_seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.settlements.close()
        await self.payouts.close()
        await self.runner.close()
        await self.promises.flush(self._shop.settings.publish_seconds)
        await self.outbox.flush(self._shop.settings.publish_seconds)
        await self.outbox.close()

    def _paid(self, job_id: str, customer: str) -> None:
        self.quotes.closed(customer)
        self.runner.start(job_id)

    def _expired(self, customer: str) -> None:
        self.quotes.closed(customer)

    async def _recover(self) -> None:
        """Continue from the rows: nothing that was begun is forgotten (money.md, cases 19 and 26)."""
        # Open quotes are counted, not read: what strangers ask for nothing must not fill the memory.
        for customer, quotes in (await self._shop.store.quoted()).items():
            for _ in range(quotes):
                self.quotes.opened(customer)
        for job in await self._shop.store.jobs((JobState.RECEIVED, JobState.PAID, JobState.RUNNING)):
            if Effect.PREPARE in step(job.state, Restarted()).effects:
                self._spawn(self.intake.resume, job)
            else:
                self._spawn(self.runner.resume, job)

    def _on_request(self, event: Event, relay: str) -> None:
        self._spawn(self.intake.request, event, relay)
        self.deletions.changed()

    def _on_repetition(self, job_id: str) -> None:
        self._spawn(self.intake.repeat, job_id)

    def _on_deletion(self, event: Event, _relay: str) -> None:
        self._spawn(self._delete, event)

    async def _delete(self, event: Event) -> None:
        await self.unpaid.delete(event)
        for job_id in parse_deletion(event)[:MAX_DELETIONS]:
            await self._shop.inputs.abandon(job_id)
            await self.runner.cancel(job_id, event.pubkey)

    def _spawn(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        task = asyncio.get_running_loop().create_task(_guard(work, *arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _guard(work: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """One failing request, invoice or look-up never stops the others (money.md, case 25)."""
    try:
        await work(*arguments)
    except LedgerError as error:
        log.error("the database did not take what was to be stored: see `dvm doctor`", extra={"error": str(error)})
    except Exception:
        about = [getattr(each, "id", each) for each in arguments[:1]]  # the event or the job, or a job's id
        log.exception("an unexpected error", extra={"about": about})


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """What goes on as long as the shop is open; an error that nobody has foreseen must not be its end."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("an unexpected error")
        await asyncio.sleep(PAUSE_SECONDS)
