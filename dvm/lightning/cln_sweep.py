"""Which of our invoices a CLN node has settled: one by one, or many in a few calls.

lightningd counts the changes of its invoices (`updated_index`), so what has changed since the last look is a
page, usually an empty one, however many invoices are open: ten thousand cost what ten cost. Only what is asked
about for the first time is searched for among the invoices made since, a page at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, WalletError
from dvm.lightning.bolt11 import InvalidInvoice, decode
from dvm.lightning.checks import hash_of, text_of
from dvm.lightning.cln_rpc import Rpc, index_of, msat_of, time_of

log = logging.getLogger(__name__)

PAGE = 500  # invoices; some 800 bytes each, a zap's several thousand
PAGES = 200  # in one search
SINGLES = 8  # looked up one by one in a call
_MIN_PAGE = 10
_SKEW = 86_400  # seconds by which the node's clock may differ from the one that `since` was taken from
_KEPT = 100_000  # changes and open invoices that are remembered
_PENDING = Lookup(InvoiceState.PENDING)


class Sweep:
    """Look-ups. None raises: a node that cannot be asked, or answers nonsense, is UNKNOWN."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._lock = asyncio.Lock()
        self._seen: int | None = None  # the updated_index up to which changes are known
        self._changed: dict[str, Lookup] = {}  # settled or expired, as told since
        self._open: dict[str, None] = {}  # not changed up to `_seen`
        self._missing: set[str] = set()  # searched for in vain
        self._turn = 0  # whose turn it is to be looked up singly
        self._page = PAGE

    def made(self, payment_hash: str) -> None:
        """An invoice that was just made: it is open, and its change is yet to come."""
        if self._seen is not None:
            self._note(self._open, payment_hash, None)

    async def look_up(self, payment_hash: str) -> Lookup:
        """`listinvoices` of one."""
        if hash_of(payment_hash) is None:
            return UNKNOWN
        try:
            told = await self._rpc.call("listinvoices", {"payment_hash": payment_hash})
        except WalletError as error:
            log.debug("wallet: an invoice cannot be looked up: %s", error)
            return UNKNOWN
        for entry in _entries(told):
            if entry.get("payment_hash") == payment_hash:
                return _read(entry)
        return UNKNOWN

    async def look_up_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        """By what has changed since the last call, and a search for those that are new to it."""
        wanted = dict.fromkeys(payment_hashes)
        if not wanted:
            return {}
        async with self._lock:
            try:
                complete = await self._follow()
                await self._learn(wanted, since)
            except WalletError as error:
                log.debug("wallet: invoices cannot be listed: %s", error)
                if error.code in ("unauthorized", "restricted", "unsupported"):
                    log.warning("wallet: its invoices cannot be reconciled: %s", error)
                complete = False
            pending = _PENDING if complete else UNKNOWN
            found = {}
            for each in wanted:
                found[each] = self._changed.get(each) or (pending if each in self._open else UNKNOWN)
            return found

    async def _follow(self) -> bool:
        """Note what has changed since the last time; whether that is all of it. Raises WalletError."""
        if self._seen is None:
            self._seen = await self._last("updated")
            return True
        for _ in range(PAGES):
            before = self._seen
            entries, full = await self._list("updated", before + 1)
            for entry in entries:
                self._take(entry)
                self._seen = max(self._seen, index_of(entry.get("updated_index")) or 0)
            if not full:
                return True
            if self._seen == before:
                raise WalletError("untrustworthy", "listinvoices: changes without their index")
        return False

    async def _learn(self, wanted: dict[str, None], since: int) -> None:
        """Find those that were never heard of. Raises WalletError."""
        self._missing &= wanted.keys()
        new = {each for each in wanted if not self._known(each)} - self._missing
        if len(new) > SINGLES:
            await self._search(new, since)
            self._missing |= {each for each in new if not self._known(each)}
        missing = [each for each in wanted if each in self._missing]
        start = self._turn % max(len(missing), 1)
        turn = [each for each in new if not self._known(each) and each not in self._missing]
        turn = [*turn, *missing[start:], *missing[:start]][:SINGLES]
        self._turn = start + len(turn)
        for each, lookup in zip(turn, await asyncio.gather(*map(self.look_up, turn)), strict=True):
            if lookup.state is InvoiceState.PENDING:
                self._note(self._open, each, None)
            elif lookup.state is not InvoiceState.UNKNOWN:
                self._note(self._changed, each, lookup)

    async def _search(self, wanted: set[str], since: int) -> None:
        """Backwards through the invoices made since, until all are found. Raises WalletError."""
        top = await self._last("created") + 1
        for _ in range(PAGES):
            start = max(top - self._page, 1)
            entries, _ = await self._list("created", start)
            for entry in entries:
                payment_hash = self._take(entry)
                if payment_hash in wanted and entry.get("status") == "unpaid":
                    self._note(self._open, payment_hash, None)
            top = start
            if start == 1 or all(map(self._known, wanted)) or _before(entries, since - _SKEW):
                return
        log.warning("wallet: more invoices than %d pages: the oldest are looked up one by one", PAGES)

    def _known(self, payment_hash: str) -> bool:
        return payment_hash in self._changed or payment_hash in self._open

    def _take(self, entry: dict[str, Any]) -> str:
        """Note an entry that has changed; its payment hash."""
        payment_hash = hash_of(entry.get("payment_hash")) or ""
        lookup = _read(entry)
        if payment_hash and lookup.state in (InvoiceState.SETTLED, InvoiceState.FAILED):
            self._open.pop(payment_hash, None)
            self._note(self._changed, payment_hash, lookup)
        elif payment_hash and lookup.state is InvoiceState.UNKNOWN:
            self._open.pop(payment_hash, None)  # changed, and cannot be read: not known to be open any more
        return payment_hash

    async def _last(self, index: str) -> int:
        told = await self._rpc.call("wait", {"subsystem": "invoices", "indexname": index, "nextvalue": 0})
        last = told.get(index)
        if type(last) is not int or last < 0:
            raise WalletError("untrustworthy", "wait: an answer without its index")
        return last

    async def _list(self, index: str, start: int) -> tuple[list[dict[str, Any]], bool]:
        """A page in the order of that index, and whether it is a full one. Raises WalletError."""
        while True:
            limit = self._page
            try:
                told = await self._rpc.call("listinvoices", {"index": index, "start": start, "limit": limit})
            except WalletError as error:
                if error.code != "untrustworthy" or limit <= _MIN_PAGE:
                    raise
                self._page = max(limit // 2, _MIN_PAGE)  # perhaps it was larger than what is read
                continue
            if not isinstance(told.get("invoices"), list):
                raise WalletError("untrustworthy", "listinvoices: an answer without invoices")
            entries = _entries(told)
            return entries, len(entries) >= limit

    @staticmethod
    def _note(kept: dict[str, Any], payment_hash: str, what: Lookup | None) -> None:
        kept[payment_hash] = what
        if len(kept) > _KEPT:  # what is asked about again is searched for again
            del kept[next(iter(kept))]


def _entries(told: dict[str, Any]) -> list[dict[str, Any]]:
    invoices = told.get("invoices")
    return [entry for entry in invoices if isinstance(entry, dict)] if isinstance(invoices, list) else []


def _read(entry: dict[str, Any]) -> Lookup:
    """An entry of `listinvoices`. UNKNOWN for one that cannot be read."""
    match entry.get("status"):
        case "unpaid":
            return _PENDING
        case "expired":
            return Lookup(InvoiceState.FAILED)
        case "paid":
            msat = msat_of(entry.get("amount_received_msat"))
            if msat is None:
                log.warning("wallet: a paid invoice whose amount cannot be read")
                return UNKNOWN
            return Lookup(InvoiceState.SETTLED, msat, time_of(entry.get("paid_at")))
    return UNKNOWN


def _before(entries: list[dict[str, Any]], moment: int) -> bool:
    """Whether the page begins before that moment."""
    for entry in entries:
        try:
            return decode(text_of(entry.get("bolt11"))).created_at < moment
        except InvalidInvoice:  # a BOLT 12 one
            continue
    return False
