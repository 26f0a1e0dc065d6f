"""An answer of Gemini's while it comes, whichever SDK carries it: what of it is whole, and what it has used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from dvm.models.base import Blob, Chunk, Finish, ModelError, Usage
from dvm.models.counting import approximate_text, with_unreported
from dvm.models.failures import scrub
from dvm.models.gemini_media import blob_tokens
from dvm.models.gemini_usage import Report, to_usage

log = logging.getLogger(__name__)

# Why an answer ended (the API's FinishReason). What is in neither table is no finish of ours.
_FINISHED: dict[str, Finish] = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
_FILTERED = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "ESCALATION",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
    }
)


@dataclass(slots=True)
class Answer:
    """What is known of an answer while it comes."""

    own_input: int  # tokens, our approximation
    tokens: int = 0  # in the answer, our approximation
    reported_tokens: int = 0  # of these, those that had come with the last report or before it
    answered: bool = False  # something that is an answer has come
    report: Report | None = None
    finish: str | None = None
    blocked: str | None = None
    version: str | None = None

    def usage(self) -> tuple[Usage, bool]:
        """The usage so far, and whether the endpoint's report of it adds up."""
        if self.report is None:
            return to_usage(None, own_input=self.own_input, own_output=self.tokens)
        usage, sound = to_usage(self.report, own_input=self.own_input, own_output=self.reported_tokens)
        unreported = self.tokens - self.reported_tokens
        return with_unreported(usage, unreported), sound and not unreported

    def used(self) -> Usage | None:
        """The usage of an answer that broke off; None when the model may have done nothing at all."""
        return self.usage()[0] if self.report is not None or self.answered else None

    def add(self, pieces: Sequence[str | Blob], report: Report | None) -> None:
        """What one response brought; `report`: its `usageMetadata`, if it had one."""
        self.answered = self.answered or bool(pieces)
        self.tokens += sum(blob_tokens(p) if isinstance(p, Blob) else approximate_text(p) for p in pieces)
        if report is not None:
            self.report = report
            self.reported_tokens = self.tokens

    def last(self, name: str, key: str) -> Chunk:
        """The chunk that ends the answer of model `name`. Raises ModelError when there is none."""
        usage, sound = self.usage()
        if not sound:
            log.warning(
                "model %s: the reported usage is missing or does not add up: %s; used: %s",
                name,
                self.report,
                usage,
            )
        if self.finish == "PUP_LIMITED_DISABLED":  # no filter: the account itself is limited
            raise ModelError("unauthorized", "the account is limited: see Google's use policy", usage=usage)
        finish = _FINISHED.get(self.finish or "")
        if self.blocked is not None and not self.answered:
            raise ModelError("blocked", f"the prompt was blocked: {scrub(self.blocked, key)}", usage=usage)
        if self.finish in _FILTERED:
            if not self.answered:
                raise ModelError("blocked", f"the answer was blocked: {self.finish}", usage=usage)
            finish = "safety"
        if finish is not None and (self.answered or (finish == "length" and usage.output + usage.thoughts)):
            return Chunk(usage=usage, finish=finish, version=self.version)
        reason = scrub(self.finish or "none", key)
        if self.finish is None:
            raise ModelError("broken_off", "the stream ended without a finish", usage=self.used())
        if self.answered:
            raise ModelError("broken_off", f"the answer is not whole: {reason}", usage=usage)
        raise ModelError("empty", f"the model ended without an answer: {reason}", usage=usage)
