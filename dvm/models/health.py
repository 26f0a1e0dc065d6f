"""Whether a model is worth asking: a circuit breaker, one for each model. No I/O, and the caller's clock.

closed ── several failures in a row, or one that only the operator can mend ──▶ open
open ── its pause is over ──▶ half-open: one request tries it
half-open ── an answer ──▶ closed
half-open ── a failure ──▶ open, for twice as long, up to a bound
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from dvm.models.base import ErrorCode

# What a model fails of by itself. The others ("bad_request", "blocked", "empty") are due to one request, and a
# customer who can write such requests must not be able to take a model away from the others.
AT_FAULT: frozenset[ErrorCode] = frozenset(
    {"unauthorized", "not_found", "rate_limited", "unavailable", "broken_off", "stalled"}
)
_LASTING: frozenset[ErrorCode] = frozenset({"unauthorized", "not_found"})

FAILURES = 5
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0


class Health:
    """The breaker of one model. `failures` in a row open it; pauses are in seconds, of `clock`."""

    def __init__(
        self,
        *,
        failures: int = FAILURES,
        first_pause: float = FIRST_PAUSE,
        longest_pause: float = LONGEST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1 or not 0 < first_pause <= longest_pause:
            raise ValueError("a breaker needs at least one failure, and a pause that is not longer than the longest")
        self._most, self._first, self._longest, self._clock = failures, first_pause, longest_pause, clock
        self._failures = 0
        self._pause = 0.0  # 0: closed
        self._until = 0.0
        self._trying = False

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        if not self._pause:
            return "closed"
        return "half-open" if self._trying or self._clock() >= self._until else "open"

    @property
    def usable(self) -> bool:
        """Whether a request may be made now: it is closed, or its next trial is due."""
        return not self._pause or self._clock() >= self._until

    def enter(self) -> bool:
        """Whether this request may be made; of an open breaker, the one whose trial is due.

        A trial whose end nobody tells (the customer cancelled it, say) is followed by another after a pause.
        """
        if not self.usable:
            return False
        if self._pause:
            self._trying = True
            self._until = self._clock() + self._pause
        return True

    def fine(self) -> None:
        """It answered."""
        self._failures, self._pause, self._trying = 0, 0.0, False

    def failed(self, code: ErrorCode) -> None:
        """It did not. What is due to the request says nothing about the model."""
        if code not in AT_FAULT:
            return
        self._failures += 1
        if not self._pause:
            if self._failures >= self._most or code in _LASTING:
                self._open(self._first)
        elif self._trying:  # a failure of what had begun before it opened tells nothing new
            self._open(min(self._pause * 2, self._longest))

    def _open(self, pause: float) -> None:
        self._pause, self._trying = pause, False
        self._until = self._clock() + pause
