"""The books held against themselves: whatever is wrong in them is a line of text.

Each check is a statement of its own that finds what breaks one rule, so that a hundred thousand jobs cost no
memory. What the wallet and the relays say is held against the books elsewhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

MOST = 20
"""Of what breaks one rule, so many are told."""

# Of each: what is wrong, with a place for every column of a row that shows it, and how such rows are found.
_CHECKS: tuple[tuple[str, str], ...] = (
    # Rule 3: the sum is zero, nothing is below zero, and the accounts are what the transfers made of them.
    (
        "the sum over all accounts is {} msat",
        "SELECT sum(msat) FROM accounts HAVING sum(msat) <> 0",
    ),
    (
        "{} is {} msat, below zero",
        "SELECT name, msat FROM accounts WHERE msat < 0 AND name NOT IN ('wallet', 'fees')",
    ),
    (
        "{} has {} msat, its transfers say {}",
        """SELECT name, max(there), sum(moved) FROM (
                SELECT name, msat AS there, 0 AS moved FROM accounts
                UNION ALL SELECT debit, 0, -msat FROM transfers
                UNION ALL SELECT credit, 0, msat FROM transfers
            ) GROUP BY name HAVING sum(there) <> sum(moved)""",
    ),
    # Rule 5: what stands behind a job is its open hold, and a hold ends by as much as it was.
    (
        "{} has {} msat, its open hold says {}",
        """SELECT name, sum(there), sum(held) FROM (
                SELECT name, msat AS there, 0 AS held FROM accounts WHERE name LIKE 'held:%'
                UNION ALL SELECT 'held:' || job, 0, msat FROM holds WHERE state = 'open'
            ) GROUP BY name HAVING sum(there) <> sum(held)""",
    ),
    (
        "job {} is {}, and its hold is open",
        """SELECT jobs.id, jobs.state FROM holds JOIN jobs ON jobs.id = holds.job
            WHERE holds.state = 'open' AND jobs.state NOT IN ('paid', 'waiting', 'running', 'settling')""",
    ),
    (
        "job {} is {}, and nothing pays it",
        """SELECT id, state FROM jobs WHERE state IN ('paid', 'waiting', 'running', 'settling')
            AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.job = jobs.id AND holds.state = 'open')
            AND NOT EXISTS (SELECT 1 FROM payments
                            WHERE payments.job = jobs.id AND promise = 'accepted' AND settled_at IS NULL)""",
    ),
    (
        "job {} is delivered, and its hold is {}",
        """SELECT jobs.id, coalesce(holds.state, 'not there') FROM jobs LEFT JOIN holds ON holds.job = jobs.id
            WHERE jobs.state = 'delivered' AND holds.state IS NOT 'posted'""",
    ),
    (
        "the hold of {} is {}: {} msat, {} were set aside, {} billed, {} returned, {} voided",
        """SELECT * FROM (
            SELECT holds.job, holds.state, holds.msat AS msat,
                   coalesce(sum(transfers.msat) FILTER (WHERE what = 'hold'), 0) AS held,
                   coalesce(sum(transfers.msat) FILTER (WHERE what = 'settle'), 0) AS settled,
                   coalesce(sum(transfers.msat) FILTER (WHERE what = 'change'), 0) AS change,
                   coalesce(sum(transfers.msat) FILTER (WHERE what = 'void'), 0) AS voided
            FROM holds LEFT JOIN transfers ON ref = holds.job AND what IN ('hold', 'settle', 'change', 'void')
            GROUP BY holds.job
        ) WHERE held <> msat
             OR settled + change <> CASE state WHEN 'posted' THEN msat ELSE 0 END
             OR voided <> CASE state WHEN 'voided' THEN msat ELSE 0 END""",
    ),
    # Rule 7: each settled payment was credited, as what was received, and nothing else was.
    (
        "payment {} of {} received {} msat, {} were credited",
        """SELECT payment_hash, payments.customer, received_msat, transfers.msat FROM payments
            LEFT JOIN transfers ON ref = payment_hash AND what = 'invoice'
            WHERE coalesce(received_msat, 0) <> coalesce(transfers.msat, 0)
               OR (settled_at IS NULL) <> (received_msat IS NULL)
               OR (transfers.msat IS NOT NULL AND
                   (debit <> 'wallet' OR credit <> CASE payments.customer
                        WHEN '' THEN 'revenue' ELSE 'customer:' || payments.customer END))""",
    ),
    (
        "{} msat were credited for {}, which was never expected",
        """SELECT msat, ref FROM transfers WHERE what = 'invoice'
            AND NOT EXISTS (SELECT 1 FROM payments WHERE payment_hash = ref)""",
    ),
    (
        "payment {} is settled, and stands on no receipt",
        """SELECT payment_hash FROM payments LEFT JOIN jobs ON jobs.id = payments.job
            WHERE settled_at IS NOT NULL AND receipt IS NULL AND payments.customer <> ''
              AND (jobs.id IS NULL OR jobs.state NOT IN ('paid', 'waiting', 'running', 'settling'))""",
    ),
    # Hold invoices: an answer waits for its promise, and for nothing else.
    (
        "job {} is {}, and {} answers of it wait to be settled",
        """SELECT jobs.id, jobs.state, count(finished.job) FROM jobs LEFT JOIN finished ON finished.job = jobs.id
            WHERE jobs.state = 'settling' OR finished.job IS NOT NULL GROUP BY jobs.id
            HAVING (jobs.state = 'settling') <> (count(finished.job) = 1)""",
    ),
    # The receipts: each customer's are one chain, and it ends in what the customer is owed.
    (
        "receipt {} of {}, number {}, does not follow the one before",
        """SELECT id, customer, seq FROM (
            SELECT *, row_number() OVER chain AS number, coalesce(lag(after) OVER chain, 0) AS before,
                   lag(id) OVER chain AS last FROM receipts WINDOW chain AS (PARTITION BY customer ORDER BY seq)
        ) WHERE seq <> number OR prev IS NOT last OR after <> before + paid - cost""",
    ),
    (
        "the receipts of {} end with {} msat, the accounts say {}",
        """WITH owed AS (
            SELECT substr(name, 10) AS customer, msat, 0 AS told FROM accounts WHERE name LIKE 'customer:%'
            UNION ALL SELECT customer, msat, 0 FROM holds WHERE state = 'open'
            UNION ALL SELECT customer, msat + fee_limit_msat, 0 FROM payouts
                WHERE state = 'reserved' AND customer IS NOT NULL
            UNION ALL SELECT customer, -received_msat, 0 FROM payments
                WHERE settled_at IS NOT NULL AND receipt IS NULL AND customer <> ''
            UNION ALL SELECT customer, 0, paid - cost FROM receipts
        ) SELECT customer, sum(told), sum(msat) FROM owed GROUP BY customer HAVING sum(told) <> sum(msat)""",
    ),
    (
        "receipt {} was made {} times and names {} msat, its payments are {}",
        """SELECT id, sum(made), sum(paid), sum(named) FROM (
                SELECT id, 1 AS made, paid, 0 AS named FROM receipts
                UNION ALL SELECT receipt, 0, 0, received_msat FROM payments WHERE receipt IS NOT NULL
                UNION ALL SELECT receipt, 0, 0, -(msat + min(fee_msat, fee_limit_msat)) FROM payouts
                    WHERE receipt IS NOT NULL
            ) GROUP BY id HAVING sum(made) <> 1 OR sum(paid) <> sum(named)""",
    ),
    (
        "job {} cost {} msat, {} receipts bill {}",
        """SELECT coalesce(job, 'none'), sum(taken), sum(receipts), sum(billed) FROM (
                SELECT ref AS job, msat AS taken, 0 AS receipts, 0 AS billed FROM transfers WHERE what = 'settle'
                UNION ALL SELECT job, 0, 1, cost FROM receipts WHERE cost > 0
            ) GROUP BY job HAVING sum(taken) <> sum(billed) OR sum(receipts) <> 1""",
    ),
    # Rule 8: what is reserved for a payout is there, and what has ended has left or returned as a whole.
    (
        "{} has {} msat, its payout reserves {}",
        """SELECT name, sum(there), sum(reserved) FROM (
                SELECT name, msat AS there, 0 AS reserved FROM accounts WHERE name LIKE 'payout:%'
                UNION ALL SELECT 'payout:' || id, 0, msat + fee_limit_msat FROM payouts WHERE state = 'reserved'
            ) GROUP BY name HAVING sum(there) <> sum(reserved)""",
    ),
    (
        "payout {} is {}: {} msat were set aside, {} left, {} returned, {} of its fees are the operator's",
        """SELECT payout, state, reserved, left_us, back, excess FROM (
            SELECT payouts.id AS payout, state, payouts.msat AS msat, fee_msat, fee_limit_msat,
                   min(fee_msat, fee_limit_msat) AS charged,
                   coalesce(sum(transfers.msat) FILTER (WHERE what = 'withdraw'), 0) AS reserved,
                   coalesce(sum(transfers.msat) FILTER (WHERE what = 'paid'), 0) AS left_us,
                   coalesce(sum(transfers.msat) FILTER (WHERE what = 'back'), 0) AS back,
                   coalesce(sum(transfers.msat) FILTER (WHERE what = 'fee'), 0) AS excess
            FROM payouts LEFT JOIN transfers ON ref = payouts.id AND what IN ('withdraw', 'paid', 'back', 'fee')
            GROUP BY payouts.id
        ) WHERE reserved <> CASE state WHEN 'refused' THEN 0 ELSE msat + fee_limit_msat END
             OR left_us <> CASE state WHEN 'paid' THEN msat + charged ELSE 0 END
             OR back <> CASE state WHEN 'paid' THEN fee_limit_msat - charged
                                   WHEN 'failed' THEN msat + fee_limit_msat ELSE 0 END
             OR excess <> CASE state WHEN 'paid' THEN fee_msat - charged ELSE 0 END""",
    ),
    (
        "{} msat moved for {}, which is no payout",
        """SELECT msat, ref FROM transfers WHERE what IN ('withdraw', 'paid', 'back', 'fee')
            AND NOT EXISTS (SELECT 1 FROM payouts WHERE payouts.id = ref)""",
    ),
    (
        "{} was to be paid to us, and to be paid by us",
        "SELECT payment_hash FROM payments JOIN payouts USING (payment_hash) WHERE payouts.state <> 'refused'",
    ),
)


def audit(db: sqlite3.Connection) -> list[str]:
    """Everything that is wrong in the books, of one moment; empty if they are in order.

    Beside a running daemon it looks at a snapshot, so that what moves meanwhile is not taken for a mistake.
    """
    mine = not db.in_transaction
    if mine:
        db.execute("BEGIN")
    try:
        return [line for text, query in _CHECKS for line in _found(db, text, query)]
    finally:
        if mine:
            db.execute("ROLLBACK")


def _found(db: sqlite3.Connection, text: str, query: str) -> Iterator[str]:
    for number, row in enumerate(db.execute(query)):
        if number == MOST:
            yield f"… and more where {text.replace('{}', '…')}"
            return
        yield text.format(*row)
