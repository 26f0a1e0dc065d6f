"""What is announced is what is asked: a client reads the announcement, and works out of it each quote, to the msat.

For every kind, every way of choosing a model, every sort of price, below a bid and within a conversation. How many
tokens the input has, only the model knows: the receipt says that. The rest is the announcement's.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dvm.commands.paper_payer import PaperPayer
from dvm.config import load_config, load_relays
from dvm.customer import Customer, Done, Quoted
from dvm.daemon import Daemon
from dvm.nip90 import Announcement, Input, Receipt
from dvm.nostr import Keys
from dvm.secrets import load_secrets
from tests.e2e.bazaar import WARES, Ware
from tests.standins.daemon import configure
from tests.standins.gemini import GeminiStandIn
from tests.standins.relay import local_relay
from tests.standins.waiting import until

MOST = 2048
CHEAP = {"input": 300, "cached": 75, "output": 2_500, "max_output_tokens": MOST}
DEAR = {"input": 1_250, "cached": 310, "output": 10_000, "max_output_tokens": MOST}
PLENTY = 10**9
BY_KIND = {ware.kind: ware for ware in WARES}


def name_of(ware: Ware, which: str) -> str:
    return f"{which}-{ware.kind}"


def worked_out(announced: Announcement, receipt: Receipt, most: int = MOST) -> int:
    """The quote by hand, in whole sats: all input at the dearer of its two prices, all output that is allowed."""
    prices = announced.prices.get(receipt.model or "", {})
    if not prices:
        return 0
    if "request" in prices:
        return prices["request"]
    tokens = receipt.usage["input"] + receipt.usage.get("cached", 0)
    return -(-(tokens * max(prices["input"], prices["cached"]) + most * prices["output"]) // 10**9) * 1000


@dataclass
class Market:
    """The open shop, as a client finds it."""

    relay: str
    data: Path
    npub: str
    announced: Announcement

    async def buy(self, ware: Ware, keys: Keys | None = None, **job: Any) -> tuple[int | None, Receipt]:
        """By somebody who has no balance, unless `keys` say who: what was quoted in msat (None: nothing), and the
        receipt, which has been checked against the announcement."""
        inputs = [Input(data, "text") for data, *_ in ware.inputs]
        job = {"max_msat": PLENTY, "params": ware.params, "output": ware.output, **job}
        quoted: int | None = None
        async with (
            Customer(keys or Keys.generate(), [self.relay], payer=PaperPayer(self.data)) as customer,
            aclosing(customer.ask(inputs, kind=ware.kind, provider=self.npub, **job)) as updates,
        ):
            async for update in updates:
                if isinstance(update, Quoted):
                    quoted = update.msat
        assert isinstance(update, Done), update
        assert update.receipt is not None
        assert update.verified
        assert update.receipt.receipt.prices == self.announced.prices.get(update.receipt.receipt.model or "", {})
        return quoted, update.receipt.receipt


@asynccontextmanager
async def market(directory: Path, price: object = "per-token", times: int = 1) -> AsyncIterator[Market]:
    """Two models for each kind, the dear one first; their tokens cost so many `times` what they usually do."""
    async with local_relay() as relay, GeminiStandIn() as gemini:
        models: dict[str, Mapping[str, Any]] = {}
        services = []
        for ware in WARES:
            names = [name_of(ware, which) for which in ("dear", "cheap")]
            for name, table in zip(names, (DEAR, CHEAP), strict=True):
                makers = f"gemini-{name}{ware.model}"
                gemini.script(makers, text="" if ware.made else ware.answer, blob=ware.made)
                prices = {key: value if key == "max_output_tokens" else times * value for key, value in table.items()}
                models[name] = {"provider": "gemini", "model": makers, "base_url": gemini.url, **prices}
            services.append({"kind": ware.kind, "models": names, "price": price})
        configure(directory, [relay], tables={"models": models, "service": services})
        config, keys = load_config(directory / "dvm.toml"), Keys.generate()
        secrets = load_secrets(config, {"DVM_NSEC": keys.nsec(), "GEMINI_API_KEY": gemini.key})
        async with (
            Daemon(config, load_relays(directory / "relays.toml"), secrets, directory / "data"),
            Customer(Keys.generate(), [relay]) as client,
        ):
            await until(lambda: client.announcements(keys.npub))
            (announced,) = await client.announcements(keys.npub)
            yield Market(relay, directory / "data", keys.npub, announced)


async def test_the_tokens_of_every_kind_are_quoted_at_the_price_announced_for_the_model_that_was_chosen(
    tmp_path: Path,
) -> None:
    async with market(tmp_path) as shop:
        assert shop.announced.kinds == tuple(sorted(BY_KIND))
        assert shop.announced.amount == "flexible"
        assert "auto" in shop.announced.params["model"].values
        for ware in WARES:
            most = 512 if ["max_tokens", "512"] in ware.params else MOST
            dear, cheap = (name_of(ware, which) for which in ("dear", "cheap"))
            for wanted, model in ((None, dear), (cheap, cheap), (dear, dear), ("auto", cheap)):
                quoted, receipt = await shop.buy(ware, model=wanted)
                assert (receipt.kind, receipt.model) == (ware.kind, model)
                assert quoted == worked_out(shop.announced, receipt, most)
            assert len({tuple(shop.announced.prices[each].items()) for each in (dear, cheap)}) == 2


async def test_a_price_for_a_whole_job_is_quoted_as_it_is_announced_for_every_kind(tmp_path: Path) -> None:
    async with market(tmp_path, {"per_request": 21}) as shop:
        assert shop.announced.amount == 21
        for ware in WARES:
            quoted, receipt = await shop.buy(ware, model="auto")
            assert quoted == receipt.cost == worked_out(shop.announced, receipt) == 21_000


async def test_what_is_announced_as_free_asks_for_nothing_for_every_kind(tmp_path: Path) -> None:
    async with market(tmp_path, "free") as shop:
        assert (shop.announced.amount, shop.announced.prices) == ("free", {})
        for ware in WARES:
            quoted, receipt = await shop.buy(ware, max_msat=0)
            assert (quoted, receipt.cost) == (None, 0)


@pytest.mark.parametrize("part", [0.4, 0.9])
async def test_a_bid_lowers_the_quote_by_what_fewer_tokens_cost_at_the_announced_price(
    tmp_path: Path, part: float
) -> None:
    ware = BY_KIND[5050]
    async with market(tmp_path) as shop:
        full, receipt = await shop.buy(ware, params=[])
        assert full is not None
        prices = shop.announced.prices[receipt.model or ""]
        bid = int(full * part) // 1000 * 1000
        quoted, receipt = await shop.buy(ware, params=[], max_msat=bid)
        given = receipt.usage["input"] * prices["input"] / 10**6
        fewer = math.floor((bid - given) / prices["output"] * 10**6)
        assert 0 < fewer < MOST
        assert quoted == worked_out(shop.announced, receipt, fewer) == bid


async def test_a_conversation_is_quoted_with_its_history_at_the_announced_price(tmp_path: Path) -> None:
    ware, keys = BY_KIND[5050], Keys.generate()
    job: dict[str, Any] = {"params": {"session": "coins"}, "max_tokens": 4, "model": name_of(ware, "dear")}
    # So dear that the change of one turn pays no other: each is quoted. An answer is cut off at its four tokens.
    async with market(tmp_path, times=1000) as shop:
        quotes: list[int] = []
        for _ in range(3):
            quoted, receipt = await shop.buy(ware, keys, **job)
            assert quoted == worked_out(shop.announced, receipt, 4)
            quotes.append(quoted)
        assert quotes == sorted(set(quotes)), "what was said before is input as well"
