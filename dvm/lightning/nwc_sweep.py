"""Which of our invoices are settled: asked of a NIP-47 wallet one by one, or of many in few requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass, field

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, WalletError
from dvm.lightning.nip47 import InvalidAnswer, Transaction
from dvm.lightning.nwc_client import NwcClient, Options

log = logging.getLogger(__name__)

_SKEW = 300  # seconds by which the wallet's clock may differ from the one that `since` was taken from
_MIN_PAGE = 5
_PENDING = Lookup(InvoiceState.PENDING)


@dataclass(slots=True)
class _Listing:
    """Settled incoming transactions, as far as the wallet has told them."""

    found: dict[str, Lookup] = field(default_factory=dict)
    complete: bool = False


class Sweep:
    """Look-ups. None raises: a wallet that cannot be asked, or answers nonsense, is UNKNOWN."""

    def __init__(self, client: NwcClient, options: Options) -> None:
        self._client, self._options = client, options
        self._offset = 0  # where the last listing had to stop
        self._turn = 0  # whose turn it is to be looked up singly
        self._page = options.page

    async def look_up(self, payment_hash: str) -> Lookup:
        """`lookup_invoice`."""
        try:
            result = await self._client.request("lookup_invoice", {"payment_hash": payment_hash})
            return Transaction.parse(result).received(payment_hash)
        except InvalidAnswer as error:
            log.warning("wallet: its answer about an invoice is not to be trusted: %s", error)
        except WalletError as error:
            log.debug("wallet: an invoice cannot be looked up: %s", error)
        return UNKNOWN

    async def look_up_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        """By listing what was settled since, and single look-ups for a few of those that this leaves open.

        So a thousand unpaid invoices cost a handful of requests (money.md, case 28). What is not among a
        complete listing is PENDING; if the listing had to stop, it is UNKNOWN, and the next call goes on.
        """
        wanted = list(dict.fromkeys(payment_hashes))
        if not wanted:
            return {}
        listing = await self._list(set(wanted), since)
        found = {payment_hash: listing.found.get(payment_hash, UNKNOWN) for payment_hash in wanted}
        left = [payment_hash for payment_hash in wanted if payment_hash not in listing.found]
        if listing.complete:
            return found | dict.fromkeys(left, _PENDING)
        if left:
            start = self._turn % len(left)
            turn = (left[start:] + left[:start])[: self._options.lookups]
            self._turn = start + len(turn)
            looked_up = await asyncio.gather(*(self.look_up(payment_hash) for payment_hash in turn))
            found.update(zip(turn, looked_up, strict=True))
        return found

    async def _list(self, wanted: set[str], since: int) -> _Listing:
        """Page through `list_transactions`, newest first; on from where the last listing had to stop.

        It ends with an empty page or at the `total_count` that some wallets give: a page may be short
        because the wallet's own limit, or the size of an event, has cut it.
        """
        listing = _Listing()
        service = await self._client.service()
        if service is not None and "list_transactions" not in service.methods:
            return listing
        seen: set[str] = set()
        offset, resume = 0, self._offset
        sound = not resume
        for _ in range(self._options.pages):
            params: dict[str, object] = {
                "from": max(since - _SKEW, 0),
                "limit": self._page,
                "offset": offset,
                "type": "incoming",
            }
            try:
                result = await self._client.request("list_transactions", params)
            except WalletError as error:
                if error.code == "unreachable":  # perhaps the page was larger than a relay's largest event
                    self._page = max(self._page // 2, _MIN_PAGE)
                log.debug("wallet: transactions cannot be listed: %s", error)
                return listing
            page, total = result.get("transactions"), result.get("total_count")
            if not isinstance(page, list):
                log.warning("wallet: a list of transactions that holds none")
                return listing
            before = len(seen)
            for raw in page[:1_000]:
                sound &= self._take(raw, wanted, seen, listing)
            offset += len(page)
            if not page or (type(total) is int and offset >= total) or len(listing.found) == len(wanted):
                self._offset = 0
                listing.complete = sound
                return listing
            if len(seen) == before:  # the wallet repeats itself: it knows no offset
                self._offset = 0
                return listing
            # What has settled since has only moved the rest further back: going on there misses nothing.
            offset, resume = max(offset, resume), 0
        self._offset = offset
        return listing

    @staticmethod
    def _take(raw: object, wanted: set[str], seen: set[str], listing: _Listing) -> bool:
        """Note one listed transaction. False: it cannot be read, and might be one of those asked for."""
        try:
            transaction = Transaction.parse(raw)
            payment_hash = transaction.payment_hash
            seen.add(payment_hash)
            if payment_hash in wanted:
                lookup = transaction.received(payment_hash)
                if lookup.state is not InvoiceState.UNKNOWN:
                    listing.found[payment_hash] = lookup
                    return True
                return False
        except InvalidAnswer as error:
            log.debug("wallet: a listed transaction cannot be read: %s", error)
            return False
        return True
