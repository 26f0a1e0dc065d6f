"""`dvm doctor` as a whole: what it accepts, how it ends, what it leaves alone, and what it never shows."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvm.config import load_config, load_relays
from dvm.daemon import Daemon
from dvm.datadir import DataDir
from dvm.doctor import findings
from dvm.doctor.findings import Check, Finding, Steps
from dvm.nostr.keys import Keys
from dvm.secrets import load_secrets
from tests.commands.examined import doctor
from tests.commands.running import Runner
from tests.commands.shops import write_shop
from tests.standins.gemini import GeminiStandIn
from tests.standins.relay import free_port, local_relay
from tests.standins.waiting import until
from tests.toml_text import to_toml


async def test_what_init_writes_is_accepted(here: Path, dvm: Runner) -> None:
    assert dvm("init", "--wallet", "paper", "--model", "echo").code == 0
    async with local_relay() as url:
        (here / "relays.toml").write_text(to_toml({"relay": [{"url": url}]}))
        assert (await asyncio.to_thread(dvm, "announce")).code == 0
        found = await doctor(dvm)
        told = await asyncio.to_thread(dvm, "doctor")
    assert (found.code, found.failed) == (0, [])
    assert found.ran.json["ok"]
    for name in ("secrets", "relay", "relay answers", "wallet", "wallet invoice", "model", "announcement"):
        assert found.one(name)["state"] == "ok"
    for name in ("database", "data directory", "disk", "daemon"):
        assert found.one(name)["state"] == "ok"
    assert "not real money" in found.one("wallet")["seen"]
    assert told.code == 0
    assert "failed" not in told.out
    assert url in told.out


async def test_one_failure_is_exit_code_one_and_stops_no_other_check(here: Path, dvm: Runner) -> None:
    async with local_relay() as url:
        write_shop(here, [url, f"ws://127.0.0.1:{free_port()}"])
        found = await doctor(dvm)
        told = await asyncio.to_thread(dvm, "doctor")
    assert (found.code, found.failed) == (1, ["relay"])
    assert found.one("relay answers", url)["state"] == "ok"
    assert found.one("wallet invoice")["state"] == "ok"
    assert told.code == 1
    assert "→ Nothing listens there" in told.out


async def test_a_wrong_configuration_is_exit_code_two_and_the_rest_is_tried(here: Path, dvm: Runner) -> None:
    async with local_relay() as url:
        write_shop(here, [url])
        text = (here / "dvm.toml").read_text()
        (here / "dvm.toml").write_text(text.replace("max_output_tokens", "max_tokens"))
        found = await doctor(dvm)
    assert (found.code, found.failed) == (2, ["configuration"])
    assert "models.echo.max_tokens" in found.one("configuration")["seen"]
    assert found.one("relay answers")["state"] == "ok"
    assert found.one("database")["state"] == "ok"


async def test_without_its_files_it_says_where_they_come_from(here: Path, dvm: Runner) -> None:
    found = await doctor(dvm)
    assert found.code == 2
    assert [c["subject"] for c in found.all("configuration")] == ["dvm.toml", "relays.toml"]
    assert all("dvm init" in c["seen"] for c in found.all("configuration"))
    assert found.one("data directory")["state"] == "warning"
    assert list(here.iterdir()) == []


async def test_missing_secrets_are_named_and_the_relays_tried_all_the_same(here: Path, dvm: Runner) -> None:
    gemini = {"provider": "gemini", "model": "gemini-2.5-flash", "input": 1, "cached": 1, "output": 1}
    async with local_relay() as url:
        write_shop(here, [url], wallet={"type": "nwc"}, models={"flash": gemini})
        found = await doctor(dvm)
    assert found.code == 2
    seen = " ".join(check["seen"] for check in found.all("secrets"))
    assert "DVM_NWC_URI" in seen
    assert "GEMINI_API_KEY" in seen
    assert found.one("relay answers")["state"] == "ok"


async def test_an_address_that_is_none_is_a_configuration_error(here: Path, dvm: Runner) -> None:
    write_shop(here, ["wss://relay.example/{a}"])
    found = await doctor(dvm)
    assert found.code == 2
    assert "characters" in found.one("configuration", "relays.toml")["seen"]


async def test_no_secret_is_shown_whatever_fails(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    wallet_secret, api_key = "5" * 64, "AIza-a-key-that-nobody-may-see"
    async with GeminiStandIn(key=api_key) as gemini:
        # The endpoint repeats the key in its error, as proxies do.
        gemini.script("*", status=400, error_message=f"bad request for key {api_key}", endpoint="any")
        gone = f"ws://127.0.0.1:{free_port()}"
        uri = f"nostr+walletconnect://{Keys.generate().pubkey}?relay={gone}&secret={wallet_secret}"
        table = {"provider": "gemini", "model": "gemini-2.5-flash", "base_url": gemini.url}
        table |= {"input": 1, "cached": 1, "output": 1}
        wallet = {"type": "nwc", "timeout_seconds": 0.3}
        keys = write_shop(here, [f"{gone}/?auth={wallet_secret}"], wallet=wallet, models={"flash": table})
        monkeypatch.setenv("DVM_NWC_URI", uri)
        monkeypatch.setenv("GEMINI_API_KEY", api_key)
        found = await doctor(dvm)
        told = await asyncio.to_thread(dvm, "doctor")
    assert found.code == 1
    assert {"wallet", "model", "relay"} <= set(found.failed)
    hexadecimal = (here / "data/nsec").read_text().strip()
    for secret in (wallet_secret, api_key, uri, keys.nsec(), hexadecimal):
        for ran in (found.ran, told):
            assert secret not in ran.out + ran.err


async def test_a_key_that_others_can_read_is_warned_about(here: Path, dvm: Runner) -> None:
    async with local_relay() as url:
        write_shop(here, [url])
        (here / "data/nsec").chmod(0o644)
        found = await doctor(dvm)
    assert "chmod 600" in found.one("secrets")["seen"]
    assert found.code == 0


# Beside a daemon


async def test_a_running_daemon_is_seen_and_nothing_that_it_holds_is_touched(here: Path, dvm: Runner) -> None:
    async with local_relay() as url:
        write_shop(here, [url])
        config = load_config(here / "dvm.toml")
        relays = load_relays(here / "relays.toml")
        async with Daemon(config, relays, load_secrets(config, {}), here / "data"):
            journal = (here / "data/paper.jsonl").read_bytes()
            await until((here / "data/health.json").exists)
            found = await doctor(dvm)
            assert (here / "data/paper.jsonl").read_bytes() == journal
            assert (here / "data/paper.sock").exists()
        after = await doctor(dvm)
    assert (found.code, found.failed) == (0, [])
    assert "one is running" in found.one("daemon")["seen"]
    assert "the daemon" in found.one("wallet")["seen"]
    assert not found.all("wallet invoice")
    assert "none is running" in after.one("daemon")["seen"]
    assert after.one("wallet invoice")["state"] == "ok"


async def test_a_daemon_that_hangs_is_a_failure(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    async with local_relay() as url:
        write_shop(here, [url])
        place = DataDir(here / "data")
        with place.only_one():
            before = time.time() - 300
            with monkeypatch.context() as patched:
                patched.setattr(time, "time", lambda: before)
                place.beat({})
            found = await doctor(dvm)
    assert (found.code, found.failed) == (1, ["daemon"])
    assert "seconds old" in found.one("daemon")["seen"]
    assert "restart" in found.one("daemon")["advice"]


def test_asking_whether_a_daemon_runs_changes_nothing(tmp_path: Path) -> None:
    place = DataDir(tmp_path)
    assert not place.running()
    assert list(tmp_path.iterdir()) == []
    with place.only_one():
        assert place.running()
        assert place.running()
    assert not place.running()
    with place.only_one():
        pass


# --health


def test_health_follows_the_heartbeat(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dvm("doctor", "--health").code == 1
    place = DataDir(here / "data")
    place.make()
    place.beat({})
    assert dvm("doctor", "--health").code == 0
    assert dvm("doctor", "--health", "--json").json["ok"]
    assert dvm("doctor", "--health", "--data", "elsewhere").code == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    ran = dvm("doctor", "--health")
    assert ran.code == 1
    assert "3600 seconds" in ran.out


def test_health_does_not_import_the_world(here: Path) -> None:
    script = (
        "import json, sys\n"
        "from dvm.cli import main\n"
        "try:\n    main(['doctor', '--health'])\n"
        "except SystemExit as ended:\n    print(json.dumps([ended.code, sorted(sys.modules)]))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=here)
    code, modules = json.loads(ran.stdout.splitlines()[-1])
    assert code == 1
    heavy = {"websockets", "httpx", "google.genai", "sqlite_utils", "coincurve", "rich.table", "dvm.daemon"}
    assert heavy.isdisjoint(modules)


def test_a_list_of_customers_that_cannot_be_used_is_found_before_the_daemon_is_started(here: Path, dvm: Runner) -> None:
    write_shop(here, ["ws://127.0.0.1:9"], tables={"admission": {"deny_file": "deny.txt"}})
    (here / "deny.txt").write_text("# spammers\nmallory\n")
    ran = dvm("doctor", "--json")
    found = [each for each in ran.json["checks"] if each["name"] == "configuration" and each["state"] == "failed"]
    assert ran.code == 2
    assert ["deny.txt: line 2" in each["seen"] for each in found] == [True]


# How checks are run


async def test_a_check_that_hangs_or_breaks_costs_only_itself() -> None:
    async def good() -> Steps:
        yield Finding("good", "", "ok", "fine")

    async def hangs() -> Steps:
        yield Finding("first step", "", "ok", "fine")
        await asyncio.Event().wait()

    async def breaks() -> Steps:
        yield Finding("first step", "", "ok", "fine")
        raise ZeroDivisionError("oh")

    checks = [Check("hangs", "h", hangs), Check("breaks", "b", breaks), Check("good", "", good)]
    found = await findings.run(checks, 0.05)
    assert [(f.name, f.state) for f in found] == [
        ("first step", "ok"),
        ("hangs", "failed"),
        ("first step", "ok"),
        ("breaks", "failed"),
        ("good", "ok"),
    ]
    assert all(f.advice for f in found if f.state == "failed")
