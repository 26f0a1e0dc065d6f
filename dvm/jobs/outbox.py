"""From the ledger's outbox to the relays: nothing leaves it until some relay has said OK."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable

from dvm.jobs.shop import Shop
from dvm.ledger import LedgerError, Outgoing, Publication
from dvm.nostr.event import Event

log = logging.getLogger(__name__)

BATCH = 500
MAX_PAUSE = 600.0  # seconds between two attempts at an event that every relay refuses


class Outbox:
    """Publishes what was committed, at once; what no relay took is tried again, ever more rarely."""

    def __init__(self, shop: Shop, *, every: float = 5.0) -> None:
        self._shop = shop
        self._every = every
        self._busy: set[str] = set()
        self._sent: list[str] = []
        self._pauses: dict[str, tuple[float, float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._flushing = False
        self.refused = 0  # how many now wait for another attempt

    def send(self, publications: Iterable[Publication]) -> None:
        """Publish what the ledger has just stored."""
        for each in publications:
            self._start(each.id, each.payload, each.relays, stored=True)

    def send_unstored(self, event: Event, relays: Collection[str] = ()) -> None:
        """Publish an event that may be lost: progress, not money."""
        self._start(event.id, event, relays, stored=False)

    async def run(self) -> None:
        """Try again, from the rows, what has not been published; until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(self._every)

    async def sweep(self) -> None:
        """One pass over what no relay has accepted yet and is due."""
        now = asyncio.get_running_loop().time()
        try:
            waiting = await self._shop.store.outbox(BATCH)
        except LedgerError as error:
            log.error("the outbox cannot be read", extra={"error": str(error)})
            return
        ids = {each.id for each in waiting}
        self._pauses = {key: value for key, value in self._pauses.items() if key in ids}
        self.refused = len(self._pauses)
        for each in waiting:
            if self._pauses.get(each.id, (0.0, 0.0))[0] <= now:
                self._start(each.id, each.payload, each.relays, stored=True)

    def repeat(self, answers: Iterable[Outgoing]) -> None:
        """Publish stored answers once more, as they are."""
        for each in answers:
            self._start(each.id, each.payload, each.relays, stored=False)

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109
        """Wait for what is under way, `timeout` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        await self._mark()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, event_id: str, event: Event | str, relays: Collection[str], *, stored: bool) -> None:
        if event_id in self._busy:
            return
        self._busy.add(event_id)
        task = asyncio.get_running_loop().create_task(self._publish(event_id, event, relays, stored))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, event_id: str, event: Event | str, relays: Collection[str], stored: bool) -> None:
        try:
            if isinstance(event, str):
                event = Event.from_json(event)
            done = await self._shop.relays.publish(event, relays=relays, timeout=self._shop.settings.publish_seconds)
        finally:
            self._busy.discard(event_id)
        if not stored:
            return
        if done.accepted:
            self._sent.append(event_id)
            if not self._flushing:
                self._flushing = True
                asyncio.get_running_loop().call_later(0.02, self._mark_soon)
        else:
            self._put_off(event_id, event.kind, done.failed)

    def _put_off(self, event_id: str, kind: int, reasons: object) -> None:
        now = asyncio.get_running_loop().time()
        pause = min(self._pauses.get(event_id, (0.0, self._every / 2))[1] * 2, MAX_PAUSE)
        self._pauses[event_id] = (now + pause, pause)
        self.refused = len(self._pauses)
        log.warning(
            "no relay took an event; it stays in the outbox and is tried again",
            extra={"id": event_id, "kind": kind, "again_in": pause, "reasons": reasons},
        )

    def _mark_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._mark())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _mark(self) -> None:
        self._flushing = False
        sent, self._sent = self._sent, []
        if not sent:
            return
        try:
            await self._shop.store.published(sent, self._shop.now())
        except LedgerError as error:  # they will be published again: the same events
            log.error("the outbox cannot be written", extra={"error": str(error)})
