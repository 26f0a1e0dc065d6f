"""phoenixd: the contract, and what is its own: its fee, its price of liquidity, its two passwords."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.phoenixd import Options, PhoenixdWallet
from dvm.lightning.registry import Setup, make_wallet
from tests.lightning.contract import Bench, WalletContract
from tests.lightning.serving import bench_of, serving
from tests.standins.loopback import Loopback
from tests.standins.phoenixd import FULL, LIMITED, Phoenixd, loopback

SETTLED = InvoiceState.SETTLED
QUICK = Options(timeout=20.0, pay_timeout=20.0, poll=20.0, backoff=0.01, max_backoff=0.05)
ENOUGH = 10_000  # msat: phoenixd's fee for what the tests pay


@asynccontextmanager
async def running(
    data: Path,
    node: Phoenixd | None = None,
    *,
    password: str = FULL,
    options: Options = QUICK,
    network: str | None = None,
) -> AsyncIterator[tuple[PhoenixdWallet, Phoenixd, Loopback]]:
    node = node or Phoenixd()
    server = loopback(node)
    async with serving(server, lambda url: PhoenixdWallet(Setup(url, password, data, network), options)) as wallet:
        yield wallet, node, server


class TestContract(WalletContract):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Bench]:
        async with running(tmp_path) as (wallet, node, _):
            yield bench_of(wallet, node)

    # Its fee is known beforehand and fixed, so these two need a limit that it does not exceed; and an amount
    # of which 0.4 % is a whole sat, since it tells its balance in sats.

    async def test_it_pays_once_and_says_so_when_asked_again(self, bench: Bench) -> None:
        bolt11 = await bench.invoice(250_000)
        before = (await bench.wallet.info()).balance_msat
        payment = await bench.wallet.pay(bolt11, fee_limit_msat=5_000)
        assert (payment.state, payment.fee_msat) == (SETTLED, 5_000)
        assert sha256(bytes.fromhex(payment.preimage or "")).hexdigest() == decode(bolt11).payment_hash
        assert str(payment.preimage) not in repr(payment)
        again = await bench.wallet.pay(bolt11, fee_limit_msat=5_000)
        assert (again.state, again.fee_msat) == (SETTLED, 5_000)
        after = (await bench.wallet.info()).balance_msat
        assert (before or 0) - (after or 0) == 255_000

    async def test_a_payment_can_be_asked_about_afterwards(self, bench: Bench) -> None:
        bolt11 = await bench.invoice(6_000)
        strange = await bench.wallet.payment(decode(bolt11).payment_hash)
        assert (strange.state, strange.known) == (InvoiceState.UNKNOWN, False)
        paid = await bench.wallet.pay(bolt11, fee_limit_msat=ENOUGH)
        found = await bench.wallet.payment(decode(bolt11).payment_hash)
        assert (found.state, found.known, found.fee_msat) == (SETTLED, True, paid.fee_msat)
        assert paid.fee_msat == 4_024
        assert sha256(bytes.fromhex(found.preimage or "")).hexdigest() == decode(bolt11).payment_hash


async def test_it_is_made_from_the_setup(tmp_path: Path) -> None:
    server = loopback(Phoenixd())
    await server.start()
    setup = Setup(server.url, FULL, tmp_path)
    wallet = make_wallet("phoenixd", setup)
    info = await wallet.info()
    assert (info.alias, info.network, info.balance_msat) == ("phoenixd 0.7.3", "regtest", 1_000_000_000)
    assert info.receivable_msat is None
    await wallet.close()
    await server.stop()
    for wrong in (replace(setup, url=None), replace(setup, secret=None)):
        with pytest.raises(WalletError):
            make_wallet("phoenixd", wrong)


async def test_a_description_is_cut_to_what_it_takes(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, _, _):
        for text, kept in (("ä" * 200, "ä" * 128), ("x" + "🍰" * 100, "x" + "🍰" * 63), ("", "")):
            invoice = await wallet.create_invoice(21_000, description=text, expiry=600)
            assert decode(invoice.bolt11).description == kept


async def test_the_operator_finds_our_invoices_among_phoenixds(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, _):
        invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
        assert node.incoming[invoice.payment_hash]["externalId"] == "dvm"


@pytest.mark.parametrize("fee", [1, 999, 1_234, 20_999, 5_000_000])
async def test_the_price_of_liquidity_is_not_the_customers(tmp_path: Path, fee: int) -> None:
    async with running(tmp_path, Phoenixd(liquidity=fee)) as (wallet, node, _):
        invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
        node.customer_pays(invoice.bolt11)
        found = await wallet.lookup(invoice.payment_hash)
        assert (found.state, found.msat) == (SETTLED, 21_000)
        del node.incoming[invoice.payment_hash]["requestedSat"]  # as older versions tell it
        assert (await wallet.lookup(invoice.payment_hash)).msat == 21_000
        many = await wallet.lookup_many([invoice.payment_hash], int(time.time()))
        assert many[invoice.payment_hash].msat == 21_000


async def test_its_fee_is_refused_before_anything_leaves(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, server):
        bolt11 = node.customer_invoice(250_000)
        with pytest.raises(WalletError, match=r"fee is 0.4 % and 4 sat: 5000 msat for 250000 msat.*fee_sats = 7"):
            await wallet.pay(bolt11, fee_limit_msat=4_999)
        assert server.calls["/payinvoice"] == 0
        assert (await wallet.pay(bolt11, fee_limit_msat=5_000)).state is SETTLED
        assert (await wallet.pay(bolt11, fee_limit_msat=0)).state is SETTLED  # it was paid, and stays so


async def test_seven_sats_or_one_per_cent_pay_any_amount(tmp_path: Path) -> None:
    from dvm.lightning.phoenixd_pay import fee_of

    assert all(fee_of(sat * 1_000) <= max(7_000, sat * 10) for sat in range(1, 100_000, 7))


async def test_the_limited_password_sells_and_pays_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, password=LIMITED) as (wallet, node, _):
        assert not (await wallet.info()).capabilities.pay
        invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
        node.customer_pays(invoice.bolt11)
        assert (await wallet.lookup(invoice.payment_hash)).state is SETTLED
        bolt11 = node.customer_invoice(5_000)
        with pytest.raises(WalletError, match="restricted: this password may not pay"):
            await wallet.pay(bolt11, fee_limit_msat=ENOUGH)
        assert not (await wallet.payment(decode(bolt11).payment_hash)).known


async def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, password="somebody else's") as (wallet, _, _):
        for asked in (wallet.info(), wallet.create_invoice(21_000, description="a job", expiry=600)):
            with pytest.raises(WalletError, match=r"unauthorized: the password is refused.*phoenix\.conf") as refused:
                await asked
            assert "somebody" not in str(refused.value)


async def test_another_network_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, network="mainnet") as (wallet, _, _):
        with pytest.raises(WalletError, match="an invoice for regtest, and mainnet is expected"):
            await wallet.create_invoice(21_000, description="a job", expiry=600)


async def test_a_version_that_does_not_tell_of_payments_pays_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, Phoenixd(without=frozenset({"payments/outgoingbyhash"}))) as (wallet, node, _):
        bolt11 = node.customer_invoice(5_000)
        with pytest.raises(WalletError, match="unsupported"):
            await wallet.pay(bolt11, fee_limit_msat=ENOUGH)
        found = await wallet.payment(decode(bolt11).payment_hash)
        assert found.state is InvoiceState.UNKNOWN
        assert found.known
        assert node.outgoing == []
