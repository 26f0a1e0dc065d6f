"""How LNbits' settlements are noticed: by push, by listing, after an outage, whatever the clocks say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dvm.lightning import lnbits_sweep
from dvm.lightning.base import InvoiceState
from dvm.lightning.lnbits import LnbitsWallet
from dvm.lightning.registry import Setup
from tests.lightning.lnbits_place import LISTING, PAYMENTS, QUICK, Place, place
from tests.standins.lnbits_api import ADMIN
from tests.standins.waiting import until

SETTLED, PENDING, UNKNOWN = InvoiceState.SETTLED, InvoiceState.PENDING, InvoiceState.UNKNOWN


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as each:
        yield each


# --- hints ---------------------------------------------------------------------------------------------


async def test_a_push_that_lies_or_comes_twice_proves_nothing(here: Place) -> None:
    hints = here.wallet.settlements()
    await until(lambda: here.node.listeners)
    paid, unpaid = await here.job(), await here.job()
    for nonsense in ("", "{", "[]", "null", "5", '{"payment": 5}', '{"payment": {"payment_hash": "../../wallet"}}'):
        await here.node.tell(nonsense)
    await here.node.tell({"payment": {"payment_hash": unpaid, "status": "success", "amount": 21_000}})
    assert await anext(hints) == unpaid
    assert (await here.wallet.lookup(unpaid)).state is PENDING
    await here.node.customer_pays(paid, times=2)
    assert [await anext(hints), await anext(hints)] == [paid, paid]
    assert (await here.wallet.lookup(paid)).msat == 21_000


async def test_what_a_lost_push_would_have_told_is_found_by_the_sweep_and_after_a_reconnection(here: Place) -> None:
    hints = here.wallet.settlements()
    await until(lambda: here.node.listeners)
    here.node.push = "lost"
    payment_hash = await here.job()
    await here.node.customer_pays(payment_hash)
    assert await here.found(payment_hash) is SETTLED
    await here.node.tell("x" * (1 << 20))  # more than is read: it hangs up, and comes back
    assert await anext(hints) == payment_hash


async def test_without_a_websocket_it_asks_every_few_seconds(here: Place) -> None:
    here.node.push = "none"
    assert not (await here.wallet.info()).capabilities.push
    hints = here.wallet.settlements()
    payment_hash = await here.job()
    await here.node.customer_pays(payment_hash)
    async with asyncio.timeout(60):
        assert await anext(hints) == payment_hash


async def test_what_settled_while_away_is_told_after_the_next_start(tmp_path: Path) -> None:
    clock = [time.time() - 9_000]
    async with place(tmp_path) as here:
        here.node.now = lambda: clock[0]
        made = [(await here.wallet.create_invoice(1_000, description="", expiry=86_400)).payment_hash for _ in range(6)]
        await here.node.customer_pays(made[0])
        here.wallet.settlements()
        await until(lambda: here.node.listeners)
        await until((tmp_path / "wallet-lnbits.json").exists)
        await here.wallet.close()
        for payment_hash in made[1:]:
            clock[0] += 100
            await here.node.customer_pays(payment_hash)
        again = LnbitsWallet(Setup(here.server.url, ADMIN, tmp_path), QUICK)
        await again.start()
        hints = again.settlements()
        try:
            async with asyncio.timeout(60):
                assert [await anext(hints) for _ in made] == made, "the last one before is told again, no other"
        finally:
            await again.close()


# --- clocks, and what a sweep costs ----------------------------------------------------------------------


async def test_rows_that_are_none_hide_nothing_and_prove_nothing(tmp_path: Path) -> None:
    async with place(tmp_path, LISTING) as here:
        paid, unpaid = await here.job(), await here.job()
        await here.node.customer_pays(paid)
        now = datetime.now(UTC).isoformat()
        good = {"payment_hash": unpaid, "amount": 21_000, "status": "success", "updated_at": now, "fee": 0}
        here.node.payments.append(good | {"payment_hash": "internal_top-up"})
        assert (await here.found(paid), await here.found(unpaid)) == (SETTLED, PENDING)
        for wrong in ({"amount": True}, {"amount": 10**30}, {"amount": 0.5}, {"payment_hash": 5}):
            here.node.payments.append(good | wrong)
            assert (await here.found(paid), await here.found(unpaid)) == (SETTLED, UNKNOWN)
            here.node.payments.pop()
        assert await here.found(unpaid) is PENDING


async def test_a_clock_that_was_ahead_hides_nothing_once_it_is_right(tmp_path: Path) -> None:
    async with place(tmp_path, LISTING) as here:
        began = time.time()
        here.node.now = lambda: time.time() + 7_200
        await here.node.customer_pays(await here.job())
        open_one = (await here.wallet.create_invoice(1_000, description="", expiry=86_400)).payment_hash
        assert await here.found(open_one, began) is PENDING
        here.node.now = time.time
        for payment_hash in [open_one, *[await here.job() for _ in range(4)]]:
            await here.node.customer_pays(payment_hash)
        assert await here.found(open_one, began) is SETTLED


@pytest.mark.parametrize("off", [-7_200, -300, 300, 7_200])
async def test_a_clock_that_is_wrong_or_set_right_hides_no_payment(here: Place, off: int) -> None:
    here.node.now = lambda: time.time() + off
    began = time.time()
    first = await here.wallet.create_invoice(1_000, description="a job", expiry=86_400)
    second = await here.wallet.create_invoice(1_000, description="a job", expiry=86_400)
    assert await here.found(first.payment_hash, began) is PENDING
    await here.node.customer_pays(first.payment_hash)
    assert await here.found(first.payment_hash, began) is SETTLED
    assert await here.found(second.payment_hash, began) is PENDING
    here.node.now = time.time
    await here.node.customer_pays(second.payment_hash)
    assert await here.found(second.payment_hash, began) is SETTLED


async def test_a_clock_that_was_set_back_hides_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lnbits_sweep, "DEEP_EVERY", 3)
    async with place(tmp_path, LISTING) as here:
        began = time.time()
        await here.node.customer_pays(await here.job())
        open_ones = [
            (await here.wallet.create_invoice(1_000, description="", expiry=86_400)).payment_hash for _ in "12345"
        ]
        assert await here.found(open_ones[0], began) is PENDING
        clock = [began - 7_200]
        here.node.now = lambda: clock[0]
        for payment_hash in open_ones:
            clock[0] += 1
            await here.node.customer_pays(payment_hash)
        assert [await here.found(open_ones[0], began) for _ in range(2)] == [PENDING, SETTLED]


async def test_a_sweep_reads_what_is_new_whatever_is_open_and_whatever_was_paid_before(here: Place) -> None:
    clock = [time.time() - 50_000]
    here.node.now = lambda: clock[0]
    since = int(clock[0])
    for _ in range(30):
        clock[0] += 1_000
        await here.node.customer_pays(
            (await here.wallet.create_invoice(1_000, description="", expiry=90_000)).payment_hash
        )
    open_ones = [
        (await here.wallet.create_invoice(1_000, description="", expiry=90_000)).payment_hash for _ in range(20)
    ]
    path = f"{PAYMENTS}/paginated"
    here.server.calls.clear()
    await here.wallet.lookup_many(open_ones, since)
    assert here.server.calls[path] == 10, "all pages, once"
    clock[0] += 1_000
    await here.node.customer_pays(open_ones[5])
    new = await here.wallet.create_invoice(1_000, description="", expiry=90_000)
    more = [*open_ones, new.payment_hash]
    here.server.calls.clear()
    found = await here.wallet.lookup_many(more, since)
    assert [each for each in more if found[each].state is SETTLED] == [open_ones[5]]
    assert here.server.calls[path] == 1
    assert sum(here.server.calls.values()) == 3, "and two single ones, which go round"


async def test_each_open_invoice_has_its_turn_to_be_asked_about(here: Place) -> None:
    """LNbits learns from its node that one was paid when it is asked about it, if it missed it before."""
    open_ones = [await here.job() for _ in range(5)]
    asked: set[str] = set()
    for _ in range(3):
        here.server.calls.clear()
        await here.wallet.lookup_many(open_ones, int(time.time()))
        asked |= {path.removeprefix(f"{PAYMENTS}/") for path in here.server.calls}
    assert asked >= set(open_ones)
