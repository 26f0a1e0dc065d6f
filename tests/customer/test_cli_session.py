"""`dvm ask --session`: a conversation with a running shop, by name and by id."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from dvm.nostr.keys import Keys
from tests.commands.running import Ran, Runner
from tests.customer.test_cli import customers_directory, run  # noqa: F401 - fixtures
from tests.standins.daemon import daemon
from tests.standins.gemini import GeminiStandIn
from tests.standins.relay import TestRelay


async def test_questions_of_one_name_are_one_conversation(
    relay: TestRelay,
    run: Runner,  # noqa: F811
    tmp_path: Path,
) -> None:
    shop = Keys.generate()
    async with GeminiStandIn() as gemini:
        model = {"provider": "gemini", "model": "gemini-2.5-flash", "base_url": gemini.url}
        env = {"GEMINI_API_KEY": gemini.key}
        async with daemon(tmp_path / "shop", [relay.url], keys=shop, env=env, model=model, price="free") as process:

            async def ask(question: str, *options: str) -> Ran:
                where = ("--provider", shop.npub, "--max-sats", "0")
                ran = await asyncio.to_thread(run, "ask", question, *where, *options)
                assert ran.code == 0, ran.err
                return ran

            gemini.script("*", text="Ferns.")
            assert (await ask("What grows in the shade?", "--session", "garden", "--encrypt")).out == "Ferns.\n"
            gemini.script("*", text="No.")
            await process.end()
            await process.start()
            done = json.loads(
                (await ask("In a pot?", "--session", "garden", "--encrypt", "--json")).out.splitlines()[-1]
            )
            gemini.script("*", text="Ivy.")
            await ask("What else?", "--session", done["job"], "--encrypt")
            await ask("What else?", "--session", "kitchen")
            told = [
                [(turn["role"], turn["parts"][0]["text"]) for turn in each.body["contents"]]
                for each in gemini.requests
                if "streamGenerateContent" in each.path
            ]
        first = [("user", "What grows in the shade?")]
        second = [*first, ("model", "Ferns."), ("user", "In a pot?")]
        assert told == [first, second, [*second, ("model", "No."), ("user", "What else?")], [("user", "What else?")]]


def test_a_conversation_needs_to_know_with_whom(run: Runner) -> None:  # noqa: F811
    ran = run("ask", "What else?", "--session", "garden")
    assert (ran.code, ran.out) == (2, "")
    assert "by the --provider that has it" in " ".join(ran.err.replace("│", " ").split())
