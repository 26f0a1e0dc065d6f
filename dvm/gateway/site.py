"""What every group of routes knows of the place that it serves."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Site:
    """`url` is where the world reaches the gateway, through a reverse proxy as a rule; `pubkey` (hex) and
    `relays` are who we are on Nostr, `name` the part of our addresses before the @, empty for none."""

    url: str
    pubkey: str
    name: str = ""
    relays: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The host that the world uses, in lower case."""
        return urlsplit(self.url).hostname or ""

    def at(self, path: str) -> str:
        """The public URL of a path that begins with a slash."""
        return f"{self.url.rstrip('/')}{path}"
