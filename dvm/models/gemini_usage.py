"""Gemini's `usageMetadata` → `Usage`, in disjoint classes that add up. Pure.

Gemini promises `total = prompt + candidates + thoughts + tool-use prompt`, the cached tokens being part of
the prompt. The JSON form of protocol buffers leaves zeros out, so a class that is absent is zero, unless
the total or the answer itself says otherwise. Where the promise is broken, these are believed:

1. A class that was reported, a zero too, stands. The total, one sum over everything, fills in a class
   that is absent and settles a known double count; it overrules nothing else.
2. The total is larger: the rest belongs to what is absent (the answer, if there was one, up to our own
   count of it; then thoughts, which models leave out most often).
3. The total is smaller by exactly the thoughts (or the tool-use prompt): they stand within the
   candidates (or the prompt) as well, and are counted once. So nobody pays for more than the total.
4. The total is larger by exactly the cached tokens: they stand beside the prompt, and are no thoughts.
5. A prompt or an answer that there was, but that neither its class nor the total counts, is our own
   approximation (some models count the answer only in the stream's last report).

Each class that is not as reported, and with a broken promise that none of this explains the output, is in
`Usage.estimated`, so that the receipt says so (money.md: cases 10, 11).
"""

from __future__ import annotations

from dataclasses import dataclass

from dvm.models.base import Usage

# No model has a context of a hundred million tokens: such a count is as good as none. The bound keeps
# whatever an endpoint claims far away from the database's 64 bits.
ABSURD = 100_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """`usageMetadata` as it came: None is absent. What is no plausible count is taken as absent."""

    prompt: object = None
    cached: object = None
    candidates: object = None
    thoughts: object = None
    tool_use: object = None
    total: object = None


def to_usage(report: Report | None, *, own_input: int, own_output: int) -> tuple[Usage, bool]:
    """The usage that `report` stands for, and whether the report kept its promise.

    own_input, own_output: our approximations of the prompt and of the answer, in tokens; own_output is 0
    when there was no answer. Never raises; every class is within 0 … ABSURD (sums of two within twice
    that). Without a report, everything is our own approximation.
    """
    if report is None:
        return Usage(own_input, 0, own_output, 0, frozenset({"input", "cached", "output", "thoughts"})), False

    prompt, candidates = _count(report.prompt), _count(report.candidates)
    thoughts, total = _count(report.thoughts), _count(report.total)
    tool_use, cached = _count(report.tool_use) or 0, _count(report.cached) or 0
    estimated = {
        name
        for name, raw in (
            ("input", report.prompt),
            ("input", report.tool_use),
            ("cached", report.cached),
            ("output", report.candidates),
            ("thoughts", report.thoughts),
        )
        if raw is not None and _count(raw) is None
    }
    if report.total is not None and total is None:
        estimated.add("output")  # the promise could not be checked

    rest = None if total is None else total - sum(n or 0 for n in (prompt, candidates, thoughts, tool_use))
    if prompt is None and own_input > 0:
        prompt, rest = _fill(own_input, rest, only=candidates is not None and thoughts is not None)
        estimated.add("input")
    if candidates is None and own_output > 0:
        candidates, rest = _fill(own_output, rest, only=thoughts is not None)
        estimated.add("output")
    if prompt is not None and 0 < cached == rest:
        prompt, rest = prompt + cached, 0
        estimated.add("input")
    if thoughts is None and rest is not None and rest > 0:
        thoughts, rest = rest, 0
        estimated.add("thoughts")
    prompt, candidates, thoughts = prompt or 0, candidates or 0, thoughts or 0

    if rest is not None and rest < 0:
        if rest == -thoughts and thoughts <= candidates:
            candidates -= thoughts
            estimated.add("output")
        elif rest == -tool_use and tool_use <= prompt:
            tool_use = 0
            estimated.add("input")
        else:
            estimated.add("output")
    elif rest:
        estimated.add("output")

    if cached > prompt + tool_use:  # it is a part of the prompt, and no part is larger than the whole
        cached = prompt + tool_use
        estimated.add("cached")
    usage = Usage(prompt + tool_use - cached, cached, candidates, thoughts, frozenset(estimated))
    return usage, not estimated


def _fill(own: int, rest: int | None, *, only: bool) -> tuple[int, int | None]:
    """The count of an absent class, and what then remains of `rest`, the part of the total that no class
    accounts for. `only`: nothing else is absent, so all of the rest is this."""
    if rest is None or rest <= 0:
        return min(own, ABSURD), rest
    count = rest if only else min(own, rest)
    return count, rest - count


def _count(raw: object) -> int | None:
    """`raw` if it is a plausible number of tokens."""
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= ABSURD else None
