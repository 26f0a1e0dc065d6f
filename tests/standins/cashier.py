"""Payouts with the real store, and around them a wallet, relays and a clock in the test's hands; crashes, too."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from dvm.jobs import Settings, Shop
from dvm.jobs.balances.payouts import Payouts
from dvm.jobs.outbox import Outbox
from dvm.ledger import Link, Payout, PayoutState, PendingPayment, Publication, SqliteStore
from dvm.ledger.audit import audit
from dvm.ledger.sqlite import read
from dvm.lightning.base import Capabilities, InvoiceState, Payment, WalletError, WalletInfo
from dvm.lightning.bolt11 import decode, encode
from dvm.nip90 import AccountAnswer, make_receipt, parse_account_answer
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from dvm.nostr.pool import Published

NETWORK = "regtest"
DEPOSIT = 1_000_000
QUICK = Settings(retry_seconds=0.001, publish_seconds=0.3, payout_seconds=5, payout_day_msat=0)
_PAYEE = PrivateKey()


def invoice(msat: int | None, *, expiry: int = 600, network: str = NETWORK, created_at: int | None = None) -> str:
    """An invoice of somebody else's node."""
    return encode(
        _PAYEE,
        network=network,
        msat=msat,
        payment_hash=sha256(secrets.token_bytes(32)).digest(),
        description="theirs",
        created_at=int(time.time()) if created_at is None else created_at,
        expiry=expiry,
    )


class Purse:
    """A wallet that pays. `acts` says what the next requests to pay meet with; then they are paid.

    settle, fail: done, and said. lost: it never arrives, and nobody knows. secretly: it is paid, and nobody
    knows. late: nobody knows, and it is paid when `arrive` is called. pending: it is under way until `arrive`.
    hang: as secretly, and no answer. breaks: as late, with an error that no wallet may raise. A code of WalletError:
    that is raised, and nothing is done.
    """

    name = "purse"

    def __init__(self, *acts: str, fee_msat: int = 100) -> None:
        self.acts = deque(acts)
        self.fee_msat = fee_msat
        self.tells: bool = True  # what became of a payment
        self.balance: int | None = None
        self.pays = True
        self.error: WalletError | None = None
        self.network = NETWORK
        self.left: Counter[str] = Counter()  # how often the money went, by payment hash
        self.failed: set[str] = set()
        self.coming: set[str] = set()
        self.under_way: set[str] = set()
        self.asked: list[str] = []
        self.looked = 0  # how often it was asked for anything else
        self.paying = 0
        self.most_paying = 0

    def deliver(self) -> None:
        """The requests that were on their way come, and are paid."""
        for payment_hash in self.coming:
            self._send(payment_hash)
        self.coming.clear()

    def arrive(self) -> None:
        """Those, and the payments that were under way, are paid."""
        self.coming |= self.under_way
        self.under_way.clear()
        self.deliver()

    async def info(self) -> WalletInfo:
        self.looked += 1
        if self.error is not None:
            raise self.error
        return WalletInfo("purse", self.network, self.balance, Capabilities(pay=self.pays))

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        self.asked.append(payment_hash := decode(bolt11).payment_hash)
        self.paying += 1
        self.most_paying = max(self.most_paying, self.paying)
        try:
            await asyncio.sleep(0)
            return await self._pay(payment_hash)
        finally:
            self.paying -= 1

    async def _pay(self, payment_hash: str) -> Payment:
        if self.left[payment_hash]:
            return self._settled()
        if payment_hash in self.under_way:
            return Payment(InvoiceState.PENDING)
        act = self.acts.popleft() if self.acts else "settle"
        self.failed.discard(payment_hash)
        match act:
            case "settle":
                self._send(payment_hash)
                return self._settled()
            case "fail":
                self.failed.add(payment_hash)
                return Payment(InvoiceState.FAILED)
            case "lost":
                return Payment(InvoiceState.UNKNOWN)
            case "secretly":
                self._send(payment_hash)
                return Payment(InvoiceState.UNKNOWN)
            case "late":
                self.coming.add(payment_hash)
                return Payment(InvoiceState.UNKNOWN)
            case "breaks":
                self.coming.add(payment_hash)
                raise RuntimeError("so ordered by a test")
            case "pending":
                self.under_way.add(payment_hash)
                return Payment(InvoiceState.PENDING)
            case "hang":
                self._send(payment_hash)
                await asyncio.Event().wait()
        raise WalletError(act, "so ordered by a test")  # type: ignore[arg-type]

    async def payment(self, payment_hash: str) -> Payment:
        self.looked += 1
        await asyncio.sleep(0)
        if not self.tells:
            return Payment(InvoiceState.UNKNOWN)
        if self.left[payment_hash]:
            return self._settled()
        if payment_hash in self.under_way:
            return Payment(InvoiceState.PENDING)
        if payment_hash in self.failed:
            return Payment(InvoiceState.FAILED)
        return Payment(InvoiceState.UNKNOWN, known=False)

    def _send(self, payment_hash: str) -> None:
        # As each real wallet does: what was paid is not paid again.
        self.left[payment_hash] = 1

    def _settled(self) -> Payment:
        return Payment(InvoiceState.SETTLED, self.fee_msat, "00" * 32)


class Relays:
    """They take everything at once, and keep it."""

    connected = 1
    max_event_bytes = 65_536

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stored: list[Event] = []  # what `query` finds
        self.named: dict[str, Collection[str]] = {}

    def post(self, event_id: str, event: str, done: Callable[[Published], None], **options: Any) -> Published:
        self.events.append(Event.from_json(event))
        self.named[event_id] = options.get("relays", ())
        published = Published(accepted=["wss://relay.example"])
        done(published)
        return published

    async def query(self, *_: object, **__: object) -> list[Event]:
        return self.stored


class Crash:
    """Everything stands still at the `at`th step: before or after something reaches the wallet or the database."""

    def __init__(self, at: int | None = None) -> None:
        self.left = at
        self.happened = asyncio.Event()

    async def step(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.happened.set()
            await asyncio.Event().wait()

    def around(self, thing: Any, *names: str) -> Any:
        """`thing`, with a step before and after each of these methods."""
        crash = self

        class Around:
            def __getattr__(self, name: str) -> Any:
                method = getattr(thing, name)
                if name not in names:
                    return method

                async def stepping(*arguments: Any, **options: Any) -> Any:
                    await crash.step()
                    done = await method(*arguments, **options)
                    await crash.step()
                    return done

                return stepping

        return Around()


class Cashier:
    """`open` and `crash` are starts and ends of a daemon on the same ledger."""

    def __init__(self, data: Path, purse: Purse | None = None, settings: Settings = QUICK) -> None:
        self.data = data
        self.purse = purse or Purse()
        self.relays = Relays()
        self.keys = Keys.generate()
        self.customer = Keys.generate()
        self.settings = settings
        self.later = 0.0
        self.store: SqliteStore
        self.payouts: Payouts
        self.shop: Shop
        self.outbox: Outbox
        self._running: asyncio.Task[None] | None = None

    async def open(self, crash: Crash | None = None, *, run: bool = True) -> None:
        self.store = await SqliteStore.open(self.data)
        self._assemble(crash or Crash())
        await self.payouts.load()
        if run:
            self._running = asyncio.create_task(self.payouts.run())

    def _assemble(self, crash: Crash) -> None:
        store = crash.around(self.store, "reserve", "paid_out", "not_paid_out", "refuse_payout")
        wallet: Any = crash.around(self.purse, "pay", "payment")
        relays: Any = self.relays
        self.shop = Shop(
            self.keys,
            store,
            wallet,
            relays,
            {},
            {},
            settings=self.settings,
            clock=lambda: time.time() + self.later,
        )
        self.outbox = Outbox(self.shop)
        self.payouts = Payouts(self.shop, self.outbox)

    async def crash(self) -> None:
        """Nothing is finished, nothing is told."""
        tasks = [each.task for each in self.payouts._open.values() if each.task is not None]
        if self._running is not None:
            tasks.append(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.store.close()

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.payouts.close()
        await self.store.close()

    async def fund(self, msat: int = DEPOSIT, customer: Keys | None = None) -> None:
        """A top-up, settled."""
        pubkey, now = (customer or self.customer).pubkey, int(self.shop.clock())
        text = invoice(msat)
        said = decode(text)
        await self.store.expect(
            PendingPayment(said.payment_hash, "bolt11", pubkey, None, text, msat, now, said.expires_at)
        )

        def credit(link: Link) -> Publication:
            event = make_receipt(self.keys, pubkey, link, now)
            return Publication(event.id, "receipt", event.to_json())

        await self.store.deposit(said.payment_hash, msat, now, credit)

    def asked(self, msat: int = 100_000, *, fee: int = 5_000, customer: str | None = "", **options: Any) -> Payout:
        """A withdrawal as it reaches `Payouts.withdraw`."""
        text = invoice(msat, created_at=self.shop.now(), **options)
        said = decode(text)
        return Payout(
            id=secrets.token_hex(32),
            customer=self.customer.pubkey if customer == "" else customer,
            bolt11=text,
            payment_hash=said.payment_hash,
            msat=msat,
            fee_limit_msat=fee,
            state=PayoutState.RESERVED,
            created_at=self.shop.now(),
            expires_at=said.expires_at,
            scheme="nip44",
        )

    async def row(self, payout: Payout) -> Payout:
        found = await self.store.payout(payout.id)
        assert found is not None
        return found

    async def ended(self, payout: Payout, timeout: float = 10.0) -> Payout:
        """The payout, once it is not reserved any more and that is on the disk."""
        async with asyncio.timeout(timeout):
            while (row := await self.row(payout)).state is PayoutState.RESERVED or payout.id in self._open():
                await asyncio.sleep(0.005)
        return row

    def _open(self) -> set[str]:
        return {each.id for each in self.payouts.unresolved()}

    async def available(self, customer: Keys | None = None) -> int:
        return (await self.store.balance((customer or self.customer).pubkey)).available

    def answers(self, payout: Payout) -> list[AccountAnswer]:
        """What the customer was told about it, in order and each once."""
        found = {event.id: event for event in self.relays.events if event.kind == 7092}
        read = (parse_account_answer(event, self.customer) for event in found.values())
        return [answer for answer in read if answer.request == payout.id]

    def audited(self) -> None:
        """The books are in order."""
        assert read(self.data, audit) == []

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def run() -> None:
            await work

        return asyncio.create_task(run())


@asynccontextmanager
async def cashier(data: Path, *acts: str, funded: int = DEPOSIT, **options: Any) -> AsyncIterator[Cashier]:
    """Payouts at work as long as the block, and a customer with `funded` msat."""
    desk = Cashier(data, Purse(*acts), **options)
    await desk.open()
    try:
        if funded:
            await desk.fund(funded)
        yield desk
    finally:
        await desk.close()
