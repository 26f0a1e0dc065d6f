"""What the operator writes in `[admission]` is who is taken on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvm import admitting
from dvm.admitting import MAX_PROBLEMS, KeyList, Lists, build_policies, build_trust
from dvm.config import Config, load_config, load_relays
from dvm.customer import Customer, JobFailed
from dvm.daemon import Daemon
from dvm.jobs.admission import Policy, first_refusal
from dvm.jobs.trust import WebOfTrust
from dvm.nostr.keys import Keys, npub
from dvm.nostr.pool import RelayPool
from dvm.problems import ConfigError
from dvm.secrets import load_secrets
from tests.jobs.test_admission import BOOK, ask
from tests.standins.daemon import configure
from tests.standins.relay import local_relay
from tests.standins.waiting import until
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


def policies(given: Config, trust: WebOfTrust | None = None) -> list[Policy]:
    return build_policies(given, Lists(given), trust)


def code(policies: list[Policy], keys: Keys) -> str | None:
    refusal = first_refusal(policies, ask(keys), BOOK)
    return refusal.code if refusal else None


def test_without_the_table_everybody_is_welcome(tmp_path: Path) -> None:
    assert code(policies(config(tmp_path)), EVE) is None


def test_lists_stand_in_the_table_or_in_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "friends.txt").write_text(f"# friends\n\n  {npub(BOB.pubkey)}  # Bob\n")
    both = {"allow": [npub(ADA.pubkey), npub(EVE.pubkey)], "allow_file": "friends.txt", "deny": [npub(EVE.pubkey)]}
    asked = policies(config(tmp_path, **both))
    codes = [code(asked, keys) for keys in (ADA, BOB, EVE, Keys.generate())]
    assert codes == [None, None, "not-allowed", "not-allowed"]


def test_an_empty_file_of_friends_is_a_list_of_nobody(tmp_path: Path) -> None:
    (tmp_path / "friends.txt").write_text("# none yet\n")
    assert code(policies(config(tmp_path, allow_file="friends.txt")), ADA) == "not-allowed"


def test_work_or_trust_is_asked_of_all_others(tmp_path: Path) -> None:
    given = config(tmp_path, allow=[npub(ADA.pubkey)], pow_bits=20, follows_of=npub(BOB.pubkey), follows_depth=2)
    trust = build_trust(given, RelayPool([], []))
    assert trust is not None
    assert [code(policies(given, trust), keys) for keys in (ADA, BOB, EVE)] == [None, None, "pow-required"]
    assert build_trust(config(tmp_path, pow_bits=20), RelayPool([], [])) is None


def test_a_file_that_holds_something_else_is_told_with_its_lines_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"{npub(ADA.pubkey)}\n{EVE.nsec()}\n{ADA.pubkey}\nnpub1nonsense\n")
    with pytest.raises(ConfigError) as caught:
        Lists(config(tmp_path, deny_file="keys.txt"))
    text = str(caught.value)
    assert [f"line {n}:" in text for n in (1, 2, 3, 4)] == [False, True, True, True]
    assert EVE.nsec() not in text
    assert ADA.pubkey not in text


@pytest.mark.parametrize(("content", "why"), [(None, "cannot be read"), (b"\xff\xfe", "is no text")])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "keys.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        Lists(config(tmp_path, deny_file="keys.txt"))


def test_what_is_wrong_with_both_files_is_told_in_one_go_and_not_for_ever(tmp_path: Path) -> None:
    (tmp_path / "allow.txt").write_text("Ada\n" * 1_000)
    (tmp_path / "deny.txt").write_text("Eve\n")
    with pytest.raises(ConfigError) as caught:
        Lists(config(tmp_path, allow_file="allow.txt", deny_file="deny.txt"))
    assert len(caught.value.problems) == MAX_PROBLEMS + 2
    assert "and 990 more" in str(caught.value)
    assert "deny.txt: line 1" in str(caught.value)


async def test_a_file_that_has_changed_is_read_again_and_the_policies_follow(tmp_path: Path) -> None:
    file = tmp_path / "deny.txt"
    file.write_text("# nobody yet\n")
    given = config(tmp_path, deny=[npub(BOB.pubkey)], deny_file="deny.txt")
    lists = Lists(given)
    asked = build_policies(given, lists, None)
    assert [code(asked, keys) for keys in (ADA, BOB, EVE)] == [None, "not-allowed", None]
    file.write_text(npub(EVE.pubkey))
    await lists.deny.look()
    assert [code(asked, keys) for keys in (ADA, BOB, EVE)] == [None, "not-allowed", "not-allowed"]
    (tmp_path / "new").write_text(npub(ADA.pubkey))
    (tmp_path / "new").replace(file)  # as editors, and who mounts files into containers, do it
    await lists.deny.look()
    assert [code(asked, keys) for keys in (ADA, BOB, EVE)] == ["not-allowed", "not-allowed", None]


@pytest.mark.parametrize("content", [b"npub1mistyped\n", b"\xff\xfe", None])
async def test_a_file_that_breaks_keeps_the_former_list_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    file = tmp_path / "allow.txt"
    file.write_text(npub(ADA.pubkey))
    allow = KeyList("admission.allow_file", (), file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    for _ in range(3):
        await allow.look()
    assert ADA.pubkey in allow
    (told,) = caplog.records
    assert told.levelname == "ERROR"
    assert str(file) in str(vars(told)["problems"])
    file.write_text(npub(BOB.pubkey))
    await allow.look()
    assert (ADA.pubkey in allow, BOB.pubkey in allow) == (False, True)


async def test_the_daemon_takes_on_whom_a_file_admits_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admitting, "LOOK_SECONDS", 0.02)
    friends = tmp_path / "friends.txt"
    friends.write_text("")
    tables = {"admission": {"allow_file": "friends.txt"}}
    async with local_relay() as relay:
        configure(tmp_path, [relay], price="free", tables=tables)
        given, keys = load_config(tmp_path / "dvm.toml"), Keys.generate()
        secrets = load_secrets(given, {"DVM_NSEC": keys.nsec()})
        async with (
            Daemon(given, load_relays(tmp_path / "relays.toml"), secrets, tmp_path / "data"),
            Customer(ADA, [relay]) as ada,
        ):
            with pytest.raises(JobFailed, match="not-allowed"):
                await ada.buy("hello", max_msat=0, provider=keys.pubkey)
            friends.write_text(npub(ADA.pubkey))

            async def admitted() -> bool:
                try:
                    return bool((await ada.buy("hello", max_msat=0, provider=keys.pubkey)).text)
                except JobFailed:
                    return False

            await until(admitted)


@pytest.mark.parametrize("wrong", [{"deny": ["npub1x"]}, {"pow_bits": -1}, {"follows_depth": 3}, {"follows_of": "Ada"}])
def test_what_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"admission.{next(iter(wrong))}"):
        config(tmp_path, **wrong)
