"""What the wallets behind a REST interface of their own have in common: one client, look-ups, and tasks that follow
what is paid.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Protocol

from dvm.lightning.base import Lookup
from dvm.lightning.hints import Hints
from dvm.lightning.making import MakesInvoices
from dvm.lightning.rest import Rest


class Lookups(Protocol):
    """Look-ups of invoices; none raises."""

    async def look_up(self, payment_hash: str) -> Lookup: ...

    async def look_up_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]: ...


class ServerWallet(MakesInvoices):
    """The parts of `Wallet` that are the same for each of them; paying and `info` are each one's own."""

    name: str

    def __init__(self, rest: Rest, lookups: Lookups, network: str | None) -> None:
        """`network`: what invoices must be for; None: what the server says."""
        self._rest, self._lookups, self._network = rest, lookups, network
        self._hints = Hints()
        self._wanted = asyncio.Event()  # somebody reads the hints
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [
                loop.create_task(self._once_wanted(follow), name=f"{self.name} {what}")
                for what, follow in self._followers().items()
            ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._hints.close()
        await self._rest.close()

    async def lookup(self, payment_hash: str) -> Lookup:
        return await self._lookups.look_up(payment_hash)

    async def lookup_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        return await self._lookups.look_up_many(payment_hashes, since)

    def settlements(self) -> AsyncIterator[str]:
        self._wanted.set()
        return self._hints.read()

    @abstractmethod
    def _followers(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What follows the payments, each until cancelled, by name."""

    @abstractmethod
    async def _ask_network(self) -> str:
        """What the server says. Raises WalletError."""

    async def _expected_network(self) -> str:
        """What invoices must be for. Raises WalletError."""
        if self._network is None:
            self._network = await self._ask_network()
        return self._network

    async def _once_wanted(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Begin once there is somebody to tell: a hint that nobody hears would move the place on."""
        await self._wanted.wait()
        await follow()
