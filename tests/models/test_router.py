"""The order of the models, who steps in for whom, and how many requests each gets at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import get_args

import pytest

from dvm.models import Blob, Chunk, Limits, ModelError, Prompt, Usage
from dvm.models import router as module
from dvm.models.base import ErrorCode
from dvm.models.health import AT_FAULT, FAILURES, FIRST_PAUSE
from dvm.models.router import Bounds, Router
from tests.standins.clock import Clock
from tests.standins.scripted import STALL, ScriptedModel, answer
from tests.standins.waiting import until

PROMPT = Prompt.of("a question")
PICTURE = Prompt.of("what is it?", Blob("image/png", b"png"))
DOWN = ModelError("unavailable", "down")


def make(*models: ScriptedModel, clock: Clock | None = None, **bounds: Bounds) -> Router:
    return Router({model.name: model for model in models}, bounds, clock=clock or Clock())


def asked(_name: str) -> tuple[Prompt, Limits]:
    return PROMPT, Limits(100)


async def run(router: Router, names: Sequence[str]) -> tuple[str, str]:
    """Who answered, and what."""
    text, by = "", set()
    async with aclosing(router.stream(names, asked)) as chunks:
        async for name, chunk in chunks:
            text += chunk.text
            by.add(name)
    assert len(by) == 1
    return by.pop(), text


async def breaks(router: Router, *names: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await run(router, names)
    return caught.value


async def open_breaker(router: Router, model: ScriptedModel) -> None:
    model.scripts = [[ModelError("unauthorized", "no such key")]]
    await breaks(router, model.name)
    assert router.health(model.name).state == "open"


# The order


def test_models_are_asked_in_the_order_of_the_service() -> None:
    router = make(ScriptedModel(name="a"), ScriptedModel(name="b"))
    assert router.candidates(["b", "a"], PROMPT) == ["b", "a"]
    assert router.candidates(["b", "a", "gone"], PROMPT, first="a") == ["a", "b"]


def test_by_price_the_cheapest_goes_first_and_the_order_decides_between_equals() -> None:
    router = make(*(ScriptedModel(name=name) for name in "abc"))
    assert router.candidates(["a", "b", "c"], PROMPT, price={"a": 3, "b": 1, "c": 1}.__getitem__) == ["b", "c", "a"]


async def test_a_model_whose_breaker_is_open_comes_last_until_its_pause_is_over(clock: Clock) -> None:
    a, b = ScriptedModel(name="a"), ScriptedModel(name="b")
    router = make(a, b, clock=clock)
    await open_breaker(router, a)
    assert router.candidates(["a", "b"], PROMPT, first="a") == ["b", "a"]
    assert (router.usable("a"), router.usable("b"), router.usable("gone")) == (False, True, False)
    clock.now += FIRST_PAUSE
    assert router.candidates(["a", "b"], PROMPT, first="a") == ["a", "b"]


def test_what_a_model_cannot_read_make_or_hold_is_not_asked_of_it() -> None:
    text, sees, paints, small = (ScriptedModel(name=name) for name in ("text", "sees", "paints", "small"))
    sees.takes = ("image/", "application/pdf")
    paints.makes = ("text", "image")
    small.context_tokens = 10
    router = make(text, sees, paints, small)
    names = ["text", "sees", "paints", "small"]
    assert router.candidates(names, PICTURE) == ["sees"]
    assert router.candidates(names, Prompt.of(Blob("IMAGE/JPEG", b""))) == ["sees"]
    assert router.candidates(names, Prompt.of(Blob("audio/wav", b""))) == []
    assert router.candidates(names, PROMPT, output="image") == ["paints"]
    assert router.candidates(names, Prompt.of("word " * 100)) == ["text", "sees", "paints"]
    assert (router.fits("small", 9), router.fits("small", 10), router.fits("text", 10**9)) == (True, False, True)


# Stepping in


@pytest.mark.parametrize("code", sorted(AT_FAULT))
async def test_the_next_model_answers_where_one_fails_before_its_first_word(code: ErrorCode) -> None:
    a, b = ScriptedModel(ModelError(code, "no"), name="a"), ScriptedModel(name="b")
    assert await run(make(a, b), ["a", "b"]) == ("b", "well")


@pytest.mark.parametrize("code", sorted(set(get_args(ErrorCode)) - AT_FAULT))
async def test_no_other_model_is_asked_where_the_request_is_to_blame(code: ErrorCode) -> None:
    """Else a request could be written that the cheap model refuses and the dear one answers at its price."""
    a, b = ScriptedModel(ModelError(code, "no"), name="a"), ScriptedModel(name="b")
    assert (await breaks(make(a, b), "a", "b")).code == code
    assert b.prompts == []


@pytest.mark.parametrize(
    "begun",
    [
        ["so "],
        [Chunk(blob=Blob("image/png", b"png"))],
        [Chunk(usage=Usage(input=10, thoughts=3))],
    ],
)
async def test_no_other_model_is_asked_once_something_has_come(begun: list[str | Chunk]) -> None:
    a, b = ScriptedModel(*begun, DOWN, name="a"), ScriptedModel(name="b")
    assert await breaks(make(a, b), "a", "b") is DOWN
    assert b.prompts == []


async def test_no_other_model_is_asked_once_something_was_used() -> None:
    used = ModelError("stalled", "no", usage=Usage(input=10))
    a, b = ScriptedModel(used, name="a"), ScriptedModel(name="b")
    assert await breaks(make(a, b), "a", "b") is used
    assert b.prompts == []


async def test_of_several_failures_one_that_may_pass_is_told() -> None:
    wrong = ModelError("unauthorized", "no such key")
    a, b, c = ScriptedModel(wrong, name="a"), ScriptedModel(DOWN, name="b"), ScriptedModel(wrong, name="c")
    router = make(a, b, c)
    assert await breaks(router, "a", "b", "c") is DOWN
    assert await breaks(make(a, c), "a", "c") is wrong


async def test_a_stream_that_ends_without_a_finish_is_a_failure() -> None:
    class Hasty(ScriptedModel):
        async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Chunk, None]:
            yield Chunk("")

    assert await run(make(Hasty(name="a"), ScriptedModel(name="b")), ["a", "b"]) == ("b", "well")


async def test_an_open_breaker_is_passed_over_and_tried_again_after_its_pause(clock: Clock) -> None:
    a, b = ScriptedModel(DOWN, name="a"), ScriptedModel(name="b")
    router = make(a, b, clock=clock)
    for _ in range(FAILURES + 5):
        assert (await run(router, ["a", "b"]))[0] == "b"
    assert len(a.prompts) == FAILURES
    clock.now += FIRST_PAUSE
    a.script = answer("again")
    assert await run(router, ["a", "b"]) == ("a", "again")
    assert router.health("a").state == "closed"


async def test_while_one_request_tries_a_model_the_others_pass_it_over(clock: Clock) -> None:
    a, b = ScriptedModel(name="a"), ScriptedModel(name="b")
    router = make(a, b, clock=clock)
    await open_breaker(router, a)
    clock.now += FIRST_PAUSE
    go = asyncio.Event()
    a.script = [go, *answer("again")]
    trial = asyncio.create_task(run(router, ["a", "b"]))
    await until(lambda: a.running)
    assert (await run(router, ["a", "b"]))[0] == "b"
    go.set()
    assert await trial == ("a", "again")
    assert (await run(router, ["a", "b"]))[0] == "a"


async def test_what_is_paid_for_is_tried_even_if_every_breaker_is_open() -> None:
    a, b = ScriptedModel(name="a"), ScriptedModel(name="b")
    router = make(a, b)
    await open_breaker(router, a)
    await open_breaker(router, b)
    assert await run(router, ["b", "a"]) == ("b", "well")
    assert router.health("b").state == "closed"


async def test_how_each_request_ended_is_told() -> None:
    told: list[tuple[str, str | None]] = []
    a, b = ScriptedModel(DOWN, name="a"), ScriptedModel(name="b")
    router = make(a, b)
    router.told = lambda name, error: told.append((name, error and error.code))
    await run(router, ["a", "b"])
    router.failed("a", ModelError("stalled", "no answer within 600 s"))
    router.failed("gone", ModelError("stalled", "no answer within 600 s"))
    assert told == [("a", "unavailable"), ("b", None), ("a", "stalled")]


async def test_a_model_that_was_stopped_in_the_middle_of_its_answer_has_answered(clock: Clock) -> None:
    a = ScriptedModel(name="a")
    router = make(a, clock=clock)
    await open_breaker(router, a)
    clock.now += FIRST_PAUSE
    a.script = ["so", STALL]
    stream = router.stream(["a"], asked)
    await anext(stream)
    await stream.aclose()
    assert a.stopped == 1
    assert router.health("a").state == "closed"


# Bounds


async def test_no_more_than_its_places_ask_one_model_at_once() -> None:
    go = asyncio.Event()
    a, b = ScriptedModel(go, *answer("well"), name="a"), ScriptedModel(go, *answer("well"), name="b")
    router = make(a, b, a=Bounds(concurrency=2))
    runs = [asyncio.create_task(run(router, [name])) for name in "aaaaabbbbb"]
    await until(lambda: b.running == 5)
    assert a.running == 2
    go.set()
    await asyncio.gather(*runs)
    assert (a.most_running, len(a.prompts)) == (2, 5)


async def test_a_place_is_given_back_however_the_request_ends() -> None:
    a = ScriptedModel(name="a")
    router = make(a, a=Bounds(concurrency=1))
    a.scripts = [[DOWN], [STALL], ["so", STALL]]
    await breaks(router, "a")
    task = asyncio.create_task(run(router, ["a"]))
    await until(lambda: a.running)
    waits = asyncio.create_task(run(router, ["a"]))
    for each in (task, waits):
        each.cancel()
    await asyncio.gather(task, waits, return_exceptions=True)
    stream = router.stream(["a"], asked)
    await anext(stream)
    await stream.aclose()
    assert await run(router, ["a"]) == ("a", "well")


async def test_whoever_waits_for_a_place_has_not_begun() -> None:
    """`asked` starts the clock of a run: waiting must not use it up."""
    go, begun = asyncio.Event(), []
    a = ScriptedModel(go, *answer("well"), name="a")
    router = make(a, a=Bounds(concurrency=1))

    async def ask(number: int) -> None:
        async with aclosing(router.stream(["a"], lambda name: begun.append(number) or asked(name))) as chunks:  # type: ignore[func-returns-value]
            async for _ in chunks:
                pass

    runs = [asyncio.create_task(ask(number)) for number in range(2)]
    await until(lambda: a.running)
    assert begun == [0]
    go.set()
    await asyncio.gather(*runs)
    assert begun == [0, 1]


async def test_no_more_than_so_many_requests_begin_within_any_minute(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    begun: list[float] = []
    a = ScriptedModel(name="a")
    router = make(a, clock=clock, a=Bounds(requests_per_minute=3))
    for _ in range(10):
        await run(router, ["a"])
        begun.append(clock.now)
        clock.now += 1
    assert all(later - first >= 60 for first, later in zip(begun, begun[3:], strict=False))
    assert begun[:3] == [1000, 1001, 1002]
    assert len(slept) < 10


async def test_who_waits_for_a_models_place_takes_none_of_all() -> None:
    """And who has one of all has begun: nobody waits for the one and holds the other, so nobody waits for ever."""
    go = asyncio.Event()
    slow, idle = ScriptedModel(go, *answer("slow"), name="slow"), ScriptedModel(name="idle")
    models = {each.name: each for each in (slow, idle)}
    router = Router(models, {"slow": Bounds(concurrency=1), "idle": Bounds(concurrency=1)}, at_once=2)
    waiting = [asyncio.create_task(run(router, ["slow"])) for _ in range(3)]
    await until(lambda: slow.running == 1)
    assert await run(router, ["idle"]) == ("idle", "well")
    go.set()
    assert await asyncio.gather(*waiting) == [("slow", "slow")] * 3


async def test_the_minute_of_a_request_begins_when_it_is_asked_and_not_while_it_waits() -> None:
    clock, go = Clock(), asyncio.Event()
    busy, paced = ScriptedModel(go, *answer("busy"), name="busy"), ScriptedModel(name="paced")
    models = {each.name: each for each in (busy, paced)}
    router = Router(models, {"paced": Bounds(requests_per_minute=1)}, at_once=1, clock=clock)
    first = asyncio.create_task(run(router, ["busy"]))
    await until(lambda: busy.running)
    second = asyncio.create_task(run(router, ["paced"]))
    await asyncio.sleep(0)
    clock.now += 59.0
    go.set()
    await asyncio.gather(first, second)
    third = asyncio.create_task(run(router, ["paced"]))
    clock.now += 59.0  # since the second was asked
    for _ in range(100):  # as many turns of the loop as it could want
        await asyncio.sleep(0)
    assert len(paced.prompts) == 1
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    clock.now += 1.0
    assert await run(router, ["paced"]) == ("paced", "well")
