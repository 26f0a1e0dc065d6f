"""What the daemon tells its operator of the database and the wallet."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from unittest.mock import AsyncMock

import pytest

from dvm import daemon, starter
from dvm.config import RelayConfig, Relays, load_config, load_relays
from dvm.daemon import Daemon
from dvm.lightning.base import Capabilities, WalletInfo
from dvm.lightning.paper import Faults, PaperWallet
from dvm.nostr.keys import Keys
from dvm.problems import ConfigError
from dvm.secrets import load_secrets
from tests.standins.bad_relay import bad_relay
from tests.standins.daemon import configure
from tests.standins.gemini import GeminiStandIn
from tests.standins.relay import local_relay
from tests.standins.waiting import until

NEW = "a new, empty database"
AWAY = "the wallet does not answer"
DEAF = "no relay can be reached, so no job is heard"
REFUSED = "the model cannot be used"
GONE = "the database file was removed or replaced"


@asynccontextmanager
async def shop(
    directory: Path, faults: Faults | None = None, network: Literal["regtest"] | None = None
) -> AsyncIterator[Daemon]:
    file = directory / "dvm.toml"
    file.write_text(starter.dvm_toml(wallet="paper", model="echo"))
    config = load_config(file)
    config = config.model_copy(update={"wallet": config.wallet.model_copy(update={"network": network})})
    secrets = load_secrets(config, {"DVM_NSEC": Keys.generate().nsec()})
    async with local_relay() as url:
        it = Daemon(config, Relays(relay=(RelayConfig(url=url),)), secrets, directory / "data")
        assert isinstance(it.wallet, PaperWallet)
        it.wallet.faults = faults or Faults()
        async with it:
            yield it


async def test_an_empty_database_is_told_of_and_one_that_was_there_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for messages in (1, 0):
        caplog.clear()
        async with shop(tmp_path):
            assert caplog.messages.count(NEW) == messages


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_database_that_is_taken_away_is_told_of_once(
    replaced: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "BEAT_SECONDS", 0.01)
    async with shop(tmp_path) as it:
        beats: list[object] = []
        monkeypatch.setattr(it.data, "beat", beats.append)
        await until(lambda: len(beats) > 1)
        assert GONE not in caplog.text
        file = tmp_path / "data" / "dvm.db"
        file.rename(file.with_suffix(".away"))
        if replaced:
            file.touch()
        await until(lambda: GONE in caplog.text)
        seen = len(beats)
        await until(lambda: len(beats) > seen + 3)
        assert sum(GONE in message for message in caplog.messages) == 1


async def test_a_disk_that_is_full_is_told_of_once_with_what_to_do_and_again_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "BEAT_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    async with shop(tmp_path) as it:
        beats: list[object] = []

        def beat(facts: object) -> None:
            beats.append(facts)
            if len(beats) < 10:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(it.data, "beat", beat)
        await until(lambda: len(beats) > 10)
        await until(lambda: "can be written again" in caplog.text)
    (told,) = (record for record in caplog.records if "make room" in record.getMessage())
    assert "No space left" in vars(told)["error"]


async def test_a_shop_that_no_relay_is_connected_to_is_told_of_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "BEAT_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    async with bad_relay() as relay:
        configure(tmp_path, [relay.url])
        config = load_config(tmp_path / "dvm.toml")
        secrets = load_secrets(config, {"DVM_NSEC": Keys.generate().nsec()})
        async with Daemon(config, load_relays(tmp_path / "relays.toml"), secrets, tmp_path / "data"):
            assert DEAF not in caplog.text
            await relay.stop()
            await until(lambda: DEAF in caplog.text)
            await relay.start()
            await until(lambda: "a relay can be reached again" in caplog.text)
    assert caplog.text.count(DEAF) == 1


async def test_a_database_that_cannot_be_read_is_one_message_that_leads_on(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "dvm.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match=r"dvm\.db: file is not a database; see `dvm doctor`"):
        async with shop(tmp_path):
            pass


async def test_a_wallet_that_is_away_is_told_of_before_a_customer_meets_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with shop(tmp_path, Faults(error="unreachable")):
        await until(lambda: AWAY in caplog.text)


async def test_a_wallet_on_another_network_is_told_of_before_a_customer_meets_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    signet = WalletInfo("a wallet", "signet", None, Capabilities())
    monkeypatch.setattr(PaperWallet, "info", AsyncMock(return_value=signet))
    async with shop(tmp_path, network="regtest"):
        await until(lambda: "on another network" in caplog.text)
    assert AWAY not in caplog.text


@pytest.mark.parametrize("wrong", [{"GEMINI_API_KEY": "another"}, {"model": "gemini-fails-404"}, {}])
async def test_a_key_or_a_name_that_is_refused_is_told_of_before_a_customer_meets_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: dict[str, str]
) -> None:
    async with local_relay() as url, GeminiStandIn() as gemini:
        table = {"provider": "gemini", "model": "gemini-2.5-flash", "base_url": gemini.url}
        table |= {"model": wrong["model"]} if "model" in wrong else {}
        configure(tmp_path, [url], price="free", model=table)
        if "model" in wrong:
            gemini.script(wrong["model"], status=404, endpoint="any")
        config = load_config(tmp_path / "dvm.toml")
        environment = {"DVM_NSEC": Keys.generate().nsec(), "GEMINI_API_KEY": wrong.get("GEMINI_API_KEY", gemini.key)}
        secrets = load_secrets(config, environment)
        async with Daemon(config, load_relays(tmp_path / "relays.toml"), secrets, tmp_path / "data"):
            await until(lambda: REFUSED in caplog.text if wrong else gemini.requests)
    told = [record for record in caplog.records if REFUSED in record.getMessage()]
    assert [record.levelname for record in told] == (["ERROR"] if wrong else [])
    assert "another" not in caplog.text + "".join(str(vars(record)) for record in told)
