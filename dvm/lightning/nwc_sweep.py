"""Which of our invoices are settled or held: asked of a NIP-47 wallet one by one, or of many in few requests.

What many cost does not depend on how many are open (money.md, case 28): a look at the newest settlements, a
bounded slice of the list when all is listed again, a few pages of what is unpaid where hold invoices may be
among those asked for, and a few single look-ups.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import replace

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, WalletError
from dvm.lightning.nip47 import InvalidAnswer, Service, Transaction
from dvm.lightning.nwc_client import NwcClient, Options
from dvm.lightning.nwc_listing import Pages, Settled, Waiting

log = logging.getLogger(__name__)

_SKEW = 300  # seconds by which the wallet's clock may differ from the one that `since` was taken from
_HEIGHT_AGE = 5.0  # seconds for which a block height counts
_PUSHLESS_RELIST = 60.0  # seconds at most between two complete lists of a wallet that does not push
_MAX_HELD = 1_000  # accepted hold invoices remembered
_PENDING = Lookup(InvoiceState.PENDING)


class Sweep:
    """Look-ups. None raises: a wallet that cannot be asked, or answers nonsense, is UNKNOWN."""

    def __init__(self, client: NwcClient, options: Options) -> None:
        self._client, self._options = client, options
        pages = Pages(client, options)
        self._settled, self._waiting = Settled(pages, options), Waiting(pages, options)
        self._held: dict[str, Lookup] = {}  # as they were last told, longest ago first
        self._turn = 0  # whose turn it is to be looked up singly
        self._height: tuple[float, int | None] = (0.0, None)
        self._asking_height = asyncio.Lock()

    def distrust(self) -> None:
        """Pushes may have been missed: list everything again."""
        self._settled.distrust()

    async def look_up(self, payment_hash: str) -> Lookup:
        """`lookup_invoice`."""
        try:
            told = Transaction.parse(await self._client.request("lookup_invoice", {"payment_hash": payment_hash}))
            return await self._received(told, payment_hash)
        except InvalidAnswer as error:
            log.warning("wallet: its answer about an invoice is not to be trusted: %s", error)
        except WalletError as error:
            log.debug("wallet: an invoice cannot be looked up: %s", error)
        return UNKNOWN

    async def look_up_many(
        self, payment_hashes: Collection[str], since: int, may_wait: Collection[str]
    ) -> dict[str, Lookup]:
        """By listing, and single look-ups for a few of those that this leaves open. `may_wait`: those that may
        be hold invoices.

        What is not among a complete listing is PENDING; if the listing had to stop, it is UNKNOWN, and the next
        call goes on. An accepted hold invoice that was found by an earlier call is told as it was then, if there
        are more of them than may be looked up singly.
        """
        wanted = dict.fromkeys(payment_hashes)
        found = self._settled.of(wanted)
        if len(found) == len(wanted) and UNKNOWN not in found.values():
            return found
        service = await self._client.service()
        complete = await self._refresh(service, max(since - _SKEW, 0))
        found = dict.fromkeys(wanted, _PENDING if complete else UNKNOWN) | self._settled.of(wanted)
        if may_wait and service is not None and {"make_hold_invoice", "list_transactions"} <= service.methods:
            await self._look_for_held(found, max(since - _SKEW, 0))
        left = self._options.lookups - await self._look_again_at_held(found)
        unknown = [each for each, lookup in found.items() if lookup is UNKNOWN]
        if unknown and left > 0:
            start = self._turn % len(unknown)
            turn = (unknown[start:] + unknown[:start])[:left]
            self._turn = start + len(turn)
            found.update(zip(turn, await asyncio.gather(*map(self.look_up, turn)), strict=True))
        self._remember_held(found)
        return found

    async def _refresh(self, service: Service | None, floor: int) -> bool:
        if service is not None and "list_transactions" not in service.methods:
            return False
        pushes = service is not None and "payment_received" in service.notifications
        try:
            return await self._settled.refresh(
                floor, self._options.relist if pushes else min(self._options.relist, _PUSHLESS_RELIST)
            )
        except WalletError as error:
            log.debug("wallet: transactions cannot be listed: %s", error)
            return False

    async def _look_for_held(self, found: dict[str, Lookup], floor: int) -> None:
        try:
            listed = await self._waiting.look(floor)
        except WalletError as error:
            log.debug("wallet: unpaid invoices cannot be listed: %s", error)
            return
        for payment_hash, told in listed.items():
            if payment_hash not in found or found[payment_hash].state is InvoiceState.SETTLED:
                continue
            try:
                lookup = await self._received(told, payment_hash)
            except InvalidAnswer as error:
                log.warning("wallet: a listed invoice is not to be trusted: %s", error)
                continue
            self._held.pop(payment_hash, None)
            if lookup.state is not InvoiceState.PENDING:
                found[payment_hash] = lookup

    async def _look_again_at_held(self, found: dict[str, Lookup]) -> int:
        """Those that were held when last told, and are not told now. The look-ups that it took."""
        open_ = [each for each in self._held if each in found and found[each].state is not InvoiceState.SETTLED]
        turn = open_[: self._options.lookups]
        for each in open_[self._options.lookups :]:
            found[each] = self._held[each]
        for each, lookup in zip(turn, await asyncio.gather(*map(self.look_up, turn)), strict=True):
            found[each] = lookup
            was = self._held.pop(each)
            if lookup is UNKNOWN:
                self._held[each] = was  # to be asked about again
        return len(turn)

    def _remember_held(self, found: dict[str, Lookup]) -> None:
        told = {each: lookup for each, lookup in found.items() if lookup is not _PENDING or each in self._held}
        for each, lookup in told.items():
            if lookup.state is InvoiceState.HELD and self._held.get(each) is not lookup:
                self._held.pop(each, None)  # news: to the end of the queue
                self._held[each] = lookup
            elif lookup.state not in (InvoiceState.HELD, InvoiceState.UNKNOWN):
                self._held.pop(each, None)
        while len(self._held) > _MAX_HELD:
            del self._held[next(iter(self._held))]

    async def _received(self, told: Transaction, payment_hash: str) -> Lookup:
        """What it says, with the blocks that are left where it is held. Raises InvalidAnswer."""
        lookup = told.received(payment_hash)
        if lookup.state is InvoiceState.HELD and told.settle_deadline:
            height = await self._block_height()
            if height is not None:
                return replace(lookup, blocks_left=max(told.settle_deadline - height, 0))
        return lookup

    async def _block_height(self) -> int | None:
        """`block_height` of `get_info`, None if the wallet does not tell; asked for once in a few seconds."""
        async with self._asking_height:
            now = asyncio.get_running_loop().time()
            if now >= self._height[0]:
                try:
                    height = (await self._client.request("get_info", {})).get("block_height")
                except WalletError as error:
                    log.debug("wallet: its block height cannot be learned: %s", error)
                    height = None
                self._height = (now + _HEIGHT_AGE, height if type(height) is int and height > 0 else None)
            return self._height[1]
