"""What the operator writes in `[admission]` is who is taken on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvm.admitting import build_policies, build_trust
from dvm.config import Config, load_config
from dvm.jobs.admission import Policy, first_refusal
from dvm.nostr.keys import Keys, npub
from dvm.nostr.pool import RelayPool
from dvm.problems import ConfigError
from tests.jobs.test_admission import BOOK, ask
from tests.toml_text import to_toml

ADA, BOB, EVE = Keys.generate(), Keys.generate(), Keys.generate()


def config(directory: Path, **admission: object) -> Config:
    tables = {
        "wallet": {"type": "paper"},
        "models": {"echo": {"provider": "echo"}},
        "service": [{"kind": 5050, "models": ["echo"], "price": "free"}],
        "admission": admission,
    }
    (directory / "dvm.toml").write_text(to_toml(tables))
    return load_config(directory / "dvm.toml")


def code(policies: list[Policy], keys: Keys) -> str | None:
    refusal = first_refusal(policies, ask(keys), BOOK)
    return refusal.code if refusal else None


def test_without_the_table_everybody_is_welcome(tmp_path: Path) -> None:
    assert code(build_policies(config(tmp_path), None), EVE) is None


def test_lists_stand_in_the_table_or_in_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "friends.txt").write_text(f"# friends\n\n  {npub(BOB.pubkey)}  # Bob\n")
    both = {"allow": [npub(ADA.pubkey), npub(EVE.pubkey)], "allow_file": "friends.txt", "deny": [npub(EVE.pubkey)]}
    policies = build_policies(config(tmp_path, **both), None)
    codes = [code(policies, keys) for keys in (ADA, BOB, EVE, Keys.generate())]
    assert codes == [None, None, "not-allowed", "not-allowed"]


def test_an_empty_file_of_friends_is_a_list_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "friends.txt").write_text("# none yet\n")
    assert code(build_policies(config(tmp_path, allow_file="friends.txt"), None), ADA) == "not-allowed"


def test_work_or_trust_is_asked_of_all_others(tmp_path: Path) -> None:
    given = config(tmp_path, allow=[npub(ADA.pubkey)], pow_bits=20, follows_of=npub(BOB.pubkey), follows_depth=2)
    trust = build_trust(given, RelayPool([], []))
    assert trust is not None
    assert [code(build_policies(given, trust), keys) for keys in (ADA, BOB, EVE)] == [None, None, "pow-required"]
    assert build_trust(config(tmp_path, pow_bits=20), RelayPool([], [])) is None


def test_a_file_that_holds_something_else_is_told_with_its_lines_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"{npub(ADA.pubkey)}\n{EVE.nsec()}\n{ADA.pubkey}\nnpub1nonsense\n")
    with pytest.raises(ConfigError) as caught:
        build_policies(config(tmp_path, deny_file="keys.txt"), None)
    text = str(caught.value)
    assert [f"line {n}:" in text for n in (1, 2, 3, 4)] == [False, True, True, True]
    assert EVE.nsec() not in text
    assert ADA.pubkey not in text


@pytest.mark.parametrize(("content", "why"), [(None, "cannot be read"), (b"\xff\xfe", "is no text")])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "keys.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        build_policies(config(tmp_path, deny_file="keys.txt"), None)


@pytest.mark.parametrize("wrong", [{"deny": ["npub1x"]}, {"pow_bits": -1}, {"follows_depth": 3}, {"follows_of": "Ada"}])
def test_what_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"admission.{next(iter(wrong))}"):
        config(tmp_path, **wrong)
