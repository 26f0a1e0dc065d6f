"""What the pages claim is tried out: commands, settings, links, names of rooms, and the README's Python, which buys."""

from __future__ import annotations

import importlib
import json
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from dvm.building import build_services, offered
from dvm.cli import COMMANDS
from dvm.config import LimitsConfig, load_config, load_relays
from dvm.contradictions import WalletType
from dvm.customer import Customer, Done
from dvm.daemon import Daemon
from dvm.jobs import all_kinds
from dvm.nostr import Keys
from dvm.secrets import WALLET_SECRETS, load_secrets
from tests.standins.daemon import configure
from tests.standins.relay import local_relay
from tests.toml_text import to_toml

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
KINDS = (ROOT / "docs/kinds.md").read_text()
MODELS = {"echo": {"provider": "echo"}}
WHOLE: dict[str, Any] = {
    "identity": {"name": "Shop"},
    "wallet": {"type": "paper"},
    "models": MODELS,
    "service": [{"kind": 5050, "models": ["echo"], "price": "free"}],
}


def anchors(page: Path) -> set[str]:
    """As GitHub names a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for target, anchor in links:
        there = (page.parent / target) if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for command, rest in re.findall(r"\bdvm ([a-z]+)\b((?: +[^\s`|#]+)*)", page.read_text()):
        if command not in COMMANDS:
            continue  # a sentence that goes on after the word
        app = typer.Typer(add_completion=False)
        app.command()(importlib.import_module(f"dvm.commands.{command}").main)
        known = {option for param in typer.main.get_command(app).params for option in param.opts}
        assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= known | {"--help"}, f"dvm {command}{rest}"


def test_every_command_line_of_the_readme_names_a_command() -> None:
    lines = re.findall(r"^    dvm (\w+)", README, re.MULTILINE)
    assert lines
    assert set(lines) <= set(COMMANDS)


def test_the_readme_names_every_wallet_with_its_secret_and_every_kind() -> None:
    rows = dict(re.findall(r"^\| `(\w+)`.* \| `(DVM_\w+)` \|", README, re.MULTILINE))
    assert rows == WALLET_SECRETS
    assert {*rows, "paper"} == set(get_args(WalletType))
    sold = README.partition("## What it sells")[2].partition("\n## ")[0]
    told = {int(kind) for row in re.findall(r"^\| ([\d, ]+) \|", sold, re.MULTILINE) for kind in row.split(",")}
    assert told == set(all_kinds())


def test_the_readme_names_every_room() -> None:
    rooms = set(re.findall(r"^    dvm/(\w+)/", README, re.MULTILINE))
    assert rooms == {path.parent.name for path in (ROOT / "dvm").glob("*/__init__.py")}
    within = set(re.findall(r"^      (\w+)/", README, re.MULTILINE))
    assert within == {path.parent.name for path in (ROOT / "dvm/jobs").glob("*/__init__.py")}


def test_settings_that_the_readme_shows_are_valid(tmp_path: Path) -> None:
    block = re.search(r"^    \[identity\]\n(?:    .*\n|\n(?=    ))+", README, re.MULTILINE)
    assert block is not None
    shown = tomllib.loads(textwrap.dedent(block[0]))
    (tmp_path / "dvm.toml").write_text(to_toml({**WHOLE, **shown}))
    config = load_config(tmp_path / "dvm.toml", offered())
    assert config.gateway is not None


def test_the_shop_of_images_and_speech_that_the_page_shows_can_be_opened(tmp_path: Path) -> None:
    block = KINDS.partition("## Images and speech")[2].partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "dvm.toml").write_text('[wallet]\ntype = "paper"\n' + block)
    config = load_config(tmp_path / "dvm.toml", offered())
    assert set(build_services(config)) == {5100, 5250}


def test_extras_that_are_named_can_be_installed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    named = set(re.findall(r"lightning-dvm\[([\w-]+)\]", "".join(page.read_text() for page in PAGES)))
    for file_name in ("Dockerfile", "compose.yaml"):
        named |= set(re.findall(r"EXTRAS[=:] ?([\w-]+)", (ROOT / file_name).read_text()))
    assert "google-generativeai" in named
    assert named <= extras


def test_the_container_is_given_what_the_daemon_reads() -> None:
    image, compose = (ROOT / "Dockerfile").read_text(), (ROOT / "compose.yaml").read_text()
    given = dict(re.findall(r"\./([\w.]+):(/config/[\w.]+):ro", compose))
    options = re.search(r"^CMD (\[.*\])$", image, re.MULTILINE)
    assert options is not None
    command = json.loads(options[1])
    assert command[0] == "run"
    assert dict(zip(command[1::2], command[2::2], strict=True)) == {
        "--config": given["dvm.toml"],
        "--relays": given["relays.toml"],
        "--data": "/data",
        "--log": "json",
    }
    assert re.search(r"^USER (?!0|root)", image, re.MULTILINE)
    assert '"doctor", "--health"' in image
    grace = re.search(r"stop_grace_period: (\d+)s", compose)
    assert grace is not None
    assert int(grace[1]) > LimitsConfig().shutdown_seconds


async def test_what_the_readme_shows_in_python_buys_an_answer(tmp_path: Path) -> None:
    block = re.search(r"^    from dvm\.customer.*\n(?:    .*\n|\n(?=    ))+", README, re.MULTILINE)
    assert block is not None
    imports, _, body = textwrap.dedent(block[0]).partition("\n\n")
    async with local_relay() as relay:
        configure(tmp_path, [relay], price="free")
        config = load_config(tmp_path / "dvm.toml")
        secrets = load_secrets(config, {"DVM_NSEC": Keys.generate().nsec()})
        body = body.replace("wss://relay.example.com", relay).replace("print(", "bought.append(done); print(")
        names: dict[str, Any] = {"bought": []}
        exec(f"{imports}\nasync def buy(keys, wallet):\n{textwrap.indent(body, '    ')}", names)
        async with Daemon(config, load_relays(tmp_path / "relays.toml"), secrets, tmp_path / "data"):
            await names["buy"](Keys.generate(), None)
    (done,) = names["bought"]
    assert isinstance(done, Done)
    assert names["Customer"] is Customer
    assert done.verified
