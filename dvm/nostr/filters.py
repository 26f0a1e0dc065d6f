"""NIP-01 filters: what we ask a relay for, and whether an event is what we asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from dvm.nostr.event import Event


@dataclass(frozen=True, slots=True)
class Filter:
    """All conditions that are given must hold. `tags` maps a letter to values, of which one must be there.

    `since` and `until` are seconds, inclusive. `limit` concerns stored events only and is never matched.
    """

    ids: Collection[str] | None = None
    authors: Collection[str] | None = None
    kinds: Collection[int] | None = None
    tags: Mapping[str, Collection[str]] = field(default_factory=dict)
    since: int | None = None
    until: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("ids", "authors", "kinds"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, frozenset(value))
        object.__setattr__(self, "tags", {name: frozenset(values) for name, values in self.tags.items()})

    def matches(self, event: Event) -> bool:
        """Whether the event is what the filter asks for. Relays lie, so everything that arrives is asked."""
        if self.kinds is not None and event.kind not in self.kinds:
            return False
        if self.authors is not None and event.pubkey not in self.authors:
            return False
        if self.ids is not None and event.id not in self.ids:
            return False
        if self.since is not None and event.created_at < self.since:
            return False
        if self.until is not None and event.created_at > self.until:
            return False
        for name, wanted in self.tags.items():
            if not any(len(tag) > 1 and tag[0] == name and tag[1] in wanted for tag in event.tags):
                return False
        return True

    def to_dict(self, *, since: int | None = None, until: int | None = None) -> dict[str, Any]:
        """The filter as JSON wants it; a `since` or `until` given here narrows the filter's own."""
        out: dict[str, Any] = {}
        for name in ("ids", "authors", "kinds"):
            value = getattr(self, name)
            if value is not None:
                out[name] = sorted(value)
        for name, values in self.tags.items():
            out[f"#{name}"] = sorted(values)
        later = max((at for at in (self.since, since) if at is not None), default=None)
        earlier = min((at for at in (self.until, until) if at is not None), default=None)
        if later is not None:
            out["since"] = later
        if earlier is not None:
            out["until"] = earlier
        if self.limit is not None:
            out["limit"] = self.limit
        return out
