"""The wallet against a real LNbits: the contract, both kinds of key, and a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.lnbits import LnbitsWallet, Options
from dvm.lightning.registry import Setup
from tests.lightning.contract import Bench, WalletContract
from tests.standins.lnbits import Keys, Lnbits, running_lnbits
from tests.standins.waiting import until

pytestmark = pytest.mark.lnbits

QUICK = Options(backoff=0.05, max_backoff=0.2, poll=0.1)


@pytest.fixture(scope="module")
def lnbits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lnbits]:
    with running_lnbits(tmp_path_factory.mktemp("lnbits")) as server:
        yield server


@asynccontextmanager
async def connected(server: Lnbits, key: str, data: Path) -> AsyncIterator[LnbitsWallet]:
    wallet = LnbitsWallet(Setup(server.url, key, data), QUICK)
    await wallet.start()
    try:
        yield wallet
    finally:
        await wallet.close()


@pytest.fixture
async def wallet(lnbits: Lnbits, tmp_path: Path) -> AsyncIterator[LnbitsWallet]:
    async with connected(lnbits, lnbits.shop.admin, tmp_path) as wallet:
        yield wallet


class TestLnbits(WalletContract):
    @pytest.fixture
    async def bench(self, lnbits: Lnbits, wallet: LnbitsWallet) -> Bench:
        async def invoice(msat: int) -> str:
            return await lnbits.invoice(lnbits.customer, msat // 1_000)

        return Bench(wallet, lambda bolt11: lnbits.pay(lnbits.customer, bolt11), invoice)


async def test_what_the_key_may_do_is_told(lnbits: Lnbits, tmp_path: Path) -> None:
    for key, may_pay in ((lnbits.shop.admin, True), (lnbits.shop.invoice, False)):
        async with connected(lnbits, key, tmp_path) as wallet:
            info = await wallet.info()
            able = info.capabilities
            assert (able.push, able.description_hash, able.pay, able.hold) == (True, True, may_pay, False)
            assert (info.alias, info.network, info.receivable_msat) == ("shop", "regtest", None)
            assert info.balance_msat


async def test_an_invoice_key_sells_and_cannot_pay(lnbits: Lnbits, tmp_path: Path) -> None:
    async with connected(lnbits, lnbits.shop.invoice, tmp_path) as wallet:
        hints = wallet.settlements()
        invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
        await lnbits.pay(lnbits.customer, invoice.bolt11)
        async with asyncio.timeout(60):
            while await anext(hints) != invoice.payment_hash:
                pass
        assert (await wallet.lookup(invoice.payment_hash)).state is InvoiceState.SETTLED
        with pytest.raises(WalletError, match="restricted"):
            await wallet.pay(await lnbits.invoice(lnbits.customer, 5), fee_limit_msat=1_000)


async def test_a_wrong_key_is_told_as_one(lnbits: Lnbits, tmp_path: Path, wallet: LnbitsWallet) -> None:
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
    await lnbits.pay(lnbits.customer, invoice.bolt11)
    bolt11 = await lnbits.invoice(lnbits.customer, 5)
    async with connected(lnbits, "0" * 32, tmp_path) as stranger:
        for asked in (
            stranger.info(),
            stranger.create_invoice(1_000, description="", expiry=60),
            stranger.pay(bolt11, fee_limit_msat=5_000),
        ):
            with pytest.raises(WalletError, match="unauthorized: LNbits knows no wallet with this key"):
                await asked
        # LNbits tells anybody that a payment was made, but not whose it is.
        assert (await stranger.lookup(invoice.payment_hash)).state is InvoiceState.UNKNOWN
        found = await stranger.lookup_many([invoice.payment_hash], int(time.time()))
        assert found[invoice.payment_hash].state is InvoiceState.UNKNOWN


async def test_a_description_that_is_hashed_may_come_with_its_text(wallet: LnbitsWallet) -> None:
    digest = sha256(b"a zap request").hexdigest()
    invoice = await wallet.create_invoice(21_000, description="a zap request", description_hash=digest, expiry=600)
    assert decode(invoice.bolt11).description_hash == digest


async def test_an_expired_invoice_can_be_paid_from_within_until_it_is_asked_about(
    lnbits: Lnbits, wallet: LnbitsWallet
) -> None:
    asked, unasked = [await wallet.create_invoice(3_000, description="soon over", expiry=2) for _ in range(2)]
    await asyncio.sleep(max(asked.expires_at, unasked.expires_at) - time.time() + 0.1)
    assert (await wallet.lookup(asked.payment_hash)).state is InvoiceState.FAILED
    await lnbits.pay(lnbits.customer, unasked.bolt11)
    found = await wallet.lookup_many([asked.payment_hash, unasked.payment_hash], asked.created_at)
    assert [each.state for each in found.values()] == [InvoiceState.FAILED, InvoiceState.SETTLED]
    # LNbits says "created" to whoever pays the other one now, and gives the old row back: nothing was paid.
    assert (await lnbits.pay(lnbits.customer, asked.bolt11))["status"] == "failed"
    assert (await wallet.lookup(asked.payment_hash)).state is InvoiceState.FAILED


async def test_a_payment_to_itself_is_both_received_and_paid(wallet: LnbitsWallet) -> None:
    invoice = await wallet.create_invoice(4_000, description="to myself", expiry=600)
    assert (await wallet.pay(invoice.bolt11, fee_limit_msat=1_000)).state is InvoiceState.SETTLED
    assert (await wallet.lookup(invoice.payment_hash)).msat == 4_000
    assert (await wallet.payment(invoice.payment_hash)).state is InvoiceState.SETTLED


async def test_more_than_it_has_is_not_paid(lnbits: Lnbits, wallet: LnbitsWallet) -> None:
    bolt11 = await lnbits.invoice(lnbits.customer, 500_000)
    with pytest.raises(WalletError, match="insufficient"):
        await wallet.pay(bolt11, fee_limit_msat=5_000_000)
    assert not (await wallet.payment(decode(bolt11).payment_hash)).known


async def test_a_fee_reserve_above_the_limit_is_refused_before_anything_is_paid(
    lnbits: Lnbits, wallet: LnbitsWallet
) -> None:
    bolt11 = await lnbits.invoice(lnbits.customer, 1_000)
    with pytest.raises(WalletError, match="may spend up to 10000 msat on fees, and 9999 are allowed"):
        await wallet.pay(bolt11, fee_limit_msat=9_999)
    assert (await wallet.pay(bolt11, fee_limit_msat=10_000)).state is InvoiceState.SETTLED
    assert (await wallet.pay(bolt11, fee_limit_msat=0)).state is InvoiceState.SETTLED, "it was paid before"


async def test_many_open_invoices_cost_no_more_calls_than_a_few(
    lnbits: Lnbits, wallet: LnbitsWallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    get = wallet._rest.get

    async def counted(path: str, params: object = None) -> object:
        calls.append(path)
        return await get(path, params)  # type: ignore[arg-type]

    monkeypatch.setattr(wallet._rest, "get", counted)
    since = int(time.time())
    spent = []
    for open_ones in (10, 30):
        made = [await wallet.create_invoice(1_000, description="open", expiry=600) for _ in range(open_ones)]
        await lnbits.pay(lnbits.customer, made[-1].bolt11)
        calls.clear()
        found = await wallet.lookup_many([each.payment_hash for each in made], since)
        spent.append(len(calls))
        assert [each for each, lookup in found.items() if lookup.state is InvoiceState.SETTLED] == [
            made[-1].payment_hash
        ]
    assert spent == [6, 6]


def keys_of(server: Lnbits) -> list[str]:
    def of(keys: Keys) -> list[str]:
        return [keys.admin, keys.invoice]

    return [*of(server.shop), *of(server.customer)]


async def test_a_restart_loses_neither_what_was_paid_before_nor_what_is_paid_after(
    tmp_path: Path, lnbits: Lnbits, caplog: pytest.LogCaptureFixture
) -> None:
    """What settles while nobody of ours listens is told after the next start."""
    caplog.set_level("DEBUG")
    data = tmp_path / "data"
    data.mkdir()
    async with connected(lnbits, lnbits.shop.admin, data) as wallet:
        hints = wallet.settlements()
        before, between, after = [
            await wallet.create_invoice(1_000 * n, description="a job", expiry=600) for n in (1, 2, 3)
        ]
        await lnbits.pay(lnbits.customer, before.bolt11)
        async with asyncio.timeout(60):
            while await anext(hints) != before.payment_hash:
                pass
        await until(lambda: list(data.glob("wallet-lnbits.json")))
        await asyncio.to_thread(lnbits.stop)
        assert (await wallet.lookup(between.payment_hash)).state is InvoiceState.UNKNOWN
        with pytest.raises(WalletError, match="unreachable"):
            await wallet.create_invoice(1_000, description="a job", expiry=600)
        await asyncio.to_thread(lnbits.start)
        assert (await wallet.lookup(before.payment_hash)).state is InvoiceState.SETTLED
        await lnbits.pay(lnbits.customer, between.bolt11)
        async with asyncio.timeout(60):
            while await anext(hints) != between.payment_hash:
                pass
    await lnbits.pay(lnbits.customer, after.bolt11)
    async with connected(lnbits, lnbits.shop.admin, data) as wallet:
        hints = wallet.settlements()
        async with asyncio.timeout(60):
            while await anext(hints) != after.payment_hash:
                pass
    for key in keys_of(lnbits):
        assert key not in caplog.text
        assert not any(key in file.read_text() for file in data.iterdir())
