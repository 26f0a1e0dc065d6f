"""Whether it is our own clock that is wrong, when no request looks timely any more."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

REQUESTS = 5  # in a row, none of them timely
AUTHORS = 3  # of them at least: one customer's clock may be wrong
AGREE_SECONDS = 60  # by how much their dates may be off differently
# They come over this time at least. Old requests that a relay has stored are off by the same amount as well
# if they were made together, but then they come together too.
SPAN_SECONDS = 120
REMIND_SECONDS = 3600


class ClockWatch:
    """Told of each request whether it looks timely; without this, they would all be dropped in silence."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` says the Unix seconds."""
        self._clock = clock
        self._count = 0
        self._authors: set[str] = set()
        self._since = self._least = self._most = 0
        self._next = 0

    def timely(self) -> None:
        """A request was."""
        self._count = 0

    def untimely(self, author: str, created_at: int) -> None:
        """A request looks too old, or too far ahead."""
        now = self._clock()
        age = now - created_at
        least, most = min(self._least, age), max(self._most, age)
        if not self._count or most - least > AGREE_SECONDS:
            self._count, self._authors, self._since, least, most = 0, set(), now, age, age
        self._count += 1
        self._least, self._most = least, most
        if len(self._authors) < AUTHORS:
            self._authors.add(author)
        enough = self._count >= REQUESTS and len(self._authors) >= AUTHORS and now - self._since >= SPAN_SECONDS
        if enough and now >= self._next:
            self._next = now + REMIND_SECONDS
            way = "old" if age > 0 else "ahead of time"
            log.warning(
                f"all requests look {way} and are dropped: is this machine's clock right? See `dvm doctor`",
                extra={"minutes": round(abs(age) / 60), "requests": self._count},
            )
