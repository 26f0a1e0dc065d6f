"""The life of a job as a pure function: every arrow of the drawing, and nothing beside it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.jobs.transitions import (
    FINAL,
    Answered,
    AskedAgain,
    Broke,
    Claimed,
    Covered,
    Deleted,
    Deserted,
    Effect,
    Happening,
    Held,
    Lost,
    Priced,
    Refused,
    Restarted,
    Settled,
    ShutDown,
    Step,
    Stopped,
    TimeUp,
    UsedUp,
    step,
)
from dvm.ledger import JobState

S = JobState
HAPPENINGS: list[Happening] = [
    Covered(), Priced(), Refused(), Settled(), Settled(enough=False), TimeUp(), Deleted(), Claimed(), Answered(),
    Stopped(), UsedUp(), Broke(again=True), Broke(again=False), ShutDown(), Restarted(), Restarted(attempts_left=False),
    AskedAgain(), Held(), Held(enough=False), Held(late=True), Lost(), Answered(promised=True), Stopped(promised=True),
    UsedUp(promised=True), Deserted(), Stopped(begun=False),
]  # fmt: skip
ARROWS = {
    (S.RECEIVED, Covered()): Step(S.PAID, (Effect.HOLD, Effect.RUN)),
    (S.RECEIVED, Priced()): Step(S.QUOTED, (Effect.QUOTE,)),
    (S.RECEIVED, Refused()): Step(S.REJECTED, (Effect.CLOSE,)),
    (S.RECEIVED, Deleted()): Step(S.CANCELLED, (Effect.CLOSE,)),
    (S.QUOTED, Settled()): Step(S.PAID, (Effect.HOLD, Effect.RUN)),
    (S.QUOTED, TimeUp()): Step(S.EXPIRED, (Effect.CLOSE,)),
    (S.QUOTED, Deleted()): Step(S.CANCELLED, (Effect.CLOSE,)),
    (S.PAID, Claimed()): Step(S.RUNNING, (Effect.RUN,)),
    (S.PAID, Deleted()): Step(S.CANCELLED, (Effect.VOID,)),
    (S.WAITING, Deleted()): Step(S.CANCELLED, (Effect.VOID,)),
    (S.RUNNING, Answered()): Step(S.DELIVERED, (Effect.POST,)),
    (S.RUNNING, Stopped()): Step(S.CANCELLED, (Effect.POST,)),
    (S.RUNNING, Stopped(begun=False)): Step(S.CANCELLED, (Effect.VOID,)),
    (S.RUNNING, UsedUp()): Step(S.FAILED, (Effect.POST,)),
    (S.RUNNING, Broke(again=True)): Step(S.PAID, (Effect.RELEASE, Effect.RUN)),
    (S.RUNNING, Broke(again=False)): Step(S.FAILED, (Effect.VOID,)),
    (S.RUNNING, ShutDown()): Step(S.PAID, (Effect.RELEASE,)),
    (S.RUNNING, Restarted()): Step(S.PAID, (Effect.RELEASE, Effect.RUN)),
    (S.RUNNING, Restarted(attempts_left=False)): Step(S.FAILED, (Effect.VOID,)),
    (S.QUOTED, Held()): Step(S.PAID, (Effect.RUN,)),
    (S.PAID, Held(late=True)): Step(S.FAILED, (Effect.VOID, Effect.REFUND)),
    (S.WAITING, Held(late=True)): Step(S.FAILED, (Effect.VOID, Effect.REFUND)),
    (S.PAID, Lost()): Step(S.FAILED, (Effect.VOID,)),
    (S.WAITING, Lost()): Step(S.FAILED, (Effect.VOID,)),
    (S.RUNNING, Answered(promised=True)): Step(S.SETTLING, (Effect.FINISH, Effect.SETTLE)),
    (S.RUNNING, Stopped(promised=True)): Step(S.CANCELLED, (Effect.VOID, Effect.REFUND)),
    (S.RUNNING, UsedUp(promised=True)): Step(S.FAILED, (Effect.VOID, Effect.REFUND)),
    (S.RUNNING, Deserted()): Step(S.FAILED, (Effect.VOID, Effect.REFUND)),
    (S.SETTLING, Settled()): Step(S.DELIVERED, (Effect.POST,)),
    (S.SETTLING, Settled(enough=False)): Step(S.DELIVERED, (Effect.POST,)),
    (S.SETTLING, Lost()): Step(S.FAILED, (Effect.VOID,)),
}
STAYING = {
    (S.RECEIVED, Restarted()): (Effect.PREPARE,),
    (S.RECEIVED, Restarted(attempts_left=False)): (Effect.PREPARE,),
    (S.PAID, Restarted()): (Effect.RUN,),
    (S.PAID, Restarted(attempts_left=False)): (Effect.RUN,),
    (S.RUNNING, Deleted()): (Effect.STOP,),
    (S.QUOTED, AskedAgain()): (Effect.REPEAT,),
    (S.QUOTED, Held(enough=False)): (Effect.REFUND,),
    (S.QUOTED, Held(late=True)): (Effect.REFUND,),
    (S.RUNNING, Held(late=True)): (Effect.STOP,),
    (S.RUNNING, Lost()): (Effect.STOP,),
    (S.SETTLING, Restarted()): (Effect.SETTLE,),
    (S.SETTLING, Restarted(attempts_left=False)): (Effect.SETTLE,),
}


@pytest.mark.parametrize(("state", "happening"), list(itertools.product(JobState, HAPPENINGS)))
def test_each_happening_in_each_state(state: JobState, happening: Happening) -> None:
    expected = ARROWS.get((state, happening))
    if expected is None:
        effects = STAYING.get((state, happening), ())
        if isinstance(happening, Settled):
            effects = (Effect.CREDIT,)
        elif isinstance(happening, AskedAgain) and state in FINAL:
            effects = (Effect.REPEAT,)
        elif isinstance(happening, Held) and state in FINAL:
            effects = (Effect.REFUND,)
        elif isinstance(happening, Held) and state is S.SETTLING:  # also when little time is left: now or never
            effects = (Effect.SETTLE,)
        expected = Step(state, effects)
    assert step(state, happening) == expected


PROMISED = [Held, Lost, Deserted]
PLAIN = [each for each in HAPPENINGS if type(each) not in PROMISED and not getattr(each, "promised", False)]


@given(st.lists(st.sampled_from(PLAIN), max_size=60))
def test_whatever_happens_a_hold_is_opened_once_and_ended_once(happenings: list[Happening]) -> None:
    state, holds, ends = JobState.RECEIVED, 0, 0
    for happening in happenings:
        before = state
        following = step(state, happening)
        state = following.state
        holds += Effect.HOLD in following.effects
        ends += Effect.POST in following.effects or Effect.VOID in following.effects
        if before in FINAL:
            assert state is before
        assert ends <= holds <= 1
    holding = state in (JobState.PAID, JobState.WAITING, JobState.RUNNING)
    assert holds - ends == holding


@given(st.lists(st.sampled_from(HAPPENINGS), max_size=60))
def test_a_promise_ends_in_settled_and_delivered_or_in_neither(happenings: list[Happening]) -> None:
    state, finished, posted, promised = JobState.QUOTED, 0, 0, False
    for happening in happenings:
        if type(happening) in (Answered, Stopped, UsedUp) and happening.promised != promised:
            continue  # the engine knows by what a job was paid
        if isinstance(happening, Settled) and promised and state is not JobState.SETTLING:
            continue  # only our preimage settles it
        if not promised and isinstance(happening, Held | Lost | Deserted) and state is not JobState.QUOTED:
            continue
        following = step(state, happening)
        promised |= (
            state is JobState.QUOTED and following.state is JobState.PAID and Effect.HOLD not in following.effects
        )
        if promised:
            finished += Effect.FINISH in following.effects
            posted += Effect.POST in following.effects
            assert posted <= finished <= 1
            assert (following.state is JobState.DELIVERED) == bool(posted)
            assert not (posted and Effect.REFUND in following.effects and state is not JobState.DELIVERED)
        state = following.state
