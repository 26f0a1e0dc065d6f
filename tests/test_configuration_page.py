"""The files and the page that an operator starts from say what the program does."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic_core import PydanticUndefined

from dvm import config as configuration
from dvm import starter
from dvm.building import offered
from dvm.config import load_config, load_relays
from dvm.contradictions import WalletType
from dvm.secrets import WALLET_SECRETS

ROOT = Path(__file__).parent.parent


def as_shipped(name: str) -> str:
    """A file of the root as it was committed, where Git knows: an operator edits these in the clone."""
    try:
        done = subprocess.run(["git", "show", f"HEAD:./{name}"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no Git, or no clone
        return (ROOT / name).read_text()
    return done.stdout.decode()


def test_the_files_in_the_root_are_what_init_writes_and_are_valid(tmp_path: Path) -> None:
    for name, written in (("dvm.toml", starter.dvm_toml()), ("relays.toml", starter.RELAYS_TOML)):
        assert written in ((ROOT / name).read_text(), as_shipped(name))
        (tmp_path / name).write_text(written)
    load_config(tmp_path / "dvm.toml", offered())
    load_relays(tmp_path / "relays.toml")


def test_the_limits_of_the_starting_file_are_the_defaults() -> None:
    written = tomllib.loads(starter.dvm_toml())["limits"]
    assert written == {key: getattr(configuration.LimitsConfig(), key) for key in written}


def test_a_key_file_with_an_awkward_name_survives_init() -> None:
    name = 'C:\\keys {0} "mine"/ä'
    assert tomllib.loads(starter.dvm_toml(name))["identity"]["nsec_file"] == name


def test_every_line_of_the_starting_file_that_is_commented_out_is_a_key_of_its_table() -> None:
    known = {"[[service]]": configuration.ServiceConfig, "[models": configuration.ModelConfig}
    known |= {f"[{place[0]}]": table for place, table in configuration.DVM_TABLES.items() if len(place) == 1}
    for wallet in get_args(starter.Wallet):
        for model in get_args(starter.Model):
            table: type[configuration.Table] = configuration.Config
            for line in starter.dvm_toml(wallet=wallet, model=model).splitlines():
                if heading := re.match(r"(?:# )?(\[\[?\w+\]?\]?)", line):
                    table = known[heading[1]]
                elif key := re.match(r"# (\w+) = ", line):
                    assert key[1] in table.model_fields, line


def documented() -> dict[str, dict[str, str]]:
    """Of docs/configuration.md: each table's keys, each with its default as written."""
    tables: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in (ROOT / "docs/configuration.md").read_text().splitlines():
        if heading := re.match(r"#+ (?:`(\[.*\])`)?", line):
            rows = {}
            if heading[1]:
                rows = tables.setdefault(heading[1], {})
        elif row := re.match(r"\| `(\w+)` \|[^|]*\| (\S+) \| ", line):
            rows[row[1]] = row[2]
    return tables


def written_default(model: type[configuration.Table], key: str) -> str:
    """A key's default as the page has it."""
    default = model.model_fields[key].default
    if default is PydanticUndefined:
        return "*required*"
    if default is None:
        return "`–`"
    if default == ():
        return "`[]`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("[[relay]]", configuration.RelayConfig),
        ("[identity]", configuration.Identity),
        ("[wallet]", configuration.WalletConfig),
        ("[models.NAME]", configuration.ModelConfig),
        ("[[service]]", configuration.ServiceConfig),
        ("[limits]", configuration.LimitsConfig),
        ("[admission]", configuration.AdmissionConfig),
        ("[files]", configuration.FilesConfig),
        ("[zaps]", configuration.ZapsConfig),
        ("[payouts]", configuration.PayoutsConfig),
        ("[operator]", configuration.OperatorConfig),
        ("[gateway]", configuration.GatewayConfig),
    ],
)
def test_the_page_and_the_program_agree_on_every_key_and_default(
    heading: str, model: type[configuration.Table]
) -> None:
    in_code = {key: written_default(model, key) for key in model.model_fields}
    assert documented()[heading] == in_code


def test_every_table_of_the_files_has_its_place_on_the_page() -> None:
    tables = {("relay", "*"): "[[relay]]", ("service", "*"): "[[service]]", ("models", "*"): "[models.NAME]"}
    places = {*configuration.DVM_TABLES, *configuration.RELAY_TABLES} - {()}
    assert set(documented()) == {tables.get(place, f"[{place[0]}]") for place in places}


def test_every_secret_and_every_wallet_is_on_the_page() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    _, _, live = page.partition("## How to go live with each wallet")
    for wallet in get_args(WalletType):
        assert f"\n**{wallet}**" in live
        variable = WALLET_SECRETS.get(wallet)
        if variable is not None:
            assert f"| `{variable}` | `wallet.secret_file` | type `{wallet}`" in page
            assert f"export {variable}=" in live
