"""Payments that leave, on one connection, inside the caller's transaction: reserved first, ended once.

The reserve stands on an account of its own, which the database keeps from going below zero, until the wallet
says for good what became of the payment (money.md, rule 8).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import replace

from dvm.ledger import money, outbox
from dvm.ledger.base import (
    LedgerError,
    Payout,
    PayoutState,
    Publication,
    ReceiptMaker,
    Received,
    TooLittle,
    TooMuch,
)

DAY = 86_400
_COLUMNS = (
    "id, customer, bolt11, payment_hash, msat, fee_limit_msat, state, created_at, expires_at, ended_at, fee_msat,"
    " reason, scheme, relays"
)
_PAYOUT = f"SELECT {_COLUMNS} FROM payouts"  # noqa: S608 - the columns are ours
_MOST = 2**63 - 1  # that SQLite can store


def reserve(db: sqlite3.Connection, payout: Payout, day_limit: int, publications: Sequence[Publication]) -> bool:
    """Set a payout and its fee limit aside, unless its id or its payment hash is known."""
    if payout.msat <= 0 or payout.fee_limit_msat < 0:
        raise ValueError("a payout is a positive number of msat, its fee limit not a negative one")
    known = db.execute(
        "SELECT EXISTS (SELECT 1 FROM payouts WHERE id = ?1 OR (payment_hash = ?2 AND state <> 'refused'))"
        # What we wait to be paid, we do not pay: a wallet that is asked about such a hash may mean either.
        " OR EXISTS (SELECT 1 FROM payments WHERE payment_hash = ?2)",
        (payout.id, payout.payment_hash),
    ).fetchone()[0]
    if known:
        return False
    total = payout.msat + payout.fee_limit_msat
    purse = _purse(payout)
    if (there := money.holdings(db, purse)) < total:
        raise TooLittle(f"{total} msat are to leave, {there} are there")
    if payout.customer is not None and day_limit:
        left = db.execute(
            "SELECT coalesce(sum(msat), 0) FROM payouts"
            " WHERE customer = ? AND created_at > ? AND (state = 'reserved' OR state = 'paid')",
            (payout.customer, payout.created_at - DAY),
        ).fetchone()[0]
        if left + payout.msat > day_limit:
            raise TooMuch(f"{payout.msat} msat after {left} within a day are more than {day_limit}")
    _insert(db, payout, PayoutState.RESERVED, None, None)
    money.transfer(db, "withdraw", payout.id, purse, money.leaving(payout.id), total, payout.created_at)
    outbox.store(db, None, publications, payout.created_at)
    return True


def refuse(db: sqlite3.Connection, payout: Payout, reason: str) -> None:
    """Remember a request that was refused; not what it brought along, since strangers choose how much that is."""
    _insert(db, replace(payout, bolt11=""), PayoutState.REFUSED, payout.created_at, reason)


def paid_out(
    db: sqlite3.Connection,
    payout_id: str,
    fee_msat: int,
    receipt: ReceiptMaker | None,
    publications: Sequence[Publication],
    at: int,
) -> bool:
    """reserved → paid: it and its fee leave the books, the rest of the reserve returns."""
    payout = _reserved(db, payout_id)
    if payout is None:
        return False
    charged = min(fee_msat, payout.fee_limit_msat)
    account = money.leaving(payout_id)
    money.transfer(db, "paid", payout_id, account, money.WALLET, payout.msat + charged, at)
    if fee_msat > charged:  # the wallet did not keep to the limit: the operator bears it (money.md, case 17)
        money.transfer(db, "fee", payout_id, money.FEES, money.WALLET, fee_msat - charged, at)
    if payout.fee_limit_msat > charged:
        money.transfer(db, "back", payout_id, account, _purse(payout), payout.fee_limit_msat - charged, at)
    money.drop(db, account)
    named = None
    if payout.customer is not None:
        if receipt is None:
            raise LedgerError(f"payout {payout_id} is a customer's, and every change of a balance has a receipt")
        left = Received("bolt11", payout.payment_hash, -(payout.msat + charged))
        made = money.add_receipt(db, payout.customer, None, 0, (left,), receipt, at)
        outbox.store(db, None, (made,), at)
        named = made.id
    db.execute(
        "UPDATE payouts SET state = 'paid', ended_at = ?, fee_msat = ?, receipt = ?"
        " WHERE id = ? AND state = 'reserved'",
        (at, fee_msat, named, payout_id),
    )
    outbox.store(db, None, publications, at)
    return True


def not_paid_out(
    db: sqlite3.Connection, payout_id: str, reason: str, publications: Sequence[Publication], at: int
) -> bool:
    """reserved → failed: all of it returns. The customer's chain of receipts never knew of it."""
    payout = _reserved(db, payout_id)
    if payout is None:
        return False
    account = money.leaving(payout_id)
    total = payout.msat + payout.fee_limit_msat
    money.transfer(db, "back", payout_id, account, _purse(payout), total, at)
    money.drop(db, account)
    db.execute(
        "UPDATE payouts SET state = 'failed', ended_at = ?, reason = ? WHERE id = ? AND state = 'reserved'",
        (at, reason, payout_id),
    )
    outbox.store(db, None, publications, at)
    return True


def find(db: sqlite3.Connection, payout_id: str) -> Payout | None:
    row = db.execute(f"{_PAYOUT} WHERE id = ?", (payout_id,)).fetchone()
    return _payout_of(row) if row else None


def in_states(db: sqlite3.Connection, states: Collection[PayoutState], limit: int) -> list[Payout]:
    """Those in any of these states, oldest first."""
    # One comparison for each, and not IN: so that the few which are reserved are found by their index.
    found = " OR ".join(["state = ?"] * len(states)) or "FALSE"
    rows = db.execute(f"{_PAYOUT} WHERE {found} ORDER BY created_at, id LIMIT ?", (*sorted(states), limit))
    return [_payout_of(row) for row in rows]


def _reserved(db: sqlite3.Connection, payout_id: str) -> Payout | None:
    payout = find(db, payout_id)
    if payout is None:
        raise LedgerError(f"there is no payout {payout_id}")
    return payout if payout.state is PayoutState.RESERVED else None


def _purse(payout: Payout) -> str:
    """The account that it is paid from."""
    return money.REVENUE if payout.customer is None else money.customer(payout.customer)


def _insert(
    db: sqlite3.Connection, payout: Payout, state: PayoutState, ended_at: int | None, reason: str | None
) -> None:
    db.execute(
        "INSERT INTO payouts (id, customer, bolt11, payment_hash, msat, fee_limit_msat, state, created_at,"
        " expires_at, ended_at, reason, scheme, relays) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING",
        (
            payout.id,
            payout.customer,
            payout.bolt11,
            payout.payment_hash,
            _storable(payout.msat),
            _storable(payout.fee_limit_msat),
            state,
            payout.created_at,
            _storable(payout.expires_at),
            ended_at,
            reason,
            payout.scheme,
            outbox.relays_to_json(payout.relays),
        ),
    )


def _storable(number: int) -> int:
    return min(max(0, number), _MOST)


def _payout_of(row: tuple[object, ...]) -> Payout:
    fields = list(row)
    fields[6] = PayoutState(str(fields[6]))
    fields[13] = outbox.relays_from_json(str(fields[13]))
    return Payout(*fields)  # type: ignore[arg-type]
