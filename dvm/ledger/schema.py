"""The tables, as migrations: each runs once, in its own transaction, in this order. Never edit one that
has been released; add another. The comments say what each constraint protects."""

from __future__ import annotations

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
