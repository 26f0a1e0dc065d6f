"""An LNbits wallet and the LNbits that it is of, on loopback and in the test's hands."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dvm.lightning.base import InvoiceState
from dvm.lightning.lnbits import LnbitsWallet, Options
from dvm.lightning.registry import Setup
from tests.lightning.serving import serving
from tests.standins.lnbits_api import ADMIN, LnbitsNode, loopback
from tests.standins.loopback import Loopback

PAYMENTS = "/api/v1/payments"
QUICK = Options(poll=0.02, backoff=0.01, max_backoff=0.02, pay_timeout=20.0, page=3, lookups=2)
IMPATIENT = Options(poll=0.02, backoff=0.01, max_backoff=0.02, pay_timeout=1.0, page=3, lookups=2)
# What the list says, and nothing else.
LISTING = Options(poll=0.02, backoff=0.01, max_backoff=0.02, page=3, lookups=0)


@dataclass
class Place:
    node: LnbitsNode
    server: Loopback
    wallet: LnbitsWallet

    async def job(self, msat: int = 21_000) -> str:
        """The payment hash of a new invoice."""
        return (await self.wallet.create_invoice(msat, description="a job", expiry=600)).payment_hash

    async def found(self, payment_hash: str, since: float | None = None) -> InvoiceState:
        """What the sweep says of it."""
        begin = int(time.time() if since is None else since)
        return (await self.wallet.lookup_many([payment_hash], begin))[payment_hash].state


@asynccontextmanager
async def place(
    data: Path, options: Options = QUICK, *, key: str = ADMIN, timeout: float = 20.0
) -> AsyncIterator[Place]:
    node = LnbitsNode()
    server = loopback(node)
    async with serving(server, lambda url: LnbitsWallet(Setup(url, key, data, timeout=timeout), options)) as wallet:
        yield Place(node, server, wallet)
