"""The paper node's books: its invoices, balances and block height, changed by the records of its journal.

Each step is a record that is written and then entered here; a restart enters the same records again. So what
is remembered is what has happened, hold invoices included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from coincurve import PrivateKey

from dvm.lightning.base import InvoiceState, Lookup, WalletError

Refusal = Literal[
    "invalid", "unknown", "expired", "already_paid", "insufficient", "held", "cancelled", "open", "failed"
]


class Refused(WalletError):
    """The paper node did not do it; `reason` says why in one word."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__("insufficient" if reason == "insufficient" else "failed", text)
        self.reason: Refusal = reason


@dataclass(slots=True, repr=False)
class PaperInvoice:
    """An invoice of the node's wallet `wallet`; `payer` is the wallet that paid, None from outside.

    A hold invoice has `hold`: the blocks that its payment waits at most, once it has come; `deadline` is the
    block height that this makes. Its `preimage` is empty until it is settled: only its maker knows it.
    """

    wallet: str
    bolt11: str
    payment_hash: str
    preimage: str
    msat: int
    description: str | None
    description_hash: str | None
    created_at: int
    expires_at: int
    hold: int | None = None
    settled_at: int | None = None
    payer: str | None = None
    accepted_at: int | None = None
    deadline: int | None = None
    cancelled_at: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is paid and waits: the money is with nobody."""
        return self.accepted_at is not None and self.settled_at is None and self.cancelled_at is None

    @property
    def paid_at(self) -> int | None:
        """When its payment came, whatever has become of it."""
        return self.accepted_at or self.settled_at

    def lookup(self, now: float, height: int) -> Lookup:
        """What its own wallet is told of it."""
        if self.settled_at is not None:
            return Lookup(InvoiceState.SETTLED, self.msat, self.settled_at)
        if self.held:
            return Lookup(InvoiceState.HELD, self.msat, blocks_left=max((self.deadline or 0) - height, 0))
        over = self.cancelled_at is not None or self.expires_at <= now
        return Lookup(InvoiceState.FAILED if over else InvoiceState.PENDING)

    def __repr__(self) -> str:  # without the preimage
        return f"PaperInvoice({self.wallet}, {self.payment_hash}, {self.msat} msat, settled_at={self.settled_at})"


class PaperBooks:
    """What a paper node remembers. `enter` is the only way in which it changes."""

    def __init__(self) -> None:
        self.key = PrivateKey()
        self.height = 0
        self.balances: dict[str, int] = {}
        self.invoices: dict[str, PaperInvoice] = {}  # by payment hash
        self.texts: dict[str, PaperInvoice] = {}  # by invoice: a payment need not decode what we signed
        self.made: dict[str, list[PaperInvoice]] = {}  # by wallet, in the order of making
        self.paid: dict[str, list[PaperInvoice]] = {}  # by paying wallet, in the order of paying
        self.waiting: dict[str, PaperInvoice] = {}  # accepted, neither settled nor cancelled

    def enter(self, record: list[Any]) -> None:
        """One step. Raises ValueError, TypeError or KeyError for what is none."""
        match record:
            case ["node", str(key)]:
                self.key = PrivateKey.from_hex(key)
            case ["wallet", str(name), int(msat)]:
                self.balances[name] = msat
            case ["invoice", *fields]:
                invoice = PaperInvoice(*fields)
                self.invoices[invoice.payment_hash] = invoice
                self.texts[invoice.bolt11] = invoice
                self.made.setdefault(invoice.wallet, []).append(invoice)
            case ["paid", str(payment_hash), int(at), str() | None as payer]:
                invoice = self.invoices[payment_hash]
                self._take(invoice, payer)
                self._settle(invoice, at)
            case ["accepted", str(payment_hash), int(at), str() | None as payer, int(deadline)]:
                invoice = self.invoices[payment_hash]
                self._take(invoice, payer)
                invoice.accepted_at, invoice.deadline = at, deadline
                self.waiting[payment_hash] = invoice
            case ["settled", str(payment_hash), int(at), str(preimage)]:
                invoice = self.waiting.pop(payment_hash)
                invoice.preimage = preimage
                self._settle(invoice, at)
            case ["cancelled", str(payment_hash), int(at)]:
                invoice = self.invoices[payment_hash]
                invoice.cancelled_at = at
                if self.waiting.pop(payment_hash, None) is not None and invoice.payer is not None:
                    self.balances[invoice.payer] += invoice.msat
            case ["mined", int(blocks)]:
                self.height += blocks
            case _:
                raise ValueError("no such record")

    def _take(self, invoice: PaperInvoice, payer: str | None) -> None:
        invoice.payer = payer
        if payer is not None:
            self.balances[payer] = self.balances.get(payer, 0) - invoice.msat
            self.paid.setdefault(payer, []).append(invoice)

    def _settle(self, invoice: PaperInvoice, at: int) -> None:
        invoice.settled_at = at
        self.balances[invoice.wallet] = self.balances.get(invoice.wallet, 0) + invoice.msat
