"""A customer's purse for trying things out: the paper shop on this machine takes its own paper for money."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dvm.lightning.base import Capabilities, InvoiceState, Payment, WalletError, WalletInfo
from dvm.lightning.paper_node import ALIAS, NETWORK, SOCKET
from dvm.lightning.paper_socket import pay_over_socket

HELD_SECONDS = 0.5
"""Between two looks what became of a payment that a hold invoice keeps waiting."""


class PaperPayer:
    """Pays the invoices of the paper shop whose data directory is `data`, while `dvm run` runs there."""

    def __init__(self, data: Path) -> None:
        self._socket = data / SOCKET

    async def start(self) -> None:
        """Raises WalletError where no paper shop runs."""
        if not await asyncio.to_thread(self._socket.is_socket):
            raise WalletError(
                "unreachable", f"{self._socket}: no paper shop runs there; start it with `dvm run`, or name its --data"
            )

    async def close(self) -> None:
        """Nothing is open."""

    async def info(self) -> WalletInfo:
        return WalletInfo(ALIAS, NETWORK, None, Capabilities(pay=True))

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """Pay one invoice; there is no routing, and no fee. Raises WalletError where it was not paid for certain."""
        del fee_limit_msat
        answer = await pay_over_socket(self._socket, bolt11)
        try:
            while answer.get("held"):
                await asyncio.sleep(HELD_SECONDS)
                answer = await pay_over_socket(self._socket, bolt11)
        except WalletError:  # it waits there still
            return Payment(InvoiceState.UNKNOWN)
        if answer.get("paid") is True:
            return Payment(InvoiceState.SETTLED)
        raise WalletError("failed", str(answer.get("error")))
