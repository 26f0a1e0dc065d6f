"""LND itself: two nodes on a private chain, with a channel between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dvm.lightning.base import Capabilities, WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.lnd import LndWallet
from dvm.lightning.lnd_client import for_path
from dvm.lightning.lnd_macaroon import parse
from dvm.lightning.lnd_stream import Pace
from tests.lightning.contract import FAILED, PENDING, SETTLED, Bench, WalletContract
from tests.lightning.hold_contract import HELD, HoldBench, HoldContract, accepted, reaches, secret
from tests.standins.lnd_pair import Lnd, LndPair, lnd_pair
from tests.standins.waiting import until

pytestmark = [pytest.mark.lnd, pytest.mark.asyncio(loop_scope="module")]

QUICK = Pace(silence=5.0, backoff=0.05, longest=0.5, poll=0.2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LndPair]:
    async with lnd_pair(tmp_path_factory.mktemp("lnd")) as each:
        yield each


def wallet_of(node: Lnd, data: Path, *, macaroon: str = "admin", timeout: float = 20.0) -> LndWallet:
    return LndWallet(
        node.url, parse(node.macaroon(macaroon)), data, tls_cert=node.tls_cert, timeout=timeout, pace=QUICK
    )


@pytest_asyncio.fixture(loop_scope="module")
async def shop(pair: LndPair, tmp_path: Path) -> AsyncIterator[LndWallet]:
    wallet = wallet_of(pair.shop, tmp_path)
    await wallet.start()
    yield wallet
    await wallet.close()


@pytest_asyncio.fixture(loop_scope="module")
async def customer(pair: LndPair, tmp_path: Path) -> AsyncIterator[LndWallet]:
    data = tmp_path / "customer"
    data.mkdir()
    wallet = wallet_of(pair.customer, data)
    await wallet.start()
    yield wallet
    await wallet.close()


@pytest_asyncio.fixture(loop_scope="module")
async def bench(shop: LndWallet, customer: LndWallet) -> Bench:
    async def pay(bolt11: str) -> None:
        assert (await customer.pay(bolt11, fee_limit_msat=1_000)).state is SETTLED

    async def invoice(msat: int) -> str:
        return (await customer.create_invoice(msat, description="change", expiry=600)).bolt11

    return Bench(shop, pay, invoice)


@pytest_asyncio.fixture(loop_scope="module")
async def hold_bench(shop: LndWallet, customer: LndWallet) -> HoldBench:
    async def pay(bolt11: str) -> str | None:
        try:
            return (await customer.pay(bolt11, fee_limit_msat=1_000)).preimage
        except WalletError:
            return None

    async def balance() -> int:
        return (await customer.info()).balance_msat or 0

    return HoldBench(shop, pay, balance)


class TestLnd(WalletContract):
    """The contract, over a real channel."""


class TestLndHold(HoldContract):
    """And that of hold invoices."""


async def test_it_tells_what_the_node_is_and_has(shop: LndWallet) -> None:
    info = await shop.info()
    assert (info.alias, info.network) == ("shop", "regtest")
    assert info.balance_msat is not None
    assert 4_000_000_000 < info.balance_msat < 6_000_000_000
    assert info.receivable_msat is not None
    assert 4_000_000_000 < info.receivable_msat < 5_000_000_000  # the other side keeps a reserve
    assert info.capabilities == Capabilities(push=True, description_hash=True, pay=True, hold=True)


async def test_its_own_macaroons_are_read_for_what_they_may_do(pair: LndPair, tmp_path: Path) -> None:
    readonly = wallet_of(pair.shop, tmp_path, macaroon="readonly")
    assert (await readonly.info()).capabilities == Capabilities(push=True, description_hash=True)
    with pytest.raises(WalletError, match="bakemacaroon") as refused:
        await readonly.create_invoice(21_000, description="a job", expiry=600)
    assert refused.value.code == "restricted"
    with pytest.raises(WalletError) as refused:
        await readonly.create_hold_invoice(21_000, payment_hash=secret()[1], description="a job", expiry=600)
    assert refused.value.code == "restricted"
    await readonly.close()
    assert not parse(pair.shop.macaroon("invoice")).may("offchain", "write", "")
    assert parse(pair.shop.macaroon("invoice")).may("invoices", "write", "")


async def test_each_usual_mistake_is_named(pair: LndPair, tmp_path: Path) -> None:
    async def said(url: str, macaroon: str, cert: Path | None) -> WalletError:
        wallet = LndWallet(url, parse(macaroon), tmp_path, tls_cert=cert, timeout=5.0)
        with pytest.raises(WalletError) as failed:
            await wallet.info()
        await wallet.close()
        assert macaroon not in str(failed.value)
        return failed.value

    node, other = pair.shop, pair.customer
    stranger = await said(node.url, other.macaroon(), node.tls_cert)
    assert (stranger.code, "not this node's" in str(stranger)) == ("unauthorized", True)
    nonsense = await said(node.url, "02" * 40, node.tls_cert)
    assert nonsense.code == "unauthorized"
    for cert in (None, other.tls_cert):
        assert "tls_cert_file" in str(await said(node.url, node.macaroon(), cert))
    assert "https" in str(await said(node.url.replace("https", "http"), node.macaroon(), None))
    grpc = await said(f"https://127.0.0.1:{node.rpc}", node.macaroon(), node.tls_cert)
    assert grpc.code in ("unreachable", "failed", "unsupported", "untrustworthy")
    limited = await said(node.url, node.macaroon("router"), node.tls_cert)
    assert (limited.code, "bakemacaroon" in str(limited)) == ("restricted", True)


async def test_an_expired_invoice_has_failed_once_lnd_has_closed_it(shop: LndWallet) -> None:
    invoice = await shop.create_invoice(21_000, description="a job", expiry=1)
    async with asyncio.timeout(60):
        while (found := await shop.lookup(invoice.payment_hash)).state is not FAILED:
            assert found.state is PENDING
            await asyncio.sleep(0.1)


async def test_what_settles_while_we_are_away_is_told_once(pair: LndPair, bench: Bench, tmp_path: Path) -> None:
    """money.md 8 and 19: over a restart of ours, and over one of LND's."""
    data = tmp_path / "till"
    data.mkdir()
    sold: list[str] = []
    told: list[str] = []

    async def sell() -> None:
        invoice = await bench.wallet.create_invoice(21_000, description="a job", expiry=600)
        sold.append(invoice.payment_hash)
        await bench.pay(invoice.bolt11)

    async def read(hints: AsyncIterator[str]) -> None:
        async for payment_hash in hints:
            if payment_hash in sold or told:  # the first time, LND's settlements of before are told as well
                told.append(payment_hash)

    async def caught_up() -> None:
        await until(lambda: told == sold, 30)

    for _ in range(3):
        till = wallet_of(pair.shop, data)
        await till.start()
        reading = asyncio.create_task(read(till.settlements()))
        await caught_up()
        await sell()
        await sell()
        await caught_up()
        await till.close()
        await reading
        await sell()
    till = wallet_of(pair.shop, data)
    await till.start()
    reading = asyncio.create_task(read(till.settlements()))
    await caught_up()
    await pair.shop.daemon.stop()
    await pair.shop.daemon.start()
    await pair.shop.ready()
    await pair.reconnect()
    await sell()
    await caught_up()
    await till.close()
    await reading


async def test_a_failed_attempt_can_be_told_from_the_next(pair: LndPair, shop: LndWallet, customer: LndWallet) -> None:
    """On that rests what `Payments` says of an attempt that got lost."""
    preimage, payment_hash = secret()
    invoice = await customer.create_hold_invoice(5_000, payment_hash=payment_hash, description="no", expiry=600)
    await customer.cancel_hold(payment_hash)
    indexes = []
    for _ in range(2):
        assert (await shop.pay(invoice.bolt11, fee_limit_msat=0)).state is FAILED
        assert (await shop.payment(payment_hash)).state is FAILED
        indexes.append((await pair.shop.call("GET", f"/v2/router/track/{for_path(payment_hash)}"))["result"])
    assert len({each["payment_index"] for each in indexes}) == 2
    assert preimage not in str(indexes)


async def test_more_than_there_is_cannot_be_sent(shop: LndWallet, bench: Bench) -> None:
    before = (await shop.info()).balance_msat
    bolt11 = await bench.invoice(9_000_000_000)
    with pytest.raises(WalletError) as failed:
        await shop.pay(bolt11, fee_limit_msat=1_000)
    assert failed.value.code == "insufficient"
    assert (await shop.payment(decode(bolt11).payment_hash)).state is FAILED
    assert (await shop.info()).balance_msat == before


async def test_a_payment_under_way_is_pending_and_is_not_made_again(
    pair: LndPair, customer: LndWallet, tmp_path: Path
) -> None:
    """money.md 7 and 15: the payee holds it, and the link between is cut meanwhile."""
    payer = wallet_of(pair.shop, tmp_path, timeout=1.0)
    preimage, payment_hash = secret()
    invoice = await customer.create_hold_invoice(5_000, payment_hash=payment_hash, description="slow", expiry=600)
    paying = asyncio.ensure_future(payer.pay(invoice.bolt11, fee_limit_msat=0))
    async with asyncio.timeout(60):
        while (await customer.lookup(payment_hash)).state is not HELD:
            await asyncio.sleep(0.02)
    await pair.shop.disconnect(pair.customer)
    assert (await paying).state is PENDING
    assert (await payer.pay(invoice.bolt11, fee_limit_msat=0)).state is PENDING
    assert (await payer.payment(payment_hash)).state is PENDING
    await customer.settle_hold(preimage)
    await pair.reconnect()
    async with asyncio.timeout(30):
        while (await payer.payment(payment_hash)).state is not SETTLED:
            await asyncio.sleep(0.05)
    assert (await payer.pay(invoice.bolt11, fee_limit_msat=0)).preimage == preimage
    await payer.close()


async def test_what_is_held_goes_back_in_the_block_that_was_told(pair: LndPair, hold_bench: HoldBench) -> None:
    """LND cancels a hold invoice some blocks before its HTLC times out: that is the time that we have."""
    hints = hold_bench.wallet.settlements()
    async with accepted(hold_bench) as held:
        payment_hash = held.invoice.payment_hash
        async with asyncio.timeout(60):
            while await anext(hints) != payment_hash:
                pass
        left = (await hold_bench.wallet.lookup(payment_hash)).blocks_left
        assert left is not None
        assert left > 60
        await pair.mine(left - 1)
        found = await hold_bench.wallet.lookup(payment_hash)
        assert (found.state, found.blocks_left) == (HELD, 1)
        await pair.mine(1)
        await reaches(hold_bench, payment_hash, FAILED)
        assert await held.outcome() is None
