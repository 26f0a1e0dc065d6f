"""Whether the world knows what is sold here: our announcement on the write relays, against the files."""

from __future__ import annotations

import asyncio

from dvm.announcing import IDENTIFIER, drafts_of
from dvm.building import build_services
from dvm.config import Config, Relays
from dvm.doctor.findings import Finding, Steps
from dvm.nip90.wire import ANNOUNCEMENT
from dvm.nostr import Filter, Keys, Relay

SECONDS = 8.0


class Announced:
    """One question to each write relay, and one finding. `daemon`: whether one runs, with whatever files it read."""

    def __init__(self, config: Config, relays: Relays, keys: Keys, *, daemon: bool) -> None:
        self._by_itself, self._daemon = config.identity.announce, daemon
        self._draft, *_ = drafts_of(config, relays, build_services(config))
        self._urls, self._keys = relays.write, keys

    async def check(self) -> Steps:
        relays = [Relay(url, keys=self._keys, lasting=False) for url in self._urls]
        wanted = Filter(authors=[self._keys.pubkey], kinds=[ANNOUNCEMENT], tags={"d": [IDENTIFIER]})
        try:
            found = await asyncio.gather(*(relay.query([wanted], SECONDS) for relay in relays))
        finally:
            await asyncio.gather(*(relay.close() for relay in relays))
        newest = [max(events, key=lambda event: event.created_at) for events in found if events]
        current = [e for e in newest if (e.tags, e.content) == (self._draft.tags, self._draft.content)]
        of = f"{len(self._urls)} write relay{'s' if len(self._urls) > 1 else ''}"
        if current and len(current) == len(newest):
            yield Finding("announcement", "", "ok", f"what is sold stands on {len(current)} of {of}")
        elif newest:
            yield self._lacking(f"{len(newest) - len(current)} of {of} have an older one than the files")
        else:
            yield self._lacking("no write relay has one: nobody can know what is sold here")

    def _lacking(self, seen: str) -> Finding:
        if not self._by_itself:
            return Finding("announcement", "", "warning", seen, "Run `dvm announce`: identity.announce is false.")
        if not self._daemon:
            return Finding("announcement", "", "ok", f"{seen}; `dvm run` will publish it")
        what = "Restart the daemon if the files have changed since it began; else its log says what the relays answer."
        return Finding("announcement", "", "warning", seen, what)
