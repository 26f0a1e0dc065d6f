"""The operator's daily spending limit: what jobs used since midnight (UTC), at the models' list prices.

What a job was billed is not what it costs the operator: a free job costs something, and so does one that failed and
was voided, and each attempt that failed before the one that is billed. So all that a model used counts at the prices
of its `[models.NAME]`, whoever paid for it. Where a model has no prices per token, what was billed counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from dvm.jobs.admission import Book, Refusal
from dvm.jobs.shop import Shop
from dvm.ledger import Metered, UsageRow
from dvm.nostr.event import Event
from dvm.pricing import PerToken, cost
from dvm.pricing.prices import MSAT

log = logging.getLogger(__name__)

DAY = 86_400
SPENT = Refusal("unavailable", "nothing more is sold today: try again after midnight (UTC)")


class Spending:
    """Counts what is spent today; the rows of the ledger's usage are where a restart reads it again."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._limit = shop.settings.spend_msat_per_day
        self._today = shop.now() // DAY
        self._msat = 0
        self._told = False

    async def load(self) -> None:
        """Once, before anything is taken on or ends."""
        if not self._limit:
            return
        self._today = self._shop.now() // DAY
        rows = await self._shop.store.report(self._today * DAY)
        self._msat = sum(_worth(self._shop.list_prices, row, row.msat) for row in rows)
        self._tell()

    def add(self, used: Metered, msat: int) -> None:
        """A row of usage was stored; `msat` is what was billed for it."""
        if self._limit:
            self._turn()
            self._msat += _worth(self._shop.list_prices, used, msat)
            self._tell()

    def policy(self, _request: Event, _book: Book) -> Refusal | None:
        """An admission policy: nothing new once the limit is reached. What is paid for is still run."""
        return SPENT if self.reached else None

    @property
    def reached(self) -> bool:
        """Whether the limit is reached; never, where there is none."""
        return bool(self._limit) and self.today >= self._limit

    @property
    def today(self) -> int:
        """In msat; counted only where there is a limit."""
        self._turn()
        return self._msat

    def _turn(self) -> None:
        # Only forward: a clock that is set back to yesterday must not give a day's money once more.
        if (today := self._shop.now() // DAY) > self._today:
            self._today, self._msat, self._told = today, 0, False

    def _tell(self) -> None:
        if self._msat >= self._limit and not self._told:
            self._told = True
            log.warning(
                "limits.spend_sats_per_day is reached: nothing new is sold until midnight (UTC)",
                extra={"spent_sats": self._msat // MSAT, "limit_sats": self._limit // MSAT},
            )


def _worth(prices: Mapping[str, PerToken], used: Metered | UsageRow, msat: int) -> int:
    price = prices.get(used.model)
    return msat if price is None else cost(price, used)
