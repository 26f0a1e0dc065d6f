"""Secrets come from the environment or from files, are complete or one clear error, and never show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dvm.config import Config, ModelConfig
from dvm.nostr.keys import Keys
from dvm.problems import ConfigError
from dvm.secrets import MAX_SECRET_BYTES, from_file, load_secrets

KEYS = Keys(bytes.fromhex("67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"))
NSEC = KEYS.nsec()
HEX = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"
NWC_SECRET = "5e" * 32
NWC = f"nostr+walletconnect://{'b' * 64}?relay=wss%3A%2F%2Frelay.example.com&secret={NWC_SECRET}"
API_KEY = "AIza" + "SyD-example-of-a-key-0123456789_abc"
EVERYTHING = {"DVM_NSEC": NSEC, "DVM_NWC_URI": NWC, "GEMINI_API_KEY": API_KEY}


def config(identity: Any = None, wallet: Any = None, **models: dict[str, Any]) -> Config:
    """A configuration with these parts; a Gemini model on an NWC wallet, if nothing else is said."""
    models = models or {"flash": {"provider": "gemini", "model": "gemini-2.5-flash"}}
    return Config.model_validate(
        {
            "identity": identity or {},
            "wallet": wallet or {"type": "nwc"},
            "models": models,
            "service": [{"kind": 5050, "models": list(models), "price": "free"}],
        }
    )


def key_file(directory: Path, text: str, mode: int = 0o600) -> str:
    file = directory / "secret"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def problems(of: Config, environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_secrets(of, environ)
    for secret in (NSEC, HEX, NWC_SECRET, API_KEY):
        assert secret not in str(caught.value)
    return list(caught.value.problems)


def test_the_environment_has_them_all() -> None:
    secrets = load_secrets(config(), EVERYTHING)
    assert secrets.keys.pubkey == KEYS.pubkey
    assert secrets.wallet == NWC
    assert secrets.api_keys == {"flash": API_KEY}
    assert secrets.warnings == ()


def test_files_have_them_all(tmp_path: Path) -> None:
    for name, text in (("nsec", HEX + "\n"), ("nwc", NWC), ("gemini", f"  {API_KEY}\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    flash = {"provider": "gemini", "model": "m", "api_key_file": str(tmp_path / "gemini")}
    secrets = load_secrets(
        config(
            {"nsec_file": str(tmp_path / "nsec")},
            {"type": "nwc", "secret_file": str(tmp_path / "nwc")},
            flash=flash,
        ),
        {},
    )
    assert (secrets.keys.pubkey, secrets.wallet, secrets.api_keys["flash"]) == (KEYS.pubkey, NWC, API_KEY)
    assert secrets.warnings == ()


def test_all_that_is_missing_is_told_at_once_with_what_to_set() -> None:
    assert problems(config(), {"DVM_NSEC": " "}) == [
        "dvm.toml: identity.nsec_file: the service has no key yet: "
        "set DVM_NSEC in the environment, or name a file here",
        "dvm.toml: wallet.secret_file: no access to the nwc wallet: "
        "set DVM_NWC_URI in the environment, or name a file here",
        "dvm.toml: models.flash.api_key_file: no API key for gemini: "
        "set GEMINI_API_KEY in the environment, or name a file here",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("DVM_NSEC", NSEC[:-1] + "q", "DVM_NSEC: not a secret key"),
        ("DVM_NSEC", f"{HEX} {HEX}", "DVM_NSEC: has a space or a line break within"),
        ("DVM_NSEC", "00" * 32, "DVM_NSEC: a secret key is 32 bytes within the curve's order"),
        ("DVM_NWC_URI", API_KEY, "DVM_NWC_URI: not a wallet connection: nostr+walletconnect://"),
        ("GEMINI_API_KEY", f"{API_KEY}\n{API_KEY}", "GEMINI_API_KEY: has a space or a line break within"),
    ],
)
def test_a_malformed_secret_is_named_not_shown(variable: str, value: str, problem: str) -> None:
    (line,) = problems(config(), {**EVERYTHING, variable: value})
    assert line.startswith(problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"nsec1 and a comment", "the file must hold the secret and nothing else"),
        (b"\xff\xfe\x00", "the file is not text"),
        (b"a" * (MAX_SECRET_BYTES + 1), f"the file is larger than {MAX_SECRET_BYTES} bytes"),
        (b"nsec1qqqqqqqqqqqqqqqqqqqqqqqqqqqq", "not a secret key"),
    ],
)
def test_a_bad_key_file_is_named_by_its_key(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "nsec"
    file.write_bytes(content)
    (line,) = problems(config({"nsec_file": str(file)}), {**EVERYTHING, "DVM_NSEC": ""})
    assert line.startswith(f"dvm.toml: identity.nsec_file: {problem}")


def test_a_key_file_that_is_not_there_is_named_by_its_key_alone(tmp_path: Path) -> None:
    """Somebody may have put the secret where the file's name belongs."""
    nothing = "there is no such file; `dvm init` makes a key and its file, or set DVM_NSEC"
    for name, problem in (("nothing", nothing), (".", "is not a file")):
        found = problems(config({"nsec_file": str(tmp_path / name)}), {**EVERYTHING, "DVM_NSEC": ""})
        assert found == [f"dvm.toml: identity.nsec_file: {problem}"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_file_that_others_can_read_is_a_warning(tmp_path: Path, mode: int) -> None:
    secrets = load_secrets(config({"nsec_file": key_file(tmp_path, NSEC, mode)}), {**EVERYTHING, "DVM_NSEC": ""})
    assert secrets.warnings == ("dvm.toml: identity.nsec_file: others can read this file: chmod 600",)


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    other = Keys.generate()
    secrets = load_secrets(config({"nsec_file": key_file(tmp_path, other.nsec())}), EVERYTHING)
    assert secrets.keys.pubkey == KEYS.pubkey


def test_a_models_own_source_goes_before_the_usual_variable(tmp_path: Path) -> None:
    secrets = load_secrets(
        config(
            usual={"provider": "gemini", "model": "m"},
            filed={"provider": "gemini", "model": "m", "api_key_file": key_file(tmp_path, "key-of-the-file")},
            named={"provider": "gemini", "model": "m", "api_key_env": "OTHER_KEY"},
        ),
        {**EVERYTHING, "OTHER_KEY": "key-of-the-other-variable"},
    )
    assert secrets.api_keys == {
        "usual": API_KEY,
        "filed": "key-of-the-file",
        "named": "key-of-the-other-variable",
    }


def test_only_what_is_used_needs_a_secret() -> None:
    local = config(
        None,
        {"type": "paper"},
        echo={"provider": "echo"},
        local={"provider": "embedded"},
        own={"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:8080"},
    )
    secrets = load_secrets(local, {"DVM_NSEC": HEX})
    assert (secrets.wallet, dict(secrets.api_keys)) == (None, {})
    (line,) = problems(config(None, {"type": "paper"}, far={"provider": "openai", "model": "m"}), EVERYTHING)
    assert "set OPENAI_API_KEY" in line


def test_a_model_that_no_service_uses_needs_no_key() -> None:
    used = config(None, {"type": "paper"}, echo={"provider": "echo"})
    idle = ModelConfig(provider="gemini", model="m")
    both = used.model_copy(update={"models": {**used.models, "idle": idle}})
    assert dict(load_secrets(both, {"DVM_NSEC": HEX}).api_keys) == {}


def test_nothing_shows_in_the_repr_and_the_log_learns_every_form() -> None:
    secrets = load_secrets(config(), EVERYTHING)
    shown = f"{secrets!r} {secrets}"
    for form in (NSEC, HEX, NWC, NWC_SECRET, API_KEY):
        assert form not in shown
        assert form in secrets.strings()


def test_a_short_secret_blacks_out_no_ordinary_words() -> None:
    secrets = load_secrets(
        config(None, {"type": "phoenixd", "url": "http://127.0.0.1"}),
        {
            **EVERYTHING,
            "DVM_PHOENIXD_PASSWORD": "job",
        },
    )
    assert "job" not in secrets.strings()


def test_a_macaroon_file_is_binary_and_read_as_hex(tmp_path: Path) -> None:
    file = tmp_path / "admin.macaroon"
    file.write_bytes(b"\x02\x01\x03lnd\xf8\x01")
    assert from_file(file) == "0201036c6e64f801"
