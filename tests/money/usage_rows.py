"""A row of the table "how a model reports → what is billed", which the suite takes through a whole shop.

Every number in the tables is written by hand, from these:

- An input token costs 0.3 msat, a cached one 0.075, an output token (or a thought) 2.5. Sums are rounded up.
- The prompt has 400 characters, which by our own count are 100 tokens; the models say that it has 120.
- A half of the answer has 40 characters, 10 tokens by our own count; the models say 25, and 50 for the whole.
- So the usual bill is 120 × 0.3 + 50 × 2.5 = 36 + 125 = 161 msat, and where nothing is reported
  100 × 0.3 + 20 × 2.5 = 30 + 50 = 80.
- The customer allows 1000 tokens of output: a quote of 120 to 408 × 0.3 (what the prompt has, or at most has) + 2500
  msat, so 3 sats. A price for a whole job is 21 sats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dvm.pricing import FREE, PerRequest, PerToken, Price

PER_TOKEN = PerToken(300_000, 75_000, 2_500_000)  # msat per million
PER_REQUEST = PerRequest(21_000)
FREE_OF_CHARGE = FREE
PROMPT = "What becomes of a token that nobody counts? " * 9 + "Say."
HALF = "One half of whatever the model answers. "

ALL = "cached input output thoughts"
OURS = "input output"


@dataclass(frozen=True)
class Due:
    """What the receipt says: tokens in disjoint classes, the classes that are marked as estimated, how it finished,
    and the cost in msat. `quote`: in msat. `delivered`: there is a result."""

    msat: int
    tokens: tuple[int, int, int, int]  # input, cached, output, thoughts
    estimated: str = ""
    finish: str = "stop"
    quote: int = 3_000
    delivered: bool = True


def given_back(tokens: tuple[int, int, int, int] = (0, 0, 0, 0), estimated: str = "", quote: int = 3_000) -> Due:
    """Nothing is billed for what brought no answer; what it used stands on the receipt all the same."""
    return Due(0, tokens, estimated, "error", quote, delivered=False)


@dataclass(frozen=True)
class Row:
    """`way` is how docs/money.md names it. `answers` are the scripts of the stand-in, a request each.

    former: what is due by google-generativeai, where that differs.
    lost: what an attempt that failed used, which is the provider's loss.
    attempts, job_seconds: the shop's; stall_seconds: the model's.
    """

    way: str
    answers: tuple[Any, ...]
    due: Due
    note: str = ""
    former: Due | None = None
    price: Price = PER_TOKEN
    kind: int = 5050
    max_tokens: int | None = 1_000
    attempts: int = 1
    job_seconds: float = 20.0
    stall_seconds: float = 20.0
    cancel: bool = False  # once there is a partial
    lost: tuple[int, int, int, int] | None = None
    models: tuple[str, ...] = ("first",)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.way}: {self.note}" if self.note else self.way
