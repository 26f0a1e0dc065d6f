"""relays.toml: where to listen and publish; every mistake is one line with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvm.config import load_relays
from dvm.problems import ConfigError


def relay_problems(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "relays.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_relays(file)
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_relays_are_read_and_written_unless_they_say_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "relays.toml"
    file.write_text(
        '[[relay]]\nurl = "wss://a.example"\n'
        '[[relay]]\nurl = "ws://b.example:7777/path"\nread = false\n'
        '[[relay]]\nurl = "wss://c.example"\nwrite = false\n'
    )
    relays = load_relays(file)
    assert relays.read == ["wss://a.example", "wss://c.example"]
    assert relays.write == ["wss://a.example", "ws://b.example:7777/path"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "relays.toml: relay: is missing"),
        ("relay = []", "relays.toml: relay: must not be empty"),
        ('relay = "wss://a.example"', "relays.toml: relay: must be a list"),
        ("[[relay]]\nread = true", "relays.toml: relay[1].url: is missing"),
        ('[[relay]]\nurl = "https://a.example"', "relays.toml: relay[1].url: must be a URL that begins with ws://"),
        ('[[relay]]\nurl = "wss://u:p@a.example"', "relays.toml: relay[1].url: has a name or a password in it"),
        ('[[relay]]\nurl = "wss://a.example"\nraed = true', 'relay[1].raed: unknown key; did you mean "read"?'),
        ('[[relay]]\nurl = "wss://a.example"\nread = false', "relays.toml: relay: none has read = true"),
        ('[[relay]]\nurl = "wss://a.example"\nwrite = false', "relays.toml: relay: none has write = true"),
        (
            '[[relay]]\nurl = "wss://A.example:443/"\n[[relay]]\nurl = "wss://a.example"',
            "relays.toml: relay[2].url: is the same relay as relay[1]",
        ),
    ],
)
def test_a_mistake_in_the_relays_is_named_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    assert any(problem in line for line in relay_problems(tmp_path, text))
