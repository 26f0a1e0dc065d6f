"""Language models behind one Protocol; nothing here knows of Nostr or money."""

from dvm.models.base import Blob, Chunk, Limits, Model, ModelError, Prompt, Turn, Usage

__all__ = ["Blob", "Chunk", "Limits", "Model", "ModelError", "Prompt", "Turn", "Usage"]
