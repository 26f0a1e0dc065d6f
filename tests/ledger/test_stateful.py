"""The ledger under random interleavings of everything that can happen to it (money.md, "Never lost")."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from dvm.ledger import (
    ConflictError,
    GatheredInputs,
    Job,
    JobState,
    LedgerError,
    Payout,
    PayoutState,
    PendingPayment,
    SqliteStore,
    TooLittle,
    TooMuch,
)
from dvm.ledger.base import HOLDING
from dvm.ledger.payouts import DAY
from tests.ledger.books import (
    NOW,
    USED,
    answer,
    check_books,
    database,
    hash_of,
    job,
    payment,
    post,
    publication,
    receipt_for,
    terms,
    void,
    withdrawal,
    zap,
)

CUSTOMERS = st.sampled_from(["alice", "bob"])
MSATS = st.integers(1, 60).map(lambda sats: sats * 1000)
COSTS = st.integers(0, 100_000)
AROUND = st.integers(-1500, 5000)
ENDS_UNPAID = st.sampled_from([JobState.REJECTED, JobState.EXPIRED, JobState.CANCELLED])
EVERY_STATE = st.sampled_from([HOLDING, HOLDING, {JobState.SETTLING}])
DAY_LIMIT = 100_000


class Ledger(RuleBasedStateMachine):
    """Every operation at any time, in any order, twice as well; a refusal must change nothing.

    What the wallet alone would know is kept here: what came in, what left, and at what fee.
    """

    jobs = Bundle("jobs")
    invoices = Bundle("invoices")
    payouts = Bundle("payouts")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.serial = 0
        self.came: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.ended: dict[str, PayoutState] = {}
        self.delivered: set[str] = set()

    def run(self, operation: Coroutine[Any, Any, Any]) -> Any:
        """Do it; a job that has moved on refuses, and that is fine."""
        try:
            return self.loop.run_until_complete(operation)
        except ConflictError:
            return None

    def number(self) -> int:
        self.serial += 1
        return self.serial

    @initialize()
    def open(self) -> None:
        self.store = self.loop.run_until_complete(SqliteStore.open(self.directory))

    # Jobs

    @rule(target=jobs, customer=CUSTOMERS)
    def receive(self, customer: str) -> Job:
        new = job(self.number(), customer)
        assert self.run(self.store.open_job(new)).known is None
        assert self.run(self.store.open_job(new)).known is not None
        return new

    @rule(of=jobs, msat=MSATS)
    def hold_from_balance(self, of: Job, msat: int) -> None:
        before = self.run(self.store.balance(of.customer)).available
        held = self.run(self.store.hold(of.id, terms(msat), NOW))
        assert held in (None, msat <= before)

    @rule(target=invoices, of=jobs, msat=MSATS, hold=st.booleans())
    def quote(self, of: Job, msat: int, hold: bool) -> PendingPayment:
        invoice = payment(of, msat, hold=hold)
        self.run(self.store.quote(of.id, terms(msat), invoice, publication("quote", of.id), NOW))
        return invoice

    @rule(of=jobs, msat=MSATS)
    def quote_for_zaps_only(self, of: Job, msat: int) -> None:
        self.run(self.store.quote(of.id, terms(msat), None, publication("quote", of.id), NOW, NOW + 60))

    @rule(of=jobs, prior=st.none() | jobs)
    def gather(self, of: Job, prior: Job | None) -> None:
        self.run(self.store.gathered(of.id, GatheredInputs("digest", prior.id if prior else None, "session")))

    def claim(self, of: Job) -> None:
        self.run(self.store.claim(of.id, NOW + 60, NOW))

    def release(self, of: Job, attempted: bool) -> None:
        self.run(self.store.release(of.id, attempted=attempted))

    def post(self, of: Job, cost: int, to: JobState) -> None:
        self.run(post(self.store, of, cost, to))

    def void(self, of: Job, to: JobState, metered: bool, states: set[JobState]) -> None:
        self.run(void(self.store, of, to, USED if metered else None, states))

    def close_unpaid(self, of: Job, to: JobState) -> None:
        self.run(self.store.close_unpaid(of.id, to=to, reason="test", publications=(), at=NOW, stamp=NOW))

    @rule(
        data=st.data(), of=jobs, what=st.sampled_from(["claim", "release", "post", "void", "close", "finish", "settle"])
    )
    def do_out_of_turn(self, data: st.DataObject, of: Job, what: str) -> None:
        """Whatever the job's state is."""
        match what:
            case "claim":
                self.claim(of)
            case "release":
                self.release(of, data.draw(st.booleans()))
            case "post":
                self.post(of, data.draw(COSTS), data.draw(st.sampled_from([JobState.DELIVERED, JobState.CANCELLED])))
            case "void":
                to = data.draw(st.sampled_from([JobState.FAILED, JobState.CANCELLED]))
                self.void(of, to, data.draw(st.booleans()), data.draw(EVERY_STATE))
            case "close":
                self.close_unpaid(of, data.draw(ENDS_UNPAID))
            case "finish":
                self.finish(of, data.draw(COSTS))
            case "settle":
                self.settle_promise(of, data.draw(AROUND))

    @rule(data=st.data(), of=jobs, steps=st.integers(2, 6))
    def go_on(self, data: st.DataObject, of: Job, steps: int) -> None:
        """A job goes its own way for a while, so that the wild steps meet one in every state."""
        for _ in range(steps):
            found = self.run(self.store.job(of.id))
            match found.state:
                case JobState.RECEIVED:
                    self.quote(of, data.draw(MSATS), data.draw(st.booleans()))
                case JobState.QUOTED:
                    known = self.run(self.store.pending(payment(of, 1).payment_hash))
                    if known is None:
                        self.close_unpaid(of, JobState.EXPIRED)
                    elif known.hold:
                        self.accept(known, 0)
                    else:
                        self.settle(known, 0)
                case JobState.PAID:
                    self.claim(of)
                case JobState.RUNNING if self.run(self.store.promise(of.id)):
                    self.finish(of, data.draw(COSTS))
                case JobState.RUNNING:
                    self.post(of, data.draw(COSTS), JobState.DELIVERED)
                    if self.run(self.store.job(of.id)).state is JobState.RUNNING:  # its promise is gone
                        self.void(of, JobState.FAILED, True, HOLDING)
                case JobState.SETTLING if self.run(self.store.promise(of.id)):
                    self.settle_promise(of, data.draw(AROUND))
                case JobState.SETTLING:
                    self.void(of, JobState.FAILED, False, {JobState.SETTLING})

    # Payments that come

    @rule(target=invoices, of=jobs, msat=MSATS)
    def zap_a_job(self, of: Job, msat: int) -> PendingPayment:
        """By anybody: the job says whose it is."""
        made = zap(self.number(), msat, "mallory", of)
        assert self.run(self.store.expect(made))
        assert not self.run(self.store.expect(made))
        return replace(made, customer=of.customer)

    @rule(target=invoices, customer=CUSTOMERS, msat=MSATS, at_once=st.booleans())
    def top_up(self, customer: str, msat: int, at_once: bool) -> PendingPayment:
        made = zap(self.number(), msat, customer)
        assert self.run(self.store.expect(made))
        if at_once:
            self.settle(made, 0)
        return made

    @rule(invoice=invoices, more=AROUND)
    def settle(self, invoice: PendingPayment, more: int) -> None:
        """The exact amount, too little or too much, once or again; a hold invoice too, whatever its job does."""
        msat = max(1, invoice.msat + more)
        told = publication("zap", self.number())
        deposit = self.run(self.store.deposit(invoice.payment_hash, msat, NOW, receipt_for(invoice.customer), (told,)))
        if deposit is None:
            return
        assert deposit.fresh == (invoice.payment_hash not in self.came)
        self.came.setdefault(invoice.payment_hash, msat)

    # Hold invoices

    @rule(invoice=invoices, more=AROUND)
    def accept(self, invoice: PendingPayment, more: int) -> None:
        accepted = self.run(self.store.accept(invoice.payment_hash, max(0, invoice.msat + more)))
        if accepted is None:
            return
        again = self.run(self.store.accept(invoice.payment_hash, invoice.msat))
        assert (again.fresh, again.paid) == (False, accepted.paid)

    def finish(self, of: Job, cost: int) -> None:
        self.run(self.store.finish(of.id, answer(of, cost), NOW))

    def settle_promise(self, of: Job, more: int) -> None:
        promise = self.run(self.store.promise(of.id))
        msat = max(1, (promise.msat if promise else 10_000) + more)
        posting = self.run(self.store.settle(of.id, msat, receipt_for(of.customer), NOW))
        if posting is not None:
            assert of.id not in self.delivered
            self.delivered.add(of.id)
            if promise is not None:
                self.came[promise.payment_hash] = msat

    @rule(invoice=invoices)
    def cancel_promise(self, invoice: PendingPayment) -> None:
        self.run(self.store.cancelled_hold(invoice.payment_hash, NOW))

    # Payments that leave

    @rule(
        target=payouts,
        customer=st.sampled_from(["alice", "bob", None]),
        msat=MSATS,
        fee_limit=st.integers(0, 3000),
        at=st.integers(NOW, NOW + 2 * DAY),
    )
    def reserve(self, customer: str | None, msat: int, fee_limit: int, at: int) -> Payout:
        """A refused one too: it may be asked for again when there is more."""
        made = withdrawal(self.number(), msat, fee_limit, customer, at)
        self.reserve_again(made)
        return made

    def reserve_again(self, made: Payout) -> None:
        known = self.run(self.store.payout(made.id))
        purse = self.purse(made.customer)
        try:
            reserved = self.run(self.store.reserve(made, day_limit=DAY_LIMIT))
        except TooLittle:
            assert known is None
            assert purse < made.msat + made.fee_limit_msat
        except TooMuch:
            assert known is None
            assert made.customer is not None
        else:
            assert reserved == (known is None)
            assert not reserved or purse >= made.msat + made.fee_limit_msat

    def reserve_its_invoice_for_another(self, made: Payout) -> None:
        other = replace(made, id=hash_of("other", self.number()))
        known = self.run(self.store.payout(made.id))
        if known is not None and known.state is not PayoutState.REFUSED:
            assert not self.run(self.store.reserve(other, day_limit=0))

    def refuse(self, made: Payout) -> None:
        known = self.run(self.store.payout(made.id))
        self.run(self.store.refuse_payout(made, "test"))
        assert known is None or self.run(self.store.payout(made.id)) == known

    def leave(self, made: Payout, fee: int) -> None:
        receipt = receipt_for(made.customer) if made.customer else None
        also = (publication("withdrawn", self.number()),)
        self.end(made, PayoutState.PAID, self.store.paid_out(made.id, fee, receipt, also, NOW), made.msat + fee)

    @rule(
        made=payouts,
        fee=st.integers(0, 4000),
        what=st.sampled_from(["leave", "stay", "leave", "again", "other", "refuse"]),
    )
    def go_on_with_a_payout(self, made: Payout, fee: int, what: str) -> None:
        match what:
            case "leave":
                self.leave(made, fee)
            case "stay":
                self.stay(made)
            case "again":
                self.reserve_again(made)
            case "other":
                self.reserve_its_invoice_for_another(made)
            case "refuse":
                self.refuse(made)

    def stay(self, made: Payout) -> None:
        self.end(made, PayoutState.FAILED, self.store.not_paid_out(made.id, "test", (), NOW), 0)

    def end(self, made: Payout, state: PayoutState, operation: Coroutine[Any, Any, bool], msat: int) -> None:
        """No payout ends twice, and none that was not reserved."""
        known = self.run(self.store.payout(made.id))
        try:
            ended = self.run(operation)
        except LedgerError:
            assert known is None
            return
        assert ended == (known.state is PayoutState.RESERVED)
        if ended:
            assert made.id not in self.ended
            self.ended[made.id] = state
            self.left[made.id] = msat

    def purse(self, customer: str | None) -> int:
        if customer is None:
            revenue: int = self.run(self.store.accounts())["revenue"]
            return revenue
        available: int = self.run(self.store.balance(customer)).available
        return available

    # All at once, and again from the disk

    @rule(data=st.data(), picked=st.lists(jobs, min_size=2, max_size=6))
    def at_once(self, data: st.DataObject, picked: list[Job]) -> None:
        """Several operations in one batch of the writer, some of which fail: the others stand."""

        async def together() -> None:
            operations: list[Coroutine[Any, Any, Any]] = []
            for each in picked:
                match data.draw(st.integers(0, 4)):
                    case 0:
                        operations.append(self.store.hold(each.id, terms(5000), NOW))
                    case 1:
                        operations.append(self.store.claim(each.id, NOW + 60, NOW))
                    case 2:
                        operations.append(post(self.store, each, 1234))
                    case 3:
                        made = withdrawal(self.number(), 3000, 100, each.customer)
                        operations.append(self.store.reserve(made, day_limit=0))
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
        if not hasattr(self, "store"):
            return
        db = database(self.directory)
        check_books(db)
        wallet = db.execute("SELECT coalesce(sum(msat), 0) FROM accounts WHERE name = 'wallet'").fetchone()[0]
        assert -wallet == sum(self.came.values()) - sum(self.left.values())
        ended = dict(db.execute("SELECT id, state FROM payouts WHERE state IN ('paid', 'failed')"))
        assert ended == self.ended
        # An answer is out only if its money is there.
        unpaid = db.execute(
            "SELECT outbox.id FROM outbox JOIN jobs ON jobs.id = outbox.job WHERE role = 'result'"
            " AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.job = jobs.id AND holds.state = 'posted')"
        ).fetchall()
        assert unpaid == []
        db.close()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.loop.close()
        shutil.rmtree(self.directory)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
