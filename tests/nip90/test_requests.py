"""Requests: what is read, what is refused, and with which code."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nip90 import (
    Input,
    InvalidRequest,
    float_param,
    input_sha256,
    int_param,
    is_for,
    named,
    parse_deletion,
    parse_request,
    request_draft,
    untimely,
)
from dvm.nip90.requests import MAX_INPUTS, MAX_PARAMS, MAX_RELAYS
from dvm.nostr.encryption import encrypt
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.nip90.samples import CUSTOMER, HASH, JSON, NOW, PROVIDER, SCHEMES, STRANGER, TAGS, asked, job, raw, unsigned

NDK = json.loads((Path(__file__).parent / "ndk_requests.json").read_text())
"""Recorded from @nostr-dev-kit/ndk 3.0.3: the customer's secret key is 0x11…, the provider's 0x22…."""


def refusal(event: Event, keys: Keys | None = PROVIDER) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(event, keys)
    assert str(caught.value) == f"{caught.value.code}: {caught.value.text}"
    return caught.value


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_request_arrives_as_it_was_asked(scheme):
    event = request_draft(
        5001,
        ["some text", Input(HASH, "job", "wss://relay.example.com", "mine"), Input("https://example.com/a", "url")],
        params=[("length", "3", "paragraphs"), ("top-k", "40"), ("tag", "a"), ("tag", "b")],
        output="text/markdown",
        bid=21_000,
        relays=["wss://one.example.com", "wss://two.example.com"],
        providers=[PROVIDER.pubkey],
        topics=["bitcoin"],
        expiration=NOW + 60,
        keys=CUSTOMER,
        scheme=scheme,
    ).sign(CUSTOMER, NOW)
    for keys in (PROVIDER, CUSTOMER) if scheme else (None,):
        request = parse_request(event, keys)
        assert request.event is event
        assert (request.id, request.customer, request.kind) == (event.id, CUSTOMER.pubkey, 5001)
        assert request.inputs == (
            Input("some text", "text"),
            Input(HASH, "job", "wss://relay.example.com", "mine"),
            Input("https://example.com/a", "url"),
        )
        assert request.params["length"] == (("3", "paragraphs"),)
        assert request.param("top_k") == request.param("top-k") == "40"
        assert request.param_values("tag") == (("a",), ("b",))
        assert request.param("nothing") is None
        assert (request.output, request.bid, request.scheme) == ("text/markdown", 21_000, scheme)
        assert request.relays == ("wss://one.example.com", "wss://two.example.com")
        assert request.providers == (PROVIDER.pubkey,)
        assert (request.topics, request.expiration, request.protected) == (("bitcoin",), NOW + 60, False)


@pytest.mark.parametrize("shape", ["clear", "nip44", "nip04"])
def test_what_ndk_sends_is_read_with_its_hidden_output_relays_and_bid(shape):
    event = Event.parse(NDK[shape])
    assert event.verify()
    provider = Keys(bytes.fromhex("22" * 32))
    assert is_for(event, provider.pubkey)
    request = parse_request(event, provider)
    assert request.texts() == ("What is the capital of France?",)
    assert int_param(request, "max_tokens", 1, 8192) == 512
    assert int_param(request, "top_k", 1, 100) == 50
    assert (request.output, request.bid, request.relays) == ("text/plain", 21_000, ("wss://relay.example.com",))
    assert (request.topics, request.scheme) == (("demo",), None if shape == "clear" else shape)


@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
def test_encrypted_and_outer_tags_are_merged_the_encrypted_ones_first(scheme):
    hidden = [["i", "inner", "text"], ["relays", "wss://inner"], ["param", "model", "a"], ["p", STRANGER.pubkey], ["-"]]
    content = encrypt(scheme, CUSTOMER, PROVIDER.pubkey, json.dumps(hidden))
    outer = [["p", PROVIDER.pubkey], ["encrypted"], ["i", "outer", "text"], ["relays", "wss://outer"], ["bid", "5000"]]
    request = parse_request(raw(outer, content), PROVIDER)
    assert request.texts() == ("inner", "outer")
    assert request.relays == ("wss://inner", "wss://outer")
    assert request.bid == 5000
    assert request.providers == (PROVIDER.pubkey,), "only an outer p is seen by everybody"
    assert not request.protected


def test_what_is_not_encrypted_to_us_is_undecryptable():
    assert refusal(asked("nip44"), None).code == "undecryptable"
    assert refusal(asked("nip44"), STRANGER).code == "undecryptable"
    assert refusal(asked("nip04"), STRANGER).code == "undecryptable"
    for content in ("", "hello", "AAAA?iv=AAAA", "#future"):
        assert refusal(raw([["p", PROVIDER.pubkey], ["encrypted"]], content)).code == "undecryptable"


@given(inner=JSON)
def test_encrypted_nonsense_is_refused_with_the_one_documented_error(inner):
    content = encrypt("nip44", CUSTOMER, PROVIDER.pubkey, json.dumps(inner))
    event = unsigned(5050, [["encrypted"]], content)
    if isinstance(inner, list):
        with suppress(InvalidRequest):
            parse_request(event, PROVIDER)
    else:
        assert refusal(event).code == "undecryptable"


def test_deeply_nested_encrypted_json_is_refused():
    content = encrypt("nip44", CUSTOMER, PROVIDER.pubkey, "[" * 30_000)
    assert refusal(raw([["encrypted"]], content)).code == "undecryptable"


@given(kind=st.sampled_from([5000, 5050, 5100, 5999, 6050, 1]), tags=TAGS, content=st.text(max_size=50))
def test_any_tags_give_a_bounded_request_or_the_one_documented_error(kind, tags, content):
    event = unsigned(kind, tags, content)
    try:
        request = parse_request(event, PROVIDER)
    except InvalidRequest:
        return
    assert len(request.inputs) <= MAX_INPUTS
    assert len(request.params) <= MAX_PARAMS
    assert len(request.relays) <= MAX_RELAYS
    assert request.bid is None or request.bid >= 0
    for name in (*request.params, "max_tokens"):
        for read in (int_param, float_param):
            with suppress(InvalidRequest):
                number = read(request, name, 0, 100)
                assert number is None or 0 <= number <= 100
    assert untimely(event, NOW) in (None, "expired")
    assert isinstance(is_for(event, PROVIDER.pubkey), bool)


def test_a_huge_event_is_refused_before_it_is_copied():
    assert refusal(raw([["x", "y"]] * 1001)).code == "invalid-tags"
    assert refusal(raw([["i", "a"]] * (MAX_INPUTS + 1))).code == "invalid-input"
    assert refusal(raw([["param", f"n{n}", "v"] for n in range(MAX_PARAMS + 1)])).code == "invalid-param"
    assert refusal(raw([["param", "a", "v" * 5000]])).code == "invalid-param"
    assert refusal(raw([["param", "a", *["v"] * 65]])).code == "invalid-param"
    assert refusal(raw([["p", f"{n:064x}"] for n in range(300)])).code == "invalid-tags"
    assert len(parse_request(raw([["relays", *[f"wss://{n}" for n in range(500)]]]), None).relays) == MAX_RELAYS
    assert parse_request(raw([["param", "prompt", "v" * 50_000]]), None).texts() == ("v" * 50_000,)


@pytest.mark.parametrize(
    "bid",
    [
        "",
        "abc",
        "-1",
        "+5",
        "1.0",
        "1e3",
        "1_000",
        " 5",
        "5 ",
        "05",
        "0x10",
        "٣",
        "5 sats",
        "2100000000000000001",
        "9" * 99,
    ],
)
def test_a_malformed_bid_is_an_error_and_never_a_guess(bid):
    assert refusal(raw([["i", "x", "text"], ["bid", bid]])).code == "invalid-bid"


def test_a_bid_without_value_or_stated_twice_is_an_error():
    assert refusal(raw([["bid"]])).code == "invalid-bid"
    assert refusal(raw([["bid", "1000"], ["bid", "2000"]])).code == "invalid-bid"
    assert parse_request(raw([["bid", "1000"], ["bid", "1000"]]), None).bid == 1000
    assert parse_request(raw([["bid", "0"]]), None).bid == 0


def test_a_missing_type_means_text_for_text_kinds_only():
    for tag in (["i", "hello"], ["i", "hello", ""], ["i", "hello", "text"]):
        assert parse_request(raw([tag]), None).inputs == (Input("hello", "text"),)
    assert refusal(raw([["i", "hello"]], kind=5200)).code == "invalid-input"


def test_prompts_are_found_wherever_clients_put_them():
    prompt = (Input("hello", "text", None, "prompt"),)
    assert parse_request(raw([], "hello"), None).inputs == prompt
    assert parse_request(raw([["param", "prompt", "hello"]]), None).inputs == prompt
    assert parse_request(raw([["i", "hello", "prompt"]]), None).inputs == prompt, "the definition of 5050"
    # Once is enough, and remarks in the content are no prompt where another text is given.
    assert parse_request(raw([["i", "hello", "text"]], "hello"), None).texts() == ("hello",)
    assert parse_request(raw([["i", "hello", "text"], ["param", "prompt", "hello"]]), None).texts() == ("hello",)
    assert parse_request(raw([["i", "hello", "text"]], "sent with love"), None).texts() == ("hello",)
    assert parse_request(raw([["i", HASH, "event"]], "sum it up"), None).texts() == ("sum it up",)
    both = parse_request(raw([["i", "a page", "text"], ["param", "prompt", "sum it up"]], "x"), None)
    assert both.texts() == ("a page", "sum it up")


@pytest.mark.parametrize(
    "tag",
    [
        ["i"],
        ["i", "x", "video"],
        ["i", "x", "event"],
        ["i", HASH.upper(), "job"],
        ["i", "file:///etc/passwd", "url"],
        ["i", "example.com", "url"],
        ["i", "https://" + "x" * 3000, "url"],
        ["i", "x", "text", "wss://" + "x" * 3000],
    ],
)
def test_an_input_that_is_not_of_its_type_is_refused(tag):
    assert refusal(raw([tag])).code == "invalid-input"


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        (["param"], "invalid-param"),
        (["param", ""], "invalid-param"),
        (["output", "plain text"], "invalid-output"),
        (["output", "a/" + "b" * 500], "invalid-output"),
        (["expiration", "tomorrow"], "invalid-expiration"),
        (["expiration", "-5"], "invalid-expiration"),
    ],
)
def test_malformed_tags_are_refused_with_their_code(tag, code):
    assert refusal(raw([tag])).code == code


def test_only_job_requests_are_parsed():
    for kind in (1, 4999, 6000, 7000):
        assert refusal(raw([], kind=kind)).code == "invalid-kind"


def test_a_request_without_any_input_is_an_error_where_input_is_needed():
    for event in (raw([]), raw([], " \n"), raw([["i", "", "text"]]), raw([["i", " ", "text"]])):
        request = parse_request(event, None)
        for needed in (request.texts, request.require_input):
            with pytest.raises(InvalidRequest, match="no-input"):
                needed()
    with pytest.raises(InvalidRequest, match="no-input"):
        parse_request(raw([["i", HASH, "job"]]), None).texts()
    assert len(parse_request(raw([["i", HASH, "job"]]), None).require_input()) == 1


@pytest.mark.parametrize("text", ["", "1.0", "1e2", "0x5", " 5", "5_0", "05", "-0", "five", "٣", "9" * 99, "0", "101"])
def test_integer_params_are_strict(text):
    request = parse_request(raw([["param", "max_tokens", text]]), None)
    with pytest.raises(InvalidRequest, match=r"invalid-param: max_tokens: a whole number from 1 to 100 expected"):
        int_param(request, "max_tokens", 1, 100)


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-inf", "1e999", "0x1p3", "1_0.5", "1,5", ".5", "5.", " 1", "2.5", "-0.1"]
)
def test_decimal_params_are_strict_and_finite(text):
    request = parse_request(raw([["param", "temperature", text]]), None)
    with pytest.raises(InvalidRequest, match=r"invalid-param: temperature: a number from 0 to 2 expected"):
        float_param(request, "temperature", 0, 2)


def test_params_stated_twice_differently_or_without_one_value_are_refused():
    for tags in ([["n", "1"], ["n", "2"]], [["n"]], [["n", "1", "2"]], [["n-a", "1"], ["n_a", "2"]]):
        request = parse_request(raw([["param", *tag] for tag in tags]), None)
        for read in (int_param, float_param):
            with pytest.raises(InvalidRequest, match="exactly one value"):
                read(request, "n" if "n" in request.params else "n_a", 0, 10)


def test_good_params_are_numbers_and_absent_ones_none():
    request = parse_request(raw([["param", "a", "-5"], ["param", "b", "0.75"], ["param", "c", "1e-3"]]), None)
    assert int_param(request, "a", -10, 10) == -5
    assert (float_param(request, "b", 0, 1), float_param(request, "c", 0, 1)) == (0.75, 0.001)
    assert int_param(request, "d", 0, 1) is None
    assert float_param(request, "d", 0, 1) is None


def test_every_p_is_looked_at():
    both = raw([["p", STRANGER.pubkey], ["p", PROVIDER.pubkey]])
    other = raw([["p", STRANGER.pubkey]])
    anybody = raw([["p"], ["i", "x"]])
    assert (is_for(both, PROVIDER.pubkey), named(both, PROVIDER.pubkey)) == (True, True)
    assert (is_for(other, PROVIDER.pubkey), named(other, PROVIDER.pubkey)) == (False, False)
    assert (is_for(anybody, PROVIDER.pubkey), named(anybody, PROVIDER.pubkey)) == (True, False)
    assert parse_request(both, None).providers == (STRANGER.pubkey, PROVIDER.pubkey)


def test_old_early_and_expired_events_are_no_news():
    event = raw([["expiration", str(NOW + 100)]])
    assert untimely(event, NOW) is None
    assert untimely(event, NOW + 100) == "expired"
    assert untimely(raw([]), NOW + 600) is None
    assert untimely(raw([]), NOW + 601) == "too-old"
    assert untimely(raw([]), NOW - 900) is None
    assert untimely(raw([]), NOW - 901) == "too-early"
    assert untimely(raw([]), NOW + 10**9, max_age=0) is None
    assert untimely(raw([]), 0, max_ahead=0) is None


def test_a_protected_request_is_marked():
    assert parse_request(raw([["-"], ["i", "x"]]), None).protected


@given(tags=TAGS, kind=st.sampled_from([5, 1, 5050]))
def test_a_deletion_names_only_well_formed_ids(tags, kind):
    ids = parse_deletion(unsigned(kind, tags, ""))
    assert all(len(one) == 64 and one == one.lower() for one in ids)
    assert kind == 5 or not ids


def test_a_deletion_names_the_jobs_that_it_cancels():
    event = CUSTOMER.sign(5, [["e", HASH], ["k", "5050"], ["e", HASH], ["e", "junk"], ["e", "cd" * 32]], "", NOW)
    assert parse_deletion(event) == (HASH, "cd" * 32)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_input_hash_is_that_of_the_prompt_and_the_customer_can_recompute_it(scheme):
    assert input_sha256(job(scheme, "héllo")) == sha256("héllo".encode()).hexdigest()
    assert input_sha256(parse_request(asked(scheme, "héllo"), CUSTOMER)) == sha256("héllo".encode()).hexdigest()
    two = parse_request(raw([["i", "one"], ["i", HASH, "event"]]), None)
    assert input_sha256(two) == sha256(f"one\n{HASH}".encode()).hexdigest()


def test_an_encrypted_request_needs_keys_and_one_provider():
    for providers, keys in (([], CUSTOMER), ([PROVIDER.pubkey] * 2, CUSTOMER), ([PROVIDER.pubkey], None)):
        with pytest.raises(ValueError, match="exactly one provider"):
            request_draft(5050, ["x"], providers=providers, keys=keys, scheme="nip44")
    with pytest.raises(ValueError, match="5000 to 5999"):
        request_draft(6050, ["x"])
