"""Whose words count, event by event, without a relay that would sort out the worst."""

from __future__ import annotations

import time

import pytest

from dvm.customer import Declined, Quoted
from dvm.customer.conversation import MAX_OFFERS, Conversation
from dvm.lightning.paper_node import PaperNode
from dvm.nip90 import Answers, JobRequest, parse_request, request_draft
from dvm.nostr import Event, Keys

NOW = int(time.time())
CUSTOMER, PROVIDER, STRANGER = Keys.generate(), Keys.generate(), Keys.generate()
NODE = PaperNode()


def asked(*providers: Keys, prompt: str = "What?") -> JobRequest:
    draft = request_draft(5050, [prompt], providers=[keys.pubkey for keys in providers])
    return parse_request(draft.sign(CUSTOMER, NOW), CUSTOMER)


def talk_about(job: JobRequest) -> Conversation:
    return Conversation(job, CUSTOMER, max_msat=50_000, network="regtest", now=lambda: NOW)


def quote(keys: Keys, job: JobRequest, msat: int = 5_000) -> Event:
    bolt11 = NODE.make("shop", msat, description="a job", expiry=3600).bolt11
    return Answers(keys, job).payment_required(msat, bolt11, "pay", NOW)


def answers_of(keys: Keys, job: JobRequest) -> list[Event]:
    said = Answers(keys, job)
    return [
        said.processing("", NOW),
        said.partial("text", NOW + 1),
        quote(keys, job),
        said.error("cancelled", "", NOW + 2),
        said.result("text", NOW + 3),
    ]


def untouched(talk: Conversation) -> bool:
    return not (talk.news or talk.offers or talk.declined or talk.over or talk.working or talk.receipt)


@pytest.mark.parametrize("number", range(5))
def test_a_stranger_says_nothing_about_a_job_that_names_another(number: int) -> None:
    job = asked(PROVIDER)
    talk = talk_about(job)
    talk.take(answers_of(STRANGER, job)[number])
    assert untouched(talk)


@pytest.mark.parametrize("number", range(5))
def test_an_answer_to_another_job_is_none_to_this(number: int) -> None:
    talk = talk_about(asked(PROVIDER))
    talk.take(answers_of(PROVIDER, asked(PROVIDER, prompt="Another?"))[number])
    assert untouched(talk)


@pytest.mark.parametrize("number", range(5))
def test_an_answer_of_the_wrong_customer_is_none(number: int) -> None:
    job = asked(PROVIDER)
    talk = talk_about(job)
    event = answers_of(PROVIDER, job)[number]
    tags = [["p", STRANGER.pubkey] if tag[0] == "p" else tag for tag in event.tags]
    talk.take(PROVIDER.sign(event.kind, tags, event.content, NOW))
    assert untouched(talk)


@pytest.mark.parametrize("number", range(5))
def test_once_an_offer_is_chosen_nobody_else_is_heard(number: int) -> None:
    job = asked()
    talk = talk_about(job)
    talk.take(quote(PROVIDER, job))
    chosen = talk.news.popleft()
    assert isinstance(chosen, Quoted)
    talk.choose(chosen)
    talk.take(answers_of(STRANGER, job)[number])
    assert not talk.news
    assert not talk.over
    assert list(talk.offers) == [PROVIDER.pubkey]
    talk.take(Answers(PROVIDER, job).result("mine", NOW))
    assert talk.result is not None
    assert talk.result.content == "mine"


def test_a_crowd_that_refuses_takes_bounded_memory_and_does_not_crowd_out_an_offer() -> None:
    job = asked()
    talk = talk_about(job)
    for _ in range(MAX_OFFERS + 20):
        talk.take(Answers(Keys.generate(), job).error("no", "no", NOW))
    for _ in range(MAX_OFFERS + 20):
        talk.take(quote(Keys.generate(), job))
    assert (len(talk.offers), len(talk.declined)) == (MAX_OFFERS, MAX_OFFERS)


def test_who_asked_for_money_is_not_believed_to_work_before_it_has_that() -> None:
    job = asked()
    talk = talk_about(job)
    talk.take(quote(PROVIDER, job))
    talk.take(Answers(PROVIDER, job).processing("", NOW + 1))
    assert talk.working is None
    assert [type(update) for update in talk.news] == [Quoted]


def test_a_refusal_of_a_broadcast_is_one_providers_and_takes_its_offer_away() -> None:
    job = asked()
    talk = talk_about(job)
    talk.take(quote(PROVIDER, job))
    for _ in range(2):
        talk.take(Answers(PROVIDER, job).error("busy", "later", NOW + 1))
    assert not talk.over
    assert talk.offers == {}
    assert [type(update) for update in talk.news] == [Quoted, Declined]
    assert talk.no_offer(30) == ("refused", "busy: later")
