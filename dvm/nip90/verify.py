"""A customer's check of receipts (kind 7090): each by itself, against the job, and as one unbroken chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import pairwise

from dvm.nip90.announce import Announcement
from dvm.nip90.feedback import Result
from dvm.nip90.receipts import FINISHES, Receipt, cost_msat
from dvm.nip90.requests import JobRequest, input_sha256, text_sha256
from dvm.nip90.wire import RECEIPT, TO_RESULT


def verify_receipt(
    receipt: Receipt,
    *,
    request: JobRequest | None = None,
    result: Result | None = None,
    announcement: Announcement | None = None,
    provider: str | None = None,
    agreed: int | None = None,
    paid: Collection[str] = (),
) -> list[str]:
    """What is wrong with a receipt, in sentences; an empty list if nothing is.

    Whatever is given is held against it: our request (parsed with our keys), the result as we received
    it, the announcement by which we chose, the public key of the `provider`, the msat that we agreed to at
    most, and the payment hashes that we paid for this job (each must be named; leave them out for a job that
    was paid out of the balance). Signature, sums and shape are checked always; never raises.
    """
    wrong = _by_itself(receipt, agreed)
    if provider is not None and receipt.provider != provider:
        wrong.append("it is not signed by the provider that was asked")
    if request is not None:
        wrong += _against_request(receipt, request)
    if result is not None:
        wrong += _against_result(receipt, result)
    if announcement is not None:
        wrong += _against_announcement(receipt, announcement)
    named = {payment.payment_hash for payment in receipt.payments}
    wrong += [f"it does not name the payment {one}" for one in paid if one not in named]
    return wrong


def verify_chain(receipts: Iterable[Receipt], *, paid: Collection[str] = (), complete: bool = True) -> list[str]:
    """What is wrong with one customer's receipts from one provider, in any order; empty if nothing is.

    Each must follow the one before (`seq`, `prev`, balance); unless `complete` is False, the first must be
    number 1 and begin with nothing. `paid` are payment hashes that must each be named, by exactly one.
    Includes what is wrong with each by itself. Never raises.
    """
    chain = sorted({receipt.id: receipt for receipt in receipts}.values(), key=lambda r: (r.seq, r.id))
    wrong = [f"receipt {r.seq}: {problem}" for r in chain for problem in _by_itself(r, None)]
    if chain and complete:
        first = chain[0]
        if first.seq != 1:
            wrong.append(f"receipt {first.seq}: it should be the first, number 1")
        elif first.before != 0:
            wrong.append(f"receipt 1: it begins with {first.before} msat from nowhere")
    for last, this in pairwise(chain):
        if (this.provider, this.customer) != (last.provider, last.customer):
            wrong.append(f"receipt {this.seq}: another provider's or another customer's")
        elif this.seq == last.seq:
            wrong.append(f"receipt {this.seq}: there are two of that number")
        elif this.seq != last.seq + 1:
            wrong.append(f"receipt {this.seq}: number {last.seq + 1} is missing before it")
        elif this.prev != last.id:
            wrong.append(f"receipt {this.seq}: it does not follow receipt {last.seq}")
        elif this.before != last.after:
            wrong.append(f"receipt {this.seq}: it begins with {this.before} msat, not {last.after}")
    named = Counter(p.payment_hash for r in chain for p in r.payments if p.payment_hash)
    wrong += [f"the payment {one} is named {count} times" for one, count in named.items() if count > 1]
    wrong += [f"no receipt names the payment {one}" for one in paid if one not in named]
    jobs = Counter(r.job for r in chain if r.job is not None)
    wrong += [f"the job {one} is billed {count} times" for one, count in jobs.items() if count > 1]
    return wrong


def _by_itself(receipt: Receipt, agreed: int | None) -> list[str]:
    wrong = []
    if receipt.event.kind != RECEIPT or not receipt.event.verify():
        wrong.append("the id or the signature is not valid")
    if receipt.seq < 1 or (receipt.seq == 1) != (receipt.prev is None):
        wrong.append("number 1, and it alone, has no receipt before it")
    if receipt.before < 0 or receipt.after < 0:
        wrong.append("a balance is negative")
    cost = receipt.cost or 0
    if receipt.after != receipt.before + receipt.paid - cost:
        wrong.append(f"the balance does not add up: {receipt.before} + {receipt.paid} - {cost} is not {receipt.after}")
    if receipt.job is None:
        if receipt.cost is not None or receipt.result is not None:
            wrong.append("it bills without a job")
        if not any(payment.msat for payment in receipt.payments):
            wrong.append("it has neither a job nor a payment")
        return wrong
    if any(payment.msat < 0 for payment in receipt.payments):
        wrong.append("money is withdrawn under the name of a job")
    return wrong + _job_by_itself(receipt, agreed)


def _job_by_itself(receipt: Receipt, agreed: int | None) -> list[str]:
    """The parts that every job's receipt has, and its cost."""
    wrong = []
    if receipt.kind is None or receipt.model is None or receipt.input_sha256 is None or not receipt.payments:
        wrong.append("kind, model, input_sha256 or payment is missing")
    if receipt.finish not in FINISHES:
        wrong.append("it does not say how the job ended")
    if (receipt.result is None) != (receipt.output_sha256 is None):
        wrong.append("it has a result without its hash, or a hash without a result")
    if receipt.cost is None:
        return [*wrong, "the cost is missing"]
    if agreed is not None and receipt.cost > agreed:
        wrong.append(f"it costs {receipt.cost} msat, more than the {agreed} that were agreed")
    try:
        used = cost_msat(receipt.usage, receipt.prices)
    except ValueError as error:
        return [*wrong, str(error)]
    if receipt.cost > used:
        wrong.append(f"it costs {receipt.cost} msat, but usage times price is {used}")
    # Less is billed only where the quote was used up, or where a job without a result was voided.
    voided = receipt.result is None
    if agreed is not None and receipt.cost < min(used, agreed) and not voided:
        wrong.append(f"it costs {receipt.cost} msat, but usage times price is {used}")
    return wrong


def _against_request(receipt: Receipt, request: JobRequest) -> list[str]:
    wrong = []
    if receipt.job != request.id:
        wrong.append("it is about another job")
    if receipt.customer != request.customer:
        wrong.append("it is another customer's")
    if receipt.kind != request.kind:
        wrong.append("its kind is not the job's")
    if receipt.input_sha256 != input_sha256(request):
        wrong.append("input_sha256 is not the hash of what was asked")
    if request.providers and receipt.provider not in request.providers:
        wrong.append("it is signed by a provider that was not asked")
    if request.scheme is not None and receipt.scheme is None:
        wrong.append("the job was encrypted and the receipt is not")
    return wrong


def _against_result(receipt: Receipt, result: Result) -> list[str]:
    wrong = []
    if not result.event.verify() or result.provider != receipt.provider:
        wrong.append("the result is not signed by who signed the receipt")
    if receipt.result != result.event.id:
        wrong.append("it names another result, or none")
    if receipt.job != result.job or (receipt.kind is not None and receipt.kind + TO_RESULT != result.kind):
        wrong.append("the result is another job's, or of another kind")
    if result.content is None:
        wrong.append("the result cannot be read: no key was given")
    elif receipt.output_sha256 != text_sha256(result.content):
        wrong.append("output_sha256 is not the hash of what was delivered")
    return wrong


def _against_announcement(receipt: Receipt, announcement: Announcement) -> list[str]:
    if announcement.provider != receipt.provider:
        return ["the announcement is another provider's"]
    wrong = []
    if receipt.announcement is not None and receipt.announcement != announcement.address:
        wrong.append("it refers to another announcement")
    if receipt.job is None:
        return wrong
    announced = dict(announcement.prices.get(receipt.model or "", {}))
    if "output" in announced:
        announced.setdefault("thoughts", announced["output"])  # thinking costs what output costs
    for name, price in receipt.prices.items():
        if announced.get(name) != price:
            says = "none" if name not in announced else str(announced[name])
            wrong.append(f"the price of {name} is {price}; announced was {says}")
    return wrong
