"""A wallet behind NIP-47 on a real relay, both ends in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dvm.lightning import bolt11
from dvm.lightning.nwc import NwcWallet
from dvm.lightning.nwc_client import Options
from dvm.lightning.paper_node import PaperNode
from dvm.lightning.paper_service import BOTH, PaperService, Served
from dvm.nostr.encryption import Scheme
from tests.standins.relay import Nip42, TestRelay, running_relay

Body = dict[str, Any]

QUICK = Options(timeout=10.0, pay_timeout=10.0, resend=0.5, backoff=0.02, poll=0.05, lookups=5)
# For tests in which no answer comes: long enough for one that does.
IMPATIENT = Options(timeout=1.0, pay_timeout=1.0, resend=0.3, backoff=0.02, poll=0.05, lookups=5)


@dataclass
class Setup:
    """A relay, a paper node behind NIP-47 on it, and our wallet, which is the shop's. The customer has a
    connection as well."""

    relay: TestRelay
    node: PaperNode
    service: PaperService
    shop: Served
    customer: Served
    wallet: NwcWallet


@asynccontextmanager
async def setup(
    schemes: Sequence[Scheme] = BOTH, options: Options = QUICK, *, nip42: Nip42 | None = None, **connection: object
) -> AsyncIterator[Setup]:
    async with running_relay(nip42) as relay:
        node = PaperNode()
        node.open_wallet("shop", 1_000_000)
        node.open_wallet("customer", 10_000_000)
        service = PaperService(node, [relay.url])
        shop = service.connect("shop", schemes=schemes, **connection)  # type: ignore[arg-type]
        customer = service.connect("customer", schemes=schemes)
        await service.start()
        wallet = NwcWallet(shop.connection.uri(), options=options)
        await wallet.start()
        try:
            yield Setup(relay, node, service, shop, customer, wallet)
        finally:
            await wallet.close()
            await service.close()


@asynccontextmanager
async def payer(ready: Setup, options: Options = QUICK) -> AsyncIterator[NwcWallet]:
    """The customer's wallet."""
    wallet = NwcWallet(ready.customer.connection.uri(), options=options)
    await wallet.start()
    try:
        yield wallet
    finally:
        await wallet.close()


async def made(ready: Setup, msat: int = 21_000) -> str:
    """The payment hash of a new invoice of the shop's."""
    return (await ready.wallet.create_invoice(msat, description="a job", expiry=600)).payment_hash


def settle(ready: Setup, payment_hash: str) -> None:
    """The customer pays it."""
    invoice = ready.node.get(payment_hash)
    assert invoice is not None
    ready.node.pay(invoice.bolt11, payer="customer")


def asked(ready: Setup, msat: int = 5_000) -> str:
    """An invoice of the customer's."""
    return ready.node.make("customer", msat, description="change", expiry=600).bolt11


def result(change: Callable[[Body], Body]) -> Callable[[str, Body], Body]:
    """A fault that changes the result and leaves the rest of the response."""

    def tamper(_: str, body: Body) -> Body:
        return body | {"result": change(dict(body["result"]))} if body.get("result") else body

    return tamper


def foreign_invoice(**changes: Any) -> str:
    """An invoice that no wallet here made."""
    fields: dict[str, Any] = {
        "network": "regtest",
        "msat": 21_000,
        "payment_hash": bytes(32),
        "description": "[paper, not real money] a job",
        "created_at": int(time.time()),
        "expiry": 600,
    }
    return bolt11.encode(bolt11.PrivateKey(), **(fields | changes))
