"""What Gemini's endpoint is sent for a paid job of each kind: the whole body, whatever the job brought. The shop sells
every kind by three models, and the customer leaves the choice to it: only one of them makes what the kind is for."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.responses import Response

from dvm.jobs import KINDS
from dvm.jobs.files import Files
from dvm.models.gemini import GeminiModel
from dvm.nip90 import Input
from dvm.nostr.blossom import Blossom
from dvm.pricing import PerToken
from tests.jobs.kinds.asking import instruction
from tests.models.test_gemini import camel_case
from tests.standins.blossom import blossom
from tests.standins.customer import Customer
from tests.standins.gemini import GeminiStandIn
from tests.standins.lnurl_server import StrangersServer, strangers_server
from tests.standins.workshop import PRICE, Workshop, workshop

MODELS = {"writer": "gemini-2.5-flash", "painter": "gemini-2.5-flash-image", "speaker": "gemini-2.5-flash-preview-tts"}
CHEAPER = PerToken(1_000_000, 1_000_000, 1_000_000)  # than the one that writes
MOST = 300
SYSTEM = "Write for children."
STORY = "A fox saw grapes that hung high."
MEDIA = {
    "application/pdf": b"%PDF-1.7 not really",
    "image/png": b"\x89PNG\r\n\x1a\n not really",
    "audio/mpeg": b"ID3 not really",
    "video/mp4": b"\0\0\0\x18ftypisom not really",
}
FILES, PAGE = tuple(MEDIA), "page"  # where they are at the server
FILE_PARTS = tuple(MEDIA.items())


class Case(NamedTuple):
    """A job that names what is at `urls`, and then has `inputs`; and what `model` is sent of it: the beginning of the
    system `role`, before the operator's instruction (None: no such instruction), the parts of its one turn (of a file
    its type and its bytes, KEY for what marks the job's data) and the generation config."""

    kind: int
    urls: tuple[str, ...]
    inputs: tuple[str | Input, ...]
    params: list[tuple[str, ...]]
    model: str
    role: str | None
    parts: list[str | tuple[str, bytes]]
    config: dict[str, Any]


CASES = [
    Case(
        5000,
        (*FILES, PAGE),
        (),
        [("range", "5", "6.5"), ("max_tokens", "50")],
        "writer",
        "You extract text",
        [
            *FILE_PARTS,
            f"<input KEY>\nFables\n{STORY}\n</input KEY>\n",
            "Extract the text of the inputs above. Only what is said from second 5 to second 6.5 of the recording. "
            "Write plain text.",
        ],
        {"maxOutputTokens": 50, "temperature": 0.0},
    ),
    Case(
        5001,
        (PAGE,),
        (STORY,),
        [("length", "20 words")],
        "writer",
        "You summarise texts",
        [
            f"<input KEY>\nFables\n{STORY}\n</input KEY>\n",
            f"<input KEY>\n{STORY}\n</input KEY>\n",
            "Summarise the inputs above in 20 words. Write plain text.",
        ],
        {"maxOutputTokens": MOST, "temperature": 0.3},
    ),
    Case(
        5002,
        (),
        (STORY,),
        [("language", "pt-BR")],
        "writer",
        "You translate texts",
        [
            f"<input KEY>\n{STORY}\n</input KEY>\n",
            "Translate the text of the inputs above into Portuguese (pt-BR).",
        ],
        {"maxOutputTokens": MOST, "temperature": 0.2},
    ),
    Case(
        5050,
        (*FILES, PAGE),
        ("Who saw them?",),
        [
            *(("temperature", "0.5"), ("top_p", "0.9"), ("top-k", "40"), ("stop", "END"), ("max_tokens", "50")),
            ("frequency_penalty", "0.25"),
        ],
        "writer",
        "",
        [*FILE_PARTS, f"Fables\n{STORY}", "Who saw them?"],
        {
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "stopSequences": ["END"],
            "maxOutputTokens": 50,
            "frequencyPenalty": 0.25,
        },
    ),
    Case(
        5100,
        ("image/png",),
        ("In oil",),
        [("ratio", "4:3"), ("negative_prompt", "grapes")],
        "painter",
        None,
        [FILE_PARTS[1], f"{SYSTEM}\n\nIn oil\n\nAvoid in the image: grapes"],
        {"maxOutputTokens": MOST, "responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "4:3"}},
    ),
    Case(
        5250,
        (),
        (STORY,),
        [("language", "en"), ("voice", "Kore")],
        "speaker",
        None,
        [f"{SYSTEM}\n\nRead the following text aloud in English (en), word for word:\n\n{STORY}"],
        {
            "maxOutputTokens": MOST,
            "responseModalities": ["AUDIO"],
            "speechConfig": {
                "languageCode": "en-US",
                "voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}},
            },
        },
    ),
]


@pytest.fixture
async def pages() -> AsyncIterator[StrangersServer]:
    async with strangers_server() as each:
        for mime, data in MEDIA.items():
            each.pages[f"/{mime}"] = Response(data, media_type=mime)
        each.pages[f"/{PAGE}"] = Response(f"<title>Fables</title><p>{STORY}</p>", media_type="text/html")
        yield each


@pytest.fixture
async def gemini() -> AsyncIterator[GeminiStandIn]:
    async with GeminiStandIn() as each:
        each.script(MODELS["painter"], text="", blob=("image/png", base64.b64encode(MEDIA["image/png"]).decode()))
        sound = base64.b64encode(bytes(100)).decode()
        each.script(MODELS["speaker"], text="", blob=("audio/L16;codec=pcm;rate=24000", sound))
        yield each


@pytest.fixture
async def shop(relay: str, tmp_path: Path, gemini: GeminiStandIn) -> AsyncIterator[Workshop]:
    models = [
        GeminiModel(name, model=model, api_key=gemini.key, base_url=gemini.url, max_output_tokens=MOST)
        for name, model in MODELS.items()
    ]
    async with blossom() as server, workshop(relay, data=tmp_path, models=models, opened=False) as each:
        each.prices = {"writer": PRICE, "painter": CHEAPER, "speaker": CHEAPER}
        each.systems = dict.fromkeys(MODELS, SYSTEM)
        each.kinds = tuple(KINDS.values())
        each.files = Files(Blossom(each.keys, (server.url,), pause=0))
        await each.open()
        yield each
        await each.files.close()
    for model in models:
        await model.close()


def test_there_is_a_case_for_each_kind() -> None:
    assert [case.kind for case in CASES] == sorted(KINDS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.kind))
async def test_a_paid_job_is_this_request_and_no_other(
    shop: Workshop, buyer: Customer, gemini: GeminiStandIn, pages: StrangersServer, case: Case
) -> None:
    job = await buyer.ask(
        *(Input(f"{pages.url}/{url}", "url") for url in case.urls),
        *case.inputs,
        kind=case.kind,
        params=[("model", "auto"), *case.params],
        providers=[shop.keys.pubkey],
    )
    await shop.pay(buyer, job)
    await buyer.until(job, lambda event: event.kind == case.kind + 1000)

    counted, sent = gemini.requests
    assert counted.path.endswith(f"/{MODELS[case.model]}:countTokens")
    assert sent.path.partition("?")[0].endswith(f"/{MODELS[case.model]}:streamGenerateContent")
    body = camel_case(sent.body)
    assert set(body) == {"contents", "generationConfig"} | ({"systemInstruction"} if case.role is not None else set())
    (turn,) = body["contents"]
    assert turn["role"] == "user"
    assert [read(part) for part in turn["parts"]] == [
        part.replace("KEY", job[:16]) if isinstance(part, str) else part for part in case.parts
    ]
    assert body["generationConfig"] == case.config
    if case.role is not None:
        assert instruction(body).startswith(case.role)
        assert instruction(body).endswith(SYSTEM)
    # What was counted for the price is what was sent.
    assert camel_case(counted.body)["contents"][-1] == turn


def read(part: Any) -> str | tuple[str, bytes]:
    """A part as it is: a text, or a file's type and bytes; and nothing beside it."""
    ((what, said),) = part.items()
    if what == "text":
        return str(said)
    assert what == "inlineData"
    return said["mimeType"], base64.urlsafe_b64decode(said["data"])
