"""Counting tokens without asking the model: an upper bound for quotes, and an approximation for usage.

Both are ours, not the model's. What is billed from them is marked as estimated on the receipt.
"""

from __future__ import annotations

from dataclasses import replace

from dvm.models.base import Blob, Prompt, Usage

# The frame around a turn (role, begin and end marks) costs some 5 tokens in the chat templates of today.
TURN_TOKENS = 8
# An image costs up to a few thousand tokens whatever its size in bytes; sound and documents grow with
# their bytes, and a byte of a well-compressed one is far less than an eighth of a token.
BLOB_TOKENS = 4200
BYTES_PER_BLOB_TOKEN = 8
# English text has some four bytes a token, other scripts about as many.
BYTES_PER_TOKEN = 4
# What a file usually costs: an image of common size, and a second of speech at 16 kB.
USUAL_BLOB_TOKENS = 258
USUAL_BYTES_PER_BLOB_TOKEN = 500


def estimate_tokens(prompt: Prompt) -> int:
    """The tokens that `prompt` costs as input at most, for when the model cannot be asked.

    For text it is a true bound: the byte-level tokenizers of today (BPE or SentencePiece with byte
    fallback) make no more tokens than there are UTF-8 bytes. It is some four times the usual count, so
    the quote is too high, never too low. For blobs it is generous, but no bound is certain.
    """
    tokens = TURN_TOKENS + _at_most(prompt.system) if prompt.system else 0
    for turn in prompt.turns:
        tokens += TURN_TOKENS + sum(_at_most(part) for part in turn.parts)
    return tokens


def approximate_tokens(prompt: Prompt) -> int:
    """About how many tokens `prompt` has: for usage that a model failed to report."""
    parts = (part for turn in prompt.turns for part in turn.parts)
    return sum(map(_usually, parts)) + (approximate_text(prompt.system) if prompt.system else 0)


def approximate_text(text: str) -> int:
    """About how many tokens `text` has: one per four bytes of UTF-8, a begun one counted."""
    return -(-len(_utf8(text)) // BYTES_PER_TOKEN)


def with_unreported(usage: Usage, output: int, thoughts: int = 0) -> Usage:
    """A report, and what came after it: what it has stands, so many tokens more are our own count."""
    if not output and not thoughts:
        return usage
    ours = {name for name, tokens in (("output", output), ("thoughts", thoughts)) if tokens}
    return replace(
        usage,
        output=usage.output + output,
        thoughts=usage.thoughts + thoughts,
        estimated=usage.estimated | ours,
    )


def _at_most(part: str | Blob | None) -> int:
    match part:
        case str():
            return len(_utf8(part))
        case Blob():
            return max(BLOB_TOKENS, len(part.data) // BYTES_PER_BLOB_TOKEN)
        case _:
            return 0


def _usually(part: str | Blob) -> int:
    if isinstance(part, Blob):
        return max(USUAL_BLOB_TOKENS, len(part.data) // USUAL_BYTES_PER_BLOB_TOKEN)
    return approximate_text(part)


def _utf8(text: str) -> bytes:
    # A JSON string may hold half a surrogate pair: it is counted, not refused, here.
    return text.encode("utf-8", "surrogatepass")
