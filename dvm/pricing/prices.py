"""The three kinds of price, what a job can cost at most, and what it did cost.

Token prices are msat per million tokens: the price list's sats per million times 1000. Costs are rounded
up to a whole msat, quotes up to a whole sat (clients and wallets refuse fractions of a sat).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

MILLION = 1_000_000
MSAT = 1000  # msat in a sat
MAX_MSAT = 21_000_000 * 100_000_000 * MSAT
"""All the bitcoin that there will ever be: no price and no quote is more. SQLite's integers hold it."""


class TokenCount(Protocol):
    """Tokens in disjoint classes; see the receipt, kind 7090."""

    @property
    def input(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def thoughts(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PerToken:
    """msat per million tokens of each class; thinking tokens cost what output costs."""

    input: int
    cached: int
    output: int

    def __post_init__(self) -> None:
        _check_prices(self.input, self.cached, self.output)


@dataclass(frozen=True, slots=True)
class PerRequest:
    """msat for the whole job, whatever it uses."""

    msat: int

    def __post_init__(self) -> None:
        _check_prices(self.msat)


@dataclass(frozen=True, slots=True)
class Free:
    """Nothing."""


FREE = Free()
Price = PerToken | PerRequest | Free


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job can cost at most. It is the price that is billed, whatever model finally answers."""

    price: Price
    input_tokens: int
    max_output_tokens: int
    msat: int


class TooDear(ValueError):
    """The job does not fit into the customer's bid. `msat` is the least that it would cost."""

    def __init__(self, msat: int) -> None:
        super().__init__(f"the least that this can cost is {msat // MSAT} sats")
        self.msat = msat


def cost(price: Price, used: TokenCount) -> int:
    """What `used` costs, in msat: ⌈Σ tokens × price / 10⁶⌉. Raises ValueError for a negative count:
    it would pay the customer (money.md, case 24)."""
    if min(used.input, used.cached, used.output, used.thoughts) < 0:
        raise ValueError("a count of tokens is not negative")
    match price:
        case PerToken():
            total = used.input * price.input + used.cached * price.cached + (used.output + used.thoughts) * price.output
            return -(-total // MILLION)
        case PerRequest():
            return price.msat
        case Free():
            return 0


def quote(
    price: Price, input_tokens: int, max_output_tokens: int, *, bid: int | None = None, least_output: int = 1
) -> Quote:
    """The most that the job can cost: all input at the dearer of the two input prices, and all output.

    `max_output_tokens` is the least of the customer's and the model's limit; a `bid` (msat) lowers it
    further, but not below `least_output` (or the limit itself, if that is smaller).
    Raises TooDear when even that does not fit, ValueError for a negative count of tokens.
    """
    if input_tokens < 0 or max_output_tokens < 0:
        raise ValueError("a count of tokens is not negative")
    bid = MAX_MSAT if bid is None else min(bid, MAX_MSAT)
    least_output = min(max(1, least_output), max_output_tokens)
    match price:
        case PerToken():
            dearest_input = input_tokens * max(price.input, price.cached)

            def at_most(output: int) -> int:
                return whole_sats(-(-(dearest_input + output * price.output) // MILLION))

            if at_most(max_output_tokens) > bid:
                if at_most(least_output) > bid:
                    raise TooDear(at_most(least_output))
                budget = bid // MSAT * MSAT * MILLION - dearest_input
                max_output_tokens = min(max_output_tokens, budget // price.output)
            return Quote(price, input_tokens, max_output_tokens, at_most(max_output_tokens))
        case PerRequest():
            msat = whole_sats(price.msat)
            if msat > bid:
                raise TooDear(msat)
            return Quote(price, input_tokens, max_output_tokens, msat)
        case Free():
            return Quote(price, input_tokens, max_output_tokens, 0)


def whole_sats(msat: int) -> int:
    """`msat` rounded up to a whole number of sats, still in msat."""
    return -(-msat // MSAT) * MSAT


def sats(msat: int) -> str:
    """An amount for people: sats, with msat only where there are any."""
    whole, rest = divmod(abs(msat), MSAT)
    text = f"{whole:,}" + (f".{rest:03d}" if rest else "")
    return f"{'-' if msat < 0 else ''}{text} sat"


def price_to_json(price: Price) -> dict[str, Any]:
    """For storing beside the job: what was quoted is what is billed."""
    match price:
        case PerToken():
            return {"per": "token", "input": price.input, "cached": price.cached, "output": price.output}
        case PerRequest():
            return {"per": "request", "msat": price.msat}
        case Free():
            return {"per": "free"}


def price_from_json(raw: dict[str, Any]) -> Price:
    """The inverse of `price_to_json`. Raises ValueError."""
    match raw:
        case {"per": "token", "input": int(i), "cached": int(c), "output": int(o)}:
            return PerToken(i, c, o)
        case {"per": "request", "msat": int(msat)}:
            return PerRequest(msat)
        case {"per": "free"}:
            return FREE
    raise ValueError("not a stored price")


def by_class(price: Price) -> dict[str, int]:
    """The price as announcements and receipts list it: msat per million tokens of each class, or msat for
    the whole `request`; nothing for a free job."""
    match price:
        case PerToken():
            return {"input": price.input, "cached": price.cached, "output": price.output}
        case PerRequest():
            return {"request": price.msat}
        case Free():
            return {}


def _check_prices(*prices: int) -> None:
    # bool is an int to Python; a price of True would be an operator's slip that nobody sees.
    if not all(type(price) is int and 0 <= price <= MAX_MSAT for price in prices):
        raise ValueError(f"a price is a whole number of msat from 0 to {MAX_MSAT}")
