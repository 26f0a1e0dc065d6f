"""Kind 5250: text to speech (NIP-90, data-vending-machines)."""

from __future__ import annotations

import re

from dvm.jobs.kinds.declaration import TEXT, Ask, Gathered, Kind
from dvm.jobs.kinds.languages import language_param
from dvm.models import Prompt
from dvm.nip90 import InvalidRequest, JobRequest

WAV, URI_LIST = "audio/wav", "text/uri-list"
# Two seconds: less is no speech.
LEAST_TOKENS = 50
_VOICE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}").fullmatch


def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
    """The texts, one after the other, to be read aloud. The operator's instruction (a tone, say) stands before them:
    speech models take no system instruction. Raises InvalidRequest."""
    spoken = language_param(request)
    task = f"Read the following text aloud in {spoken}, word for word:" if spoken else _TASK
    told = "\n\n".join([*([system] if system else ()), task, *gathered.texts()])
    return Ask(prompt=Prompt.of(told), max_tokens=None, language=_tag(spoken), voice=voice(request))


def voice(request: JobRequest) -> str | None:
    """The voice that is asked for, by the model's own name for it. Raises InvalidRequest."""
    name = request.param("voice")
    if not name:
        return None
    if not _VOICE(name):
        raise InvalidRequest("invalid-param", "voice: the name of a voice expected, such as Kore")
    return name


def validate(request: JobRequest) -> None:
    """Raises InvalidRequest."""
    language_param(request)
    voice(request)


_TASK = "Read the following text aloud, word for word:"


def _tag(spoken: str | None) -> str | None:
    """The tag in "Portuguese (pt-BR)"."""
    return None if spoken is None else spoken.rpartition("(")[2].rstrip(")")


KIND = Kind(
    kind=5250,
    name="Text to speech",
    read=read,
    topics=("text-to-speech", "ai"),
    params={
        "model": "Which of the models speaks",
        "language": "The language of the speech: an ISO 639 code or a BCP 47 tag; else that of the text",
        "voice": "The model's name of a voice, such as Kore",
    },
    inputs=frozenset({"text", "event", "job"}),
    outputs=(TEXT, URI_LIST, WAV),
    validate=validate,
    makes="speech",
    least_output=LEAST_TOKENS,
)
