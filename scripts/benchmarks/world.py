"""What a shop of every kind deals with, beside relays, in a process of its own: models, pages, a Blossom server.

Its first line says where each of them is. It ends when its stdin does. All of them are the tests' stand-ins: they
speak the real protocols, so the daemon uses its real clients.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys

from starlette.responses import Response

from tests.standins.blossom import blossom
from tests.standins.gemini import GeminiStandIn
from tests.standins.lnurl_server import strangers_server
from tests.standins.openai_api import OpenAIStandIn

TEXT, IMAGE, SPEECH = "gemini-text", "gemini-text-image", "gemini-text-tts"
"""The Gemini models: the first repeats its prompt, the others make the same file each time."""
CHUNK_CHARS = 100  # of Gemini, which sends a sentence or so at a time
IMAGE_BYTES, SPEECH_BYTES = 20_000, 48_000  # speech: a second of 24 kHz
PAGES = 50
_SENTENCES = "Long ago a miller had three sons, and a cat that could read. Nobody asked the cat what it read. " * 12


def page(number: int) -> str:
    """The path of one of the pages."""
    return f"/page/{number % PAGES}"


async def main() -> None:
    async with (
        GeminiStandIn() as gemini,
        OpenAIStandIn(key="") as openai,
        blossom() as files,
        strangers_server() as pages,
    ):
        image = ("image/png", base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(IMAGE_BYTES)).decode())
        speech = ("audio/L16;codec=pcm;rate=24000", base64.b64encode(bytes(SPEECH_BYTES)).decode())
        gemini.script(TEXT, chunk_chars=CHUNK_CHARS)
        gemini.script(IMAGE, text="", blob=image)
        gemini.script(SPEECH, text="", blob=speech)
        for number in range(PAGES):
            html = f"<html><head><title>{number}</title></head><body><p>{number}. {_SENTENCES}</p></body></html>"
            pages.pages[page(number)] = Response(html, media_type="text/html")
        where = {"gemini": gemini.url, "gemini_key": gemini.key, "openai": openai.url}
        print(json.dumps({**where, "blossom": files.url, "pages": pages.url}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
