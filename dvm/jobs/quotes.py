"""The book of open quotes: how many are unpaid, which the admission policies ask about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush


class OpenQuotes:
    """Counts quotes that are unpaid, and those that are being made; `now` gives unix seconds."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._each: Counter[str] = Counter()
        self._total = 0
        self._deleted: list[int] = []  # a heap: until when the invoices of deleted quotes can be paid

    def open_quotes(self, customer: str) -> int:
        return self._each[customer]

    def open_quotes_total(self) -> int:
        return self._total

    def deleted_quotes(self) -> int:
        while self._deleted and self._deleted[0] <= self._now():
            heappop(self._deleted)
        return len(self._deleted)

    def opened(self, customer: str) -> None:
        self._total += 1
        self._each[customer] += 1

    def closed(self, customer: str) -> None:
        self._total -= 1
        self._each[customer] -= 1
        if self._each[customer] <= 0:
            del self._each[customer]

    def deleted(self, customer: str, expires_at: int) -> None:
        """By its customer; its invoice can be paid until then."""
        self.closed(customer)
        self.deleted_quotes()
        heappush(self._deleted, expires_at)
