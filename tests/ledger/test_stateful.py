"""The ledger under random interleavings of everything that can happen to it (money.md, "Never lost")."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from dvm.ledger import ConflictError, Job, JobState, LedgerError, PendingPayment, SqliteStore
from tests.ledger.books import (
    NOW,
    USED,
    check_books,
    database,
    job,
    payment,
    post,
    publication,
    receipt_for,
    terms,
    void,
)

CUSTOMERS = st.sampled_from(["alice", "bob"])
MSATS = st.integers(1, 60).map(lambda sats: sats * 1000)
ENDS_UNPAID = st.sampled_from([JobState.REJECTED, JobState.EXPIRED, JobState.CANCELLED])


class Ledger(RuleBasedStateMachine):
    """Every operation at any time, in any order, twice as well; a refusal must change nothing."""

    jobs = Bundle("jobs")
    invoices = Bundle("invoices")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.deposited = 0
        self.serial = 0

    def run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        """Do it; a job that has moved on refuses, and that is fine."""
        try:
            return self.loop.run_until_complete(operation)
        except ConflictError:
            return None

    @initialize()
    def open(self) -> None:
        self.store = self.loop.run_until_complete(SqliteStore.open(self.directory))

    @rule(target=jobs, customer=CUSTOMERS)
    def receive(self, customer: str) -> Job:
        self.serial += 1
        new = job(self.serial, customer)
        assert self.run(self.store.open_job(new)).known is None
        assert self.run(self.store.open_job(new)).known is not None
        return new

    @rule(of=jobs, msat=MSATS)
    def hold_from_balance(self, of: Job, msat: int) -> None:
        before = self.run(self.store.balance(of.customer)).available
        held = self.run(self.store.hold(of.id, terms(msat), NOW))
        assert held in (None, msat <= before)

    @rule(target=invoices, of=jobs, msat=MSATS)
    def quote(self, of: Job, msat: int) -> PendingPayment:
        invoice = payment(of, msat)
        self.run(self.store.quote(of.id, terms(msat), invoice, publication("quote", of.id), NOW))
        return invoice

    @rule(invoice=invoices, more=st.integers(-1500, 5000))
    def settle(self, invoice: PendingPayment, more: int) -> None:
        """The exact amount, too little or too much, once or again."""
        msat = max(1, invoice.msat + more)
        deposit = self.run(self.store.deposit(invoice.payment_hash, msat, NOW, receipt_for(invoice.customer)))
        if deposit and deposit.fresh:
            self.deposited += msat

    @rule(of=jobs)
    def claim(self, of: Job) -> None:
        self.run(self.store.claim(of.id, NOW + 60, NOW))

    @rule(of=jobs, attempted=st.booleans())
    def release(self, of: Job, attempted: bool) -> None:
        self.run(self.store.release(of.id, attempted=attempted))

    @rule(of=jobs, cost=st.integers(0, 100_000), to=st.sampled_from([JobState.DELIVERED, JobState.CANCELLED]))
    def post(self, of: Job, cost: int, to: JobState) -> None:
        self.run(post(self.store, of, cost, to))

    @rule(of=jobs, to=st.sampled_from([JobState.FAILED, JobState.CANCELLED]), metered=st.booleans())
    def void(self, of: Job, to: JobState, metered: bool) -> None:
        self.run(void(self.store, of, to, USED if metered else None))

    @rule(of=jobs, to=ENDS_UNPAID)
    def close_unpaid(self, of: Job, to: JobState) -> None:
        self.run(self.store.close_unpaid(of.id, to=to, reason="test", publications=(), at=NOW, stamp=NOW))

    @rule(data=st.data(), picked=st.lists(jobs, min_size=2, max_size=6))
    def at_once(self, data: st.DataObject, picked: list[Job]) -> None:
        """Several operations in one batch of the writer, some of which fail: the others stand."""

        async def together() -> None:
            operations: list[Coroutine[Any, Any, Any]] = []
            for each in picked:
                match data.draw(st.integers(0, 3)):
                    case 0:
                        operations.append(self.store.hold(each.id, terms(5000), NOW))
                    case 1:
                        operations.append(self.store.claim(each.id, NOW + 60, NOW))
                    case 2:
                        operations.append(post(self.store, each, 1234))
                    case _:
                        operations.append(void(self.store, each))
            for outcome in await asyncio.gather(*operations, return_exceptions=True):
                assert not isinstance(outcome, BaseException) or isinstance(outcome, LedgerError), outcome

        self.run(together())

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self.open()

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "store"):
            db = database(self.directory)
            check_books(db)
            wallet = db.execute("SELECT coalesce(sum(msat), 0) FROM accounts WHERE name = 'wallet'").fetchone()[0]
            assert -wallet == self.deposited
            db.close()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.loop.close()
        shutil.rmtree(self.directory)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
