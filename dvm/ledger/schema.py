"""The tables, as migrations: each runs once, in its own transaction, in this order. Never edit one that
has been released; add another. The comments say what each constraint protects."""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database, Migrations

migrations = Migrations("dvm")


@migrations()
def m001_ledger(db: Database) -> None:
    """Accounts, transfers and holds: money.md, rules 1 to 5."""
    for statement in (
        # A customer's or a held balance never goes below zero: the database refuses it, not only the code.
        """CREATE TABLE accounts (
            name TEXT PRIMARY KEY,
            msat INTEGER NOT NULL,
            CHECK (msat >= 0 OR name IN ('wallet', 'revenue', 'fees'))
        ) STRICT, WITHOUT ROWID""",
        "INSERT INTO accounts VALUES ('wallet', 0), ('revenue', 0), ('fees', 0)",
        # UNIQUE: a deposit, a settlement, a refund happens once, however often it is asked for. `key` is the
        # idempotency key, `hold:<job>` say; what concerns one job lies together in the index.
        """CREATE TABLE transfers (
            id INTEGER PRIMARY KEY,
            what TEXT NOT NULL,
            ref TEXT NOT NULL,
            key TEXT NOT NULL GENERATED ALWAYS AS (what || ':' || ref) VIRTUAL,
            debit TEXT NOT NULL,
            credit TEXT NOT NULL,
            msat INTEGER NOT NULL CHECK (msat > 0),
            at INTEGER NOT NULL,
            UNIQUE (ref, what),
            CHECK (debit <> credit)
        ) STRICT""",
        """CREATE TRIGGER transfers_are_immutable BEFORE UPDATE ON transfers
            BEGIN SELECT RAISE(ABORT, 'transfers are immutable'); END""",
        """CREATE TRIGGER transfers_are_kept BEFORE DELETE ON transfers
            BEGIN SELECT RAISE(ABORT, 'transfers are immutable'); END""",
        # One hold a job, ended once: 'open' is the only state that an UPDATE starts from.
        """CREATE TABLE holds (
            job TEXT PRIMARY KEY REFERENCES jobs(id),
            customer TEXT NOT NULL,
            msat INTEGER NOT NULL CHECK (msat >= 0),
            state TEXT NOT NULL CHECK (state IN ('open', 'posted', 'voided'))
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX holds_open ON holds(customer) WHERE state = 'open'",
    ):
        db.execute(statement)


@migrations()
def m002_jobs(db: Database) -> None:
    """Jobs, the payments that they wait for, receipts, and the outbox."""
    for statement in (
        # PRIMARY KEY: a job id is handled once, for ever.
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY,
            customer TEXT NOT NULL,
            kind INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('received', 'quoted', 'paid', 'waiting', 'running',
                                                 'delivered', 'failed', 'cancelled', 'rejected', 'expired')),
            request TEXT NOT NULL,
            received_at INTEGER NOT NULL,
            stamp INTEGER NOT NULL,
            model TEXT,
            price TEXT,
            input_tokens INTEGER NOT NULL DEFAULT 0,
            max_output INTEGER NOT NULL DEFAULT 0,
            quote_msat INTEGER NOT NULL DEFAULT 0 CHECK (quote_msat >= 0),
            expires_at INTEGER,
            attempts INTEGER NOT NULL DEFAULT 0,
            lease_until INTEGER,
            reason TEXT,
            result TEXT
        ) STRICT""",
        """CREATE INDEX jobs_open ON jobs(state, received_at)
            WHERE state IN ('received', 'quoted', 'paid', 'waiting', 'running')""",
        "CREATE INDEX jobs_expiring ON jobs(expires_at) WHERE state = 'quoted'",
        # A deletion may come before its job; only its author's counts.
        """CREATE TABLE deletions (
            job TEXT NOT NULL, customer TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (job, customer)
        ) STRICT, WITHOUT ROWID""",
        # PRIMARY KEY: a payment hash is credited once, whichever way its settlement is learned.
        """CREATE TABLE payments (
            payment_hash TEXT PRIMARY KEY,
            source TEXT NOT NULL,
            customer TEXT NOT NULL,
            job TEXT REFERENCES jobs(id),
            bolt11 TEXT NOT NULL,
            msat INTEGER NOT NULL CHECK (msat > 0),
            created_at INTEGER NOT NULL,
            expires_at INTEGER NOT NULL,
            received_msat INTEGER CHECK (received_msat > 0),
            settled_at INTEGER,
            receipt TEXT
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX payments_job ON payments(job)",
        "CREATE INDEX payments_open ON payments(created_at) WHERE settled_at IS NULL",
        # PRIMARY KEY: a customer's receipts are one unbroken chain.
        """CREATE TABLE receipts (
            id TEXT NOT NULL,
            customer TEXT NOT NULL,
            seq INTEGER NOT NULL CHECK (seq > 0),
            prev TEXT,
            job TEXT,
            paid INTEGER NOT NULL,
            cost INTEGER NOT NULL CHECK (cost >= 0),
            after INTEGER NOT NULL CHECK (after >= 0),
            at INTEGER NOT NULL,
            PRIMARY KEY (customer, seq)
        ) STRICT, WITHOUT ROWID""",
        # UNIQUE(job, role): a job has one quote, one result, one error, one receipt, each one event. What is
        # about money alone has no job here. Sent rows stay: a job published again is answered with them.
        """CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            job TEXT,
            role TEXT NOT NULL,
            payload TEXT NOT NULL,
            relays TEXT NOT NULL,
            at INTEGER NOT NULL,
            sent_at INTEGER,
            UNIQUE (job, role)
        ) STRICT""",
        "CREATE INDEX outbox_unsent ON outbox(id) WHERE sent_at IS NULL",
        """CREATE TABLE usage (
            id INTEGER PRIMARY KEY,
            job TEXT NOT NULL,
            kind INTEGER NOT NULL,
            model TEXT NOT NULL,
            input INTEGER NOT NULL,
            cached INTEGER NOT NULL,
            output INTEGER NOT NULL,
            thoughts INTEGER NOT NULL,
            estimated TEXT NOT NULL,
            finish TEXT NOT NULL,
            msat INTEGER NOT NULL,
            at INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX usage_at ON usage(at)",
        "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    ):
        db.execute(statement)


@migrations()
def m003_promises_and_payouts(db: Database) -> None:
    """Hold invoices, zaps, and payments that leave: money.md, rules 7 and 8.

    SQLite changes a CHECK only by building the table anew, so `jobs` is copied: whoever applies this has
    foreign keys switched off (a transaction cannot do so itself), and they are checked before the end. With
    foreign keys on, DROP TABLE is refused and nothing is changed.
    """
    for statement in (
        # 'settling': an answer is ready, and the money that was promised for it is not ours yet.
        """CREATE TABLE new_jobs (
            id TEXT PRIMARY KEY,
            customer TEXT NOT NULL,
            kind INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('received', 'quoted', 'paid', 'waiting', 'running', 'settling',
                                                 'delivered', 'failed', 'cancelled', 'rejected', 'expired')),
            request TEXT NOT NULL,
            received_at INTEGER NOT NULL,
            stamp INTEGER NOT NULL,
            model TEXT,
            price TEXT,
            input_tokens INTEGER NOT NULL DEFAULT 0,
            max_output INTEGER NOT NULL DEFAULT 0,
            quote_msat INTEGER NOT NULL DEFAULT 0 CHECK (quote_msat >= 0),
            expires_at INTEGER,
            attempts INTEGER NOT NULL DEFAULT 0,
            lease_until INTEGER,
            reason TEXT,
            result TEXT
        ) STRICT""",
        """INSERT INTO new_jobs
            SELECT id, customer, kind, state, request, received_at, stamp, model, price, input_tokens, max_output,
                   quote_msat, expires_at, attempts, lease_until, reason, result FROM jobs ORDER BY rowid""",
        "DROP TABLE jobs",
        "ALTER TABLE new_jobs RENAME TO jobs",
        # Said with OR, since SQLite sees only then that a query for one of these states may use it.
        """CREATE INDEX jobs_open ON jobs(state, received_at)
            WHERE state = 'received' OR state = 'quoted' OR state = 'paid' OR state = 'waiting'
               OR state = 'running' OR state = 'settling'""",
        "CREATE INDEX jobs_expiring ON jobs(expires_at) WHERE state = 'quoted'",
        # A hold invoice is for one job. `promise` is set once: 'accepted' pays its job, 'refused' never will.
        # When it ended stands in `settled_at`, as of every payment, or in `cancelled_at`.
        "ALTER TABLE payments ADD COLUMN hold INTEGER NOT NULL DEFAULT 0 CHECK (hold IN (0, 1) AND"
        " (hold = 0 OR job IS NOT NULL))",
        "ALTER TABLE payments ADD COLUMN promise TEXT CHECK (promise IS NULL OR"
        " (hold = 1 AND promise IN ('accepted', 'refused')))",
        "ALTER TABLE payments ADD COLUMN cancelled_at INTEGER CHECK (cancelled_at IS NULL OR hold = 1)",
        "ALTER TABLE payments ADD COLUMN zap TEXT",
        # UNIQUE: one promise pays a job, so one preimage is owed for one answer.
        "CREATE UNIQUE INDEX payments_promise ON payments(job) WHERE promise = 'accepted'",
        "CREATE INDEX payments_promised ON payments(promise)"
        " WHERE promise IS NOT NULL AND settled_at IS NULL AND cancelled_at IS NULL",
        # What is watched for is found by its end: of what has ended long ago there is more and more.
        "DROP INDEX payments_open",
        "CREATE INDEX payments_watched ON payments(expires_at) WHERE settled_at IS NULL AND cancelled_at IS NULL",
        # What still waits, in its order: entries of one value stand in the order of their rows.
        "CREATE INDEX outbox_waiting ON outbox(sent_at) WHERE sent_at IS NULL",
        # A zap names a quote, or a result that was worth more, by its event.
        "CREATE INDEX outbox_of_jobs ON outbox(id) WHERE role = 'quote' OR role = 'result'",
        # PRIMARY KEY: one answer for one promise. A row lives from `finish` to the end of its job.
        """CREATE TABLE finished (
            job TEXT PRIMARY KEY REFERENCES jobs(id),
            answer TEXT NOT NULL,
            role TEXT NOT NULL,
            payload TEXT NOT NULL,
            relays TEXT NOT NULL,
            cost INTEGER NOT NULL CHECK (cost >= 0),
            used TEXT NOT NULL,
            work TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
        # PRIMARY KEY: a request for money is taken up once, for ever. A payout ends once: 'reserved' is the only
        # state that an UPDATE starts from. What a customer was paid stands on a receipt.
        """CREATE TABLE payouts (
            id TEXT PRIMARY KEY,
            customer TEXT,
            bolt11 TEXT NOT NULL,
            payment_hash TEXT NOT NULL,
            msat INTEGER NOT NULL CHECK (msat > 0 OR state = 'refused'),
            fee_limit_msat INTEGER NOT NULL CHECK (fee_limit_msat >= 0 OR state = 'refused'),
            state TEXT NOT NULL CHECK (state IN ('reserved', 'paid', 'failed', 'refused')),
            created_at INTEGER NOT NULL,
            expires_at INTEGER NOT NULL,
            ended_at INTEGER,
            fee_msat INTEGER NOT NULL DEFAULT 0 CHECK (fee_msat >= 0 AND (fee_msat = 0 OR state = 'paid')),
            reason TEXT,
            scheme TEXT,
            relays TEXT NOT NULL,
            receipt TEXT,
            CHECK ((state = 'reserved') = (ended_at IS NULL)),
            CHECK ((receipt IS NOT NULL) = (state = 'paid' AND customer IS NOT NULL))
        ) STRICT, WITHOUT ROWID""",
        # UNIQUE: no invoice is paid for two requests, not even after it failed for the first: a wallet may tell
        # of a failure and mean one of several attempts.
        "CREATE UNIQUE INDEX payouts_hash ON payouts(payment_hash) WHERE state <> 'refused'",
        "CREATE INDEX payouts_customer ON payouts(customer, created_at) WHERE state = 'reserved' OR state = 'paid'",
        "CREATE INDEX payouts_reserved ON payouts(created_at) WHERE state = 'reserved'",
    ):
        db.execute(statement)
    if broken := db.execute("PRAGMA foreign_key_check").fetchall():
        raise sqlite3.IntegrityError(f"{len(broken)} rows refer to nothing, the first in {broken[0][0]}")


@migrations()
def m004_conversations(db: Database) -> None:
    """Jobs that continue others; and what was kept of inputs for jobs that have ended long since goes."""
    for statement in (
        # UNIQUE: a job continues at most one other. `session` is a keyed hash: the name that a customer gave to a
        # conversation may have come encrypted. `seq` is the order in which the jobs came.
        """CREATE TABLE conversations (
            seq INTEGER PRIMARY KEY,
            job TEXT NOT NULL UNIQUE REFERENCES jobs(id),
            prior TEXT REFERENCES jobs(id),
            session TEXT,
            CHECK (prior IS NOT NULL OR session IS NOT NULL),
            CHECK (prior <> job)
        ) STRICT""",
        "CREATE INDEX conversations_session ON conversations(session) WHERE session IS NOT NULL",
        # A link is made while its job is unpriced; from then on it is what was priced.
        """CREATE TRIGGER conversations_are_kept BEFORE UPDATE ON conversations
            BEGIN SELECT RAISE(ABORT, 'what a job continues is fixed'); END""",
        """DELETE FROM facts WHERE key LIKE 'inputs %' AND substr(key, 8) NOT IN
            (SELECT id FROM jobs WHERE state = 'received' OR state = 'quoted' OR state = 'paid'
                OR state = 'waiting' OR state = 'running' OR state = 'settling')""",
    ):
        db.execute(statement)


@migrations()
def m005_unbilled_usage(db: Database) -> None:
    """What models used and nobody was billed for: attempts that failed, and answers that were given back."""
    # What was voided until now is known by its finish, which nothing that was billed has.
    db.execute(
        "ALTER TABLE usage ADD COLUMN billed INTEGER NOT NULL DEFAULT 1 CHECK (billed = 1 OR (billed = 0 AND msat = 0))"
    )
    db.execute("UPDATE usage SET billed = 0 WHERE finish = 'error' AND msat = 0")
