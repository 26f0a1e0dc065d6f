"""Numbers to be watched from outside, as the gateway exports them for Prometheus: `figures`."""

from __future__ import annotations

from dvm.jobs.balances.payouts import Payouts
from dvm.jobs.engine import Engine
from dvm.jobs.shop import Shop
from dvm.jobs.watching.watchdog import Watchdog

ABOUT = {
    "selling": "1 while new jobs are sold; 0: the wallet holds less than is owed, or the day's spending is reached.",
    "spent_today_msat": "What models used since midnight (UTC), at list prices in msat, if that is limited.",
    "owed_msat": "What customers own here, in msat, their holds included.",
    "wallet_balance_msat": "What the wallet can spend, in msat.",
    "wallet_receivable_msat": "What the wallet can still receive, in msat.",
    "wallet_silent_seconds": "How long the wallet has not answered; 0 while it does.",
    "payouts_open": "Payments that leave and have not ended.",
    "payouts_open_msat": "The same, in msat.",
    "payouts_overdue": "Those of them that have been open for more than an hour.",
    "quotes_open": "Quotes that are unpaid or in the making.",
    "outbox_waiting": "Events that no relay has taken yet.",
    "relays_connected": "Our own relays that are connected.",
}
"""What each figure is: all are gauges. Those that a wallet does not tell are left out."""


def figures(shop: Shop, engine: Engine, payouts: Payouts, watchdog: Watchdog) -> dict[str, float]:
    """The figures now, by name. Costs nothing: no I/O."""
    unresolved = payouts.unresolved()
    found: dict[str, float | None] = {
        "selling": watchdog.selling and not engine.spending.reached,
        "spent_today_msat": engine.spending.today if shop.settings.spend_msat_per_day else None,
        "owed_msat": watchdog.owed,
        "wallet_balance_msat": watchdog.balance,
        "wallet_receivable_msat": watchdog.receivable(),
        "wallet_silent_seconds": watchdog.silent_seconds,
        "payouts_open": len(unresolved),
        "payouts_open_msat": sum(each.msat for each in unresolved),
        "payouts_overdue": len(payouts.overdue()),
        "quotes_open": engine.quotes.open_quotes_total(),
        "outbox_waiting": engine.outbox.refused,
        "relays_connected": shop.relays.connected,
    }
    return {name: float(value) for name, value in found.items() if value is not None}
