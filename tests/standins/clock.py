"""A clock in a test's hands."""

from __future__ import annotations


class Clock:
    """`now` is in seconds, and stands still until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
