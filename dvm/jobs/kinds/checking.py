"""Whether an answer has the form that was asked for: WebVTT (W3C), JSON (RFC 8259)."""

from __future__ import annotations

import re

import orjson

from dvm.jobs.kinds.declaration import WrongAnswer

_TIME = r"(?:([0-9]{2,4}):)?([0-5][0-9]):([0-5][0-9])[.,]([0-9]{3})"
_TIMING = re.compile(rf"{_TIME}[ \t]+-->[ \t]+{_TIME}((?:[ \t]+[a-z]+:[^ \t]+)*)[ \t]*").fullmatch
_BLANK = re.compile(r"\n{2,}")


def vtt(text: str, cut: bool) -> str:
    """WebVTT, without a fence; cues in the order of their begin, each of which ends after it begins.

    A comma before the milliseconds, as SubRip has it, becomes a point. Of an answer that was cut short a last cue
    that is torn is left out. Raises WrongAnswer.
    """
    header, *blocks = _BLANK.split(unfenced(text).replace("\r\n", "\n").replace("\r", "\n").strip("\n"))
    first, *more = header.split("\n")
    if not (first == "WEBVTT" or first.startswith(("WEBVTT ", "WEBVTT\t"))) or any("-->" in line for line in more):
        raise WrongAnswer("the answer is no WebVTT: the first line must be WEBVTT, and an empty one follow it")
    kept, begun = [header], 0
    for number, block in enumerate(blocks, 1):
        try:
            cue, begun = _block(block, begun)
        except ValueError as error:
            if cut and number == len(blocks):
                break
            raise WrongAnswer(f"the answer is no WebVTT: block {number}: {error}") from None
        kept.append(cue)
    return "\n\n".join(kept) + "\n"


def json(text: str, cut: bool) -> str:
    """JSON, without a fence. What was cut short cannot be JSON: it is sent as far as it got. Raises WrongAnswer."""
    bare = unfenced(text).strip()
    try:
        orjson.loads(bare)
    except orjson.JSONDecodeError as error:
        if not cut:
            raise WrongAnswer(f"the answer is no JSON: {error}") from None
    return bare


def unfenced(text: str) -> str:
    """What stands in a Markdown fence, if that is all there is; without a byte order mark. Models like to put one
    around whatever is not prose; where the answer was cut short, it has no end."""
    text = text.removeprefix("\ufeff").strip("\n")
    fence, _, rest = text.strip().partition("\n")
    if not fence.startswith("```") or "`" in fence[3:]:
        return text
    return rest.removesuffix("```").strip("\n")


def _block(block: str, begun: int) -> tuple[str, int]:
    """A cue or a note, and the millisecond at which the latest cue begins. Raises ValueError."""
    lines = block.split("\n")
    if lines[0].split(maxsplit=1)[:1] == ["NOTE"] and "-->" not in block:
        return block, begun
    if lines[0] in ("STYLE", "REGION") and "-->" not in block:
        return block, begun
    at = 0 if "-->" in lines[0] else 1
    timing = _TIMING(lines[at]) if at < len(lines) else None
    if timing is None:
        raise ValueError("a line such as 00:00:01.000 --> 00:00:02.500 expected")
    if any("-->" in line for line in lines[at + 1 :]):
        raise ValueError("an empty line expected between two cues")
    start, end = _milliseconds(timing.groups()[:4]), _milliseconds(timing.groups()[4:8])
    if end <= start:
        raise ValueError("the cue ends before it begins")
    if start < begun:
        raise ValueError("the cue begins before the one before it")
    lines[at] = f"{_stamp(start)} --> {_stamp(end)}{timing[9]}"
    return "\n".join(lines), start


def _milliseconds(pieces: tuple[str | None, ...]) -> int:
    hours, minutes, seconds, rest = (int(piece or 0) for piece in pieces)
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest


def _stamp(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"
