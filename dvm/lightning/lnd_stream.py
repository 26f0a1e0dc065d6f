"""What LND pushes: settlements, from a settle index that is kept, and hold invoices that are accepted.

SubscribeInvoices tells of every settlement after a settle index, in their order, and then of what settles from now
on: cut and taken up again, it misses nothing and repeats nothing. An index of 0 means "from now on", so a node on
which nothing has settled yet is asked for its newest invoices beside the stream, until there is an index to keep.
Accepted hold invoices are not in that stream: the newest are subscribed to one by one, all others polled for in pages.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.hints import Hints
from dvm.lightning.lnd_client import LndClient, for_path, is_unknown_thing
from dvm.lightning.lnd_invoices import PAGE, LndInvoice, newest
from dvm.lightning.places import Place

log = logging.getLogger(__name__)

SETTLE_INDEX = "settle_index"
_JUMP = 1_000_000  # settlements: LND's indexes follow one on another, so a larger gap is a lie that would mute us
_FIRST_LOOKS = (0.0, 0.5, 2.0, 10.0)  # seconds after subscribing from index 0
_SUBSCRIBED = 16  # hold invoices at once, each a connection
_WATCHED = 20_000  # hold invoices
_CLOCKS = 3_600  # seconds after its expiry at which an invoice is given up, LND's clock being LND's


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `silence`: after so long without an update the stream is taken up anew, in case it is dead;
    `backoff` doubles with each failure up to `longest`; `poll`: between polls for accepted hold invoices."""

    silence: float = 120.0
    backoff: float = 0.5
    longest: float = 30.0
    poll: float = 5.0


class SettlementStream:
    """Hands on every settlement once, from the place that was kept on. `settled` is called with each hash."""

    def __init__(
        self,
        client: LndClient,
        place: Callable[[], Awaitable[Place]],
        hints: Hints,
        settled: Callable[[str], None],
        pace: Pace,
    ) -> None:
        """`place` may raise WalletError: which node's place it is has to be asked of the node."""
        self.live = False
        self._client, self._hints, self._settled, self._pace = client, hints, settled, pace
        self._find_place = place
        self._place: Place | None = None
        self._index = 0
        self._first: set[str] | None = None  # told of by the first stream, which began without an index
        self._moved = asyncio.Event()
        self._failures = 0

    async def run(self) -> None:
        """Until cancelled."""
        keeping = asyncio.get_running_loop().create_task(self._keep_for_ever(), name="lnd place")
        try:
            while True:
                await self._follow_once()
        finally:
            self.live = False
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def keep(self) -> None:
        """Keep the place now, if everything that was told has been taken."""
        if self._place is not None and self._index and self._hints.all_taken:
            await self._place.keep({SETTLE_INDEX: self._index})

    async def _follow_once(self) -> None:
        began = asyncio.get_running_loop().time()
        try:
            await self._follow()
            log.debug("wallet: lnd has ended the stream of settlements")
        except WalletError as error:
            if error.code == "unreachable" and asyncio.get_running_loop().time() - began >= self._pace.silence:
                self._failures = 0  # nothing came, which may well be all there is to tell
                return
            if not self._failures:
                log.warning("wallet: the stream of settlements is interrupted: %s", error)
        self.live = False
        await asyncio.sleep(min(self._pace.backoff * 2 ** min(self._failures, 10), self._pace.longest))
        self._failures += 1

    async def _follow(self) -> None:
        if self._place is None:
            place = await self._find_place()
            self._index = (await place.load()).get(SETTLE_INDEX, 0)
            self._place = place
        if not self._index:
            self._first = set()
            await self._look_at_newest()
        looking = None
        if self._index:
            self._first = None
        else:
            looking = asyncio.get_running_loop().create_task(self._first_looks(), name="lnd first looks")
        params = {SETTLE_INDEX: self._index}
        try:
            async with aclosing(
                self._client.updates("GET", "/v1/invoices/subscribe", params=params, silence=self._pace.silence)
            ) as updates:
                # LND answers nothing before its first update; what refuses or cuts the stream says so below.
                self.live = True
                async for raw in updates:
                    if self._failures:
                        log.info("wallet: the stream of settlements goes on")
                        self._failures = 0
                    self._hear(raw)
        finally:
            if looking is not None:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    def _hear(self, raw: object) -> None:
        try:
            invoice = LndInvoice.parse(raw)
        except WalletError as error:
            log.warning("wallet: a pushed invoice cannot be read: %s", error)
            return
        if invoice.lookup.state is InvoiceState.SETTLED:
            self._hand_on(invoice)

    def _hand_on(self, invoice: LndInvoice) -> None:
        """A settlement, unless it was handed on before: they come in the order of their indexes."""
        if self._first is not None:
            if invoice.payment_hash in self._first:
                return
            self._first.add(invoice.payment_hash)
        elif not self._index < invoice.settle_index <= self._index + _JUMP:
            if invoice.settle_index > self._index:
                log.warning("wallet: a settle index that cannot be: %d after %d", invoice.settle_index, self._index)
            return
        self._settled(invoice.payment_hash)
        self._index = max(self._index, invoice.settle_index)
        self._moved.set()

    async def _look_at_newest(self) -> None:
        invoices, _ = await newest(self._client, PAGE)
        settled = [invoice for invoice in invoices if invoice.lookup.state is InvoiceState.SETTLED]
        for invoice in sorted(settled, key=lambda invoice: invoice.settle_index):
            self._hand_on(invoice)

    async def _first_looks(self) -> None:
        """From index 0, what settles while LND takes up the subscription would be missed."""
        for pause in _FIRST_LOOKS:
            await asyncio.sleep(pause)
            try:
                await self._look_at_newest()
            except WalletError as error:
                log.debug("wallet: invoices cannot be listed: %s", error)

    async def _keep_for_ever(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            index = self._index
            await self._hints.taken()
            if self._place is not None:
                await self._place.keep({SETTLE_INDEX: index})


class HoldWatch:
    """Tells of hold invoices that are accepted. `accepted` is called with each hash once."""

    def __init__(self, client: LndClient, accepted: Callable[[str], None], pace: Pace) -> None:
        self._client, self._accepted, self._pace = client, accepted, pace
        self._open: dict[str, int] = {}  # until when; the oldest first
        self._subscribed: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._offset = 0
        self._closed = False

    def watch(self, payment_hash: str, expires_at: int, *, subscribe: bool) -> None:
        """Watch for one more; with a connection of its own, if that is wanted, while it is among the newest."""
        if self._closed or payment_hash in self._open:
            return
        self._open[payment_hash] = expires_at
        if len(self._open) > _WATCHED:
            self.forget(next(iter(self._open)))
        if not subscribe:
            return
        task = asyncio.get_running_loop().create_task(self._subscribe(payment_hash), name="lnd hold invoice")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._subscribed[payment_hash] = task
        if len(self._subscribed) > _SUBSCRIBED:
            self._subscribed.pop(next(iter(self._subscribed))).cancel()

    def forget(self, payment_hash: str) -> None:
        """It is decided, one way or the other."""
        self._open.pop(payment_hash, None)
        task = self._subscribed.pop(payment_hash, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def run(self) -> None:
        """Poll for those without a connection of their own; until cancelled."""
        while True:
            await asyncio.sleep(self._pace.poll)
            given_up = time.time() - _CLOCKS
            for payment_hash in [each for each, until in self._open.items() if until < given_up]:
                self.forget(payment_hash)
            if self._open.keys() - self._subscribed.keys():
                try:
                    await self._poll()
                except WalletError as error:
                    log.debug("wallet: open invoices cannot be listed: %s", error)

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _poll(self) -> None:
        """One page of what is open, newest first; the next poll goes on behind it."""
        page, end = await newest(self._client, PAGE, self._offset, pending=True)
        self._offset = 0 if end else min((invoice.add_index for invoice in page), default=0)
        if self._offset <= 1:
            self._offset = 0
        for invoice in page:
            self._look(invoice)

    def _look(self, invoice: LndInvoice) -> None:
        if invoice.payment_hash in self._open and invoice.lookup.state is not InvoiceState.PENDING:
            self.forget(invoice.payment_hash)
            if invoice.lookup.state is InvoiceState.HELD:
                self._accepted(invoice.payment_hash)

    async def _subscribe(self, payment_hash: str) -> None:
        """SubscribeSingleInvoice tells the state that is, and each that follows, until it is final."""
        failures = 0
        try:
            while payment_hash in self._open:
                path = f"/v2/invoices/subscribe/{for_path(payment_hash)}"
                try:
                    async with aclosing(self._client.updates("GET", path, silence=self._pace.silence)) as updates:
                        async for raw in updates:
                            failures = 0
                            invoice = LndInvoice.parse(raw)
                            if invoice.payment_hash == payment_hash:
                                self._look(invoice)
                            if payment_hash not in self._open:
                                return
                except WalletError as error:
                    if error.code in ("restricted", "unsupported", "unauthorized") or is_unknown_thing(error):
                        return  # the poll goes on looking
                    log.debug("wallet: the stream of a hold invoice is interrupted: %s", error)
                await asyncio.sleep(min(self._pace.backoff * 2 ** min(failures, 10), self._pace.longest))
                failures += 1
        finally:
            if self._subscribed.get(payment_hash) is asyncio.current_task():
                del self._subscribed[payment_hash]
