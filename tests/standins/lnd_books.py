"""What a stand-in for LND knows: invoices with their indexes, payments, and who listens to them."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from coincurve import PrivateKey

from dvm.lightning.bolt11 import decode, encode
from tests.standins.payees import invoice_of_another

HEIGHT, CLTV = 800_000, 80


class GrpcError(Exception):
    """What LND answers instead: gRPC's code and a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class BookedInvoice:
    bolt11: str
    payment_hash: str
    preimage: str | None  # None: a hold invoice that is not settled
    msat: int
    memo: str
    created_at: int
    expiry: int
    add_index: int
    hold: bool
    state: str = "OPEN"
    settle_index: int = 0
    settled_at: int = 0
    paid_msat: int = 0
    private: bool = False  # with hints to channels that are not announced
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    subscribers: list[asyncio.Queue[dict[str, Any]]] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """As LND's gateway writes it: every field, 64-bit numbers as strings."""
        return {
            "memo": self.memo,
            "r_preimage": _base64(self.preimage),
            "r_hash": _base64(self.payment_hash),
            "value": str(self.msat // 1_000),
            "value_msat": str(self.msat),
            "settled": self.state == "SETTLED",
            "creation_date": str(self.created_at),
            "settle_date": str(self.settled_at),
            "payment_request": self.bolt11,
            "description_hash": "",
            "expiry": str(self.expiry),
            "fallback_addr": "",
            "cltv_expiry": str(CLTV),
            "route_hints": [],
            "private": False,
            "add_index": str(self.add_index),
            "settle_index": str(self.settle_index),
            "amt_paid": str(self.paid_msat),
            "amt_paid_sat": str(self.paid_msat // 1_000),
            "amt_paid_msat": str(self.paid_msat),
            "state": self.state,
            "htlcs": [self._htlc()] if self.paid_msat else [],
            "features": {},
            "is_keysend": False,
            "payment_addr": _base64("00" * 32),
            "is_amp": False,
            "amp_invoice_state": {},
            "is_blinded": False,
            "blinded_path_config": None,
        }

    def _htlc(self) -> dict[str, Any]:
        return {
            "chan_id": "440904162803712",
            "htlc_index": "0",
            "amt_msat": str(self.paid_msat),
            "accept_height": HEIGHT,
            "accept_time": str(self.created_at),
            "resolve_time": str(self.settled_at),
            "expiry_height": HEIGHT + CLTV + 3,
            "state": self.state,
            "custom_records": {},
            "mpp_total_amt_msat": str(self.paid_msat),
            "amp": None,
            "custom_channel_data": "",
        }


@dataclass
class BookedPayment:
    """`verdict`: what will become of it: settle, a FAILURE_REASON_…, or "" for as long as nothing is decided."""

    payment_hash: str
    preimage: str
    msat: int
    verdict: str
    index: int
    status: str = "IN_FLIGHT"
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def json(self) -> dict[str, Any]:
        settled = self.status == "SUCCEEDED"
        return {
            "payment_hash": self.payment_hash,
            "value": str(self.msat // 1_000),
            "fee": "1" if settled else "0",
            "payment_preimage": self.preimage if settled else "00" * 32,
            "value_msat": str(self.msat),
            "status": self.status,
            "fee_msat": "1000" if settled else "0",
            "htlcs": [],
            "payment_index": str(self.index),
            "failure_reason": self.verdict if self.status == "FAILED" else "FAILURE_REASON_NONE",
        }


class Books:
    """One node's invoices and payments. `skew`: by how many seconds its clock is ahead."""

    def __init__(self, network: str = "regtest") -> None:
        self.network, self.skew = network, 0.0
        self.key, self._outside = PrivateKey(), PrivateKey()
        self.invoices: dict[str, BookedInvoice] = {}
        self.payments: dict[str, BookedPayment] = {}
        self.balance = 5_000_000_000
        self.verdict = "settle"  # for payments that begin
        self.drop_pushes = False
        self.repeat_pushes = 1
        self.listeners: list[asyncio.Queue[dict[str, Any]]] = []
        self._preimages: dict[str, str] = {}  # of invoices that others have made
        self._settlements = self._attempts = 0

    def now(self) -> int:
        return int(time.time() + self.skew)

    # --- invoices --------------------------------------------------------------------------------------

    def add(
        self,
        msat: int,
        memo: str,
        description_hash: bytes | None,
        expiry: int,
        payment_hash: str | None = None,
    ) -> BookedInvoice:
        """A new invoice; a hold invoice if a hash is given. Raises GrpcError."""
        preimage = None if payment_hash else secrets.token_hex(32)
        payment_hash = payment_hash or sha256(bytes.fromhex(preimage or "")).hexdigest()
        if payment_hash in self.invoices:
            raise GrpcError(2, "invoice with payment hash already exists")
        created_at = self.now()
        bolt11 = encode(
            self.key,
            network=self.network,
            msat=msat,
            payment_hash=bytes.fromhex(payment_hash),
            description=None if description_hash else memo,
            description_hash=description_hash,
            created_at=created_at,
            expiry=expiry,
        )
        invoice = BookedInvoice(
            bolt11,
            payment_hash,
            preimage,
            msat,
            memo,
            created_at,
            expiry,
            add_index=len(self.invoices) + 1,
            hold=preimage is None,
        )
        self.invoices[payment_hash] = invoice
        return invoice

    def fake(self, msat: int) -> BookedInvoice:
        """An invoice that somebody has made here long ago, without the work of signing it."""
        preimage = secrets.token_bytes(32)
        payment_hash = sha256(preimage).hexdigest()
        self.invoices[payment_hash] = BookedInvoice(
            "lnbcrt1",
            payment_hash,
            preimage.hex(),
            msat,
            "",
            self.now(),
            600,
            add_index=len(self.invoices) + 1,
            hold=False,
        )
        return self.invoices[payment_hash]

    def find(self, payment_hash: str) -> BookedInvoice:
        if payment_hash not in self.invoices:
            raise GrpcError(5, "unable to locate invoice")
        return self.invoices[payment_hash]

    def page(self, offset: int, count: int, *, backwards: bool, pending: bool) -> list[BookedInvoice]:
        """ListInvoices: those after, or those before, an add index; in ascending order in either case."""
        fits = [each for each in self.invoices.values() if not pending or each.state in ("OPEN", "ACCEPTED")]
        if backwards:
            return [each for each in fits if not offset or each.add_index < offset][-count:]
        return [each for each in fits if each.add_index > offset][:count]

    def settle(self, invoice: BookedInvoice, preimage: str) -> None:
        self._settlements += 1
        invoice.state, invoice.preimage = "SETTLED", preimage
        invoice.settle_index, invoice.settled_at = self._settlements, self.now()
        self.balance += invoice.paid_msat
        self._changed(invoice)

    def cancel(self, invoice: BookedInvoice) -> None:
        if invoice.state == "SETTLED":
            raise GrpcError(2, "invoice already settled")
        if invoice.state != "CANCELED":
            invoice.state, invoice.paid_msat = "CANCELED", 0
            self._changed(invoice)

    async def receive(self, bolt11: str, msat: int | None = None) -> str | None:
        """Somebody out there pays one of this node's invoices: the preimage, or None if it came back."""
        return await self.receive_for(self.invoices[decode(bolt11).payment_hash], msat)

    async def receive_for(self, invoice: BookedInvoice, msat: int | None = None) -> str | None:
        """The same, of an invoice at hand."""
        if invoice.state != "OPEN":
            return None
        invoice.paid_msat = msat or invoice.msat
        if not invoice.hold:
            self.settle(invoice, invoice.preimage or "")
            return invoice.preimage
        invoice.state = "ACCEPTED"
        self._changed(invoice)
        await invoice.decided.wait()
        return invoice.preimage

    async def subscribe(self, settle_index: int) -> AsyncGenerator[dict[str, Any], None]:
        """SubscribeInvoices: what has settled after that index, unless it is 0, and then what happens."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            known = [each for each in self.invoices.values() if settle_index and each.settle_index > settle_index]
            for invoice in sorted(known, key=lambda each: each.settle_index):
                yield invoice.json()
            while True:
                yield await queue.get()
        finally:
            self.listeners.remove(queue)

    async def follow(self, invoice: BookedInvoice) -> AsyncGenerator[dict[str, Any], None]:
        """SubscribeSingleInvoice: the state that is, and each that follows, to a final one."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        invoice.subscribers.append(queue)
        try:
            told = invoice.json()
            while True:
                yield told
                if told["state"] in ("SETTLED", "CANCELED"):
                    return
                told = await queue.get()
        finally:
            invoice.subscribers.remove(queue)

    def push(self, invoice: dict[str, Any]) -> None:
        """Tell every listener; called by a test, it is a lie."""
        for queue in self.listeners:
            queue.put_nowait(invoice)

    def _changed(self, invoice: BookedInvoice) -> None:
        if invoice.state in ("SETTLED", "CANCELED"):
            invoice.decided.set()
        if self.drop_pushes:
            return
        for queue in invoice.subscribers:
            queue.put_nowait(invoice.json())
        for _ in range(self.repeat_pushes if invoice.state == "SETTLED" else 0):
            self.push(invoice.json())

    # --- payments --------------------------------------------------------------------------------------

    def invoice_of_another(self, msat: int) -> str:
        """An invoice that this node can pay."""
        return invoice_of_another(self._preimages, msat, network=self.network, key=self._outside)

    def send(self, bolt11: str) -> BookedPayment:
        """Begin to pay; raises GrpcError for what LND will not begin with."""
        said = decode(bolt11)
        known = self.payments.get(said.payment_hash)
        if known is not None and known.status == "SUCCEEDED":
            raise GrpcError(6, "invoice is already paid")
        if known is not None and known.status == "IN_FLIGHT":
            raise GrpcError(6, "payment is in transition")
        if said.payment_hash in self.invoices:
            raise GrpcError(2, "self-payments not allowed")
        self._attempts += 1
        payment = BookedPayment(
            said.payment_hash, self._preimages[said.payment_hash], said.msat or 0, self.verdict, self._attempts
        )
        self.payments[said.payment_hash] = payment
        return payment

    def decide(self, payment: BookedPayment, verdict: str | None = None) -> None:
        """Let it succeed or fail, once and for all."""
        payment.verdict = verdict or payment.verdict
        if payment.status != "IN_FLIGHT" or not payment.verdict:
            return
        payment.status = "SUCCEEDED" if payment.verdict == "settle" else "FAILED"
        if payment.status == "SUCCEEDED":
            self.balance -= payment.msat + 1_000
        payment.changed.set()

    async def track(self, payment: BookedPayment) -> AsyncGenerator[dict[str, Any], None]:
        """The state that is, and the final one once it is reached."""
        yield payment.json()
        if payment.status == "IN_FLIGHT":
            await payment.changed.wait()
            yield payment.json()


def _base64(text: str | None) -> str:
    return base64.b64encode(bytes.fromhex(text or "")).decode()
