"""The kinds of jobs, one file each; a new one is its file and one line here, or an operator's entry point."""

from dvm.jobs.kinds import text_generation
from dvm.jobs.kinds.declaration import Ask, Gathered, Kind, Part, Service

KINDS: dict[int, Kind] = {each.KIND.kind: each.KIND for each in (text_generation,)}

__all__ = ["KINDS", "Ask", "Gathered", "Kind", "Part", "Service"]
