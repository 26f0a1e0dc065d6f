"""How a payout ends in the books, and what its customer is told: answers, which follow from its row alone, and the
receipt."""

from __future__ import annotations

import logging
from dataclasses import replace

from dvm.jobs.shop import Shop, publication
from dvm.ledger import Link, Payout, PayoutState, Publication, ReceiptMaker
from dvm.nip90 import Withdrawal, make_account_answer, make_receipt, next_second
from dvm.nip90.account_answers import Status
from dvm.nostr.encryption import EncryptError, Scheme

log = logging.getLogger(__name__)


def answer(shop: Shop, payout: Payout) -> tuple[Publication, ...]:
    """How it stands; nothing for the operator's own, and nothing where it cannot be encrypted."""
    if payout.customer is None:
        return ()
    status, code, text, fee = _told(payout)
    to = (payout.id, payout.customer, _scheme(payout))
    withdrawal = Withdrawal(payout.id, payout.state.value, payout.msat, fee, payout.payment_hash)
    ended = payout.state in (PayoutState.PAID, PayoutState.FAILED)
    at = next_second(shop.now(), payout.created_at) if ended else shop.now()  # clients keep the newest
    try:
        said = make_account_answer(shop.keys, to, at, status=status, code=code, text=text, withdrawal=withdrawal)
    except EncryptError:  # nothing leaves in clear instead (money.md, case 27)
        log.warning("an answer about a withdrawal cannot be encrypted and is not sent", extra={"payout": payout.id})
        return ()
    return (publication(said, f"withdrawal-{payout.state}", payout.relays),)


async def end_paid(shop: Shop, payout: Payout, fee_msat: int) -> tuple[Publication, ...] | None:
    """reserved → paid, in one transaction with what is returned: it may be published now. None if it had ended
    before. Raises LedgerError."""
    now = next_second(shop.now(), payout.created_at)
    said = answer(shop, replace(payout, state=PayoutState.PAID, fee_msat=fee_msat))
    made: list[Publication] = []
    maker = receipt_maker(shop, payout, now, made)
    if not await shop.store.paid_out(payout.id, fee_msat, maker, said, now):
        return None
    return (*made[-1:], *said)


async def end_failed(shop: Shop, payout: Payout, reason: str) -> tuple[Publication, ...] | None:
    """reserved → failed, as `end_paid`; `reason` is "code: text"."""
    said = answer(shop, replace(payout, state=PayoutState.FAILED, reason=reason))
    now = next_second(shop.now(), payout.created_at)
    return said if await shop.store.not_paid_out(payout.id, reason, said, now) else None


def receipt_maker(shop: Shop, payout: Payout, at: int, made: list[Publication]) -> ReceiptMaker | None:
    """Makes the receipt of a withdrawal, and appends it to `made`; None for the operator's own, which has none."""
    customer = payout.customer
    if customer is None:
        return None

    def make(link: Link) -> Publication:
        receipt = make_receipt(shop.keys, customer, link, at, d=shop.announcement, scheme=_scheme(payout))
        made.append(publication(receipt, "receipt", payout.relays))
        return made[-1]

    return make


def _told(payout: Payout) -> tuple[Status, str, str, int]:
    """Status, code, text and fee."""
    match payout.state:
        case PayoutState.RESERVED:
            return "processing", "", "", 0
        case PayoutState.PAID:
            return "success", "", "", min(payout.fee_msat, payout.fee_limit_msat)
        case _:
            code, _, text = (payout.reason or "failed").partition(": ")
            return "error", code, text, 0


def _scheme(payout: Payout) -> Scheme:
    return "nip04" if payout.scheme == "nip04" else "nip44"
