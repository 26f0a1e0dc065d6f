"""A clock that is wrong is told of, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvm.jobs.watching.clockwatch import REMIND_SECONDS, ClockWatch
from dvm.nostr.keys import Keys
from tests.standins.workshop import workshop

HOUR = 3600


class Watched:
    """A watch over requests that come every `every` seconds."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog
        self.now = 1_700_000_000
        self.watch = ClockWatch(lambda: self.now)

    def comes(self, author: int, age: int, after: int = 40) -> None:
        self.now += after
        self.watch.untimely(f"{author:064x}", self.now - age)

    @property
    def told(self) -> list[tuple[str, int]]:
        found = [(each.message, vars(each)["minutes"]) for each in self.caplog.records]
        return [("old" if " old " in message else "ahead", minutes) for message, minutes in found]


@pytest.fixture
def watched(caplog: pytest.LogCaptureFixture) -> Watched:
    return Watched(caplog)


@pytest.mark.parametrize(("age", "way"), [(HOUR, "old"), (-HOUR, "ahead")])
def test_requests_that_are_all_off_by_the_same_amount_are_told_of_once_an_hour(
    watched: Watched, age: int, way: str
) -> None:
    for n in range(REMIND_SECONDS // 40 + 10):
        watched.comes(n % 3, age + n % 7)
    assert watched.told == [(way, 60)] * 2


def test_one_customers_clock_is_not_ours(watched: Watched) -> None:
    for n in range(20):
        watched.comes(n % 2, HOUR)
    assert not watched.told


def test_a_timely_request_shows_that_the_clock_is_right(watched: Watched) -> None:
    for n in range(20):
        if n % 4 == 0:
            watched.watch.timely()
        watched.comes(n, HOUR)
    assert not watched.told


def test_requests_that_are_off_by_different_amounts_tell_nothing(watched: Watched) -> None:
    for n in range(20):
        watched.comes(n, HOUR * (1 + n % 2))
    assert not watched.told


def test_what_a_relay_has_stored_tells_nothing(watched: Watched) -> None:
    for n in range(20):
        watched.comes(n, HOUR + n, after=0)
    assert not watched.told


async def test_the_shop_watches_its_clock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with workshop("ws://127.0.0.1:1", data=tmp_path, opened=False) as shop:
        await shop.open(connections=0)
        shop.later = -2.0 * HOUR
        for _ in range(6):
            shop.later += 40
            keys = Keys.generate()
            at = shop.engine.intake._shop.now() + HOUR
            await shop.engine.intake.request(keys.sign(5050, [["i", "a question", "text"]], "", at), "")
        assert [vars(each)["minutes"] for each in caplog.records if "clock" in each.message] == [60]
