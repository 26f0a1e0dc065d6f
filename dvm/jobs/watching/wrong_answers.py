"""Answers that nobody pays for, although the model has worked: of another form than was asked for, without a word,
refused after all was read, or such as cannot be delivered.

Who asks for JSON with a prompt that no model answers in JSON, or for PNG where the model makes JPEG, has the money back
each time, and the operator has the model's bill. So only so many a day of one customer's jobs may end like that, for
each kind and output; then such jobs are refused until midnight (UTC), and those that are paid for are given back
without being run. It is kept in memory: after a restart the day begins anew. What many customers cost together is what
the daily spending limit is for.
"""

from __future__ import annotations

import logging
from collections import Counter

from dvm.jobs.admission import RefusedError
from dvm.jobs.shop import Shop
from dvm.nip90 import JobRequest

log = logging.getLogger(__name__)

DAY = 86_400
MOST = 100_000  # that are counted: who has made so many keys makes another
_Of = tuple[str, int, str]  # customer, kind, media type


class WrongAnswers:
    """Counts them today; each entry has cost its customer a job that was paid for."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._limit = shop.settings.wrong_answers_per_day
        self._today = shop.now() // DAY
        self._counts: Counter[_Of] = Counter()

    def add(self, request: JobRequest) -> None:
        """The answer to this job was none, or none that can be sent."""
        if self._limit:
            self._turn()
            of = self._of(request)
            if len(self._counts) >= MOST and of not in self._counts:
                return
            self._counts[of] += 1
            if self._counts[of] == self._limit:
                log.warning(
                    "a customer's jobs had no proper answer again and again: such are refused until midnight (UTC)",
                    extra={"customer": request.customer, "kind": request.kind, "output": of[2], "limit": self._limit},
                )

    def check(self, request: JobRequest) -> None:
        """Raises RefusedError where there have been enough of this customer's, of this kind and output."""
        if not self._limit:
            return
        self._turn()
        if self._counts[self._of(request)] >= self._limit:
            text = f"{self._limit} such jobs of yours had no answer that could be sent"
            raise RefusedError("too-many-wrong-answers", f"{text}: try another output, or again after midnight (UTC)")

    def _of(self, request: JobRequest) -> _Of:
        service = self._shop.services.get(request.kind)
        output = service.kind.output(request) if service else None
        return request.customer, request.kind, output or ""

    def _turn(self) -> None:
        if (today := self._shop.now() // DAY) > self._today:  # a clock that is set back gives nothing once more
            self._today = today
            self._counts.clear()
