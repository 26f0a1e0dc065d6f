"""Receipts of kind 7090: exact tags, round trips, and that nothing can be read in two ways."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nip90 import Answers, InvalidReceipt, Payment, cost_msat, make_receipt, parse_receipt
from dvm.nip90.receipts import MAX_CLASSES, MAX_PAYMENTS
from dvm.nostr.encryption import EncryptError, decrypt, encrypt
from tests.nip90.samples import (
    COST,
    CUSTOMER,
    HASH,
    JSON,
    NOW,
    PRICES,
    PROVIDER,
    SCHEMES,
    STRANGER,
    TAGS,
    Link,
    Usage,
    job,
    read,
    unsigned,
    work,
)

PAID = Payment("bolt11", HASH, 3000)
PREV = "cd" * 32


def test_a_jobs_receipt_has_exactly_these_tags_in_this_order():
    request = job()
    result = Answers(PROVIDER, request).result("an answer", NOW)
    facts = work(
        request,
        result,
        "an answer",
        usage=Usage(1000, 200, 300, 40, frozenset({"output"})),
        job_relay="wss://in.example.com",
        result_relay="wss://out.example.com",
    )
    link = Link(7, PREV, 500, 500 + 3000 - COST, COST, (PAID,))
    event = make_receipt(PROVIDER, CUSTOMER.pubkey, link, NOW, work=facts, d="shop")
    assert event.verify()
    assert (event.kind, event.content, event.created_at) == (7090, "", NOW)
    assert event.tags == [
        ["e", request.id, "wss://in.example.com", "customer"],
        ["e", result.id, "wss://out.example.com", "provider"],
        ["p", CUSTOMER.pubkey],
        ["k", "5050"],
        ["model", "flash", "flash-001"],
        ["input_sha256", sha256(b"What is a satoshi?").hexdigest()],
        ["output_sha256", sha256(b"an answer").hexdigest()],
        ["usage", "input", "1000"],
        ["usage", "cached", "200"],
        ["usage", "output", "300", "estimate"],
        ["usage", "thoughts", "40"],
        ["price", "input", "300000"],
        ["price", "cached", "75000"],
        ["price", "output", "2500000"],
        ["price", "thoughts", "2500000"],
        ["cost", "1165"],
        ["payment", "bolt11", HASH, "3000"],
        ["balance", "500", "2335"],
        ["seq", "7"],
        ["prev", PREV],
        ["a", f"31990:{PROVIDER.pubkey}:shop"],
        ["finish", "stop"],
    ]


@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
def test_of_an_encrypted_jobs_receipt_only_the_references_stand_in_clear(scheme):
    request = job(scheme)
    result = Answers(PROVIDER, request).result("an answer", NOW)
    facts = work(request, result, "an answer")
    link = Link(2, PREV, 0, 3000 - COST, COST, (PAID,))
    event = make_receipt(PROVIDER, CUSTOMER.pubkey, link, NOW, work=facts, d="shop", scheme=scheme)
    assert event.tags == [
        ["e", request.id, "", "customer"],
        ["e", result.id, "", "provider"],
        ["p", CUSTOMER.pubkey],
        ["k", "5050"],
        ["seq", "2"],
        ["prev", PREV],
        ["a", f"31990:{PROVIDER.pubkey}:shop"],
        ["encrypted"],
    ]
    text, used = decrypt(CUSTOMER, PROVIDER.pubkey, event.content)
    assert used == scheme
    assert [tag[0] for tag in json.loads(text)] == [
        *("model", "input_sha256", "output_sha256", "usage", "usage", "usage", "usage"),
        *("price", "price", "price", "price", "cost", "payment", "balance", "finish"),
    ]
    with pytest.raises(InvalidReceipt, match="no key"):
        parse_receipt(event, None)
    with pytest.raises(InvalidReceipt, match="cannot be decrypted"):
        parse_receipt(event, STRANGER)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_provider_signs_is_what_both_read(scheme):
    request = job(scheme)
    result = Answers(PROVIDER, request).result("an answer", NOW)
    facts = work(request, result, "an answer", usage=Usage(1000, 200, 300, 40, frozenset({"thoughts"})))
    payments = (PAID, Payment("zap", "ef" * 32, 1000))
    link = Link(1, None, 0, 4000 - COST, COST, payments)
    event = make_receipt(PROVIDER, CUSTOMER.pubkey, link, NOW, work=facts, d="shop", scheme=scheme)
    receipt = read(event)
    assert receipt == parse_receipt(event, PROVIDER)
    assert (receipt.id, receipt.provider, receipt.customer) == (event.id, PROVIDER.pubkey, CUSTOMER.pubkey)
    assert (receipt.job, receipt.result, receipt.kind) == (request.id, result.id, 5050)
    assert (receipt.model, receipt.version, receipt.finish) == ("flash", "flash-001", "stop")
    assert (receipt.input_sha256, receipt.output_sha256) == (facts.input_sha256, facts.output_sha256)
    assert receipt.usage == {"input": 1000, "cached": 200, "output": 300, "thoughts": 40}
    assert receipt.estimated == {"thoughts"}
    assert receipt.prices == {**PRICES, "thoughts": PRICES["output"]}
    assert (receipt.cost, receipt.before, receipt.after, receipt.paid) == (COST, 0, 4000 - COST, 4000)
    assert (receipt.payments, receipt.seq, receipt.prev) == (payments, 1, None)
    assert (receipt.announcement, receipt.scheme) == (f"31990:{PROVIDER.pubkey}:shop", scheme)
    assert cost_msat(receipt.usage, receipt.prices) == COST


def test_a_job_paid_out_of_the_balance_brings_no_new_money():
    facts = work(job(), None)
    event = make_receipt(PROVIDER, CUSTOMER.pubkey, Link(2, PREV, 5000, 5000 - COST, COST), NOW, work=facts)
    assert event.all("payment") == [["payment", "balance", "", "0"]]
    assert read(event).paid == 0
    assert event.tag("a") is None


def test_a_voided_job_has_neither_result_nor_cost_and_maybe_no_usage():
    facts = work(job(), None, usage=None, finish="error")
    event = make_receipt(PROVIDER, CUSTOMER.pubkey, Link(1, None, 0, 3000, 0, (PAID,)), NOW, work=facts)
    receipt = read(event)
    assert (receipt.result, receipt.output_sha256, receipt.cost, receipt.usage) == (None, None, 0, {})
    assert (receipt.after, receipt.finish) == (3000, "error")
    assert event.tag("prev") is None


def test_prices_of_requests_and_of_nothing():
    link = Link(1, None, 0, 3000 - 2100, 2100, (PAID,))
    event = make_receipt(PROVIDER, CUSTOMER.pubkey, link, NOW, work=work(job(), None, prices={"request": 2100}))
    assert event.all("price") == [["price", "request", "2100"]]
    free = make_receipt(PROVIDER, CUSTOMER.pubkey, Link(1), NOW, work=work(job(), None, prices={}))
    assert (free.all("price"), free.tag("cost")) == ([], "0")
    silent = work(job(), None, usage=Usage(10, 0, 5))
    event = make_receipt(PROVIDER, CUSTOMER.pubkey, Link(1, None, 9, 8, 1), NOW, work=silent)
    assert [tag[1] for tag in event.all("price")] == ["input", "cached", "output"], "no thoughts, no price of them"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_top_ups_and_withdrawals_are_receipts_without_a_job(scheme):
    top_up = make_receipt(PROVIDER, CUSTOMER.pubkey, Link(1, None, 0, 3000, 0, (PAID,)), NOW, scheme=scheme)
    out = Payment("bolt11", "ef" * 32, -2000)
    withdrawal = make_receipt(PROVIDER, CUSTOMER.pubkey, Link(2, top_up.id, 3000, 1000, 0, (out,)), NOW, scheme=scheme)
    if scheme is None:
        assert top_up.tags == [
            ["p", CUSTOMER.pubkey],
            ["payment", "bolt11", HASH, "3000"],
            ["balance", "0", "3000"],
            ["seq", "1"],
        ]
    for event, payment in ((top_up, PAID), (withdrawal, out)):
        receipt = read(event)
        assert (receipt.job, receipt.cost, receipt.kind, receipt.finish) == (None, None, None, None)
        assert receipt.payments == (payment,)


def test_a_place_that_does_not_add_up_is_not_signed():
    for link in (Link(1, None, 0, 1, 0, (PAID,)), Link(1, None, 0, 3000, 0), Link(1, None, 100, 100, 50)):
        with pytest.raises(ValueError, match="balance after"):
            make_receipt(PROVIDER, CUSTOMER.pubkey, link, NOW, work=work(job(), None))
    for link in (Link(1, None, 100, 50, 50), Link()):
        with pytest.raises(ValueError, match="without a job"):
            make_receipt(PROVIDER, CUSTOMER.pubkey, link, NOW)


def test_a_receipt_that_cannot_be_encrypted_is_not_made():
    with pytest.raises(EncryptError):
        make_receipt(PROVIDER, "f" * 64, Link(1, None, 0, 3000, 0, (PAID,)), NOW, scheme="nip44")


BASE = [["p", CUSTOMER.pubkey], ["balance", "0", "3000"], ["seq", "1"], ["payment", "bolt11", HASH, "3000"]]


@pytest.mark.parametrize(
    "tag",
    [
        ["seq", "2"],
        ["p", STRANGER.pubkey],
        ["balance", "0", "5"],
        ["cost", "-5"],
        ["cost", "1.5"],
        ["prev", "first"],
        ["e", "not an id", "", "customer"],
        ["k", "99999"],
        ["model"],
        ["model", "x" * 300],
        ["input_sha256", "ABCD"],
        ["usage", "input"],
        ["usage", "input", "-1"],
        ["usage", "input", "1e6"],
        ["usage", "input", "9" * 19],
        ["price", "input", "x"],
        ["price", "x" * 300, "1"],
        ["payment", "cash", HASH, "1"],
        ["payment", "bolt11", "", "1"],
        ["payment", "bolt11", HASH],
        ["payment", "balance", "", "5"],
        ["payment", "balance", HASH, "0"],
        ["payment", "zap", HASH, "9" * 19],
    ],
)
def test_a_malformed_tag_makes_no_receipt(tag):
    assert read(PROVIDER.sign(7090, BASE, "", NOW)).seq == 1
    with pytest.raises(InvalidReceipt):
        read(PROVIDER.sign(7090, [*BASE, tag], "", NOW))


@pytest.mark.parametrize(
    "tag",
    [
        ["cost", "5"],
        ["finish", "stop"],
        ["a", "31990:x:y"],
        ["prev", HASH],
        ["model", "a", "b"],
        ["k", "5050"],
        ["output_sha256", HASH],
        ["usage", "input", "5"],
        ["price", "input", "5"],
        ["e", HASH, "", "provider"],
    ],
)
def test_what_is_stated_twice_makes_no_receipt(tag):
    read(PROVIDER.sign(7090, [*BASE, tag], "", NOW))
    with pytest.raises(InvalidReceipt):
        read(PROVIDER.sign(7090, [*BASE, tag, tag], "", NOW))
    content = encrypt("nip44", PROVIDER, CUSTOMER.pubkey, json.dumps([tag]))
    with pytest.raises(InvalidReceipt):
        read(PROVIDER.sign(7090, [*BASE, tag, ["encrypted"]], content, NOW))


def test_too_many_tags_of_any_sort_make_no_receipt():
    many = (
        [["x", "y"]] * 1000,
        [["usage", f"c{n}", "1"] for n in range(MAX_CLASSES + 1)],
        [["price", f"c{n}", "1"] for n in range(MAX_CLASSES + 1)],
        [["payment", "bolt11", f"{n:064x}", "1"] for n in range(MAX_PAYMENTS + 1)],
    )
    for tags in many:
        with pytest.raises(InvalidReceipt):
            read(PROVIDER.sign(7090, [*BASE, *tags], "", NOW))


@given(tags=TAGS, content=st.text(max_size=50), based=st.booleans(), kind=st.sampled_from([7090, 7000]))
def test_any_event_gives_a_receipt_or_the_one_documented_error(tags, content, based, kind):
    event = unsigned(kind, [*BASE, *tags] if based else tags, content, PROVIDER)
    for keys in (None, CUSTOMER):
        try:
            receipt = parse_receipt(event, keys)
        except InvalidReceipt:
            continue
        assert max(len(receipt.usage), len(receipt.prices)) <= MAX_CLASSES
        assert abs(receipt.paid) < 1 << 70


@given(inner=JSON | TAGS)
def test_any_encrypted_content_gives_a_receipt_or_the_one_documented_error(inner):
    content = encrypt("nip44", PROVIDER, CUSTOMER.pubkey, json.dumps(inner))
    event = unsigned(7090, [["p", CUSTOMER.pubkey], ["seq", "1"], ["encrypted"]], content, PROVIDER)
    try:
        parse_receipt(event, CUSTOMER)
    except InvalidReceipt:
        return


def test_cost_is_rounded_up_once_over_all_classes():
    assert cost_msat({"input": 1, "output": 1}, {"input": 400_000, "output": 400_000}) == 1
    assert cost_msat({"input": 1, "output": 2}, {"input": 500_000, "output": 500_000}) == 2
    assert cost_msat({"input": 0}, {"input": 400_000}) == 0
    assert cost_msat({"input": 10**6}, {"request": 5000}) == 5000
    assert cost_msat({"input": 10**6}, {}) == 0
    with pytest.raises(ValueError, match="audio: used, but without a price"):
        cost_msat({"audio": 1}, {"input": 1})
