"""OpenAI's `usage` → `Usage`, in disjoint classes. Pure.

`prompt_tokens` has the cached ones in it and `completion_tokens` the thoughts (the API's "reasoning tokens");
`total_tokens` is their sum. Some endpoints (xAI's, Google's) count the thoughts beside the completion, and some the
cached tokens beside the prompt: then the total says so. A class that was reported, a zero too, stands; of prompt and
completion the one that is absent is what the total leaves for it, or without a total our own count. A report that
contradicts itself is as good as none: nothing in it says which half of it is true.
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
    estimated: frozenset[str] = frozenset()


def to_usage(raw: object, *, own_input: int = 0, own_output: int = 0, own_thoughts: int = 0) -> Usage | None:
    """The usage that the field `usage` stands for; None if it is absent. Raises Contradiction, nothing else.

    own_input, own_output, own_thoughts: our approximations of the prompt, of the text and of the thoughts that
    were shown, in tokens, for what the report leaves out.
    """
    if not isinstance(raw, dict) or not raw:
        if raw is None or raw == {}:
            return None
        raise Contradiction("is no object")
    report = _read(raw, own_input, own_output, own_thoughts)
    if report is None:
        return None
    cached, thoughts, estimated = report.cached, report.reasoning, report.estimated
    beside = 0 if report.total is None else report.total - report.prompt - report.completion
    if beside in (0, thoughts):
        apart = (0, beside)  # of the cached ones and the thoughts, those that do not stand within prompt and completion
    elif beside == cached:
        apart = (cached, 0)
    elif beside == cached + thoughts:
        apart = (cached, thoughts)
    elif beside > 0 and not thoughts:  # what else would be neither prompt nor answer
        apart, thoughts, estimated = (0, beside), beside, estimated | {"thoughts"}
    else:
        raise Contradiction(f"{report.prompt} and {report.completion} (thoughts: {thoughts}) are not {report.total}")
    given, output = report.prompt - cached + apart[0], report.completion - thoughts + apart[1]
    if given < 0:
        raise Contradiction(f"{cached} tokens of {report.prompt} are cached")
    if output < 0:
        raise Contradiction(f"{thoughts} tokens of {report.completion} are thoughts")
    return Usage(given, cached, output, thoughts, estimated)


def _read(raw: dict[str, Any], own_input: int, own_output: int, own_thoughts: int) -> _Report | None:
    """The counts; None if neither that of the prompt nor that of the completion is there."""
    prompt, completion = _count(raw, "prompt_tokens"), _count(raw, "completion_tokens")
    total = _count(raw, "total_tokens")
    reasoning = _count(_details(raw, "completion_tokens_details"), "reasoning_tokens") or 0
    estimated = frozenset[str]()
    if prompt is None and completion is None:
        return None
    if completion is None and prompt is not None:
        completion = own_output + max(reasoning, own_thoughts) if total is None else total - prompt
        estimated = frozenset({"output"})
    elif prompt is None and completion is not None:
        prompt = own_input if total is None else total - completion
        estimated = frozenset({"input"})
    if prompt is None or completion is None or min(prompt, completion) < 0:
        raise Contradiction(f"a part is more than the whole, {total}")
    return _Report(prompt, completion, _cached(raw), reasoning, total, estimated)


def _cached(raw: dict[str, Any]) -> int:
    """OpenAI's place for it, or DeepSeek's, or Moonshot's; all within the prompt."""
    details = _details(raw, "prompt_tokens_details")
    found = (
        _count(details, "cached_tokens"),
        _count(raw, "prompt_cache_hit_tokens"),
        _count(raw, "cached_tokens"),
    )
    return next((count for count in found if count is not None), 0)


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
