"""What is logged while relays, wallet or model are away: that it began, a reminder now and then, and that it ended.

Each job and each retry meets the same trouble; a line for each would bury everything else in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dvm.models import ModelError

REMIND_SECONDS = 60.0


class Trouble:
    """One thing outside that works or fails; tell it each time which of the two.

    It logs `begins` at `level` with the first failure, again as a reminder at most once in REMIND_SECONDS, and
    `ends` at INFO when it works again. What fails and works by turns is told of no more often than that either.
    """

    def __init__(
        self,
        log: logging.Logger,
        level: int,
        begins: str,
        ends: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        **fields: object,
    ) -> None:
        """`fields` go with every line."""
        self._log, self._level, self._begins, self._ends = log, level, begins, ends
        self._clock, self._fields = clock, fields
        self._failures = 0
        self._since = 0.0
        self._told = False
        self._next = float("-inf")

    def failing(self, **fields: object) -> None:
        """It has failed once more; `fields` are those of this failure, and logged if this is the one to be told."""
        now = self._clock()
        if not self._failures:
            self._since = now
        self._failures += 1
        if now >= self._next:
            self._next = now + REMIND_SECONDS
            self._told = True
            so_far = self._so_far(now) if self._failures > 1 else {}
            self._log.log(self._level, self._begins, extra={**self._fields, **fields, **so_far})

    def fine(self, **fields: object) -> None:
        """It works."""
        if not self._failures:
            return
        if self._told:
            self._log.info(self._ends, extra={**self._fields, **fields, **self._so_far(self._clock())})
        self._failures, self._told = 0, False

    def _so_far(self, now: float) -> dict[str, object]:
        return {"failures": self._failures, "for_seconds": round(now - self._since)}


class ModelTrouble:
    """A model's: what may pass is a warning, what only the operator can mend an error."""

    def __init__(self, log: logging.Logger, model: str, begins: str, unusable: str, ends: str) -> None:
        self._passing = Trouble(log, logging.WARNING, begins, ends, model=model)
        self._lasting = Trouble(log, logging.ERROR, unusable, "the model can be used again", model=model)

    def failing(self, error: ModelError) -> None:
        """It failed. What is due to one request alone is no trouble of the model."""
        if error.code in ("unauthorized", "not_found"):
            self._lasting.failing(error=str(error))
        elif error.passing and error.code != "empty":
            self._passing.failing(error=str(error))

    def fine(self) -> None:
        """It answered."""
        self._passing.fine()
        self._lasting.fine()
