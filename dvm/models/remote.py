"""What models behind an address have in common: their settings, checked, and what their names say that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from dvm.models.base import Limits, ModelError, Output
from dvm.models.failures import is_key

# Words of a model's name by which its makers tell what it is for; all others write. What none of our providers has a
# way to ask for (videos, embeddings, …) makes nothing.
_MAKES: dict[str, tuple[Output, ...]] = {"image": ("image",), "tts": ("speech",)}
_MAKES |= dict.fromkeys(("imagen", "dall", "veo", "sora", "whisper", "transcribe", "moderation"), ())
_MAKES |= dict.fromkeys(("embed", "embedding", "embeddings"), ())


class RemoteModel:
    """A model that is asked over HTTP.

    model: the provider's name for it. api_key: used for nothing but a header. base_url: another address than the
    provider's own. first_chunk_seconds: how long the first piece may take (models think before they speak);
    stall_seconds: each further one. makes: what it answers with, if its name does not tell.
    """

    can_make: ClassVar[tuple[Output, ...]] = ("text",)  # what the provider has a way to ask for
    example: ClassVar[str] = "as the endpoint knows it"
    context_tokens: int | None = None

    def __init__(
        self,
        name: str,
        *,
        model: str,
        api_key: str = "",
        base_url: str | None = None,
        max_output_tokens: int = 8192,
        first_chunk_seconds: float = 120.0,
        stall_seconds: float = 60.0,
        max_response_bytes: int = 64 * 1024 * 1024,
        makes: Sequence[Output] | None = None,
    ) -> None:
        if not model:
            raise ValueError(f"model {name}: `model` must name a model, {self.example}")
        if max_output_tokens < 1:
            raise ValueError(f"model {name}: max_output_tokens must be at least 1")
        if not min(first_chunk_seconds, stall_seconds) > 0:
            raise ValueError(f"model {name}: first_chunk_seconds and stall_seconds must be above 0")
        if foreign := set(makes or ()) - set(self.can_make):
            raise ValueError(f"model {name}: this provider has no way to ask for {min(foreign)}, which `makes` names")
        self.name = name
        self.max_output_tokens = max_output_tokens
        self.makes = self.made_by(model, makes)
        self._model = model
        self._key = api_key
        self._base_url = base_url
        self._first_chunk_seconds = first_chunk_seconds
        self._stall_seconds = stall_seconds
        self._max_response_bytes = max_response_bytes
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, model={self._model!r})"

    @classmethod
    def made_by(cls, model: str, makes: Sequence[Output] | None = None) -> tuple[Output, ...]:
        """What a model of that name answers with here; `makes`: what its operator says of it."""
        if makes is None:
            words = re.split(r"[^a-z0-9]+", model.lower())
            makes = next((_MAKES[word] for word in words if word in _MAKES), ("text",))
        return tuple(output for output in cls.can_make if output in makes)

    def _require(self, limits: Limits) -> None:
        """Raises ModelError if this is asked for something that it does not make."""
        if limits.output not in self.makes:
            made = " and ".join(self.makes) or "nothing that we could ask for"
            raise ModelError("bad_request", f"model {self.name} makes {made}, no {limits.output}")


class GoogleModel(RemoteModel):
    """A model of Gemini's, whichever SDK asks it. count_seconds: how long counting a prompt's tokens may take."""

    example = "such as gemini-2.5-flash"
    takes: tuple[str, ...] = ("image/", "audio/", "video/", "application/pdf")

    def __init__(
        self, name: str, *, api_key: str, base_url: str | None = None, count_seconds: float = 20.0, **settings: Any
    ) -> None:
        if not is_key(api_key):
            raise ValueError(f"model {name}: needs an API key of Gemini; set GEMINI_API_KEY")
        if base_url is not None and not _is_http_url(base_url):
            raise ValueError(f"model {name}: base_url must be an http(s) address")
        if not count_seconds > 0:
            raise ValueError(f"model {name}: count_seconds must be above 0")
        super().__init__(name, api_key=api_key, base_url=base_url, **settings)
        self._count_seconds = count_seconds


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
