"""Whether a quote may be paid. Everything in it is a claim until it has been held against its invoice."""

from __future__ import annotations

from dvm.customer.updates import Quoted
from dvm.lightning.bolt11 import InvalidInvoice, decode
from dvm.nip90 import Feedback
from dvm.nip90.wire import MSAT

LEAST_SECONDS = 5
"""An invoice with less time left may expire while the payment is on its way."""


class Unpayable(ValueError):
    """The quote must not be paid. `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def check_zappable(feedback: Feedback, *, max_msat: int) -> None:
    """Whether a quote without an invoice may be paid by a zap. Raises Unpayable, nothing else.

    The codes are no-amount, no-invoice (a zap is over whole sats) and too-dear.
    """
    if feedback.msat is None:
        raise Unpayable("no-amount", "it does not say how much it asks for")
    if feedback.msat == 0 or feedback.msat % MSAT:
        raise Unpayable("no-invoice", "it has no invoice, and no zap can be over what it asks for")
    if feedback.msat > max_msat:
        raise Unpayable("too-dear", f"it asks for {feedback.msat} msat, and the limit is {max_msat} msat")


def check_quote(feedback: Feedback, *, max_msat: int, network: str | None, now: float) -> Quoted:
    """The quote in a `payment-required`, if a payer may pay it. Raises Unpayable, nothing else.

    `network` is the payer's; None where nobody knows by which wallet it will be paid. The codes are
    no-amount, no-invoice, bad-invoice, amount-differs, too-dear, wrong-network and expired.
    """
    if feedback.msat is None:
        raise Unpayable("no-amount", "it does not say how much it asks for")
    if feedback.bolt11 is None:
        raise Unpayable("no-invoice", "it has no invoice")
    try:
        invoice = decode(feedback.bolt11)
    except InvalidInvoice as error:
        raise Unpayable("bad-invoice", f"its invoice cannot be read: {error}") from None
    if invoice.msat is None:
        raise Unpayable("amount-differs", "its invoice leaves the amount open")
    if invoice.msat != feedback.msat:
        raise Unpayable(
            "amount-differs", f"it asks for {feedback.msat} msat, and its invoice is over {invoice.msat} msat"
        )
    if invoice.msat > max_msat:
        raise Unpayable("too-dear", f"it asks for {invoice.msat} msat, and the limit is {max_msat} msat")
    if network is not None and invoice.network != network:
        raise Unpayable("wrong-network", f"its invoice is for {invoice.network}, and the wallet is on {network}")
    if invoice.unknown_required:
        raise Unpayable("bad-invoice", "its invoice demands a feature that is not known")
    if invoice.expires_at < now + LEAST_SECONDS:
        raise Unpayable("expired", "its invoice has expired")
    return Quoted(
        provider=feedback.provider,
        msat=invoice.msat,
        bolt11=feedback.bolt11,
        payment_hash=invoice.payment_hash,
        network=invoice.network,
        expires_at=invoice.expires_at,
        text=feedback.text,
    )
