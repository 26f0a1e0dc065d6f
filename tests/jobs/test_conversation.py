"""A job that continues earlier ones: how it names them, what the model is told then, and who may not."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dvm.jobs import KINDS
from dvm.jobs.sources import conversation
from dvm.jobs.sources.conversation import MAX_NAME, Session, session_of
from dvm.jobs.sources.turns import MAX_GATHERING
from dvm.ledger import JobState
from dvm.models import ModelError, Turn
from dvm.nip90 import Input, InvalidRequest, parse_request, request_draft
from dvm.nostr.keys import Keys
from tests.standins.customer import Customer, customer
from tests.standins.scripted import answer
from tests.standins.talking import LIMIT, refusal, said, turn
from tests.standins.waiting import until
from tests.standins.workshop import Workshop

KEYS = Keys.generate()
NAME = "garden – 庭 1"
UNKNOWN = "invalid-param: session: no earlier job or result of yours has this id"


@pytest.fixture
async def shop(shop: Workshop) -> AsyncIterator[Workshop]:
    shop.model.scripts = [answer("one"), answer("two"), answer("three"), answer("four")]
    return shop


async def result(buyer: Customer, job: str) -> str:
    return (await buyer.result(job)).event.id


async def names(how: str, buyer: Customer, job: str) -> tuple[tuple[Input, ...], str | None]:
    """The inputs and the session by which a request continues that job."""
    match how:
        case "a job":
            return (Input(job, "job"),), None
        case "its result":
            return (Input(await result(buyer, job), "job"),), None
        case "the event":
            return (Input(await result(buyer, job), "event"),), None
        case "a session's job":
            return (), job
        case "a session's result":
            return (), (await result(buyer, job)).upper()
    return (), NAME


@pytest.mark.parametrize(
    "how", ["a job", "its result", "the event", "a session's job", "a session's result", "a session's name"]
)
async def test_three_turns_are_told_in_their_order(shop: Workshop, buyer: Customer, how: str) -> None:
    job = await turn(shop, buyer, "What grows here?", session=NAME if how == "a session's name" else None)
    for question in ("And in the shade?", "Which of them first?"):
        inputs, session = await names(how, buyer, job)
        job = await turn(shop, buyer, *inputs, question, session=session)
    first = [("user", "What grows here?"), ("model", "one"), ("user", "And in the shade?")]
    assert [said(prompt) for prompt in shop.model.prompts] == [
        first[:1],
        first,
        [*first, ("model", "two"), ("user", "Which of them first?")],
    ]
    buyer.check_chain()


async def test_a_name_belongs_to_one_customer_and_to_one_conversation(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    await turn(shop, buyer, "mine", session="work")
    await turn(shop, buyer, "elsewhere", session="Work")
    async with customer(relay) as other:
        await turn(shop, other, "theirs", session="work")
    await turn(shop, buyer, "mine again", session="work")
    assert [len(prompt.turns) for prompt in shop.model.prompts] == [1, 1, 1, 3]
    assert said(shop.model.prompts[3])[:2] == [("user", "mine"), ("model", "one")]


@pytest.mark.parametrize("scheme", [None, "nip04", "nip44"])
async def test_a_thief_gets_neither_the_words_nor_whether_there_are_any(
    shop: Workshop, buyer: Customer, relay: str, scheme: Any
) -> None:
    job = await turn(shop, buyer, "my secret", session="diary", scheme=scheme)
    event = await result(buyer, job)
    async with customer(relay) as thief:
        for named in (job, event, "0" * 64):
            assert await refusal(shop, thief, "go on", session=named, scheme=scheme) == UNKNOWN
        await turn(shop, thief, "go on", session="diary", scheme=scheme)
        if scheme is None:  # what is public may be worked on, by everybody, and is no conversation
            await turn(shop, thief, Input(job, "job"), "go on")
            await turn(shop, thief, Input(event, "event"), "go on")
        else:
            for kind in ("job", "event"):
                told = await refusal(shop, thief, Input(event, kind), "go on", scheme=scheme)
                assert told.startswith("input-unreadable: ")
    stolen = [said(prompt) for prompt in shop.model.prompts[1:]]
    assert stolen == [[("user", "go on")], *[[("user", "one", "go on")]] * (2 if scheme is None else 0)]


@pytest.mark.parametrize("scheme", ["nip04", "nip44"])
async def test_what_began_in_secret_goes_on_in_secret(
    shop: Workshop, buyer: Customer, tmp_path: Path, scheme: Any
) -> None:
    job = await turn(shop, buyer, "a secret", session="rosebud-in-the-snow", scheme=scheme)
    other = "nip44" if scheme == "nip04" else "nip04"
    job = await turn(shop, buyer, "what was it?", session="rosebud-in-the-snow", scheme=other)
    await turn(shop, buyer, Input(job, "job"), "and then?", scheme=scheme)
    assert said(shop.model.prompts[2]) == [
        *[("user", "a secret"), ("model", "one"), ("user", "what was it?"), ("model", "two"), ("user", "and then?")]
    ]
    for inputs, session in (((), "rosebud-in-the-snow"), ((), job), ((Input(job, "job"),), None)):
        told = await refusal(shop, buyer, *inputs, "and then?", session=session)
        assert told.startswith("input-unreadable: the conversation is encrypted")
    await shop.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert job.encode() in kept
    assert b"rosebud" not in kept


async def test_what_has_a_marker_or_is_of_somebody_else_is_worked_on(
    shop: Workshop, buyer: Customer, relay: str
) -> None:
    async with customer(relay) as other:
        theirs = await turn(shop, other, "theirs")
    mine = await turn(shop, buyer, "mine")
    await turn(shop, buyer, Input(theirs, "job"), Input(mine, "job", None, "draft"), "which is better?")
    assert said(shop.model.prompts[2]) == [("user", "one", "draft:\ntwo", "which is better?")]
    # What was worked on in an earlier turn is still there in the next one.
    job = next(iter(buyer.results(list(buyer.heard)[-1])))
    await turn(shop, buyer, Input(job, "job"), "why?")
    assert said(shop.model.prompts[3])[0] == ("user", "one", "draft:\ntwo", "which is better?")


async def test_one_conversation_is_continued_and_no_two(shop: Workshop, buyer: Customer) -> None:
    one, two = await turn(shop, buyer, "one?", session="first"), await turn(shop, buyer, "two?")
    for inputs, session in (
        ((Input(one, "job"), Input(two, "job")), None),
        ((Input(one, "job"), Input(await result(buyer, two), "event")), None),
        ((Input(two, "job"),), "first"),
        ((Input(two, "job"),), one),
    ):
        assert (await refusal(shop, buyer, *inputs, "go on", session=session)).startswith(
            "invalid-input: it names several"
        )
    # Named in two ways it is one; and a new name is given to what is continued.
    await turn(shop, buyer, Input(two, "job"), Input(await result(buyer, two), "event"), "go on", session="second")
    await turn(shop, buyer, "and on", session="second")
    assert [each[1] for each in said(shop.model.prompts[3])] == ["two?", "two", "go on", "three", "and on"]


async def test_there_must_be_a_question(shop: Workshop, buyer: Customer) -> None:
    job = await turn(shop, buyer, "one?")
    assert (await refusal(shop, buyer, Input(job, "job"))).startswith("no-input: ")


# Restarts and waits


async def test_a_conversation_outlives_restarts_between_turns_and_between_price_and_run(
    shop: Workshop, buyer: Customer
) -> None:
    await turn(shop, buyer, "one?", session="long")
    await shop.reopen()
    shop.model.count = 5_000  # too dear for the balance
    job = await buyer.ask("two?", params=[LIMIT, ("session", "long")])
    await buyer.quote(job)
    await shop.reopen()
    await shop.pay(buyer, job)
    await buyer.receipt(job)
    assert said(shop.model.prompts[1]) == [("user", "one?"), ("model", "one"), ("user", "two?")]


async def test_what_was_priced_is_what_is_run_though_the_session_has_moved_on(shop: Workshop, buyer: Customer) -> None:
    await turn(shop, buyer, "one?", session="long")
    shop.model.count = 5_000
    late = await buyer.ask("late?", params=[LIMIT, ("session", "long")])
    await buyer.quote(late)
    shop.model.count = 100
    await turn(shop, buyer, "two?", session="long")
    await shop.reopen()
    await shop.pay(buyer, late)
    await buyer.receipt(late)
    assert said(shop.model.prompts[-1]) == [("user", "one?"), ("model", "one"), ("user", "late?")]


@pytest.mark.parametrize("how", ["a job", "a session's job"])
async def test_a_job_under_way_is_waited_for(shop: Workshop, buyer: Customer, how: str) -> None:
    first = await buyer.ask("one?", providers=[shop.keys.pubkey])
    await buyer.quote(first)
    inputs, session = await names(how, buyer, first)
    params = [LIMIT, *([("session", session)] if session else [])]
    second = await buyer.ask(*inputs, "two?", params=params, providers=[shop.keys.pubkey])
    await until(lambda: shop.shop.inputs.waiting == 1)
    await shop.pay(buyer, first)
    await buyer.receipt(second)  # the change of the first pays it
    assert said(shop.model.prompts[1]) == [("user", "one?"), ("model", "one"), ("user", "two?")]


async def test_the_wait_for_a_turn_outlives_a_restart_and_ends_when_it_is_cancelled(
    shop: Workshop, buyer: Customer
) -> None:
    first = await buyer.ask("one?", providers=[shop.keys.pubkey], scheme="nip44")
    await buyer.quote(first)
    fields: dict[str, Any] = {"providers": [shop.keys.pubkey], "scheme": "nip44"}
    second = await buyer.ask("two?", params=[LIMIT, ("session", first)], **fields)
    given_up = await buyer.ask("or this?", params=[LIMIT, ("session", first)], **fields)
    await until(lambda: shop.shop.inputs.waiting == 2)
    await shop.reopen()
    await until(lambda: shop.shop.inputs.waiting == 2)
    await buyer.cancel(given_up)
    await until(lambda: shop.shop.inputs.waiting == 1)
    await shop.pay(buyer, first)
    await buyer.receipt(second)
    assert await shop.state(given_up) is JobState.CANCELLED
    assert [said(prompt) for prompt in shop.model.prompts[1:]] == [
        [("user", "one?"), ("model", "one"), ("user", "two?")]
    ]


@pytest.mark.parametrize("how", ["a job", "a session's job"])
async def test_a_job_that_failed_is_continued_by_nobody(shop: Workshop, buyer: Customer, how: str) -> None:
    shop.model.scripts = []
    shop.model.script = [ModelError("blocked", "no")]
    job = await turn(shop, buyer, "one?", session="again")
    inputs, session = await names(how, buyer, job)
    assert (await refusal(shop, buyer, *inputs, "two?", session=session)).startswith("input-failed: ")
    shop.model.script = answer("well")
    await turn(shop, buyer, "anew", session="again")
    assert said(shop.model.prompts[-1]) == [("user", "anew")]


async def test_another_kind_is_not_continued_and_every_kind_may_be(shop: Workshop, buyer: Customer) -> None:
    summary = replace(KINDS[5001], converses=True)
    shop.kinds = [KINDS[5050], summary, KINDS[5002]]
    await shop.reopen()
    talked = await turn(shop, buyer, "a long story", session="both")
    summed = await turn(shop, buyer, Input(talked, "job"), kind=5001, session="both")
    again = await turn(shop, buyer, Input(summed, "job"), "the same for children", kind=5001)
    await turn(shop, buyer, Input(again, "job"), "what was that?")
    first, second, third = shop.model.prompts[1:]
    assert len(first.turns) == 1
    assert "\none\n" in first.turns[0].parts[0]  # type: ignore[operator]
    # The earlier turn as its kind had made it, word for word; what the kind itself instructs stands once.
    assert second.turns[:2] == (*first.turns, Turn("model", ("two",)))
    assert second.system == first.system
    assert said(third) == [("user", "three", "what was that?")]
    assert (await refusal(shop, buyer, "go on", session=summed)) == UNKNOWN


async def test_words_alone_wait_for_nobodys_slow_pages(shop: Workshop, buyer: Customer) -> None:
    await turn(shop, buyer, "one?", session="quick")
    async with AsyncExitStack() as stack:
        for n in range(MAX_GATHERING):
            for paid in (False, True):
                await stack.enter_async_context(shop.shop.inputs._turns.turn(f"customer {n}", paid=paid))
        await turn(shop, buyer, "two?", session="quick")
    assert len(shop.model.prompts[1].turns) == 3


# Bounds


async def test_a_conversation_that_is_too_long_is_refused_and_not_cut(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await turn(shop, buyer, "x" * 500)
    shop.model.count = lambda prompt: sum(len(part) for turn in prompt.turns for part in turn.parts)
    shop.set(prompt_tokens=400)
    await shop.reopen()
    assert (await refusal(shop, buyer, "why?", session=job)).startswith("prompt-too-long: 507 tokens")
    shop.set(prompt_tokens=0)
    shop.model.context_tokens = 120
    await shop.reopen()
    assert (await refusal(shop, buyer, "why then?", session=job)).startswith("prompt-too-long: ")
    shop.model.context_tokens = None
    job = await turn(shop, buyer, "so why?", session=job)
    monkeypatch.setattr(conversation, "MAX_CHARS", 1_000)
    assert (await refusal(shop, buyer, "why so?", session=job)).startswith(
        "prompt-too-long: a conversation has at most 1000"
    )
    monkeypatch.setattr(conversation, "MAX_TURNS", 1)
    assert (await refusal(shop, buyer, "why?", session=job)).startswith("prompt-too-long: a conversation has at most 1")


async def test_twelve_turns_are_no_chain_that_is_too_deep(shop: Workshop, buyer: Customer) -> None:
    shop.model.scripts = []
    job = await turn(shop, buyer, "0")
    for n in range(1, 12):
        job = await turn(shop, buyer, Input(job, "job"), str(n))
    shop.model.count = 9_999
    last = await buyer.ask(Input(job, "job"), "12", params=[LIMIT], providers=[shop.keys.pubkey])
    await buyer.quote(last)
    shop.model.count = 100
    follower = await buyer.ask(Input(last, "job"), "13", params=[LIMIT], providers=[shop.keys.pubkey])
    await until(lambda: shop.shop.inputs.waiting == 1)
    await shop.pay(buyer, last)
    await buyer.receipt(follower)
    assert [turn.parts for turn in shop.model.prompts[-1].turns if turn.role == "user"] == [
        (str(n),) for n in range(14)
    ]


# The param


def asked(*values: tuple[str, ...]) -> Session | None:
    request = parse_request(request_draft(5050, ["x"]).sign(KEYS, 1_700_000_000), KEYS)
    return session_of(replace(request, params={"session": values} if values else {}))


@given(st.text(st.characters(exclude_categories=()), max_size=80))
@example("é" * MAX_NAME)
@example("x" * (MAX_NAME + 1))
@example("a\nb")
@example("\ud800")
@example("A" * 64)
def test_any_text_is_an_id_or_a_name_or_refused(value: str) -> None:
    composed = unicodedata.normalize("NFC", value)
    if re.fullmatch("[0-9a-fA-F]{64}", value):
        assert asked((value,)) == Session(prior=Input(value.lower(), "job"))
    elif composed.isprintable() and composed.strip() and len(composed) <= MAX_NAME:
        assert asked((value,)) == Session(name=composed)
    else:
        with pytest.raises(InvalidRequest, match="invalid-param: session: "):
            asked((value,))


@pytest.mark.parametrize("values", [[()], [("",)], [(" ",)], [("a", "b")], [("a",), ("b",)]])
def test_one_value_is_one_name(values: list[tuple[str, ...]]) -> None:
    with pytest.raises(InvalidRequest, match="invalid-param"):
        asked(*values)


def test_without_it_there_is_none_and_twice_the_same_is_once() -> None:
    assert asked() is None
    assert asked(("a",), ("a",)) == Session(name="a")
    assert asked(("e\u0301",)) == asked(("\u00e9",))


async def test_nothing_is_kept_of_what_was_refused(shop: Workshop, buyer: Customer) -> None:
    shop.set(prompt_tokens=50)
    await shop.reopen()
    job = await buyer.ask("x", params=[("session", "s")], providers=[shop.keys.pubkey])
    assert (await buyer.feedback(job, "error")).text.startswith("prompt-too-long")
    assert await shop.state(job) is JobState.REJECTED
    assert await shop.store.gathered_digest(job) is None
