"""Kind 5100: what the model is asked for, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest

from dvm.jobs.kinds import image
from dvm.models import Blob
from dvm.nip90 import Input, InvalidRequest
from tests.jobs.kinds.asking import SYSTEM, body_of, parts, request, understood

OSTRICH = "A purple ostrich watching the sunset"
PHOTO = "https://example.com/photo.jpg"


def refused(*texts: str, params: Sequence[Sequence[str]] = (), output: str | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        understood(request(5100, *(texts or (OSTRICH,)), params=params, output=output), kind=image.KIND)
    return str(caught.value)


async def test_an_image_is_made_from_a_description() -> None:
    asked = request(5100, OSTRICH, params=[("ratio", "4:3"), ("negative_prompt", "broken hands")])
    body = await body_of(understood(asked, kind=image.KIND))
    (part,) = parts(body)
    assert part["text"] == f"{SYSTEM}\n\n{OSTRICH}\n\nAvoid in the image: broken hands"
    assert "systemInstruction" not in body  # image models take none
    config = body["generationConfig"]
    assert config["responseModalities"] == ["IMAGE"]
    assert config["imageConfig"] == {"aspectRatio": "4:3"}


async def test_an_image_is_changed_as_a_text_says() -> None:
    asked = request(5100, Input(PHOTO, "url"), "In style of Pablo Picasso")
    photo = Blob("image/jpeg", b"JPEG")
    body = await body_of(understood(asked, photo, "In style of Pablo Picasso", kind=image.KIND))
    blob, text = parts(body)
    assert base64.urlsafe_b64decode(next(iter(blob.values()))["data"]) == photo.data
    assert text["text"].endswith("In style of Pablo Picasso")
    assert "imageConfig" not in body["generationConfig"]


@pytest.mark.parametrize(
    ("params", "ratio"),
    [
        ([], None),
        ([("ratio", "16:10")], "16:10"),
        ([("size", "1920x1080")], "1920:1080"),
        ([("size", "64X64")], "64:64"),
    ],
)
def test_the_shape_is_a_ratio_or_the_proportions_of_a_size(params: list[tuple[str, str]], ratio: str | None) -> None:
    assert understood(request(5100, OSTRICH, params=params), kind=image.KIND).ratio == ratio


@pytest.mark.parametrize(
    "params",
    [
        [("ratio", "5:1")],
        [("ratio", "1:1", "4:3")],
        [("ratio", "wide")],
        [("size", "0x0")],
        [("size", "1024")],
        [("size", "4000x100")],
        [("size", "1000000x1000000")],
        [("size", "-64x64")],
        [("size", "64x64"), ("ratio", "1:1")],
        [("negative_prompt", "x" * 2001)],
    ],
)
def test_a_shape_that_is_none_is_refused(params: list[tuple[str, str]]) -> None:
    assert refused(params=params).startswith("invalid-param")


def test_an_image_needs_a_text() -> None:
    with pytest.raises(InvalidRequest, match="no-input"):
        understood(request(5100, Input(PHOTO, "url")), Blob("image/png", b"1"), kind=image.KIND)
    with pytest.raises(InvalidRequest, match="invalid-input"):
        understood(request(5100, OSTRICH), OSTRICH, *[Blob("image/png", b"1")] * 5, kind=image.KIND)


def test_only_types_that_are_made_are_promised() -> None:
    assert "invalid-output" in refused(output="image/gif")
    assert understood(request(5100, OSTRICH, output="image/png"), kind=image.KIND).output == "image"
    assert image.KIND.makes == "image"
