"""From the ledger's outbox to the relays: nothing leaves it until some relay has said OK."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial

from dvm.jobs.addressbook import AddressBook
from dvm.jobs.shop import Shop
from dvm.jobs.watching.trouble import Trouble
from dvm.ledger import LedgerError, Outgoing, Publication
from dvm.nostr.event import Event
from dvm.nostr.pool import Published

log = logging.getLogger(__name__)

BATCH = 500
MARK_SECONDS = 0.05  # what was published within this time is marked in one go
MAX_PAUSE = 600.0  # seconds between two attempts at an event that every relay refuses
# To whom an event is, without parsing it once more. A quotation mark within a string is escaped, so this is a tag.
_P_TAG = re.compile(r'\["p","([0-9a-f]{64})"').search


class Outbox:
    """Publishes what was committed, at once; what no relay took is tried again, ever more rarely."""

    def __init__(self, shop: Shop, *, every: float = 5.0) -> None:
        self._shop = shop
        self._every = every
        self._busy: set[str] = set()
        self._idle = asyncio.Event()
        self._sent: list[str] = []
        self._pauses: dict[str, tuple[float, float]] = {}
        self._soon: asyncio.TimerHandle | None = None  # until what was sent is marked
        self._marking: set[asyncio.Task[None]] = set()
        self._closed = False
        self._book = AddressBook(shop.relays) if shop.settings.customer_relays else None
        self.refused = 0  # how many now wait for another attempt
        self._trouble = Trouble(
            log,
            logging.WARNING,
            "no relay took an event; it stays in the outbox and is tried again: see relays.toml and `dvm doctor`",
            "relays take events again",
        )

    def send(self, publications: Iterable[Publication]) -> None:
        """Publish what the ledger has just stored."""
        for each in publications:
            self._post(each, stored=True)

    def send_unstored(self, event: Event, relays: Collection[str] = ()) -> None:
        """Publish an event that may be lost: progress, not money."""
        self._to_relays(event.id, event.to_json(), relays, _ignore)

    def send_private(self, wrap: Event, relays: Collection[str]) -> None:
        """Publish a private message (NIP-17), for which its reader has relays of their own; it may be lost."""
        self._shop.relays.post(
            wrap.id, wrap.to_json(), _ignore, relays=relays, timeout=self._shop.settings.publish_seconds
        )

    def repeat(self, answers: Iterable[Outgoing]) -> None:
        """Publish stored answers once more, as they are."""
        for each in answers:
            self._post(each, stored=False)

    async def run(self) -> None:
        """Try again, from the rows, what has not been published; until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(self._every)

    async def sweep(self) -> None:
        """One pass over what no relay has accepted yet and is due."""
        now = asyncio.get_running_loop().time()
        # What every relay refuses is not read while it waits for its turn: a batch of it would hide all the rest.
        resting = {key for key, (due, _) in self._pauses.items() if due > now}
        try:
            waiting = await self._shop.store.outbox(BATCH, resting)
        except LedgerError as error:
            log.error("the outbox cannot be read", extra={"error": str(error)})
            return
        ids = resting | {each.id for each in waiting}
        self._pauses = {key: value for key, value in self._pauses.items() if key in ids}
        self.refused = len(self._pauses)
        for each in waiting:
            if self._pauses.get(each.id, (0.0, 0.0))[0] <= now:
                self._post(each, stored=True)

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109
        """Wait for what is under way, `timeout` seconds at most."""
        if self._busy:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._idle.wait()
        await self._mark_all()

    async def close(self) -> None:
        """Look nothing up any more, and mark nothing: what is not yet published stays in the ledger, and what is
        said to be published from here on is published again by the next start."""
        self._closed = True
        await self._mark_all()
        if self._book is not None:
            await self._book.close()

    def _post(self, each: Publication | Outgoing, *, stored: bool) -> None:
        if each.id not in self._busy:
            self._busy.add(each.id)
            self._to_relays(each.id, each.payload, each.relays, partial(self._done, each, stored))

    def _to_relays(self, event: str, payload: str, named: Collection[str], done: Callable[[Published], None]) -> None:
        """An event, by its id, to our write relays, those that the request named, and where the customer reads."""
        post, timeout = self._shop.relays.post, self._shop.settings.publish_seconds
        reading: tuple[str, ...] = ()
        if self._book is not None and (to := _P_TAG(payload)):

            def follow(found: tuple[str, ...]) -> None:
                more = [url for url in found if url not in named and url not in reading]
                post(event, payload, _ignore, relays=more, timeout=timeout, own=False)

            reading = self._book.read_relays(to[1], named, follow)
        post(event, payload, done, relays=(*named, *reading), timeout=timeout)

    def _done(self, each: Publication | Outgoing, stored: bool, published: Published) -> None:
        self._busy.discard(each.id)
        if stored and published.accepted:
            if self._soon is None and not self._closed:
                self._soon = asyncio.get_running_loop().call_later(MARK_SECONDS, self._mark_soon)
            self._sent.append(each.id)
            if self._pauses.pop(each.id, None) is not None:
                self.refused = len(self._pauses)
            self._trouble.fine(waiting=self.refused)
        elif stored:
            self._put_off(each, published)
        if not self._busy:
            self._idle.set()

    def _put_off(self, each: Publication | Outgoing, published: Published) -> None:
        now = asyncio.get_running_loop().time()
        pause = self._every
        if published.refused:  # what is only waiting for a relay to come back goes out as soon as it does
            pause = min(self._pauses.get(each.id, (0.0, self._every / 2))[1] * 2, MAX_PAUSE)
        self._pauses[each.id] = (now + pause, pause)
        self.refused = len(self._pauses)
        log.debug("no relay took an event", extra={"id": each.id, "role": each.role, "again_in": pause})
        self._trouble.failing(waiting=self.refused, latest=each.id, role=each.role, reasons=dict(published.failed))

    def _mark_soon(self) -> None:
        self._soon = None
        task = asyncio.get_running_loop().create_task(self._mark())
        self._marking.add(task)
        task.add_done_callback(self._marking.discard)

    async def _mark_all(self) -> None:
        """Now, and with it what is on its way: no timer and no task is left that would write later."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        await asyncio.gather(*self._marking)
        await self._mark()

    async def _mark(self) -> None:
        sent, self._sent = self._sent, []
        if not sent:
            return
        try:
            await self._shop.store.published(sent, self._shop.now())
        except LedgerError as error:  # they will be published again: the same events
            log.error("the outbox cannot be written", extra={"error": str(error)})


def _ignore(_: Published) -> None:
    """What becomes of progress is nobody's concern."""
