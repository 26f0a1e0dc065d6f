"""The invoice of a quote: made by the wallet, patiently, and never beyond what can be received."""

from __future__ import annotations

import asyncio
import logging

from dvm.jobs.admission import RefusedError
from dvm.jobs.payments.promises import hold_invoice
from dvm.jobs.shop import Shop
from dvm.jobs.watching.trouble import Trouble
from dvm.ledger import PendingPayment
from dvm.lightning.base import HoldWallet, Invoice, WalletError
from dvm.nip90 import JobRequest

log = logging.getLogger(__name__)

DESCRIPTION = "NIP-90 job {}"


class Invoicing:
    """Makes the invoices that jobs are paid by."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._waiting: set[asyncio.Task[None]] = set()  # for an invoice, and for nothing else
        self._closing = False
        self._away = Trouble(
            log,
            logging.WARNING,
            "the wallet does not answer; trying again: see `dvm doctor`",
            "the wallet answers again",
        )
        self._fails = Trouble(
            log,
            logging.ERROR,
            "the wallet makes no invoices, so jobs are refused: see `dvm doctor`",
            "the wallet makes invoices again",
        )
        self._holds = Trouble(
            log,
            logging.ERROR,
            "the wallet makes no hold invoices, so jobs are sold on plain ones: see wallet.hold and `dvm doctor`",
            "the wallet makes hold invoices again",
        )

    def close(self) -> None:
        """Wait for no invoice any more: those jobs are unpaid, and stay as received for the next start."""
        self._closing = True
        for task in self._waiting:
            task.cancel()

    async def invoice(self, request: JobRequest, msat: int) -> PendingPayment:
        """What is to be watched for. A wallet that is away for a moment is waited for. Raises RefusedError."""
        task = asyncio.current_task()
        if self._closing or task is None:
            raise asyncio.CancelledError
        receivable = self._shop.receivable()
        if receivable is not None and msat > receivable:
            self._fails.failing(job=request.id, error=f"no inbound liquidity: it can receive {receivable} msat")
            raise RefusedError("payment-unavailable", "so much cannot be received over Lightning at the moment")
        self._waiting.add(task)
        try:
            invoice, hold = await self._patiently(request, msat)
        finally:
            self._waiting.discard(task)
        return PendingPayment(
            payment_hash=invoice.payment_hash,
            source="bolt11",
            customer=request.customer,
            job=request.id,
            bolt11=invoice.bolt11,
            msat=invoice.msat,
            created_at=invoice.created_at,
            expires_at=self._shop.now() + self._shop.settings.quote_seconds,
            hold=hold,
        )

    async def _patiently(self, request: JobRequest, msat: int) -> tuple[Invoice, bool]:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._shop.settings.invoice_patience
        pause = 0.5
        while True:
            try:
                made = await self._make(request, msat)
            except WalletError as error:
                passing = error.code in ("unreachable", "rate_limited")
                if not passing or loop.time() + pause > until:
                    self._fails.failing(job=request.id, error=str(error))
                    raise RefusedError("payment-unavailable", "no invoice can be made at the moment") from error
                self._away.failing(job=request.id, error=str(error))
            else:
                self._away.fine()
                self._fails.fine()
                return made
            await asyncio.sleep(pause)
            pause = min(pause * 2, 10.0)

    async def _make(self, request: JobRequest, msat: int) -> tuple[Invoice, bool]:
        """The invoice, and whether it is a hold invoice. Raises WalletError."""
        shop = self._shop
        wallet, expiry = shop.wallet, shop.settings.quote_seconds
        text = DESCRIPTION.format(request.id[:16])
        if shop.settings.hold:
            try:
                if not isinstance(wallet, HoldWallet):
                    raise WalletError("unsupported", "this type of wallet has none")
                invoice = await hold_invoice(wallet, shop.keys, request.id, msat, description=text, expiry=expiry)
            except WalletError as error:
                if error.code not in ("unsupported", "restricted"):
                    raise
                self._holds.failing(job=request.id, error=str(error))
            else:
                self._holds.fine()
                return invoice, True
        return await wallet.create_invoice(msat, description=text, expiry=expiry), False
