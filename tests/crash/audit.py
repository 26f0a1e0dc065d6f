"""The books of an operator, the node, the relay and the customers, held against each other."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvm.ledger.audit import audit as audit_books
from dvm.ledger.sqlite import FILE
from dvm.lightning.paper_books import PaperBooks
from dvm.nip90 import InvalidReceipt, parse_receipt, verify_chain
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.crash.money import Withdrawn, Zapped

UNFINISHED = ("received", "paid", "waiting", "running", "settling")


@dataclass
class Node:
    """What a paper node says in the end of one of its wallets, from its own journal. Msat by payment hash:
    `settled` came in, `left` went out. `held` still waits, `sent_back` was paid and then cancelled."""

    settled: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    sent_back: set[str] = field(default_factory=set)
    holds: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, journal: Path, wallet: str = "shop") -> Node:
        books = PaperBooks()
        for line in journal.read_text().splitlines():
            books.enter(json.loads(line))
        node = cls()
        for each in books.made.get(wallet, []):
            if each.settled_at is not None:
                node.settled[each.payment_hash] = each.msat
            elif each.held:
                node.held.add(each.payment_hash)
            elif each.accepted_at is not None:
                node.sent_back.add(each.payment_hash)
            if each.hold is not None:
                node.holds.add(each.payment_hash)
        node.left = {each.payment_hash: each.msat for each in books.paid.get(wallet, []) if each.settled_at is not None}
        return node


@dataclass
class Books:
    """What each party knows in the end."""

    database: Path
    node: Node
    requests: Mapping[str, Event]
    results: Iterable[Event]
    receipts: Iterable[Event]
    keys: Mapping[str, Keys] = field(default_factory=dict)
    zaps: Mapping[str, Zapped] = field(default_factory=dict)
    withdrawals: Mapping[str, Withdrawn] = field(default_factory=dict)
    zap_receipts: Iterable[Event] = ()


def open_matters(data: Path, node: Node) -> dict[str, int]:
    """What the daemon has still to do: empty when it is quiet."""
    with _open(data) as db:
        one = {
            "jobs": f"SELECT count(*) FROM jobs WHERE state IN {UNFINISHED}",
            "unsent": "SELECT count(*) FROM outbox WHERE sent_at IS NULL",
            "payouts": "SELECT count(*) FROM payouts WHERE state = 'reserved'",
            "promises": "SELECT count(*) FROM payments WHERE promise = 'accepted' AND settled_at IS NULL"
            " AND cancelled_at IS NULL",
        }
        found = {name: db.execute(query).fetchone()[0] for name, query in one.items()}
        credited = {row[0] for row in db.execute("SELECT payment_hash FROM payments WHERE settled_at IS NOT NULL")}
    found |= {"uncredited": len(node.settled.keys() - credited), "held": len(node.held)}
    return {name: count for name, count in found.items() if count}


_SEEN = {
    "zapped": "SELECT count(*) FROM payments WHERE source = 'zap' AND settled_at IS NOT NULL",
    "hold invoices settled": "SELECT count(*) FROM payments WHERE hold = 1 AND settled_at IS NOT NULL",
    "withdrawals paid": "SELECT count(*) FROM payouts WHERE state = 'paid'",
}


def missing_of(data: Path) -> list[str]:
    """What has not happened yet, of what each run must have seen."""
    with _open(data) as db:
        return [name for name, query in _SEEN.items() if not db.execute(query).fetchone()[0]]


def audit(books: Books) -> tuple[dict[str, int], list[str]]:
    """Figures, and everything that is wrong."""
    with _open(books.database) as db:
        wrong = [*audit_books(db), *_accounts(db, books), *_jobs(db, books), *_promises(db, books), *_zaps(db, books)]
        wrong += [*_withdrawals(db, books), *_receipts(db, books)]
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
    came, left = sum(books.node.settled.values()), sum(books.node.left.values())
    if accounts.get("wallet", 0) != left - came:
        wrong.append(f"the wallet's account is {accounts.get('wallet')}, {came} came and {left} left")
    credited = dict(db.execute("SELECT payment_hash, received_msat FROM payments WHERE settled_at IS NOT NULL"))
    wrong += [f"payment {key} of {msat} is credited as {credited.get(key)}" for key, msat in books.node.settled.items()
              if credited.get(key) != msat]  # fmt: skip
    wrong += [f"{key} was credited and never paid" for key in credited.keys() - books.node.settled.keys()]
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
        # A cancelled job was stopped while it ran, and billed for what it had used; or it had not begun.
        if rows[job][0] != "cancelled" and (rows[job][0] == "delivered") != (state == "posted"):
            wrong.append(f"job {job} is {rows[job][0]}, its hold {state}")
    paid_and_open = db.execute(
        "SELECT job FROM payments JOIN jobs ON jobs.id = job WHERE settled_at IS NOT NULL AND state = 'quoted'"
        " AND received_msat >= quote_msat"
    )
    wrong += [f"job {row[0]} was paid and is still quoted" for row in paid_and_open]
    for job, count in db.execute("SELECT job, count(*) FROM outbox WHERE role = 'result' GROUP BY job"):
        if count != 1:
            wrong.append(f"job {job} has {count} results")
    return wrong


def _promises(db: sqlite3.Connection, books: Books) -> list[str]:
    """Exactly one of settled and delivered, or sent back and not delivered."""
    wrong = []
    rows = db.execute("SELECT payment_hash, job, state FROM payments JOIN jobs ON jobs.id = job WHERE hold = 1")
    for payment_hash, job, state in rows:
        settled = payment_hash in books.node.settled
        others = [each for each in books.node.settled if each != payment_hash and each in _payments_of(db, job)]
        if settled and state != "delivered":
            wrong.append(f"hold invoice {payment_hash} was settled, its job {job} is {state}")
        if state == "delivered" and payment_hash in books.node.sent_back and not others:
            paid = db.execute("SELECT 1 FROM holds WHERE job = ? AND state = 'posted'", (job,)).fetchone()
            if paid is None:
                wrong.append(f"hold invoice {payment_hash} was sent back, its job {job} is delivered")
    return wrong


def _payments_of(db: sqlite3.Connection, job: str) -> set[str]:
    return {row[0] for row in db.execute("SELECT payment_hash FROM payments WHERE job = ?", (job,))}


def _zaps(db: sqlite3.Connection, books: Books) -> list[str]:
    """Each zap stands with whom it must, and has the one receipt that we owe its relays."""
    wrong = []
    receipts = Counter(event.tag("bolt11") for event in {each.id: each for each in books.zap_receipts}.values())
    for payment_hash, zap in books.zaps.items():
        row = db.execute("SELECT customer, job FROM payments WHERE payment_hash = ?", (payment_hash,)).fetchone()
        owner = books.requests[zap.job].pubkey if zap.job else zap.payer
        if row != (owner, zap.job):
            wrong.append(f"zap {payment_hash} is {row}, not {(owner, zap.job)}")
        expected = 1 if payment_hash in books.node.settled else 0
        if receipts[zap.bolt11] != expected:
            wrong.append(f"zap {payment_hash} has {receipts[zap.bolt11]} receipts, not {expected}")
    return wrong


def _withdrawals(db: sqlite3.Connection, books: Books) -> list[str]:
    """What left is what was withdrawn: each once, to the invoice that was asked for, by who owned it."""
    wrong = []
    rows = {row[0]: row[1:] for row in db.execute("SELECT id, customer, payment_hash, msat, state FROM payouts")}
    paid = {hash_: msat for _, hash_, msat, state in rows.values() if state == "paid"}
    if paid != books.node.left:
        wrong.append(f"the books say that {paid} was paid out, the node {books.node.left}")
    for key, (customer, payment_hash, msat, state) in rows.items():
        asked = books.withdrawals.get(key)
        if state == "reserved":
            wrong.append(f"withdrawal {key} is still reserved")
        if asked is None or asked.customer != customer:
            wrong.append(f"withdrawal {key} was never asked for")
        elif state == "paid" and (asked.payment_hash, asked.msat) != (payment_hash, msat):
            wrong.append(f"withdrawal {key} went elsewhere")
    return wrong


def _receipts(db: sqlite3.Connection, books: Books) -> list[str]:
    """The published chains are whole, name each payment once, and end in the ledger's balance."""
    wrong = []
    chains: defaultdict[str, list[Any]] = defaultdict(list)
    for event in books.receipts:
        try:
            receipt = parse_receipt(event, books.keys.get(event.tag("p") or ""))
        except InvalidReceipt as error:
            wrong.append(f"receipt {event.id}: {error}")
            continue
        chains[receipt.customer].append(receipt)
    customers = {row[0] for row in db.execute("SELECT customer FROM jobs UNION SELECT customer FROM payments")}
    for customer in customers | chains.keys():
        chain = chains[customer]
        owed = db.execute("SELECT msat FROM accounts WHERE name = ?", (f"customer:{customer}",)).fetchone()
        stored = db.execute("SELECT count(*) FROM receipts WHERE customer = ?", (customer,)).fetchone()[0]
        paid = db.execute("SELECT payment_hash FROM payments WHERE customer = ?", (customer,))
        hashes = [row[0] for row in paid if row[0] in books.node.settled]
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
        **_SEEN,
        "hold invoices sent back": "SELECT count(*) FROM payments"
        " WHERE promise IS NOT NULL AND cancelled_at IS NOT NULL",
        "withdrawals failed or refused": "SELECT count(*) FROM payouts WHERE state IN ('failed', 'refused')",
        "withdrawn msat": "SELECT coalesce(sum(msat + fee_msat), 0) FROM payouts WHERE state = 'paid'",
        "sum over all accounts": "SELECT coalesce(sum(msat), 0) FROM accounts",
    }
    figures |= {name: db.execute(query).fetchone()[0] for name, query in one.items()}
    return figures | {"payments": len(books.node.settled), "paid msat": sum(books.node.settled.values())}
