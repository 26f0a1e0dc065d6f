"""Payments that leave: withdrawals, and the operator's own revenue (money.md, rule 8).

The row is the truth. It is reserved, in one transaction with the word that it is under way, before the wallet is
asked, and ends only on the wallet's definite word (`dvm.jobs.balances.payout_steps`). After a crash between any two
steps the row is found reserved, and the wallet is asked what became of it.

One process at a time moves money: the one that holds the data directory. Another may reserve a payout of the
operator's in the database; it is taken up here within PICK_UP_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace

from dvm.jobs.balances.payees import PayoutRefused, insufficient, payable
from dvm.jobs.balances.payout_answers import answer, end_failed, end_paid
from dvm.jobs.balances.payout_steps import Declined, Due, Effect, Happening, Said, Step, Told, step
from dvm.jobs.outbox import Outbox
from dvm.jobs.shop import Shop
from dvm.jobs.watching.trouble import Trouble
from dvm.ledger import LedgerError, Payout, PayoutState, TooLittle, TooMuch
from dvm.lightning.base import InvoiceState, Payment, WalletError, WalletInfo
from dvm.nostr.event import Event
from dvm.pricing import sats

log = logging.getLogger(__name__)

AT_ONCE = 64  # payments that the wallet is asked about at the same time
OPEN_PER_CUSTOMER = 8  # unresolved withdrawals: whoever never lets his own be settled occupies few of those places
PICK_UP_SECONDS = 3.0
ALL = 1 << 62  # one that `load` had left out would seem to be new, and never to have been sent
MAX_PAUSE = 300.0  # seconds between two looks at a payment that is long under way
INFO_SECONDS = 60.0  # what the wallet can do is asked this rarely
LONG_SECONDS = 3600  # a withdrawal that is open for longer is told to the operator
LOSS_MSAT = 100_000
"""What fees above their limit may cost the operator within a day before withdrawals stop. Not every wallet takes a fee
limit (NIP-47 has none), and whoever has a node may ask any fee for the last hop to it: paid to himself, again and
again (money.md, case 17)."""
DAY = 86_400
NOT_ASKED = Payment(InvoiceState.UNKNOWN)

_TEXTS = {
    "expired": "the invoice has expired and was not paid: nothing was taken",
    "failed": "no payment could be made to this invoice: nothing was taken",
    "unavailable": "the provider's wallet cannot pay at the moment: nothing was taken",
}


@dataclass(slots=True)
class _Open:
    """A reserved payout: `doubt` as in `payout_steps`; `due` in seconds of the loop's clock."""

    payout: Payout
    doubt: int | None
    due: float
    pause: float
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Payouts:
    """Pays what is reserved, each payout by one task at a time. `load` before anything else, then keep `run`
    running; `close` leaves what is under way to the next start."""

    def __init__(self, shop: Shop, outbox: Outbox) -> None:
        self._shop = shop
        self._outbox = outbox
        self._open: dict[str, _Open] = {}
        self._woken = asyncio.Event()
        self._closing = False
        self._known: tuple[float, WalletInfo] | None = None
        self._losses: deque[tuple[int, int]] = deque()  # when, and by how many msat a fee was above its limit
        self._unclear = Trouble(
            log,
            logging.WARNING,
            "the wallet does not say what became of a payment; it stays reserved, and the wallet is asked again",
            "the wallet says what becomes of payments again",
        )

    # --- what is asked of it ---------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up, after a start, all that is reserved: it may have been sent."""
        for payout in await self._shop.store.payouts((PayoutState.RESERVED,), ALL):
            self._take(payout, self._shop.now())

    async def run(self) -> None:
        """Pay, look and look again; until cancelled."""
        loop = asyncio.get_running_loop()
        picked = float("-inf")
        while True:
            self._woken.clear()
            if loop.time() >= picked + PICK_UP_SECONDS:
                picked = loop.time()
                await self.pick_up()
            self._start_due()
            await self._pause(min(self._shop.settings.retry_seconds, PICK_UP_SECONDS))

    async def pick_up(self) -> None:
        """Take up what another process has reserved."""
        try:
            reserved = await self._shop.store.payouts((PayoutState.RESERVED,), ALL)
        except LedgerError as error:
            log.error("the payouts cannot be read", extra={"error": str(error)})
            return
        for payout in reserved:
            # Nobody but us pays, and what had been begun when we started is known: this has not been sent.
            self._take(payout, None)

    async def finish(self, payout: Payout, seconds: float) -> None:
        """For a command that holds the data directory and has just reserved this: pay it, without `load` and `run`.
        Returns when it has ended, or after `seconds`."""
        self._take(payout, None)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while payout.id in self._open:
                    self._woken.clear()
                    self._start_due()
                    await self._pause(self._shop.settings.retry_seconds)

    async def close(self) -> None:
        """Wait for what is under way, `publish_seconds` at most; the next start asks the wallet about the rest."""
        self._closing = True
        tasks = [each.task for each in self._open.values() if each.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self._shop.settings.publish_seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wallet_info(self) -> WalletInfo:
        """The wallet, if it can pay. Raises PayoutRefused `unavailable`."""
        now = asyncio.get_running_loop().time()
        if self._known is None or now >= self._known[0] + INFO_SECONDS:
            try:
                async with asyncio.timeout(self._shop.settings.payout_seconds):
                    self._known = now, await self._shop.wallet.info()
            except (WalletError, TimeoutError):
                raise PayoutRefused("unavailable", "the provider's wallet does not answer: try again later") from None
        if not self._known[1].capabilities.pay:
            raise PayoutRefused("unavailable", "the provider's wallet cannot pay: ask the provider")
        return self._known[1]

    async def withdraw(self, payout: Payout) -> None:
        """Reserve a customer's withdrawal, say so, and pay it. Raises PayoutRefused, and then nothing has been
        reserved. What is known already is left alone."""
        if payout.id in self._open:
            return
        if self.loss() >= LOSS_MSAT:
            raise PayoutRefused("unavailable", "this provider's wallet pays too much for routing: ask the provider")
        # Counted and added to without an await between: of a hundred requests at once, not each is the first.
        mine = sum(each.payout.customer == payout.customer for each in self._open.values())
        if mine >= OPEN_PER_CUSTOMER:
            raise PayoutRefused("too-many-withdrawals", f"{mine} of your withdrawals are under way: wait for one")
        said = answer(self._shop, payout)
        reserved = asyncio.ensure_future(
            self._shop.store.reserve(payout, day_limit=self._shop.settings.payout_day_msat, publications=said)
        )
        self._open[payout.id] = entry = _Open(payout, None, float("inf"), 0.0)
        try:
            done = await reserved
        except TooLittle:
            self._open.pop(payout.id, None)
            available = (await self._shop.store.balance(payout.customer or "")).available
            raise insufficient(available, payout.msat, payout.fee_limit_msat) from None
        except TooMuch:
            self._open.pop(payout.id, None)
            most = self._shop.settings.payout_day_msat
            raise PayoutRefused("daily-limit", f"at most {sats(most)} may be withdrawn within 24 hours") from None
        except BaseException:  # it may be reserved all the same: the row is picked up
            self._open.pop(payout.id, None)
            raise
        if not done:
            self._open.pop(payout.id, None)
            if await self._shop.store.payout(payout.id) is None:
                raise PayoutRefused("invoice-used", "this invoice is known here already: make a new one")
            return
        log.info("a withdrawal is reserved", extra=_facts(payout))
        self._outbox.send(said)
        self._due(entry, 0.0)

    async def refuse(self, payout: Payout, refused: PayoutRefused) -> None:
        """Remember that it was refused, and say so: an answer that may be lost, since no money is in it."""
        await self._shop.store.refuse_payout(payout, str(refused))
        log.info("a withdrawal is refused", extra=_facts(payout) | {"code": refused.code, "text": refused.text})
        self.repeat(replace(payout, state=PayoutState.REFUSED, reason=str(refused)))

    def repeat(self, payout: Payout) -> None:
        """Say once more how a withdrawal stands."""
        for said in answer(self._shop, payout):
            self._outbox.send_unstored(Event.from_json(said.payload), payout.relays)

    def loss(self) -> int:
        """What customers' fees were above their limits within the last day, in msat: the operator's loss."""
        while self._losses and self._losses[0][0] <= self._shop.now() - DAY:
            self._losses.popleft()
        return sum(msat for _, msat in self._losses)

    def unresolved(self) -> list[Payout]:
        """What is reserved."""
        return [each.payout for each in self._open.values()]

    def overdue(self) -> list[Payout]:
        """What has been reserved for more than an hour."""
        before = self._shop.now() - LONG_SECONDS
        return [each.payout for each in self._open.values() if each.payout.created_at < before]

    # --- when ------------------------------------------------------------------------------------------

    def _take(self, payout: Payout, doubt: int | None) -> None:
        if payout.id not in self._open:
            self._open[payout.id] = entry = _Open(payout, doubt, 0.0, 0.0)
            self._due(entry, 0.0)

    def _due(self, entry: _Open, pause: float) -> None:
        entry.due = asyncio.get_running_loop().time() + pause
        self._woken.set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def _start_due(self) -> None:
        if self._closing:
            return
        now = asyncio.get_running_loop().time()
        running = sum(each.task is not None for each in self._open.values())
        waiting = sorted((each for each in self._open.values() if each.task is None), key=lambda each: each.due)
        for entry in waiting[: max(0, AT_ONCE - running)]:
            if entry.due > now:
                break
            entry.task = asyncio.get_running_loop().create_task(self._work(entry), name=f"payout {entry.payout.id}")

    async def _work(self, entry: _Open) -> None:
        """One go at one payout; whatever happens to it, the others are not stopped (money.md, case 25)."""
        ended = False
        try:
            ended = await self._go_on(entry)
        except LedgerError as error:
            log.error("a payout could not be written; it is tried again", extra={"error": str(error), **_facts(entry)})
        except Exception:
            log.exception("an unexpected error in a payout; it is looked at again", extra=_facts(entry))
        finally:
            entry.task = None
            if ended:
                self._open.pop(entry.payout.id, None)
                self._woken.set()
            else:
                first = self._shop.settings.retry_seconds
                entry.pause = min(max(first, entry.pause * 2), MAX_PAUSE)
                self._due(entry, entry.pause)

    # --- what ------------------------------------------------------------------------------------------

    async def _go_on(self, entry: _Open) -> bool:
        """Carry out step after step; whether it has come to its end."""
        payout = await self._shop.store.payout(entry.payout.id)
        if payout is None or payout.state is not PayoutState.RESERVED:
            return True  # read as reserved, and ended meanwhile: paid again, it would be paid twice
        happening: Happening = Due()
        while True:
            following = step(payout, entry.doubt, happening, self._shop.now())
            entry.doubt = following.doubt
            match following.effect:
                case Effect.PAY:
                    if payout.customer is None:
                        try:
                            await self._spare(payout)
                        except (WalletError, TimeoutError):
                            happening = Declined("rate_limited")
                            continue
                        except PayoutRefused as refused:
                            if entry.doubt is None:
                                return await self._return(payout, refused)
                            return False  # it may have been sent: it is not sent again, and not returned either
                    happening = await self._pay(entry, payout)
                case Effect.LOOK:
                    happening = Told(await self._look(payout))
                case Effect.WAIT:
                    return False
                case Effect.CHARGE:
                    return await self._charge(entry, payout, following.fee_msat)
                case Effect.RETURN:
                    return await self._return(payout, _refusal(following))

    async def _pay(self, entry: _Open, payout: Payout) -> Happening:
        entry.doubt, before = self._shop.now(), entry.doubt  # however this ends, the request may have left
        try:
            async with asyncio.timeout(self._shop.settings.payout_seconds):
                payment = await self._shop.wallet.pay(payout.bolt11, fee_limit_msat=payout.fee_limit_msat)
        except TimeoutError:
            payment = NOT_ASKED
        except WalletError as error:
            log.warning("the wallet did not pay", extra=_facts(payout) | {"error": str(error)})
            entry.doubt = before
            return Declined(error.code)
        if payment.state in (InvoiceState.SETTLED, InvoiceState.FAILED):
            entry.doubt = before
        return Said(payment)

    async def _look(self, payout: Payout) -> Payment:
        try:
            async with asyncio.timeout(self._shop.settings.payout_seconds):
                payment = await self._shop.wallet.payment(payout.payment_hash)
        except TimeoutError:
            payment = NOT_ASKED
        if payment.state is InvoiceState.UNKNOWN and payment.known:
            self._unclear.failing(**_facts(payout))
        else:
            self._unclear.fine()
        return payment

    async def _spare(self, payout: Payout) -> None:
        """The operator's own: an invoice that can be paid, out of what the wallet has beyond what is owed.

        The books have seen to it that the revenue covers it. Raises PayoutRefused; WalletError or TimeoutError if
        the wallet is away.
        """
        async with asyncio.timeout(self._shop.settings.payout_seconds):
            info = await self._shop.wallet.info()
        payable(payout.bolt11, now=self._shop.now(), amount_msat=payout.msat, network=info.network)
        if not info.capabilities.pay:
            raise PayoutRefused("unavailable", "this wallet, or its connection, cannot pay")
        if info.balance_msat is None:
            return
        accounts = await self._shop.store.accounts()
        most = payout.msat + payout.fee_limit_msat
        # What is leaving, but for this, may be in the wallet still: it is not the operator's either way.
        owed = accounts["customers"] + accounts["held"] + accounts["leaving"] - most
        if info.balance_msat - most < owed:
            raise PayoutRefused(
                "owed",
                f"the wallet has {sats(info.balance_msat)} and customers are owed {sats(owed)}: with this payment and "
                "its fee it would have too little",
            )

    async def _charge(self, entry: _Open, payout: Payout, fee_msat: int) -> bool:
        shop = self._shop
        if entry.doubt is None:
            entry.doubt = shop.now()  # should the database fail now: it was sent
        if (said := await end_paid(shop, payout, fee_msat)) is not None:
            log.info("paid out", extra=_facts(payout) | {"fee_msat": fee_msat})
            if fee_msat > payout.fee_limit_msat:
                if payout.customer is not None:
                    self._losses.append((shop.now(), fee_msat - payout.fee_limit_msat))
                log.warning(
                    "the wallet paid more for routing than the limit; the customer was charged the limit",
                    extra=_facts(payout) | {"fee_msat": fee_msat, "fee_limit_msat": payout.fee_limit_msat},
                )
            self._outbox.send(said)
        return True

    async def _return(self, payout: Payout, why: PayoutRefused) -> bool:
        if (said := await end_failed(self._shop, payout, str(why))) is not None:
            log.info("not paid out", extra=_facts(payout) | {"reason": str(why)})
            self._outbox.send(said)
        return True


def _refusal(following: Step) -> PayoutRefused:
    return PayoutRefused(following.code, _TEXTS[following.code])


def _facts(of: Payout | _Open) -> dict[str, object]:
    """For the log: which payout, and over how much."""
    payout = of.payout if isinstance(of, _Open) else of
    return {"payout": payout.id, "customer": payout.customer, "msat": payout.msat, "hash": payout.payment_hash}
