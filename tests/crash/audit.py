"""The books of an operator, the node, the relay and the customers, held against each other."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvm.ledger.sqlite import FILE
from dvm.nip90 import InvalidReceipt, parse_receipt, verify_chain
from dvm.nostr.event import Event

UNFINISHED = ("received", "paid", "waiting", "running")


@dataclass
class Books:
    """What each party knows in the end. `settled` is msat by payment hash, as the node has it."""

    database: Path
    settled: Mapping[str, int]
    requests: Mapping[str, Event]
    results: Iterable[Event]
    receipts: Iterable[Event]
    errors: Iterable[Event] = ()


def settled_payments(journal: Path, wallet: str = "shop") -> dict[str, int]:
    """Msat by payment hash of what a paper node's wallet was paid, read from the node's own journal."""
    amounts: dict[str, int] = {}
    settled: dict[str, int] = {}
    for line in journal.read_text().splitlines():
        record: list[Any] = json.loads(line)
        if record[0] == "invoice" and record[1] == wallet:
            amounts[record[3]] = record[5]
        elif record[0] == "paid" and record[1] in amounts:
            assert record[1] not in settled
            settled[record[1]] = amounts[record[1]]
    return settled


def open_matters(data: Path, settled: Mapping[str, int]) -> dict[str, int]:
    """What the daemon has still to do: empty when it is quiet."""
    with _open(data) as db:
        states = db.execute(f"SELECT count(*) FROM jobs WHERE state IN {UNFINISHED}").fetchone()[0]
        unsent = db.execute("SELECT count(*) FROM outbox WHERE sent_at IS NULL").fetchone()[0]
        credited = {row[0] for row in db.execute("SELECT payment_hash FROM payments WHERE settled_at IS NOT NULL")}
    found = {"jobs": states, "unsent": unsent, "uncredited": len(settled.keys() - credited)}
    return {name: count for name, count in found.items() if count}


def audit(books: Books) -> tuple[dict[str, int], list[str]]:
    """Figures, and everything that is wrong."""
    with _open(books.database) as db:
        wrong = [*_accounts(db, books), *_jobs(db, books), *_receipts(db, books)]
        return _figures(db, books), wrong


def _open(data: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{data / FILE}?mode=ro", uri=True, timeout=30)


def _accounts(db: sqlite3.Connection, books: Books) -> list[str]:
    """Rule 3, and the wallet: what Lightning owes us is what Lightning was paid."""
    wrong = []
    accounts: dict[str, int] = dict(db.execute("SELECT name, msat FROM accounts"))
    if total := sum(accounts.values()):
        wrong.append(f"the sum over all accounts is {total} msat")
    moved: Counter[str] = Counter()
    for debit, credit, msat in db.execute("SELECT debit, credit, msat FROM transfers"):
        moved[debit] -= msat
        moved[credit] += msat
    wrong += [
        f"{name} has {accounts.get(name, 0)} msat, its transfers say {moved[name]}"
        for name in accounts.keys() | moved.keys()
        if accounts.get(name, 0) != moved[name]
    ]
    if accounts.get("wallet", 0) != -sum(books.settled.values()):
        wrong.append(f"the wallet's account is {accounts.get('wallet')}, it was paid {sum(books.settled.values())}")
    credited = dict(db.execute("SELECT payment_hash, received_msat FROM payments WHERE settled_at IS NOT NULL"))
    wrong += [f"payment {key} of {msat} is credited as {credited.get(key)}" for key, msat in books.settled.items()
              if credited.get(key) != msat]  # fmt: skip
    wrong += [f"{key} was credited and never paid" for key in credited.keys() - books.settled.keys()]
    if held := {name: msat for name, msat in accounts.items() if name.startswith("held:")}:
        wrong.append(f"holds are left open: {held}")
    return wrong


def _jobs(db: sqlite3.Connection, books: Books) -> list[str]:
    """Each job once; a paid one delivered, or its money given back whole."""
    wrong = []
    results: defaultdict[str, set[str]] = defaultdict(set)
    for event in books.results:
        results[event.tag("e") or ""].add(event.id)
    rows = {row[0]: row[1:] for row in db.execute("SELECT id, state, result, customer FROM jobs")}
    wrong += [f"job {key} was never heard of" for key in books.requests.keys() - rows.keys()]
    for key, (state, result, _) in rows.items():
        expected = {result} if state == "delivered" else set()
        if results[key] != expected:
            wrong.append(f"job {key} is {state}, its results are {sorted(results[key])}, not {sorted(expected)}")
        if state in UNFINISHED:
            wrong.append(f"job {key} is still {state}")
    ended = db.execute("SELECT job, state, msat FROM holds")
    for job, state, msat in ended:
        moves = db.execute(
            "SELECT key, msat FROM transfers WHERE key IN (?, ?, ?, ?)",
            tuple(f"{what}:{job}" for what in ("hold", "settle", "change", "void")),
        )
        by_kind = {key.split(":")[0]: amount for key, amount in moves}
        out = by_kind.get("settle", 0) + by_kind.get("change", 0) + by_kind.get("void", 0)
        if by_kind.get("hold", 0) != msat or out != msat:
            wrong.append(f"the hold of {job} over {msat} was not ended by as much: {by_kind}")
        if (rows[job][0] == "delivered") != (state == "posted"):
            wrong.append(f"job {job} is {rows[job][0]}, its hold {state}")
    paid_and_open = db.execute(
        "SELECT job FROM payments JOIN jobs ON jobs.id = job WHERE settled_at IS NOT NULL AND state = 'quoted'"
    )
    wrong += [f"job {row[0]} was paid and is still quoted" for row in paid_and_open]
    for job, count in db.execute("SELECT job, count(*) FROM outbox WHERE role = 'result' GROUP BY job"):
        if count != 1:
            wrong.append(f"job {job} has {count} results")
    return wrong


def _receipts(db: sqlite3.Connection, books: Books) -> list[str]:
    """The published chains are whole, name each payment once, and end in the ledger's balance."""
    wrong = []
    chains: defaultdict[str, list[Any]] = defaultdict(list)
    for event in books.receipts:
        try:
            receipt = parse_receipt(event, None)
        except InvalidReceipt as error:
            wrong.append(f"receipt {event.id}: {error}")
            continue
        chains[receipt.customer].append(receipt)
    customers = {row[0] for row in db.execute("SELECT DISTINCT customer FROM jobs")}
    for customer in customers | chains.keys():
        chain = chains[customer]
        owed = db.execute("SELECT msat FROM accounts WHERE name = ?", (f"customer:{customer}",)).fetchone()
        stored = db.execute("SELECT count(*) FROM receipts WHERE customer = ?", (customer,)).fetchone()[0]
        paid = db.execute("SELECT payment_hash FROM payments WHERE customer = ?", (customer,))
        hashes = [row[0] for row in paid if row[0] in books.settled]
        wrong += [f"customer {customer[:8]}: {problem}" for problem in verify_chain(chain, paid=hashes)]
        if len({receipt.id for receipt in chain}) != stored:
            wrong.append(f"customer {customer[:8]}: {stored} receipts were made, {len(chain)} are published")
        last = max(chain, key=lambda receipt: receipt.seq, default=None)
        if (owed[0] if owed else 0) != (last.after if last else 0):
            wrong.append(f"customer {customer[:8]}: the balance is {owed}, the last receipt says {last and last.after}")
    return wrong


def _figures(db: sqlite3.Connection, books: Books) -> dict[str, int]:
    figures = {f"jobs {state}": count for state, count in db.execute("SELECT state, count(*) FROM jobs GROUP BY state")}
    one = {
        "delivered from balance": "SELECT count(*) FROM jobs WHERE state = 'delivered'"
        " AND id NOT IN (SELECT job FROM payments WHERE settled_at IS NOT NULL AND job IS NOT NULL)",
        "delivered at the second or third attempt": "SELECT count(*) FROM jobs WHERE state = 'delivered'"
        " AND attempts > 1",
        "receipts": "SELECT count(*) FROM receipts",
        "transfers": "SELECT count(*) FROM transfers",
        "revenue msat": "SELECT coalesce(sum(msat), 0) FROM accounts WHERE name = 'revenue'",
        "owed to customers msat": "SELECT coalesce(sum(msat), 0) FROM accounts WHERE name LIKE 'customer:%'",
        "sum over all accounts": "SELECT coalesce(sum(msat), 0) FROM accounts",
    }
    figures |= {name: db.execute(query).fetchone()[0] for name, query in one.items()}
    return figures | {"payments": len(books.settled), "paid msat": sum(books.settled.values())}
