"""`dvm ask`, `dvm balance` and `dvm statement`: what is printed where, exit codes, and no secret in any of it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dvm.lightning.paper_service import PaperService
from dvm.models.echo import EchoModel
from dvm.nip90 import JobRequest
from dvm.nostr import Filter, Keys, RelayPool
from tests.commands.running import Ran, Runner
from tests.customer.test_honest import FAST
from tests.standins.provider import Provider, provider
from tests.standins.relay import TestRelay
from tests.standins.seller import Seller, seller

PROGRAM = [sys.executable, "-c", "from dvm.cli import main; main()"]


@dataclass
class Town:
    """A shop, a wallet service for the customer, and the customer's directory."""

    shop: Seller
    uri: str
    run: Runner

    async def dvm(self, *arguments: object) -> Ran:
        return await asyncio.to_thread(self.run, *arguments)


@pytest.fixture(autouse=True)
def customers_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relay: TestRelay) -> Path:
    """Where the command is called: with relays.toml, and without anybody's keys."""
    for name in ("DVM_CUSTOMER_NSEC", "DVM_CUSTOMER_NWC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relays.toml").write_text(f'[[relay]]\nurl = "{relay.url}"\n')
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@asynccontextmanager
async def town(relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch, **shop: Any) -> AsyncIterator[Town]:
    async with seller([relay.url], **shop) as open_shop:
        open_shop.node.open_wallet("customer", 10**9)
        service = PaperService(open_shop.node, [relay.url])
        uri = service.connect("customer").connection.uri()
        await service.start()
        monkeypatch.setenv("DVM_CUSTOMER_NWC", uri)
        try:
            yield Town(open_shop, uri, run)
        finally:
            await service.close()


def secrets_of(uri: str, *keys: Keys) -> list[str]:
    found = [uri, uri.rpartition("secret=")[2]]
    for key in keys:
        found += [key.nsec(), key._key.secret.hex()]
    return found


def customer_keys(directory: Path) -> Keys:
    return Keys.parse((directory / "xdg" / "dvm" / "customer.nsec").read_text())


async def test_the_answer_is_on_stdout_and_all_else_on_stderr(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch, customers_directory: Path
) -> None:
    async with town(relay, run, monkeypatch) as here:
        ran = await here.dvm("ask", "hello there", "--provider", here.shop.keys.npub)
        assert (ran.code, ran.out) == (0, "hello there\n")
        for word in (
            "made you a key",
            "quote: at most 3 sat (regtest: not real money)",
            "paid 3 sat",
            "tokens: 3 input",
        ):
            assert word in ran.err
        assert "cost 0.009 sat, paid 3 sat, balance left 2.991 sat" in ran.err
        assert "receipt 1 verified: signature, request" in ran.err
        # The key is kept, for its owner only: so the change is there for the next question.
        path = customers_directory / "xdg" / "dvm" / "customer.nsec"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        again = await here.dvm("ask", "hello again", "--provider", here.shop.keys.npub, "--max-tokens", "100")
        assert (again.code, again.out) == (0, "hello again\n")
        assert "made you a key" not in again.err
        assert "paid 3 sat" not in again.err
        assert "receipt 2 verified" in again.err
        for ran_ in (ran, again):
            for secret in secrets_of(here.uri, customer_keys(customers_directory), here.shop.keys):
                assert secret not in ran_.out + ran_.err


async def test_json_is_one_object_a_line_and_the_last_has_result_and_receipt(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch, customers_directory: Path
) -> None:
    async with town(relay, run, monkeypatch) as here:
        ran = await here.dvm("ask", "grüß Gott", "--provider", here.shop.keys.pubkey, "--encrypt", "--json")
        assert ran.code == 0
        events = [json.loads(line) for line in ran.out.splitlines()]
        names = [event["event"] for event in events if event["event"] not in ("processing", "partial")]
        assert names == ["asked", "quoted", "due", "paid", "answered", "receipt", "done"]
        last = events[-1]
        assert (last["text"], last["verified"], last["problems"]) == ("grüß Gott", True, [])
        assert last["result"]["kind"] == 6050
        assert last["receipt"]["verified"] is True
        assert last["receipt"]["encrypted"] == "nip44"
        assert last["paid_msat"] == last["receipt"]["after_msat"] + last["receipt"]["cost_msat"]
        for secret in secrets_of(here.uri, customer_keys(customers_directory)):
            assert secret not in ran.out + ran.err


async def test_the_prompt_may_come_from_stdin_and_the_wallet_from_a_file(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch, customers_directory: Path
) -> None:
    async with town(relay, run, monkeypatch) as here:
        monkeypatch.delenv("DVM_CUSTOMER_NWC")
        Path("wallet").write_text(here.uri)
        keys = Keys.generate()
        Path("key").write_text(keys.nsec())
        Path("key").chmod(0o600)
        child = await asyncio.create_subprocess_exec(
            *PROGRAM, "ask", "-", "--provider", here.shop.keys.npub, "--nwc-file", "wallet", "--key-file", "key",
            "--param", "temperature=0.5", "--output", "text/plain",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await child.communicate(b"line one\nline two")
        assert (child.returncode, out) == (0, b"line one\nline two\n"), err.decode()
        for secret in secrets_of(here.uri, keys):
            assert secret not in (out + err).decode()
        requests = await here.shop.pool.query(Filter(kinds=[5050]))
        assert requests[0].pubkey == keys.pubkey
        assert ["param", "temperature", "0.5"] in requests[0].tags
        assert not (customers_directory / "xdg" / "dvm" / "customer.nsec").exists()


async def test_without_a_wallet_the_invoice_is_text_and_qr_code(relay: TestRelay, run: Runner) -> None:
    async with seller([relay.url]) as shop:
        child = await asyncio.create_subprocess_exec(
            *PROGRAM, "ask", "by hand", "--provider", shop.keys.npub,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUTF8": "1"},
        )  # fmt: skip
        assert child.stderr is not None
        assert child.stdout is not None
        said: list[str] = []
        async for raw in child.stderr:
            said.append(raw.decode().rstrip("\n"))
            if said[-1].startswith("lnbcrt"):
                shop.node.pay(said[-1])
        assert await child.stdout.read() == b"by hand\n"
        assert await child.wait() == 0
        squares = [line for line in said if line and set(line) <= set("█▀▄ ")]
        assert len(squares) > 15
        assert len({len(line) for line in squares}) == 1
        line = r"pay this invoice with a regtest wallet until \d\d:\d\d:\d\d \(\d+ minutes?\), not later:"
        assert any(re.fullmatch(line, each) for each in said)


async def test_a_terminal_shows_the_answer_as_it_streams_and_obeys_no_provider(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = EchoModel("echo", chunk_tokens=10, delay=0.05, max_output_tokens=4000)
    async with town(relay, run, monkeypatch, model=model, settings=FAST) as here:
        controller, terminal = pty.openpty()
        child = await asyncio.create_subprocess_exec(
            *PROGRAM, "ask", "evil \x1b]0;title\x07 " + "word " * 100, "--provider", here.shop.keys.npub,
            stdout=terminal, stderr=terminal, env=os.environ | {"TERM": "xterm", "LINES": "24", "COLUMNS": "80"},
        )  # fmt: skip
        os.close(terminal)
        shown = await asyncio.to_thread(_read_all, controller)
        assert await child.wait() == 0
        assert "tokens left" in shown
        assert "verified" in shown
        assert shown.count("evil") > 1
        assert "\x1b]0;" not in shown
        assert "\x07" not in shown


def _read_all(descriptor: int) -> str:
    found = b""
    try:
        while chunk := os.read(descriptor, 65_536):
            found += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(descriptor)
    return found.decode(errors="replace")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_and_a_supervisor_cancel_the_job(
    relay: TestRelay, pool: RelayPool, number: signal.Signals
) -> None:
    async with seller([relay.url]) as shop:
        child = await asyncio.create_subprocess_exec(
            *PROGRAM, "ask", "never mind", "--provider", shop.keys.npub, "--json",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        events = []
        async for line in child.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "due":
                child.send_signal(number)
        assert await child.wait() == 130
        assert (events[-1]["event"], events[-1]["code"]) == ("failed", "cancelled")
        deleted = await pool.query(Filter(kinds=[5]))
        assert [event.tag("e") for event in deleted] == [events[0]["job"]]


async def test_too_dear_refused_and_unanswered_are_failures(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(relay, run, monkeypatch) as here:
        npub = here.shop.keys.npub
        dear = await here.dvm("ask", "x", "--provider", npub, "--max-sats", "0", "--json")
        assert dear.code == 1
        assert json.loads(dear.out.splitlines()[-1])["code"] == "too-dear"
        refused = await here.dvm("ask", "x", "--provider", npub, "--model", "nonesuch")
        assert (refused.code, refused.out) == (1, "")
        assert "no answer: refused: invalid-param: model: one of echo expected" in refused.err


async def test_a_receipt_that_does_not_verify_is_a_failure_with_an_answer(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        invoice = await p.quote(job)
        await p.paid(invoice)
        await p.receipt(job, await p.result(job), invoice, cost=201)

    async with town(relay, run, monkeypatch) as here, provider(relay.url, act, node=here.shop.node) as liar:
        ran = await here.dvm("ask", "x", "--provider", liar.npub)
        assert (ran.code, ran.out) == (1, "the answer\n")
        assert "receipt 1 DOES NOT VERIFY:" in ran.err
        assert "usage times price is 200" in ran.err


async def test_usage_errors_are_2_and_say_nothing_secret(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    nsec = Keys.generate().nsec()
    Path("bad").write_text(f"not-a-key-{nsec}")
    npub = Keys.generate().npub
    for arguments in (
        ["balance", "--at", npub],  # there is no key yet
        ["ask"],
        ["ask", "   "],
        ["ask", "x", "--encrypt"],
        ["ask", "x", "--provider", "npub1nobody"],
        ["ask", "x", "--param", "nothing"],
        ["ask", "x", "--kind", "6050"],
        ["ask", "x", "--relays", "nowhere.toml"],
        ["ask", "x", "--key-file", "bad"],
        ["ask", "x", "--nwc-file", "bad"],
        ["ask", "x", "--nwc-file", "missing"],
        ["ask", "x", "--output", "no media type"],
        ["balance", "nobody"],
        ["balance", "--at", "nobody"],
        ["balance", npub, "--at", npub],
        ["statement"],
        ["statement", npub, "--at", npub],
    ):
        ran = await asyncio.to_thread(run, *arguments)
        assert ran.code == 2, (arguments, ran.err)
        assert ran.err.strip()
        assert nsec not in ran.out + ran.err
    monkeypatch.setenv("DVM_CUSTOMER_NWC", f"nostr+walletconnect://nonsense?secret={nsec}")
    ran = await asyncio.to_thread(run, "ask", "x")
    assert ran.code == 2
    assert "DVM_CUSTOMER_NWC" in ran.err
    assert nsec not in ran.err


async def test_balance_and_statement_from_both_sides_agree(
    relay: TestRelay, run: Runner, monkeypatch: pytest.MonkeyPatch, customers_directory: Path
) -> None:
    async with town(relay, run, monkeypatch) as here:
        provider_npub, data = here.shop.keys.npub, here.shop.data
        for prompt, tokens in (("one", 1000), ("two", 100)):
            assert (await here.dvm("ask", prompt, "--provider", provider_npub, "--max-tokens", tokens)).code == 0
        keys = customer_keys(customers_directory)
        mine = (await here.dvm("balance", "--at", provider_npub, "--json")).json
        assert (mine["verified"], mine["complete"], mine["receipts"]) == (True, True, 2)
        theirs = (await here.dvm("balance", keys.npub, "--data", data, "--json")).json
        assert theirs == {
            "npub": keys.npub,
            "pubkey": keys.pubkey,
            "available_msat": mine["balance_msat"],
            "held_msat": 0,
            "leaving_msat": 0,
        }
        everyone = (await here.dvm("balance", "--data", data, "--json")).json
        assert everyone["customers"] == [theirs]
        assert sum(everyone["accounts_msat"].values()) == 0

        told = (await here.dvm("statement", "--at", provider_npub, "--json")).json
        kept = (await here.dvm("statement", keys.npub, "--data", data, "--json")).json
        same = ("seq", "id", "job", "at", "paid_msat", "cost_msat", "after_msat")
        assert [[r[k] for k in same if k != "at"] for r in told["receipts"]] == [
            [r[k] for k in same if k != "at"] for r in kept["receipts"]
        ]
        assert [r["seq"] for r in told["receipts"]] == [2, 1]

        for command in (["balance", "--at", provider_npub], ["balance", "--data", data]):
            assert "sat" in (await here.dvm(*command)).out
        for command in (["statement", "--at", provider_npub], ["statement", keys.npub, "--data", data]):
            lines = (await here.dvm(*command)).out.splitlines()
            assert [line.split()[0] for line in lines] == ["2", "1"]
        assert (await here.dvm("balance", "--data", "nowhere")).code == 1


async def test_balance_tells_what_is_missing_and_what_contradicts_itself(
    relay: TestRelay, run: Runner, pool: RelayPool, customers_directory: Path
) -> None:
    keys = Keys.generate()
    Path("key").write_text(keys.nsec())

    async def act(p: Provider, job: JobRequest) -> None:
        seq = len(p.requests) * 2
        result = await p.result(job)
        await p.receipt(job, result, None, cost=200, place={"seq": seq, "prev": "0" * 64, "before": 1_900 - 200 * seq})

    async with provider(relay.url, act) as p:
        for _ in range(2):
            await asyncio.to_thread(run, "ask", "x", "--provider", p.npub, "--key-file", "key")
        ran = await asyncio.to_thread(run, "balance", "--at", p.npub, "--key-file", "key")
        assert ran.code == 0
        assert "missing: receipt 1;" in ran.err
        assert "missing: receipt 3;" in ran.err
        await p.receipt(p.requests[0], None, None, cost=0, place={"seq": 4, "prev": "1" * 64})
        ran = await asyncio.to_thread(run, "balance", "--at", p.npub, "--key-file", "key", "--json")
        assert ran.code == 1
        assert "receipt 4: there are two of that number" in ran.json["problems"]
