"""The customer's check of receipts: honest ones pass, and each sort of forgery is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nip90 import (
    Announcement,
    Answers,
    Payment,
    Result,
    Work,
    announcement_draft,
    parse_announcement,
    parse_answer,
    parse_request,
    verify_chain,
    verify_receipt,
)
from dvm.nostr.event import Event
from tests.nip90.samples import (
    COST,
    CUSTOMER,
    HASH,
    NOW,
    PRICES,
    PROVIDER,
    SCHEMES,
    STRANGER,
    Usage,
    altered,
    asked,
    chain,
    job,
    signed,
    swapped,
    work,
)

OTHER = "cd" * 32
PAID = Payment("bolt11", HASH, 3000)
SHOP = parse_announcement(
    announcement_draft(Announcement(d="shop", kinds=(5050,), name="Shop", prices={"flash": PRICES})).sign(PROVIDER, NOW)
)


def delivered(scheme=None, text="What is a satoshi?", output="an answer", **facts):
    """A request and its result as the customer has them, and what the provider receipts."""
    event = asked(scheme, text)
    result = Answers(PROVIDER, parse_request(event, PROVIDER)).result(output, NOW)
    request, read = parse_request(event, CUSTOMER), parse_answer(result, CUSTOMER)
    assert isinstance(read, Result)
    return request, read, work(request, result, output, **facts)


def bought(scheme=None, cost=COST, payments=(PAID,), **facts):
    """A receipt, and everything that the customer holds against it."""
    request, result, done = delivered(scheme, **facts)
    (receipt,) = chain((done, cost, payments), scheme=scheme)
    known = {
        "request": request,
        "result": result,
        "announcement": SHOP,
        "provider": PROVIDER.pubkey,
        "agreed": 3000,
        "paid": [HASH],
    }
    return receipt, known


def found(receipt, known, words):
    problems = verify_receipt(receipt, **known)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_honest_receipt_passes_every_check(scheme):
    receipt, known = bought(scheme)
    assert verify_receipt(receipt, **known) == []
    assert verify_receipt(receipt) == []
    assert verify_chain([receipt], paid=[HASH]) == []


def test_a_receipt_that_was_changed_after_signing_is_found():
    receipt, known = bought()
    event = receipt.event
    for change in ({"sig": "0" * 128}, {"id": OTHER}, {"created_at": NOW + 1}, {"tags": [*event.tags, ["x"]]}):
        forged = Event(**{**event.to_dict(), **change})
        found(altered(receipt, event=forged), known, "the id or the signature")


def test_a_receipt_of_another_signer_is_found():
    receipt, known = bought()
    stranger = signed(receipt, receipt.event.tags, STRANGER)
    for words in ("provider that was asked", "not signed by who", "another provider's", "that was not asked"):
        found(stranger, known, words)


def test_a_receipt_about_another_job_or_result_is_found():
    receipt, known = bought()
    job_e, result_e = receipt.event.tags[:2]
    rest = receipt.event.tags[2:]
    found(signed(receipt, [["e", OTHER, "", "customer"], result_e, *rest]), known, "another job")
    found(signed(receipt, [job_e, ["e", OTHER, "", "provider"], *rest]), known, "another result")
    found(signed(receipt, [job_e, *rest]), known, "another result, or none")
    found(swapped(receipt, "p", ["p", STRANGER.pubkey]), known, "another customer's")
    found(swapped(receipt, "k", ["k", "5001"]), known, "its kind is not the job's")
    found(swapped(receipt, "k", ["k", "5001"]), known, "of another kind")


def test_a_result_that_somebody_else_signed_or_that_answers_another_job_is_found():
    receipt, known = bought()
    event = known["result"].event
    other = parse_answer(STRANGER.sign(event.kind, event.tags, event.content, NOW), None)
    found(receipt, {**known, "result": other}, "the result is not signed by who signed the receipt")
    unsigned = Event(**{**event.to_dict(), "sig": "0" * 128})
    found(receipt, {**known, "result": parse_answer(unsigned, None)}, "the result is not signed by who signed")
    elsewhere = parse_answer(Answers(PROVIDER, job(text="another")).result("an answer", NOW), None)
    found(receipt, {**known, "result": elsewhere}, "the result is another job's")


def test_wrong_hashes_are_found():
    receipt, known = bought()
    found(swapped(receipt, "input_sha256", ["input_sha256", OTHER]), known, "input_sha256 is not")
    found(swapped(receipt, "input_sha256"), known, "input_sha256 is not")
    found(swapped(receipt, "output_sha256", ["output_sha256", OTHER]), known, "output_sha256 is not")
    found(swapped(receipt, "output_sha256"), known, "a result without its hash")


def test_prices_that_were_not_announced_are_found():
    receipt, known = bought()
    prices = [tag for tag in receipt.event.tags if tag[0] == "price"]
    for at, name in enumerate(("input", "cached", "output", "thoughts")):
        dear = [*prices[:at], ["price", name, "1"], *prices[at + 1 :]]
        found(swapped(receipt, "price", *dear), known, f"the price of {name} is 1; announced was")
    found(swapped(receipt, "price", *prices, ["price", "air", "5"]), known, "the price of air is 5; announced was none")
    found(swapped(receipt, "model", ["model", "cheap", ""]), known, "announced was none")
    found(swapped(receipt, "a", ["a", f"31990:{PROVIDER.pubkey}:other"]), known, "another announcement")
    dear, known = bought(prices={**PRICES, "output": 5_000_000}, cost=2015)
    found(dear, known, "the price of thoughts is 5000000; announced was 2500000")


def test_a_cost_that_is_not_usage_times_price_is_found():
    for cost in (COST + 1, COST - 1, 3000, 0):
        receipt, known = bought(cost=cost)
        found(receipt, known, f"it costs {cost} msat, but usage times price is {COST}")
    receipt, known = bought(cost=COST + 1)
    found(receipt, {}, "usage times price")
    receipt, known = bought()
    found(swapped(receipt, "price"), known, "usage times price is 0")
    found(swapped(receipt, "cost"), known, "the cost is missing")
    thoughtless = [tag for tag in receipt.event.tags if tag[:2] != ["price", "thoughts"]]
    found(signed(receipt, thoughtless), known, "thoughts: used, but without a price")


def test_a_cost_beyond_what_was_agreed_is_found_and_the_agreed_one_stands():
    receipt, known = bought()
    found(receipt, {**known, "agreed": 1000}, "more than the 1000 that were agreed")
    capped, known = bought(cost=1000)
    assert verify_receipt(capped, **{**known, "agreed": 1000}) == [], "the rest is the provider's loss"


def test_a_payment_that_is_not_named_is_found():
    receipt, known = bought()
    found(receipt, {**known, "paid": [OTHER]}, f"does not name the payment {OTHER}")
    balance, known = bought(cost=0, payments=(), usage=None, prices={})
    found(balance, known, f"does not name the payment {HASH}")


@pytest.mark.parametrize("before_after", [("0", "1834"), ("0", "1836"), ("1", "1835"), ("0", "3000")])
def test_a_balance_that_does_not_add_up_is_found(before_after):
    receipt, known = bought()
    found(swapped(receipt, "balance", ["balance", *before_after]), known, "the balance does not add up")


def test_a_negative_balance_and_a_withdrawal_under_a_jobs_name_are_found():
    receipt, known = bought()
    out = swapped(receipt, "payment", ["payment", "bolt11", HASH, "-3000"])
    negative = swapped(out, "balance", ["balance", "0", str(-3000 - COST)])
    found(negative, known, "a balance is negative")
    found(negative, known, "withdrawn under the name of a job")


def test_missing_parts_are_found():
    receipt, known = bought()
    for name in ("model", "k", "input_sha256", "payment"):
        found(swapped(receipt, name), known, "is missing")
    found(swapped(receipt, "finish"), known, "how the job ended")
    found(swapped(receipt, "finish", ["finish", "bored"]), known, "how the job ended")
    found(swapped(receipt, "prev", ["prev", OTHER]), known, "number 1")
    found(swapped(receipt, "seq", ["seq", "2"]), known, "number 1")
    found(swapped(receipt, "seq", ["seq", "0"]), known, "number 1")


def test_an_encrypted_job_with_a_receipt_in_clear_is_found():
    request, result, done = delivered("nip44")
    (receipt,) = chain((done, COST, (PAID,)), scheme=None)
    found(receipt, {"request": request, "result": result}, "the job was encrypted and the receipt is not")


def test_an_unreadable_result_is_said_to_be_so():
    receipt, known = bought("nip44")
    sealed = parse_answer(known["result"].event, None)
    found(receipt, {**known, "result": sealed}, "cannot be read")


def test_free_voided_and_per_request_jobs_pass():
    free, known = bought(cost=0, payments=(), prices={})
    assert verify_receipt(free, **{**known, "agreed": 0, "paid": []}) == []
    once, known = bought(cost=2100, prices={"request": 2100})
    shop = Announcement(d="shop", kinds=(), name="", prices={"flash": {"request": 2100}}, provider=PROVIDER.pubkey)
    assert verify_receipt(once, **{**known, "announcement": shop}) == []
    request, _, _ = delivered()
    voided = work(request, None, finish="error")
    (receipt,) = chain((voided, 0, (PAID,)))
    assert verify_receipt(receipt, request=request, announcement=SHOP, agreed=3000, paid=[HASH]) == []


def test_receipts_without_a_job_that_bill_or_do_nothing_are_found():
    (top_up,) = chain((None, 0, (PAID,)))
    assert verify_receipt(top_up, announcement=SHOP, paid=[HASH]) == []
    found(swapped(top_up, "cost", ["cost", "0"]), {}, "bills without a job")
    nothing = swapped(swapped(top_up, "payment"), "balance", ["balance", "0", "0"])
    found(nothing, {}, "neither a job nor a payment")


def statement(scheme=None) -> list:
    """A paid job, one from the change, a top-up, a withdrawal."""
    first, second = (delivered(scheme, text=text)[2] for text in ("one", "two"))
    return chain(
        (first, COST, (PAID,)),
        (second, COST, ()),
        (None, 0, (Payment("zap", OTHER, 5000),)),
        (None, 0, (Payment("bolt11", "ef" * 32, -4000),)),
        scheme=scheme,
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_unbroken_chain_passes_in_any_order_and_with_repetitions(scheme):
    receipts = statement(scheme)
    assert verify_chain(receipts, paid=[HASH, OTHER]) == []
    assert verify_chain([*reversed(receipts), receipts[0]]) == []
    assert verify_chain([]) == []
    assert receipts[-1].after == 3000 - 2 * COST + 5000 - 4000


def test_a_chain_may_begin_later_if_that_is_said():
    receipts = statement()
    assert verify_chain(receipts[2:], complete=False) == []
    assert verify_chain(receipts[2:]) == ["receipt 3: it should be the first, number 1"]


def test_a_withdrawal_that_takes_more_than_is_there_is_found():
    (top_up,) = chain((None, 0, (PAID,)))
    out = chain((None, 0, (PAID,)), (None, 0, (Payment("bolt11", OTHER, -3000),)))[1]
    assert verify_receipt(out, paid=[OTHER]) == []
    deeper = swapped(
        swapped(out, "payment", ["payment", "bolt11", OTHER, "-4000"]), "balance", ["balance", "3000", "-1000"]
    )
    assert "a balance is negative" in verify_receipt(deeper)
    hidden = swapped(out, "payment", ["payment", "bolt11", OTHER, "-2000"])
    assert any("does not add up" in problem for problem in verify_receipt(hidden))
    assert verify_chain([top_up, out], paid=[HASH, OTHER]) == []


def test_a_withdrawal_that_is_charged_twice_breaks_the_chain():
    out = Payment("bolt11", OTHER, -1000)
    receipts = chain((None, 0, (PAID,)), (None, 0, (out,)), (None, 0, (out,)))
    assert verify_chain(receipts) == [f"the payment {OTHER} is named 2 times"]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_receipt_breaks_the_chain(missing):
    receipts = statement()
    del receipts[missing]
    assert verify_chain(receipts)


def test_two_receipts_of_one_number_break_the_chain():
    receipts = statement()
    twin = swapped(receipts[1], "finish", ["finish", "length"])
    assert "receipt 2: there are two of that number" in verify_chain([*receipts, twin])


def test_a_wrong_predecessor_or_a_wrong_balance_breaks_the_chain():
    receipts = statement()
    elsewhere = swapped(receipts[1], "prev", ["prev", OTHER])
    assert "receipt 2: it does not follow receipt 1" in verify_chain([receipts[0], elsewhere])
    poorer = swapped(receipts[1], "balance", ["balance", "1500", str(1500 - COST)])
    assert any("it begins with 1500 msat, not" in problem for problem in verify_chain([receipts[0], poorer]))
    richer = swapped(receipts[0], "balance", ["balance", "10", str(3010 - COST)])
    assert "receipt 1: it begins with 10 msat from nowhere" in verify_chain([richer])


def test_another_customers_or_providers_receipt_breaks_the_chain():
    receipts = statement()
    for other in (
        swapped(receipts[1], "p", ["p", STRANGER.pubkey]),
        signed(receipts[1], receipts[1].event.tags, STRANGER),
    ):
        assert "receipt 2: another provider's or another customer's" in verify_chain([receipts[0], other])


def test_money_named_twice_or_never_and_jobs_billed_twice_are_found():
    done = delivered()[2]
    twice = chain((done, COST, (PAID,)), (done, COST, (PAID,)))
    problems = verify_chain(twice, paid=[OTHER])
    assert f"the payment {HASH} is named 2 times" in problems
    assert f"no receipt names the payment {OTHER}" in problems
    assert f"the job {done.job} is billed 2 times" in problems


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 100), st.booleans()), max_size=12
    ),
    scheme=st.sampled_from(SCHEMES[:2]),
)
def test_whatever_an_honest_provider_settles_is_a_chain_that_passes(steps, scheme):
    balance, receipts = 0, []
    for number, (tokens, price, sats, job_too) in enumerate(steps):
        payment = (Payment("bolt11", f"{number:064x}", sats * 1000),) if sats else ()
        used = -(-tokens * price // 10**6)
        if job_too and used <= balance + sats * 1000:
            done = Work(
                job=f"{number + 1000:064x}",
                kind=5050,
                model="m",
                version="",
                input_sha256=HASH,
                finish="stop",
                usage=Usage(output=tokens),
                prices={"input": 1, "output": price},
            )
            receipts.append((done, used, payment))
            balance += sats * 1000 - used
        elif payment:
            receipts.append((None, 0, payment))
            balance += sats * 1000
    made = chain(*receipts, scheme=scheme)
    assert verify_chain(made) == []
    assert not made or made[-1].after == balance
