"""The rows that are the same by every protocol: how answers end, and the prices for which tokens are not looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.money.usage_rows import FREE_OF_CHARGE, PER_REQUEST, Due, Row, given_back


@dataclass(frozen=True)
class Scripts:
    """Answers, as a stand-in plays them; a half with usage says 120 and 25 tokens, a whole one 120 and 50."""

    whole: Any
    whole_without: Any  # any usage
    filtered: Any  # all of the answer, and then a filter
    broken: Any  # after a half
    broken_without: Any
    silent: Any  # from a half on
    silent_without: Any
    overrun: Any  # says 2000 tokens, and goes on
    down: Any


def rows(answer: Scripts, marked: str) -> list[Row]:
    """`marked`: the classes that are estimated where nothing is reported."""
    usual = Due(161, (120, 0, 50, 0))  # 36 + 125
    return [
        Row("broken off", (answer.broken,), given_back((120, 0, 25, 0)), "with usage"),
        Row("broken off", (answer.broken_without,), given_back((100, 0, 10, 0), marked), "without"),
        Row("broken off", (answer.silent,), given_back((120, 0, 25, 0)), "silent", stall_seconds=0.2),
        Row("another attempt", (answer.broken, answer.whole), usual, attempts=2, lost=(120, 0, 25, 0)),
        Row("another model steps in", (answer.down, answer.whole), usual, models=("first", "second")),
        # 36 + 62.5 = 98.5
        Row(
            "out of time",
            (answer.silent,),
            Due(99, (120, 0, 25, 0), finish="timeout"),
            "with usage",
            job_seconds=1.0,
        ),
        # 30 + 25
        Row(
            "out of time",
            (answer.silent_without,),
            Due(55, (100, 0, 10, 0), marked, "timeout"),
            "without",
            job_seconds=1.0,
        ),
        Row(
            "cancelled",
            (answer.silent,),
            Due(99, (120, 0, 25, 0), finish="cancelled", delivered=False),
            "with usage",
            cancel=True,
        ),
        Row(
            "cancelled",
            (answer.silent_without,),
            Due(55, (100, 0, 10, 0), marked, "cancelled", delivered=False),
            "without",
            cancel=True,
        ),
        Row("cut by a filter", (answer.filtered,), Due(161, (120, 0, 50, 0), finish="safety")),
        Row(
            "more than was quoted",
            (answer.overrun,),
            Due(3_000, (120, 0, 2000, 0), finish="length"),
            "while it streams",
        ),
        Row(
            "more than was quoted",
            (answer.overrun,),
            Due(21_000, (120, 0, 2000, 0), finish="length", quote=21_000),
            "of tokens, at a price for the job",
            price=PER_REQUEST,
        ),
        Row("a price for the job", (answer.whole,), Due(21_000, (120, 0, 50, 0), quote=21_000), price=PER_REQUEST),
        Row(
            "a price for the job",
            (answer.whole_without,),
            Due(21_000, (100, 0, 20, 0), marked, quote=21_000),
            "no usage",
            price=PER_REQUEST,
        ),
        Row(
            "a price for the job",
            (answer.broken,),
            given_back((120, 0, 25, 0), quote=21_000),
            "broken off",
            price=PER_REQUEST,
        ),
        Row("free", (answer.whole,), Due(0, (120, 0, 50, 0), quote=0), price=FREE_OF_CHARGE),
        Row(
            "free", (answer.whole_without,), Due(0, (100, 0, 20, 0), marked, quote=0), "no usage", price=FREE_OF_CHARGE
        ),
    ]
