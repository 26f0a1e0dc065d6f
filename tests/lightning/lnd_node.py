"""An LND, and our wallet of it, for tests in which it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

from dvm.lightning.lnd import LndWallet
from dvm.lightning.lnd_macaroon import parse
from dvm.lightning.lnd_stream import Pace
from tests.standins.lnd import Fault, LndStandin

QUICK = Pace(silence=60.0, backoff=0.02, longest=0.1, poll=0.05)
FAULTS: tuple[Fault, ...] = get_args(Fault)
SEND, TRACK = "/v2/router/send", "/v2/router/track"
Body = dict[str, Any]


@asynccontextmanager
async def wallet_in(test: str, node: LndStandin, data: Path) -> AsyncIterator[LndWallet]:
    """It is known to be on regtest, and impatient where LND will hang, as the test's name tells."""
    hangs = "hang" in test or "takes_long" in test
    wallet = LndWallet(node.url, parse(node.admin), data, network="regtest", timeout=1.0 if hangs else 20.0, pace=QUICK)
    await wallet.start()
    try:
        yield wallet
    finally:
        await wallet.close()
