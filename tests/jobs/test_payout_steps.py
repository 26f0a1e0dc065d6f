"""The pure life of a payment that leaves: when it is asked for, looked at, charged, returned."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.jobs.balances.payout_steps import (
    FORGOTTEN_SECONDS,
    PATIENCE_SECONDS,
    QUIET_SECONDS,
    Declined,
    Due,
    Effect,
    Happening,
    Said,
    Step,
    Told,
    step,
)
from dvm.ledger import Payout, PayoutState
from dvm.lightning.base import InvoiceState, Payment, WalletErrorCode

NOW = 1_000_000
CODES: tuple[WalletErrorCode, ...] = get_args(WalletErrorCode)


def payout(*, made: int = NOW, expires_at: int = NOW + 600) -> Payout:
    return Payout("aa" * 32, "bb" * 32, "lnbc", "cc" * 32, 1000, 100, PayoutState.RESERVED, made, expires_at)


SETTLED = Payment(InvoiceState.SETTLED, 7)
FAILED = Payment(InvoiceState.FAILED)
PENDING = Payment(InvoiceState.PENDING)
UNKNOWN = Payment(InvoiceState.UNKNOWN)
NEVER_HEARD = Payment(InvoiceState.UNKNOWN, known=False)


def effect(happening: Happening, *, doubt: int | None = None, now: int = NOW, row: Payout | None = None) -> Effect:
    return step(row or payout(), doubt, happening, now).effect


def test_what_was_just_reserved_is_paid() -> None:
    assert effect(Due()) is Effect.PAY


def test_what_may_have_been_sent_is_looked_at_first() -> None:
    assert effect(Due(), doubt=NOW - 5) is Effect.LOOK


def test_what_was_never_sent_and_has_expired_returns() -> None:
    assert step(payout(expires_at=NOW), None, Due(), NOW) == Step(Effect.RETURN, None, code="expired")


@pytest.mark.parametrize("happening", [Said(SETTLED), Told(SETTLED)])
def test_paid_is_paid(happening: Happening) -> None:
    assert step(payout(), NOW, happening, NOW) == Step(Effect.CHARGE, NOW, fee_msat=7)


def test_a_fee_below_zero_is_no_income() -> None:
    assert step(payout(), None, Said(Payment(InvoiceState.SETTLED, -7)), NOW).fee_msat == 0


def test_failed_for_good_returns() -> None:
    assert effect(Said(FAILED)) is Effect.RETURN


@pytest.mark.parametrize("happening", [Said(FAILED), Told(FAILED)])
def test_a_failure_beside_a_request_of_unknown_end_is_believed_later(happening: Happening) -> None:
    assert effect(happening, doubt=NOW - QUIET_SECONDS + 1) is Effect.WAIT
    assert effect(happening, doubt=NOW - QUIET_SECONDS) is Effect.RETURN


@pytest.mark.parametrize("payment", [PENDING, UNKNOWN, NEVER_HEARD, Payment(InvoiceState.HELD)])
def test_an_unknown_end_is_doubt_from_then_on(payment: Payment) -> None:
    assert step(payout(), None, Said(payment), NOW) == Step(Effect.WAIT, NOW)


@pytest.mark.parametrize("payment", [UNKNOWN, NEVER_HEARD])
def test_what_the_wallet_does_not_know_is_asked_for_again_while_it_can_be_paid(payment: Payment) -> None:
    assert effect(Told(payment), doubt=NOW - 5) is Effect.PAY
    assert effect(Told(payment), doubt=NOW - 5, row=payout(expires_at=NOW)) is Effect.WAIT


def test_what_is_under_way_is_not_asked_for_again() -> None:
    assert effect(Told(PENDING), doubt=NOW - 5) is Effect.WAIT


def test_never_heard_of_is_definite_an_hour_after_the_end_and_no_earlier() -> None:
    row = payout(expires_at=NOW - FORGOTTEN_SECONDS)
    assert step(row, NOW, Told(NEVER_HEARD), NOW) == Step(Effect.RETURN, NOW, code="expired")
    row = payout(expires_at=NOW - FORGOTTEN_SECONDS + 1)
    assert effect(Told(NEVER_HEARD), doubt=NOW, row=row) is Effect.WAIT


@pytest.mark.parametrize("payment", [UNKNOWN, PENDING])
def test_what_cannot_be_learned_stays_for_ever(payment: Payment) -> None:
    assert effect(Told(payment), doubt=NOW, row=payout(made=0, expires_at=1)) is Effect.WAIT


@pytest.mark.parametrize("code", sorted(set(CODES) - {"unreachable", "untrustworthy", "rate_limited"}))
def test_what_the_wallet_declines_at_first_returns(code: WalletErrorCode) -> None:
    assert effect(Declined(code)) is Effect.RETURN


@pytest.mark.parametrize("code", CODES)
def test_a_second_request_that_is_declined_says_nothing_about_the_first(code: WalletErrorCode) -> None:
    following = step(payout(), NOW - 500, Declined(code), NOW)
    assert following.effect is Effect.WAIT
    assert following.doubt is not None


@pytest.mark.parametrize("code", ["unreachable", "untrustworthy"])
def test_an_error_that_is_no_answer_is_doubt(code: WalletErrorCode) -> None:
    assert step(payout(), None, Declined(code), NOW) == Step(Effect.WAIT, NOW)


def test_a_busy_wallet_is_waited_for_and_not_for_ever() -> None:
    assert step(payout(), None, Declined("rate_limited"), NOW) == Step(Effect.WAIT, None)
    late = NOW + PATIENCE_SECONDS
    following = step(payout(expires_at=late + 600), None, Declined("rate_limited"), late)
    assert following == Step(Effect.RETURN, None, code="unavailable")


payments = st.builds(Payment, st.sampled_from(InvoiceState), st.integers(-5, 500), known=st.booleans())
happenings = (
    st.just(Due()) | st.builds(Said, payments) | st.builds(Told, payments) | st.builds(Declined, st.sampled_from(CODES))
)


@given(happenings, st.none() | st.integers(NOW - 500, NOW), st.integers(-10_000, 10_000))
def test_nothing_returns_while_it_could_still_leave(happening: Happening, doubt: int | None, lasts: int) -> None:
    """Whatever comes: money returns only when nothing was ever sent, the wallet calls it failed and no request
    of unknown end is fresh, or it has never heard of it long after the end."""
    row = payout(expires_at=NOW + lasts)
    following = step(row, doubt, happening, NOW)
    if following.effect is Effect.RETURN and doubt is not None:
        match happening:
            case Said(payment) | Told(payment):
                failed = payment.state is InvoiceState.FAILED and doubt + QUIET_SECONDS <= NOW
                forgotten = not payment.known and row.expires_at + FORGOTTEN_SECONDS <= NOW
                assert failed or forgotten
            case _:
                raise AssertionError(happening)
    if following.effect is Effect.CHARGE:
        assert isinstance(happening, Said | Told)
        assert happening.payment.state is InvoiceState.SETTLED
    if following.effect is Effect.PAY:
        assert row.expires_at > NOW
    if doubt is not None:
        assert following.doubt is not None, "doubt is never forgotten"
