"""A provider's word about an account, held against the receipts that it has signed."""

from __future__ import annotations

import pytest

from dvm.customer import Account, compare
from dvm.customer.checking import check_money
from dvm.nip90 import (
    AccountAnswer,
    Payment,
    Receipt,
    StatedBalance,
    StatedEntry,
    make_account_answer,
    parse_account_answer,
)
from tests.nip90.samples import CUSTOMER, HASH, NOW, PROVIDER, chain

OTHER = "cd" * 32
TOP_UP, OUT = Payment("zap", HASH, 30_000), Payment("bolt11", OTHER, -10_012)
CHAIN = chain((None, 0, (TOP_UP,)), (None, 0, (OUT,)))
LEFT = 19_988


def account(receipts: list[Receipt]) -> Account:
    return Account(PROVIDER.pubkey, CUSTOMER.pubkey, tuple(receipts))


def entry(of: Receipt, **more: object) -> StatedEntry:
    fields = {"seq": of.seq, "receipt": of.id, "at": NOW, "paid": of.paid, "cost": 0}
    return StatedEntry(**{**fields, "after": of.after, "job": None, **more})  # type: ignore[arg-type]


def says(*entries: StatedEntry, balance: StatedBalance | None = None) -> AccountAnswer:
    to = (HASH, CUSTOMER.pubkey, "nip44")
    answer = make_account_answer(PROVIDER, to, NOW, balance=balance, entries=entries)  # type: ignore[arg-type]
    return parse_account_answer(answer, CUSTOMER)


@pytest.mark.parametrize(
    "balance",
    [
        StatedBalance(LEFT, 0, 0),
        StatedBalance(LEFT - 5_000, 5_000, 0),  # a job that is paid from the balance
        StatedBalance(LEFT - 6_000, 0, 6_000),
        StatedBalance(LEFT, 5_000, 0),  # a job that is paid by its own invoice, and not receipted yet
        None,
    ],
)
def test_what_fits_the_receipts_is_no_contradiction(balance: StatedBalance | None) -> None:
    assert compare(account(CHAIN), says(entry(CHAIN[1]), balance=balance)) == []


@pytest.mark.parametrize(
    "balance",
    [
        StatedBalance(LEFT - 1, 0, 0),
        StatedBalance(LEFT + 1, 0, 0),
        StatedBalance(LEFT, 0, 1),
        StatedBalance(LEFT - 10_000, 5_000, 0),
    ],
)
def test_a_sum_that_is_not_what_was_receipted_is_found(balance: StatedBalance) -> None:
    (problem,) = compare(account(CHAIN), says(entry(CHAIN[1]), balance=balance))
    assert f"its newest receipt leaves {LEFT} msat" in problem


def test_a_receipt_that_is_denied_or_told_otherwise_is_found() -> None:
    rich = StatedBalance(LEFT, 0, 0)
    assert compare(account(CHAIN), says(entry(CHAIN[0]), balance=rich)) == [
        "its newest receipt is number 1, it says; you hold number 2"
    ]
    assert compare(account(CHAIN), says(balance=rich)) == ["its newest receipt is none, it says; you hold number 2"]
    for lie in ({"receipt": OTHER}, {"after": LEFT + 1}):
        (problem,) = compare(account(CHAIN), says(entry(CHAIN[1], **lie), balance=rich))
        assert "receipt 2" in problem


def test_receipts_that_no_relay_has_shown_are_no_contradiction() -> None:
    assert compare(account(CHAIN[:1]), says(entry(CHAIN[1]), balance=StatedBalance(LEFT, 0, 0))) == []
    assert compare(account([]), says(balance=StatedBalance(0, 0, 0))) == []
    assert compare(account([]), says(balance=StatedBalance(5, 0, 0))) != []


def test_money_is_checked_with_its_amount_its_signature_and_its_chain() -> None:
    whole = account(CHAIN)
    assert check_money(CHAIN[1], payment_hash=OTHER, msat=-10_012, account=whole).problems == ()
    assert check_money(CHAIN[0], payment_hash=HASH, msat=30_000, account=None).problems == ()
    assert check_money(CHAIN[1], payment_hash=OTHER, msat=-10_000, account=whole).problems == (
        "it takes 10012 msat, not 10000",
    )
    assert check_money(CHAIN[0], payment_hash=HASH, msat=30_001, account=whole).problems == (
        "it credits 30000 msat for a payment of 30001",
    )
    (unnamed, *_) = check_money(CHAIN[0], payment_hash=OTHER, msat=1, account=whole).problems
    assert "does not name the payment" in unnamed
