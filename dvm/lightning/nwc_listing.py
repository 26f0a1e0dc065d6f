"""What a NIP-47 wallet lists, read without reading it all again.

`list_transactions` tells what is settled, newest first. NIP-47 does not say by which time: wallets go by the
invoice's creation (the paper wallet, the LDK nodes of the tests) or by its last change (Alby Hub, whose `from`
is about that time too). By creation, the late settlement of an old invoice appears deep in the list.

So everything is listed once, in slices of a bounded number of pages, and after that only refreshed: from the
newest on until what is known. Where the wallet tells a `total_count` that has proved right, a refresh knows that
it has missed nothing: what is settled stays settled, so the same number is the same list, and a larger one is
searched for to the end. Otherwise, and because a wallet's count may lie, everything is listed again now and then,
and whenever pushes may have been missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass, field

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, WalletError
from dvm.lightning.nip47 import InvalidAnswer, Transaction
from dvm.lightning.nwc_client import NwcClient, Options

log = logging.getLogger(__name__)

_MIN_PAGE = 5
_MAX_PAGE = 1_000  # transactions read of one page, whatever a wallet sends
_MAX_SEEN = 100_000  # a list that has no end, or a lie: not followed further
_KNOWN = 50_000  # settlements remembered


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of `list_transactions`: what can be read of it, whether that was all, and the count of the
    whole list if the wallet tells it."""

    length: int
    transactions: tuple[Transaction, ...]
    sound: bool
    total: int | None
    full: bool  # as long as was asked for

    def ends(self, offset: int) -> bool:
        """Whether the list ends with this page, which brings it to `offset`. A short page says nothing, the
        wallet's own limit may have cut it; nor does a count that is only the page's own."""
        return not self.length or (self.total is not None and offset >= self.total and not self.full)


class Pages:
    """Asks for pages. When an answer does not come, the next pages are smaller: perhaps it was larger than a
    relay's largest event."""

    def __init__(self, client: NwcClient, options: Options) -> None:
        self._client = client
        self._size = options.page

    async def ask(self, floor: int, offset: int, *, unpaid: bool = False) -> Page:
        """Incoming transactions since `floor` (unix seconds), newest first. Raises WalletError."""
        size = self._size
        params: dict[str, object] = {"from": floor, "limit": size, "offset": offset, "type": "incoming"}
        if unpaid:
            params["unpaid"] = True
        try:
            result = await self._client.request("list_transactions", params)
        except WalletError as error:
            if error.code == "unreachable":
                self._size = max(self._size // 2, _MIN_PAGE)
            raise
        listed, total = result.get("transactions"), result.get("total_count")
        if not isinstance(listed, list):
            raise WalletError("untrustworthy", "list_transactions: the wallet's list holds none")
        read: list[Transaction] = []
        sound = len(listed) <= _MAX_PAGE
        for raw in listed[:_MAX_PAGE]:
            try:
                read.append(Transaction.parse(raw))
            except InvalidAnswer as error:
                sound = False
                log.debug("wallet: a listed transaction cannot be read: %s", error)
        counted = total if type(total) is int and total >= 0 else None
        return Page(len(listed), tuple(read), sound, counted, len(listed) >= size)


@dataclass(slots=True)
class _Run:
    """One reading of the whole list since `floor`, as far as it has come."""

    floor: int
    offset: int = 0
    seen: set[str] = field(default_factory=set)
    last: tuple[Transaction, ...] = ()
    settled_only: bool = True
    began_with: int | None = None  # the total_count of the first page
    exact: bool = False  # its wallet's total_count is the number of what is there

    def take(self, page: Page) -> bool:
        """Note a page. Whether there was something new on it."""
        before = len(self.seen)
        for each in page.transactions:
            told = each.verdict
            self.settled_only &= told is InvoiceState.SETTLED
            # Marked by its hash alone: what is settled, or in a state that nobody has heard of.
            plain = told in (InvoiceState.SETTLED, InvoiceState.UNKNOWN) and each.direction == "incoming"
            self.seen.add(each.payment_hash if plain else f"{each.direction}, {told.value}: {each.payment_hash}")
        return len(self.seen) > before


class Settled:
    """The wallet's settled incoming transactions, as far as they are known here."""

    def __init__(self, pages: Pages, options: Options) -> None:
        self._pages, self._options = pages, options
        self._known: dict[str, Lookup] = {}
        self._whole: _Run | None = None  # the last that came to its end
        self._run: _Run | None = None  # under way
        self._whole_until = 0.0
        self._distrusted = False
        self._lock = asyncio.Lock()

    def distrust(self) -> None:
        """List everything again: pushes may have been missed."""
        self._distrusted = True

    def of(self, payment_hashes: Collection[str]) -> dict[str, Lookup]:
        """Those that were listed as settled. UNKNOWN: it was listed, and what was said contradicts itself, or has
        been forgotten."""
        # By whole sets: ten thousand open invoices, of which hardly any was listed, must not hold up everything else.
        asked = dict.fromkeys(payment_hashes, UNKNOWN).keys()
        found = {each: self._known[each] for each in asked & self._known.keys()}
        for run in (self._whole, self._run):
            if run is not None:
                found |= dict.fromkeys((asked & run.seen) - found.keys(), UNKNOWN)
        return found

    async def refresh(self, floor: int, relist: float) -> bool:
        """Ask what has been settled. Whether everything since `floor` (unix seconds) is now known, so that what
        is not among it is not settled. If not, the next call goes on. All is listed again after `relist`
        seconds. Raises WalletError."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            budget, current = self._options.pages, False
            if self._whole is not None and self._whole.floor <= floor:
                share = budget if self._run is None else max(budget // 4, 1)
                current, used = await self._from_the_newest(self._whole, share)
                budget -= used
            if self._run is not None and self._run.floor > floor:
                self._run = None  # it began too late
            if self._run is None and (not current or self._distrusted or now >= self._whole_until):
                self._run = _Run(floor)
                self._distrusted = False
            if self._run is not None and await self._go_on(self._run, budget):
                self._whole, self._run = self._run, None
                self._whole_until = now + relist
                current = True
            return current

    async def _from_the_newest(self, run: _Run, budget: int) -> tuple[bool, int]:
        """From the newest on to what is known. Whether that was reached, and the pages that it took."""
        offset = 0
        began_with: int | None = None
        last: tuple[Transaction, ...] = ()
        for used in range(1, budget + 1):
            page = await self._pages.ask(run.floor, offset)
            began_with = began_with if offset else page.total
            fresh = run.take(page)
            self._learn(page)
            offset += page.length
            if page.total is None or not run.settled_only:
                run.exact = False
            if run.exact and page.total == len(run.seen):
                return True, used
            if page.ends(offset):
                # Either it is counted otherwise, or something has settled meanwhile, on a page that was already read:
                # the next refresh searches for that.
                run.exact &= page.total != began_with
                return page.sound, used
            if not page.sound or page.transactions == last or len(run.seen) > _MAX_SEEN:
                return False, used
            if not run.exact and not fresh:
                return True, used
            last = page.transactions
        return False, budget

    async def _go_on(self, run: _Run, budget: int) -> bool:
        """The next slice of a whole reading. Whether it has come to its end, and can be relied upon."""
        for _ in range(budget):
            page = await self._pages.ask(run.floor, run.offset)
            if not run.offset:
                run.began_with = page.total
            run.take(page)
            self._learn(page)
            # What has settled meanwhile has only moved the rest further back: going on here misses nothing but that.
            run.offset += page.length
            ended, repeats = page.ends(run.offset), page.length and page.transactions == run.last
            if ended and page.sound:
                # A count that has changed meanwhile may be right all the same: the next refresh finds out.
                right = page.total == len(run.seen) or page.total != run.began_with
                run.exact = run.settled_only and page.total is not None and right
                return True
            if ended or repeats or not page.sound or len(run.seen) > _MAX_SEEN:
                self._run = None  # unreadable, or the wallet knows no offset: from the beginning next time
                return False
            run.last = page.transactions
        return False

    def _learn(self, page: Page) -> None:
        for each in page.transactions:
            if each.direction != "incoming" or each.verdict is not InvoiceState.SETTLED:
                continue
            try:
                lookup = each.received(each.payment_hash)
            except InvalidAnswer as error:
                log.warning("wallet: a listed settlement is not to be trusted: %s", error)
                continue
            self._known[each.payment_hash] = lookup
            if len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]


class Waiting:
    """Which hold invoices are accepted, or over: found by listing all that was made, a few pages at a time.

    The newest pages each time, where most of what waits is; the rest in turn.
    """

    def __init__(self, pages: Pages, options: Options) -> None:
        self._pages, self._options = pages, options
        self._offset = 0
        self._lock = asyncio.Lock()

    async def look(self, floor: int) -> dict[str, Transaction]:
        """What was said on the pages that were read now, by payment hash. Raises WalletError."""
        found: dict[str, Transaction] = {}
        async with self._lock:
            offset = 0
            last: tuple[Transaction, ...] = ()
            for number in range(self._options.held_pages):
                page = await self._pages.ask(floor, offset, unpaid=True)
                found |= {each.payment_hash: each for each in page.transactions if each.direction == "incoming"}
                offset += page.length
                if page.ends(offset) or page.transactions == last:
                    self._offset = 0
                    return found
                last = page.transactions
                if number == 0:
                    offset = max(offset, self._offset)
            self._offset = offset
        return found
