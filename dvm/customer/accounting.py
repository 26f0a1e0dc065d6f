"""A customer's money at a provider: ask what is there, take it back, put more there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dvm.customer.account import account_around
from dvm.customer.archive import Archive
from dvm.customer.checking import check_money
from dvm.customer.listening import Listener, listening
from dvm.customer.payment import OnePayment, Options, Payer
from dvm.customer.updates import Paid, PaymentUnclear, Quoted, Receipted
from dvm.lightning.bolt11 import InvalidInvoice, decode
from dvm.nip90 import (
    ACCOUNT_ANSWER,
    RECEIPT,
    AccountAnswer,
    InvalidAccountAnswer,
    InvalidReceipt,
    Receipt,
    account_request_draft,
    is_lightning_address,
    parse_account_answer,
    parse_receipt,
)
from dvm.nip90.account import LIFETIME_SECONDS, Method
from dvm.nostr import Event, Filter, Keys, RelayPool

_Final = Callable[[Callable[[AccountAnswer], None] | None, float], Awaitable[AccountAnswer | None]]
CLOCK_SECONDS = 3600
"""How far a provider's clock may be behind ours, and its receipt be found all the same."""


class AccountFailed(Exception):
    """It was not done. `code` is the provider's (docs/events.md), or one of these: "unpublished" (no relay took
    the request), "no-answer" and "unclear" (it may be done yet: the text says until when), "unpayable",
    "payment-failed" and "unpaid" (no money has moved)."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}" if text else code)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The provider says that it has paid out, in msat; `request` is the id of what we asked. `receipt` is None
    where none came in time, `problems` are all that is wrong with what it said and receipted."""

    provider: str
    request: str
    msat: int
    fee_msat: int
    payment_hash: str
    receipt: Receipted | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToppedUp:
    """Paid, in msat, and perhaps receipted yet. `sure` is False where the wallet does not know whether it paid
    and no receipt has come: it is not paid again."""

    provider: str
    msat: int
    payment_hash: str
    receipt: Receipted | None
    sure: bool = True


class Accounting:
    """What `Customer` does about accounts; it has the documentation."""

    def __init__(
        self, keys: Keys, relays: RelayPool, named: tuple[str, ...], archive: Archive | None, options: Options
    ) -> None:
        """`named` are relays to be answered at, beside the provider's own."""
        self._keys, self._relays, self._named = keys, relays, named
        self._archive, self._options = archive, options

    async def look(
        self, provider: str, method: Method, limit: int | None = None, before: int | None = None
    ) -> AccountAnswer:
        """The provider's answer to "balance" or "statement". Raises AccountFailed."""
        draft = account_request_draft(
            self._keys, provider, method, now := int(time.time()), limit=limit, before=before, relays=self._named
        )
        async with self._asked(draft.sign(self._keys, now), provider) as (_, final):
            answer = await final(None, self._options.quote)
        if answer is None:
            raise AccountFailed("no-answer", f"the provider has not answered within {self._options.quote:g} seconds")
        return answer

    async def withdraw(
        self,
        provider: str,
        to: str | None,
        msat: int | None,
        processing: Callable[[AccountAnswer], None] | None,
    ) -> Withdrawn:
        """Raises AccountFailed, and ValueError before anything is sent."""
        bolt11, lud16, msat, payment_hash = _destination(to, msat)
        draft = account_request_draft(
            self._keys,
            provider,
            "withdraw",
            now := int(time.time()),
            amount_msat=msat,
            bolt11=bolt11,
            lud16=lud16,
            relays=self._named,
        )
        event = draft.sign(self._keys, now)
        async with self._receipts(provider) as receipts, self._asked(event, provider) as (heard, final):
            answer = await final(processing, self._options.money)
            if answer is None:
                raise self._unclear(event, heard.known)
            problems, told = [], answer.withdrawal
            if told is None:
                raise AccountFailed("unclear", "the provider says that it is done, and not what it has paid")
            if told.msat != msat or payment_hash not in (None, told.payment_hash):
                problems.append(
                    f"it says that it has paid {told.msat} msat for {told.payment_hash}: not what was asked"
                )
            receipt = await receipts.first(self._naming(told.payment_hash), self._options.receipt)
            receipted = None
            if receipt is not None:
                receipted = await self._checked(receipt, told.payment_hash, -told.msat - told.fee_msat)
                problems += receipted.problems
        return Withdrawn(provider, event.id, told.msat, told.fee_msat, told.payment_hash, receipted, tuple(problems))

    async def top_up(self, quote: Quoted, payer: Payer | None, show: Callable[[Quoted], None] | None) -> ToppedUp:
        """Pay what was quoted for the balance, or have it paid by hand; wait for the receipt. Raises AccountFailed."""
        async with self._receipts(quote.provider) as receipts:
            if payer is None:
                if show is not None:
                    show(quote)
                seconds = min(quote.expires_at - time.time(), self._options.by_hand) + self._options.receipt
                receipt = await receipts.first(self._naming(quote.payment_hash), seconds)
                if receipt is None:
                    raise AccountFailed("unpaid", "no receipt came: it seems that nobody paid the invoice in time")
                return await self._topped_up(quote, receipt, sure=True)
            loop = asyncio.get_running_loop()
            waiting = loop.create_task(receipts.first(self._naming(quote.payment_hash), self._options.money))

            # Who definitely did not pay waits for no receipt; who did, or may have, does.
            def ended() -> None:
                if payment.refused:
                    waiting.cancel()

            payment = OnePayment(payer, quote, self._options, _ignore, ended)
            try:
                await asyncio.wait({waiting})
                receipt = None if waiting.cancelled() else waiting.result()
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await payment.close()
            if receipt is None and payment.refused:
                raise AccountFailed("payment-failed", f"the wallet did not pay: {payment.refused}")
            return await self._topped_up(quote, receipt, sure=payment.settled)

    async def _topped_up(self, quote: Quoted, receipt: Receipt | None, *, sure: bool) -> ToppedUp:
        receipted = None if receipt is None else await self._checked(receipt, quote.payment_hash, quote.msat)
        return ToppedUp(quote.provider, quote.msat, quote.payment_hash, receipted, sure=sure or receipt is not None)

    # --- asking ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asked(self, event: Event, provider: str) -> AsyncIterator[tuple[Listener, _Final]]:
        """Publish a request and hear its answers. Raises AccountFailed."""
        wanted = Filter(kinds=[ACCOUNT_ANSWER], authors=[provider], tags={"e": [event.id]})
        async with listening(self._relays, wanted, self._options, repeat=event) as heard:
            published = await self._relays.publish(event, timeout=self._options.publish)
            if not published:
                reasons = "; ".join(f"{url}: {reason}" for url, reason in sorted(published.failed.items()))
                raise AccountFailed("unpublished", f"no relay took the request: {reasons or 'there is none'}")

            async def final(processing: Callable[[AccountAnswer], None] | None, seconds: float) -> AccountAnswer | None:
                def pick(answer: Event) -> AccountAnswer | None:
                    try:
                        read = parse_account_answer(answer, self._keys, event)
                    except InvalidAccountAnswer:
                        return None
                    if read.status == "processing":
                        if processing is not None:
                            processing(read)
                        return None
                    return read

                answer = await heard.first(pick, seconds)
                if answer is not None and answer.status == "error":
                    raise AccountFailed(answer.code or "refused", answer.text)
                return answer

            yield heard, final

    def _unclear(self, event: Event, answered: bool) -> AccountFailed:
        if answered:
            return AccountFailed(
                "unclear",
                "the provider has taken the withdrawal up and not said how it ended: it stays set aside until "
                f"the provider's wallet knows; it is request {event.id}",
            )
        until = time.strftime("%H:%M:%S UTC", time.gmtime(event.created_at + LIFETIME_SECONDS))
        return AccountFailed(
            "no-answer",
            f"the provider has not answered. Until {until} it may still pay: do not ask again before, and look at "
            "your statement first",
        )

    # --- receipts --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _receipts(self, provider: str) -> AsyncIterator[Listener]:
        """The provider's receipts for us from now on."""
        since = int(time.time()) - CLOCK_SECONDS
        wanted = Filter(kinds=[RECEIPT], authors=[provider], tags={"p": [self._keys.pubkey]}, since=since, limit=100)
        async with listening(self._relays, wanted, self._options) as heard:
            yield heard

    def _naming(self, payment_hash: str) -> Callable[[Event], Receipt | None]:
        def pick(event: Event) -> Receipt | None:
            try:
                receipt = parse_receipt(event, self._keys)
            except InvalidReceipt:
                return None
            mine = receipt.customer == self._keys.pubkey
            return receipt if mine and any(p.payment_hash == payment_hash for p in receipt.payments) else None

        return pick

    async def _checked(self, receipt: Receipt, payment_hash: str, msat: int) -> Receipted:
        account = await account_around(receipt, self._relays, self._keys, self._archive, self._options.query)
        return check_money(receipt, payment_hash=payment_hash, msat=msat, account=account)


def _ignore(_: Paid | PaymentUnclear) -> None:
    """What the wallet answers is asked of the payment itself."""


def _destination(to: str | None, msat: int | None) -> tuple[str | None, str | None, int, str | None]:
    """bolt11, lud16, the amount and, of an invoice, its payment hash. Raises ValueError."""
    if msat is not None and (msat <= 0 or msat % 1000):
        raise ValueError("a whole number of sats above 0 can be withdrawn")
    if to is not None and not is_lightning_address(to):
        try:
            invoice = decode(bolt11 := to.removeprefix("lightning:"))
        except InvalidInvoice as error:
            raise ValueError(f"neither a Lightning address (name@domain) nor an invoice: {error}") from None
        if invoice.msat is None:
            raise ValueError("the invoice leaves the amount open: make one over the amount to withdraw")
        if msat not in (None, invoice.msat):
            raise ValueError(f"the invoice is over {invoice.msat} msat, and {msat} msat were to be withdrawn")
        if invoice.expires_at <= time.time():
            raise ValueError("the invoice has expired")
        return bolt11, None, invoice.msat, invoice.payment_hash
    if msat is None:
        raise ValueError("how much is to be withdrawn? Only an invoice says so itself")
    return None, to, msat, None
