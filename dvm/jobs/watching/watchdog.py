"""Holds the wallet against the books while the shop is open: what customers are owed must be there.

When it is not, nothing new is sold: each invoice would add to a debt that may never be paid. Jobs that are paid for
run on, and whoever has a balance may spend it here, since each such job makes the debt smaller (`Refusal.prepaid`).
The operator is told in the log, by a figure, and by an encrypted message if an npub is configured.
"""

from __future__ import annotations

import asyncio
import logging

from dvm.jobs.admission import Book, Refusal
from dvm.jobs.balances.payouts import LONG_SECONDS, LOSS_MSAT, Payouts
from dvm.jobs.outbox import Outbox
from dvm.jobs.shop import Shop
from dvm.jobs.watching.trouble import Trouble
from dvm.ledger import LedgerError
from dvm.lightning.base import WalletError, WalletInfo
from dvm.nostr.encryption import EncryptError
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.nip17 import MESSAGE_RELAYS, message_relays, private_message
from dvm.pricing import sats

log = logging.getLogger(__name__)

AWAY_SECONDS = 600
"""A wallet that has not answered for this long is told to the operator."""
REMIND_SECONDS = 3600
"""The operator gets at most one message within this time about each trouble."""
INFO_SECONDS = 60.0
MESSAGE_SECONDS = 10.0
SHORT = Refusal(
    "unavailable", "nothing new is sold at the moment; what you have paid for is not affected", prepaid=True
)


class Alarm:
    """When the operator is told of one trouble: at once, a reminder after an hour, and when it is over."""

    def __init__(self, over: str) -> None:
        self._over = over
        self._next = 0
        self._told = False

    def see(self, trouble: str | None, now: int) -> str | None:
        """The message to send now, if any; `trouble` is None where there is none. Unix seconds."""
        if trouble is None:
            told, self._told = self._told, False
            return self._over if told else None
        if now < self._next:  # also if it went away and came back: at most one message within the time
            return None
        self._next = now + REMIND_SECONDS
        self._told = True
        return trouble


class Watchdog:
    """Keep `run` running; put `policy` among the shop's policies."""

    def __init__(self, shop: Shop, outbox: Outbox, payouts: Payouts) -> None:
        self._shop = shop
        self._outbox = outbox
        self._payouts = payouts
        self._info: WalletInfo | None = None
        self._answered_at = shop.now()
        self._silence = ""  # what the wallet last failed with
        self._owed = 0
        self._short = False
        self._alarms = {
            "short": Alarm("The wallet holds what customers are owed again: new jobs are sold."),
            "away": Alarm("The wallet answers again."),
            "fees": Alarm("Customers may withdraw again."),
            "overdue": Alarm("No withdrawal is unresolved for more than an hour any more."),
        }
        self._missing = Trouble(
            log,
            logging.ERROR,
            "the wallet holds less than customers are owed, so nothing new is sold: see `dvm reconcile`",
            "the wallet holds what customers are owed again, and new jobs are sold",
        )
        self._away = Trouble(
            log,
            logging.ERROR,
            f"the wallet has not answered for {AWAY_SECONDS // 60} minutes, and nobody can pay: see `dvm doctor`",
            "the wallet answers again",
        )

    # --- what others ask of it -------------------------------------------------------------------------

    def policy(self, _request: Event, _book: Book) -> Refusal | None:
        """An admission policy: no new quotes while the wallet holds less than customers are owed."""
        return SHORT if self._short else None

    def receivable(self) -> int | None:
        """How much the wallet can receive, in msat, as it last told; None where it does not tell."""
        return None if self._info is None else self._info.receivable_msat

    @property
    def selling(self) -> bool:
        return not self._short

    @property
    def balance(self) -> int | None:
        """What the wallet can spend, in msat, as it last told; None where it does not tell."""
        return None if self._info is None else self._info.balance_msat

    @property
    def owed(self) -> int:
        """What customers own, in msat, their holds included and what is leaving left out: it may be gone."""
        return self._owed

    @property
    def silent_seconds(self) -> int:
        """How long the wallet has not answered; 0 where it answered the last time."""
        return self._shop.now() - self._answered_at if self._info is None else 0

    # --- watching --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at once and from then on every `watchdog_seconds`; until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._shop.settings.watchdog_seconds)

    async def look(self) -> None:
        """Compare once, and tell whoever must know."""
        try:
            short = await self._compare()
            if short and not self._short:
                # A deposit or a withdrawal between two questions looks the same: seen twice, it is none.
                await asyncio.sleep(self._shop.settings.retry_seconds)
                short = await self._compare()
        except LedgerError as error:
            log.error("the wallet cannot be held against the books", extra={"error": str(error)})
        else:
            if short is not None:
                self._short = short
        if self._short:
            self._missing.failing(balance_msat=self.balance, owed_msat=self._owed)
        else:
            self._missing.fine(balance_msat=self.balance, owed_msat=self._owed)
        if self.silent_seconds >= AWAY_SECONDS:
            self._away.failing(error=self._silence)
        else:
            self._away.fine()
        for name, trouble in self._troubles().items():
            if text := self._alarms[name].see(trouble, self._shop.now()):
                await self._tell(text)

    async def _compare(self) -> bool | None:
        """Whether the wallet holds too little; None where that cannot be told now."""
        store = self._shop.store
        before = await store.accounts()
        try:
            async with asyncio.timeout(INFO_SECONDS):
                info = await self._shop.wallet.info()
        except (WalletError, TimeoutError) as error:
            log.debug("the wallet does not tell its balance", extra={"error": str(error)})
            self._silence = str(error) or f"no answer within {INFO_SECONDS:g} s"
            self._answered(None, error.code if isinstance(error, WalletError) else "unreachable")
            return None
        self._answered(info, None)
        after = await store.accounts()
        self._owed = min(each["customers"] + each["held"] for each in (before, after))
        return None if info.balance_msat is None else info.balance_msat < self._owed

    def _answered(self, info: WalletInfo | None, code: str | None) -> None:
        if info is not None:
            self._info, self._answered_at = info, self._shop.now()
        elif code in ("unsupported", "restricted", "not_found"):  # it answers, but tells nothing of itself
            self._answered_at = self._shop.now()
        else:
            self._info = None

    def _troubles(self) -> dict[str, str | None]:
        short = away = late = dear = None
        if self._short:
            held = "what it does not tell now" if self.balance is None else sats(self.balance)
            short = (
                f"Nothing new is sold: the wallet holds {held}, and customers are owed {sats(self._owed)}. "
                "Put in what is missing, or find out where it went: `dvm reconcile`."
            )
        if (silent := self.silent_seconds) >= AWAY_SECONDS:
            away = f"The wallet has not answered for {silent // 60} minutes: nobody can pay. See `dvm doctor`."
        if overdue := self._payouts.overdue():
            msat = sum(each.msat for each in overdue)
            late = (
                f"The wallet has not said for more than {LONG_SECONDS // 60} minutes what became of "
                f"{len(overdue)} payments, together {sats(msat)}, which stay reserved. The oldest has the payment hash "
                f"{overdue[0].payment_hash}: look for it in the wallet. See `dvm reconcile`."
            )
        if (loss := self._payouts.loss()) >= LOSS_MSAT:
            dear = (
                f"Withdrawals are refused: within a day the wallet has paid {sats(loss)} more for routing than the fee "
                "limits allow, which is your loss. Raise payouts.fee_sats to what the wallet itself allows, or lower "
                "that."
            )
        return {"short": short, "away": away, "overdue": late, "fees": dear}

    # --- telling ---------------------------------------------------------------------------------------

    async def _tell(self, text: str) -> None:
        """One encrypted message to the operator, at his message relays and at ours; it may be lost, so the log says
        the same."""
        operator = self._shop.settings.operator
        if operator is None:
            return
        try:
            message = private_message(self._shop.keys, operator, text, self._shop.now())
        except EncryptError as error:
            log.error("the operator cannot be sent a message", extra={"error": str(error)})
            return
        wanted = Filter(kinds=[MESSAGE_RELAYS], authors=[operator], limit=1)
        lists = await self._shop.relays.query(wanted, timeout=MESSAGE_SECONDS)
        self._outbox.send_private(message, message_relays(lists[0]) if lists else ())
