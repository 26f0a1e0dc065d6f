"""The paper wallet: real BOLT 11 invoices on regtest, settled without Lightning. For trying things out.

A `PaperNode` holds the invoices and balances of some wallets and moves msat between them; a `PaperWallet`
is one of them behind the `Wallet` Protocol. Nothing of it is money, and it says so wherever it shows itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from coincurve import PrivateKey

from dvm.lightning.base import (
    UNKNOWN,
    InvoiceState,
    Lookup,
    WalletError,
)
from dvm.lightning.bolt11 import InvalidInvoice, decode, encode
from dvm.lightning.checks import cut
from dvm.lightning.paper_journal import Journal
from dvm.lightning.paper_socket import PaperSocket
from dvm.nostr.randomness import random_bytes

NETWORK = "regtest"
ALIAS = "paper wallet (regtest: not real money)"
MARK = "[paper, not real money] "
SOCKET = "paper.sock"
JOURNAL = "paper.jsonl"

Refusal = Literal["invalid", "unknown", "expired", "already_paid", "insufficient", "failed"]


class Refused(WalletError):
    """The paper node did not pay; `reason` says why in one word."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__("insufficient" if reason == "insufficient" else "failed", text)
        self.reason: Refusal = reason


@dataclass(slots=True, repr=False)
class PaperInvoice:
    """An invoice of the node's wallet `wallet`; `payer` is the wallet that paid, None from outside."""

    wallet: str
    bolt11: str
    payment_hash: str
    preimage: str
    msat: int
    description: str | None
    description_hash: str | None
    created_at: int
    expires_at: int
    settled_at: int | None = None
    payer: str | None = None

    def __repr__(self) -> str:  # without the preimage
        return f"PaperInvoice({self.wallet}, {self.payment_hash}, {self.msat} msat, settled_at={self.settled_at})"


_JOURNALLED = [each.name for each in fields(PaperInvoice)][:9]  # what is known when it is made


class PaperNode:
    """Wallets by name, their balances in msat, and every invoice they ever made.

    With a directory it survives restarts, SIGKILL included: each step is one appended line, written
    before it counts. One process at a time may have it open.
    """

    def __init__(self, data: Path | None = None, *, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.on_settled: list[Callable[[PaperInvoice], None]] = []
        self._data = data
        self._key = PrivateKey()
        self._balances: dict[str, int] = {}
        self._invoices: dict[str, PaperInvoice] = {}  # by payment hash
        self._texts: dict[str, PaperInvoice] = {}  # by invoice: a payment need not decode what we signed
        self._made: dict[str, list[PaperInvoice]] = {}  # by wallet, in the order of making
        self._paid: dict[str, list[PaperInvoice]] = {}  # by paying wallet, in the order of paying
        self._journal: Journal | None = None
        self._socket: PaperSocket | None = None

    # --- its life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the journal, if there is a directory. Safe to call twice. Raises WalletError."""
        if self._data is None or self._journal is not None:
            return
        try:
            self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise WalletError("failed", f"{self._data}: {error.strerror}") from None
        self._journal = Journal(self._data / JOURNAL)
        try:
            for record in self._journal.open():
                self._replay(record)
            if not self._journal.begun:
                self._write(["node", self._key.to_hex()])
        except (ValueError, TypeError, KeyError):
            await self.close()
            raise WalletError("failed", f"{self._data / JOURNAL}: not a paper wallet's file") from None
        except WalletError:
            await self.close()
            raise

    async def listen(self, path: Path | None = None) -> None:
        """Let other processes of this user pay through a unix socket, `paper.sock` in the directory.

        An invoice a line in, a JSON object a line out. Raises WalletError.
        """
        if path is None:
            if self._data is None:
                raise WalletError("failed", "a paper node without a directory needs a path for its socket")
            path = self._data / SOCKET
        if self._socket is None:
            self._socket = PaperSocket(path, self._serve)
            await self._socket.open()

    async def close(self) -> None:
        """Stop listening and let the directory go. Safe to call twice."""
        if self._socket is not None:
            await self._socket.close()
            self._socket = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    # --- wallets ---------------------------------------------------------------------------------------

    def open_wallet(self, name: str, msat: int = 0) -> None:
        """Make the wallet `name` with `msat` in it, unless it exists already."""
        if name not in self._balances:
            self._write(["wallet", name, msat])
            self._balances[name] = msat

    def balance(self, name: str) -> int:
        """Msat in that wallet."""
        return self._balances.get(name, 0)

    @property
    def pubkey(self) -> str:
        return str(self._key.public_key.format().hex())

    # --- invoices --------------------------------------------------------------------------------------

    def make(
        self,
        wallet: str,
        msat: int,
        *,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
    ) -> PaperInvoice:
        """A new invoice of that wallet. Raises WalletError for what no invoice can say."""
        preimage = random_bytes(32)
        payment_hash = sha256(preimage).digest()
        created_at = int(self.now())
        if description_hash is None:
            description = cut(MARK + (description or ""))
        elif description is not None:
            raise WalletError("failed", "either a description or the hash of one")
        try:
            text = encode(
                self._key,
                network=NETWORK,
                msat=msat,
                payment_hash=payment_hash,
                description=description,
                description_hash=None if description_hash is None else bytes.fromhex(description_hash),
                created_at=created_at,
                expiry=expiry,
            )
        except ValueError as error:
            raise WalletError("failed", f"no such invoice: {error}") from None
        invoice = PaperInvoice(
            wallet=wallet,
            bolt11=text,
            payment_hash=payment_hash.hex(),
            preimage=preimage.hex(),
            msat=msat,
            description=description,
            description_hash=description_hash,
            created_at=created_at,
            expires_at=created_at + expiry,
        )
        self._write(["invoice", *(getattr(invoice, name) for name in _JOURNALLED)])
        self._remember(invoice)
        return invoice

    def get(self, payment_hash: str) -> PaperInvoice | None:
        """The invoice with that hash, of whichever wallet."""
        return self._invoices.get(payment_hash)

    def lookup(self, wallet: str, payment_hash: str) -> Lookup:
        """What that wallet received for a hash. FAILED is an invoice that expired unpaid: it takes no
        payment. Another wallet's invoice is UNKNOWN: its settlement is not this wallet's money."""
        invoice = self._invoices.get(payment_hash)
        if invoice is None or invoice.wallet != wallet:
            return UNKNOWN
        if invoice.settled_at is not None:
            return Lookup(InvoiceState.SETTLED, invoice.msat, invoice.settled_at)
        return Lookup(InvoiceState.FAILED if invoice.expires_at <= self.now() else InvoiceState.PENDING)

    def incoming(self, wallet: str) -> Iterator[PaperInvoice]:
        """That wallet's invoices, newest first."""
        return reversed(self._made.get(wallet, []))

    def outgoing(self, wallet: str) -> Iterator[PaperInvoice]:
        """What that wallet has paid, newest first."""
        return reversed(self._paid.get(wallet, []))

    def find(self, bolt11: str) -> PaperInvoice:
        """The invoice with that text, in either case. Raises Refused if it is none of this node's."""
        if (known := self._texts.get(bolt11)) is not None:
            return known
        try:
            payment_hash = decode(bolt11).payment_hash
        except InvalidInvoice as error:
            raise Refused("invalid", f"not an invoice: {error}") from None
        invoice = self._invoices.get(payment_hash)
        if invoice is None or invoice.bolt11 != bolt11.lower():
            raise Refused("unknown", "not an invoice of this paper node, and it knows no other")
        return invoice

    def pay(self, bolt11: str, *, payer: str | None = None) -> PaperInvoice:
        """Settle one of the node's own invoices, from the wallet `payer` or (None) from outside, where
        paper grows. Raises Refused, and then nothing has moved."""
        invoice = self.find(bolt11)
        if invoice.settled_at is not None:
            raise Refused("already_paid", "the invoice has been paid already")
        now = int(self.now())
        if invoice.expires_at <= now:
            raise Refused("expired", "the invoice has expired")
        if payer is not None and self.balance(payer) < invoice.msat:
            raise Refused("insufficient", f"{payer} has {self.balance(payer)} msat")
        self._write(["paid", invoice.payment_hash, now, payer])
        self._settle(invoice, now, payer)
        self.announce(invoice)
        return invoice

    def announce(self, invoice: PaperInvoice) -> None:
        """Tell all listeners that the invoice is settled. Called by a test without a payment, it is a lie."""
        for listener in list(self.on_settled):
            listener(invoice)

    # --- within ----------------------------------------------------------------------------------------

    def _remember(self, invoice: PaperInvoice) -> None:
        self._invoices[invoice.payment_hash] = invoice
        self._texts[invoice.bolt11] = invoice
        self._made.setdefault(invoice.wallet, []).append(invoice)

    def _settle(self, invoice: PaperInvoice, at: int, payer: str | None) -> None:
        invoice.settled_at, invoice.payer = at, payer
        self._balances[invoice.wallet] = self.balance(invoice.wallet) + invoice.msat
        if payer is not None:
            self._balances[payer] = self.balance(payer) - invoice.msat
            self._paid.setdefault(payer, []).append(invoice)

    def _write(self, record: list[object]) -> None:
        if self._journal is not None:
            self._journal.append(record)

    def _replay(self, record: list[Any]) -> None:
        match record:
            case ["node", str(key)]:
                self._key = PrivateKey.from_hex(key)
            case ["wallet", str(name), int(msat)]:
                self._balances[name] = msat
            case ["invoice", *fields]:
                self._remember(PaperInvoice(*fields))
            case ["paid", str(payment_hash), int(at), str() | None as payer]:
                self._settle(self._invoices[payment_hash], at, payer)
            case _:
                raise ValueError("no such record")

    def _serve(self, line: str) -> dict[str, object]:
        try:
            invoice = self.pay(line)
        except Refused as refused:
            return {"paid": False, "reason": refused.reason, "error": str(refused)}
        except WalletError as error:
            return {"paid": False, "reason": "failed", "error": str(error)}
        return {
            "paid": True,
            "payment_hash": invoice.payment_hash,
            "preimage": invoice.preimage,
            "msat": invoice.msat,
        }
