"""Whole jobs whose files are uploaded to a Blossom server that is not ours, and fetched there by the customer."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dvm.jobs.files import Files
from dvm.jobs.kinds import image, speech
from dvm.models.gemini import GeminiModel
from dvm.nip90 import Result, parse_answer
from dvm.nostr.blossom import Blossom
from tests.standins.customer import Customer
from tests.standins.gemini import GeminiStandIn
from tests.standins.khatru import khatru
from tests.standins.workshop import Workshop, workshop

pytestmark = pytest.mark.blossom

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400
SMALL = PNG[:1000]
PCM = bytes(range(256)) * 300  # 16 bits, mono
MADE = {5100: ("image/png", PNG), 5250: ("audio/L16;codec=pcm;rate=24000", PCM)}


@asynccontextmanager
async def studio(
    relay: str, data: Path, *servers: str, made: bytes | None = None, clock: Callable[[], float] = time.time
) -> AsyncIterator[Workshop]:
    """A shop that draws and speaks by Gemini, whose answers are MADE, or `made` of those types."""
    async with GeminiStandIn() as gemini:
        models = []
        for kind, (mime, file) in MADE.items():
            name = f"gemini-{'image' if kind == 5100 else 'tts'}"
            gemini.script(name, text="", blobs=[(mime, base64.b64encode(made or file).decode())])
            models.append(GeminiModel(name, model=name, api_key=gemini.key, base_url=gemini.url))
        async with workshop(relay, data=data, models=models, opened=False) as shop:
            shop.kinds = (image.KIND, speech.KIND)
            shop.files = Files(Blossom(shop.keys, servers, timeout=5, pause=0, clock=clock), seconds=10)
            await shop.open()
            yield shop
            await shop.files.close()
        for model in models:
            await model.close()


async def bought(shop: Workshop, buyer: Customer, kind: int, **fields: Any) -> str:
    """The content of the result, paid for."""
    job = await asked(shop, buyer, kind, **fields)
    parsed = parse_answer(await buyer.until(job, lambda event: event.kind == kind + 1000), buyer.keys)
    assert isinstance(parsed, Result)
    return parsed.content


async def asked(shop: Workshop, buyer: Customer, kind: int, **fields: Any) -> str:
    params = [("model", "gemini-image" if kind == 5100 else "gemini-tts")]
    job = await buyer.ask("An ostrich", kind=kind, providers=[shop.keys.pubkey], params=params, **fields)
    await shop.pay(buyer, job)
    return job


async def fetched(url: str) -> bytes:
    async with httpx.AsyncClient() as customer:
        answer = await customer.get(url)
        assert answer.status_code == 200
        return answer.content


async def test_an_image_and_a_speech_are_fetched_from_the_addresses_in_their_results(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    async with khatru() as server, studio(relay, tmp_path, server) as shop:
        url = await bought(shop, buyer, 5100)
        data = await fetched(url)
        assert url.startswith(f"{server}/{hashlib.sha256(data).hexdigest()}.png")
        assert data == PNG

        url = await bought(shop, buyer, 5250)
        data = await fetched(url)
        assert url.startswith(f"{server}/{hashlib.sha256(data).hexdigest()}")
        with wave.open(io.BytesIO(data)) as file:
            assert file.readframes(file.getnframes()) == PCM
        await shop.balanced()


@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
async def test_an_encrypted_image_lies_there_encrypted_and_the_customer_reads_it(
    relay: str, tmp_path: Path, buyer: Customer, scheme: str
) -> None:
    async with khatru() as server, studio(relay, tmp_path, server) as shop:
        told = json.loads(await bought(shop, buyer, 5100, scheme=scheme))
        data = await fetched(told["url"])
        assert told["x"] == hashlib.sha256(data).hexdigest()
        assert PNG[:64] not in data
        cipher = AESGCM(bytes.fromhex(told["decryption-key"]))
        assert cipher.decrypt(bytes.fromhex(told["decryption-nonce"]), data, None) == PNG


async def test_what_one_server_refuses_the_next_one_takes(relay: str, tmp_path: Path, buyer: Customer) -> None:
    async with (
        khatru(most=999) as strict,
        khatru() as kind,
        studio(relay, tmp_path, strict, kind) as shop,
    ):
        url = await bought(shop, buyer, 5100)
        assert url.startswith(kind)
        assert await fetched(url) == PNG


@pytest.mark.parametrize(
    ("made", "refusing"),
    [
        pytest.param(PNG, {"most": 999}, id="large-size"),
        pytest.param(PNG, {}, id="large-clock"),
        pytest.param(SMALL, {"types": ".mp3"}, id="small-type"),
        pytest.param(SMALL, {"keys": "00" * 32}, id="small-key"),
    ],
)
async def test_what_no_server_takes_stands_in_the_answer_or_is_paid_back(
    relay: str, tmp_path: Path, buyer: Customer, made: bytes, refusing: dict[str, Any]
) -> None:
    def clock() -> float:
        return time.time() - (0 if refusing else 86_400)

    async with khatru(**refusing) as server, studio(relay, tmp_path, server, made=made, clock=clock) as shop:
        if made is SMALL:
            content = await bought(shop, buyer, 5100)
            assert content == f"data:image/png;base64,{base64.b64encode(SMALL).decode()}"
        else:
            job = await asked(shop, buyer, 5100)
            quoted = (await buyer.quote(job)).msat or 0
            assert (await buyer.feedback(job, "error")).text.startswith("undeliverable")
            assert (await buyer.receipt(job)).after == quoted
        await shop.balanced()
