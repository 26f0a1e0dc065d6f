"""The command line: `dvm COMMAND`. Each command is one file of `dvm.commands`.

Exit codes: 0 success, 2 a usage or configuration error, 1 anything else.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
import typer
import typer.core

from dvm import __version__
from dvm.commands.common import Failure
from dvm.problems import ConfigError

# Command → (module, what it does). A command's module is imported when it is called: `dvm run` must not
# wait for what only `dvm ask` needs.
COMMANDS = {
    "init": ("init", "Write dvm.toml and relays.toml, and make a key."),
    "run": ("run", "Open the shop: hear requests, quote, be paid, answer."),
    "demo": ("demo", "See it all work here: relay, wallet, model and customer on this machine."),
    "ask": ("ask", "Buy an answer: ask, pay, watch it stream, check the receipt."),
    "announce": ("announce", "Publish what is sold: kinds, prices, profile, relays."),
    "doctor": ("doctor", "Try relays, wallet, models, clock and database; say what to do."),
    "balance": ("balance", "What customers own, or what you own at a provider."),
    "statement": ("statement", "A customer's receipts, or your own at a provider."),
    "report": ("report", "Usage and earnings by day, kind and model."),
}


class _Lazy(typer.core.TyperGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, about = COMMANDS[cmd_name]
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name=cmd_name, help=about)(importlib.import_module(f"dvm.commands.{module}").main)
        return typer.main.get_command(app)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


app = typer.Typer(cls=_Lazy, add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dvm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _show: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Sell and buy AI answers with Bitcoin on Nostr."""


def main(arguments: list[str] | None = None) -> None:
    """The console script. Errors that a person must read are one clear message on stderr, no traceback."""
    try:
        status: Any = app(args=arguments, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        sys.exit(2)
    except Failure as error:
        typer.echo(f"dvm: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
