"""What a phoenixd has received, followed by listing it: a page or two a look, however many invoices are open.

phoenixd's list is of what was received in a span of its own clock, newest first. A look goes back a little
behind the newest payment that is known, so that one which was entered late is not passed over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, WalletError
from dvm.lightning.bolt11 import MAX_MSAT, InvalidInvoice, decode
from dvm.lightning.checks import hash_of, text_of
from dvm.lightning.rest import Rest

log = logging.getLogger(__name__)

SKEW = 86_400_000  # milliseconds by which phoenixd's clock may differ from ours
OVERLAP = 60_000  # milliseconds before the newest known payment from which a look begins
PAGE = 500  # payments; some 900 bytes each
PAGES = 400
_LATEST = (1 << 53) - 1  # a time that no clock shows: what was received "later" than now is listed as well
_DEEP = 3_600  # seconds until a clock that was put far back may have hidden something at most
_KEPT = 200_000
_NEWS = 10_000
_EXPIRY_MARGIN = 120  # seconds: what came in time may take a channel's opening to arrive
_PENDING = Lookup(InvoiceState.PENDING)


class Received:
    """The payments that have come in. `mark`: milliseconds of phoenixd's clock, of the newest known one."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._lock = asyncio.Lock()
        self._known: dict[str, Lookup] = {}  # settled, or UNKNOWN: paid, and it cannot be read how much
        self._covered: int | None = None  # everything received from then on is known, up to the last look
        self._due = 0.0  # when all that was asked about is listed anew
        self._news: deque[tuple[int, str]] = deque(maxlen=_NEWS)
        self.mark = _now() - SKEW
        self._told = self.mark - OVERLAP  # of what came before, the news was told by an earlier process

    def resume(self, mark: int) -> None:
        """Go on where an earlier process has stopped."""
        self.mark = mark
        self._told = mark - OVERLAP

    def news(self) -> list[str]:
        """What has come and was not told of, oldest first. What came within OVERLAP of where an earlier
        process stopped may be told again."""
        news = sorted(each for each in self._news if each[0] >= self._told)
        self._news.clear()
        return [payment_hash for _, payment_hash in news]

    def settled(self, payment_hash: str) -> bool:
        """Whether a look has found it paid."""
        return payment_hash in self._known

    async def look_up(self, payment_hash: str) -> Lookup:
        """One invoice. UNKNOWN where phoenixd cannot be asked, or does not know it."""
        if hash_of(payment_hash) is None:
            return UNKNOWN
        try:
            entry = await self._rest.get(f"/payments/incoming/{payment_hash}")
        except WalletError as error:
            log.debug("wallet: an invoice cannot be looked up: %s", error)
            return UNKNOWN
        if not isinstance(entry, dict) or entry.get("paymentHash") != payment_hash:
            log.warning("wallet: its answer about an invoice is about something else")
            return UNKNOWN
        return _read(entry)

    async def look_up_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        """Those that are not among what was received since are PENDING, if that could be listed."""
        wanted = dict.fromkeys(payment_hashes)
        if not wanted:
            return {}
        left = _PENDING
        try:
            await self.look(max(since * 1000 - SKEW, 0))
        except WalletError as error:
            log.debug("wallet: what was received cannot be listed: %s", error)
            left = UNKNOWN
        return {each: self._known.get(each, left) for each in wanted}

    async def look(self, since: int | None = None) -> None:
        """List what came since the last look, or since an earlier time (ms) that was not yet listed. Raises
        WalletError: what was learned until then is kept."""
        async with self._lock:
            self._forget()
            begin = max(min(self.mark, _now()) - OVERLAP, 0)  # a clock that was ahead may be put back
            if since is not None and (self._covered is None or since < self._covered or self._due < time.monotonic()):
                begin = min(begin, since)
                self._due = time.monotonic() + _DEEP
            newest = self.mark
            offset = 0
            for _ in range(PAGES):
                page = await self._page(begin, offset)
                for entry in page:
                    newest = max(newest, self._take(entry))
                offset += PAGE  # entries of another kind are left out of a page, and count
                if not page:
                    break
            else:
                raise WalletError("untrustworthy", "payments/incoming: a list without an end")
            self.mark = newest
            self._covered = begin if self._covered is None else min(self._covered, begin)

    async def _page(self, begin: int, offset: int) -> list[Any]:
        params = {"from": begin, "to": _LATEST, "limit": PAGE, "offset": offset}
        page = await self._rest.get("/payments/incoming", params)
        if not isinstance(page, list):
            raise WalletError("untrustworthy", "payments/incoming: no list")
        return page

    def _take(self, entry: object) -> int:
        """Note a listed payment; when it came."""
        if not isinstance(entry, dict) or (payment_hash := hash_of(entry.get("paymentHash"))) is None:
            log.debug("wallet: a listed payment cannot be read")
            return 0
        lookup = _read(entry)
        if lookup.state not in (InvoiceState.SETTLED, InvoiceState.UNKNOWN):
            return 0
        completed = _millis(entry.get("completedAt")) or 0
        before = self._known.get(payment_hash, UNKNOWN)
        self._known[payment_hash] = lookup
        if lookup.state is InvoiceState.SETTLED and before.state is InvoiceState.UNKNOWN:
            self._news.append((completed, payment_hash))
        return completed

    def _forget(self) -> None:
        """Keep the newest; what is older is listed again if it is asked about."""
        if len(self._known) > _KEPT:
            oldest = sorted(self._known, key=lambda each: self._known[each].settled_at or 0)[: _KEPT // 10]
            for payment_hash in oldest:
                self._covered = ((self._known.pop(payment_hash).settled_at or 0) + 1) * 1000
            self._told = max(self._told, self._covered or 0)  # listed again, they are no news


def _read(entry: Mapping[str, Any]) -> Lookup:
    """A payment of phoenixd's. SETTLED with what the payer paid: see `phoenixd.PhoenixdWallet`."""
    completed = _millis(entry.get("completedAt"))
    if entry.get("isPaid") is True:
        msat = _paid(entry)
        if msat is None:
            log.warning("wallet: a received payment whose amount cannot be read")
            return UNKNOWN
        return Lookup(InvoiceState.SETTLED, msat, None if completed is None else completed // 1000)
    if entry.get("isPaid") is not False:
        return UNKNOWN
    expires = _millis(entry.get("expiresAt"))
    if entry.get("isExpired") is True and expires is not None and time.time() > expires / 1000 + _EXPIRY_MARGIN:
        return Lookup(InvoiceState.FAILED)
    return _PENDING


def _paid(entry: Mapping[str, Any]) -> int | None:
    """What the payer paid, in msat: `receivedSat` is what is left of it after phoenixd's fees for liquidity,
    which may come to more than it, cut to whole sats. No payment below the invoice's amount is accepted."""
    received, fees, asked = entry.get("receivedSat"), entry.get("fees"), entry.get("requestedSat")
    if type(received) is not int or type(fees) is not int or fees < 0:
        return None
    if type(asked) is not int and entry.get("invoice") is not None:  # an older version
        try:
            asked = (decode(text_of(entry["invoice"])).msat or 0) // 1000
        except InvalidInvoice:
            return None
    msat = max(received * 1000 + fees, asked * 1000 if type(asked) is int else 0)
    return msat if 0 < msat <= MAX_MSAT else None


def _millis(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _LATEST else None


def _now() -> int:
    return int(time.time() * 1000)
