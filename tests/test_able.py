"""A service is sold by those of its models that make such a thing at all; what is left out is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dvm.announcing import announcement_of
from dvm.building import build_models, build_services, offered, unable
from dvm.config import Config, Identity, load_config
from dvm.problems import ConfigError
from dvm.secrets import load_secrets
from tests.toml_text import to_toml

PRICES = {"input": 300, "cached": 75, "output": 2500}
MODELS = {
    "flash": {"provider": "gemini", "model": "gemini-2.5-flash", **PRICES},
    "paint": {"provider": "gemini", "model": "gemini-2.5-flash-image", **PRICES},
    "voice": {"provider": "gemini", "model": "gemini-2.5-flash-preview-tts", **PRICES},
    "local": {"provider": "echo", **PRICES},
}


def sold(directory: Path, services: dict[int, list[str]], **models: dict[str, Any]) -> Config:
    tables = {
        "wallet": {"type": "paper"},
        "models": {**MODELS, **models},
        "service": [{"kind": kind, "models": names, "price": "per-token"} for kind, names in services.items()],
    }
    (directory / "dvm.toml").write_text(to_toml(tables))
    return load_config(directory / "dvm.toml", offered())


def test_neither_a_text_model_is_sold_for_images_nor_a_voice_for_a_chat(tmp_path: Path) -> None:
    every = list(MODELS)
    config = sold(tmp_path, {5050: every, 5100: every, 5250: every})
    services = build_services(config)
    assert {kind: service.models for kind, service in services.items()} == {
        5050: ("flash", "local"),
        5100: ("paint",),
        5250: ("voice",),
    }
    assert services[5100].prices.keys() == services[5100].names.keys() == {"paint"}
    assert unable(config) == [
        "service[1].models: without paint, voice, as it makes no text; see models.NAME.makes",
        "service[2].models: without flash, voice, local, as it makes no image; see models.NAME.makes",
        "service[3].models: without flash, paint, local, as it makes no speech; see models.NAME.makes",
    ]


def test_what_is_announced_is_what_can_be_made(tmp_path: Path) -> None:
    announced = announcement_of(Identity(), build_services(sold(tmp_path, {5100: ["flash", "paint"]})))
    assert announced.params["model"].values == ("paint",)
    assert set(announced.prices) == {"paint"}


def test_a_service_that_nobody_can_serve_is_told_and_not_sold(tmp_path: Path) -> None:
    config = sold(tmp_path, {5050: ["local"], 5250: ["flash"]})
    assert unable(config) == [
        "service[2].models: none of them makes any speech, so it is not sold; see models.NAME.makes"
    ]
    assert build_services(config).keys() == {5050}
    nothing = sold(tmp_path, {5100: ["flash"]})
    assert build_services(nothing).keys() == {5100}
    assert len(unable(nothing)) == 1


def test_what_the_operator_says_of_a_model_counts(tmp_path: Path) -> None:
    both = {**MODELS["flash"], "makes": ["image", "text"]}
    config = sold(tmp_path, {5050: ["flash"], 5100: ["flash"]}, flash=both)
    assert unable(config) == []
    environ = {"DVM_NSEC": "11" * 32, "GEMINI_API_KEY": "k"}
    assert build_models(config, load_secrets(config, environ))["flash"].makes == ("text", "image")


@pytest.mark.parametrize("provider", ["echo", "embedded"])
def test_what_has_no_choice_has_no_such_key(tmp_path: Path, provider: str) -> None:
    with pytest.raises(ConfigError, match="does not belong to a model of"):
        sold(tmp_path, {5050: ["flash"]}, extra={"provider": provider, "makes": ["text"]})


def test_a_thing_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models\.flash\.makes"):
        sold(tmp_path, {5050: ["flash"]}, flash={**MODELS["flash"], "makes": ["video"]})
