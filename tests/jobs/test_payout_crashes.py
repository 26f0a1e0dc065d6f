"""No withdrawal is paid twice, or paid and returned, or lost, wherever the daemon dies and whatever the wallet does."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvm.jobs.balances import payouts
from dvm.ledger import Payout, PayoutState
from dvm.ledger.base import Terms
from dvm.ledger.records import Job, JobState
from tests.standins.cashier import DEPOSIT, Cashier, Crash, Purse

SENT, FEE_LIMIT, FEE = 100_000, 5_000, 100
ACTS = ["settle", "fail", "lost", "secretly", "late", "pending", "unreachable", "insufficient", "rate_limited"]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payouts, "MAX_PAUSE", 0.005)
    monkeypatch.setattr(payouts, "PICK_UP_SECONDS", 0.01)


async def first_life(desk: Cashier, payout: Payout, crash: Crash) -> bool:
    """Ask for the withdrawal, and die at that step; False if everything was over before."""
    working = desk.spawn(desk.payouts.withdraw(payout))
    died = await lived(desk, payout, crash)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return died


async def lived(desk: Cashier, payout: Payout, crash: Crash) -> bool:
    """Whether it died; otherwise the payout has ended, or nothing more happens without time passing."""
    for _ in range(40):
        if crash.happened.is_set():
            return True
        row = await desk.store.payout(payout.id)
        if row is not None and row.state is not PayoutState.RESERVED and not desk.payouts.unresolved():
            return False
        await asyncio.sleep(0.001)
    return crash.happened.is_set()


async def brought_to_an_end(desk: Cashier, payout: Payout) -> Payout | None:
    """Let time pass until it is known; None if it never was reserved.

    A request that is on its way arrives within a minute (after that it has expired), a payment that is under way
    within hours.
    """
    if await desk.store.payout(payout.id) is None:
        return None
    for minute in range(300):
        row = await desk.row(payout)
        if row.state is not PayoutState.RESERVED and not desk.payouts.unresolved():
            return row
        desk.later += 60
        if minute == 0:
            desk.purse.acts.clear()
            desk.purse.deliver()
        if minute == 75:
            desk.purse.arrive()
        await asyncio.sleep(0.002)
    raise AssertionError("it blocks for ever")


async def holds(desk: Cashier, payout: Payout, ended: Payout | None) -> None:
    """Whoever has the money, exactly one has it."""
    sent = desk.purse.left[payout.payment_hash]
    if ended is None:
        assert sent == 0
    else:
        assert (ended.state is PayoutState.PAID) == bool(sent), (ended.state, sent)
    assert await desk.available() == DEPOSIT - (SENT + FEE if sent else 0)
    desk.audited()
    await desk.outbox.sweep()
    finals = [each for each in desk.answers(payout) if each.status != "processing"]
    assert len(finals) == (0 if ended is None else 1), "its end is told once"


async def one_story(data: Path, acts: list[str], crashes: list[int]) -> int:
    """A withdrawal over as many lives as there are crashes; how many of them happened."""
    desk = Cashier(data, Purse(*acts, fee_msat=FEE))
    crash, happened = Crash(), 0
    await desk.open(crash)
    await desk.fund()
    payout = desk.asked(SENT, fee=FEE_LIMIT, expiry=300)
    for number, at in enumerate(crashes):
        crash.left = at
        died = await first_life(desk, payout, crash) if not number else await lived(desk, payout, crash)
        happened += died
        await desk.crash()
        desk.purse.arrive()
        crash = Crash()
        await desk.open(crash)
    if await desk.store.payout(payout.id) is None and crashes:
        # Its request is delivered once more.
        await desk.payouts.withdraw(payout)
    elif not crashes:
        await first_life(desk, payout, crash)
    ended = await brought_to_an_end(desk, payout)
    desk.purse.arrive()
    await holds(desk, payout, ended)
    await desk.close()
    return happened


@pytest.mark.parametrize("acts", [[each] for each in ACTS] + [["secretly", "fail"], ["late", "fail"], ["late", "lost"]])
async def test_a_crash_at_every_step(tmp_path: Path, acts: list[str]) -> None:
    for at in range(14):
        data = tmp_path / str(at)
        data.mkdir()
        if not await one_story(data, acts, [at]):
            assert at > 3, "the first steps are: reserve, pay, and write how it ended"
            return
    # A wallet that does not know is asked again and again: there is always one more step.


@settings(max_examples=30, deadline=None)
@given(
    acts=st.lists(st.sampled_from(ACTS), max_size=5),
    crashes=st.lists(st.integers(0, 10), max_size=3),
)
def test_any_wallet_and_any_crashes(acts: list[str], crashes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as data:
        asyncio.run(one_story(Path(data), acts, crashes))


async def test_withdrawals_and_jobs_race_for_one_balance(tmp_path: Path) -> None:
    """money.md, case 7: whatever comes first, nothing is spent twice."""
    desk = Cashier(tmp_path)
    await desk.open()
    await desk.fund(300_000)
    store, customer = desk.store, desk.customer.pubkey
    asked = [desk.asked(SENT, fee=FEE_LIMIT) for _ in range(5)]
    jobs = [f"{number:064x}" for number in range(5)]
    terms = Terms("echo", "{}", 10, 10, SENT)
    for job in jobs:
        await store.open_job(Job(job, customer, 5050, JobState.RECEIVED, "{}", 0, 0))
    outcomes = await asyncio.gather(
        *(
            work
            for pair in zip(
                (desk.payouts.withdraw(each) for each in asked),
                (store.hold(job, terms, 0) for job in jobs),
                strict=True,
            )
            for work in pair
        ),
        return_exceptions=True,
    )
    held = sum(outcome is True for outcome in outcomes)
    for each in asked:
        if await store.payout(each.id) is not None:
            await desk.ended(each)
    sent = sum(desk.purse.left.values())
    assert held + sent >= 2
    assert await desk.available() == 300_000 - held * SENT - sent * (SENT + FEE) >= 0
    assert sum((await store.accounts()).values()) == 0
    await desk.close()
