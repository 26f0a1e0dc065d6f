"""The operator's own payments: taken up from the database, and never out of what customers are owed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dvm.jobs.balances import payouts
from dvm.ledger import PayoutState
from dvm.lightning.base import WalletError
from tests.standins.cashier import Cashier
from tests.standins.waiting import until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payouts, "MAX_PAUSE", 0.01)
    monkeypatch.setattr(payouts, "PICK_UP_SECONDS", 0.02)


async def earn(desk: Cashier, msat: int) -> None:
    """Revenue without a job, in balanced books: what no audit of jobs could tell from the real thing."""
    await desk.store.close()
    db = sqlite3.connect(desk.data / "dvm.db", isolation_level=None)
    db.execute("UPDATE accounts SET msat = msat + ? WHERE name = 'revenue'", (msat,))
    db.execute("UPDATE accounts SET msat = msat - ? WHERE name = 'wallet'", (msat,))
    db.close()


async def earning(data: Path, balance: int | None) -> Cashier:
    """A shop that has earned 300 sat beside its customer's 1000, with that balance in its wallet."""
    desk = Cashier(data)
    await desk.open(run=False)
    await desk.fund()
    await earn(desk, 300_000)
    desk.purse.balance = balance
    await desk.open()
    return desk


async def test_what_another_process_reserved_is_taken_up_and_paid(tmp_path: Path) -> None:
    desk = await earning(tmp_path, None)
    payout = desk.asked(200_000, customer=None)
    other = Cashier(tmp_path)
    await other.open(run=False)
    assert await other.store.reserve(payout, day_limit=0)
    assert (await desk.ended(payout)).state is PayoutState.PAID
    assert (await desk.store.accounts())["revenue"] == 300_000 - 200_100
    assert desk.relays.events == [], "the operator is told by the command, not on relays"
    await other.store.close()
    await desk.close()


@pytest.mark.parametrize(("balance", "state"), [(1_205_000, PayoutState.PAID), (1_204_999, PayoutState.FAILED)])
async def test_the_operators_payment_leaves_what_customers_are_owed(
    tmp_path: Path, balance: int, state: PayoutState
) -> None:
    desk = await earning(tmp_path, balance)
    payout = desk.asked(200_000, customer=None, fee=5_000)
    assert await desk.store.reserve(payout, day_limit=0)
    row = await desk.ended(payout)
    assert row.state is state
    if state is PayoutState.FAILED:
        assert (row.reason or "").startswith("owed: ")
        assert desk.purse.asked == []
    await desk.close()


async def test_an_operators_invoice_of_another_network_is_not_paid(tmp_path: Path) -> None:
    desk = await earning(tmp_path, None)
    text = desk.asked(200_000, customer=None, network="mainnet")
    assert await desk.store.reserve(text, day_limit=0)
    row = await desk.ended(text)
    assert (row.state, desk.purse.asked) == (PayoutState.FAILED, [])
    await desk.close()


async def test_an_operators_payment_waits_for_a_wallet_that_is_away(tmp_path: Path) -> None:
    desk = await earning(tmp_path, None)
    desk.purse.error = WalletError("unreachable", "away")
    payout = desk.asked(200_000, customer=None)
    assert await desk.store.reserve(payout, day_limit=0)
    await until(lambda: desk.purse.looked > 3)
    assert (await desk.row(payout)).state is PayoutState.RESERVED
    desk.purse.error = None
    assert (await desk.ended(payout)).state is PayoutState.PAID
    await desk.close()
