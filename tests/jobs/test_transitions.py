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
    Effect,
    Happening,
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
    AskedAgain(),
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
    (S.RUNNING, UsedUp()): Step(S.FAILED, (Effect.POST,)),
    (S.RUNNING, Broke(again=True)): Step(S.PAID, (Effect.RELEASE, Effect.RUN)),
    (S.RUNNING, Broke(again=False)): Step(S.FAILED, (Effect.VOID,)),
    (S.RUNNING, ShutDown()): Step(S.PAID, (Effect.RELEASE,)),
    (S.RUNNING, Restarted()): Step(S.PAID, (Effect.RELEASE, Effect.RUN)),
    (S.RUNNING, Restarted(attempts_left=False)): Step(S.FAILED, (Effect.VOID,)),
}
STAYING = {
    (S.RECEIVED, Restarted()): (Effect.PREPARE,),
    (S.RECEIVED, Restarted(attempts_left=False)): (Effect.PREPARE,),
    (S.PAID, Restarted()): (Effect.RUN,),
    (S.PAID, Restarted(attempts_left=False)): (Effect.RUN,),
    (S.RUNNING, Deleted()): (Effect.STOP,),
    (S.QUOTED, AskedAgain()): (Effect.REPEAT,),
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
        expected = Step(state, effects)
    assert step(state, happening) == expected


@given(st.lists(st.sampled_from(HAPPENINGS), max_size=60))
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
