"""The paper wallet: real BOLT 11 invoices on regtest, settled without Lightning. For trying things out.

`PaperWallet` is one wallet of a `PaperNode`, behind the `Wallet` Protocol, in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
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
from dvm.lightning.hints import Hints
from dvm.lightning.making import Asked, MakesHoldInvoices
from dvm.lightning.paper_node import ALIAS, NETWORK, SOCKET, PaperInvoice, PaperNode, Refused
from dvm.lightning.registry import Setup

__all__ = ["SOCKET", "Faults", "PaperInvoice", "PaperNode", "PaperWallet", "Refused"]


@dataclass(slots=True)
class Faults:
    """What a test may order of a PaperWallet."""

    delay: float = 0.0  # seconds before each answer
    error: WalletErrorCode | None = None  # every call raises it, every lookup is UNKNOWN
    drop_settlements: bool = False  # no settlement is pushed
    drop_accepted: bool = False  # no accepted hold invoice is pushed
    duplicate_settlements: int = 0  # extra copies of each push
    delay_pushes: float = 0.0  # seconds before each push
    lose_answers: bool = False  # settle_hold and cancel_hold are done, and raise `unreachable`


class PaperWallet(MakesHoldInvoices):
    """One wallet of a paper node, in this process.

    `owns`: the node is closed with it. `listen`: other processes may pay through the node's socket.
    """

    name = "paper"

    def __init__(
        self,
        node: PaperNode,
        wallet: str = "shop",
        *,
        owns: bool = False,
        listen: bool = False,
        pay_timeout: float = 60.0,
    ) -> None:
        """`pay_timeout`: seconds that `pay` waits for what becomes of a hold invoice."""
        self.node = node
        self.faults = Faults()
        self._wallet = wallet
        self._owns = owns
        self._listen = listen
        self._pay_timeout = pay_timeout
        self._hints = Hints()
        self._pushing: set[asyncio.TimerHandle] = set()

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
        for listeners, listener in self._ears():
            if listener not in listeners:
                listeners.append(listener)

    async def close(self) -> None:
        for listeners, listener in self._ears():
            if listener in listeners:
                listeners.remove(listener)
        for push in self._pushing:
            push.cancel()
        self._hints.close()
        if self._owns:
            await self.node.close()

    async def info(self) -> WalletInfo:
        await self._strike()
        return WalletInfo(
            alias=ALIAS,
            network=NETWORK,
            balance_msat=self.node.balance(self._wallet),
            capabilities=Capabilities(push=True, description_hash=True, pay=True, hold=True),
        )

    async def lookup(self, payment_hash: str) -> Lookup:
        return (await self.lookup_many([payment_hash], 0))[payment_hash]

    async def lookup_many(
        self, payment_hashes: Collection[str], since: int, holds: Collection[str] | None = None
    ) -> dict[str, Lookup]:
        try:
            await self._strike()
        except WalletError:
            return dict.fromkeys(payment_hashes, UNKNOWN)
        return {payment_hash: self.node.lookup(self._wallet, payment_hash) for payment_hash in payment_hashes}

    def settlements(self) -> AsyncIterator[str]:
        return self._hints.read()

    # --- paying ----------------------------------------------------------------------------------------

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`. A hold invoice is waited for, `pay_timeout` at most: then it is PENDING."""
        await self._strike()
        try:
            invoice = self.node.pay(bolt11, payer=self._wallet)
        except Refused as refused:
            # Asked again about what it has paid, it says so: "failed" would be refunded.
            paid = self.node.find(bolt11) if refused.reason in ("already_paid", "held", "cancelled") else None
            if paid is None or not self._pays(paid):
                raise
            invoice = paid
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pay_timeout):
                await self.node.decided(invoice)
        return _payment(invoice)

    async def payment(self, payment_hash: str) -> Payment:
        try:
            await self._strike()
        except WalletError:
            return Payment(InvoiceState.UNKNOWN)
        invoice = self.node.get(payment_hash)
        if invoice is None or not self._pays(invoice):
            return Payment(InvoiceState.UNKNOWN, known=False)
        return _payment(invoice)

    # --- hold invoices ---------------------------------------------------------------------------------

    async def settle_hold(self, preimage: str) -> None:
        await self._strike()
        self.node.settle(self._wallet, preimage)
        self._lose_answer()

    async def cancel_hold(self, payment_hash: str) -> None:
        await self._strike()
        self.node.cancel(self._wallet, payment_hash)
        self._lose_answer()

    # --- within ----------------------------------------------------------------------------------------

    async def _make(self, asked: Asked) -> Invoice:
        return await self._make_hold(asked, None)

    async def _make_hold(self, asked: Asked, payment_hash: str | None) -> Invoice:
        await self._strike()
        made = self.node.make(
            self._wallet,
            asked.msat,
            description=asked.description,
            description_hash=asked.description_hash,
            expiry=asked.expiry,
            payment_hash=payment_hash,
        )
        return Invoice(made.bolt11, made.payment_hash, made.msat, made.created_at, made.expires_at)

    def _pays(self, invoice: PaperInvoice) -> bool:
        return invoice.payer == self._wallet and invoice.paid_at is not None

    def _ears(self) -> list[tuple[list[Callable[[PaperInvoice], None]], Callable[[PaperInvoice], None]]]:
        return [(self.node.on_settled, self._hear), (self.node.on_accepted, self._hear_accepted)]

    def _hear(self, invoice: PaperInvoice) -> None:
        if invoice.wallet == self._wallet and not self.faults.drop_settlements:
            self._push(invoice)

    def _hear_accepted(self, invoice: PaperInvoice) -> None:
        if invoice.wallet == self._wallet and not self.faults.drop_accepted:
            self._push(invoice)

    def _push(self, invoice: PaperInvoice) -> None:
        def tell() -> None:
            for _ in range(1 + self.faults.duplicate_settlements):
                self._hints.tell(invoice.payment_hash)

        def late() -> None:
            self._pushing.discard(push)
            tell()

        if not self.faults.delay_pushes:
            tell()
            return
        push = asyncio.get_running_loop().call_later(self.faults.delay_pushes, late)
        self._pushing.add(push)

    def _lose_answer(self) -> None:
        if self.faults.lose_answers:
            raise WalletError("unreachable", "the answer is lost, so ordered by a test")

    async def _strike(self) -> None:
        if self.faults.delay:
            await asyncio.sleep(self.faults.delay)
        if self.faults.error is not None:
            raise WalletError(self.faults.error, "so ordered by a test")


def _payment(invoice: PaperInvoice) -> Payment:
    if invoice.settled_at is not None:
        return Payment(InvoiceState.SETTLED, 0, invoice.preimage)
    return Payment(InvoiceState.PENDING if invoice.held else InvoiceState.FAILED)
