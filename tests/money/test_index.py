"""Each way in which systems like this one have lost money, by its number: a test bears it, or the reason why not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

CASES = {
    1: "a job overruns its hold",
    2: "a long stream outlives its lease",
    3: "the settlement fails after the answer went out",
    4: "the customer goes away in mid-stream",
    5: "a time-out bills the maximum",
    6: "another price is billed than was quoted",
    7: "a refund and a top-up race; a refund pays twice; an unknown payout blocks",
    8: "a payment is credited only if its payer asks",
    9: "the balance that is shown is not the one that admits",
    10: "cached tokens at the full rate; thoughts not billed",
    11: "missing usage is zero; a true zero is replaced",
    12: "the usage of a blocked answer is dropped",
    13: "simultaneous first jobs all pass the balance check",
    14: "an error is read as an invoice's expiry",
    15: "not found, and settled after all",
    16: "paid twice, late, or too little",
    17: "routing fees drain the operator",
    18: "a forged zap",
    19: "a restart forgets who has paid",
    20: "an event expires before its payment",
    21: "one job, delivered twice, runs twice",
    22: "one job's output is read by another",
    23: "a rejected credential is consumed",
    24: "a negative amount raises a budget",
    25: "one failure stops the loop",
    26: "a crash between pending and done is taken for done",
    27: "encryption fails and the plaintext goes out",
    28: "unpaid invoices are checked one by one",
}
# What these cases are about is not built yet.
LATER = {
    23: "L402 credentials",
}


def numbered() -> dict[int, list[str]]:
    """The names of all tests by the number that they bear (`test_money_07_…`)."""
    found: dict[int, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                match := re.match(r"test_money_(\d\d)_", node.name)
            ):
                found.setdefault(int(match[1]), []).append(node.name)
    return found


@pytest.mark.parametrize("number", CASES)
def test_each_case_has_a_test_or_a_reason(number: int) -> None:
    assert (number in numbered()) or number in LATER, CASES[number]


def test_no_test_bears_a_number_that_there_is_not() -> None:
    assert numbered().keys() <= CASES.keys()
