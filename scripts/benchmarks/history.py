"""A shop's past: finished jobs written straight into the ledger's tables, in one transaction.

The tables are the ledger's own (its migrations make them), the events are made by the code that makes them
in the daemon; only their signatures are random bytes, since nobody verifies what he signed himself, and real
ones would take a minute. The money adds up: `check` compares accounts, transfers, holds and receipts.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvm.ledger import Link, Received, SqliteStore, queries
from dvm.ledger.money import REVENUE, WALLET, customer, held
from dvm.ledger.sqlite import FILE, read
from dvm.lightning.paper_node import PaperNode
from dvm.models import Usage
from dvm.nip90 import Answers, Work, cost_msat, make_receipt, request_draft, text_sha256
from dvm.nostr import Keys
from dvm.nostr.event import Event
from dvm.pricing import PerRequest, PerToken, Price, price_to_json
from dvm.pricing.prices import by_class, quote

KIND = 5050
DAYS = 90
DAY = 86_400
MAX_OUTPUT = 1000
PRICES: tuple[Price, ...] = (PerRequest(21_000), PerToken(300_000, 75_000, 2_500_000))
CHUNK = 1000  # jobs whose rows are in memory at once
FAILED, EXPIRED = 0.03, 0.05
CHARS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
WORDS = ["the", "sun", "sat", "on", "a", "wall", "and", "bird", "sang", "of", "rain", "that", "no", "winter", "had"]
TABLES = ("jobs", "transfers", "holds", "payments", "receipts", "outbox", "usage")


async def write_history(directory: Path, jobs: int, seed: int = 1) -> None:
    """A database in `directory` with so many finished jobs of a fiftieth as many customers."""
    await (await SqliteStore.open(directory)).close()
    db = sqlite3.connect(directory / FILE, isolation_level=None)
    try:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("BEGIN IMMEDIATE")
        shop = _Shop(random.Random(seed), jobs, int(time.time()))
        for start in range(0, jobs, CHUNK):
            for number in range(start, min(start + CHUNK, jobs)):
                shop.job(number)
            shop.write(db)
        shop.write_accounts(db)
        db.execute("COMMIT")
        check(db)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        db.close()


async def write_balances(directory: Path, customers: Iterable[str], msat: int) -> None:
    """Give each of these customers (public keys) a top-up of `msat`, in a database that may have a past."""
    await (await SqliteStore.open(directory)).close()
    db = sqlite3.connect(directory / FILE, isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        shop = _Shop(random.Random(2), 50, int(time.time()))
        for pubkey in customers:
            shop.deposit(pubkey, None, msat, shop.now)
        shop.write(db)
        shop.write_accounts(db)
        db.execute("COMMIT")
    finally:
        db.close()


async def fund(directory: Path) -> None:
    """Put what customers are owed into the paper wallet: a shop whose wallet holds less sells nothing new."""
    if not (directory / FILE).exists():
        return
    accounts = read(directory, queries.accounts)
    node = PaperNode(directory)
    await node.start()
    try:
        node.open_wallet("shop", accounts["customers"] + accounts["held"])
    finally:
        await node.close()


def check(db: sqlite3.Connection) -> None:
    """Whether the books are in order. Raises ValueError with what is not."""
    accounts: dict[str, int] = dict(db.execute("SELECT name, msat FROM accounts WHERE msat <> 0"))
    moved: Counter[str] = Counter()
    for side, sign in (("debit", -1), ("credit", 1)):
        moved.update({name: sign * msat for name, msat in _sums(db, side).items()})
    last = "SELECT customer, after, max(seq), count(*), sum(paid) - sum(cost) FROM receipts GROUP BY customer"
    problems = []
    if sum(accounts.values()):
        problems.append("the sum over all accounts is not zero")
    if accounts != {name: msat for name, msat in moved.items() if msat}:
        problems.append("the accounts are not the sums of their transfers")
    for pubkey, after, seq, count, total in db.execute(last):
        if not after == accounts.get(customer(pubkey), 0) == total or seq != count:
            problems.append(f"the receipts of {pubkey} do not end with the balance, or have a gap")
            break
    if db.execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()[0]:
        problems.append("a hold of a finished job is open")
    if problems:
        raise ValueError("; ".join(problems))


def _sums(db: sqlite3.Connection, side: str) -> dict[str, int]:
    return dict(db.execute(f"SELECT {side}, sum(msat) FROM transfers GROUP BY 1"))


class _Pen(Keys):
    """A key pair whose signatures are none."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance.randbytes(32))
        self._chance = chance

    def sign_digest(self, digest: bytes) -> bytes:
        return self._chance.randbytes(64)


@dataclass(slots=True)
class _Chain:
    """A customer's receipts so far."""

    seq: int = 0
    prev: str | None = None
    balance: int = 0


@dataclass(slots=True)
class _Deal:
    """One job on its way through the books."""

    request: Event
    price: Price
    text: str
    answers: Answers
    at: int
    input_tokens: int
    quote_msat: int
    paid: list[Received] = field(default_factory=list)


class _Shop:
    def __init__(self, chance: random.Random, jobs: int, now: int) -> None:
        self.now = now
        self._chance = chance
        self._jobs = jobs
        self._keys = _Pen(chance)
        self._customers = [_Pen(chance) for _ in range(max(1, jobs // 50))]
        self._chains: defaultdict[str, _Chain] = defaultdict(_Chain)
        self._accounts: Counter[str] = Counter()
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}

    # What happened

    def job(self, number: int) -> None:
        """One job, from its request to its end."""
        chance = self._chance
        at = self.now - DAYS * DAY + number * (DAYS * DAY - 2 * DAY) // self._jobs
        keys = chance.choice(self._customers)
        price = chance.choice(PRICES)
        request = request_draft(KIND, [self._text(5, 40)]).sign(keys, at)
        tokens = len(request.tags[0][1]) // 4
        msat = quote(price, tokens, MAX_OUTPUT).msat
        deal = _Deal(request, price, self._text(10, 80), Answers(self._keys, request), at, tokens, msat)
        luck = chance.random()
        if self._chains[keys.pubkey].balance < msat:
            if luck < EXPIRED:
                self._job_row(deal, "expired", None, "not paid in time")
                self._invoice(deal, paid=False)
                return
            self._invoice(deal, paid=True)
        if luck < EXPIRED + FAILED:
            self._fail(deal)
        else:
            self._deliver(deal)

    def deposit(self, pubkey: str, job: str | None, msat: int, at: int) -> Received:
        """A settled payment, for a job or (None) as a top-up with a receipt of its own."""
        received = self._payment(pubkey, job, msat, self._bolt11(), at, settled_at=at + 5)
        self._move(f"invoice:{received.payment_hash}", WALLET, customer(pubkey), msat, at + 5)
        if job is None:
            self._receipt(pubkey, None, 0, (received,), None, at + 5)
        return received

    def _deliver(self, deal: _Deal) -> None:
        job, pubkey = deal.request.id, deal.request.pubkey
        cached = deal.input_tokens // 4
        usage = Usage(deal.input_tokens - cached, cached, len(deal.text) // 4, 0)
        prices = by_class(deal.price)
        used = {"input": usage.input, "cached": usage.cached, "output": usage.output}
        cost = min(cost_msat(used, prices), deal.quote_msat)
        result = deal.answers.result(deal.text, deal.at + 9, msat=deal.quote_msat)
        self._job_row(deal, "delivered", result.id, None)
        self._hold(deal, "posted")
        self._move(f"settle:{job}", held(job), REVENUE, cost, deal.at + 9)
        if deal.quote_msat > cost:
            self._move(f"change:{job}", held(job), customer(pubkey), deal.quote_msat - cost, deal.at + 9)
        self._say(result, job, "result")
        done = {"thoughts": 0, "estimated": "", "finish": "stop", "msat": cost, "at": deal.at + 9}
        self._row("usage", job=job, kind=KIND, model="echo", **used, **done)
        work = Work(
            job=job,
            kind=KIND,
            model="echo",
            version="echo",
            input_sha256=text_sha256(deal.request.tags[0][1]),
            finish="stop",
            result=result.id,
            output_sha256=text_sha256(deal.text),
            usage=usage,
            prices=prices,
        )
        self._receipt(pubkey, job, cost, deal.paid, work, deal.at + 10)

    def _fail(self, deal: _Deal) -> None:
        job, pubkey = deal.request.id, deal.request.pubkey
        self._job_row(deal, "failed", None, "unavailable")
        self._hold(deal, "voided")
        self._move(f"void:{job}", held(job), customer(pubkey), deal.quote_msat, deal.at + 9)
        self._say(deal.answers.error("unavailable", "the model could not be used", deal.at + 9), job, "error")
        if deal.paid:
            self._receipt(pubkey, job, 0, deal.paid, None, deal.at + 10)

    def _invoice(self, deal: _Deal, *, paid: bool) -> None:
        job, pubkey = deal.request.id, deal.request.pubkey
        if paid:
            deal.paid.append(self.deposit(pubkey, job, deal.quote_msat, deal.at))
            bolt11 = self._rows["payments"][-1]["bolt11"]
        else:
            bolt11 = self._bolt11()
            self._payment(pubkey, job, deal.quote_msat, bolt11, deal.at, settled_at=None)
        text = f"text generation by echo: at most {deal.quote_msat // 1000} sats"
        self._say(deal.answers.payment_required(deal.quote_msat, bolt11, text, deal.at), job, "quote")

    def _hold(self, deal: _Deal, state: str) -> None:
        job, pubkey = deal.request.id, deal.request.pubkey
        self._row("holds", job=job, customer=pubkey, msat=deal.quote_msat, state=state)
        self._move(f"hold:{job}", customer(pubkey), held(job), deal.quote_msat, deal.at + 6)

    # Rows

    def _job_row(self, deal: _Deal, state: str, result: str | None, reason: str | None) -> None:
        self._row(
            "jobs",
            id=deal.request.id,
            customer=deal.request.pubkey,
            kind=KIND,
            state=state,
            request=deal.request.to_json(),
            received_at=deal.at,
            stamp=deal.at + 10,
            model="echo",
            price=json.dumps(price_to_json(deal.price)),
            input_tokens=deal.input_tokens,
            max_output=MAX_OUTPUT,
            quote_msat=deal.quote_msat,
            expires_at=deal.at + DAY,
            attempts=0 if state == "expired" else 1,
            reason=reason,
            result=result,
        )

    def _payment(
        self, pubkey: str, job: str | None, msat: int, bolt11: str, at: int, *, settled_at: int | None
    ) -> Received:
        payment_hash = self._chance.randbytes(32).hex()
        self._row(
            "payments",
            payment_hash=payment_hash,
            source="bolt11",
            customer=pubkey,
            job=job,
            bolt11=bolt11,
            msat=msat,
            created_at=at,
            expires_at=at + DAY,
            received_msat=msat if settled_at else None,
            settled_at=settled_at,
            receipt=None,
        )
        return Received("bolt11", payment_hash, msat)

    def _receipt(
        self, pubkey: str, job: str | None, cost: int, paid: Iterable[Received], work: Work | None, at: int
    ) -> None:
        chain = self._chains[pubkey]
        payments = tuple(paid)
        total = sum(payment.msat for payment in payments)
        link = Link(chain.seq + 1, chain.prev, chain.balance, chain.balance + total - cost, cost, payments)
        event = make_receipt(self._keys, pubkey, link, at, work=work, d="lightning-dvm")
        self._row(
            "receipts",
            id=event.id,
            customer=pubkey,
            seq=link.seq,
            prev=link.prev,
            job=job,
            paid=total,
            cost=cost,
            after=link.after,
            at=at,
        )
        if payments:
            self._rows["payments"][-1]["receipt"] = event.id
        self._chains[pubkey] = _Chain(link.seq, event.id, link.after)
        self._say(event, job, "receipt")

    def _say(self, event: Event, job: str | None, role: str) -> None:
        at = event.created_at
        sent = {"at": at, "sent_at": at + 1}
        self._row("outbox", id=event.id, job=job, role=role, payload=event.to_json(), relays="[]", **sent)

    def _move(self, key: str, debit: str, credit: str, msat: int, at: int) -> None:
        what, ref = key.split(":")
        self._row("transfers", what=what, ref=ref, debit=debit, credit=credit, msat=msat, at=at)
        self._accounts[debit] -= msat
        self._accounts[credit] += msat

    def _row(self, table: str, **fields: Any) -> None:
        self._rows[table].append(fields)

    def write(self, db: sqlite3.Connection) -> None:
        """The rows so far, those first that others refer to."""
        for table, rows in self._rows.items():
            if rows:
                names = ", ".join(rows[0])
                marks = ", ".join(f":{name}" for name in rows[0])
                db.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
                rows.clear()

    def write_accounts(self, db: sqlite3.Connection) -> None:
        """What the transfers come to. The account behind a job goes with its hold."""
        rows = [(name, msat) for name, msat in self._accounts.items() if not name.startswith("held:")]
        db.executemany(
            "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET msat = msat + excluded.msat", rows
        )
        assert not any(msat for name, msat in self._accounts.items() if name.startswith("held:"))

    # Texts

    def _text(self, least: int, most: int) -> str:
        return " ".join(self._chance.choices(WORDS, k=self._chance.randint(least, most)))

    def _bolt11(self) -> str:
        """As long as a real one of the paper wallet's; nobody decodes it any more."""
        return "lnbcrt210n1" + "".join(self._chance.choices(CHARS, k=300))
