"""Quotes bound costs, bids bound quotes, and nothing absurd becomes money."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dvm.pricing import (
    FREE,
    Free,
    PerRequest,
    PerToken,
    TooDear,
    by_class,
    cost,
    price_from_json,
    price_to_json,
    quote,
)
from dvm.pricing.prices import MAX_MSAT, whole_sats


@dataclass(frozen=True)
class Used:
    input: int = 0
    cached: int = 0
    output: int = 0
    thoughts: int = 0


_RATE = st.one_of(st.integers(0, 10**10), st.sampled_from([0, 1, 999_999, 10**6, 10**6 + 1, MAX_MSAT]))
PER_TOKEN = st.builds(PerToken, _RATE, _RATE, _RATE)
PRICES = st.one_of(PER_TOKEN, st.builds(PerRequest, _RATE), st.just(FREE))
TOKENS = st.one_of(st.integers(0, 200_000), st.sampled_from([0, 1]))
BIDS = st.none() | st.integers(0, 10**9) | st.integers(0, 50_000) | st.just(MAX_MSAT)


def quoted(price, tokens, most, bid=None, least=1):
    try:
        return quote(price, tokens, most, bid=bid, least_output=least)
    except TooDear:
        return None


@given(price=PRICES, tokens=TOKENS, most=TOKENS, bid=BIDS, least=TOKENS, data=st.data())
def test_whatever_stays_within_the_quote_costs_at_most_the_quote(price, tokens, most, bid, least, data):
    terms = quoted(price, tokens, most, bid, least)
    if terms is None:
        return
    cached = data.draw(st.integers(0, tokens))
    fresh = data.draw(st.integers(0, tokens - cached))
    thoughts = data.draw(st.integers(0, terms.max_output_tokens))
    output = data.draw(st.integers(0, terms.max_output_tokens - thoughts))
    assert 0 <= cost(terms.price, Used(fresh, cached, output, thoughts)) <= terms.msat


@given(price=PRICES, tokens=TOKENS, most=TOKENS, bid=BIDS, least=TOKENS)
@example(price=PerToken(0, 0, 1), tokens=0, most=1, bid=999, least=1)
@example(price=PerToken(0, 0, MAX_MSAT), tokens=0, most=10**5, bid=None, least=1)
def test_a_quote_is_in_whole_sats_and_never_above_the_bid(price, tokens, most, bid, least):
    terms = quoted(price, tokens, most, bid, least)
    if terms is not None:
        assert terms.msat % 1000 == 0
        assert 0 <= terms.msat <= (MAX_MSAT if bid is None else bid) or isinstance(price, Free)
        assert terms.max_output_tokens <= most
        assert terms.input_tokens == tokens


@given(
    price=PER_TOKEN, tokens=TOKENS, most=st.integers(1, 200_000), bid=st.integers(0, 10**8), least=st.integers(1, 1000)
)
def test_a_bid_is_used_up_to_the_last_token_that_fits(price, tokens, most, bid, least):
    terms = quoted(price, tokens, most, bid, least)
    useful = min(least, most)
    if terms is None:
        # Even the least useful answer, quoted without a bid, is dearer than the bid.
        alone = quoted(price, tokens, useful)
        assert alone is None or alone.msat > bid
        return
    assert useful <= terms.max_output_tokens <= most
    if terms.max_output_tokens < most:
        one_more = quoted(price, tokens, terms.max_output_tokens + 1)
        assert one_more is None or one_more.msat > bid


@given(price=PRICES, tokens=TOKENS, most=TOKENS, bid=st.integers(0, 10**6), least=TOKENS)
def test_what_is_said_to_be_the_least_price_is_accepted_as_a_bid(price, tokens, most, bid, least):
    if quoted(price, tokens, most, bid, least) is not None:
        return
    with pytest.raises(TooDear) as caught:
        quote(price, tokens, most, bid=bid, least_output=least)
    msat = caught.value.msat
    assert msat % 1000 == 0
    assert msat > bid
    assert str(msat // 1000) in str(caught.value)
    if msat <= MAX_MSAT:
        assert quote(price, tokens, most, bid=msat, least_output=least).msat <= msat


@given(price=PER_TOKEN, input=TOKENS, cached=TOKENS, output=TOKENS, thoughts=TOKENS)
def test_the_cost_is_the_exact_sum_rounded_up_once(price, input, cached, output, thoughts):  # noqa: A002
    exact = Fraction(input * price.input + cached * price.cached + (output + thoughts) * price.output, 10**6)
    assert cost(price, Used(input, cached, output, thoughts)) == ceil(exact)


def test_the_price_list_reads_as_sats_per_million():
    flash = PerToken(input=300_000, cached=75_000, output=2_500_000)  # 300, 75 and 2,500 sats
    assert cost(flash, Used(input=10**6)) == 300_000
    assert cost(flash, Used(cached=10**6)) == 75_000
    assert cost(flash, Used(output=600_000, thoughts=400_000)) == 2_500_000
    assert cost(flash, Used(input=1)) == 1, "a fraction of a msat is a msat"
    assert quote(flash, 1000, 1000).msat == 3000, "2,800 msat, in whole sats"


def test_all_input_is_quoted_at_the_dearer_of_the_two_input_prices():
    assert quote(PerToken(10**6, 3 * 10**6, 0), 1000, 0).msat == 3000
    assert quote(PerToken(3 * 10**6, 10**6, 0), 1000, 0).msat == 3000


def test_a_bid_that_leaves_no_useful_answer_is_too_dear():
    price = PerToken(10**6, 10**6, 10**6)  # a msat per token
    assert quote(price, 1000, 8000, bid=5000, least_output=4000).max_output_tokens == 4000
    assert quote(price, 1000, 8000, bid=5999, least_output=4000).max_output_tokens == 4000, "bids count in whole sats"
    with pytest.raises(TooDear) as caught:
        quote(price, 1000, 8000, bid=4999, least_output=4000)
    assert caught.value.msat == 5000
    for most, least in ((10, 2000), (0, 1000)):
        with pytest.raises(TooDear) as caught:
            quote(price, 1000, most, bid=999, least_output=4000)
        assert caught.value.msat == least, "nobody pays for more than was asked for"
    assert quote(price, 1000, 10, bid=2000, least_output=4000).max_output_tokens == 10, "all that was asked for"


@pytest.mark.parametrize("price", [PerToken(1, 1, 1), PerRequest(1), FREE])
def test_case_24_negative_counts_never_become_a_credit(price):
    for used in (Used(input=-1), Used(cached=-1), Used(output=-5), Used(output=10, thoughts=-(10**9))):
        with pytest.raises(ValueError, match="not negative"):
            cost(price, used)
    for tokens, most in ((-1, 10), (10, -1)):
        with pytest.raises(ValueError, match="not negative"):
            quote(price, tokens, most)


def test_case_24_a_negative_bid_buys_nothing():
    for price in (PerToken(0, 0, 0), PerToken(1, 1, 1), PerRequest(0), PerRequest(1)):
        with pytest.raises(TooDear):
            quote(price, 10, 10, bid=-1000)


@pytest.mark.parametrize("bad", [-1, MAX_MSAT + 1, 1.0, True, "5", None])
def test_absurd_prices_are_refused(bad):
    for make in (
        lambda: PerToken(bad, 0, 0),
        lambda: PerToken(0, bad, 0),
        lambda: PerToken(0, 0, bad),
        lambda: PerRequest(bad),
    ):
        with pytest.raises(ValueError, match="whole number of msat"):
            make()


def test_no_quote_exceeds_all_bitcoin():
    with pytest.raises(TooDear):
        quote(PerToken(MAX_MSAT, 0, 0), 10**9, 10**9)
    with pytest.raises(TooDear):
        quote(PerToken(MAX_MSAT, 0, 0), 10**9, 10**9, bid=10**30)
    assert quote(PerRequest(MAX_MSAT), 0, 0).msat == MAX_MSAT


def test_a_request_costs_its_price_whatever_it_uses():
    assert quote(PerRequest(21_500), 10**6, 10**6).msat == 22_000
    assert cost(PerRequest(21_500), Used(10**6, 0, 10**6, 0)) == 21_500
    assert (quote(FREE, 10**6, 10**6, bid=0).msat, cost(FREE, Used(10**6))) == (0, 0)


@given(price=PRICES)
def test_a_stored_price_is_the_same_price(price):
    assert price_from_json(price_to_json(price)) == price


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"per": "token"},
        {"per": "token", "input": 1, "cached": 1, "output": -1},
        {"per": "token", "input": 1, "cached": 1, "output": "1"},
        {"per": "token", "input": 1, "cached": 1, "output": 1.5},
        {"per": "request", "msat": True},
        {"per": "request", "msat": -5},
        {"per": "day", "msat": 5},
    ],
)
def test_what_is_no_stored_price_is_refused(raw):
    with pytest.raises(ValueError, match="price"):
        price_from_json(raw)


def test_prices_are_listed_by_class():
    assert by_class(PerToken(1, 2, 3)) == {"input": 1, "cached": 2, "output": 3}
    assert by_class(PerRequest(5)) == {"request": 5}
    assert by_class(FREE) == {}


@given(price=PRICES, used=st.builds(Used, TOKENS, TOKENS, TOKENS, TOKENS))
def test_the_customers_arithmetic_agrees_with_the_providers(price, used):
    # The customer's side may not import this package: it has its own sum, over a receipt's classes.
    from dvm.nip90 import cost_msat

    usage = {"input": used.input, "cached": used.cached, "output": used.output, "thoughts": used.thoughts}
    listed = by_class(price)
    if "output" in listed:
        listed["thoughts"] = listed["output"]
    assert cost_msat(usage, listed) == cost(price, used)


@given(msat=st.integers(0, MAX_MSAT))
def test_whole_sats_round_up(msat):
    assert whole_sats(msat) % 1000 == 0
    assert 0 <= whole_sats(msat) - msat < 1000
