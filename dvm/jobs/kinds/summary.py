"""Kind 5001: summarisation (NIP-90, data-vending-machines)."""

from __future__ import annotations

import re

from dvm.jobs.kinds.declaration import MARKDOWN, Ask, Gathered, Kind
from dvm.jobs.kinds.prompting import prompt_of
from dvm.jobs.kinds.sampling import BOUNDS, bounded
from dvm.nip90 import InvalidRequest, JobRequest, Param

MOST = {"word": 10_000, "paragraph": 100}
TEMPERATURE = 0.3

_ROLE = (
    "You summarise texts: one summary of all inputs together, in the language that most of them are written in, "
    "true to what they say, with nothing added."
)
_LENGTH = re.compile(r"([1-9][0-9]{0,4})\s+(word|paragraph)s?", re.IGNORECASE).fullmatch


def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
    """Raises InvalidRequest."""
    length = length_of(request)
    size = f"in {length}" if length else "as briefly as their content allows"
    form = "Write Markdown." if KIND.output(request) == MARKDOWN else "Write plain text."
    task = f"Summarise the inputs above {size}. {form}"
    prompt = prompt_of(request, gathered, role=_ROLE, task=task, system=system)
    return bounded(request, prompt, TEMPERATURE)


def length_of(request: JobRequest) -> str | None:
    """`["param", "length", "10 paragraphs"]`, or number and unit as two values. The unit is never guessed. Raises
    InvalidRequest."""
    stated = {" ".join(values).strip() for values in request.param_values("length")}
    if not stated:
        return None
    match = _LENGTH(stated.pop()) if len(stated) == 1 else None
    if match is None or int(match[1]) > MOST[unit := match[2].lower()]:
        most = " or ".join(f"1 to {number} {name}s" for name, number in MOST.items())
        raise InvalidRequest("invalid-param", f"length: {most} expected, such as 3 paragraphs")
    return f"{match[1]} {unit}{'' if match[1] == '1' else 's'}"


KIND = Kind(
    kind=5001,
    name="Summarization",
    read=read,
    topics=("summarization", "ai"),
    params={**BOUNDS, "length": Param('How long the summary is, such as "100 words" or "3 paragraphs"')},
    inputs=frozenset({"text", "event", "job", "url"}),
    files=("text/",),
    validate=length_of,
)
