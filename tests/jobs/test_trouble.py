"""An outage in the log: its beginning, a reminder a minute, its end; not a line for each job that meets it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from dvm.jobs.watching.trouble import REMIND_SECONDS, Trouble
from tests.standins.clock import Clock

log = logging.getLogger("dvm.tests.trouble")
Lines = list[tuple[str, str]]


@pytest.fixture
def trouble(clock: Clock, caplog: pytest.LogCaptureFixture) -> Trouble:
    caplog.set_level(logging.INFO, log.name)
    return Trouble(log, logging.WARNING, "it fails", "it works again", clock=clock, model="first")


def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return [(record.levelname, record.message) for record in caplog.records]


def fields(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    wanted = ("model", "error", "failures", "for_seconds")
    return [{key: vars(record)[key] for key in wanted if key in vars(record)} for record in caplog.records]


def test_an_outage_is_its_beginning_a_reminder_a_minute_and_its_end(
    trouble: Trouble, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(150):
        trouble.failing(error=f"at {second}")
        clock.now += 1
    trouble.fine()
    trouble.fine()
    assert lines(caplog) == [("WARNING", "it fails")] * 3 + [("INFO", "it works again")]
    assert fields(caplog) == [
        {"model": "first", "error": "at 0"},
        {"model": "first", "error": "at 60", "failures": 61, "for_seconds": 60},
        {"model": "first", "error": "at 120", "failures": 121, "for_seconds": 120},
        {"model": "first", "failures": 150, "for_seconds": 150},
    ]


def test_what_works_says_nothing(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    trouble.fine()
    assert not caplog.records


def test_what_fails_and_works_by_turns_does_not_fill_the_log(
    trouble: Trouble, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(120):
        trouble.failing()
        trouble.fine()
        clock.now += REMIND_SECONDS / 60
    assert lines(caplog) == [("WARNING", "it fails"), ("INFO", "it works again")] * 2


def test_a_second_outage_is_told_of_as_one(trouble: Trouble, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    trouble.failing(error="once")
    trouble.fine()
    clock.now += REMIND_SECONDS
    trouble.failing(error="again")
    assert fields(caplog)[-1] == {"model": "first", "error": "again"}
