"""Everything that can be sold and paid back, with a paper wallet behind NIP-47 that comes and goes."""

from __future__ import annotations

import json
from pathlib import Path

from dvm.lightning.nwc import NwcWallet
from tests.e2e.conftest import WalletProcess
from tests.e2e.market import Wallets, market
from tests.standins.relay import TestRelay


async def test_jobs_zaps_top_ups_and_withdrawals_over_restarts(
    relay: TestRelay, wallet: WalletProcess, tmp_path: Path
) -> None:
    mine = NwcWallet(json.loads(wallet.lines[-1])["customer"], network="regtest")
    await mine.start()

    async def invoice(msat: int) -> str:
        return (await mine.create_invoice(msat, description="mine", expiry=600)).bolt11

    async def pay(bolt11: str) -> None:
        await wallet.pay(bolt11)

    wallets = Wallets({"type": "nwc"}, {"DVM_NWC_URI": wallet.uri}, pay, invoice)
    try:
        async with market(tmp_path / "shop", relay.url, wallets) as each:
            await each.buy()
            await wallet.kill()
            await wallet.start()
            await each.buy_by_zap()
            receipt = await each.top_up(500_000)
            await each.spend()
            await each.withdraw(100_000)
            await wallet.kill()
            await wallet.start()
            await each.withdraw(50_000)
            assert await each.shop.end() == 0
            await each.shop.start()
            left = (await each.spend()).after
            assert left < receipt.after - 150_000
            accounts = await each.books_are_right()
            assert accounts["customers"] == left
            assert sum(accounts.values()) == 0
    finally:
        await mine.close()
