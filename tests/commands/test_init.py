"""`dvm init`: what it writes works, and nothing that exists is ever lost."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import get_args

import pytest

from dvm import starter
from dvm.building import offered
from dvm.config import load_config, load_relays
from dvm.nostr.keys import Keys
from dvm.secrets import API_KEYS, WALLET_SECRETS, load_secrets
from tests.commands.running import Runner

ROOT = Path(__file__).parents[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_writes_both_files_and_a_key_for_its_owner_only(here: Path, dvm: Runner) -> None:
    ran = dvm("init")
    assert ran.code == 0
    assert (here / "dvm.toml").read_text() == starter.dvm_toml()
    assert (here / "relays.toml").read_text() == starter.RELAYS_TOML
    assert mode(here / "data/nsec") == 0o600
    assert mode(here / "data") == 0o700
    assert Keys.parse((here / "data/nsec").read_text()).npub in ran.out
    for step in ("DVM_NWC_URI", "GEMINI_API_KEY", "dvm doctor", "dvm run"):
        assert step in ran.out


@pytest.mark.parametrize("wallet", get_args(starter.Wallet))
@pytest.mark.parametrize("model", get_args(starter.Model))
def test_each_variant_is_a_valid_configuration_that_finds_its_key(
    here: Path, dvm: Runner, wallet: str, model: str
) -> None:
    ran = dvm("init", "--wallet", wallet, "--model", model, "--json")
    config = load_config(here / "dvm.toml", offered())
    assert config.wallet.type == wallet
    assert [each.provider for each in config.models.values()] == [model]
    assert load_relays(here / "relays.toml").write
    connection = f"nostr+walletconnect://{'a' * 64}?secret={'b' * 64}"
    environment = dict.fromkeys(WALLET_SECRETS.values(), connection) | dict.fromkeys(API_KEYS.values(), "k" * 20)
    keys = load_secrets(config, environment).keys
    assert ran.json["npub"] == keys.npub
    assert ran.json["pubkey"] == keys.pubkey
    exported = set(re.findall(r"^export (\w+)=", "\n".join(ran.json["next"]), re.MULTILINE))
    needed = {WALLET_SECRETS.get(wallet), API_KEYS.get(model)} - {None}
    assert exported == needed, "a paper wallet and a model of one's own need no account anywhere"


def test_the_key_is_never_printed(here: Path, dvm: Runner) -> None:
    first, again = dvm("init"), dvm("init", "--force", "--json")
    nsec = (here / "data/nsec").read_text().strip()
    for ran in (first, again):
        assert nsec not in ran.out + ran.err
        assert Keys.parse(nsec).nsec() not in ran.out + ran.err


@pytest.mark.parametrize("existing", ["dvm.toml", "relays.toml", "data/nsec"])
def test_what_exists_is_named_and_nothing_is_written(here: Path, dvm: Runner, existing: str) -> None:
    (here / "data").mkdir()
    (here / existing).write_text("mine")
    ran = dvm("init")
    assert ran.code == 1
    assert existing in ran.err
    assert [path.name for path in here.rglob("*") if path.is_file()] == [Path(existing).name]
    assert (here / existing).read_text() == "mine"


def test_the_two_files_that_come_with_the_project_may_be_written_over(here: Path, dvm: Runner) -> None:
    for name in ("dvm.toml", "relays.toml"):
        (here / name).write_bytes((ROOT / name).read_bytes())
    assert dvm("init", "--name", "Corner shop").code == 0
    assert load_config(here / "dvm.toml").identity.name == "Corner shop"


@pytest.mark.parametrize("edited", ["dvm.toml", "relays.toml"])
def test_a_file_that_was_edited_is_the_operators_own(here: Path, dvm: Runner, edited: str) -> None:
    for name in ("dvm.toml", "relays.toml"):
        (here / name).write_bytes((ROOT / name).read_bytes())
    with (here / edited).open("a") as file:
        file.write("# mine\n")
    before = [(here / name).read_bytes() for name in ("dvm.toml", "relays.toml")]
    assert dvm("init", "--name", "Corner shop").code == 1
    assert [(here / name).read_bytes() for name in ("dvm.toml", "relays.toml")] == before


def test_force_replaces_the_files_and_keeps_the_key(here: Path, dvm: Runner) -> None:
    before = dvm("init", "--json").json
    after = dvm("init", "--force", "--wallet", "paper", "--json").json
    assert before["npub"] == after["npub"]
    assert (before["new_key"], after["new_key"]) == (True, False)
    assert load_config(here / "dvm.toml").wallet.type == "paper"


def test_force_does_not_take_a_broken_key_for_one(here: Path, dvm: Runner) -> None:
    (here / "data").mkdir()
    (here / "data/nsec").write_text("nsec1notakey")
    ran = dvm("init", "--force")
    assert ran.code == 1
    assert "data/nsec" in ran.err
    assert "notakey" not in ran.err
    assert not (here / "dvm.toml").exists()


def test_given_paths_are_used_and_named_in_the_next_steps(here: Path, dvm: Runner) -> None:
    paths = ("--config", "a b/shop.toml", "--relays", "r.toml", "--data", "elsewhere")
    ran = dvm("init", *paths, "--json")
    config = load_config(here / "a b/shop.toml")
    assert config.identity.nsec_file == (here / "elsewhere/nsec").resolve()
    assert "dvm run --config 'a b/shop.toml' --relays r.toml --data elsewhere" in ran.json["next"][-1]


@pytest.mark.parametrize("name", ['Say "hi" \\ here', "Ünï ☂", "x" * 200])
def test_any_printable_name_survives_the_file(here: Path, dvm: Runner, name: str) -> None:
    assert dvm("init", "--name", name).code == 0
    assert load_config(here / "dvm.toml").identity.name == name


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 201, "nsec1" + "q" * 58])
def test_a_name_that_no_file_may_hold_is_a_usage_error(here: Path, dvm: Runner, name: str) -> None:
    ran = dvm("init", "--name", name)
    assert ran.code == 2
    assert "--name" in ran.err
    assert "nsec1q" not in ran.err
    assert not list(here.iterdir())


def test_two_files_under_one_name_are_a_usage_error(here: Path, dvm: Runner) -> None:
    assert dvm("init", "--config", "x.toml", "--relays", "./x.toml").code == 2
    assert not list(here.iterdir())


def test_a_key_in_the_environment_is_pointed_out(here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVM_NSEC", Keys.generate().nsec())
    assert "DVM_NSEC" in dvm("init", "--json").json["next"][0]


def test_a_directory_that_cannot_be_made_is_one_clear_message(here: Path, dvm: Runner) -> None:
    (here / "data").write_text("a file")
    ran = dvm("init")
    assert ran.code == 2
    assert "data" in ran.err
    assert "Traceback" not in ran.err
