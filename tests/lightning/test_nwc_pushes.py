"""Notifications over Nostr Wallet Connect are hints: lost, doubled, late, forged or lies."""

from __future__ import annotations

import asyncio
import time

import pytest

from dvm.lightning.paper_service import PaperService
from dvm.nostr.keys import Keys
from tests.lightning.connected import IMPATIENT, Setup, made, settle, setup
from tests.lightning.contract import FAILED, PENDING, SETTLED
from tests.lightning.hold_contract import HELD, secret
from tests.standins.waiting import until


async def test_both_kinds_and_copies_of_a_push_are_one_hint() -> None:
    async with setup() as ready:
        ready.shop.faults.duplicate_notifications = 2
        hints = ready.wallet.settlements()
        first, second = await made(ready), await made(ready)
        settle(ready, first)
        await until(lambda: ready.shop.counters.notifications == 6)
        settle(ready, second)
        async with asyncio.timeout(60):
            assert [await anext(hints), await anext(hints)] == [first, second]


async def test_a_lying_push_is_only_a_hint() -> None:
    async with setup() as ready:
        hints = ready.wallet.settlements()
        payment_hash = await made(ready)
        invoice = ready.node.get(payment_hash)
        assert invoice is not None
        await ready.service.notify(ready.shop, "payment_received", invoice, settled_at=int(time.time()))
        async with asyncio.timeout(60):
            assert await anext(hints) == payment_hash
        assert (await ready.wallet.lookup(payment_hash)).state is PENDING


async def test_a_strangers_push_is_no_hint() -> None:
    async with setup() as ready:
        stranger = Keys.generate()
        forged = PaperService(ready.node, [ready.relay.url]).connect(
            "shop", keys=(stranger, ready.shop.connection.keys)
        )
        payment_hash, real = await made(ready), await made(ready)
        invoice = ready.node.get(payment_hash)
        assert invoice is not None
        hints = ready.wallet.settlements()
        await ready.service.notify(forged, "payment_received", invoice, settled_at=1)
        settle(ready, real)
        async with asyncio.timeout(60):
            assert await anext(hints) == real


async def test_08_a_lost_push_is_found_by_the_sweep() -> None:
    """money.md 8: a settlement that nobody was told of is found."""
    async with setup() as ready:
        ready.shop.faults.drop_notifications = True
        paid, unpaid = await made(ready), await made(ready)
        settle(ready, paid)
        found = await ready.wallet.lookup_many([paid, unpaid], int(time.time()) - 5)
        assert [found[h].state for h in (paid, unpaid)] == [SETTLED, PENDING]


async def test_08_what_was_paid_while_the_relay_was_away_is_hinted_at() -> None:
    async with setup(options=IMPATIENT) as ready:
        hints = ready.wallet.settlements()
        payment_hash = await made(ready)
        await ready.relay.stop()
        ready.shop.faults.drop_notifications = 1
        settle(ready, payment_hash)
        await ready.relay.start()
        async with asyncio.timeout(60):
            assert await anext(hints) == payment_hash


async def test_a_wallet_that_does_not_push_is_polled() -> None:
    async with setup(notifications=()) as ready:
        hints = ready.wallet.settlements()
        payment_hash = await made(ready)
        settle(ready, payment_hash)
        async with asyncio.timeout(60):
            assert await anext(hints) == payment_hash
        assert not (await ready.wallet.info()).capabilities.push


# --- hold invoices -------------------------------------------------------------------------------------


async def held(ready: Setup) -> tuple[str, str]:
    """The payment hash and the preimage of a new hold invoice, not paid yet."""
    preimage, payment_hash = secret()
    await ready.wallet.create_hold_invoice(21_000, payment_hash=payment_hash, description="a job", expiry=600)
    return payment_hash, preimage


async def test_accepted_and_settled_are_two_hints_however_often_they_are_pushed() -> None:
    async with setup() as ready:
        ready.shop.faults.duplicate_notifications = 2
        hints = ready.wallet.settlements()
        (first, preimage), (second, _) = await held(ready), await held(ready)
        settle(ready, first)
        await until(lambda: ready.shop.counters.notifications == 6)
        await ready.wallet.settle_hold(preimage)
        await until(lambda: ready.shop.counters.notifications == 12)
        settle(ready, second)
        async with asyncio.timeout(60):
            assert [await anext(hints) for _ in range(3)] == [first, first, second]


async def test_a_lie_that_a_hold_invoice_is_accepted_is_only_a_hint() -> None:
    async with setup() as ready:
        hints = ready.wallet.settlements()
        payment_hash, _ = await held(ready)
        invoice = ready.node.get(payment_hash)
        assert invoice is not None
        await ready.service.notify(ready.shop, "hold_invoice_accepted", invoice, settled_at=None)
        async with asyncio.timeout(60):
            assert await anext(hints) == payment_hash
        assert (await ready.wallet.lookup(payment_hash)).state is PENDING


async def test_08_a_lost_push_of_an_accepted_hold_invoice_is_found_by_the_sweep() -> None:
    async with setup() as ready:
        ready.shop.faults.drop_accepted = True
        (paid, _), (unpaid, _) = await held(ready), await held(ready)
        settle(ready, paid)
        found = await ready.wallet.lookup_many([paid, unpaid], int(time.time()) - 5)
        assert [found[h].state for h in (paid, unpaid)] == [HELD, PENDING]
        assert (found[paid].msat, found[paid].blocks_left) == (21_000, None)  # nothing was mined: no height is told
        ready.node.mine(10)
        assert (await ready.wallet.lookup(paid)).blocks_left in (None, 134)


async def test_a_late_push_of_an_accepted_hold_invoice_comes_after_it_is_cancelled() -> None:
    async with setup() as ready:
        ready.shop.faults.delay_accepted = 0.2
        hints = ready.wallet.settlements()
        payment_hash, _ = await held(ready)
        settle(ready, payment_hash)
        await ready.wallet.cancel_hold(payment_hash)
        async with asyncio.timeout(60):
            assert await anext(hints) == payment_hash
        assert (await ready.wallet.lookup(payment_hash)).state is FAILED


@pytest.mark.parametrize("notifications", [(), ("payment_received",)])
async def test_a_wallet_that_does_not_push_what_is_accepted_is_polled(notifications: tuple[str, ...]) -> None:
    async with setup(notifications=notifications) as ready:
        hints = ready.wallet.settlements()
        payment_hash, _ = await held(ready)
        settle(ready, payment_hash)
        async with asyncio.timeout(60):
            assert await anext(hints) == payment_hash
        assert (await ready.wallet.lookup(payment_hash)).state is HELD


async def test_what_was_accepted_while_the_relay_was_away_is_hinted_at() -> None:
    async with setup(options=IMPATIENT) as ready:
        hints = ready.wallet.settlements()
        payment_hash, _ = await held(ready)
        await ready.relay.stop()
        ready.shop.faults.drop_notifications = 1
        settle(ready, payment_hash)
        await ready.relay.start()
        async with asyncio.timeout(60):
            assert await anext(hints) == payment_hash
