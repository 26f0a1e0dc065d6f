"""Numbers to be watched from outside, as the gateway exports them for Prometheus: `figures`."""

from __future__ import annotations

from dvm.jobs.engine import Engine
from dvm.jobs.payouts import Payouts
from dvm.jobs.shop import Shop
from dvm.jobs.watchdog import Watchdog

ABOUT = {
    "dvm_selling": "1 while new jobs are sold, 0 while the wallet holds less than customers are owed.",
    "dvm_owed_msat": "What customers own here, in msat, their holds included.",
    "dvm_wallet_balance_msat": "What the wallet can spend, in msat.",
    "dvm_wallet_receivable_msat": "What the wallet can still receive, in msat.",
    "dvm_wallet_silent_seconds": "How long the wallet has not answered; 0 while it does.",
    "dvm_payouts_open": "Payments that leave and have not ended.",
    "dvm_payouts_open_msat": "The same, in msat.",
    "dvm_payouts_overdue": "Those of them that have been open for more than an hour.",
    "dvm_quotes_open": "Quotes that are unpaid or in the making.",
    "dvm_outbox_waiting": "Events that no relay has taken yet.",
    "dvm_relays_connected": "Our own relays that are connected.",
}
"""What each figure is: all are gauges. Those that a wallet does not tell are left out."""


def figures(shop: Shop, engine: Engine, payouts: Payouts, watchdog: Watchdog) -> dict[str, float]:
    """The figures now, by name. Costs nothing: no I/O."""
    unresolved = payouts.unresolved()
    found: dict[str, float | None] = {
        "dvm_selling": float(watchdog.selling),
        "dvm_owed_msat": watchdog.owed,
        "dvm_wallet_balance_msat": watchdog.balance,
        "dvm_wallet_receivable_msat": watchdog.receivable(),
        "dvm_wallet_silent_seconds": watchdog.silent_seconds,
        "dvm_payouts_open": len(unresolved),
        "dvm_payouts_open_msat": sum(each.msat for each in unresolved),
        "dvm_payouts_overdue": len(payouts.overdue()),
        "dvm_quotes_open": engine.intake.open_quotes_total(),
        "dvm_outbox_waiting": engine.outbox.refused,
        "dvm_relays_connected": shop.relays.connected,
    }
    return {name: float(value) for name, value in found.items() if value is not None}
