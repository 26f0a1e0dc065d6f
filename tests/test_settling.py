"""What is there when the shop opens is not looked through by the garbage collector again; all else is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from dvm.daemon import settle


class Knot:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As it was, afterwards."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_stays_is_exempt_and_what_is_garbage_already_is_freed_first() -> None:
    garbage, kept = weakref.ref(Knot()), Knot()
    settle()
    assert garbage() is None
    assert gc.get_freeze_count() > 1000
    assert not any(each is kept for each in gc.get_objects())


def test_what_becomes_garbage_later_is_collected_also_when_it_settled_twice() -> None:
    settle()
    settle()
    later = weakref.ref(Knot())
    for _ in range(3 * gc.get_threshold()[0]):
        Knot()
    assert later() is None


def test_a_pass_over_everything_is_rare() -> None:
    settle()
    before = gc.get_stats()[2]["collections"]
    living = [[number] for number in range(120_000)]
    assert len(living) == 120_000
    assert gc.get_stats()[2]["collections"] == before
