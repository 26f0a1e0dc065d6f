"""What the operator's files say becomes what the world is told, and stays the same as long as they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from dvm.announcing import announcement_of, drafts_of
from dvm.building import build_services
from dvm.config import Config, GatewayConfig, Relays, load_config, load_relays
from dvm.jobs import Service
from dvm.jobs.kinds import KINDS, Kind
from dvm.nip90.announce import parse_announcement, parse_relay_list
from dvm.nostr.keys import Keys
from dvm.pricing import FREE, PerRequest, PerToken, Price
from tests.toml_text import to_toml

MODELS: dict[str, Any] = {
    "fast": {"provider": "echo", "input": 300, "cached": 75, "output": 2500},
    "slow": {"provider": "echo", "input": 1, "cached": 0, "output": 2},
}


def load(directory: Path, price: Any = "per-token", models: tuple[str, ...] = ("fast", "slow")) -> Config:
    tables = {
        "identity": {"name": "Shop", "about": "Sells", "picture": "https://x.example/p.png", "lud16": "me@x.example"},
        "wallet": {"type": "paper"},
        "models": MODELS,
        "service": [{"kind": 5050, "models": list(models), "price": price}],
    }
    (directory / "dvm.toml").write_text(to_toml(tables))
    return load_config(directory / "dvm.toml")


def load_where(directory: Path) -> Relays:
    entries = [
        {"url": "wss://both.example"},
        {"url": "wss://read.example", "write": False},
        {"url": "wss://write.example", "read": False},
        {"url": "wss://off.example", "read": False, "write": False},
    ]
    (directory / "relays.toml").write_text(to_toml({"relay": entries}))
    return load_relays(directory / "relays.toml")


def sell(kind: int, **prices: Price) -> Service:
    return Service(Kind(kind, "x", KINDS[5050].read, ("t", str(kind)), {"model": "m"}), tuple(prices), prices)


def test_customers_read_in_it_what_is_sold_for_how_much(tmp_path: Path) -> None:
    config = load(tmp_path)
    draft, _, _ = drafts_of(config, load_where(tmp_path), build_services(config))
    read = parse_announcement(draft.sign(Keys.generate(), 1))
    assert read.kinds == (5050,)
    assert read.prices == {
        "fast": {"input": 300_000, "cached": 75_000, "output": 2_500_000},
        "slow": {"input": 1_000, "cached": 0, "output": 2_000},
    }
    assert read.amount == "flexible"
    assert (read.name, read.about, read.lud16) == ("Shop", "Sells", "me@x.example")
    assert read.params["model"].values == ("fast", "slow", "auto")
    assert set(read.params) == set(KINDS[5050].params)
    assert read.topics == KINDS[5050].topics
    assert read.encryption


def test_profile_and_relay_list_follow_the_files(tmp_path: Path) -> None:
    config = load(tmp_path)
    _, profile, relays = drafts_of(config, load_where(tmp_path), build_services(config))
    assert orjson.loads(profile.content) == {
        "name": "Shop",
        "about": "Sells",
        "picture": "https://x.example/p.png",
        "lud16": "me@x.example",
        "bot": True,
    }
    assert [(use.url, use.read, use.write) for use in parse_relay_list(relays.sign(Keys.generate(), 1))] == [
        ("wss://both.example", True, True),
        ("wss://read.example", True, False),
        ("wss://write.example", False, True),
    ]


@pytest.mark.parametrize(
    ("price", "amount", "prices"),
    [
        ("free", "free", {}),
        ({"per_request": 21}, 21, {"fast": {"request": 21_000}, "slow": {"request": 21_000}}),
    ],
)
def test_one_price_for_everything_is_said_as_such(tmp_path: Path, price: Any, amount: Any, prices: Any) -> None:
    config = load(tmp_path, price)
    announced = announcement_of(config.identity, build_services(config))
    assert announced.amount == amount
    assert announced.prices == prices


def test_the_same_files_give_the_same_events(tmp_path: Path) -> None:
    config, relays = load(tmp_path), load_where(tmp_path)
    assert drafts_of(config, relays, build_services(config)) == drafts_of(config, relays, build_services(config))


@pytest.mark.parametrize(
    ("lud16", "url", "nip05"),
    [
        ("zaps@shop.example", "https://shop.example", "zaps@shop.example"),
        ("me@else.example", "https://Shop.example/", "_@shop.example"),
        ("", "https://shop.example:443", "_@shop.example"),
        ("", "https://shop.example:8443", None),  # whoever checks a name asks at the usual port
        ("", "http://shop.example", None),
        ("", None, None),
    ],
)
def test_the_profile_names_what_the_gateway_serves(
    tmp_path: Path, lud16: str, url: str | None, nip05: str | None
) -> None:
    config = load(tmp_path)
    gateway = GatewayConfig(url=url) if url else None
    config = config.model_copy(
        update={"gateway": gateway, "identity": config.identity.model_copy(update={"lud16": lud16})}
    )
    _, profile, _ = drafts_of(config, load_where(tmp_path), build_services(config))
    assert orjson.loads(profile.content).get("nip05") == nip05


def test_nobody_is_billed_more_than_was_announced(tmp_path: Path) -> None:
    identity = load(tmp_path).identity
    services = {
        5001: sell(5001, m=PerToken(5, 3, 9), only=FREE),
        5050: sell(5050, m=PerToken(7, 2, 8), other=PerRequest(21_000)),
    }
    announced = announcement_of(identity, services)
    assert announced.prices == {"m": {"input": 7, "cached": 3, "output": 9}, "other": {"request": 21_000}}
    assert announced.kinds == (5001, 5050)
    assert announced.topics == ("t", "5001", "5050")
    assert announced.amount == "flexible"
    assert announced.params["model"].values == ("m", "only", "other", "auto")
