"""What customers read: round trips from the provider, and anything else that comes by."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nip90 import (
    Answers,
    Feedback,
    InvalidAnswer,
    Result,
    is_answer_to,
    parse_answer,
)
from dvm.nostr.encryption import encrypt
from tests.nip90.samples import CUSTOMER, HASH, JSON, NOW, PROVIDER, SCHEMES, STRANGER, TAGS, asked, job, unsigned


def feedback(event, keys=CUSTOMER) -> Feedback:
    answer = parse_answer(event, keys)
    assert isinstance(answer, Feedback)
    return answer


def result(event, keys=CUSTOMER) -> Result:
    answer = parse_answer(event, keys)
    assert isinstance(answer, Result)
    return answer


def refused(tags, content="", kind=7000):
    with pytest.raises(InvalidAnswer):
        parse_answer(PROVIDER.sign(kind, tags, content, NOW), CUSTOMER)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_provider_says_is_what_the_customer_reads(scheme):
    request = job(scheme)
    answers = Answers(PROVIDER, request, "wss://relay.example.com")
    quote = feedback(answers.payment_required(21_000, "lnbc210n1", "Please pay", NOW))
    assert (quote.job, quote.customer, quote.provider) == (request.id, CUSTOMER.pubkey, PROVIDER.pubkey)
    assert (quote.status, quote.text, quote.content) == ("payment-required", "Please pay", "")
    assert (quote.msat, quote.bolt11, quote.scheme) == (21_000, "lnbc210n1", scheme)

    partial = feedback(answers.partial("Once upon", NOW + 1, [("remaining", "20000", "8000")]))
    assert (partial.status, partial.text, partial.content) == ("partial", "", "Once upon")
    assert ("remaining", "20000", "8000") in partial.tags

    error = feedback(answers.error("blocked", "by a filter", NOW + 2))
    assert (error.status, error.text, error.msat) == ("error", "blocked: by a filter", None)

    done = result(answers.result("Once upon a time", NOW + 3, msat=21_000, bolt11="lnbc210n1"))
    assert (done.job, done.kind, done.content, done.scheme) == (request.id, 6050, "Once upon a time", scheme)
    assert (done.msat, done.bolt11, done.provider) == (21_000, "lnbc210n1", PROVIDER.pubkey)
    for answer in (quote, partial, error, done):
        assert is_answer_to(answer, request.event)


@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
def test_without_keys_an_encrypted_answer_shows_only_what_stands_in_clear(scheme):
    answers = Answers(PROVIDER, job(scheme))
    quote = feedback(answers.payment_required(21_000, "lnbc210n1", "private", NOW), None)
    assert (quote.status, quote.text, quote.content, quote.msat) == ("payment-required", "", "", 21_000)
    assert feedback(answers.partial("private", NOW), None).content == ""
    assert result(answers.result("private", NOW), None).content is None


@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
def test_the_provider_can_read_its_own_answers_and_a_stranger_cannot(scheme):
    event = Answers(PROVIDER, job(scheme)).result("private", NOW)
    assert result(event, PROVIDER).content == "private"
    with pytest.raises(InvalidAnswer, match="cannot be decrypted"):
        parse_answer(event, STRANGER)


def test_only_the_provider_that_was_asked_answers_this_job():
    request = asked()
    tags = [["e", request.id], ["p", CUSTOMER.pubkey], ["status", "processing"]]
    assert is_answer_to(parse_answer(PROVIDER.sign(7000, tags, "", NOW), None), request)
    assert not is_answer_to(parse_answer(STRANGER.sign(7000, tags, "", NOW), None), request)
    for other in ([["e", HASH], *tags[1:]], [tags[0], ["p", STRANGER.pubkey], tags[2]]):
        assert not is_answer_to(parse_answer(PROVIDER.sign(7000, other, "", NOW), None), request)
    assert not is_answer_to(parse_answer(PROVIDER.sign(6001, tags, "", NOW), None), request)
    assert is_answer_to(parse_answer(PROVIDER.sign(6050, tags, "", NOW), None), request)


def test_a_broadcast_job_is_answered_by_anybody():
    request = asked(providers=[])
    answer = parse_answer(STRANGER.sign(6050, [["e", request.id], ["p", CUSTOMER.pubkey]], "x", NOW), None)
    assert is_answer_to(answer, request)


def test_other_peoples_shapes_are_read():
    e = ["e", HASH]
    assert feedback(PROVIDER.sign(7000, [e, ["status", "payment_required"]], "pay", NOW)).status == "payment-required"
    assert feedback(PROVIDER.sign(7000, [e, ["status", "scheduled"]], "later", NOW)).text == "later"
    assert feedback(PROVIDER.sign(7000, [["status", "error", "no"], e], "", NOW)).text == "no"
    assert feedback(PROVIDER.sign(7000, [e, ["status", "x"], ["amount", "1000", ""]], "", NOW)).bolt11 is None
    assert result(PROVIDER.sign(6001, [e, ["amount", "ten"]], "the answer", NOW)).content == "the answer"


def test_malformed_answers_are_refused():
    e, status = ["e", HASH], ["status", "processing"]
    refused([e, status], kind=1)
    refused([status])
    refused([["e", "xyz"], status])
    refused([e])
    refused([e, ["status", ""]])
    refused([e, ["status", "x" * 100]])
    refused([e, status, ["p", "nobody"]])
    refused([e, status, ["amount", "10.5"]])
    refused([e, status, ["amount", "-1000"]])
    refused([e, status, ["amount", "1000", "lnbc" + "1" * 10_000]])
    refused([e, status, *[["x"]] * 1000])


def test_what_is_said_twice_differently_is_refused():
    def sealed(inner, *outer):
        content = encrypt("nip44", PROVIDER, CUSTOMER.pubkey, json.dumps(inner))
        refused([["e", HASH], ["p", CUSTOMER.pubkey], ["encrypted"], *outer], content)

    sealed([["e", "cd" * 32], ["status", "error"]], ["status", "error"])
    sealed([["status", "error"]], ["status", "processing"])
    sealed([["status", "x"], ["amount", "1000"]], ["status", "x"], ["amount", "2000"])
    sealed([["status", "x"], ["amount", "1000", "lnbc1"]], ["status", "x"], ["amount", "1000", "lnbc2"])
    sealed({"status": "error"}, ["status", "error"])
    sealed([["status", 5]], ["status", "error"])


@given(kind=st.sampled_from([7000, 6050, 6999, 5050]), tags=TAGS, content=st.text(max_size=50))
def test_any_event_gives_an_answer_or_the_one_documented_error(kind, tags, content):
    event = unsigned(kind, [["e", HASH], ["status", "error"], *tags], content, PROVIDER)
    for keys in (None, CUSTOMER):
        try:
            answer = parse_answer(event, keys)
        except InvalidAnswer:
            continue
        assert answer.msat is None or answer.msat >= 0
        is_answer_to(answer, asked())


@given(inner=JSON | TAGS, kind=st.sampled_from([7000, 6050]))
def test_any_encrypted_content_gives_an_answer_or_the_one_documented_error(inner, kind):
    content = encrypt("nip44", PROVIDER, CUSTOMER.pubkey, json.dumps(inner))
    event = unsigned(kind, [["e", HASH], ["p", CUSTOMER.pubkey], ["encrypted"]], content, PROVIDER)
    try:
        answer = parse_answer(event, CUSTOMER)
    except InvalidAnswer:
        return
    assert answer.content is not None
