"""Reconciling open quotes costs a wallet as many calls with many as with few (money.md 28): each wallet's, counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dvm.lightning import cln_sweep, phoenixd_received
from dvm.lightning.base import HoldWallet, Invoice, InvoiceState, Wallet
from dvm.lightning.cln import ClnWallet
from dvm.lightning.lnbits import LnbitsWallet
from dvm.lightning.lnd import LndWallet
from dvm.lightning.lnd_macaroon import parse
from dvm.lightning.nwc import NwcWallet
from dvm.lightning.nwc_client import Options as NwcOptions
from dvm.lightning.phoenixd import PhoenixdWallet
from dvm.lightning.registry import Setup
from tests.lightning import connected, lnbits_place, lnd_node, test_cln, test_phoenixd
from tests.lightning.contract import PENDING, SETTLED
from tests.lightning.serving import Node
from tests.standins.lnd import lnd_standin
from tests.standins.loopback import Loopback
from tests.standins.waiting import until

FEW, MANY = 10, 130
PAGE = 20  # so that many are many pages
PAID = 3
SWEEPS = 3


@dataclass
class Place:
    """A wallet, another process's wallet on the same node, who pays, and the calls until now, those apart that come
    by themselves."""

    wallet: Wallet
    again: Callable[[], AbstractAsyncContextManager[Wallet]]
    pay: Callable[[Invoice], Awaitable[object]]
    calls: Callable[[], int]


@asynccontextmanager
async def nwc(data: Path, options: NwcOptions) -> AsyncIterator[Place]:
    async with connected.setup(options=options) as ready:

        async def pay(invoice: Invoice) -> None:
            ready.shop.faults.drop_notifications = True
            connected.settle(ready, invoice.payment_hash)

        @asynccontextmanager
        async def again() -> AsyncIterator[Wallet]:
            wallet = NwcWallet(ready.shop.connection.uri(), options=options)
            async with _running(wallet):
                yield wallet

        yield Place(ready.wallet, again, pay, lambda: ready.shop.counters.requests)


def nwc_place(data: Path) -> AbstractAsyncContextManager[Place]:
    return nwc(data, NwcOptions(timeout=10.0, page=PAGE))


@asynccontextmanager
async def lnd(data: Path) -> AsyncIterator[Place]:
    async with lnd_standin() as node:

        @asynccontextmanager
        async def another(data: Path) -> AsyncIterator[Wallet]:
            wallet = LndWallet(node.url, parse(node.admin), data, timeout=10.0, pace=lnd_node.QUICK)
            wallet._lookups._page = PAGE
            async with _running(wallet):
                reader = asyncio.create_task(_read(wallet))
                await until(lambda: wallet._stream.live)
                try:
                    yield wallet
                finally:
                    reader.cancel()

        async def pay(invoice: Invoice) -> None:
            await node.books.receive(invoice.bolt11)

        def calls() -> int:
            return sum(count for path, count in node.calls.items() if "subscribe" not in path)

        async with another(data) as wallet:
            yield Place(wallet, lambda: another(data), pay, calls)


@asynccontextmanager
async def cln(data: Path) -> AsyncIterator[Place]:
    async with test_cln.running(data) as (wallet, node, server):
        setup = Setup(server.url, test_cln.FULL, data)
        yield _place(wallet, lambda: ClnWallet(setup, test_cln.QUICK), node, server, by_itself="waitanyinvoice")


@asynccontextmanager
async def lnbits(data: Path) -> AsyncIterator[Place]:
    options = lnbits_place.Options(page=PAGE)
    async with lnbits_place.place(data, options) as here:
        setup = Setup(here.server.url, lnbits_place.ADMIN, data)

        def again() -> AbstractAsyncContextManager[Wallet]:
            return _running(LnbitsWallet(setup, options))

        async def pay(invoice: Invoice) -> None:
            await here.node.customer_pays(invoice.payment_hash)

        yield Place(here.wallet, again, pay, lambda: _count(here.server.calls, without="/ws/"))


@asynccontextmanager
async def phoenixd(data: Path) -> AsyncIterator[Place]:
    async with test_phoenixd.running(data) as (wallet, node, server):
        setup = Setup(server.url, test_phoenixd.FULL, data)
        yield _place(wallet, lambda: PhoenixdWallet(setup, test_phoenixd.QUICK), node, server, by_itself="websocket")


@pytest.mark.parametrize("make", [nwc_place, lnd, cln, lnbits, phoenixd])
async def test_28_many_open_invoices_cost_as_many_calls_as_few(
    make: Callable[[Path], AbstractAsyncContextManager[Place]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cln_sweep, "PAGE", PAGE)
    monkeypatch.setattr(phoenixd_received, "PAGE", PAGE)
    costs = []
    for number in (FEW, MANY):
        data = tmp_path / str(number)
        data.mkdir()
        async with make(data) as place:
            since = int(time.time())
            made = [await place.wallet.create_invoice(1_000, description="a job", expiry=600) for _ in range(number)]
            cost = [await _sweeps(place, place.wallet, made, since)]
            for invoice in made[: -PAID - 1 : -1]:
                await place.pay(invoice)
            cost.append(await _sweeps(place, place.wallet, made, since, PAID))
            async with place.again() as wallet:  # which has made none of them
                cost.append(await _sweeps(place, wallet, made, since, PAID))
            costs.append(cost)
    assert costs[0] == costs[1]


async def _sweeps(place: Place, wallet: Wallet, made: list[Invoice], since: int, paid: int = 0) -> list[int]:
    """The calls of each of some sweeps once what is paid is known, and that they find it, and nothing else."""
    right = [PENDING] * (len(made) - paid) + [SETTLED] * paid
    async with asyncio.timeout(60):
        while await _found(wallet, made, since) != right:  # LND's stream may have to tell first
            pass
    costs = []
    for _ in range(SWEEPS):
        before = place.calls()
        found = await _found(wallet, made, since)
        costs.append(place.calls() - before)
        assert found == right
    return costs


async def _found(wallet: Wallet, made: list[Invoice], since: int) -> list[InvoiceState]:
    hashes = [invoice.payment_hash for invoice in made]
    holds = {"holds": ()} if isinstance(wallet, HoldWallet) else {}  # as Settlements asks
    found = await wallet.lookup_many(hashes, since, **holds)
    return [found[each].state for each in hashes]


def _place(wallet: Wallet, make: Callable[[], Wallet], node: Node, server: Loopback, *, by_itself: str) -> Place:
    async def pay(invoice: Invoice) -> None:
        node.customer_pays(invoice.bolt11)

    return Place(wallet, lambda: _running(make()), pay, lambda: _count(server.calls, without=by_itself))


@asynccontextmanager
async def _running(wallet: Wallet) -> AsyncIterator[Wallet]:
    await wallet.start()
    try:
        yield wallet
    finally:
        await wallet.close()


async def _read(wallet: Wallet) -> None:
    async for _ in wallet.settlements():
        pass


def _count(calls: Counter[str], *, without: str) -> int:
    return sum(count for path, count in calls.items() if without not in path)
