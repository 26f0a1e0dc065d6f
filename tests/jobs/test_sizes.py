"""How long prompts and answers may be, and what a model does not take: refused before it is paid for, or given back."""

from __future__ import annotations

import pytest

from dvm.models import ModelError, Prompt
from tests.standins.customer import Customer
from tests.standins.workshop import PRICE, Workshop

UNTAKEN = "bad-request: the model does not take this request"


async def refusal(shop: Workshop, buyer: Customer, text: str) -> str:
    return (await buyer.feedback(await buyer.ask(text, providers=[shop.keys.pubkey]), "error")).text


async def test_a_prompt_may_have_as_many_tokens_as_the_operator_says_and_not_one_more(
    shop: Workshop, buyer: Customer
) -> None:
    shop.set(prompt_tokens=100)
    await shop.reopen()
    shop.model.count = 101
    assert await refusal(shop, buyer, "one too many") == "prompt-too-long: 101 tokens, of at most 100"
    shop.model.count = 100
    await buyer.quote(await buyer.ask("just as many"))


async def test_a_prompt_that_is_far_too_long_is_not_even_counted(shop: Workshop, buyer: Customer) -> None:
    counted: list[Prompt] = []

    def count(prompt: Prompt) -> int:
        counted.append(prompt)
        return 1

    shop.set(prompt_tokens=100)
    shop.model.count = count
    await shop.reopen()
    assert await refusal(shop, buyer, "word " * 1_000) == "prompt-too-long: more than 100 tokens"
    assert counted == []
    await buyer.quote(await buyer.ask("word " * 100))
    assert len(counted) == 1


@pytest.mark.parametrize(("wanted", "most"), [(None, 1000), ("60", 60), ("1000000", 1000)])
async def test_an_answer_is_as_long_as_was_asked_for_and_the_model_allows_and_so_is_its_price(
    shop: Workshop, buyer: Customer, wanted: str | None, most: int
) -> None:
    job = await buyer.ask("a question", params=[("max_tokens", wanted)] if wanted else [])
    quote = await buyer.quote(job)
    assert quote.msat == (100 * PRICE.input + most * PRICE.output) // 10**6
    await shop.pay(buyer, job)
    await buyer.result(job)
    assert [limits.max_output_tokens for limits in shop.model.limits] == [most]


async def test_what_the_model_does_not_take_when_it_is_counted_is_refused(shop: Workshop, buyer: Customer) -> None:
    shop.model.count = ModelError("bad_request", "no such setting")
    assert await refusal(shop, buyer, "a question") == UNTAKEN
    assert shop.model.prompts == []


async def test_what_the_model_does_not_take_when_it_runs_is_given_back(shop: Workshop, buyer: Customer) -> None:
    shop.model.script = [ModelError("bad_request", "no such setting")]
    job = await buyer.ask("a question")
    await shop.pay(buyer, job)
    assert (await buyer.feedback(job, "error")).text == UNTAKEN
    receipt = await buyer.receipt(job)
    assert (receipt.cost, receipt.after) == (0, receipt.paid)
    assert len(shop.model.prompts) == 1
