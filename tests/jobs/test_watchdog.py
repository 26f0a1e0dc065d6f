"""The wallet against what customers are owed: selling stops, the operator is told, and both end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.jobs.balances.payouts import DAY, LOSS_MSAT
from dvm.jobs.engine import Engine
from dvm.jobs.watching.figures import ABOUT, figures
from dvm.jobs.watching.watchdog import REMIND_SECONDS, Alarm, Watchdog
from dvm.ledger import Metered
from dvm.lightning.base import WalletError
from dvm.nostr.keys import Keys
from dvm.nostr.nip59 import unwrap
from dvm.pricing import sats
from tests.standins.cashier import DEPOSIT, QUICK, Cashier, Purse
from tests.standins.waiting import until

OPERATOR = Keys.generate()


class Watched:
    def __init__(self, cashier: Cashier) -> None:
        self.cashier = cashier
        self.dog = Watchdog(cashier.shop, cashier.outbox, cashier.payouts)

    @property
    def refuses(self) -> bool:
        event = self.cashier.customer.sign(5050, [], "")
        refusal = self.dog.policy(event, None)  # type: ignore[arg-type]
        assert refusal is None or (refusal.code, refusal.prepaid) == ("unavailable", True)
        return refusal is not None

    def told(self) -> list[str]:
        """What the operator reads."""
        wraps = [event for event in self.cashier.relays.events if event.kind == 1059]
        return [unwrap(OPERATOR, wrap).content for wrap in wraps]


@asynccontextmanager
async def watched(data: Path, *acts: str, balance: int | None, operator: str | None = "") -> AsyncIterator[Watched]:
    settings = replace(QUICK, operator=OPERATOR.pubkey if operator == "" else operator)
    cashier = Cashier(data, Purse(*acts), settings=settings)
    cashier.purse.balance = balance
    await cashier.open()
    try:
        await cashier.fund()
        yield Watched(cashier)
    finally:
        await cashier.close()


async def test_a_wallet_that_has_what_is_owed(tmp_path: Path) -> None:
    async with watched(tmp_path, balance=DEPOSIT) as at:
        await at.dog.look()
        assert at.dog.selling
        assert not at.refuses
        assert (at.dog.balance, at.dog.owed) == (DEPOSIT, DEPOSIT)
        assert at.told() == []


async def test_a_wallet_that_has_too_little_ends_selling_and_the_operator_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(tmp_path, balance=DEPOSIT - 1) as at:
        await at.dog.look()
        await at.dog.look()
        assert at.refuses
        (message,) = at.told()
        assert sats(DEPOSIT - 1) in message
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1, "told once in the log"
        at.cashier.purse.balance = DEPOSIT
        await at.dog.look()
        assert not at.refuses
        assert "new jobs are sold" in at.told()[-1]
        assert len(at.told()) == 2


async def test_the_operator_is_reminded_once_an_hour(tmp_path: Path) -> None:
    async with watched(tmp_path, balance=0) as at:
        await at.dog.look()
        at.cashier.later = REMIND_SECONDS - 10
        await at.dog.look()
        assert len(at.told()) == 1
        at.cashier.later = REMIND_SECONDS + 10
        await at.dog.look()
        assert len(at.told()) == 2


async def test_messages_go_to_the_operators_own_relays(tmp_path: Path) -> None:
    async with watched(tmp_path, balance=0) as at:
        at.cashier.relays.stored = [OPERATOR.sign(10050, [["relay", "wss://inbox.example"]], "")]
        await at.dog.look()
        (wrap,) = [event for event in at.cashier.relays.events if event.kind == 1059]
        assert list(at.cashier.relays.named[wrap.id]) == ["wss://inbox.example"]


async def test_without_an_npub_nobody_is_written_to(tmp_path: Path) -> None:
    async with watched(tmp_path, balance=0, operator=None) as at:
        await at.dog.look()
        assert at.refuses
        assert at.cashier.relays.events == []


async def test_what_is_leaving_may_be_gone_and_is_not_missed(tmp_path: Path) -> None:
    async with watched(tmp_path, "secretly", balance=DEPOSIT - 100_100) as at:
        at.cashier.purse.tells = False
        at.cashier.purse.acts.extend(["unreachable"] * 10_000)
        await at.cashier.payouts.withdraw(at.cashier.asked(100_000))
        await at.dog.look()
        assert not at.refuses


async def test_a_shortage_that_is_only_a_moment_is_none(tmp_path: Path) -> None:
    async with watched(tmp_path, balance=DEPOSIT) as at:
        purse, told = at.cashier.purse, [0, DEPOSIT]
        info = purse.info

        async def hasty() -> object:
            purse.balance = told.pop(0)
            return await info()

        purse.info = hasty  # type: ignore[method-assign,assignment]
        await at.dog.look()
        assert not at.refuses
        assert told == []


@pytest.mark.parametrize("short", [False, True])
async def test_a_wallet_that_does_not_answer_changes_nothing(tmp_path: Path, short: bool) -> None:
    async with watched(tmp_path, balance=0 if short else DEPOSIT) as at:
        await at.dog.look()
        at.cashier.purse.error = WalletError("unreachable", "away")
        await at.dog.look()
        assert at.refuses is short


async def test_a_wallet_that_is_away_for_long_is_told_and_its_return(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched(tmp_path, balance=DEPOSIT) as at:
        await at.dog.look()
        at.cashier.purse.error = WalletError("unreachable", "away")
        at.cashier.later = 300
        await at.dog.look()
        assert at.told() == []
        assert not any(record.levelno == logging.ERROR for record in caplog.records)
        at.cashier.later = 700
        await at.dog.look()
        await at.dog.look()
        (logged,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "nobody can pay" in logged.message
        assert logged.error == "unreachable: away"  # type: ignore[attr-defined]
        assert "has not answered for 11 minutes" in at.told()[-1]
        assert at.dog.silent_seconds >= 600
        at.cashier.purse.error = None
        await at.dog.look()
        assert at.told()[-1] == "The wallet answers again."


async def test_a_connection_that_tells_nothing_of_itself_is_not_away(tmp_path: Path) -> None:
    async with watched(tmp_path, balance=DEPOSIT) as at:
        at.cashier.purse.error = WalletError("restricted", "not for you")
        at.cashier.later = 7000
        await at.dog.look()
        assert (at.told(), at.dog.silent_seconds, at.dog.receivable()) == ([], 0, None)


async def test_a_withdrawal_without_an_end_is_told_after_an_hour(tmp_path: Path) -> None:
    async with watched(tmp_path, "pending", balance=2 * DEPOSIT) as at:
        payout = at.cashier.asked(100_000)
        await at.cashier.payouts.withdraw(payout)
        await until(lambda: at.cashier.purse.asked)
        at.cashier.later = 3700
        await at.dog.look()
        assert payout.payment_hash in at.told()[-1]
        at.cashier.purse.arrive()
        await at.cashier.ended(payout)
        await at.dog.look()
        assert len(at.told()) == 2


async def test_the_figures(tmp_path: Path) -> None:
    async with watched(tmp_path, "pending", balance=DEPOSIT - 1) as at:
        await at.cashier.payouts.withdraw(at.cashier.asked(100_000))
        engine = Engine(at.cashier.shop)
        found = figures(at.cashier.shop, engine, at.cashier.payouts, at.dog)
        assert "wallet_balance_msat" not in found, "not known yet, and not 0"
        await at.dog.look()
        found = figures(at.cashier.shop, engine, at.cashier.payouts, at.dog)
        assert found.keys() <= ABOUT.keys()
        assert found["payouts_open_msat"] == 100_000
        assert found["selling"] == 1
        assert found["owed_msat"] == DEPOSIT - 105_000
        assert found["wallet_balance_msat"] == DEPOSIT - 1
        assert "spent_today_msat" not in found, "without a limit nobody counts"


async def test_the_figures_tell_when_the_day_is_spent(tmp_path: Path) -> None:
    async with watched(tmp_path, "pending", balance=DEPOSIT) as at:
        shop = at.cashier.shop
        shop.settings = replace(shop.settings, spend_msat_per_day=5_000)
        engine = Engine(shop)

        def selling() -> tuple[float, float]:
            found = figures(shop, engine, at.cashier.payouts, at.dog)
            return found["selling"], found["spent_today_msat"]

        assert selling() == (1, 0)
        engine.spending.add(Metered(model="m", input=1), 4_999)
        assert selling() == (1, 4_999)
        engine.spending.add(Metered(model="m", input=1), 1)
        assert selling() == (0, 5_000)


def test_trouble_that_comes_and_goes_is_told_once_an_hour() -> None:
    alarm = Alarm("over")
    assert alarm.see(None, 0) is None
    assert alarm.see("bad", 10) == "bad"
    assert alarm.see(None, 20) == "over"
    assert alarm.see("bad", 30) is None
    assert alarm.see(None, 40) is None, "what was not told is not over either"
    assert alarm.see("bad", 10 + REMIND_SECONDS) == "bad"


async def test_fees_above_their_limits_are_told(tmp_path: Path) -> None:
    async with watched(tmp_path, balance=DEPOSIT) as at:
        at.cashier.purse.fee_msat = 5_000 + LOSS_MSAT
        payout = at.cashier.asked(10_000, fee=5_000)
        await at.cashier.payouts.withdraw(payout)
        await at.cashier.ended(payout)
        await at.dog.look()
        assert any("payouts.fee_sats" in text for text in at.told())
        at.cashier.later = DAY
        await at.dog.look()
        assert "Customers may withdraw again." in at.told()
