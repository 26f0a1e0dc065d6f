"""For all tests: hypothesis without deadlines, no skipped test where everything is required, and a shop in the
test's hands with a relay of its own and a customer, for those that ask for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.standins.clock import Clock
from tests.standins.customer import Customer, customer
from tests.standins.relay import local_relay
from tests.standins.workshop import Workshop, workshop

# A busy machine is no failure.
settings.register_profile("dvm", deadline=None, print_blob=True)
settings.load_profile("dvm")

# Set by .ci/run: what a machine lacks is then missing from the machine, not excused from the test.
_REQUIRE_ALL = os.environ.get("DVM_REQUIRE_ALL") == "1"
# Markers of the tests that may be skipped even so: what they need cannot be had on that machine.
_EXCUSED = frozenset(os.environ.get("DVM_EXCUSED", "").split())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not any(item.get_closest_marker(marker) for marker in _EXCUSED):
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if _REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped, although DVM_REQUIRE_ALL=1 requires every test: {reason}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def relay() -> AsyncIterator[str]:
    async with local_relay() as url:
        yield url


@pytest.fixture
async def shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    async with workshop(relay, data=tmp_path) as each:
        yield each


@pytest.fixture
async def buyer(relay: str) -> AsyncIterator[Customer]:
    async with customer(relay) as each:
        yield each
