"""Zap receipts of a foreign provider: its LNURL server serves our address, and its invoices end in our wallet.

A receipt attributes a payment; only our wallet's settlement credits it. So the wallet is asked first, and
nothing is stored for what it does not confirm: whoever pays their own invoices can have as many receipts
signed as they like, and must neither fill our tables nor make us wear the wallet out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from dvm.jobs.payments.zaps import spellings, target_of
from dvm.jobs.shop import Shop, ZapSettings
from dvm.jobs.watching.trouble import Trouble
from dvm.ledger import LedgerError, PendingPayment
from dvm.lightning.base import InvoiceState, Lookup, WalletError
from dvm.lightning.lnurl import LnurlClient, LnurlError
from dvm.lightning.zaps import ZAP_RECEIPT, InvalidZap, Zap, check_receipt
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter

log = logging.getLogger(__name__)

# How far back receipts are looked for after a start, and how old the invoice in one may be: as long as a
# payment is watched for. What was credited before is known by its hash.
HORIZON_SECONDS = 14 * 86_400
AHEAD_SECONDS = 3_600  # by which the clock of whoever made the invoice may be ahead of ours
WATCH_SECONDS = 86_400  # for which a payment that the wallet has confirmed is watched, if crediting it fails
QUEUED = 1_000  # receipts that wait to be read
WAITING = 1_000  # for the wallet to know of them, in all
PER_PAYER = 20
REMEMBERED = 10_000  # payments whose receipt is known, beyond what the ledger tells
SINGLY = 4  # this many are looked up one by one; more of them in one listing
REFRESH_SECONDS = 3_600.0  # after which the provider is asked again who signs its receipts
LOGGED_PER_MINUTE = 60  # rejections; anyone can publish receipts


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds. `pauses`: between look-ups of one payment, since a provider may be quicker than the
    wallet; `rest`: between two rounds; `retry`: until a provider or wallet that gave no answer is asked again;
    `rotated`: how old our knowledge of the provider's key must be for another author to make us ask anew."""

    pauses: Sequence[float] = (3.0, 10.0, 60.0, 300.0, 1_800.0)
    rest: float = 2.0
    retry: float = 30.0
    rotated: float = 600.0


class Crediting(Protocol):
    """The part of `Settlements` that is needed here."""

    def expect(self, payment: PendingPayment) -> None:
        """Watch for one more payment."""
        ...

    async def credit(self, payment_hash: str, lookup: Lookup) -> None:
        """Credit a payment that is expected, once, as the wallet says that it was settled."""
        ...


@dataclass(slots=True)
class _Waiting:
    zap: Zap
    customer: str
    job: str | None
    due: float  # by the loop's clock
    asked: int = 0


class ZapReceipts:
    """Credits what foreign receipts attribute and our wallet confirms. `run` it for as long as the shop is open.

    `lnurl` asks the provider who signs its receipts; it stays the caller's to close.
    """

    patience = Patience()

    def __init__(
        self,
        shop: Shop,
        settlements: Crediting,
        settings: ZapSettings,
        lnurl: LnurlClient,
        *,
        patience: Patience | None = None,
    ) -> None:
        self._shop = shop
        self._settlements = settlements
        self._settings = settings
        self._lnurl = lnurl
        self._patience = patience or self.patience
        self._lnurls = spellings(settings.lud16)
        self._queue: deque[Event] = deque()
        self._waiting: dict[str, _Waiting] = {}  # by payment hash
        self._seen: dict[str, str] = {}  # payment hash → the receipt that has attributed it
        self._by_payer: Counter[str] = Counter()
        self._news = asyncio.Event()
        self._provider = ""
        self._asked = float("-inf")
        self._network = ""
        self._logged = 0
        self._logged_since = 0.0
        self._unheard = Trouble(
            log,
            logging.WARNING,
            "zaps cannot be credited: it cannot be learned who signs the receipts of identity.lud16's provider",
            "the provider of identity.lud16 answers again",
        )
        self._blind = Trouble(
            log,
            logging.WARNING,
            "zaps cannot be credited: the wallet does not answer; see `dvm doctor`",
            "zaps can be credited again",
        )

    @property
    def filter(self) -> Filter:
        """What to subscribe to, since `HORIZON_SECONDS` ago."""
        return Filter(kinds=[ZAP_RECEIPT], tags={"p": [self._shop.keys.pubkey]})

    @property
    def waiting(self) -> int:
        """How many receipts the wallet has not confirmed so far."""
        return len(self._waiting)

    def on_receipt(self, event: Event, _relay: str = "") -> None:
        """One that a relay has. Does not block."""
        if len(self._queue) >= QUEUED:
            self._reject(event, "too many receipts at once; the next start reads it again")
            return
        self._queue.append(event)
        self._news.set()

    async def run(self) -> None:
        """Check, attribute and have credited what comes; until cancelled."""
        while True:
            wait = await self._read()
            if wait is None:
                wait = await self._look()
                wait = 0.0 if self._queue else wait
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()

    # Reading

    async def _read(self) -> float | None:
        """Check what has come, as far as there is room. The seconds until it should be tried again, if it should."""
        self._news.clear()
        while self._queue and not self._crowded():
            event = self._queue[0]
            try:
                if not await self._ready(event):
                    return self._patience.retry
                await self._attribute(event)
            except InvalidZap as error:
                self._reject(event, str(error))
            except LedgerError as error:
                log.error("a zap cannot be credited; it is tried again", extra={"error": str(error)})
                return self._patience.retry
            self._queue.popleft()
        return None

    async def _ready(self, event: Event) -> bool:
        """Whether it is known who signs the provider's receipts, and on which network our wallet is."""
        now = asyncio.get_running_loop().time()
        age = now - self._asked
        if age > REFRESH_SECONDS or (event.pubkey != self._provider and age > self._patience.rotated):
            await self._ask_provider(now)
        if not self._network:
            try:
                self._network = (await self._shop.wallet.info()).network
            except WalletError as error:
                self._blind.failing(error=str(error))
                return False
            self._blind.fine()
        return bool(self._provider)

    async def _ask_provider(self, now: float) -> None:
        try:
            params = await self._lnurl.fetch(self._settings.lud16)
        except LnurlError as error:
            self._unheard.failing(error=str(error))
            return  # whoever was named before still counts
        if params.nostr_pubkey is None:
            self._unheard.failing(error="it makes no zap receipts (allowsNostr, nostrPubkey)")
            return
        self._unheard.fine()
        self._asked, self._provider = now, params.nostr_pubkey

    async def _attribute(self, event: Event) -> None:
        """Raises InvalidZap with the reason, and LedgerError."""
        shop, now = self._shop, self._shop.now()
        zap = check_receipt(
            event,
            recipient=shop.keys.pubkey,
            provider=self._provider,
            lnurls=self._lnurls,
            network=self._network,
            own_server=False,
        )
        if not now - HORIZON_SECONDS < zap.created_at < now + AHEAD_SECONDS:
            raise InvalidZap("bolt11: the invoice was made too long ago, or ahead of our clock")
        target = await target_of(shop, zap.request)
        if target.customer is None:
            raise InvalidZap("anonymous: it tops up nobody's balance")
        if (first := self._seen.get(zap.payment_hash)) is not None:
            if first != event.id:
                raise InvalidZap("another receipt has attributed this payment before")
            return
        known = await shop.store.pending(zap.payment_hash)
        new = _Waiting(zap, target.customer, target.job, asyncio.get_running_loop().time())
        if known is not None and not _same(known, new):
            raise InvalidZap("the payment is known, and is another's")
        if self._settings.trust == "provider":
            await self._credit(new, Lookup(InvoiceState.SETTLED, zap.msat, event.created_at))
        elif known is None:  # what is known is watched by Settlements
            self._wait(new)
        self._seen[zap.payment_hash] = event.id
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _wait(self, new: _Waiting) -> None:
        payer = new.zap.request.payer
        if self._by_payer[payer] >= PER_PAYER:
            raise InvalidZap("the wallet knows nothing of too many payments of this payer")
        if len(self._waiting) >= WAITING:
            most = max(self._waiting.values(), key=lambda each: each.asked)
            self._drop(most, "too many receipts wait for the wallet, and it does not know of this payment")
        self._by_payer[payer] += 1
        self._waiting[new.zap.payment_hash] = new

    def _crowded(self) -> bool:
        """Whether as many wait as may, and the wallet was asked about none of them: each gets its one look."""
        return len(self._waiting) >= WAITING and not any(each.asked for each in self._waiting.values())

    # Looking up

    async def _look(self) -> float | None:
        """Ask the wallet about what is due. The seconds until the next round; None: nothing waits."""
        loop = asyncio.get_running_loop()
        due = [each for each in self._waiting.values() if each.due <= loop.time()]
        if due:
            hashes = [each.zap.payment_hash for each in due]
            if len(due) <= SINGLY:
                lookups = await asyncio.gather(*(self._shop.wallet.lookup(each) for each in hashes))
            else:
                found = await self._shop.wallet.lookup_many(hashes, min(each.zap.created_at for each in due))
                lookups = [found[each] for each in hashes]
            for each, lookup in zip(due, lookups, strict=True):
                await self._decide(each, lookup)
            await asyncio.sleep(self._patience.rest)
        if not self._waiting:
            return None
        return max(0.0, min(each.due for each in self._waiting.values()) - loop.time())

    async def _decide(self, each: _Waiting, lookup: Lookup) -> None:
        if lookup.state is InvoiceState.SETTLED:
            try:
                await self._credit(each, lookup)
            except LedgerError as error:
                log.error("a zap cannot be credited; it is tried again", extra={"error": str(error)})
            except InvalidZap as error:
                self._drop(each, str(error))
                return
            else:
                self._forget(each)
                return
        elif lookup.state is InvoiceState.FAILED:
            self._drop(each, "our wallet says that this was never paid")
            return
        elif each.asked >= len(self._patience.pauses):
            self._drop(each, "settled in no wallet of ours")
            return
        pause = self._patience.pauses[min(each.asked, len(self._patience.pauses) - 1)]
        each.asked += 1
        each.due = asyncio.get_running_loop().time() + pause

    async def _credit(self, each: _Waiting, lookup: Lookup) -> None:
        """Raises InvalidZap if the payment was attributed to somebody else meanwhile, and LedgerError."""
        zap = each.zap
        payment = PendingPayment(
            payment_hash=zap.payment_hash,
            source="zap",
            customer=each.customer,
            job=each.job,
            bolt11=zap.bolt11,
            msat=zap.msat,
            created_at=zap.created_at,
            expires_at=self._shop.now() + WATCH_SECONDS,
        )
        if not await self._shop.store.expect(payment):
            known = await self._shop.store.pending(zap.payment_hash)
            if known is None or not _same(known, each):  # none: it is an invoice that we pay
                raise InvalidZap("the payment is known, and is another's")
        self._settlements.expect(payment)
        await self._settlements.credit(zap.payment_hash, lookup)

    def _drop(self, each: _Waiting, reason: str) -> None:
        self._forget(each)
        self._seen.pop(each.zap.payment_hash, None)  # another receipt may be the true one
        self._reject(each.zap.receipt, reason)

    def _forget(self, each: _Waiting) -> None:
        del self._waiting[each.zap.payment_hash]
        payer = each.zap.request.payer
        self._by_payer[payer] -= 1
        if self._by_payer[payer] <= 0:
            del self._by_payer[payer]

    def _reject(self, event: Event, reason: str) -> None:
        now = self._shop.clock()
        if not self._logged_since <= now < self._logged_since + 60:
            if self._logged > LOGGED_PER_MINUTE:
                log.info("more zap receipts were rejected", extra={"count": self._logged - LOGGED_PER_MINUTE})
            self._logged_since, self._logged = now, 0
        self._logged += 1
        if self._logged <= LOGGED_PER_MINUTE:
            log.info("a zap receipt was rejected", extra={"receipt": event.id, "reason": reason})


def _same(known: PendingPayment, each: _Waiting) -> bool:
    """Whether a payment was attributed as this receipt does."""
    return (known.source, known.customer, known.job) == ("zap", each.customer, each.job)
