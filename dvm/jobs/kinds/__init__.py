"""The kinds of jobs, one file each; a new one is its file and one line here, or an operator's entry point."""

from functools import cache

from dvm.jobs.kinds import image, speech, summary, text_extraction, text_generation, translation
from dvm.jobs.kinds.declaration import Ask, Check, Gathered, Kind, Part, Service, WrongAnswer
from dvm.jobs.kinds.plugins import plugged_in

KINDS: dict[int, Kind] = {
    each.KIND.kind: each.KIND
    for each in (
        text_extraction,
        summary,
        translation,
        text_generation,
        image,
        speech,
    )
}
"""Those of this program."""


@cache
def all_kinds() -> dict[int, Kind]:
    """Those of this program, and what else is installed on this machine: other people's code, so only who is about
    to sell something calls it."""
    return {**KINDS, **plugged_in(KINDS)}


__all__ = ["KINDS", "Ask", "Check", "Gathered", "Kind", "Part", "Service", "WrongAnswer", "all_kinds"]
