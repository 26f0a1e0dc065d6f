"""Where a run stops, and where it must not."""

from __future__ import annotations

from pathlib import Path

from dvm.models import Chunk, Usage
from dvm.pricing import PerRequest
from tests.standins.customer import Customer
from tests.standins.scripted import ScriptedModel
from tests.standins.workshop import workshop


async def test_an_answer_at_one_price_for_all_is_whole(relay: str, tmp_path: Path, buyer: Customer) -> None:
    """It costs as much from its first word on as was quoted: that is no reason to stop there."""
    model = ScriptedModel(
        Chunk("All ", usage=Usage(100, output=1)),
        Chunk("of ", usage=Usage(100, output=2)),
        Chunk("it.", usage=Usage(100, output=3), finish="stop"),
    )
    async with workshop(relay, data=tmp_path, models=[model], price=PerRequest(21_000)) as shop:
        job = await buyer.ask("Tell me", providers=[shop.keys.pubkey])
        await shop.pay(buyer, job)
        assert (await buyer.result(job)).content == "All of it."
        receipt = await buyer.receipt(job)
        assert (receipt.cost, receipt.finish) == (21_000, "stop")


async def test_a_model_that_ignores_its_limit_is_stopped_at_one_price_too(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    model = ScriptedModel(*[Chunk("word ", usage=Usage(100, output=tokens)) for tokens in range(8, 100, 8)])
    async with workshop(relay, data=tmp_path, models=[model], price=PerRequest(21_000)) as shop:
        job = await buyer.ask("Tell me", providers=[shop.keys.pubkey], params=[("max_tokens", "20")])
        await shop.pay(buyer, job)
        assert (await buyer.result(job)).content == "word word word "
        assert (await buyer.receipt(job)).finish == "length"
