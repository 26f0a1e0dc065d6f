"""Operators add kinds by an entry point: what docs/kinds.md shows works, and what is broken stops nobody."""

from __future__ import annotations

import importlib
import logging
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvm.announcing import announcement_of
from dvm.building import build_services, offered
from dvm.config import Config, load_config
from dvm.jobs.kinds import KINDS, WrongAnswer, all_kinds, image, speech
from dvm.jobs.kinds.plugins import GROUP, plugged_in
from dvm.problems import ConfigError
from tests.jobs.kinds.asking import body_of, parts, request, understood
from tests.toml_text import to_toml

PAGE = (Path(__file__).parents[3] / "docs/kinds.md").read_text()
_, PYTHON, PACKAGE, SERVICE = re.findall(r"^```(?:python|toml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ENTRIES = tomllib.loads(PACKAGE)["project"]["entry-points"][GROUP]
DECLARED = {**KINDS, image.KIND.kind: image.KIND, speech.KIND.kind: speech.KIND}
TABLES = {
    "identity": {"name": "Shop"},
    "wallet": {"type": "paper"},
    "models": {"local": {"provider": "echo"}},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory in which packages are installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    all_kinds.cache_clear()
    before = set(sys.modules)
    yield tmp_path
    all_kinds.cache_clear()
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def install(place: Path, name: str, code: str, **entries: str) -> None:
    """As `pip install` leaves it there."""
    (place / f"{name}.py").write_text(code)
    info = place / f"dvm_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dvm-{name}\nVersion: 1.0\n")
    lines = "".join(f"{key} = {value}\n" for key, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")


def load(place: Path) -> Config:
    (place / "dvm.toml").write_text(to_toml(TABLES) + "\n" + SERVICE)
    return load_config(place / "dvm.toml", offered())


async def test_what_the_page_shows_is_sold_announced_and_answered(place: Path) -> None:
    with pytest.raises(ConfigError, match="5999 is not offered"):
        load(place)
    all_kinds.cache_clear()
    install(place, "haiku", PYTHON, **ENTRIES)
    config = load(place)
    (service,) = build_services(config).values()
    said = announcement_of(config.identity, {5999: service})
    assert (said.kinds, said.amount, said.topics) == ((5999,), 2, ("poetry",))
    assert said.params["season"].values == ("spring", "summer", "autumn", "winter")
    ask = understood(request(5999, params=[("season", "spring")]), "the moon", kind=service.kind)
    assert "in spring" in parts(await body_of(ask))[0]["text"]
    assert ask.whole
    assert ask.finish("one\ntwo\nthree\n") == "one\ntwo\nthree"
    with pytest.raises(WrongAnswer):
        ask.finish("one")
    with pytest.raises(ValueError, match="season: one of spring"):
        understood(request(5999, params=[("season", "never")]), "the moon", kind=service.kind)


def test_what_is_broken_is_told_by_its_name_and_stops_nobody(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = "from dvm.jobs.kinds import KINDS\nfrom dataclasses import replace\n"
    install(place, "haiku", PYTHON, **ENTRIES)
    install(place, "torn", "import nonesuch", torn="torn:KIND")
    install(place, "gone", "", gone="gone:KIND")
    install(place, "other", "KIND = 5998", other="other:KIND")
    install(place, "high", own + "KIND = replace(KINDS[5050], kind=6050)", high="high:KIND")
    install(place, "thief", own + "KIND = KINDS[5050]", thief="thief:KIND")
    install(place, "twin", own + "KIND = replace(KINDS[5050], kind=5999)", twin="twin:KIND")
    with caplog.at_level(logging.ERROR):
        found = plugged_in(KINDS)
    assert {number: kind.name for number, kind in found.items()} == {5999: "Haiku"}
    told = "\n".join(caplog.messages)
    for name, why in (
        ("torn", "No module named 'nonesuch'"),
        ("gone", "AttributeError"),
        ("other", "it is a int"),
        ("high", "from 5000 to 5999 expected, and it is 6050"),
        ("thief", "there is a kind 5050 already"),
        ("twin", "there is a kind 5999 already"),
    ):
        assert re.search(f"the kind '{name}' .*{why}", told)


def test_the_page_lists_what_the_declarations_say() -> None:
    rows = re.findall(r"^\| (5[0-9]{3}) \| .+? \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert set(KINDS) <= {int(number) for number, *_ in rows}
    for number, inputs, params, outputs in rows:
        kind = DECLARED[int(number)]
        assert set(re.findall("`(.+?)`", inputs)) == kind.inputs
        assert tuple(re.findall("`(.+?)`", outputs)) == kind.outputs
        told = re.findall("`(.+?)`", params)
        for name in kind.params:
            assert name in told or name in {"model", "max_tokens"}
            assert not (values := kind.param(name).values) or set(values) & set(told)


def test_the_page_is_under_a_page_for_a_kind_of_ones_own() -> None:
    assert len(PAGE.partition("## A kind of your own")[2].splitlines()) < 80
