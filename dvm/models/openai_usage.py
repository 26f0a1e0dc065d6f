"""OpenAI's `usage` → `Usage`, in disjoint classes. Pure.

`prompt_tokens` has the cached ones in it and `completion_tokens` the thoughts (the API's "reasoning tokens");
`total_tokens` is their sum. Some endpoints (xAI's, Google's) count the thoughts beside the completion: then
the total says so. A class that was reported, a zero too, stands. A report that contradicts itself is as good
as none: nothing in it says which half of it is true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dvm.models.base import Usage

# No model has a context of a hundred million tokens: such a count is as good as none. The bound keeps
# whatever an endpoint claims far away from the database's 64 bits.
ABSURD = 100_000_000


class Contradiction(ValueError):
    """The report contradicts itself. The text says how, in numbers."""


@dataclass(frozen=True, slots=True)
class _Report:
    prompt: int
    completion: int
    cached: int
    reasoning: int
    total: int | None


def to_usage(raw: object) -> Usage | None:
    """The usage that the field `usage` stands for; None if it is absent. Raises Contradiction, nothing else."""
    if not isinstance(raw, dict) or not raw:
        if raw is None or raw == {}:
            return None
        raise Contradiction("is no object")
    report = _read(raw)
    if report is None:
        return None
    if report.cached > report.prompt:
        raise Contradiction(f"{report.cached} tokens of {report.prompt} are cached")
    beside = 0 if report.total is None else report.total - report.prompt - report.completion
    thoughts, output, estimated = report.reasoning, report.completion, frozenset[str]()
    if beside < 0 or (beside and thoughts not in {0, beside}):
        raise Contradiction(f"{report.prompt} and {report.completion} (thoughts: {thoughts}) are not {report.total}")
    if beside and not thoughts:  # what else would be neither prompt nor answer
        thoughts, estimated = beside, frozenset({"thoughts"})
    elif not beside:
        output -= thoughts
    if output < 0:
        raise Contradiction(f"{thoughts} tokens of {report.completion} are thoughts")
    return Usage(report.prompt - report.cached, report.cached, output, thoughts, estimated)


def _read(raw: dict[str, Any]) -> _Report | None:
    """The counts; None if neither is there. One of them that is absent follows from the total."""
    prompt, completion = _count(raw, "prompt_tokens"), _count(raw, "completion_tokens")
    total = _count(raw, "total_tokens")
    if prompt is None and completion is None:
        return None
    if prompt is None or completion is None:
        if total is None:
            raise Contradiction("has one of prompt_tokens and completion_tokens, and no total_tokens")
        prompt = total - completion if prompt is None and completion is not None else prompt
        completion = total - prompt if completion is None and prompt is not None else completion
        if prompt is None or completion is None or min(prompt, completion) < 0:
            raise Contradiction(f"a part is more than the whole, {total}")
    cached = _count(_details(raw, "prompt_tokens_details"), "cached_tokens")
    reasoning = _count(_details(raw, "completion_tokens_details"), "reasoning_tokens")
    return _Report(prompt, completion, cached or 0, reasoning or 0, total)


def _details(raw: dict[str, Any], key: str) -> dict[str, Any]:
    details = raw.get(key)
    if details is not None and not isinstance(details, dict):
        raise Contradiction(f"{key} is no object")
    return details or {}


def _count(raw: dict[str, Any], key: str) -> int | None:
    """A plausible number of tokens; None if it is absent. Raises Contradiction."""
    count = raw.get(key)
    if count is None:
        return None
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= ABSURD:
        raise Contradiction(f"{key} is no number of tokens")
    return count
