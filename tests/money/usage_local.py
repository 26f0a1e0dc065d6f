"""The table for the models that need no endpoint."""

from __future__ import annotations

from tests.money.usage_rows import FREE_OF_CHARGE, PER_REQUEST, Due, Row

# It repeats the prompt, a token for four characters: 30 + 250.
ECHO: list[Row] = [
    Row("at the end", (), Due(280, (100, 0, 100, 0))),
    Row("with every piece", (), Due(280, (100, 0, 100, 0)), settings={"chunk_tokens": 10}),
    Row("thoughts beside the output", (), Due(355, (100, 0, 100, 30)), settings={"thoughts": 30}),
    # 19 × 0.3 + 81 × 0.075 + 250 = 261.775
    Row("cached within the prompt", (), Due(262, (19, 81, 100, 0)), settings={"cached": 81}),
    # A quote of 30 + 100 msat, and a bill of as much.
    Row("the limit", (), Due(130, (100, 0, 40, 0), finish="length", quote=1_000), max_tokens=40),
    Row(
        "nothing but thoughts",
        (),
        Due(130, (100, 0, 0, 40), finish="length", quote=1_000, delivered=False),
        max_tokens=40,
        settings={"thoughts": 50},
    ),
    Row("a price for the job", (), Due(21_000, (100, 0, 100, 0), quote=21_000), price=PER_REQUEST),
    Row("free", (), Due(0, (100, 0, 100, 0), quote=0), price=FREE_OF_CHARGE),
]

# A real model, which counts for itself; the second answer finds its prompt in the cache, but for the last token.
# 113 × 0.3 + 12.5 = 46.4, and 0.3 + 112 × 0.075 + 12.5 = 21.2
EMBEDDED: list[Row] = [
    Row("at the end", (), Due(47, (113, 0, 5, 0), finish="length", quote=1_000), max_tokens=5),
    Row("cached within the prompt", (), Due(22, (1, 112, 5, 0), finish="length", quote=1_000), max_tokens=5),
]
