"""docs/events.md names the codes with which a job or an account request is refused, all of them and no others.

The types say which codes there are, and mypy that no other is used.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import get_args

from dvm.jobs.admission import ErrorCode
from dvm.jobs.balances.accounts import AccountCode
from dvm.nip90 import ACCOUNT_ANSWER, ACCOUNT_REQUEST, RECEIPT
from dvm.nip90.account import DEFAULT_ENTRIES, LIFETIME_SECONDS, MAX_ENTRIES, METHODS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/events.md").read_text()
SECTION = PAGE.partition("## The account")[2].partition("\n## ")[0]
ERRORS = PAGE.partition("## Errors")[2].partition("\n## ")[0]
OWED = "owed"  # said to the operator alone, about the operator's own payouts


def described(section: str) -> list[str]:
    """The codes of a section's table, in its first column."""
    rows = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    return [code for row in rows for code in re.findall("`(.+?)`", row)]


def codes(of: object) -> set[str]:
    """What a Literal, or several of them, allows."""
    return {of} if isinstance(of, str) else {code for inner in get_args(of) for code in codes(inner)}


def test_every_code_of_a_job_is_described_once_and_none_that_there_is_not() -> None:
    assert Counter(described(ERRORS)) == Counter(codes(ErrorCode))


def test_every_code_of_an_account_is_described_once_and_none_that_there_is_not() -> None:
    assert Counter(described(SECTION)) == Counter(codes(AccountCode) - {OWED})


def test_every_code_is_used_somewhere() -> None:
    said: Counter[object] = Counter()
    for room in ("jobs", "nip90"):
        for path in (ROOT / "dvm" / room).rglob("*.py"):
            said.update(node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    assert [code for code in codes(ErrorCode) | codes(AccountCode) if said[code] < 2] == []


def test_codes_are_for_programs() -> None:
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", code) for code in codes(ErrorCode) | codes(AccountCode))


def test_kinds_methods_and_numbers_are_those_of_the_program() -> None:
    assert f"kinds {ACCOUNT_REQUEST} and {ACCOUNT_ANSWER}" in SECTION.splitlines()[0]
    assert f"## The receipt, kind {RECEIPT}" in PAGE
    assert set(re.findall(r'\["method", "(\w+)"\]', SECTION)) == METHODS
    assert f"`limit` is from 1 to {MAX_ENTRIES}, {DEFAULT_ENTRIES} if it is left out" in SECTION
    assert f"created_at + {LIFETIME_SECONDS}" in SECTION
