"""The paper wallet: real BOLT 11 invoices on regtest, settled without Lightning. For trying things out.

A `PaperNode` holds the invoices and balances of some wallets and moves msat between them; a `PaperWallet`
is one of them behind the `Wallet` Protocol. Nothing of it is money, and it says so wherever it shows itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from dvm.lightning.base import UNKNOWN, Lookup, WalletError
from dvm.lightning.bolt11 import InvalidInvoice, decode, encode
from dvm.lightning.checks import cut
from dvm.lightning.paper_books import PaperBooks, PaperInvoice, Refusal, Refused
from dvm.lightning.paper_journal import Journal
from dvm.lightning.paper_socket import PaperSocket
from dvm.nostr.randomness import random_bytes

__all__ = [
    "ALIAS",
    "HOLD_BLOCKS",
    "JOURNAL",
    "MARK",
    "NETWORK",
    "SOCKET",
    "PaperInvoice",
    "PaperNode",
    "Refusal",
    "Refused",
]

NETWORK = "regtest"
ALIAS = "paper wallet (regtest: not real money)"
MARK = "[paper, not real money] "
SOCKET = "paper.sock"
JOURNAL = "paper.jsonl"
HOLD_BLOCKS = 144  # that a hold invoice's payment waits, if nothing else is asked for

_HEX32 = re.compile(r"[0-9a-f]{64}").fullmatch


class PaperNode:
    """Wallets by name, their balances in msat, and every invoice they ever made.

    With a directory it survives restarts, SIGKILL included: each step is one appended line, written
    before it counts. One process at a time may have it open. Its blocks are mined by hand (`mine`).
    """

    def __init__(self, data: Path | None = None, *, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.on_settled: list[Callable[[PaperInvoice], None]] = []
        self.on_accepted: list[Callable[[PaperInvoice], None]] = []  # of hold invoices
        self._data = data
        self._books = PaperBooks()
        self._deciding: dict[str, list[asyncio.Future[None]]] = {}  # by payment hash
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
                self._books.enter(record)
            if not self._journal.begun:
                self._step(["node", self._books.key.to_hex()])
            self._time_out()
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
        if name not in self._books.balances:
            self._step(["wallet", name, msat])

    def balance(self, name: str) -> int:
        """Msat in that wallet that it can spend."""
        return self._books.balances.get(name, 0)

    @property
    def pubkey(self) -> str:
        return str(self._books.key.public_key.format().hex())

    # --- invoices --------------------------------------------------------------------------------------

    def make(
        self,
        wallet: str,
        msat: int,
        *,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
        payment_hash: str | None = None,
        hold: int = HOLD_BLOCKS,
    ) -> PaperInvoice:
        """A new invoice of that wallet; with a `payment_hash`, a hold invoice whose payment waits `hold`
        blocks at most. Given both descriptions, the hash is what the invoice holds.

        Raises WalletError for what no invoice can say.
        """
        preimage = random_bytes(32)
        digest = sha256(preimage).hexdigest() if payment_hash is None else payment_hash
        if not _HEX32(digest):
            raise WalletError("failed", "a payment hash is 64 lowercase hex digits")
        if digest in self._books.invoices:
            raise WalletError("failed", "this payment hash has an invoice already")
        created_at = int(self.now())
        description = cut(MARK + (description or "")) if description_hash is None else None
        try:
            text = encode(
                self._books.key,
                network=NETWORK,
                msat=msat,
                payment_hash=bytes.fromhex(digest),
                description=description,
                description_hash=None if description_hash is None else bytes.fromhex(description_hash),
                created_at=created_at,
                expiry=expiry,
            )
        except ValueError as error:
            raise WalletError("failed", f"no such invoice: {error}") from None
        told = [] if payment_hash is None else [hold]
        secret = preimage.hex() if payment_hash is None else ""
        fields = [text, digest, secret, msat, description, description_hash, created_at, created_at + expiry]
        self._step(["invoice", wallet, *fields, *told])
        return self._books.invoices[digest]

    def get(self, payment_hash: str) -> PaperInvoice | None:
        """The invoice with that hash, of whichever wallet."""
        return self._books.invoices.get(payment_hash)

    def lookup(self, wallet: str, payment_hash: str) -> Lookup:
        """What that wallet received for a hash. FAILED is an invoice that takes no payment: expired unpaid,
        or cancelled. Another wallet's invoice is UNKNOWN: its settlement is not this wallet's money."""
        invoice = self.get(payment_hash)
        if invoice is None or invoice.wallet != wallet:
            return UNKNOWN
        return invoice.lookup(self.now(), self.height)

    def incoming(self, wallet: str) -> Iterator[PaperInvoice]:
        """That wallet's invoices, newest first."""
        return reversed(self._books.made.get(wallet, []))

    def outgoing(self, wallet: str) -> Iterator[PaperInvoice]:
        """What that wallet has paid, newest first; hold invoices as well that wait or were cancelled."""
        return reversed(self._books.paid.get(wallet, []))

    def find(self, bolt11: str) -> PaperInvoice:
        """The invoice with that text, in either case. Raises Refused if it is none of this node's."""
        if (known := self._books.texts.get(bolt11)) is not None:
            return known
        try:
            payment_hash = decode(bolt11).payment_hash
        except InvalidInvoice as error:
            raise Refused("invalid", f"not an invoice: {error}") from None
        invoice = self.get(payment_hash)
        if invoice is None or invoice.bolt11 != bolt11.lower():
            raise Refused("unknown", "not an invoice of this paper node, and it knows no other")
        return invoice

    # --- payments --------------------------------------------------------------------------------------

    def pay(self, bolt11: str, *, payer: str | None = None) -> PaperInvoice:
        """Settle one of the node's own invoices, from the wallet `payer` or (None) from outside, where
        paper grows. A hold invoice is then `held`: `decided` waits for what becomes of it.

        Raises Refused, and then nothing has moved.
        """
        invoice = self.find(bolt11)
        if invoice.settled_at is not None:
            raise Refused("already_paid", "the invoice has been paid already")
        if invoice.held:
            raise Refused("held", "the invoice has been paid already, and waits to be settled")
        if invoice.cancelled_at is not None:
            raise Refused("cancelled", "the invoice has been cancelled")
        now = int(self.now())
        if invoice.expires_at <= now:
            raise Refused("expired", "the invoice has expired")
        if payer is not None and self.balance(payer) < invoice.msat:
            raise Refused("insufficient", f"{payer} has {self.balance(payer)} msat")
        if invoice.hold is None:
            self._step(["paid", invoice.payment_hash, now, payer])
            self.announce(invoice)
        else:
            self._step(["accepted", invoice.payment_hash, now, payer, self.height + invoice.hold])
            self.announce_accepted(invoice)
        return invoice

    def announce(self, invoice: PaperInvoice) -> None:
        """Tell all listeners that the invoice is settled. Called by a test without a payment, it is a lie."""
        for listener in list(self.on_settled):
            listener(invoice)

    def announce_accepted(self, invoice: PaperInvoice) -> None:
        """Tell all listeners that the hold invoice is accepted. Called without a payment, it is a lie."""
        for listener in list(self.on_accepted):
            listener(invoice)

    # --- hold invoices ---------------------------------------------------------------------------------

    def settle(self, wallet: str, preimage: str) -> PaperInvoice:
        """Take the money that waits for that preimage (hex). Settling what is settled changes nothing.

        Raises Refused.
        """
        if not _HEX32(preimage):
            raise Refused("invalid", "a preimage is 64 lowercase hex digits")
        invoice = self._hold(wallet, sha256(bytes.fromhex(preimage)).hexdigest())
        if invoice.settled_at is None:
            if invoice.cancelled_at is not None:
                raise Refused("cancelled", "the hold invoice has been cancelled, or its time was over")
            if not invoice.held:
                raise Refused("open", "the hold invoice has not been paid")
            self._step(["settled", invoice.payment_hash, int(self.now()), preimage])
            self._decide(invoice)
            self.announce(invoice)
        return invoice

    def cancel(self, wallet: str, payment_hash: str) -> PaperInvoice:
        """Send the money of a hold invoice back, or take no payment of it. Cancelling what is cancelled
        changes nothing. Raises Refused."""
        invoice = self._hold(wallet, payment_hash)
        if invoice.settled_at is not None:
            raise Refused("already_paid", "the hold invoice is settled")
        if invoice.cancelled_at is None:
            self._step(["cancelled", payment_hash, int(self.now())])
            self._decide(invoice)
        return invoice

    async def decided(self, invoice: PaperInvoice) -> None:
        """Returns when the invoice does not wait (any longer)."""
        if invoice.held:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            deciding = self._deciding.setdefault(invoice.payment_hash, [])
            deciding.append(future)
            try:
                await future
            finally:
                deciding.remove(future)

    @property
    def height(self) -> int:
        """The block height."""
        return self._books.height

    def mine(self, blocks: int = 1) -> None:
        """Mine so many blocks: what waits longer than its deadline goes back to its payer."""
        self._step(["mined", blocks])
        self._time_out()

    # --- within ----------------------------------------------------------------------------------------

    def _hold(self, wallet: str, payment_hash: str) -> PaperInvoice:
        invoice = self.get(payment_hash)
        if invoice is None or invoice.wallet != wallet or invoice.hold is None:
            raise Refused("unknown", "no hold invoice has this payment hash")
        return invoice

    def _time_out(self) -> None:
        for invoice in [i for i in self._books.waiting.values() if (i.deadline or 0) <= self.height]:
            self._step(["cancelled", invoice.payment_hash, int(self.now())])
            self._decide(invoice)

    def _decide(self, invoice: PaperInvoice) -> None:
        for future in self._deciding.pop(invoice.payment_hash, []):
            if not future.done():
                future.set_result(None)

    def _step(self, record: list[object]) -> None:
        if self._journal is not None:
            self._journal.append(record)
        self._books.enter(record)

    def _serve(self, line: str) -> dict[str, object]:
        """Answer one line of the socket. A hold invoice of a payer from outside is `held` first; the same
        line asks later what has become of it."""
        try:
            invoice = self.find(line)
            again = invoice.hold is not None and invoice.payer is None and invoice.accepted_at is not None
            if not again:
                invoice = self.pay(line)
            elif invoice.cancelled_at is not None:
                raise Refused("cancelled", "the hold invoice has been cancelled: the payment has come back")
        except Refused as refused:
            return {"paid": False, "reason": refused.reason, "error": str(refused)}
        except WalletError as error:
            return {"paid": False, "reason": "failed", "error": str(error)}
        answer: dict[str, object] = {"payment_hash": invoice.payment_hash, "msat": invoice.msat}
        if invoice.held:
            return answer | {"paid": False, "held": True, "deadline": invoice.deadline}
        return answer | {"paid": True, "preimage": invoice.preimage}
