"""What a customer holds a receipt against, once the job is over."""

from __future__ import annotations

from collections.abc import Sequence

from dvm.customer.account import Account
from dvm.customer.updates import Quoted, Receipted
from dvm.nip90 import AccountAnswer, Announcement, JobRequest, Receipt, Result, verify_receipt


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
    return _with_account(receipt, wrong, checked, account)


def check_money(receipt: Receipt, *, payment_hash: str, msat: int, account: Account | None) -> Receipted:
    """The receipt of a payment to the balance, or (`msat` below zero, its fee included) of a withdrawal, with all
    that is wrong with it. `account` includes this receipt."""
    wrong = verify_receipt(receipt, paid=[payment_hash])
    named = sum(p.msat for p in receipt.payments if p.payment_hash == payment_hash)
    if named < msat:
        did = f"credits {named} msat for a payment of {msat}" if msat > 0 else f"takes {-named} msat, not {-msat}"
        wrong.append(f"it {did}")
    return _with_account(receipt, wrong, ["signature", "payment"], account)


def compare(account: Account, answer: AccountAnswer) -> list[str]:
    """What a provider's own word (its balance, and the newest entry of its statement) has against its receipts, in
    sentences; an empty list if nothing."""
    newest = account.receipts[-1] if account.receipts else None
    entry = max(answer.entries, key=lambda each: each.seq, default=None)
    wrong = []
    if newest is not None and (entry is None or entry.seq < newest.seq):
        last = "none" if entry is None else f"number {entry.seq}"
        wrong.append(f"its newest receipt is {last}, it says; you hold number {newest.seq}")
    by_number = {receipt.seq: receipt for receipt in account.receipts}
    for each in answer.entries:
        held = by_number.get(each.seq)
        if held is not None and (held.id, held.after) != (each.receipt, each.after):
            wrong.append(f"receipt {each.seq}: its statement has another, or another balance, than what it signed")
    if (balance := answer.balance) is not None and not wrong:
        after = entry.after if entry is not None else account.balance_msat
        owned = balance.available + balance.held + balance.leaving
        # What was paid for a job that still runs is held, and stands on no receipt yet.
        if not after <= owned <= after + balance.held:
            wrong.append(f"its balances add up to {owned} msat, and its newest receipt leaves {after} msat")
    return wrong


def matching(announcements: Sequence[Announcement], receipt: Receipt) -> Announcement | None:
    """The announcement to which a receipt refers, or else the one that has its kind; only one with prices."""
    priced = [each for each in announcements if each.prices]
    if receipt.announcement is not None:
        return next((each for each in priced if each.address == receipt.announcement), None)
    return next((each for each in priced if receipt.kind in each.kinds), None)


def not_sold(announcements: Sequence[Announcement], kind: int) -> str:
    """What a provider that does not answer has announced, if this kind of job is not among it; else nothing."""
    kinds = {sold for each in announcements for sold in each.kinds}
    if not kinds or kind in kinds:
        return ""
    return f"; it announces jobs of kind {', '.join(map(str, sorted(kinds)))}, not {kind}"


def _with_account(receipt: Receipt, wrong: list[str], checked: list[str], account: Account | None) -> Receipted:
    missing: tuple[tuple[int, int], ...] = ()
    if account is not None:
        wrong += [problem for problem in account.problems if not _said(problem, receipt, wrong)]
        missing = account.missing
        if len(account.receipts) > 1 or receipt.seq == 1:
            checked.append(_chain(account))
    return Receipted(receipt, tuple(dict.fromkeys(wrong)), tuple(checked), missing)


def _said(problem: str, receipt: Receipt, wrong: Sequence[str]) -> bool:
    """Whether the chain's complaint repeats one about this receipt by itself."""
    return problem.removeprefix(f"receipt {receipt.seq}: ") in wrong


def _chain(account: Account) -> str:
    count = len(account.receipts)
    receipts = "1 receipt" if count == 1 else f"{count} receipts"
    return f"chain of {receipts}" + ("" if account.complete else ", with gaps")
