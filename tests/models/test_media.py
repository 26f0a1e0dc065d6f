"""Images and speech: what is asked of Gemini, and the files that come of it; models that only write refuse."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import pytest

from dvm.models.base import Blob, Limits, ModelError, Prompt
from dvm.models.echo import EchoModel
from dvm.models.embedded import EmbeddedModel
from dvm.models.gemini_media import Speech, nearest_ratio, output_config
from tests.models.answers import ask, refused
from tests.models.conftest import GeminiFactory
from tests.models.test_gemini import camel_case
from tests.standins.gemini import GeminiStandIn

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(100))
PCM = bytes(range(256)) * 375  # two seconds: 24,000 samples of 2 bytes each
L16 = "audio/L16;codec=pcm;rate=24000"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def generation(standin: GeminiStandIn) -> Any:
    return camel_case(standin.requests[-1].body["generationConfig"])


async def test_an_image_is_asked_for_in_its_shape_and_comes_as_it_is(
    standin: GeminiStandIn, flash: GeminiFactory
) -> None:
    standin.script("*", text="", blob=("image/png", encoded(PNG)))
    prompt = Prompt.of(Blob("image/jpeg", b"JPEG"), "In style of Picasso")
    answer = await ask(flash("gemini-2.5-flash-image"), prompt, output="image", ratio="4:3")
    assert generation(standin) == {
        "maxOutputTokens": 1000,
        "responseModalities": ["IMAGE"],
        "imageConfig": {"aspectRatio": "4:3"},
    }
    parts = camel_case(standin.requests[-1].body["contents"][0]["parts"])
    assert parts == [
        {"inlineData": {"mimeType": "image/jpeg", "data": encoded(b"JPEG")}},
        {"text": "In style of Picasso"},
    ]
    assert [chunk.blob for chunk in answer.chunks if chunk.blob] == [Blob("image/png", PNG)]
    assert (answer.last.finish, answer.usage.output, answer.usage.estimated) == ("stop", 258, frozenset())


async def test_an_image_whose_tokens_nobody_counted_costs_what_one_costs(
    standin: GeminiStandIn, flash: GeminiFactory
) -> None:
    standin.script("*", text="", blob=("image/png", encoded(PNG)), usage="never")
    answer = await ask(flash("gemini-2.5-flash-image"), output="image")
    assert answer.usage.output == 1290
    assert "output" in answer.usage.estimated


async def test_speech_becomes_one_wav_file(standin: GeminiStandIn, flash: GeminiFactory) -> None:
    standin.script("*", text="", blobs=[(L16, encoded(PCM[:31])), (L16, encoded(PCM[31:]))])
    answer = await ask(flash("gemini-2.5-flash-preview-tts"), output="speech", language="de", voice="Kore")
    assert generation(standin) == {
        "maxOutputTokens": 1000,
        "responseModalities": ["AUDIO"],
        "speechConfig": {
            "languageCode": "de-DE",
            "voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}},
        },
    }
    (spoken,) = [chunk.blob for chunk in answer.chunks if chunk.blob]
    assert spoken.mime == "audio/wav"
    with wave.open(io.BytesIO(spoken.data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        assert file.readframes(file.getnframes()) == PCM
    # What is used so far is known while it speaks: whoever cancels pays for that.
    assert answer.chunks[0].blob is None
    assert answer.chunks[0].usage is not None


async def test_speech_whose_tokens_nobody_counted_costs_by_the_second(
    standin: GeminiStandIn, flash: GeminiFactory
) -> None:
    standin.script("*", text="", blob=(L16, encoded(PCM)), usage="never")
    assert (await ask(flash("gemini-2.5-flash-preview-tts"), output="speech")).usage.output == 50


@pytest.mark.parametrize(
    ("language", "code"), [("de", "de-DE"), ("en-GB", "en-GB"), ("pt-PT", "pt-BR"), ("zh-CN", "cmn-CN"), ("hu", None)]
)
def test_a_language_goes_by_the_apis_name_or_is_left_to_the_text(language: str, code: str | None) -> None:
    asked = output_config(Limits(1, output="speech", language=language))
    assert asked == {"response_modalities": ["AUDIO"], **({"speech_config": {"language_code": code}} if code else {})}


async def test_speech_that_breaks_off_is_an_error_and_no_half_a_file(
    standin: GeminiStandIn, flash: GeminiFactory
) -> None:
    standin.script("*", text="", blobs=[(L16, encoded(PCM)), (L16, encoded(PCM))], fault="cut", fault_after=1)
    error = await refused(flash("gemini-2.5-flash-preview-tts"), output="speech")
    assert error.code == "broken_off"
    assert error.usage is not None
    assert error.usage.output > 0


def test_other_audio_is_a_file_as_it_is_and_half_a_sample_is_no_sound() -> None:
    speech = Speech()
    mp3 = Blob("audio/mpeg", b"ID3")
    assert speech.take(mp3) is mp3
    assert speech.file() is None
    assert speech.take(Blob("audio/l16; rate=8000", b"\x01\x02\x03")) is None
    file = speech.file()
    assert file is not None
    with wave.open(io.BytesIO(file.data)) as read:
        assert (read.getframerate(), read.readframes(9)) == (8000, b"\x01\x02")


@pytest.mark.parametrize(
    ("asked", "made"),
    [("1:1", "1:1"), ("16:9", "16:9"), ("16:10", "3:2"), ("10:16", "2:3"), ("1920:1080", "16:9"), ("3:1", "21:9")],
)
def test_the_nearest_shape_is_made(asked: str, made: str) -> None:
    assert nearest_ratio(asked) == made


@pytest.mark.parametrize("ratio", ["0:1", "1:0", "a:b", "1", "-1:1", "1:1:1", "9999999:1"])
def test_what_is_no_shape_is_refused(ratio: str) -> None:
    with pytest.raises(ModelError, match="ratio"):
        nearest_ratio(ratio)


@pytest.mark.parametrize("output", ["image", "speech"])
async def test_a_model_that_only_writes_refuses(output: str) -> None:
    error = await refused(EchoModel(), output=output)
    assert (error.code, output in str(error)) == ("bad_request", True)


@pytest.mark.embedded
async def test_the_embedded_model_only_writes() -> None:
    # Refused before anything is asked of it, so it need not be loaded.
    assert (await refused(EmbeddedModel("m", threads=1), output="image")).code == "bad_request"
