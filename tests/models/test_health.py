"""The circuit breaker of a model."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dvm.models.base import ErrorCode
from dvm.models.health import AT_FAULT, Health
from tests.standins.clock import Clock


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(failures=3, first_pause=5, longest_pause=18, clock=clock)


def break_it(health: Health) -> None:
    health.failed("unauthorized")


def test_several_failures_in_a_row_open_it(health: Health) -> None:
    for _ in range(2):
        health.failed("unavailable")
        assert health.state == "closed"
        assert health.enter()
    health.failed("stalled")
    assert health.state == "open"
    assert not health.usable
    assert not health.enter()


def test_an_answer_between_failures_keeps_it_closed(health: Health) -> None:
    for _ in range(10):
        health.failed("unavailable")
        health.failed("unavailable")
        health.fine()
    assert health.state == "closed"


@pytest.mark.parametrize("code", ["unauthorized", "not_found"])
def test_what_only_the_operator_can_mend_opens_it_at_once(health: Health, code: ErrorCode) -> None:
    health.failed(code)
    assert health.state == "open"


@pytest.mark.parametrize("code", sorted(set(get_args(ErrorCode)) - AT_FAULT))
def test_what_is_due_to_one_request_never_opens_it(health: Health, code: ErrorCode) -> None:
    for _ in range(100):
        health.failed(code)
    assert health.state == "closed"


def test_after_its_pause_one_request_tries_it_and_no_second(health: Health, clock: Clock) -> None:
    break_it(health)
    clock.now += 5
    assert health.state == "half-open"
    assert health.enter()
    assert not health.enter()
    health.fine()
    assert health.state == "closed"
    assert health.enter()
    assert health.enter()


def test_each_trial_that_fails_doubles_the_pause_up_to_the_longest(health: Health, clock: Clock) -> None:
    break_it(health)
    for pause in (5, 10, 18, 18):
        clock.now += pause - 0.5
        assert not health.enter()
        clock.now += 0.5
        assert health.enter()
        health.failed("unavailable")
    health.failed("unavailable")
    clock.now += 18
    assert health.enter()
    health.fine()
    break_it(health)  # and it begins anew with the shortest
    clock.now += 5
    assert health.enter()


def test_failures_of_what_had_begun_before_do_not_prolong_the_pause(health: Health, clock: Clock) -> None:
    break_it(health)
    for _ in range(50):
        health.failed("unavailable")
    clock.now += 5
    assert health.enter()


def test_a_trial_that_nobody_tells_the_end_of_is_followed_by_another(health: Health, clock: Clock) -> None:
    break_it(health)
    clock.now += 5
    assert health.enter()
    clock.now += 4.5
    assert not health.enter()
    clock.now += 0.5
    assert health.enter()


@given(st.integers(max_value=0))
def test_bounds_that_make_no_sense_are_refused(failures: int) -> None:
    with pytest.raises(ValueError, match="a breaker needs"):
        Health(failures=failures)
    with pytest.raises(ValueError, match="a breaker needs"):
        Health(first_pause=2, longest_pause=1)


class Breaker(RuleBasedStateMachine):
    """Whatever happens, it lets through what it says, and is never shut for longer than the longest pause."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.health = Health(failures=3, first_pause=2, longest_pause=30, clock=self.clock)
        self.in_a_row = 0

    @rule(code=st.sampled_from(get_args(ErrorCode)))
    def fails(self, code: ErrorCode) -> None:
        self.health.failed(code)
        self.in_a_row += code in AT_FAULT

    @rule()
    def answers(self) -> None:
        self.health.fine()
        self.in_a_row = 0

    @rule(seconds=st.floats(0, 40))
    def waits(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def is_asked(self) -> None:
        usable = self.health.usable
        assert self.health.enter() == usable

    @precondition(lambda self: self.health.state != "closed")
    @rule()
    def waits_for_the_longest(self) -> None:
        self.clock.now += 30
        assert self.health.enter()
        assert not self.health.enter()

    @invariant()
    def is_closed_only_as_long_as_it_answers(self) -> None:
        if self.in_a_row >= 3:
            assert self.health.state != "closed"
        if self.in_a_row == 0:
            assert self.health.state == "closed"


TestBreaker = Breaker.TestCase
