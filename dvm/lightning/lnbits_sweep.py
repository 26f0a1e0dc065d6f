"""Which of our invoices are settled: asked of LNbits one by one, or of all in the pages of one list.

LNbits lists what has settled by the time at which it did (`status=success`, sorted by `updated_at`), so what
is unpaid costs nothing, and what was listed before is not listed again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, Payment, WalletError
from dvm.lightning.checks import hash_of, text_of
from dvm.lightning.lnbits_rows import InvalidRow, Row
from dvm.lightning.rest import Refused, Rest

log = logging.getLogger(__name__)

PAYMENTS = "/api/v1/payments"
PAGE = 500  # payments; LNbits gives at most 1,000
MAX_PAGES = 2_000  # of one listing
LOOKUPS = 5  # single ones beside each listing: see `look_up_many`
# Seconds of what was listed already that are listed again: rows are written a little out of order, and
# LNbits' clock may be set back. Now and then that is a whole day.
OVERLAP = 600
DEEP_OVERLAP = 86_400
DEEP_EVERY = 60  # listings
_REMEMBERED = 100_000
_PENDING = Lookup(InvoiceState.PENDING)


@dataclass(slots=True)
class _Listing:
    """Settled incoming payments, newest first, as far as they were told. `newest`: by LNbits' clock."""

    found: dict[str, Lookup] = field(default_factory=dict)
    newest: float | None = None
    complete: bool = False
    asked: bool = True  # False: LNbits did not answer


class Sweep:
    """Look-ups. None raises: a wallet that cannot be asked, or answers nonsense, is UNKNOWN."""

    def __init__(self, rest: Rest, *, page: int = PAGE, lookups: int = LOOKUPS) -> None:
        self._rest, self._page, self._lookups = rest, page, lookups
        # Until when, by LNbits' clock, an invoice is known to be unsettled.
        self._clear: dict[str, float] = {}
        self._mark: float | None = None  # until when everything has been listed
        self._listings = 0
        self._turn = 0  # whose turn it is to be looked up singly

    def made(self, payment_hash: str) -> None:
        """A new invoice: it cannot have settled before the last listing."""
        if self._mark is not None:
            self._clear[payment_hash] = self._mark
            self._forget()

    async def look_up(self, payment_hash: str) -> Lookup:
        """By `GET /api/v1/payments/<hash>`, for which LNbits asks its own node."""
        row = await self._row(payment_hash, incoming=True)
        found = row.received() if isinstance(row, Row) else UNKNOWN
        if found.state is InvoiceState.SETTLED:
            self._clear.pop(payment_hash, None)
        return found

    async def payment(self, payment_hash: str) -> Payment:
        """What became of an outgoing payment."""
        row = await self._row(payment_hash, incoming=False)
        if isinstance(row, Row):
            return row.paid()
        return Payment(InvoiceState.UNKNOWN, known=row)

    async def look_up_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        """By listing what has settled, and single look-ups for a few of those that this leaves open.

        So ten thousand unpaid invoices cost as many calls as ten (money.md, case 28). The single look-ups go
        round, since LNbits may have missed that its node was paid: it asks the node when it is asked itself.
        What is not among a complete listing is PENDING, among a broken one UNKNOWN.
        """
        wanted = list(dict.fromkeys(payment_hashes))
        if not wanted:
            return {}
        self._listings += 1
        overlap = DEEP_OVERLAP if self._listings % DEEP_EVERY == 0 else OVERLAP
        begin = since - DEEP_OVERLAP  # our clock, not LNbits': a day for the difference
        floor = min(self._clear[each] - overlap if each in self._clear else begin for each in wanted)
        listing = await self._list(floor, set(wanted))
        otherwise = _PENDING if listing.complete else UNKNOWN
        found = {each: listing.found.get(each, otherwise) for each in wanted}
        left = [each for each in wanted if each not in listing.found]
        for each in listing.found:
            self._clear.pop(each, None)
        if listing.complete and self._mark is not None:
            self._clear.update(dict.fromkeys(left, self._mark))
            self._forget()
        if left and listing.asked:
            start = self._turn % len(left)
            turn = (left[start:] + left[:start])[: self._lookups]
            self._turn = start + len(turn)
            looked_up = zip(turn, await asyncio.gather(*map(self.look_up, turn)), strict=True)
            found |= {each: lookup for each, lookup in looked_up if lookup is not UNKNOWN}
        return found

    async def settled_since(self, place: float) -> tuple[list[str], float | None]:
        """The hashes of what has settled since then, oldest first, and the place to go on from: None where
        LNbits did not tell all of it."""
        listing = await self._list(place - OVERLAP, None)
        onward = place if listing.newest is None else min(listing.newest, time.time())
        return list(reversed(listing.found)), onward if listing.complete else None

    async def _list(self, floor: float, wanted: set[str] | None) -> _Listing:
        """Page through what has settled, newest first, down to `floor` (by LNbits' clock), or until all that
        is wanted was found. `wanted` None: everything is."""
        listing = _Listing()
        offset, last, ordered, sound = 0, float("inf"), True, True
        for _ in range(MAX_PAGES):
            params = {
                "status": "success",
                "amount[gt]": 0,
                "sortby": "updated_at",
                "direction": "desc",
                "limit": self._page,
                "offset": offset,
            }
            try:
                told = await self._rest.get(f"{PAYMENTS}/paginated", params)
            except WalletError as error:
                log.debug("wallet: payments cannot be listed: %s", error)
                listing.asked = error.code != "unreachable"
                return listing
            rows, total = (told.get("data"), told.get("total")) if isinstance(told, dict) else (None, None)
            if not isinstance(rows, list):
                log.warning("wallet: a list of payments that holds none")
                return listing
            for raw in rows[: self._page]:
                row = _row_of(raw)
                if row is None:
                    sound &= not _may_be(raw, wanted)
                if row is None or row.state is not InvoiceState.SETTLED or row.msat <= 0:
                    continue  # unreadable; or of a version that does not know the filter
                if wanted is None or row.payment_hash in wanted:
                    listing.found.setdefault(row.payment_hash, row.received())
                if row.changed_at is None:
                    ordered = False
                    continue
                ordered &= row.changed_at <= last
                last = row.changed_at
                listing.newest = max(listing.newest or 0.0, last)
            offset += len(rows)
            ended = not rows or (type(total) is int and offset >= total) or (ordered and last < floor)
            if ended or (wanted is not None and len(listing.found) == len(wanted)):
                listing.complete = sound
                if sound and listing.newest is not None:
                    # A clock of LNbits' that is ahead must not hide what settles once it is set right.
                    self._mark = min(listing.newest, time.time())
                return listing
        log.warning("wallet: more payments than can be listed", extra={"payments": offset})
        return listing

    async def _row(self, payment_hash: str, *, incoming: bool) -> Row | bool:
        """The payment with that hash, in that direction; else whether it may exist all the same."""
        if hash_of(payment_hash) is None:
            return False
        try:
            told = await self._rest.get(f"{PAYMENTS}/{payment_hash}")
            # Without details, it is the payment of another wallet of this LNbits, or our key is none.
            details = told.get("details") if isinstance(told, dict) else None
            if details is None:
                log.debug("wallet: LNbits does not take a payment for this wallet's: is DVM_LNBITS_KEY right?")
                return True
            row = Row.parse(details)
            if told.get("paid") is not (row.state is InvoiceState.SETTLED):
                raise InvalidRow("paid, and not settled")
            if row.payment_hash == payment_hash and (row.msat > 0) is incoming:
                return row
            # A payment from this wallet to itself is two rows under one hash.
            told = await self._rest.get(f"{PAYMENTS}/paginated", {"payment_hash": payment_hash, "limit": 10})
            listed = told.get("data") if isinstance(told, dict) else None
            if not isinstance(listed, list):
                raise InvalidRow("a list that holds none")
            rows = [Row.parse(raw) for raw in listed[:10]]
            same = [each for each in rows if each.payment_hash == payment_hash]
            if not same:
                raise InvalidRow("another payment than the one asked for")
            return next((each for each in same if (each.msat > 0) is incoming), False)
        except InvalidRow as error:
            log.warning("wallet: its answer about a payment is not to be trusted: %s", error)
        except Refused as error:
            if error.status == 404 and "payment" in text_of(error.body.get("detail")).lower():
                return False
            log.debug("wallet: a payment cannot be looked up: %s", error)
        except WalletError as error:
            log.debug("wallet: a payment cannot be looked up: %s", error)
        return True

    def _forget(self) -> None:
        """Not for ever: what is forgotten only costs a longer listing."""
        while len(self._clear) > _REMEMBERED:
            del self._clear[next(iter(self._clear))]


def _row_of(raw: object) -> Row | None:
    try:
        return Row.parse(raw)
    except InvalidRow as error:
        log.debug("wallet: a listed payment cannot be read: %s", error)
        return None


def _may_be(raw: object, wanted: set[str] | None) -> bool:
    """Whether what cannot be read may be one of those asked for; some top-ups have a name instead of a hash."""
    named = raw.get("payment_hash") if isinstance(raw, dict) else None
    return not isinstance(named, str) or (wanted is not None and named in wanted)
