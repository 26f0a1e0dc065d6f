"""What `dvm reconcile` compares: the books with themselves, with the wallet, and with the relays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from dvm.commands.common import count, sats
from dvm.jobs.balances.payout_steps import FORGOTTEN_SECONDS
from dvm.ledger import Payout, PayoutState, queries, recent
from dvm.ledger.audit import audit
from dvm.ledger.recent import Incoming
from dvm.ledger.sqlite import read
from dvm.lightning.base import InvoiceState, Lookup, Payment, Wallet, WalletError
from dvm.nostr.filters import Filter
from dvm.nostr.pool import RelayPool

LOOKUPS = 500  # payments asked about in one call to the wallet
AT_ONCE = 8  # outgoing payments that are asked about at the same time
SETTLE_SECONDS = 3.0  # a running daemon needs this long for what has just happened
UNSENT_SECONDS = 120  # an event that is younger may be on its way to a relay
RECEIPTS = 10_000  # looked for on the relays, at most
IDS = 100  # asked for in one query

State = Literal["ok", "differs", "not tried"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: what was seen, and each thing that differs, as a sentence."""

    name: str
    state: State
    seen: str
    differences: list[str] = field(default_factory=list)


def books(data: Path) -> Check:
    """The ledger's own audit. Raises StoreError."""
    found = read(data, audit)
    accounts = read(data, queries.accounts)
    totals = ", ".join(f"{name} {sats(msat)}" for name, msat in accounts.items())
    return _check("books", f"all accounts: {totals}", found)


async def balance(data: Path, wallet: Wallet) -> Check:
    """What the wallet has, against what customers are owed. Raises StoreError."""
    before = read(data, queries.accounts)
    try:
        info = await wallet.info()
    except WalletError as error:
        return Check("balance", "not tried", f"the wallet does not tell what it has: {error}")
    if info.balance_msat is None:
        return Check("balance", "not tried", "this wallet does not tell what it has")
    # Beside a daemon, money comes and goes between the questions: what is owed at both times must be there.
    accounts = min(before, read(data, queries.accounts), key=_owed)
    owed = _owed(accounts)
    leaving = f", {sats(accounts['leaving'])} of payments that leave may be gone already" if accounts["leaving"] else ""
    seen = f"the wallet has {sats(info.balance_msat)}, customers are owed {sats(owed)}{leaving}"
    missing = owed - info.balance_msat
    return _check("balance", seen, [f"the wallet has {sats(missing)} less than customers own"] if missing > 0 else [])


async def arrived(data: Path, wallet: Wallet, since: int, now: int) -> Check:
    """Each payment that was or is watched for, in the books and in the wallet. Raises StoreError."""
    rows = read(data, lambda db: recent.incoming(db, since, now))
    found: dict[str, Lookup] = {}
    for start in range(0, len(rows), LOOKUPS):
        part = rows[start : start + LOOKUPS]
        found |= await wallet.lookup_many([row.payment_hash for row in part], part[0].created_at)
    suspicious = [row.payment_hash for row in rows if _arrival(row, found[row.payment_hash])]
    if suspicious:  # a daemon beside us may be about to credit it
        await asyncio.sleep(SETTLE_SECONDS)
    again = read(data, lambda db: recent.incoming_of(db, suspicious))
    differences = [text for row in again if (text := _arrival(row, found[row.payment_hash]))]
    # Of what was never paid, a wallet forgets; of what was, it must know.
    unknown = sum(
        row.received_msat is not None and found[row.payment_hash].state is InvoiceState.UNKNOWN for row in rows
    )
    return _check("payments in", f"{count(len(rows), 'invoice')} looked up{_unanswered(unknown)}", differences)


async def left(data: Path, wallet: Wallet, since: int) -> Check:
    """Each payment that has left or is to leave, in the books and in the wallet. Raises StoreError."""
    rows = read(data, lambda db: recent.outgoing(db, since))
    found = dict(zip([row.id for row in rows], await _outcomes(wallet, rows), strict=True))
    suspicious = {row.id for row in rows if _departure(row, found[row.id])}
    if suspicious:
        await asyncio.sleep(SETTLE_SECONDS)
    again = read(data, lambda db: recent.outgoing(db, since)) if suspicious else []
    differences = [text for row in again if row.id in suspicious and (text := _departure(row, found[row.id]))]
    reserved = sum(row.state is PayoutState.RESERVED for row in rows)
    unknown = sum(each.state is InvoiceState.UNKNOWN and each.known for each in found.values())
    under_way = f", {reserved} under way" if reserved else ""
    seen = f"{count(len(rows), 'payment')} looked up{under_way}{_unanswered(unknown)}"
    return _check("payments out", seen, differences)


def outbox(data: Path, now: int) -> Check:
    """What should be on the relays, and no relay has taken. Raises StoreError."""
    number, oldest = read(data, lambda db: recent.unsent(db, now - UNSENT_SECONDS))
    if not number or oldest is None:
        return _check("outbox", "everything that was said was taken by a relay", [])
    text = f"{count(number, 'event')} were taken by no relay, the oldest for {(now - oldest) // 60} minutes"
    return _check("outbox", "events wait", [text])


async def published(data: Path, pool: RelayPool, since: int) -> Check:
    """The receipts of the last days, on the relays that we read. Raises StoreError."""
    ids = read(data, lambda db: recent.receipts(db, since, RECEIPTS))
    missing: list[str] = []
    for start in range(0, len(ids), IDS):
        part = ids[start : start + IDS]
        there = {event.id for event in await pool.query(Filter(ids=part))}
        missing += [each for each in part if each not in there]
    seen = f"{count(len(ids), 'receipt')} looked for"
    if not missing:
        return _check("receipts", seen, [])
    some = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
    return _check("receipts", seen, [f"{count(len(missing), 'receipt')} are on no relay that we read: {some}"])


def _check(name: str, seen: str, differences: Sequence[str]) -> Check:
    return Check(name, "differs" if differences else "ok", seen, list(differences))


def _owed(accounts: dict[str, int]) -> int:
    return accounts["customers"] + accounts["held"]


def _arrival(row: Incoming, lookup: Lookup) -> str | None:
    """What differs about a payment to us."""
    state, credited = lookup.state, row.received_msat
    if state is InvoiceState.UNKNOWN:
        return None
    if credited is None:
        if state is InvoiceState.SETTLED:
            return f"{row.payment_hash}: the wallet has received {sats(lookup.msat)}, and nobody was credited"
        return None
    if state is not InvoiceState.SETTLED:
        return f"{row.payment_hash}: {sats(credited)} were credited, and the wallet calls it {state.value}"
    if credited != lookup.msat:
        return f"{row.payment_hash}: {sats(credited)} were credited, and the wallet has received {sats(lookup.msat)}"
    return None


def _departure(row: Payout, payment: Payment) -> str | None:
    """What differs about a payment that leaves."""
    state, what = payment.state, f"{row.payment_hash} ({sats(row.msat)}, payout {row.id})"
    if row.state is PayoutState.FAILED:
        if state is InvoiceState.SETTLED:
            return f"{what}: it was returned to its owner, and the wallet has paid it"
        return f"{what}: it was returned, and the wallet is still paying it" if state is InvoiceState.PENDING else None
    if row.state is PayoutState.PAID:
        if state is InvoiceState.FAILED or not payment.known:
            told = "has never heard of it" if not payment.known else "says that it has failed"
            return f"{what}: it was charged as paid, and the wallet {told}"
        if state is InvoiceState.SETTLED and payment.fee_msat and payment.fee_msat != row.fee_msat:
            fees = f"{sats(row.fee_msat)} in the books, {sats(payment.fee_msat)} in the wallet"
            return f"{what}: its fee is {fees}"
        return None
    if state is InvoiceState.UNKNOWN and time.time() >= row.expires_at + FORGOTTEN_SECONDS:
        return (
            f"{what}: it is reserved, its invoice has expired, and the wallet does not tell what became of it: find "
            f"out, and say so with --decide {row.id}=paid or =failed"
        )
    if state in (InvoiceState.SETTLED, InvoiceState.FAILED):
        return f"{what}: it is still reserved, and the wallet calls it {state.value}: `dvm run` ends it"
    return None


async def _outcomes(wallet: Wallet, rows: Iterable[Payout]) -> list[Payment]:
    places = asyncio.Semaphore(AT_ONCE)

    async def look(row: Payout) -> Payment:
        async with places:
            return await wallet.payment(row.payment_hash)

    return await asyncio.gather(*(look(row) for row in rows))


def _unanswered(number: int) -> str:
    return f"; of {number} of them the wallet tells nothing" if number else ""
