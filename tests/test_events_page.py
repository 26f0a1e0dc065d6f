"""docs/events.md names the codes with which an account request is refused, all of them and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from dvm.jobs.balances.payout_steps import ReturnCode
from dvm.nip90 import ACCOUNT_ANSWER, ACCOUNT_REQUEST, RECEIPT
from dvm.nip90.account import (
    DEFAULT_ENTRIES,
    LIFETIME_SECONDS,
    MAX_ENTRIES,
    METHODS,
    InvalidAccountRequestCode,
)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/events.md").read_text()
SECTION = PAGE.partition("## The account")[2].partition("\n## ")[0]
SOURCES = [ROOT / "dvm/jobs" / f"{name}.py" for name in ("accounts", "payees", "payouts")]


def test_every_code_is_described_and_none_that_there_is_not() -> None:
    told = {code for row in re.findall(r"^\| (`.+?`) \|", SECTION, re.MULTILINE) for code in re.findall("`(.+?)`", row)}
    said = "\n".join(path.read_text() for path in SOURCES)
    raised = set(re.findall(r'PayoutRefused\(\s*"([a-z-]+)"', said)) | set(re.findall(r'_refuse\(.*?"([a-z-]+)"', said))
    raised.remove("owed")  # said to the operator alone, about the operator's own payouts
    assert told == raised | set(get_args(InvalidAccountRequestCode)) | set(get_args(ReturnCode))


def test_kinds_methods_and_numbers_are_those_of_the_program() -> None:
    assert f"kinds {ACCOUNT_REQUEST} and {ACCOUNT_ANSWER}" in SECTION.splitlines()[0]
    assert f"## The receipt, kind {RECEIPT}" in PAGE
    assert set(re.findall(r'\["method", "(\w+)"\]', SECTION)) == METHODS
    assert f"`limit` is from 1 to {MAX_ENTRIES}, {DEFAULT_ENTRIES} if it is left out" in SECTION
    assert f"created_at + {LIFETIME_SECONDS}" in SECTION
