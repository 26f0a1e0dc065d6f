"""`dvm report`: usage and earnings out of the ledger, beside a running daemon."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from dvm.commands.common import (
    CONFIG,
    DATA,
    RELAYS,
    AsJson,
    ConfigPath,
    DataPath,
    Failure,
    RelaysPath,
    print_json,
    sats,
)
from dvm.ledger import StoreError, UsageRow, queries
from dvm.ledger.sqlite import read

DAY = 86_400
MAX_WIDTH = 500  # columns
NOT_BILLED = "not billed"
COUNTS = ("jobs", "input", "cached", "output", "thoughts", "msat")


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of the rows: jobs, tokens, earnings in msat."""

    jobs: int
    input: int
    cached: int
    output: int
    thoughts: int
    msat: int


def main(
    config: ConfigPath = CONFIG,
    relays: RelaysPath = RELAYS,
    data: DataPath = DATA,
    since: Annotated[
        int, typer.Option("--since", min=1, max=36_500, metavar="DAYS", help="How many days, today included (UTC).")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Usage and earnings by day, kind and model. Reads the database only; neither file is needed."""
    start = (int(time.time()) // DAY - since + 1) * DAY
    first = time.strftime("%Y-%m-%d", time.gmtime(start))

    def query(db: sqlite3.Connection) -> tuple[list[UsageRow], dict[str, int]]:
        return queries.report(db, start), queries.accounts(db)

    try:
        rows, accounts = read(data, query)
    except StoreError as error:
        raise Failure(str(error)) from None
    if as_json:
        print_json(_as_json(first, rows, accounts))
    else:
        _print(first, rows, accounts)


def _total(rows: Iterable[UsageRow]) -> Totals:
    rows = list(rows)
    return Totals(*(sum(getattr(row, name) for row in rows) for name in COUNTS))


def _billed(rows: Sequence[UsageRow], billed: bool) -> list[UsageRow]:
    return [row for row in rows if row.billed is billed]


def _as_json(first: str, rows: Sequence[UsageRow], accounts: dict[str, int]) -> dict[str, Any]:
    billed, unbilled = _billed(rows, True), _billed(rows, False)
    models = dict.fromkeys(sorted(row.model for row in billed))
    return {
        "since": first,
        "rows": [asdict(row) for row in rows],
        "models": {name: asdict(_total(row for row in billed if row.model == name)) for name in models},
        "total": asdict(_total(billed)),
        "unbilled": asdict(_total(unbilled)),
        # The wallet's account is what Lightning owes the ledger, a debit: shown as what came in.
        "accounts": {name: -msat if name == "wallet" else msat for name, msat in accounts.items()},
    }


def _print(first: str, rows: Sequence[UsageRow], accounts: dict[str, int]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if rows:
        table = Table(box=SIMPLE_HEAD, title=f"Since {first} (UTC); tokens", title_justify="left", title_style="")
        table.collapse_padding, table.pad_edge = True, False  # the usual fits into 80 columns
        for name in ("day", "kind", "model"):
            table.add_column(name, no_wrap=True)
        for name in (*COUNTS[:-1], "earned"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(row.day, str(row.kind), row.model, *_figures(row, row.billed))
        table.add_section()
        table.add_row("total", "", "", *_figures(_total(_billed(rows, True))))
        if unbilled := _billed(rows, False):
            table.add_row("", "", "", *_figures(_total(unbilled), False))
        # Wider than the terminal rather than with digits cut off; in a pipe rich believes in 80 columns.
        whole = console.measure(table, options=console.options.update(max_width=MAX_WIDTH)).maximum
        console.width = max(console.width, whole)
        console.print(table)
    else:
        console.print(f"No job was answered since {first} (UTC).\n")
    owed = accounts["customers"] + accounts["held"]
    console.print(f"All time: {sats(accounts['revenue'])} earned; {sats(owed)} are the customers' own.")


def _figures(of: UsageRow | Totals, billed: bool = True) -> list[str]:
    counts = [getattr(of, name) for name in COUNTS[:-1]]
    return [*(f"{count:,}" for count in counts), sats(of.msat) if billed else NOT_BILLED]
