"""Whole jobs that make images: where their files go, what is billed, and what happens when there is no way."""

from __future__ import annotations

import base64
import hashlib
import io
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from dvm.jobs.files import Files
from dvm.jobs.kinds import image, speech
from dvm.jobs.run import MAX_FILES
from dvm.ledger import JobState
from dvm.models import Blob, Chunk, Usage
from dvm.models.gemini import GeminiModel
from dvm.nip90 import Result, parse_answer
from dvm.nostr.blossom import Blossom as Client
from dvm.pricing import PerRequest
from tests.standins.blossom import Blossom, blossom
from tests.standins.customer import Customer
from tests.standins.gemini import GeminiStandIn
from tests.standins.scripted import Act, ScriptedModel, answer
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop

KIND, RESULT = 5100, 6100
PNG = Blob("image/png", b"\x89PNG" + bytes(range(256)) * 400)
OSTRICH = "A purple ostrich"
USED = Usage(input=100, output=1290)
COST = 100 * 1_000 + 1290 * 4_000  # msat, at the workshop's prices
DRAWN: list[Act] = [Chunk("Here it is:"), Chunk(blob=PNG, usage=USED), Chunk(usage=USED, finish="stop")]


class Painter(ScriptedModel):
    makes = ("text", "image")


@pytest.fixture
async def server() -> AsyncIterator[Blossom]:
    async with blossom() as each:
        yield each


@pytest.fixture
async def studio(relay: str, tmp_path: Path, server: Blossom) -> AsyncIterator[Workshop]:
    async with workshop(relay, data=tmp_path, models=[Painter(*DRAWN, max_output_tokens=2000)], opened=False) as each:
        each.kinds = (image.KIND,)
        each.files = Files(Client(each.keys, (server.url,), timeout=5, pause=0), seconds=10)
        await each.open()
        yield each
        await each.files.close()


async def ask(shop: Workshop, buyer: Customer, **fields: Any) -> str:
    return await buyer.ask(OSTRICH, kind=KIND, providers=[shop.keys.pubkey], **fields)


async def result(buyer: Customer, job: str) -> Result:
    parsed = parse_answer(await buyer.until(job, lambda event: event.kind == RESULT), buyer.keys)
    assert isinstance(parsed, Result)
    return parsed


async def test_an_image_is_paid_for_uploaded_and_named_in_the_result(
    studio: Workshop, server: Blossom, buyer: Customer
) -> None:
    job = await ask(studio, buyer, params=[("ratio", "4:3")])
    paid = await studio.pay(buyer, job)
    url = (await result(buyer, job)).content
    assert server.get(url) == (PNG.data, "image/png")
    assert server.authorizations[0].pubkey == studio.keys.pubkey
    (limits,) = studio.model.limits
    assert (limits.output, limits.ratio) == ("image", "4:3")
    receipt = await buyer.receipt(job)
    assert receipt.output_sha256 == hashlib.sha256(url.encode()).hexdigest()
    assert receipt.cost == COST
    buyer.check_chain(paid)
    # What the model said about it is no answer, and no partial either.
    assert not [said for said in buyer.said(job) if "partial" in said]
    await studio.balanced()


async def test_nobody_pays_for_the_length_of_an_address(studio: Workshop, buyer: Customer) -> None:
    """A model that reports no usage is billed by our own count, of what it made and not of what is said about it."""
    studio.model.script = [Chunk(blob=PNG), Chunk(finish="stop")]
    job = await ask(studio, buyer)
    await studio.pay(buyer, job)
    await result(buyer, job)
    assert (await buyer.receipt(job)).cost == 100 * 1_000


async def test_a_text_is_spoken_by_gemini_and_arrives_as_a_wav_file(
    relay: str, tmp_path: Path, server: Blossom, buyer: Customer
) -> None:
    sound = bytes(range(256)) * 300
    async with GeminiStandIn() as gemini:
        pcm = ("audio/L16;codec=pcm;rate=24000", base64.b64encode(sound).decode())
        gemini.script("*", text="", blobs=[pcm])
        model = GeminiModel("tts", model="gemini-2.5-flash-preview-tts", api_key=gemini.key, base_url=gemini.url)
        async with workshop(relay, data=tmp_path, models=[model], opened=False) as shop:
            shop.kinds = (speech.KIND,)
            shop.files = Files(Client(shop.keys, (server.url,), pause=0))
            await shop.open()
            job = await buyer.ask("Mic check", kind=5250, providers=[shop.keys.pubkey], params=[("language", "en")])
            await shop.pay(buyer, job)
            event = await buyer.until(job, lambda event: event.kind == 6250)
            data, mime = server.get(event.content)
            assert mime == "audio/wav"
            with wave.open(io.BytesIO(data)) as file:
                assert file.readframes(file.getnframes()) == sound
            assert (await buyer.receipt(job)).usage["output"] == 258
            await shop.files.close()
        await model.close()


async def test_one_price_for_a_whole_image(relay: str, tmp_path: Path, server: Blossom, buyer: Customer) -> None:
    price = PerRequest(21_000)
    async with workshop(relay, data=tmp_path, models=[Painter(*DRAWN)], price=price, opened=False) as shop:
        shop.kinds = (image.KIND,)
        shop.files = Files(Client(shop.keys, (server.url,), pause=0))
        await shop.open()
        job = await ask(shop, buyer)
        assert (await buyer.quote(job)).msat == 21_000
        await shop.pay(buyer, job)
        assert server.get((await result(buyer, job)).content)
        assert (await buyer.receipt(job)).cost == 21_000
        await shop.files.close()


async def test_without_a_way_to_deliver_it_the_money_comes_back(
    studio: Workshop, server: Blossom, buyer: Customer
) -> None:
    server.answer = Response("", 413)
    job = await ask(studio, buyer)
    await studio.pay(buyer, job)
    quoted = (await buyer.quote(job)).msat or 0
    said = await buyer.feedback(job, "error")
    assert said.text.startswith("undeliverable: the files could not be uploaded")
    assert (await buyer.receipt(job)).after == quoted
    assert await studio.state(job) is JobState.FAILED
    assert len(studio.model.prompts) == 1  # another image would not be any smaller
    await studio.balanced()


async def test_an_upload_that_fails_for_a_moment_costs_the_customer_nothing(
    studio: Workshop, server: Blossom, buyer: Customer
) -> None:
    server.answer, server.times = Response("", 503), 1
    job = await ask(studio, buyer)
    await studio.pay(buyer, job)
    assert server.get((await result(buyer, job)).content)
    assert len(studio.model.prompts) == 1


@pytest.mark.parametrize(
    "script",
    [
        answer("I would rather not draw that.", USED),
        [Chunk(usage=USED, finish="length")],
        [*[Chunk(blob=PNG)] * (MAX_FILES + 1), Chunk(usage=USED, finish="stop")],
    ],
    ids=["words", "no room", "too many"],
)
async def test_what_is_no_image_is_not_paid_for(studio: Workshop, buyer: Customer, script: list[Act]) -> None:
    studio.model.script = script
    job = await ask(studio, buyer)
    await studio.pay(buyer, job)
    quoted = (await buyer.quote(job)).msat or 0
    await buyer.feedback(job, "error")
    assert (await buyer.receipt(job)).after == quoted
    await studio.balanced()


async def test_a_bid_that_leaves_no_room_for_an_image_is_refused(studio: Workshop, buyer: Customer) -> None:
    job = await ask(studio, buyer, bid=1_000_000)
    assert (await buyer.feedback(job, "error")).text.startswith("bid-too-low")


async def test_an_encrypted_job_puts_nothing_into_the_open(studio: Workshop, server: Blossom, buyer: Customer) -> None:
    job = await ask(studio, buyer, scheme="nip44")
    await studio.pay(buyer, job)
    content = (await result(buyer, job)).content
    assert '"aes-gcm"' in content
    (stored,) = server.files.values()
    assert PNG.data[:64] not in stored[0]


async def test_a_crash_between_upload_and_result_ends_in_one_result(
    studio: Workshop, server: Blossom, buyer: Customer
) -> None:
    """The model runs again and the file is uploaded again, to the same address."""
    real = studio.files.deliver
    crashed = []

    async def crash(*arguments: Any) -> str:
        content = await real(*arguments)
        if not crashed:
            crashed.append(content)
            raise RuntimeError("power cut")
        return content

    studio.files.deliver = crash  # type: ignore[method-assign]
    job = await ask(studio, buyer)
    await studio.pay(buyer, job)
    await until(lambda: crashed)
    await studio.reopen()
    assert (await result(buyer, job)).content == crashed[0]
    assert len([event for event in buyer.heard[job] if event.kind == RESULT]) == len(server.files) == 1
    await studio.balanced()
