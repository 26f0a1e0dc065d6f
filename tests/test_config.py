"""dvm.toml: every mistake is one line with file and key, all of them at once, no secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dvm import config as configuration
from dvm.config import Config, Offered, load_config, load_relays, warnings
from dvm.contradictions import options_of
from dvm.models.registry import PROVIDERS, make_model
from dvm.nostr.keys import Keys
from dvm.problems import ConfigError
from tests.toml_text import to_toml

THIS_VERSION = Offered(
    kinds=frozenset({5050}),
    wallets=frozenset({"nwc", "lnd", "cln", "lnbits", "paper"}),
    providers=frozenset({"gemini", "embedded", "echo"}),
)
NSEC = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"
NWC = f"nostr+walletconnect://{'b' * 64}?relay=wss://relay.example.com&secret={'5e' * 32}"
API_KEY = "AIza" + "SyD-example-of-a-key-0123456789_abc"


def smallest() -> dict[str, Any]:
    """The least that is a configuration."""
    return {
        "wallet": {"type": "paper"},
        "models": {"echo": {"provider": "echo", "input": 300, "cached": 75, "output": 2500}},
        "service": [{"kind": 5050, "models": ["echo"], "price": "per-token"}],
    }


def changed(path: str, value: object, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """The smallest configuration with one key set; numbers in `path` are places in a list."""
    tables: Any = smallest() if base is None else base
    place = tables
    *parents, last = path.split("/")
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return tables  # type: ignore[no-any-return]


def load(tmp_path: Path, tables: dict[str, Any], offered: Offered = THIS_VERSION) -> Config:
    file = tmp_path / "dvm.toml"
    file.write_text(to_toml(tables))
    return load_config(file, offered)


def problems(tmp_path: Path, tables: dict[str, Any]) -> list[str]:
    """What is wrong, each line without the directory."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, tables)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_the_smallest_configuration_has_the_documented_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, smallest())
    assert config.limits.jobs_per_minute == 60
    assert config.limits.open_quotes == 50
    assert config.limits.open_quotes_total == 10_000
    assert config.limits.prompt_tokens == 100_000
    assert config.limits.event_bytes == 262_144
    assert config.limits.concurrency == 32
    assert config.limits.quote_minutes == 1440
    assert config.limits.max_age_minutes == 10
    assert config.limits.allow_private_addresses is False
    assert config.limits.jobs_per_minute_total == 6_000
    assert config.wallet.hold is False
    assert (config.wallet.network, config.wallet.tls_cert_file) == (None, None)
    assert (config.zaps.quote, config.zaps.trust) == (None, "wallet")
    assert config.payouts.enabled
    assert config.operator.npub is None
    assert config.gateway is None


def test_every_documented_key_is_understood(tmp_path: Path) -> None:
    tables = {
        "identity": {
            "name": "n",
            "about": "a",
            "picture": "https://example.com/p.png",
            "lud16": "me@example.com",
            "nsec_file": "keys/nsec",
        },
        "wallet": {"type": "nwc", "secret_file": "/run/secrets/nwc", "timeout_seconds": 5},
        "models": {
            "flash": {
                "provider": "gemini",
                "model": "gemini-2.5-flash",
                "base_url": "http://127.0.0.1:8099",
                "api_key_file": "gemini.key",
                "input": 300,
                "cached": 0,
                "output": 2500,
                "max_output_tokens": 8192,
                "system": "Be brief.",
                "stall_seconds": 0.5,
                "thinking_budget": 0,
            },
            "local": {"provider": "embedded"},
        },
        "service": [
            {
                "kind": 5050,
                "models": ["local", "flash"],
                "price": {"per_request": 21},
                "name": "Text",
                "system": "Be kind.",
            }
        ],
        "limits": {"jobs_per_minute": 0, "partial_seconds": 0, "watchdog_seconds": 5, "allow_private_addresses": True},
        "zaps": {"quote": "both", "trust": "provider", "min_sats": 5, "max_sats": 5},
        "payouts": {"enabled": False, "min_sats": 1, "day_sats": 0, "fee_sats": 0, "fee_percent": 0.5},
        "operator": {"npub": Keys.generate().npub},
        "gateway": {"listen": "[::1]:8402", "url": "https://dvm.example.com"},
    }
    config = load(tmp_path, tables)
    assert config.identity.nsec_file == tmp_path / "keys/nsec", "relative to the file that names it"
    assert config.wallet.secret_file == Path("/run/secrets/nwc")
    assert config.service[0].models == ("local", "flash")
    assert isinstance(config.service[0].price, configuration.PerRequestSats)
    assert config.service[0].price.per_request == 21
    assert config.models["flash"].options() == {"stall_seconds": 0.5, "thinking_budget": 0}
    assert config.gateway is not None
    assert config.gateway.listen == "[::1]:8402"
    assert config.gateway.url == "https://dvm.example.com"


def test_a_wallet_of_ones_own_node_has_its_address_certificate_network_and_hold(tmp_path: Path) -> None:
    wallet = {"type": "lnd", "url": "https://node:8080", "tls_cert_file": "tls.cert", "network": "signet", "hold": True}
    config = load(tmp_path, changed("wallet", wallet))
    assert config.wallet.tls_cert_file == tmp_path / "tls.cert"
    assert (config.wallet.network, config.wallet.hold) == ("signet", True)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("models/echo/input", 2.5, "models.echo.input: must be a whole number"),
        ("models/echo/input", "300", "models.echo.input: must be a whole number"),
        ("models/echo/input", True, "models.echo.input: must be a whole number"),
        ("models/echo/input", -1, "models.echo.input: must be at least 0"),
        ("models/echo/output", 10**10, "models.echo.output: must be at most 1000000000"),
        ("models/echo/outputs", 1, 'models.echo.outputs: unknown key; did you mean "output"?'),
        ("models/echo/max-output-tokens", 1, "models.echo.max-output-tokens: unknown key; did you mean"),
        ("models/echo/api_key", "x", "models.echo.api_key: unknown key; a secret never stands in"),
        ("models/echo/base_url", "https://example.com", "models.echo.base_url: does not belong to a model"),
        ("models/echo/thinking_budget", 1, "models.echo.thinking_budget: does not belong to a model of echo"),
        ("models/a b", {"provider": "echo"}, 'models."a b": the name of a model is up to 64'),
        ("models", [], "models: must be a table"),
        ("models/g", {"provider": "gemini"}, "models.g.model: is missing: the name by which gemini knows"),
        ("models/g", {"provider": "openai", "model": "x"}, 'models.g.provider: "openai" is not part of this'),
        ("models/g", {"model": "x"}, "models.g.provider: is missing"),
        ("modles", {}, 'modles: unknown key; did you mean "models"?'),
        ("services", [], 'services: unknown key; did you mean "service"?'),
        ("service", {}, "service: must be a list, in [brackets]"),
        ("service", [], "service: must not be empty"),
        ("service/0/kind", 5100, "service[1].kind: 5100 is not offered by this version, which has 5050"),
        ("service/0/kind", 5128, "service[1].kind: 5128 is not a job request"),
        ("service/0/kind", 4999, "service[1].kind: must be at least 5000"),
        ("service/0/models", [], "service[1].models: must not be empty"),
        ("service/0/models", "echo", "service[1].models: must be a list, in [brackets]"),
        ("service/0/models", ["ehco"], 'service[1].models[1]: there is no [models.ehco]; did you mean "echo"?'),
        ("service/0/models", ["echo", "echo"], "service[1].models[2]: is named twice"),
        ("service/0/price", "per-job", 'service[1].price: must be "per-token", "free" or { per_request = SATS }'),
        ("service/0/price", {"per_request": 2.5}, 'service[1].price: must be "per-token", "free" or'),
        ("service/0/price", {"per_request": True}, 'service[1].price: must be "per-token", "free" or'),
        ("service/0/price", {"per_request": -3}, "service[1].price: per_request must be from 1 to"),
        ("service/0/price", {"per_request": 0}, 'service[1].price: a price of 0 sats is written "free"'),
        ("wallet/type", "nwx", "wallet.type: must be 'nwc', 'lnd', 'cln', 'lnbits', 'phoenixd' or 'paper'"),
        ("wallet/type", "phoenixd", 'wallet.type: "phoenixd" is not part of this version, which has cln, '),
        ("wallet", {"type": "lnd"}, "wallet.url: is missing: where the lnd wallet answers"),
        ("wallet", {"type": "nwc", "url": "https://a.b"}, "wallet.url: does not belong to a wallet of type nwc"),
        ("wallet/url", "https://me:pass@a.b", "wallet.url: has a name or a password in it"),
        ("wallet/url", "ftp://a.b", "wallet.url: must be a URL that begins with http:// or https://"),
        ("wallet/url", "https://[a", "wallet.url: is not a URL"),
        ("wallet", {"type": "lnbits", "url": "https://a.b/wallet?usr=x"}, "wallet.url: must be the address alone"),
        ("wallet", {"type": "cln", "url": "https://a.b", "hold": True}, "wallet.hold: a wallet of type cln cannot"),
        ("wallet", {"type": "nwc", "tls_cert_file": "c"}, "wallet.tls_cert_file: does not belong to a wallet of type"),
        ("wallet", {"type": "lnd", "url": "http://a", "tls_cert_file": "c"}, "wallet.tls_cert_file: is for an https:"),
        ("wallet/network", "mainnet", "wallet.network: a wallet of type paper is on regtest"),
        ("wallet/network", "bitcoin", "wallet.network: must be 'mainnet', 'testnet', 'signet' or 'regtest'"),
        ("zaps/quote", "both", 'zaps.quote: "both" needs a Lightning address: identity.lud16 is missing'),
        ("zaps/trust", "provider", 'zaps.trust: "provider" needs a Lightning address'),
        ("zaps/min_sats", 2_000_000, "zaps.min_sats: is more than max_sats, 1000000"),
        ("zaps/max_sats", 0, "zaps.max_sats: must be at least 1"),
        ("payouts/min_sats", 100_001, "payouts.min_sats: is more than day_sats, 100000: nobody could"),
        ("payouts/fee_percent", -1, "payouts.fee_percent: must be at least 0"),
        ("operator/npub", "5e" * 32, "operator.npub: must be a public key: npub1"),
        ("operator/npub", "npub1nonsense", "operator.npub: must be a public key: npub1"),
        ("gateway/url", "dvm.example.com", "gateway.url: must be a URL"),
        ("gateway/url", "https://example.com/dvm", "gateway.url: must be the address alone, without a path"),
        ("wallet/timeout_seconds", 0, "wallet.timeout_seconds: must be more than 0"),
        ("wallet/timeout_seconds", float("nan"), "wallet.timeout_seconds: must be "),
        ("identity/nsec_file", "5e" * 32, "identity.nsec_file: must name a file that holds the secret"),
        ("identity/nsec_file", "", "identity.nsec_file: must be a file name"),
        ("identity/lud16", "not an address", "identity.lud16: must be a Lightning address"),
        ("identity/picture", "javascript:alert(1)", "identity.picture: must be a URL"),
        ("identity/name", 5, 'identity.name: must be text, in "quotes"'),
        ("limits/concurrency", -1, "limits.concurrency: must be at least 0"),
        ("limits/quote_minutes", 0, "limits.quote_minutes: must be at least 1"),
        ("limits/attempts", 0, "limits.attempts: must be at least 1"),
        ("limits/allow_private_addresses", 1, "limits.allow_private_addresses: must be true or false"),
        ("limits", 5, "limits: must be a table"),
        ("gateway/listen", "8402", 'gateway.listen: must be "host:port"'),
        ("gateway/listen", "127.0.0.1:99999", 'gateway.listen: must be "host:port"'),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, path: str, value: object, problem: str) -> None:
    found = problems(tmp_path, changed(path, value))
    assert any(line.startswith(f"dvm.toml: {problem}") for line in found), found


@pytest.mark.parametrize("token_class", ["input", "cached", "output"])
def test_a_service_sold_per_token_needs_each_of_the_three_prices(tmp_path: Path, token_class: str) -> None:
    tables = smallest()
    del tables["models"]["echo"][token_class]
    (problem,) = problems(tmp_path, tables)
    assert problem.startswith(f"dvm.toml: models.echo.{token_class}: is missing: service[1] sells this model")
    tables["service"][0]["price"] = "free"
    assert load(tmp_path, tables).service[0].price == "free"


def test_two_services_of_one_kind_are_refused(tmp_path: Path) -> None:
    tables = smallest()
    tables["service"].append({"kind": 5050, "models": ["echo"], "price": "free"})
    assert problems(tmp_path, tables) == ["dvm.toml: service[2].kind: 5050 is sold by service[1] already"]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    tables = smallest()
    for path, value in (
        ("identity/nmae", "x"),
        ("wallet/type", "phoenixd"),
        ("models/echo/input", "much"),
        ("service/0/models", ["echo", "nobody"]),
        ("limits/concurrency", 1.5),
        ("gateway/listen", ""),
    ):
        changed(path, value, tables)
    keys = {problem.split(": ")[1] for problem in problems(tmp_path, tables)}
    assert keys == {
        "identity.nmae",
        "wallet.type",
        "wallet.url",
        "models.echo.input",
        "service[1].models[2]",
        "limits.concurrency",
        "gateway.listen",
    }


@pytest.mark.parametrize("secret", [NSEC, NSEC.upper(), NWC, API_KEY, "sk-" + "a1" * 20])
@pytest.mark.parametrize(
    "path", ["identity/about", "wallet/url", "models/echo/model", "service/0/models", "mine", "identity/nsec"]
)
def test_a_secret_in_the_configuration_is_refused_and_never_repeated(tmp_path: Path, path: str, secret: str) -> None:
    value = [secret] if path.endswith("models") else secret
    found = problems(tmp_path, changed(path, value))
    key = re.sub(r"/0", "[1]", path).replace("/", ".")
    assert any(line.startswith(f"dvm.toml: {key}") and "looks like" in line for line in found), found
    assert secret not in "\n".join(found)
    assert "5e5e5e" not in "\n".join(found)


def test_a_secret_as_the_name_of_a_key_is_not_repeated_either(tmp_path: Path) -> None:
    found = problems(tmp_path, changed(f"models/{NSEC}", {"provider": "echo", "wrong": 1}))
    assert NSEC not in "\n".join(found)
    assert any("[secret]" in line for line in found)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"[identity\n", "is not TOML: "),
        (b"a = 1\na = 2\n", "is not TOML: "),
        (b"\xff\xfe", "is not UTF-8 text (byte 0)"),
        (b"a = " + b"9" * 10_000, "is not TOML that can be read"),
        (b"a = " + b"[" * 100_000, "is not TOML that can be read"),
        (b"#" * (1 << 20) + b"\n", "is larger than 1048576 bytes"),
    ],
    ids=["unclosed", "twice", "binary", "long number", "deep", "huge"],
)
def test_a_file_that_is_no_toml_is_one_clear_message(tmp_path: Path, raw: bytes, problem: str) -> None:
    file = tmp_path / "dvm.toml"
    file.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    (line,) = caught.value.problems
    assert line.startswith(f"{file}: {problem}")


def test_a_file_that_cannot_be_read_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: there is no such file; `dvm init` writes one"):
        load_config(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read: not a file name"):
        load_config(Path("a\0b"))


TOML_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    sorted({key for table in configuration.DVM_TABLES.values() for key in table.model_fields} | {"echo", "x"})
)
NEAR_CONFIGURATIONS = st.dictionaries(
    KEYS,
    TOML_VALUES
    | st.dictionaries(KEYS, TOML_VALUES | st.dictionaries(KEYS, TOML_VALUES, max_size=4), max_size=4)
    | st.lists(st.dictionaries(KEYS, TOML_VALUES, max_size=4), max_size=3),
    max_size=6,
)


def outcome(file: Path) -> tuple[str, ...] | None:
    """None for a configuration, else what is wrong with it; any other exception is the test's."""
    try:
        load_config(file, THIS_VERSION)
    except ConfigError as error:
        return error.problems
    return None


@given(tables=NEAR_CONFIGURATIONS, replace=st.booleans())
@example(tables={"models": {"echo": {"provider": []}}, "wallet": {"type": {}}}, replace=True)
@example(tables={"models": {"\x1f": []}}, replace=True)
@example(tables={"service": [{"kind": True, "models": [[]]}, 5]}, replace=True)
def test_any_toml_is_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, Any], replace: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(to_toml({**smallest(), **tables} if replace else tables))
    found = outcome(file)
    assert found is None or found
    assert all(line.startswith(f"{file}: ") and line.isprintable() for line in found or ())


@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_are_a_configuration_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.toml"
    file.write_bytes(raw)
    for loader in (load_config, load_relays):
        with pytest.raises(ConfigError):
            loader(file)


def test_what_is_probably_not_meant_is_a_warning(tmp_path: Path) -> None:
    tables = changed("zaps/trust", "provider", changed("identity/lud16", "me@example.com"))
    tables["models"]["idle"] = {"provider": "echo"}
    tables["models"]["far"] = {"provider": "gemini", "model": "m", "base_url": "http://far.example"}
    tables["models"]["near"] = {"provider": "gemini", "model": "m", "base_url": "http://127.0.0.1:1"}
    tables["service"][0] |= {"models": ["echo", "far", "near"], "price": "free"}
    found = warnings(load(tmp_path, tables))
    assert [warning.split(":")[0] for warning in found] == [
        "models.idle",
        "models.far.base_url",
        "wallet.type",
        "zaps.trust",
    ]


PATIENT = {"model": "m", "first_chunk_seconds": 1, "stall_seconds": 2, "makes": ["text"]}
OPTIONS = {
    "gemini": PATIENT | {"count_seconds": 3, "thinking_budget": 0, "thinking_level": "low"},
    "google-generativeai": PATIENT | {"count_seconds": 3},
    "openai": PATIENT,
    "embedded": {"parallel": 1, "context": 512, "threads": 1},
    "echo": {"chunk_tokens": 1, "delay_seconds": 0.5},
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_what_the_configuration_allows_the_backend_takes(tmp_path: Path, provider: str) -> None:
    tables = smallest()
    tables["models"]["echo"] |= {"provider": provider, **OPTIONS[provider]}
    table = load(tmp_path, tables, Offered()).models["echo"]
    assert len(table.options()) == len(OPTIONS[provider].keys() - {"model"}) == len(options_of(provider))
    made = make_model(
        "echo", provider, model=table.model, api_key="key-of-the-test", max_output_tokens=7, options=table.options()
    )
    assert made.max_output_tokens == 7
