"""Kind 5050: text generation."""

from __future__ import annotations

from dvm.jobs.kinds.declaration import Ask, Gathered, Kind, Part
from dvm.jobs.kinds.sampling import SAMPLING, sampled
from dvm.models import Blob, Prompt
from dvm.nip90 import JobRequest


def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
    """The inputs as one turn: in the request's order, but what is marked as the prompt after what it is about, and
    each other marker above what it marks. Raises InvalidRequest."""
    gathered.contents()
    parts = sorted(gathered.parts, key=lambda part: part.marker == "prompt")
    return sampled(request, Prompt.of(*(piece for part in parts for piece in _pieces(part)), system=system))


def _pieces(part: Part) -> tuple[str | Blob, ...]:
    marker = part.marker if part.marker and part.marker != "prompt" else ""
    if isinstance(part.content, Blob):
        return (f"{marker}:", part.content) if marker else (part.content,)
    return (f"{marker}:\n{part.content}" if marker else part.content,)


KIND = Kind(
    kind=5050,
    name="Text generation",
    read=read,
    topics=("text-generation", "ai"),
    params=SAMPLING,
    inputs=frozenset({"text", "event", "job", "url"}),
    files=("text/", "image/", "audio/", "video/", "application/pdf"),
    converses=True,
)
