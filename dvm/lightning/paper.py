"""The paper wallet: real BOLT 11 invoices on regtest, settled without Lightning. For trying things out.

`PaperWallet` is one wallet of a `PaperNode`, behind the `Wallet` Protocol, in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from dvm.lightning.base import (
    UNKNOWN,
    Capabilities,
    Invoice,
    InvoiceState,
    Lookup,
    Payment,
    WalletError,
    WalletErrorCode,
    WalletInfo,
)
from dvm.lightning.checks import check_asked
from dvm.lightning.hints import Hints
from dvm.lightning.paper_node import ALIAS, NETWORK, SOCKET, PaperInvoice, PaperNode, Refused
from dvm.lightning.registry import Setup

__all__ = ["SOCKET", "Faults", "PaperInvoice", "PaperNode", "PaperWallet", "Refused"]


@dataclass(slots=True)
class Faults:
    """What a test may order of a PaperWallet."""

    delay: float = 0.0  # seconds before each answer
    error: WalletErrorCode | None = None  # every call raises it, every lookup is UNKNOWN
    drop_settlements: bool = False  # nothing is pushed
    duplicate_settlements: int = 0  # extra copies of each push


class PaperWallet:
    """One wallet of a paper node, in this process.

    `owns`: the node is closed with it. `listen`: other processes may pay through the node's socket.
    """

    name = "paper"

    def __init__(self, node: PaperNode, wallet: str = "shop", *, owns: bool = False, listen: bool = False) -> None:
        self.node = node
        self.faults = Faults()
        self._wallet = wallet
        self._owns = owns
        self._listen = listen
        self._hints = Hints()

    @classmethod
    def from_setup(cls, setup: Setup) -> PaperWallet:
        """As `[wallet]` configures it. Raises WalletError."""
        if setup.network not in (None, NETWORK):
            raise WalletError("failed", f"the paper wallet's invoices are for {NETWORK}, not for {setup.network}")
        return cls(PaperNode(setup.data), owns=True, listen=True)

    async def start(self) -> None:
        await self.node.start()
        if self._listen:
            await self.node.listen()
        self.node.open_wallet(self._wallet)
        if self._hear not in self.node.on_settled:
            self.node.on_settled.append(self._hear)

    async def close(self) -> None:
        if self._hear in self.node.on_settled:
            self.node.on_settled.remove(self._hear)
        self._hints.close()
        if self._owns:
            await self.node.close()

    async def info(self) -> WalletInfo:
        await self._strike()
        return WalletInfo(
            alias=ALIAS,
            network=NETWORK,
            balance_msat=self.node.balance(self._wallet),
            capabilities=Capabilities(push=True, description_hash=True, pay=True),
        )

    async def create_invoice(
        self,
        msat: int,
        *,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
    ) -> Invoice:
        check_asked(msat, description, description_hash, expiry)
        await self._strike()
        made = self.node.make(
            self._wallet, msat, description=description, description_hash=description_hash, expiry=expiry
        )
        return Invoice(made.bolt11, made.payment_hash, made.msat, made.created_at, made.expires_at)

    async def lookup(self, payment_hash: str) -> Lookup:
        return (await self.lookup_many([payment_hash], 0))[payment_hash]

    async def lookup_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        try:
            await self._strike()
        except WalletError:
            return dict.fromkeys(payment_hashes, UNKNOWN)
        return {payment_hash: self.node.lookup(self._wallet, payment_hash) for payment_hash in payment_hashes}

    def settlements(self) -> AsyncIterator[str]:
        return self._hints.read()

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        await self._strike()
        try:
            invoice = self.node.pay(bolt11, payer=self._wallet)
        except Refused as refused:
            # Asked again about what it has paid, it says so: "failed" would be refunded.
            paid = self.node.find(bolt11) if refused.reason == "already_paid" else None
            if paid is None or paid.payer != self._wallet:
                raise
            invoice = paid
        return Payment(InvoiceState.SETTLED, 0, invoice.preimage)

    def _hear(self, invoice: PaperInvoice) -> None:
        if invoice.wallet == self._wallet and not self.faults.drop_settlements:
            for _ in range(1 + self.faults.duplicate_settlements):
                self._hints.tell(invoice.payment_hash)

    async def _strike(self) -> None:
        if self.faults.delay:
            await asyncio.sleep(self.faults.delay)
        if self.faults.error is not None:
            raise WalletError(self.faults.error, "so ordered by a test")
