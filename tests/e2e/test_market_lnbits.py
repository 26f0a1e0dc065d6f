"""Everything that can be sold and paid back, with a real LNbits that is stopped and started in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.market import Wallets, market
from tests.standins.lnbits import Lnbits, running_lnbits
from tests.standins.relay import TestRelay

pytestmark = pytest.mark.lnbits


@pytest.fixture(scope="module")
def lnbits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lnbits]:
    with running_lnbits(tmp_path_factory.mktemp("lnbits")) as server:
        yield server


async def test_jobs_zaps_top_ups_and_withdrawals_while_lnbits_comes_and_goes(
    relay: TestRelay, lnbits: Lnbits, tmp_path: Path
) -> None:
    async def pay(bolt11: str) -> None:
        await lnbits.pay(lnbits.customer, bolt11)

    async def invoice(msat: int) -> str:
        return await lnbits.invoice(lnbits.customer, msat // 1000)

    table = {"type": "lnbits", "url": lnbits.url, "timeout_seconds": 5}
    wallets = Wallets(table, {"DVM_LNBITS_KEY": lnbits.shop.admin}, pay, invoice)
    async with market(tmp_path / "shop", relay.url, wallets) as each:
        await each.buy()
        # Quoted while it was there, paid while the shop was away.
        job = await each.ask()
        quote = await each.buyer.quote(job)
        assert quote.bolt11 is not None
        assert await each.shop.end() == 0
        await each.pay(quote.bolt11)
        await each.shop.start()
        await each.buyer.result(job, 60)
        await each.buyer.receipt(job, 60)
        # Asked for while LNbits is away: quoted once it is back.
        await asyncio.to_thread(lnbits.stop)
        job = await each.ask()
        await each.shop.said("the wallet does not answer; trying again: see `dvm doctor`")
        await asyncio.to_thread(lnbits.start)
        quote = await each.buyer.quote(job, 60)
        assert quote.bolt11 is not None
        await each.pay(quote.bolt11)
        await each.buyer.receipt(job, 60)
        await each.buy_by_zap()
        topped = await each.top_up(300_000)
        await each.spend()
        await each.withdraw(100_000)
        # A withdrawal that is asked for while LNbits is away is refused, or waits; it is never paid twice.
        bolt11 = await each.wallets.invoice(50_000)
        await asyncio.to_thread(lnbits.stop)
        request = await each.ask_to_withdraw(bolt11)
        await each.answer(request, "processing")
        await asyncio.to_thread(lnbits.start)
        answer = await each.answer(request, "success")
        assert answer.withdrawal is not None
        assert answer.withdrawal.state == "paid"
        left = (await each.spend()).after
        assert left < topped.after - 150_000
        accounts = await each.books_are_right()
        assert accounts["customers"] == left
