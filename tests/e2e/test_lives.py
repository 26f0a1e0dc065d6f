"""The daemon's lives: ended in good order, killed, begun again, and configured wrongly."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dvm.daemon import SAME_SIGNAL_SECONDS
from dvm.ledger import JobState, SqliteStore
from dvm.ledger.sqlite import read
from tests.e2e.conftest import WalletProcess
from tests.standins.customer import Customer
from tests.standins.daemon import ECHO, DaemonProcess, configure, daemon
from tests.standins.relay import TestRelay
from tests.toml_text import to_toml

SLOW = {**ECHO, "chunk_tokens": 1, "delay_seconds": 0.1}
NWC = {"type": "nwc", "timeout_seconds": 20}
IMPATIENT = {"type": "nwc", "timeout_seconds": 2}  # for a wallet that is down


def shop_with(
    wallet: WalletProcess,
    relay: TestRelay,
    directory: Path,
    key: str = "test-gemini-key",
    table: dict[str, Any] = NWC,
    **configuration: Any,
) -> Any:
    """The daemon on that wallet and relay; `key` is for Gemini, if the model is that; `table` is its `[wallet]`."""
    env = {"DVM_NWC_URI": wallet.uri, "GEMINI_API_KEY": key}
    return daemon(directory, [relay.url], env=env, wallet=table, **{"model": SLOW, **configuration})


async def states(shop: DaemonProcess, *jobs: str) -> list[JobState]:
    store = await SqliteStore.open(shop.data)
    try:
        found = [await store.job(job) for job in jobs]
    finally:
        await store.close()
    return [job.state for job in found if job is not None]


def summed(shop: DaemonProcess) -> int:
    def query(db: Any) -> int:
        return int(db.execute("SELECT coalesce(sum(msat), 0) FROM accounts").fetchone()[0])

    return read(shop.data, query)


async def test_sigterm_finishes_what_runs_and_exits_0(
    relay: TestRelay, wallet: WalletProcess, buyer: Customer, tmp_path: Path
) -> None:
    async with shop_with(wallet, relay, tmp_path / "shop") as shop:
        job = await buyer.ask("an answer of a dozen tokens or so")
        await wallet.pay((await buyer.quote(job)).bolt11 or "")
        await buyer.feedback(job, "partial")
        await send(shop, signal.SIGINT)  # with the other one, as some supervisors do: both are the first
        assert await shop.end() == 0
        assert shop.log[-1]["event"] == "stopped"
        assert (await buyer.result(job)).content == "an answer of a dozen tokens or so"
        await buyer.receipt(job)
        assert await states(shop, job) == [JobState.DELIVERED]


async def test_a_second_signal_ends_it_at_once_and_the_next_start_goes_on(
    relay: TestRelay, wallet: WalletProcess, buyer: Customer, tmp_path: Path
) -> None:
    async with shop_with(wallet, relay, tmp_path / "shop", model={**SLOW, "delay_seconds": 1.0}) as shop:
        job = await buyer.ask("ten tokens at the very least, one a second each")
        await wallet.pay((await buyer.quote(job)).bolt11 or "")
        await buyer.feedback(job, "processing")
        await asyncio.gather(shop.said("stopping: finishing what runs"), send(shop, signal.SIGTERM))
        await asyncio.sleep(2 * SAME_SIGNAL_SECONDS)  # clearly another signal, whoever's clock is asked
        assert await shop.end() == -signal.SIGTERM
        assert await states(shop, job) == [JobState.RUNNING]
        configure(tmp_path / "shop", [relay.url], wallet=NWC, model=ECHO)
        await shop.start()
        await buyer.receipt(job)


async def send(shop: DaemonProcess, number: signal.Signals) -> None:
    os.kill(shop.pid, number)


async def test_what_was_quoted_paid_and_running_goes_on_after_sigkill(
    relay: TestRelay, wallet: WalletProcess, buyer: Customer, tmp_path: Path
) -> None:
    limits = {"concurrency": 1}
    async with shop_with(wallet, relay, tmp_path / "shop", limits=limits) as shop:
        running, paid, quoted = [await buyer.ask(f"question {n}, " + "and so on " * 100) for n in range(3)]
        hashes = [await wallet.pay((await buyer.quote(running)).bolt11 or "")]
        await buyer.feedback(running, "partial")
        hashes.append(await wallet.pay((await buyer.quote(paid)).bolt11 or ""))
        await shop.said("paid", job=paid)
        quote = await buyer.quote(quoted)
        await shop.kill()
        assert await states(shop, running, paid, quoted) == [JobState.RUNNING, JobState.PAID, JobState.QUOTED]
        hashes.append(await wallet.pay(quote.bolt11 or ""))  # nobody hears it
        configure(tmp_path / "shop", [relay.url], wallet=NWC, model=ECHO)  # as slow, they would take minutes
        await shop.start()
        for job in (running, paid, quoted):
            await buyer.receipt(job)
            await buyer.result(job)
            assert len(buyer.results(job)) == 1
        buyer.check_chain(*hashes)
        assert await shop.end() == 0
        assert summed(shop) == 0


async def test_only_one_daemon_at_a_time_uses_a_data_directory(
    relay: TestRelay, wallet: WalletProcess, tmp_path: Path
) -> None:
    async with shop_with(wallet, relay, tmp_path / "shop") as shop:
        second = DaemonProcess(tmp_path / "shop", shop._env)
        await second.begin()
        assert await second.ended() == 2
        assert len(second.strange) == 1
        assert "data" in second.strange[0]


GOOD: dict[str, Any] = {
    "wallet": {"type": "paper"},
    "models": {"first": ECHO},
    "service": [{"kind": 5050, "models": ["first"], "price": "per-token"}],
}
RELAYS: dict[str, Any] = {"relay": [{"url": "ws://127.0.0.1:1"}]}
MISTAKES: dict[str, tuple[Any, Any, dict[str, str], list[str]]] = {
    "an unknown key": ({**GOOD, "limits": {"jobs_per_mintue": 3}}, RELAYS, {}, ["dvm.toml", "limits.jobs_per_mintue"]),
    "a model that is not there": (
        {**GOOD, "service": [{"kind": 5050, "models": ["flahs"], "price": "free"}]}, RELAYS, {}, ["dvm.toml", "flahs"],
    ),
    "a kind that is not sold here": (
        {**GOOD, "service": [{"kind": 5999, "models": ["first"], "price": "free"}]}, RELAYS, {}, ["dvm.toml", "kind"],
    ),
    "a price that is text": (
        {**GOOD, "models": {"first": {**ECHO, "input": "100"}}}, RELAYS, {}, ["dvm.toml", "models.first.input"],
    ),
    "a negative price": (
        {**GOOD, "models": {"first": {**ECHO, "output": -1}}}, RELAYS, {}, ["dvm.toml", "models.first.output"],
    ),
    "no relay": (GOOD, {"relay": []}, {}, ["relays.toml", "relay"]),
    "a relay that is no address": (GOOD, {"relay": [{"url": "relay.example"}]}, {}, ["relays.toml", "url"]),
    "no key": (GOOD, RELAYS, {"DVM_NSEC": ""}, ["dvm.toml", "identity.nsec_file", "DVM_NSEC"]),
    "a key that is none": (GOOD, RELAYS, {"DVM_NSEC": "nsec1qqqq"}, ["DVM_NSEC"]),
    "no wallet connection": ({**GOOD, "wallet": {"type": "nwc"}}, RELAYS, {}, ["dvm.toml", "DVM_NWC_URI"]),
    "a wallet connection that is none": (
        {**GOOD, "wallet": {"type": "nwc"}}, RELAYS,
        {"DVM_NWC_URI": "nostr+walletconnect://zz?relay=wss://r.example&secret=11"}, ["wallet"],
    ),
    "no API key": (
        {**GOOD, "models": {"first": {**ECHO, "provider": "gemini", "model": "gemini-2.5-flash"}}}, RELAYS, {},
        ["dvm.toml", "models.first.api_key_file", "GEMINI_API_KEY"],
    ),
    "not TOML": ("this is = = not TOML", RELAYS, {}, ["dvm.toml"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_in_the_configuration_is_one_clear_message(mistake: str, tmp_path: Path) -> None:
    tables, relays, env, expected = MISTAKES[mistake]
    (tmp_path / "dvm.toml").write_text(tables if isinstance(tables, str) else to_toml(tables))
    (tmp_path / "relays.toml").write_text(to_toml(relays))
    nsec = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
    process = DaemonProcess(tmp_path, {"DVM_NSEC": nsec, **env})
    await process.begin()
    assert await process.ended() == 2
    text = "\n".join(process.lines)
    for word in expected:
        assert word in text
    assert "Traceback" not in text
    assert nsec not in text
    assert len(process.strange) == len(process.lines) <= 2


@pytest.mark.parametrize("missing", ["dvm.toml", "relays.toml"])
async def test_a_missing_file_is_named(missing: str, tmp_path: Path) -> None:
    configure(tmp_path, ["ws://127.0.0.1:1"])
    (tmp_path / missing).unlink()
    process = DaemonProcess(tmp_path, {})
    await process.begin()
    assert await process.ended() == 2
    assert missing in process.lines[0]
    assert "Traceback" not in "".join(process.lines)
