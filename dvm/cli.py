"""The command line: `dvm COMMAND`. Each command is one file of `dvm.commands`.

Exit codes: 0 success, 2 a usage or configuration error, 1 anything else.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from dvm import __version__
from dvm.commands.common import Failure
from dvm.problems import ConfigError

# Each is the `main` of dvm.commands.NAME.
COMMANDS = {
    "init": "Write dvm.toml and relays.toml, and make a key.",
    "run": "Open the shop: hear requests, quote, be paid, answer.",
    "demo": "See it all work on this machine, with paper money.",
    "ask": "Buy an answer: ask, pay, watch it stream, check the receipt.",
    "announce": "Publish what is sold: kinds, prices, profile, relays.",
    "doctor": "Try relays, wallet, models, clock and database; say what to do.",
    "balance": "What customers own, or what you own at a provider.",
    "statement": "A customer's receipts, or your own at a provider.",
    "topup": "Put money on your balance at a provider.",
    "withdraw": "Take your balance at a provider, or your own revenue, out.",
    "reconcile": "Hold ledger, wallet and relays against each other, and say what differs.",
    "report": "Usage and earnings by day, kind and model.",
}


def main(arguments: list[str] | None = None) -> None:
    """The console script: ends in SystemExit. What a person must read is one clear message, no traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _app(arguments)(args=arguments, prog_name="dvm")
    except ConfigError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except Failure as error:
        typer.echo(f"dvm: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _app(arguments: list[str]) -> typer.Typer:
    """All commands, of which only the called one is imported: `dvm run` need not wait for what `ask` needs."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(help="Sell and buy AI answers with Bitcoin on Nostr.")(_root)
    for name, about in COMMANDS.items():
        called: Callable[..., Any] = _main_of(name) if name in arguments else _nothing
        app.command(name=name, help=about)(called)
    return app


def _main_of(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = importlib.import_module(f"dvm.commands.{name}").main
    return found


def _nothing() -> None:
    """Stands for a command that is only listed."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dvm {__version__}")
        raise typer.Exit


def _root(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
