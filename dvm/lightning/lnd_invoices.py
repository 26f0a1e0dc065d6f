"""LND's invoices, read with distrust, and looked up: one, or many in a number of calls that does not grow with them.

`Lookups.many` reads LND's invoices in pages, newest first, in rounds. A round that is longer than a call's share is
gone on with by the next call, so ten thousand unpaid invoices cost a sweep as many calls as ten (money.md, case 28).
What was seen open stays PENDING until its page comes round again or the stream tells of it. While the stream is away
or an invoice was never seen, a call reads as many pages as it takes, up to a limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dvm.lightning.base import UNKNOWN, InvoiceState, Lookup, WalletError
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.checks import text_of
from dvm.lightning.lnd_client import LndClient, hex32, is_unknown_thing, number

log = logging.getLogger(__name__)

PAGE = 1_000  # invoices a call: two kilobytes each
_PAGES = 16  # a call, where something was never seen or the stream is away
_SINGLY = 64  # a call: told of, or held
_STRANGE = 5  # a call: those that no listing has
_SKEW = 300  # seconds by which LND's clock may differ from the one that `since` was taken from
_REMEMBERED = 50_000  # invoices: some ten megabytes
# LND cancels an accepted hold invoice that many blocks before its first HTLC times out, so as not to have to close
# the channel (its setting invoices.holdexpirydelta).
EXPIRY_DELTA = 12

_STATES: Mapping[str, InvoiceState] = {
    "OPEN": InvoiceState.PENDING,
    "ACCEPTED": InvoiceState.HELD,
    "SETTLED": InvoiceState.SETTLED,
    "CANCELED": InvoiceState.FAILED,
}
_FINAL = (InvoiceState.SETTLED, InvoiceState.FAILED)
_PENDING = Lookup(InvoiceState.PENDING)


@dataclass(frozen=True, slots=True)
class LndInvoice:
    """One of LND's invoices. `expiry_height`: when HELD, the block in which its first HTLC times out. `hold`: it
    is a hold invoice, whose preimage LND has not got. `add_index`, `settle_index`: its places in LND's books."""

    payment_hash: str
    lookup: Lookup
    add_index: int
    settle_index: int
    created_at: int
    expires_at: int
    hold: bool
    expiry_height: int | None = None

    @classmethod
    def parse(cls, raw: object) -> LndInvoice:
        """From LND's JSON. Raises WalletError `untrustworthy`."""
        if not isinstance(raw, dict):
            raise WalletError("untrustworthy", "lnd's invoice is none")
        state = _STATES.get(text_of(raw.get("state")))
        if state is None:
            raise WalletError("untrustworthy", "lnd's invoice is in a state that there is not")
        created_at = number(raw, "creation_date", 1 << 40)
        invoice = cls(
            payment_hash=hex32(raw, "r_hash"),
            lookup=Lookup(state),
            add_index=number(raw, "add_index"),
            settle_index=number(raw, "settle_index"),
            created_at=created_at,
            expires_at=created_at + number(raw, "expiry", 1 << 40),
            hold=not raw.get("r_preimage"),
        )
        if state is InvoiceState.SETTLED:
            msat = number(raw, "amt_paid_msat", MAX_MSAT)
            if msat == 0:
                raise WalletError("untrustworthy", "lnd's invoice is settled with nothing")
            return replace(invoice, lookup=Lookup(state, msat, number(raw, "settle_date", 1 << 40) or None))
        if state is InvoiceState.HELD:
            msat, height = _accepted(raw)
            return replace(invoice, lookup=Lookup(state, msat), expiry_height=height)
        return invoice


class Lookups:
    """Look-ups. None raises: a wallet that cannot be asked, or answers nonsense, is UNKNOWN."""

    def __init__(self, client: LndClient, seen: Callable[[LndInvoice], None], *, page: int = PAGE) -> None:
        """`seen` is called with each invoice that was asked for and is told of."""
        self._client, self._on_seen, self._page = client, seen, page
        self._seen: dict[str, Lookup] = {}
        self._told: dict[str, None] = {}  # by a push, and not yet seen final
        self._absent: set[str] = set()  # what a whole round has not found: deleted, or never there
        self._offset = 0  # where this round goes on; 0 is at the newest
        self._sought: set[str] = set()  # since this round began, and not yet seen
        self._turn = 0  # whose turn it is to be asked for by name

    def made(self, payment_hash: str) -> None:
        """An invoice of ours is new: open, until something else is seen."""
        self._remember(payment_hash, _PENDING)

    def tell(self, payment_hash: str) -> None:
        """A push: this one is looked at first."""
        self._told[payment_hash] = None
        if len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]

    async def one(self, payment_hash: str) -> Lookup:
        """The state of one invoice."""
        invoice = await self._fetch(payment_hash)
        if invoice is None:
            return UNKNOWN
        height = await self._height() if invoice.expiry_height is not None else None
        return self._note(invoice, height)

    async def many(self, payment_hashes: Collection[str], since: int, *, live: bool) -> dict[str, Lookup]:
        """The states of many. `live`: the stream tells of what settles, so that a share of a round is enough."""
        wanted = list(dict.fromkeys(payment_hashes))
        found = {key: self._seen[key] for key in wanted if key in self._seen and self._seen[key].state in _FINAL}
        left = {key for key in wanted if key not in found}
        if not left:
            return found
        fresh = await self._singly([key for key in wanted if key in left and self._is_urgent(key)])
        try:
            fresh |= await self._listed(left - fresh.keys(), since, live)
        except WalletError as error:
            log.debug("wallet: invoices cannot be listed: %s", error)
            return dict.fromkeys(wanted, UNKNOWN) | fresh | found
        for key in wanted:
            if key not in found:
                known = self._seen.get(key, UNKNOWN)
                # Held as seen some time ago says nothing of the blocks that are left now.
                found[key] = fresh.get(key, known if known.state is InvoiceState.PENDING else UNKNOWN)
        return found

    # --- within ----------------------------------------------------------------------------------------

    def _is_urgent(self, payment_hash: str) -> bool:
        known = self._seen.get(payment_hash)
        return payment_hash in self._told or (known is not None and known.state is InvoiceState.HELD)

    async def _singly(self, payment_hashes: list[str]) -> dict[str, Lookup]:
        fresh = {}
        height: int | None = None
        for key in payment_hashes[:_SINGLY]:
            invoice = await self._fetch(key)
            if invoice is not None:
                if invoice.expiry_height is not None and height is None:
                    height = await self._height()
                fresh[key] = self._note(invoice, height)
        return fresh

    async def _listed(self, wanted: set[str], since: int, live: bool) -> dict[str, Lookup]:
        """What the pages of this call have of those wanted. Raises WalletError."""
        fresh: dict[str, Lookup] = {}
        height: int | None = None
        unseen = {key for key in wanted if key not in self._seen}
        pages = 1 if live and not unseen - self._absent else _PAGES
        while wanted - fresh.keys() and pages:
            if not self._offset:
                self._sought = set(unseen)
            page, end = await newest(self._client, self._page, self._offset)
            for invoice in page:
                if invoice.payment_hash in wanted:
                    if invoice.expiry_height is not None and height is None:
                        height = await self._height()
                    fresh[invoice.payment_hash] = self._note(invoice, height)
            pages -= 1
            self._offset = min((invoice.add_index for invoice in page), default=0)
            if end or self._offset <= 1 or min(invoice.created_at for invoice in page) < since - _SKEW:
                self._offset = 0
                self._absent = (self._absent | self._sought) & unseen - self._seen.keys()
                return fresh | await self._strange(sorted(unseen - self._seen.keys()))
        if not wanted - fresh.keys():
            self._offset = 0
        return fresh

    async def _strange(self, payment_hashes: list[str]) -> dict[str, Lookup]:
        """Whatever the clocks say, an invoice of ours is there: a few at a time are asked for by name."""
        turn = self._turn % max(len(payment_hashes), 1)
        self._turn = turn + _STRANGE
        return await self._singly([*payment_hashes[turn:], *payment_hashes[:turn]][:_STRANGE])

    async def _fetch(self, payment_hash: str) -> LndInvoice | None:
        try:
            invoice = LndInvoice.parse(await self._client.get(f"/v1/invoice/{payment_hash}"))
            if invoice.payment_hash != payment_hash:
                raise WalletError("untrustworthy", "lnd tells of another invoice than the one asked about")
        except WalletError as error:
            if error.code == "untrustworthy":
                log.warning("wallet: its answer about an invoice is not to be trusted: %s", error)
            elif not is_unknown_thing(error):
                log.debug("wallet: an invoice cannot be looked up: %s", error)
            return None
        return invoice

    async def _height(self) -> int | None:
        try:
            return number(await self._client.get("/v1/getinfo"), "block_height", 1 << 31)
        except WalletError as error:
            log.debug("wallet: the height of the chain cannot be learned: %s", error)
            return None

    def _note(self, invoice: LndInvoice, height: int | None) -> Lookup:
        found = invoice.lookup
        if invoice.expiry_height is not None and height is not None:
            found = replace(found, blocks_left=max(invoice.expiry_height - height - EXPIRY_DELTA, 0))
        self._remember(invoice.payment_hash, found)
        if found.state in _FINAL:
            self._told.pop(invoice.payment_hash, None)
        self._on_seen(invoice)
        return found

    def _remember(self, payment_hash: str, found: Lookup) -> None:
        self._seen.pop(payment_hash, None)
        self._seen[payment_hash] = found
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]


async def newest(
    client: LndClient, page: int, offset: int = 0, *, pending: bool = False
) -> tuple[list[LndInvoice], bool]:
    """LND's newest invoices, or those before the add index `offset`, and whether these were the last; those that
    cannot be read are left out. Raises WalletError."""
    params: dict[str, Any] = {"reversed": "true", "num_max_invoices": page, "index_offset": offset}
    if pending:
        params["pending_only"] = "true"
    listed = (await client.get("/v1/invoices", params)).get("invoices")
    if not isinstance(listed, list) or len(listed) > page:
        raise WalletError("untrustworthy", "lnd's list of invoices is none")
    invoices = []
    for raw in listed:
        try:
            invoices.append(LndInvoice.parse(raw))
        except WalletError as error:  # one of another program, perhaps
            log.debug("wallet: a listed invoice cannot be read: %s", error)
    if listed and not invoices:
        raise WalletError("untrustworthy", "lnd's list of invoices cannot be read")
    if offset and any(invoice.add_index >= offset for invoice in invoices):
        raise WalletError("untrustworthy", "lnd's list of invoices goes back to where it was")
    return invoices, len(listed) < page


def _accepted(raw: Mapping[str, Any]) -> tuple[int, int]:
    """Of an accepted invoice: the msat that wait, and the block in which the first of its HTLCs times out."""
    htlcs = raw.get("htlcs")
    waiting = [each for each in htlcs if isinstance(each, dict)] if isinstance(htlcs, list) else []
    waiting = [each for each in waiting if each.get("state") == "ACCEPTED"]
    msat = sum(number(each, "amt_msat", MAX_MSAT) for each in waiting)
    if not 0 < msat <= MAX_MSAT:
        raise WalletError("untrustworthy", "lnd's invoice is accepted with nothing")
    return msat, min(number(each, "expiry_height", 1 << 31) for each in waiting)
