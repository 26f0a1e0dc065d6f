"""LND itself: two nodes on a private chain, with a channel between them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
import pytest_asyncio

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.lnd import LndWallet
from dvm.lightning.lnd_invoices import EXPIRY_DELTA
from dvm.lightning.lnd_stream import Pace
from dvm.lightning.registry import Setup, make_wallet
from tests.lightning.contract import FAILED, PENDING, SETTLED, UNKNOWN, Bench, WalletContract
from tests.lightning.hold_contract import HELD, HoldBench, HoldContract, accepted, hold_invoice, reaches, secret
from tests.standins.lnd_pair import Lnd, LndPair, lnd_pair
from tests.standins.waiting import until

pytestmark = [pytest.mark.lnd, pytest.mark.asyncio(loop_scope="module")]

QUICK = Pace(silence=5.0, backoff=0.05, longest=0.5, poll=0.2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LndPair]:
    async with lnd_pair(tmp_path_factory.mktemp("lnd")) as each:
        yield each


def wallet_of(node: Lnd, data: Path, *, macaroon: str = "admin", timeout: float = 20.0) -> LndWallet:
    from dvm.lightning.lnd_macaroon import parse

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
