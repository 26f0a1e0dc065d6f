"""Language models behind one Protocol; nothing here knows of Nostr or money."""

from dvm.models.base import Blob, Chunk, Finish, Limits, Model, ModelError, Output, Prompt, Turn, Usage
from dvm.models.counting import approximate_text, approximate_tokens, estimate_tokens

__all__ = [
    "Blob",
    "Chunk",
    "Finish",
    "Limits",
    "Model",
    "ModelError",
    "Output",
    "Prompt",
    "Turn",
    "Usage",
    "approximate_text",
    "approximate_tokens",
    "estimate_tokens",
]
