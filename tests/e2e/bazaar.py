"""A shop that sells every kind of job, for other people's clients to ask: a daemon, a wallet service, a Gemini endpoint
whose answers are known, and servers that have pages and take files."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.responses import Response

from tests.e2e.conftest import WalletProcess, wallet_process
from tests.standins.blossom import Blossom, blossom
from tests.standins.daemon import DaemonProcess, daemon
from tests.standins.gemini import GeminiStandIn
from tests.standins.lnurl_server import StrangersServer, strangers_server
from tests.standins.relay import running_relay

PRICE = {"input": 300, "cached": 75, "output": 2500, "max_output_tokens": 2048}
SLOW = {"provider": "echo", **PRICE, "chunk_tokens": 1, "delay_seconds": 0.2}
BID = 1_000_000  # msat: more than any of these jobs costs

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
LARGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400  # no event holds it
PCM = bytes(range(256)) * 4  # 16 bits, mono
FULL = Response("", 413)


def spoken() -> bytes:
    """PCM as the file that it is sold as."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(PCM)
    return out.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class Ware:
    """A kind of job as a client asks for it, and what comes of it. `model` is the end of the model's name, `made` the
    media type and the data (in base64) of what it answers instead of text."""

    kind: int
    inputs: list[list[str]]
    params: list[list[str]]
    output: str
    answer: str
    model: str = ""
    made: tuple[str, str] | None = None


WARES = (
    Ware(
        5000,
        [["<h1>Münze</h1><p>Sie liegt auf dem Tisch.</p>", "text"]],
        [["temperature", "0.1"]],
        "application/json",
        '[{"text": "Münze"}, {"text": "Sie liegt auf dem Tisch."}]',
    ),
    Ware(
        5001,
        [["A coin lies on a table at noon.", "text", "", "first"], ["It casts no shadow.", "text", "", "second"]],
        [["length", "1 paragraph"]],
        "text/markdown",
        "**A coin** at noon has *no* shadow: 影がない.",
    ),
    Ware(
        5002,
        [["A coin casts no shadow at noon.", "text"]],
        [["language", "es"]],
        "text/plain",
        "Una moneda no da sombra al mediodía.\nNi en la mañana — ¿verdad? 🪙",
    ),
    Ware(
        5050,
        [["Why does a coin on a table cast no shadow at noon?", "prompt"]],
        [["max_tokens", "512"], ["top-k", "50"]],
        "text/plain",
        "Because the sun stands right above it,\tand “right above” leaves no room for a shadow.",
    ),
    Ware(
        5100,
        [["A coin on a table at noon", "text"]],
        [["ratio", "4:3"]],
        "image/png",
        f"data:image/png;base64,{encoded(PNG)}",
        "-image",
        ("image/png", encoded(PNG)),
    ),
    Ware(
        5250,
        [["A coin casts no shadow at noon.", "text"]],
        [["language", "en"]],
        "audio/wav",
        f"data:audio/wav;base64,{encoded(spoken())}",
        "-tts",
        ("audio/L16;codec=pcm;rate=24000", encoded(PCM)),
    ),
)
"""What is bought of each kind: several inputs with markers, params, an output type, more than ASCII, files."""


PAGE = Response("<title>Coins</title><p>A coin is minted from a blank.</p>", media_type="text/html")
NOTE = "Mints sell blanks by weight. — 貨幣"
QUESTION = "What do the three texts agree on?"


@dataclass
class Bazaar:
    """The open shop: where it is, who it is, and how its invoices are paid. `pages` is where `/page` and `/image.png`
    are, `files` the shop's Blossom server, which takes nothing outside of `uploading`."""

    relay: str
    provider: str
    wallet: WalletProcess
    shop: DaemonProcess
    gemini: GeminiStandIn
    pages: StrangersServer
    files: Blossom

    @contextmanager
    def uploading(self) -> Iterator[None]:
        self.files.answer = None
        try:
            yield
        finally:
            self.files.answer = FULL

    def shown(self, kind: int) -> list[list[dict[str, Any]]]:
        """What the model for that kind was given to answer, in parts, each time."""
        model = f"/gemini-{kind}:streamGenerateContent"
        return [request.body["contents"][-1]["parts"] for request in self.gemini.requests if model in request.path]


def is_about_the_three(parts: list[dict[str, Any]], prior: str) -> bool:
    """Whether a model was given the page, the note, the answer to the prior job and QUESTION, in that order."""
    texts = [part["text"] for part in parts]
    return (
        len(texts) == 4
        and "A coin is minted from a blank." in texts[0]
        and "<p>" not in texts[0]
        and texts[1:] == [NOTE, f"said before:\n{prior}", QUESTION]
    )


def pictures(parts: list[dict[str, Any]]) -> list[bytes]:
    """Of what a model was given, what is no text."""
    return [base64.urlsafe_b64decode(part["inlineData"]["data"]) for part in parts if "inlineData" in part]


@asynccontextmanager
async def bazaar(directory: Path) -> AsyncIterator[Bazaar]:
    """It sells WARES, at kind 5050 by a model `slow` as well, which takes 0.2 seconds for each token, and at kind 5100
    by a model `large`, which makes LARGE."""
    async with (
        running_relay() as relay,
        wallet_process(directory / "wallet") as wallet,
        GeminiStandIn() as gemini,
        strangers_server() as pages,
        blossom() as files,
    ):
        pages.pages |= {"/page": PAGE, "/image.png": Response(PNG, media_type="image/png")}
        files.answer = FULL
        names = {ware.kind: f"gemini-{ware.kind}{ware.model}" for ware in WARES}
        for ware in WARES:
            gemini.script(names[ware.kind], text="" if ware.made else ware.answer, blob=ware.made)
        gemini.script("gemini-large-image", text="", blob=("image/png", encoded(LARGE)))
        table = {"provider": "gemini", "base_url": gemini.url, **PRICE}
        models = {name: {**table, "model": name} for name in names.values()}
        models |= {"slow": SLOW, "large": {**table, "model": "gemini-large-image"}}
        more = {5050: ["slow"], 5100: ["large"]}
        services = [
            {"kind": kind, "models": [name, *more.get(kind, [])], "price": "per-token"} for kind, name in names.items()
        ]
        async with daemon(
            directory / "shop",
            [relay.url],
            env={"DVM_NWC_URI": wallet.uri, "GEMINI_API_KEY": gemini.key},
            wallet={"type": "nwc"},
            tables={"models": models, "service": services, "files": {"servers": [files.url]}},
        ) as shop:
            yield Bazaar(relay.url, shop.log[-1]["pubkey"], wallet, shop, gemini, pages, files)
            assert await shop.end() == 0
