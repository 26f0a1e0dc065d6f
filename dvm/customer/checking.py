"""What a customer holds a receipt against, once the job is over."""

from __future__ import annotations

from collections.abc import Sequence

from dvm.customer.account import Account
from dvm.customer.updates import Quoted, Receipted
from dvm.nip90 import Announcement, JobRequest, Receipt, Result, verify_receipt


def check_receipt(
    receipt: Receipt,
    *,
    request: JobRequest,
    provider: str,
    result: Result | None,
    quote: Quoted | None,
    max_msat: int,
    announcement: Announcement | None,
    account: Account | None,
) -> Receipted:
    """The receipt with all that is wrong with it. `quote` is what was paid; without one the job was paid out of
    the balance, or was free. `account` includes this receipt."""
    wrong = verify_receipt(
        receipt,
        request=request,
        result=result,
        announcement=announcement,
        provider=provider,
        # Out of the balance no quote was heard: only our own limit is known, and it bounds from above alone.
        agreed=None if quote is None else quote.msat,
        paid=[] if quote is None else [quote.payment_hash],
    )
    checked = ["signature", "request", "usage × price = cost"]
    if result is not None:
        checked.append("answer")
    elif receipt.result is not None:
        wrong.append("it names a result that nobody has delivered")
    if quote is None:
        if (receipt.cost or 0) > max_msat:
            wrong.append(f"it costs {receipt.cost} msat, more than the limit of {max_msat}")
        checked.append("cost within the limit")
    else:
        named = sum(p.msat for p in receipt.payments if p.payment_hash == quote.payment_hash)
        if any(p.payment_hash == quote.payment_hash for p in receipt.payments) and named < quote.msat:
            wrong.append(f"it credits {named} msat for the payment of {quote.msat}")
        checked += ["cost within the quote", "payment"]
    if announcement is not None:
        checked.append("announced prices")
    missing: tuple[tuple[int, int], ...] = ()
    if account is not None:
        wrong += [problem for problem in account.problems if not _said(problem, receipt, wrong)]
        missing = account.missing
        if len(account.receipts) > 1 or receipt.seq == 1:
            checked.append(_chain(account))
    return Receipted(receipt, tuple(dict.fromkeys(wrong)), tuple(checked), missing)


def matching(announcements: Sequence[Announcement], receipt: Receipt) -> Announcement | None:
    """The announcement to which a receipt refers, or else the one that has its kind; only one with prices."""
    priced = [each for each in announcements if each.prices]
    if receipt.announcement is not None:
        return next((each for each in priced if each.address == receipt.announcement), None)
    return next((each for each in priced if receipt.kind in each.kinds), None)


def _said(problem: str, receipt: Receipt, wrong: Sequence[str]) -> bool:
    """Whether the chain's complaint repeats one about this receipt by itself."""
    return problem.removeprefix(f"receipt {receipt.seq}: ") in wrong


def _chain(account: Account) -> str:
    count = len(account.receipts)
    receipts = "1 receipt" if count == 1 else f"{count} receipts"
    return f"chain of {receipts}" + ("" if account.complete else ", with gaps")
