"""Deletions (NIP-09) that name nothing but the job: heard by its id.

Some clients add the `k` of what they delete, or the provider's `p`, and by these the engine hears them. Others send an
`e` tag alone, as NIP-09 allows. Only a subscription by the ids of the open jobs hears those. It is one REQ a relay,
whatever the number of jobs, and it is bounded in both ways that relays care for:

- in size: of the open jobs the MOST that matter, those with money behind them first, then the newest quotes;
- in rate: what is open is looked up, and the REQ sent anew, once in `follow_seconds` at most, and only if a job has
  come that it does not name, or half of what it names has ended. What was deleted meanwhile is stored at the relay,
  and comes then.

With more open quotes than that, a deletion with `e` alone of an older one is not heard; its quote expires in its time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from dvm.jobs.shop import Shop
from dvm.ledger import LedgerError
from dvm.nip90 import DELETION
from dvm.nostr.filters import Filter
from dvm.nostr.subscription import Handler, Subscription

log = logging.getLogger(__name__)

# 67 bytes each: a REQ of 54 KB. Relays take 64 KiB at least (strfry, nostr-rs-relay: 128 KiB).
MOST = 800
# In one filter. strfry takes 200 filters in a REQ, nostream 10 with 2,500 values; four are within any.
CHUNK = 200
CLOCKS_APART = 600  # seconds, of a customer and us, where requests of any age are taken


class Deletions:
    """Listens for the deletions of open jobs; `heard` gets what comes, verified."""

    def __init__(self, shop: Shop, heard: Handler) -> None:
        self._shop, self._heard = shop, heard
        self._changed = asyncio.Event()
        self._asked: frozenset[str] = frozenset()
        self._subscription: Subscription | None = None

    def changed(self) -> None:
        """A job may have been opened."""
        self._changed.set()

    async def run(self) -> None:
        """Follow the open jobs; until cancelled."""
        settings = self._shop.settings
        while True:
            self._changed.clear()
            try:
                await self.refresh()
            except LedgerError as error:
                log.error("the open jobs cannot be read", extra={"error": str(error)})
            with suppress(TimeoutError):
                async with asyncio.timeout(settings.sweep_seconds):
                    await self._changed.wait()
            await asyncio.sleep(settings.follow_seconds)

    async def refresh(self) -> None:
        """Ask for the deletions of what is open now, if that is not asked for already. Raises LedgerError."""
        jobs = await self._shop.store.cancellable(MOST)
        ids = frozenset(job for job, _ in jobs)
        if ids <= self._asked and 2 * len(ids) >= len(self._asked):
            return
        self._asked = ids
        if not jobs:
            self.close()
        elif self._subscription is not None:
            self._subscription.replace(self._filters(jobs))
        else:
            self._subscription = self._shop.relays.subscribe(
                self._filters(jobs),
                self._heard,
                overlap=self._apart,
                sweep=self._shop.settings.sweep_seconds,
            )

    def close(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    @property
    def _apart(self) -> int:
        """How far a customer's clock may be behind ours, in seconds: by theirs a deletion is younger than its job."""
        return self._shop.settings.max_age or CLOCKS_APART

    def _filters(self, jobs: Sequence[tuple[str, int]]) -> list[Filter]:
        ordered = sorted(jobs, key=lambda job: job[1])
        chunks = [ordered[start : start + CHUNK] for start in range(0, len(ordered), CHUNK)]
        return [
            Filter(kinds=[DELETION], tags={"e": [job for job, _ in chunk]}, since=chunk[0][1] - self._apart)
            for chunk in chunks
        ]
