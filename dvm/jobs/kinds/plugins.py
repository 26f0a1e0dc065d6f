"""Kinds that the operator adds: Python entry points in the group `dvm.kinds` (docs/kinds.md)."""

from __future__ import annotations

import logging
from collections.abc import Container
from importlib.metadata import EntryPoint, entry_points

from dvm.jobs.kinds.declaration import Kind
from dvm.nip90.wire import FIRST_REQUEST, LAST_REQUEST

log = logging.getLogger(__name__)

GROUP = "dvm.kinds"


def plugged_in(taken: Container[int]) -> dict[int, Kind]:
    """What is installed on this machine, in the order of the names. One that cannot be used is told by its name and
    left out; so is one that would replace a kind of `taken`, or of another."""
    found: dict[int, Kind] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        try:
            kind = _load(entry)
            if kind.kind in taken or kind.kind in found:
                raise ValueError(f"there is a kind {kind.kind} already")
        except Exception as error:  # noqa: BLE001 - it is another's code, and what it raises when imported is its own
            # All in the message: this may be said before the log has its format.
            log.error("the kind %r (%s) cannot be used: %s: %s", entry.name, entry.value, type(error).__name__, error)
        else:
            found[kind.kind] = kind
    return found


def _load(entry: EntryPoint) -> Kind:
    """Raises whatever the module does when it is imported; TypeError or ValueError for what is no kind of job."""
    kind = entry.load()
    if not isinstance(kind, Kind):
        raise TypeError(f"a dvm.jobs.kinds.Kind expected, and it is a {type(kind).__name__}")
    if type(kind.kind) is not int or not FIRST_REQUEST <= kind.kind <= LAST_REQUEST:
        raise ValueError(f"a kind from {FIRST_REQUEST} to {LAST_REQUEST} expected, and it is {kind.kind!r}")
    if not kind.outputs:
        raise ValueError("at least one output expected")
    return kind
