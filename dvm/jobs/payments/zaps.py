"""Zaps: what they pay for, and the invoices of our own Lightning address (NIP-57).

Our receipts for them are made by `dvm.jobs.payments.settlements`, with the deposit. Receipts that another provider
makes for our address are the business of `dvm.jobs.payments.zap_receipts`.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import orjson

from dvm.jobs.shop import Shop, ZapSettings
from dvm.jobs.watching.trouble import Trouble
from dvm.ledger import LedgerError, PendingPayment
from dvm.lightning.base import Invoice, WalletError
from dvm.lightning.lnurl_address import InvalidLnurl, pay_url
from dvm.lightning.zaps import (
    InvalidZap,
    ZapRequest,
    description_hash,
    parse_zap_request,
)
from dvm.nip90.wire import ANNOUNCEMENT, MSAT, PROFILE
from dvm.nostr.frames import clean

log = logging.getLogger(__name__)

EXPIRY_SECONDS = 900  # of an invoice that anybody may ask for: so long it may count as open
MAX_OPEN = 500  # of these at once: each costs the wallet an invoice, and nobody anything
COMMENT_CHARS = 255
GIFT = ""  # whose it is: nobody's, so the operator's revenue


class NoInvoice(Exception):
    """The payer gets no invoice; the text says why, to them: no secret, nothing of our insides."""


class Watching(Protocol):
    """The part of `Settlements` that is needed here."""

    def expect(self, payment: PendingPayment) -> None:
        """Watch for one more payment."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """What a zap pays: a job, or if `job` is None the balance of `customer`; None: a gift, nobody's top-up."""

    customer: str | None
    job: str | None = None


class Zaps:
    """Makes the invoices that a Lightning address of our own gives out. Needs `shop.zaps`."""

    def __init__(self, shop: Shop, settlements: Watching, settings: ZapSettings, *, max_open: int = MAX_OPEN) -> None:
        self._shop = shop
        self._settlements = settlements
        self._settings = settings
        self._lnurls = spellings(settings.lud16)
        self._max_open = max_open
        self._open: deque[int] = deque()  # when those given out expire, the first to do so in front
        self._wallet_fails = Trouble(
            log,
            logging.ERROR,
            "the wallet makes no invoices for our Lightning address: see `dvm doctor`",
            "the wallet makes invoices for our Lightning address again",
        )

    # What `dvm.gateway` tells of the address

    @property
    def pubkey(self) -> str:
        """Who signs the zap receipts, in hex."""
        return self._shop.keys.pubkey

    @property
    def min_msat(self) -> int:
        return self._settings.min_msat

    @property
    def max_msat(self) -> int:
        return self._settings.max_msat

    @property
    def comment_chars(self) -> int:
        return COMMENT_CHARS

    @property
    def metadata(self) -> str:
        """What an invoice without a zap request commits to (LUD-06)."""
        lud16 = self._settings.lud16
        return orjson.dumps([["text/plain", f"A payment to {lud16}"], ["text/identifier", lud16]]).decode()

    async def invoice(self, msat: int, zap_request: str | None = None, comment: str = "") -> str:
        """A BOLT 11 invoice over `msat`, for the zap that the signed request describes, or for a gift.

        What is paid is credited as the request says. A gift, and an anonymous zap that names no job, is nobody's
        balance, but the operator's revenue. Raises NoInvoice.
        """
        if not self.min_msat <= msat <= self.max_msat:
            raise NoInvoice(f"amount: {self.min_msat} to {self.max_msat} msat are taken")
        if (room := self._shop.receivable()) is not None and msat > room:
            raise NoInvoice("amount: more than can be received at the moment")
        if msat % MSAT:
            raise NoInvoice("amount: whole sats are taken, a multiple of 1000 msat")
        if zap_request is None:
            invoice = await self._make(msat, self.metadata)
            await self._expect(invoice, GIFT, None, None)
            log.info(
                "an invoice for a gift was given out",
                extra={
                    "payment_hash": invoice.payment_hash,
                    "msat": msat,
                    "comment": clean(comment[:COMMENT_CHARS]),
                },
            )
            return invoice.bolt11
        me = self._shop.keys.pubkey
        try:
            request = parse_zap_request(zap_request, recipient=me, provider=me, msat=msat, lnurls=self._lnurls)
            target = await target_of(self._shop, request)
        except InvalidZap as error:
            raise NoInvoice(str(error)) from None
        except LedgerError as error:
            log.error("a zap cannot be taken", extra={"error": str(error)})
            raise NoInvoice("not at the moment: try again later") from None
        if target.customer is not None and not self._shop.selling():
            raise NoInvoice("nothing is sold at the moment, and no balance is topped up: try again later")
        invoice = await self._make(msat, zap_request)
        await self._expect(invoice, target.customer or GIFT, target.job, zap_request)
        return invoice.bolt11

    async def _make(self, msat: int, text: str) -> Invoice:
        now = self._shop.now()
        while self._open and self._open[0] <= now:
            self._open.popleft()
        if len(self._open) >= self._max_open:
            raise NoInvoice("too many invoices are unpaid at the moment: try again later")
        self._open.append(now + EXPIRY_SECONDS)
        try:
            invoice = await self._shop.wallet.create_invoice(
                msat, description=text, description_hash=description_hash(text), expiry=EXPIRY_SECONDS
            )
        except WalletError as error:
            self._wallet_fails.failing(error=str(error))
            raise NoInvoice("the wallet makes no invoice at the moment: try again later") from None
        self._wallet_fails.fine()
        return invoice

    async def _expect(self, invoice: Invoice, customer: str, job: str | None, request: str | None) -> None:
        payment = PendingPayment(
            payment_hash=invoice.payment_hash,
            source="zap",
            customer=customer,
            job=job,
            bolt11=invoice.bolt11,
            msat=invoice.msat,
            created_at=invoice.created_at,
            expires_at=invoice.expires_at,
            zap=request,
        )
        try:
            fresh = await self._shop.store.expect(payment)
        except LedgerError as error:
            log.error("a zap cannot be taken", extra={"error": str(error)})
            raise NoInvoice("not at the moment: try again later") from None
        if not fresh:
            log.error("the wallet gave one payment hash twice", extra={"payment_hash": invoice.payment_hash})
            raise NoInvoice("the wallet makes no invoice at the moment: try again later")
        self._settlements.expect(payment)


async def target_of(shop: Shop, request: ZapRequest) -> Target:
    """What a zap request pays: the job whose request, quote or result it names, whoever pays; otherwise the
    payer's balance. Raises InvalidZap if it names what is not ours, and LedgerError."""
    me = shop.keys.pubkey
    if request.event_id is not None:
        job_id = request.event_id
        job = await shop.store.job(job_id)
        if job is None and (of := await shop.store.job_of_event(job_id)) is not None:
            job = await shop.store.job(of)
        if job is not None:
            return Target(job.customer, job.id)
        # The events behind these change, and clients name their present ids beside the address.
        if request.address not in (f"{ANNOUNCEMENT}:{me}:{shop.announcement}", f"{PROFILE}:{me}:"):
            raise InvalidZap("e: no quote and no job of ours")
    if request.address is not None and request.address.split(":")[1] != me:
        raise InvalidZap("a: it is not ours")
    return Target(None if request.anonymous else request.payer)


def spellings(lud16: str) -> tuple[str, ...]:
    """What the `lnurl` tag of a zap on this address may lead to."""
    try:
        return (lud16, pay_url(lud16))
    except InvalidLnurl:
        return (lud16,)
