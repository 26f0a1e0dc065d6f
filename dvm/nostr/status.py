"""How a relay is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["idle", "connecting", "connected", "waiting", "closed"]
"""`idle`: not started, or a passing relay that has gone. `waiting`: the last attempt failed, the next is due."""


@dataclass(slots=True)
class Counters:
    """What came from a relay. `garbage`: no message at all. `unasked`: an answer to nothing. `forged`: a wrong
    id or signature. `unmatched`: not what the filters asked for. `oversized`: not parsed."""

    frames: int = 0
    events: int = 0
    duplicates: int = 0
    garbage: int = 0
    unasked: int = 0
    forged: int = 0
    unmatched: int = 0
    oversized: int = 0
    notices: int = 0
    connections: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """A relay at one moment. `since` is when its state began (Unix seconds), `latency` is in seconds."""

    url: str
    state: State
    since: float
    last_error: str | None
    latency: float | None
    accepted: int
    rejected: int
    counters: dict[str, int]
