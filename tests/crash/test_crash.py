"""The short form of scripts/crash."""

from __future__ import annotations

from pathlib import Path

from tests.crash.harness import crash


async def test_killed_at_random_moments_the_daemon_loses_neither_a_job_nor_a_msat(tmp_path: Path) -> None:
    outcome = await crash(tmp_path, kills=6, seed=7, customers=4, width=8)
    assert outcome.wrong == []
    assert outcome.figures["payments"] > 0
    assert outcome.figures["jobs delivered"] > 0
    assert outcome.figures["zapped"] > 0
    assert outcome.figures["withdrawals paid"] > 0
    assert outcome.figures["hold invoices settled"] > 0
