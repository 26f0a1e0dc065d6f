"""Kind 5050: text generation."""

from __future__ import annotations

from dvm.jobs.kinds.declaration import Ask, Gathered, Kind
from dvm.jobs.kinds.sampling import SAMPLING, sampled
from dvm.models import Prompt
from dvm.nip90 import JobRequest


def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
    """The inputs, one after the other, as one turn. Raises InvalidRequest."""
    return sampled(request, Prompt.of(*gathered.texts(), system=system))


KIND = Kind(
    kind=5050,
    name="Text generation",
    read=read,
    topics=("text-generation", "ai"),
    params=SAMPLING,
)
