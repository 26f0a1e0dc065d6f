"""Kind 5002: translation (NIP-90, data-vending-machines)."""

from __future__ import annotations

from dvm.jobs.kinds.declaration import MARKDOWN, Ask, Gathered, Kind
from dvm.jobs.kinds.languages import language_param
from dvm.jobs.kinds.prompting import prompt_of
from dvm.jobs.kinds.sampling import BOUNDS, bounded
from dvm.nip90 import JobRequest, Param

TEMPERATURE = 0.2

_ROLE = (
    "You translate texts: completely, faithfully, in the tone of the original, and with its line breaks. Names, "
    "links, code, hashtags and nostr: references stay as they are. Several inputs are translated one after the "
    "other, with an empty line between them."
)


def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
    """Raises InvalidRequest."""
    form = " Keep its Markdown." if KIND.output(request) == MARKDOWN else ""
    task = f"Translate the text of the inputs above into {language_param(request)}.{form}"
    prompt = prompt_of(request, gathered, role=_ROLE, task=task, system=system)
    return bounded(request, prompt, TEMPERATURE)


KIND = Kind(
    kind=5002,
    name="Translation",
    read=read,
    topics=("translation", "ai"),
    params={
        **BOUNDS,
        "language": Param("The language to translate into: an ISO 639 code or a BCP 47 tag", required=True),
    },
    inputs=frozenset({"text", "event", "job", "url"}),
    files=("text/",),
    validate=language_param,
)
