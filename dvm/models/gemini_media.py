"""Images and speech that Gemini makes: how they are asked for, and what becomes of the answer. Pure.

An image comes as one piece, a PNG as a rule. Speech comes as raw PCM (`audio/L16;codec=pcm;rate=24000`: 16 bits,
mono, little-endian in spite of the name), in one piece or in several; players want it within a WAV container.
"""

from __future__ import annotations

import io
import re
import wave
from dataclasses import dataclass, field
from typing import Any

from dvm.models.base import Blob, Limits, ModelError

# What an image in the answer costs where the usage does not say, and a second of speech.
IMAGE_TOKENS = 1290
SPEECH_TOKENS = 25
_SAMPLE_BYTES = 2
_RATE = 24_000
_RATES = range(8_000, 192_001)
_PCM = frozenset({"audio/l16", "audio/pcm"})
_WAV = "audio/wav"
# The shapes that the image models make.
_RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
# The languages that the API has a name for, and some of their regions; any other one is told by the text alone.
_LANGUAGES = {
    "ar": "ar-XA",
    "bn": "bn-IN",
    "de": "de-DE",
    "en": "en-US",
    "es": "es-ES",
    "fr": "fr-FR",
    "hi": "hi-IN",
    "id": "id-ID",
    "it": "it-IT",
    "ja": "ja-JP",
    "ko": "ko-KR",
    "nl": "nl-NL",
    "pl": "pl-PL",
    "pt": "pt-BR",
    "ru": "ru-RU",
    "th": "th-TH",
    "tr": "tr-TR",
    "vi": "vi-VN",
    "zh": "cmn-CN",
}
_REGIONS = frozenset({"en-AU", "en-GB", "en-IN", "es-US", "fr-CA", *_LANGUAGES.values()})


def output_config(limits: Limits) -> dict[str, Any]:
    """The fields of GenerateContentConfig that say what the answer is made of. Raises ModelError."""
    match limits.output:
        case "image":
            shape = {} if limits.ratio is None else {"image_config": {"aspect_ratio": nearest_ratio(limits.ratio)}}
            return {"response_modalities": ["IMAGE"], **shape}
        case "speech":
            speech: dict[str, Any] = {}
            if limits.language is not None and (code := _language_code(limits.language)) is not None:
                speech["language_code"] = code
            if limits.voice is not None:
                speech["voice_config"] = {"prebuilt_voice_config": {"voice_name": limits.voice}}
            return {"response_modalities": ["AUDIO"], **({"speech_config": speech} if speech else {})}
    return {}


def nearest_ratio(ratio: str) -> str:
    """The shape nearest to `ratio` that the API offers. Raises ModelError."""
    match = re.fullmatch(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})", ratio)
    if match is None:
        raise ModelError("bad_request", "ratio must be width:height")
    wanted = int(match[1]) / int(match[2])

    def distance(offered: str) -> float:
        width, height = map(int, offered.split(":"))
        shape = width / height
        return max(shape / wanted, wanted / shape)

    return min(_RATIOS, key=distance)


def blob_tokens(blob: Blob) -> int:
    """About how many tokens a piece of the answer has, for usage that the model did not report."""
    if _is_pcm(blob.mime):
        return -(-len(blob.data) * SPEECH_TOKENS // (_SAMPLE_BYTES * _rate(blob.mime)))
    return IMAGE_TOKENS


@dataclass(slots=True)
class Speech:
    """Speech while it comes: raw PCM is kept until its end; any other audio is a file as it is."""

    _pcm: bytearray = field(default_factory=bytearray)
    _rate: int = _RATE

    def take(self, blob: Blob) -> Blob | None:
        """Keep a piece of PCM; anything else comes back as it is."""
        if not _is_pcm(blob.mime):
            return blob
        self._rate = _rate(blob.mime)
        self._pcm += blob.data
        return None

    def file(self) -> Blob | None:
        """All that was kept, as one WAV file; None if nothing was."""
        if len(self._pcm) < _SAMPLE_BYTES:
            return None
        whole = len(self._pcm) - len(self._pcm) % _SAMPLE_BYTES  # half a sample is no sound
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(_SAMPLE_BYTES)
            file.setframerate(self._rate)
            file.writeframes(self._pcm[:whole])
        return Blob(_WAV, out.getvalue())


def _language_code(language: str) -> str | None:
    return language if language in _REGIONS else _LANGUAGES.get(language.partition("-")[0].lower())


def _is_pcm(mime: str) -> bool:
    return mime.partition(";")[0].strip().lower() in _PCM


def _rate(mime: str) -> int:
    """Samples a second."""
    found = re.search(r"rate=([0-9]{1,6})\b", mime)
    return int(found[1]) if found and int(found[1]) in _RATES else _RATE
