"""A web of trust: whom one key follows (kind 3, NIP-02), and whom those follow. Loaded at start, then daily."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from itertools import islice

from dvm.jobs.watching.trouble import Trouble
from dvm.nip90.wire import is_hex64
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.pool import RelayPool

log = logging.getLogger(__name__)

FOLLOWS = 3
MAX_TRUSTED = 100_000
MAX_FOLLOWS = 5_000  # of one list
BATCH = 20  # lists in one question: each may be as large as an event may be
ANSWER_SECONDS = 15.0
REFRESH_SECONDS = 86_400.0
RETRY_SECONDS = 30.0  # doubled with each failure
MAX_RETRY_SECONDS = 3_600.0


class WebOfTrust:
    """`in` says whether a public key (hex) is trusted: the root, whom it follows, and with `depth` 2 whom those do.

    Until it is `loaded` only the root is. A web that cannot be loaded anew stays what it was.
    """

    def __init__(self, relays: RelayPool, root: str, depth: int = 1) -> None:
        self._relays, self._root, self._depth = relays, root, depth
        self._trusted = frozenset({bytes.fromhex(root)})
        self.loaded = False
        self._trouble = Trouble(
            log,
            logging.WARNING,
            "the list of follows cannot be found, so strangers can only pay out of a balance: see admission.follows_of",
            "the list of follows is found again",
        )

    def __contains__(self, pubkey: object) -> bool:
        return isinstance(pubkey, str) and is_hex64(pubkey) and bytes.fromhex(pubkey) in self._trusted

    def __len__(self) -> int:
        return len(self._trusted)

    async def run(self) -> None:
        """Load it, and load it anew each day; until cancelled."""
        pause = RETRY_SECONDS
        while True:
            if await self.load():
                self._trouble.fine()
                pause = RETRY_SECONDS
                await asyncio.sleep(REFRESH_SECONDS)
            else:
                self._trouble.failing()
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_RETRY_SECONDS)

    async def load(self) -> bool:
        """Ask our read relays for the lists. False: they have no list of the root, and nothing has changed."""
        await self._relays.wait_connected(1, ANSWER_SECONDS)
        lists = await self._lists([self._root])
        if self._root not in lists:
            return False
        first = followed(lists[self._root])
        trusted = dict.fromkeys(map(bytes.fromhex, (self._root, *first)))
        for start in range(0, len(first) if self._depth > 1 else 0, BATCH):
            for event in (await self._lists(first[start : start + BATCH])).values():
                room = MAX_TRUSTED - len(trusted)
                fresh = (key for key in map(bytes.fromhex, followed(event)) if key not in trusted)
                trusted.update(dict.fromkeys(islice(fresh, room)))
            if len(trusted) >= MAX_TRUSTED:
                log.warning("the web of trust is larger than what is kept of it", extra={"kept": len(trusted)})
                break
        self._trusted, self.loaded = frozenset(trusted), True
        log.info("the web of trust is loaded", extra={"keys": len(trusted), "depth": self._depth})
        return True

    async def _lists(self, authors: Collection[str]) -> dict[str, Event]:
        """The newest list of each author that has one."""
        lists: dict[str, Event] = {}
        for event in await self._relays.query(Filter(kinds=[FOLLOWS], authors=authors), timeout=ANSWER_SECONDS):
            lists.setdefault(event.pubkey, event)
        return lists


def followed(event: Event) -> list[str]:
    """Whom the author of a kind 3 follows, each once, at most 5,000: hostile input. Never raises."""
    if event.kind != FOLLOWS:
        return []
    keys = dict.fromkeys(key for key in event.values("p") if is_hex64(key))
    return list(islice(keys, MAX_FOLLOWS))
