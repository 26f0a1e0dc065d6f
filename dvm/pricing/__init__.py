"""Price list → quote → cost. Integers in msat, no I/O."""

from dvm.pricing.prices import (
    FREE,
    Free,
    PerRequest,
    PerToken,
    Price,
    Quote,
    TokenCount,
    TooDear,
    by_class,
    cost,
    price_from_json,
    price_to_json,
    quote,
    sats,
)

__all__ = [
    "FREE",
    "Free",
    "PerRequest",
    "PerToken",
    "Price",
    "Quote",
    "TokenCount",
    "TooDear",
    "by_class",
    "cost",
    "price_from_json",
    "price_to_json",
    "quote",
    "sats",
]
