"""A customer who counts what they pay, and how patient they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dvm.customer import Customer, Options
from dvm.lightning.base import Payment
from dvm.lightning.paper import PaperWallet
from dvm.lightning.paper_node import PaperNode
from dvm.nostr import Keys, RelayPool
from tests.standins.provider import wallet

BRISK = Options(publish=5, quote=20, window=0.3, receipt=20, poll=0.2, republish=0.5, query=3)
"""Long where a test waits for a thing that comes, short where it waits for the next look."""
HASTY = replace(BRISK, receipt=0.5)
"""For what never comes."""


class Purse:
    """A customer with a paper wallet that counts what it is asked to pay."""

    def __init__(self, keys: Keys, pool: RelayPool, node: PaperNode, options: Options) -> None:
        self.node = node
        self.paid: list[str] = []
        self.customer = Customer(keys, pool, payer=self, options=options)

    async def info(self) -> Any:
        return await PaperWallet(self.node, "customer").info()

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        self.paid.append(bolt11)
        return await (await wallet(self.node)).pay(bolt11, fee_limit_msat=fee_limit_msat)
