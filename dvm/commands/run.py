"""`dvm run`: the shop is open until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Annotated, Literal

import typer

from dvm import log
from dvm.building import offered, unable
from dvm.commands.common import CONFIG, DATA, RELAYS, ConfigPath, DataPath, RelaysPath
from dvm.config import load_config, load_relays, warnings
from dvm.daemon import serve
from dvm.secrets import load_secrets


def main(
    config: ConfigPath = CONFIG,
    relays: RelaysPath = RELAYS,
    data: DataPath = DATA,
    style: Annotated[
        Literal["text", "json"], typer.Option("--log", help="How the log is written, on stderr.")
    ] = "text",
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """Open the shop: hear requests, quote, be paid, answer."""
    settings = load_config(config, offered())
    where = load_relays(relays)
    secrets = load_secrets(settings, os.environ, file=str(config))
    log.set_up(style, secrets.strings(), level=logging.DEBUG if verbose else logging.INFO)
    for warning in (*warnings(settings), *unable(settings), *secrets.warnings):
        logging.getLogger("dvm").warning(warning)

    async def run() -> None:
        log.watch(asyncio.get_running_loop())
        await serve(settings, where, secrets, data)

    asyncio.run(run())
