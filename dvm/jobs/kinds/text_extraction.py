"""Kind 5000: text extraction and transcription (NIP-90, data-vending-machines)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dvm.jobs.kinds import checking
from dvm.jobs.kinds.declaration import JSON, MARKDOWN, TEXT, VTT, Ask, Gathered, Kind
from dvm.jobs.kinds.prompting import prompt_of
from dvm.jobs.kinds.sampling import BOUNDS, bounded
from dvm.models import Blob
from dvm.nip90 import InvalidRequest, JobRequest, Param

MOST_SECONDS = 360_000  # a hundred hours
TEMPERATURE = 0.0

_ROLE = (
    "You extract text: what is spoken in sound and video, and what is written in documents, pages and pictures, "
    "word for word, completely, in its own language and in reading order. Nothing is summarised, corrected or "
    "added. What cannot be heard or read is left out."
)
_FORMS = {
    TEXT: "Write plain text.",
    MARKDOWN: "Write Markdown: headings, lists and tables as in the original.",
    VTT: "Write WebVTT: the line WEBVTT, an empty line, then cues such as\n"
    "00:00:01.000 --> 00:00:02.500\nwhat is said\nwith an empty line between them. "
    "Times count from the beginning of the recording.",
    JSON: 'Write JSON: an array of objects, each with "text", and for sound and video with "start" and "end" in '
    "seconds from the beginning of the recording.",
}
_ALIGNED = {
    "raw": "Begin a cue or object wherever you find it natural.",
    "segment": "Begin a cue or object with each sentence or phrase.",
    "word": "Begin a cue or object with each word.",
}
_TIMED = (VTT, JSON)
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?").fullmatch


def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
    """Raises InvalidRequest; also if times are asked for, and nothing has any."""
    output = KIND.output(request) or TEXT
    start, end = range_of(request)
    timed = any(isinstance(part, Blob) and part.mime.startswith(("audio/", "video/")) for part in gathered.contents())
    if (start or end is not None) and not timed:
        raise InvalidRequest("invalid-param", "range: only sound and video have one, and there is none")
    if output == VTT and not timed:
        raise InvalidRequest("invalid-output", f"{VTT} is for sound and video, and there is none")
    task = ["Extract the text of the inputs above."]
    if start or end is not None:
        until = "to the end" if end is None else f"to second {end:g}"
        task.append(f"Only what is said from second {start:g} {until} of the recording.")
    task.append(_FORMS[output])
    if timed and output in _TIMED and (aligned := _ALIGNED.get(request.param("alignment") or "")):
        task.append(aligned)
    prompt = prompt_of(request, gathered, role=_ROLE, task=" ".join(task), system=system)
    return bounded(request, prompt, TEMPERATURE)


def range_of(request: JobRequest) -> tuple[float, float | None]:
    """Where to begin and where to end, in seconds; None is the end of the recording.

    `["param", "range", start, end]`, or `start` and `end` each on its own, of which either may be missing. Raises
    InvalidRequest.
    """
    ranges = set(request.param_values("range"))
    starts, ends = set(request.param_values("start")), set(request.param_values("end"))
    if ranges and (starts or ends):
        raise InvalidRequest("invalid-param", "range: either range or start and end expected, not both")
    if any(len(values) > 1 for values in (ranges, starts, ends)):
        raise InvalidRequest("invalid-param", "range: it is stated twice, differently")
    if ranges:
        given = ranges.pop()
        if len(given) != 2:
            raise InvalidRequest("invalid-param", "range: two values expected, start and end")
        starts, ends = {given[:1]}, {given[1:]}
    start = _seconds(starts.pop()) if starts else 0.0
    end = _seconds(ends.pop()) if ends else None
    if end is not None and end <= start:
        raise InvalidRequest("invalid-param", "range: the end must be later than the start")
    return start, end


def _seconds(values: Sequence[str]) -> float:
    if len(values) != 1 or not _SECONDS(values[0]) or float(values[0]) > MOST_SECONDS:
        raise InvalidRequest("invalid-param", f"range: seconds from 0 to {MOST_SECONDS} expected")
    return float(values[0])


KIND = Kind(
    kind=5000,
    name="Text extraction",
    read=read,
    topics=("text-extraction", "transcription", "ai"),
    params={
        **BOUNDS,
        "range": "Of sound and video: two values, start and end, in seconds",
        "start": "Of sound and video: the second to begin at, instead of range",
        "end": "Of sound and video: the second to end at, instead of range",
        "alignment": Param("What a timestamp stands at, with text/vtt and application/json", values=tuple(_ALIGNED)),
    },
    inputs=frozenset({"url", "event", "text", "job"}),
    files=("image/", "audio/", "video/", "application/pdf", "text/"),
    outputs=(TEXT, MARKDOWN, VTT, JSON),
    checks={VTT: checking.vtt, JSON: checking.json},
    validate=range_of,
)
