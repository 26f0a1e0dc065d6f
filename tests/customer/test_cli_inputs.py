"""`dvm ask --input`: what is worked on may be named instead of written."""

from __future__ import annotations

import json

import pytest

from tests.commands.running import Runner
from tests.customer.test_cli import customers_directory, run, town  # noqa: F401 - fixtures
from tests.standins.relay import TestRelay


async def test_inputs_go_out_in_their_order_behind_the_prompt(
    relay: TestRelay,
    run: Runner,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with town(relay, run, monkeypatch) as here:
        npub = here.shop.keys.npub
        ran = await here.dvm("ask", "first", "--input", "text=b=c", "--provider", npub, "--json")
        assert ran.code == 0
        request = json.loads(ran.out.splitlines()[0])["request"]
        assert [tag for tag in request["tags"] if tag[0] == "i"] == [["i", "first", "text"], ["i", "b=c", "text"]]
        alone = await here.dvm("ask", "--input", "text=alone", "--provider", npub)
        assert (alone.code, alone.out) == (0, "alone\n")


async def test_files_events_and_jobs_are_named_for_any_kind(
    relay: TestRelay,
    run: Runner,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = {"url": "https://x.example/a.mp3", "event": "0" * 64, "job": "1" * 64}
    inputs = [argument for name, data in named.items() for argument in ("--input", f"{name}={data}")]
    async with town(relay, run, monkeypatch) as here:
        # Too dear for a bid of nothing, or not taken: what is looked at is what went out.
        ran = await here.dvm(
            "ask", *inputs, "--kind", "5050", "--provider", here.shop.keys.npub, "--max-sats", "0", "--json",
        )  # fmt: skip
        assert ran.code == 1
        request = json.loads(ran.out.splitlines()[0])["request"]
        assert [tag for tag in request["tags"] if tag[0] == "i"] == [["i", data, name] for name, data in named.items()]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "nothing to ask"),
        (("--input", "https://x.example"), "url=…, event=…, job=…, text=… expected"),
        (("--input", "text= "), "expected"),
        (("--input", "event=note1xyz"), "64 lowercase hex digits"),
        (("--input", "url=ftp://x.example"), "starts with https://"),
    ],
)
def test_what_is_no_input_is_wrong_usage(run: Runner, arguments: tuple[str, ...], why: str) -> None:  # noqa: F811
    ran = run("ask", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert why in " ".join(ran.err.replace("│", " ").split())
