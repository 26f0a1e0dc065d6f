"""Answers: exact tags in exact order, what is left out when, and that no plaintext leaves."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvm.nip90 import Answers, AnswerTooLarge, next_second, parse_answer, parse_request, text_sha256
from dvm.nip90.answers import TRANSIENT_SECONDS
from dvm.nostr.encryption import EncryptError, decrypt, detect, encrypt
from dvm.nostr.event import Event
from tests.nip90.samples import CUSTOMER, HASH, NOW, PROVIDER, SCHEMES, job, raw

RELAY = "wss://relay.example.com"


def e_p(request):
    return [["e", request.id, RELAY], ["p", CUSTOMER.pubkey]]


def test_feedback_has_exactly_these_tags_in_this_order():
    request = job()
    answers = Answers(PROVIDER, request, RELAY)
    e_and_p = e_p(request)
    expires = ["expiration", str(NOW + TRANSIENT_SECONDS)]

    quote = answers.payment_required(21_000, "lnbc210n1", "Please pay 21 sats", NOW)
    assert (quote.kind, quote.content) == (7000, "Please pay 21 sats")
    assert quote.tags == [
        *e_and_p,
        ["status", "payment-required", "Please pay 21 sats"],
        ["amount", "21000", "lnbc210n1"],
        ["alt", "Job feedback: payment-required"],
    ]
    assert answers.payment_required(21_000, None, "", NOW).tags[2:4] == [
        ["status", "payment-required"],
        ["amount", "21000"],
    ]

    processing = answers.processing("Thinking", NOW)
    assert processing.content == "Thinking"
    assert processing.tags == [
        *e_and_p,
        ["status", "processing", "Thinking"],
        ["alt", "Job feedback: processing"],
        expires,
    ]

    partial = answers.partial("All of it so far", NOW, [("remaining", "20000", "8000")])
    assert partial.content == "All of it so far"
    assert partial.tags == [
        *e_and_p, ["status", "partial"], ["remaining", "20000", "8000"], ["alt", "Job feedback: partial"], expires,
    ]  # fmt: skip

    error = answers.error("model-failed", "the model gave no answer", NOW)
    assert error.content == "model-failed: the model gave no answer"
    assert error.tags == [
        *e_and_p, ["status", "error", "model-failed: the model gave no answer"], ["alt", "Job feedback: error"],
    ]  # fmt: skip
    assert answers.error("cancelled", "", NOW).tags[2] == ["status", "error", "cancelled"]
    assert all(event.verify() and event.created_at == NOW for event in (quote, processing, partial, error))


def test_a_result_has_exactly_these_tags_in_this_order():
    request = parse_request(raw([["i", "one", "text"], ["param", "a", "b"], ["i", HASH, "job", "wss://x"]]), None)
    result = Answers(PROVIDER, request, RELAY).result("The answer", NOW, msat=21_000, bolt11="lnbc210n1")
    assert (result.kind, result.content) == (6050, "The answer")
    assert result.tags == [
        *e_p(request),
        ["request", request.event.to_json()],
        ["i", "one", "text"],
        ["i", HASH, "job", "wss://x"],
        ["amount", "21000", "lnbc210n1"],
        ["status", "success"],
        ["alt", "Result of a job of kind 5050"],
    ]
    assert Event.from_json(result.tags[2][1]).verify(), "the embedded request is the signed one"
    free = Answers(PROVIDER, request).result("The answer", NOW)
    assert free.tags[0] == ["e", request.id]
    assert not free.all("amount")


@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
def test_an_encrypted_job_is_answered_in_its_scheme_with_nothing_private_in_clear(scheme):
    request = job(scheme, "a private question")
    answers = Answers(PROVIDER, request, RELAY)
    quote = answers.payment_required(21_000, "lnbc210n1", "a private text", NOW)
    assert quote.tags == [
        *e_p(request),
        ["status", "payment-required"],
        ["amount", "21000", "lnbc210n1"],
        ["encrypted"],
        ["alt", "Job feedback: payment-required"],
    ]
    assert json.loads(decrypt(CUSTOMER, PROVIDER.pubkey, quote.content)[0]) == [
        ["e", request.id, RELAY],
        ["status", "payment-required", "a private text"],
        ["amount", "21000", "lnbc210n1"],
        ["content", "a private text"],
    ]
    partial = answers.partial("a private answer", NOW, [("remaining", "1", "2")])
    assert json.loads(decrypt(CUSTOMER, PROVIDER.pubkey, partial.content)[0]) == [
        ["e", request.id, RELAY],
        ["status", "partial"],
        ["remaining", "1", "2"],
        ["content", "a private answer"],
    ]
    result = answers.result("a private answer", NOW, msat=21_000)
    assert decrypt(CUSTOMER, PROVIDER.pubkey, result.content) == ("a private answer", scheme)
    assert [tag[0] for tag in result.tags] == ["e", "p", "request", "amount", "status", "encrypted", "alt"]
    events = [
        quote,
        partial,
        result,
        answers.error("blocked", "a private reason", NOW),
        answers.processing("private", NOW),
    ]
    for event in events:
        assert detect(event.content) == scheme
        assert "private" not in event.to_json()
        assert "blocked" not in event.to_json(), "also why it failed is the customer's own business"


def test_a_job_that_says_encrypted_is_never_answered_in_clear_whoever_built_the_request():
    event = job("nip44").event
    for request in (event, parse_request(event, PROVIDER)):
        assert Answers(PROVIDER, request).scheme == "nip44"
    broken = raw([["p", PROVIDER.pubkey], ["encrypted"]], "not even encrypted")
    error = Answers(PROVIDER, broken).error("undecryptable", "the content cannot be read", NOW)
    assert error.all("status") == [["status", "error", "undecryptable"]], "the customer may not read the content"
    assert "cannot be read" not in error.to_json()


@pytest.mark.parametrize("make", ["processing", "partial", "result"])
def test_what_cannot_be_encrypted_raises_and_is_not_made(make):
    nobody = Event(
        id=HASH, pubkey="f" * 64, created_at=NOW, kind=5050, tags=[["encrypted"]], content="AAAA", sig="0" * 128
    )
    with pytest.raises(EncryptError):
        getattr(Answers(PROVIDER, nobody), make)("secret", NOW)


def test_more_than_nip44_carries_raises():
    answers = Answers(PROVIDER, job("nip44"), max_bytes=1 << 20)
    with pytest.raises(EncryptError):
        answers.result("x" * 65_536, NOW)
    with pytest.raises(EncryptError):
        answers.partial("x" * 65_500, NOW)
    with pytest.raises(EncryptError):
        answers.result("", NOW)
    assert len(answers.longest("x" * 70_000)) == 65_535


@pytest.mark.parametrize("msat", [1, 999, 1001, -1000])
def test_amounts_are_whole_sats(msat):
    with pytest.raises(ValueError, match="whole number of sats"):
        Answers(PROVIDER, job()).payment_required(msat, "lnbc1", "", NOW)
    with pytest.raises(ValueError, match="whole number of sats"):
        Answers(PROVIDER, job()).result("x", NOW, msat=msat)


def test_nothing_but_processing_and_partial_expires():
    for scheme in SCHEMES:
        answers = Answers(PROVIDER, job(scheme))
        lasting = (
            answers.payment_required(1000, "lnbc1", "pay", NOW),
            answers.error("a", "b", NOW),
            answers.result("x", NOW),
        )
        assert not any(event.tag("expiration") for event in lasting)
        assert all(event.tag("expiration") for event in (answers.processing("", NOW), answers.partial("x", NOW)))


def test_every_answer_has_one_p_and_begins_with_the_jobs_e():
    request = parse_request(raw([["p", PROVIDER.pubkey], ["e", HASH], ["i", HASH, "event"], ["p", HASH]]), None)
    answers = Answers(PROVIDER, request)
    for event in (
        answers.payment_required(1000, None, "", NOW),
        answers.processing("", NOW),
        answers.partial("", NOW),
        answers.error("a", "", NOW),
        answers.result("x", NOW),
    ):
        assert event.tags[0] == ["e", request.id]
        assert event.values("e") == [request.id]
        assert event.values("p") == [CUSTOMER.pubkey]


def test_the_echoed_inputs_go_first_then_the_request():
    request = job(text="q" * 1000)
    answers = Answers(PROVIDER, request)
    whole = answers.result("x", NOW)
    size = len(f'["EVENT",{whole.to_json()}]'.encode())
    names = [tag[0] for tag in whole.tags]
    assert names == ["e", "p", "request", "i", "status", "alt"]

    def at(limit: int) -> list[str]:
        return [tag[0] for tag in answers.result("x", NOW, max_bytes=limit).tags]

    assert at(size + 8) == names
    assert at(size - 1) == ["e", "p", "request", "status", "alt"]
    assert at(size - 1100) == ["e", "p", "status", "alt"]
    with pytest.raises(AnswerTooLarge) as caught:
        at(300)
    assert caught.value.limit == 300 < caught.value.size


def test_an_input_that_a_relay_would_refuse_is_not_echoed():
    request = parse_request(raw([["i", "ü" * 513], ["i", "u" * 1024], ["i", "u" * 1025]]), None)
    assert Answers(PROVIDER, request).result("x", NOW).values("i") == ["u" * 1024]


def test_of_an_encrypted_job_no_input_is_echoed_even_one_that_stood_in_clear():
    content = encrypt("nip44", CUSTOMER, PROVIDER.pubkey, '[["i","inner","text"]]')
    request = parse_request(raw([["p", PROVIDER.pubkey], ["encrypted"], ["i", "outer", "text"]], content), PROVIDER)
    assert request.texts() == ("inner", "outer")
    assert not Answers(PROVIDER, request).result("x", NOW).all("i")


def test_a_protected_request_is_not_embedded():
    result = Answers(PROVIDER, parse_request(raw([["-"], ["i", "x", "text"]]), None)).result("y", NOW)
    assert not result.all("request")
    assert result.values("i") == ["x"]


@settings(deadline=None, max_examples=60)
@given(
    scheme=st.sampled_from(SCHEMES),
    unit=st.sampled_from(["x", "é", "😀", '"', "\n", "\x01", "a😀\n"]),
    times=st.integers(1, 2000),
    limit=st.integers(600, 6000),
)
def test_the_longest_text_fits_and_one_more_character_does_not(scheme, unit, times, limit):
    answers = Answers(PROVIDER, job(scheme))
    text = unit * times
    kept = answers.longest(text, msat=1000, bolt11="lnbc10n1", max_bytes=limit)
    assert text.startswith(kept)
    if kept:
        event = answers.result(kept, NOW, msat=1000, bolt11="lnbc10n1", max_bytes=limit)
        assert len(f'["EVENT",{event.to_json()}]'.encode()) <= limit
        read = parse_answer(event, CUSTOMER)
        assert read.content == kept
    if kept != text:
        with pytest.raises(AnswerTooLarge):
            answers.result(text[: len(kept) + 1], NOW, msat=1000, bolt11="lnbc10n1", max_bytes=limit)


def test_feedback_that_is_too_large_is_not_made_and_words_are_cut():
    answers = Answers(PROVIDER, job())
    with pytest.raises(AnswerTooLarge):
        answers.partial("x" * 65_536, NOW)
    assert len(answers.error("a", "x" * 10**6, NOW).content) == 1000


def test_a_broken_character_of_a_model_breaks_no_answer_and_its_hash_fits():
    event = Answers(PROVIDER, job()).result("half \ud83d a face", NOW)
    assert event.verify()
    assert event.content == "half ? a face"
    assert text_sha256("half \ud83d a face") == text_sha256(event.content)


def test_created_at_rises_strictly():
    assert next_second(NOW, None) == NOW
    assert next_second(NOW, NOW - 5) == NOW
    assert next_second(NOW, NOW) == NOW + 1
    assert next_second(NOW, NOW + 7) == NOW + 8
