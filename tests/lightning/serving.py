"""A wallet and the server that it is of, on loopback and in the test's hands: what such tests have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

import orjson

from dvm.lightning.base import Wallet
from dvm.lightning.bolt11 import decode
from tests.lightning.contract import Bench
from tests.standins.loopback import Fault, Loopback

W = TypeVar("W", bound=Wallet)

BROKEN: tuple[Fault, ...] = ("hang", "cut", "500", "502", "html", "text")
LOST: tuple[Fault, ...] = ("done-hang", "done-cut", "done-500", "done-html")


def nested(depth: int = 1_000) -> object:
    """What a parser takes, and no function that calls itself: a list in a list in a list."""
    return orjson.loads(b"[" * depth + b"]" * depth)


class Node(Protocol):
    """A stand-in with customers."""

    def customer_pays(self, bolt11: str) -> None: ...

    def customer_invoice(self, msat: int) -> str: ...


class Patience(Protocol):
    """The seconds that a wallet's options have."""

    timeout: float
    pay_timeout: float


O = TypeVar("O", bound=Patience)  # noqa: E741


@asynccontextmanager
async def serving(server: Loopback, make: Callable[[str], W]) -> AsyncIterator[W]:
    """The wallet that `make` makes of the server's address, started; both are ended with the block."""
    await server.start()
    wallet = make(server.url)
    await wallet.start()
    try:
        yield wallet
    finally:
        await wallet.close()
        await server.stop()


def bench_of(wallet: Wallet, node: Node) -> Bench:
    """For the contract."""

    async def pay(bolt11: str) -> None:
        node.customer_pays(bolt11)

    async def invoice(msat: int) -> str:
        return node.customer_invoice(msat)

    return Bench(wallet, pay, invoice)


def patience(options: O, fault: str) -> O:
    """No more than a test can wait where no answer will come; else as much as a slow machine may need."""
    return replace(options, timeout=1.0, pay_timeout=1.0) if "hang" in fault else options  # type: ignore[type-var]


async def made(wallet: Wallet, count: int, msat: int = 21_000) -> list[str]:
    """So many new invoices."""
    return [(await wallet.create_invoice(msat, description="a job", expiry=600)).bolt11 for _ in range(count)]


def hashes(invoices: list[str]) -> list[str]:
    return [decode(bolt11).payment_hash for bolt11 in invoices]


async def told(hints: AsyncIterator[str], count: int) -> list[str]:
    """The next hints."""
    async with asyncio.timeout(60):
        return [await anext(hints) for _ in range(count)]
