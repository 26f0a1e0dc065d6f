"""The figures: what they are called, what they should be, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

WORSE = 1.1  # with a full database, no figure may be worse by more than a tenth
TIMES_BETTER = 10.0  # than the better peer


@dataclass(frozen=True, slots=True)
class Figure:
    """`more`: whether more of it is better. `aim`: what it should reach, or stay under; None: only shown.
    `decimals`: how exactly it is shown. `scale`: from the figure's unit in JSON to the one shown."""

    name: str
    label: str
    unit: str
    more: bool = False
    aim: float | None = None
    decimals: int = 1
    scale: float = 1.0

    def met(self, value: float) -> bool | None:
        if self.aim is None:
            return None
        return value > self.aim if self.more else value < self.aim

    def worse(self, empty: float, full: float) -> float:
        """How many times worse the figure is with the full database: 1.0 is equal, less is better."""
        if empty <= 0 or full <= 0:
            return 1.0 if full <= empty else float("inf")
        return empty / full if self.more else full / empty

    def shown(self, value: float | None) -> str:
        return "–" if value is None else f"{value * self.scale:,.{self.decimals}f}"


def _latency(load: str, about: str, what: str, aim: float | None = None) -> list[Figure]:
    spelled = {"quote": "request → quote", "result": "settlement → result"}[what]
    return [
        Figure(
            f"{load}_{what}_p{percent}_ms", f"{spelled}, {about}, p{percent}", "ms", aim=aim if percent == 50 else None
        )
        for percent in (50, 95, 99)
    ]


FIGURES = (
    Figure("start_seconds", "start to ready", "s", aim=1.0, decimals=2),
    Figure("invoice_floor_us", "floor: 1 verification, 4 signatures", "µs", decimals=0),
    Figure("invoice_jobs_per_second", "jobs paid by invoice", "1/s", more=True, aim=1000, decimals=0),
    Figure("invoice_daemon_us", "processor time of such a job", "µs", decimals=0),
    # "within 8×": 8.0 itself is.
    Figure("invoice_multiple", "that, as a multiple of the floor", "×", aim=8.0, decimals=1),
    Figure("balance_floor_us", "floor: 1 verification, 3 signatures", "µs", decimals=0),
    Figure("balance_jobs_per_second", "jobs paid from a balance", "1/s", more=True, aim=1000, decimals=0),
    Figure("balance_daemon_us", "processor time of such a job", "µs", decimals=0),
    Figure("balance_multiple", "that, as a multiple of its floor", "×", aim=8.0, decimals=1),
    *_latency("rest", "at rest", "quote", aim=5.0),
    *_latency("rest", "at rest", "result"),
    *_latency("half", "half load", "quote"),
    *_latency("half", "half load", "result"),
    Figure("bytes_per_quote", "memory per open quote", "kB", aim=10_000, scale=1e-3),
)
# The floors are the machine's: between two runs they differ with its mood, not with the database.
_NOT_COMPARED = frozenset({"invoice_floor_us", "balance_floor_us"})
_CASES = {"pushed": "pushes arrive", "lost": "pushes are lost", "restarted": "after a restart"}
_CONDITIONS = {"one": "each daemon on one processor", "all": "each on all processors"}


def verdicts(databases: dict[str, dict[str, Any]], peers: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each aim, what was reached, and whether it was met."""
    found: list[dict[str, Any]] = []
    for database, values in databases.items():
        for figure in FIGURES:
            if figure.aim is not None and figure.name in values:
                value = values[figure.name]
                aim = f"{'>' if figure.more else '<'} {figure.shown(figure.aim)} {figure.unit}"
                found.append(_verdict(f"{database}: {figure.label}", value, aim, bool(figure.met(value))))
    if "empty" in databases and "full" in databases:
        for figure, times in _ratios(databases["empty"], databases["full"]):
            found.append(_verdict(f"full/empty: {figure.name}", times, f"≤ {WORSE}", times <= WORSE))
    for condition, each in (peers or {}).items():
        if (better := times_better(each)) is not None:
            met = better >= TIMES_BETTER
            what = f"times the better peer, {_CONDITIONS[condition]}"
            found.append(_verdict(what, better, f"≥ {TIMES_BETTER:g}", met))
    return found


def open_quotes_verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the most open quotes cost the wallet no more calls a minute than the fewest."""
    few, many = rows[0], rows[-1]
    found = []
    for case, about in _CASES.items():
        least, most = few[case]["calls_per_minute"], many[case]["calls_per_minute"]
        what = f"wallet calls a minute, {many['number']:,} open quotes, {about}"
        # A tenth: a minute does not begin with a sweep, and now and then all that has settled is listed anew.
        found.append(_verdict(what, most, f"≤ {least:g}", most <= least * WORSE))
    return found


def _verdict(what: str, value: float, aim: str, met: bool) -> dict[str, Any]:
    return {"what": what, "value": value, "aim": aim, "met": met}


def _ratios(empty: dict[str, Any], full: dict[str, Any]) -> list[tuple[Figure, float]]:
    return [
        (figure, figure.worse(empty[figure.name], full[figure.name]))
        for figure in FIGURES
        if figure.name in empty and figure.name in full and figure.name not in _NOT_COMPARED
    ]


def times_better(peers: dict[str, Any]) -> float | None:
    """Our free jobs per second, as a multiple of the better peer's; None without a peer."""
    ours, *others = (each.get("jobs_per_second") for each in peers.values())
    rates = [rate for rate in others if rate]
    return ours / max(rates) if ours and rates else None


# ── for people ────────────────────────────────────────────────────────────────────────────────────


def show(report: dict[str, Any], console: Console) -> None:
    """The machine, a table of the figures, one of the peers, and what has to be known to believe them."""
    machine = report["machine"]
    console.print(
        f"{machine['processor']}, {machine['cores']} processors, {machine['system']}, Python {machine['python']},"
        f" SQLite {machine['sqlite']}, fsync {machine['fsync_ms']} ms, load average {machine['load_average']}"
    )
    if report["databases"]:
        console.print(_figures(report["databases"], report["sizes"]["history"]))
    if report.get("open_quotes"):
        console.print(_open_quotes(report["open_quotes"], report["sizes"]["sweep"]))
    if report.get("mixed"):
        console.print(_mixed(report["mixed"]["classes"]))
    if report.get("lookups"):
        console.print(_lookups(report["lookups"]["cases"]))
    for condition, each in (report["peers"] or {}).items():
        console.print(_peers(each, f"{report['sizes']['peer_jobs']} free echo jobs at once, {_CONDITIONS[condition]}"))
        if (times := times_better(each)) is not None:
            console.print(f"{times:.1f} times the better peer (aim: {TIMES_BETTER:g})")
    for note in report["notes"]:
        console.print(f"• {note}")


def _figures(databases: dict[str, dict[str, Any]], history: int) -> Table:
    table = Table(title="lightning-dvm")
    table.add_column("figure")
    for database in databases:
        table.add_column("empty database" if database == "empty" else f"{history:,} jobs in it", justify="right")
    both = len(databases) == 2
    if both:
        table.add_column("worse by", justify="right")
    table.add_column("unit")
    table.add_column("aim", justify="right")
    for figure in FIGURES:
        values = [each.get(figure.name) for each in databases.values()]
        if all(value is None for value in values):
            continue
        cells = [_marked(figure.shown(value), value is None or figure.met(value)) for value in values]
        if both:
            cells.append(_worse(figure, values))
        aim = "" if figure.aim is None else f"{'>' if figure.more else '<'} {figure.shown(figure.aim)}"
        table.add_row(figure.label, *cells, figure.unit, aim)
    return table


def _open_quotes(rows: list[dict[str, Any]], sweep: int) -> Table:
    table = Table(title=f"Open quotes; a sweep every {sweep} s, counted as if it were every minute")
    table.add_column("figure")
    for row in rows:
        table.add_column(f"{row['number']:,} open", justify="right")
    table.add_column("times", justify="right")
    table.add_column("unit")

    def add(label: str, unit: str, values: list[float | None], decimals: int = 1) -> None:
        cells = ["–" if value is None else f"{value:,.{decimals}f}" for value in values]
        times = f"{values[-1] / values[0]:.1f}" if values[0] and values[-1] else ""
        table.add_row(label, *cells, times, unit)

    for case, about in _CASES.items():
        add(f"wallet calls, {about}", "1/min", [row[case]["calls_per_minute"] for row in rows])
    for case, about in _CASES.items():
        add(f"processor time, {about}", "ms/sweep", [row[case]["sweep_ms"] for row in rows], 0)
    for what, about in (("start", "settlement → start"), ("result", "settlement → result")):
        for percent in (50, 99):
            values = [row["pushed"][f"{what}_p{percent}_ms"] for row in rows]
            add(f"{about}, pushes arrive, p{percent}", "ms", values, 0)
    for percent in (50, 99):
        values = [row["lost"][f"start_p{percent}_ms"] / sweep / 1e3 for row in rows]
        add(f"settlement → start, pushes are lost, p{percent}", "sweeps", values, 2)
    add("memory per open quote", "kB", [_scaled(row.get("bytes_per_quote")) for row in rows])
    return table


def _mixed(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Mixed jobs: processor time, and the floor of their own cryptography")
    table.add_column("jobs")
    for heading in ("µs/job", "floor µs", "× floor", "least to most", "verified, signed, hashed, decrypted, encrypted"):
        table.add_column(heading, justify="right")
    for row in rows:
        spread = f"{row['multiple_least']:.1f} to {row['multiple_most']:.1f}"
        counts = " ".join(str(count) for count in row["operations"].values()) if row["operations"] else ""
        figures = (f"{row['daemon_us']:,.0f}", f"{row['floor_us']:,.0f}", f"{row['multiple']:.1f}")
        table.add_row(row["name"], *figures, spread, counts)
    return table


def _lookups(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Looking up where customers read (NIP-65): free jobs")
    table.add_column("customers")
    for heading in ("jobs/s without", "with", "µs/job without", "with", "more", "least to most"):
        table.add_column(heading, justify="right")
    for row in rows:
        figures = [f"{row[figure]:,.0f}" for figure in ("rate_off", "rate_on", "off_us", "on_us", "more_us")]
        table.add_row(row["name"], *figures, f"{row['more_least']:,.0f} to {row['more_most']:,.0f}")
    return table


def _scaled(value: float | None) -> float | None:
    return None if value is None else value / 1e3


def _worse(figure: Figure, values: list[float | None]) -> str:
    empty, full = values
    if empty is None or full is None or figure.name in _NOT_COMPARED:
        return ""
    times = figure.worse(empty, full)
    return _marked(f"{times - 1:+.0%}", times <= WORSE)


def _marked(text: str, met: bool | None) -> str:
    return f"[red]{text}[/red]" if met is False else text


def _peers(peers: dict[str, Any], title: str) -> Table:
    table = Table(title=title)
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("jobs/s", lambda each: f"{each['jobs_per_second']:,.0f}"),
        ("median ms", lambda each: f"{each['result_p50_ms']:,.0f}"),
        ("processor µs/job", lambda each: f"{each['daemon_us']:,.0f}"),
        ("memory MB", lambda each: f"{each['resident'] / 1e6:,.0f}"),
        ("unanswered", lambda each: str(each["lost"])),
    ]
    table.add_column("daemon")
    for heading, _ in columns:
        table.add_column(heading, justify="right")
    for name, each in peers.items():
        if "skipped" in each:
            table.add_row(name, f"skipped: {each['skipped']}", *[""] * (len(columns) - 1))
        else:
            table.add_row(name, *(cell(each) for _, cell in columns))
    return table


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the figures."""
    machine = report["machine"]
    found = []
    if machine["busy"]:
        found.append(f"the machine was busy (load average {machine['load_average']}): these figures mean little")
    if machine["daemon_core"] is None:
        found.append("one processor: nothing was pinned; daemon, relay and customer shared it")
    if machine["fsync_ms"] < 0.02:
        found.append("an fsync costs nothing here (a memory disk?): on a real one durable commits cost more")
    for row in report.get("open_quotes") or ():
        if any(row["lost_on_the_way"].values()) or row["log"]:
            about = f"lost on the way {row['lost_on_the_way']}, the daemon complained: {row['log']}"
            found.append(f"{row['number']:,} open quotes: {about}")
    for name in ("mixed", "lookups"):
        found += [
            f"{name}: lost on the way {each['lost']}, the daemon complained: {each['log']}"
            for each in [report.get(name) or {}]
            if each and (any(each["lost"].values()) or _unusual(each["log"]))
        ]
    for database, values in report["databases"].items():
        loads = [load for load in ("invoice", "balance") if f"{load}_rounds" in values]
        found += [_bottleneck(database, load, values) for load in loads]
        for load in ("invoice", "balance", "memory"):
            lost = values.get(f"{load}_lost")
            if lost and any(lost.values()):
                found.append(
                    f"{database}, {load}: of what the relay lost, {lost['answers']} answers and {lost['requests']}"
                    f" requests were made good; {lost['jobs']} jobs had no end; {lost['connections']} connections broke"
                )
            if log := _unusual(values.get(f"{load}_log", {})):
                found.append(f"{database}, {load}: the daemon complained: {log}")
    return found


def _unusual(log: dict[str, int]) -> dict[str, int]:
    return {key: count for key, count in log.items() if "paper" not in key}


def _bottleneck(database: str, load: str, values: dict[str, Any]) -> str:
    daemon, others = values[f"{load}_daemon_busy"], values[f"{load}_others_busy"]
    alone = 1e6 / values[f"{load}_daemon_us"]
    who = (
        "the daemon is what limits"
        if daemon > 0.9
        else "relay and customer are what limits"
        if others > 0.9
        else "neither is busy all the time: something is waited for (the disk, or others on this machine)"
    )
    return (
        f"{database}, {load}: daemon's processor {daemon:.0%} busy; relay {values[f'{load}_relay_us']:.0f} µs and"
        f" customer {values[f'{load}_customer_us']:.0f} µs a job, together {others:.0%} of a processor: {who}."
        f" By its processor time alone the daemon would do {alone:,.0f} jobs/s"
    )
