"""Kind 5100: images from a description, or from an image and what to make of it (NIP-90, data-vending-machines)."""

from __future__ import annotations

import re

from dvm.jobs.kinds.declaration import TEXT, Ask, Gathered, Kind
from dvm.models import Blob, Prompt
from dvm.nip90 import InvalidRequest, JobRequest, Param

PNG, URI_LIST = "image/png", "text/uri-list"
# What an image costs in tokens of output; less than that is no image.
IMAGE_TOKENS = 1290
MAX_IMAGES = 4
MAX_NEGATIVE_CHARS = 2000
_RATIOS = ("1:1", "4:3", "3:4", "16:9", "9:16", "16:10", "10:16", "3:2", "2:3", "5:4", "4:5", "21:9")
_SIZE = re.compile(r"([1-9][0-9]{1,4})[xX×]([1-9][0-9]{1,4})").fullmatch
_STEEPEST = 3


def read(request: JobRequest, gathered: Gathered, system: str | None) -> Ask:
    """The description, after the images that it is about. The operator's instruction stands before it: image models
    take no system instruction. Raises InvalidRequest."""
    images = tuple(part.content for part in gathered.parts if isinstance(part.content, Blob))
    if len(images) > MAX_IMAGES:
        raise InvalidRequest("invalid-input", f"at most {MAX_IMAGES} images expected")
    texts = [part.content for part in gathered.parts if isinstance(part.content, str)]
    if not texts:
        raise InvalidRequest("no-input", "a text that describes the image expected")
    avoided = request.param("negative_prompt")
    told = [*([system] if system else ()), *texts, *([f"Avoid in the image: {avoided}"] if avoided else ())]
    return Ask(prompt=Prompt.of(*images, "\n\n".join(told)), max_tokens=None, ratio=shape(request))


def shape(request: JobRequest) -> str | None:
    """Width to height, by the params `ratio` or `size`. Raises InvalidRequest."""
    ratio, size = request.param("ratio"), request.param("size")
    if not size:
        return ratio or None
    if ratio:
        raise InvalidRequest("invalid-param", "size: either ratio or size expected, not both")
    found = _SIZE(size.strip())
    width, height = (int(found[1]), int(found[2])) if found else (0, 1)
    if not width <= height * _STEEPEST or not height <= width * _STEEPEST:
        raise InvalidRequest(
            "invalid-param", f"size: WIDTHxHEIGHT expected, no side over {_STEEPEST} times the other's length"
        )
    return f"{width}:{height}"


def validate(request: JobRequest) -> None:
    """Raises InvalidRequest."""
    shape(request)
    if len(request.param("negative_prompt") or "") > MAX_NEGATIVE_CHARS:
        raise InvalidRequest("invalid-param", f"negative_prompt: at most {MAX_NEGATIVE_CHARS} characters expected")


KIND = Kind(
    kind=5100,
    name="Image generation",
    read=read,
    topics=("image-generation", "ai"),
    params={
        "model": "Which of the models makes it",
        "ratio": Param("The shape, width to height, or the nearest that the model makes", values=_RATIOS),
        "size": "WIDTHxHEIGHT in pixels, for its proportions; instead of ratio",
        "negative_prompt": "What the image should not show",
    },
    inputs=frozenset({"text", "url"}),
    files=("image/",),
    outputs=(TEXT, URI_LIST, PNG),
    validate=validate,
    makes="image",
    least_output=IMAGE_TOKENS,
)
