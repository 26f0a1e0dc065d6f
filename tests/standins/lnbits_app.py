"""LNbits on its FakeWallet, run by LNbits' own Python: `uvicorn lnbits_app:app`, see tests/standins/lnbits.py.

LNbits is as it was published; only the Lightning node that it pretends to have is made a little more like one:
its invoices are regtest's, so that nobody takes them for money, and one that it does not remember after a
restart is unpaid, as it would be at a node that keeps its books, instead of failed.
"""

from __future__ import annotations

import lnbits.wallets.fake as fake
from lnbits.__main__ import app
from lnbits.wallets.base import PaymentPendingStatus, PaymentStatus, PaymentSuccessStatus

__all__ = ["app"]

_encode = fake.encode


def _on_regtest(invoice: fake.Bolt11, *arguments: object) -> str:
    invoice.currency = "bcrt"
    return str(_encode(invoice, *arguments))


async def _status(self: fake.FakeWallet, checking_id: str) -> PaymentStatus:
    return PaymentSuccessStatus() if checking_id in self.paid_invoices else PaymentPendingStatus()


fake.encode = _on_regtest
fake.FakeWallet.get_invoice_status = _status
