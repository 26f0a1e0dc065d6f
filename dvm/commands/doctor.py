"""`dvm doctor`: tries everything that the daemon will need, and says what to do.

`dvm doctor --health` is what a container asks every few seconds: it reads the heartbeat and imports nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dvm.commands.common import CONFIG, DATA, RELAYS, AsJson, ConfigPath, DataPath, RelaysPath, print_json
from dvm.datadir import DataDir

if TYPE_CHECKING:
    from dvm.doctor import Report, State

_COLOURS: dict[State, str] = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failed": typer.colors.RED}


def main(
    config: ConfigPath = CONFIG,
    relays: RelaysPath = RELAYS,
    data: DataPath = DATA,
    health: Annotated[
        bool, typer.Option("--health", help="Only whether a daemon lives in --data, by its heartbeat.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try relays, wallet, models, clock and database, all at once; say what to do about each failure."""
    if health:
        healthy, word = DataDir(data).health()
        if as_json:
            print_json({"ok": healthy, "seen": word})
        else:
            typer.echo(word)
        raise typer.Exit(0 if healthy else 1)

    from dvm.doctor import examine

    if sys.stderr.isatty():
        typer.echo("Trying everything; that takes some seconds …", err=True)
    logging.disable(logging.CRITICAL)  # what relays and libraries log would stand between the findings
    try:
        report = asyncio.run(examine(config, relays, data, os.environ))
    finally:
        logging.disable(logging.NOTSET)
    if as_json:
        print_json({"ok": report.exit_code == 0, "checks": [asdict(finding) for finding in report.findings]})
    else:
        _print(report)
    raise typer.Exit(report.exit_code)


def _print(report: Report) -> None:
    name_width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        state = typer.style(f"{finding.state:<8}", fg=_COLOURS[finding.state], bold=finding.state != "ok")
        subject = f"{finding.subject}: " if finding.subject else ""
        typer.echo(f"{state} {finding.name:<{name_width}}  {subject}{finding.seen}")
        if finding.advice:
            typer.echo(f"{'':8} {'':{name_width}}  → {finding.advice}")
    counted = Counter(finding.state for finding in report.findings)
    parts = [f"{counted[state]} {state}" for state in _COLOURS if counted[state]]
    typer.echo(f"\n{', '.join(parts)}")
