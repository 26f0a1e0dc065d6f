"""What customers ask of their account, over Nostr: balance, statement, withdrawal (kind 7091).

Each gets at his own account only, since the event's author is the account; and nothing of it is ever answered in
clear. A withdrawal request is handled once for ever: its id is the payout's (money.md, case 7).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Literal

from throttled import RateLimiterType, Throttled, rate_limiter
from throttled.store import MemoryStore

from dvm.jobs.balances.payees import PayoutCode, PayoutRefused, address_of, fee_limit, insufficient, payable
from dvm.jobs.balances.payouts import Payouts
from dvm.jobs.outbox import Outbox
from dvm.jobs.shop import Shop
from dvm.ledger import LedgerError, Payout, PayoutState
from dvm.lightning.lnurl import LnurlClient, LnurlError
from dvm.nip90 import (
    ACCOUNT_REQUEST,
    AccountRequest,
    Addressee,
    InvalidAccountRequest,
    addressee,
    make_account_answer,
    parse_account_request,
    untimely,
)
from dvm.nip90.account import InvalidAccountRequestCode
from dvm.nostr.encryption import EncryptError
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.pricing import sats

log = logging.getLogger(__name__)

AT_ONCE = 256  # requests in work; more at once is a flood, and customers ask again
ADDRESSES_AT_ONCE = 16  # servers of strangers that are asked at the same time
ADDRESS_SECONDS = 30.0
COMMENT = "withdrawal"
ALL = "all"  # the key of a bucket that all share

AccountCode = InvalidAccountRequestCode | PayoutCode | Literal["rate-limited"]
"""What an error answer to an account request can begin with (docs/events.md)."""


class Accounts:
    """Answers account requests. Subscribe `on_request` to `filters`; `close` ends what is being answered."""

    def __init__(self, shop: Shop, outbox: Outbox, payouts: Payouts, lnurl: LnurlClient) -> None:
        """`lnurl` stays the caller's to close."""
        self._shop = shop
        self._outbox = outbox
        self._payouts = payouts
        self._lnurl = lnurl
        self._addresses = asyncio.Semaphore(ADDRESSES_AT_ONCE)
        self._underway: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = _bucket(shop.settings.account_requests_per_minute)
        # Keys cost nothing, so a bucket for each of them bounds nobody.
        self._requests_total = _bucket(shop.settings.account_requests_per_minute_total)
        self._refusals = _bucket(1)  # "rate-limited" is said once a minute
        self._refusals_total = _bucket(shop.settings.refusals_per_minute)

    def filters(self) -> list[Filter]:
        """What to subscribe to, with `since` `max_age` ago."""
        return [Filter(kinds=[ACCOUNT_REQUEST], tags={"p": [self._shop.keys.pubkey]})]

    def on_request(self, event: Event, _relay: str) -> None:
        """Take a verified event from the pool; never blocks, never raises for what is in it."""
        shop = self._shop
        if event.pubkey == shop.keys.pubkey or shop.keys.pubkey not in event.values("p"):
            return
        if untimely(event, shop.now(), max_age=shop.settings.max_age, max_ahead=shop.settings.max_ahead):
            return
        if event.id in self._underway:
            return
        if len(self._tasks) >= AT_ONCE or self._limited(event.pubkey):
            if not self._refusals.limit(event.pubkey).limited and not self._refusals_total.limit(ALL).limited:
                most = shop.settings.account_requests_per_minute
                self._refuse(addressee(event), (), "rate-limited", f"at most {most} requests a minute: ask again later")
            return
        self._underway.add(event.id)
        task = asyncio.get_running_loop().create_task(self._guard(event), name=f"account request {event.id}")
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, event.id))

    def _limited(self, customer: str) -> bool:
        return self._requests.limit(customer).limited or self._requests_total.limit(ALL).limited

    async def close(self) -> None:
        """End what is being answered: it has not been reserved, or is taken up by the next start."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, event_id: str, task: asyncio.Task[None]) -> None:
        self._underway.discard(event_id)
        self._tasks.discard(task)

    async def _guard(self, event: Event) -> None:
        """One failing request never stops the others (money.md, case 25)."""
        try:
            await self._answer(event)
        except LedgerError as error:
            log.error("an account request could not be answered", extra={"request": event.id, "error": str(error)})
        except Exception:
            log.exception("an unexpected error", extra={"request": event.id})

    async def _answer(self, event: Event) -> None:
        try:
            request = parse_account_request(event, self._shop.keys)
        except InvalidAccountRequest as error:
            self._refuse(addressee(event), (), error.code, error.text)
            return
        store = self._shop.store
        match request.method:
            case "balance":
                balance = await store.balance(request.customer)
                self._say(request, partial(make_account_answer, balance=balance))
            case "statement":
                entries = await store.statement(request.customer, request.limit, request.before)
                balance = await store.balance(request.customer)
                self._say(request, partial(make_account_answer, balance=balance, entries=entries))
            case "withdraw":
                await self._withdraw(request)

    # --- withdrawals -----------------------------------------------------------------------------------

    async def _withdraw(self, request: AccountRequest) -> None:
        if (known := await self._shop.store.payout(request.id)) is not None:
            self._payouts.repeat(known)  # to its own customer, whom the id commits to
            return
        payout = self._payout(request, "", "", request.amount_msat or 0, 0)
        try:
            payout = await self._resolve(request)
            await self._payouts.withdraw(payout)
        except PayoutRefused as refused:
            await self._payouts.refuse(payout, refused)

    async def _resolve(self, request: AccountRequest) -> Payout:
        """What is to be paid. Raises PayoutRefused."""
        shop, settings = self._shop, self._shop.settings
        if not settings.payouts_enabled:
            raise PayoutRefused("unavailable", "this provider pays nothing out over Lightning: ask it directly")
        bolt11, amount = request.bolt11, request.amount_msat
        if bolt11 is not None:
            amount = payable(bolt11, now=shop.now(), amount_msat=amount).msat
        if amount is None:
            raise PayoutRefused("invalid-amount", "how much is to be paid?")
        if amount < settings.payout_min_msat:
            raise PayoutRefused("too-small", f"at least {sats(settings.payout_min_msat)} may be withdrawn at a time")
        # Before anything is asked of others: whoever has no money makes us ask nobody.
        fee = fee_limit(amount, fee_msat=settings.fee_msat, fee_ppm=settings.fee_ppm)
        available = (await shop.store.balance(request.customer)).available
        if available < amount + fee:
            raise insufficient(available, amount, fee)
        network = (await self._payouts.wallet_info()).network
        if bolt11 is None:
            bolt11 = await self._invoice(request, amount, network)
        said = payable(bolt11, now=shop.now(), amount_msat=amount, network=network)
        return self._payout(request, bolt11.lower(), said.payment_hash, amount, fee, said.expires_at)

    async def _invoice(self, request: AccountRequest, amount: int, network: str) -> str:
        """From the Lightning address that the customer names, or has in his profile. Raises PayoutRefused."""
        try:
            async with asyncio.timeout(ADDRESS_SECONDS), self._addresses:
                address = request.lud16 or await address_of(request.customer, self._shop.relays)
                params = await self._lnurl.fetch(address)
                return await self._lnurl.invoice(params, amount, COMMENT, network=network)
        except LnurlError as error:
            raise PayoutRefused("address-failed", f"the Lightning address: {error}") from None
        except TimeoutError:
            raise PayoutRefused("address-failed", "the Lightning address: no answer in time") from None

    def _payout(
        self, request: AccountRequest, bolt11: str, payment_hash: str, msat: int, fee: int, expires_at: int = 0
    ) -> Payout:
        return Payout(
            id=request.id,
            customer=request.customer,
            bolt11=bolt11,
            payment_hash=payment_hash,
            msat=msat,
            fee_limit_msat=fee,
            state=PayoutState.RESERVED,
            created_at=self._shop.now(),
            expires_at=expires_at,
            scheme=request.scheme,
            relays=request.relays,
        )

    # --- answers that may be lost ----------------------------------------------------------------------

    def _refuse(self, to: Addressee, relays: tuple[str, ...], code: AccountCode, text: str) -> None:
        log.info("an account request is refused", extra={"request": to[0], "code": code})
        self._send(
            relays,
            lambda: make_account_answer(self._shop.keys, to, self._shop.now(), status="error", code=code, text=text),
        )

    def _say(self, request: AccountRequest, make: Callable[..., Event]) -> None:
        size = self._shop.relays.max_event_bytes
        self._send(request.relays, lambda: make(self._shop.keys, request, self._shop.now(), max_bytes=size))

    def _send(self, relays: tuple[str, ...], make: Callable[[], Event]) -> None:
        try:
            self._outbox.send_unstored(make(), relays)
        except EncryptError:  # nothing leaves in clear instead (money.md, case 27)
            log.warning("an answer about an account cannot be encrypted and is not sent")


def _bucket(per_minute: int) -> Throttled:
    """A token bucket for each customer, holding a minute's worth; 0 is no limit."""
    per_minute = per_minute or 1_000_000
    return Throttled(
        using=RateLimiterType.TOKEN_BUCKET.value,
        quota=rate_limiter.per_min(per_minute, burst=per_minute),
        store=MemoryStore(options={"MAX_SIZE": 100_000}),
    )
