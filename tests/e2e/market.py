"""The whole business of a shop and one customer, whatever wallets they have: jobs, zaps, top-ups, withdrawals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvm.ledger import SqliteStore
from dvm.ledger.audit import audit
from dvm.ledger.sqlite import read
from dvm.lightning.bolt11 import decode
from dvm.lightning.lnurl import LnurlClient
from dvm.lightning.zaps import ZAP_RECEIPT, ZAP_REQUEST, description_hash
from dvm.nip90 import ACCOUNT_ANSWER, AccountAnswer, Receipt, account_request_draft, parse_account_answer
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from tests.standins.customer import Customer, customer
from tests.standins.daemon import DaemonProcess, daemon
from tests.standins.ports import free_port
from tests.standins.waiting import until

ECHO = {"provider": "echo", "max_output_tokens": 1024}


@dataclass
class Wallets:
    """`table` is the shop's `[wallet]`, `env` its secret; `pay` and `invoice` are the customer's wallet's."""

    table: Mapping[str, Any]
    env: Mapping[str, str]
    pay: Callable[[str], Awaitable[object]]
    invoice: Callable[[int], Awaitable[str]]
    network: str = "regtest"


@dataclass
class Promise:
    """A job, and its payment, which waits at the shop's wallet: `paying` ends once that is decided."""

    job: str
    payment_hash: str
    msat: int
    paying: asyncio.Future[object]

    async def outcome(self) -> Any:
        """What paying has come to, for its payer."""
        async with asyncio.timeout(60):
            return await self.paying


@dataclass
class Market:
    """An open shop with a Lightning address of its own, and a customer. `paid` are the payment hashes so far."""

    relay: str
    wallets: Wallets
    shop: DaemonProcess
    keys: Keys
    buyer: Customer
    address: str
    lnurl: LnurlClient
    paid: list[str] = field(default_factory=list)
    _asked: int = 0

    @property
    def provider(self) -> str:
        return self.keys.pubkey

    async def ask(self, words: int = 20, **fields: Any) -> str:
        """Ask for a job; its id."""
        self._asked += 1
        return await self.buyer.ask(f"{self._asked} " + "word " * words, **fields)

    async def pay(self, bolt11: str) -> str:
        """With the customer's wallet; the payment hash."""
        await self.wallets.pay(bolt11)
        self.paid.append(decode(bolt11).payment_hash)
        return self.paid[-1]

    async def buy(self) -> Receipt:
        """A job, paid by the invoice of its quote: delivered, and receipted for that payment."""
        job = await self.ask()
        quote = await self.buyer.quote(job)
        assert quote.bolt11 is not None
        assert quote.msat == decode(quote.bolt11).msat
        payment_hash = await self.pay(quote.bolt11)
        receipt = await self._delivered(job)
        assert [(p.source, p.payment_hash, p.msat) for p in receipt.payments] == [("bolt11", payment_hash, quote.msat)]
        return receipt

    async def zap(self, msat: int, event: str | None = None) -> str:
        """Zap the shop's address as any client does, and pay; the payment hash."""
        tags = [["p", self.provider], ["amount", str(msat)], ["relays", self.relay]]
        if event is not None:
            tags.append(["e", event])
        request = self.buyer.keys.sign(ZAP_REQUEST, tags, "⚡", int(time.time())).to_json()
        params = await self.lnurl.fetch(self.address)
        assert params.nostr_pubkey == self.provider
        bolt11 = await self.lnurl.invoice(params, msat, network=self.wallets.network, zap_request=request)
        assert decode(bolt11).description_hash == description_hash(request)
        payment_hash = await self.pay(bolt11)
        await until(lambda: self.zap_receipt(bolt11, request), 30)
        return payment_hash

    async def zap_receipt(self, bolt11: str, request: str) -> Event | None:
        """The shop's receipt for that zap, as it is on the relay."""
        wanted = Filter(kinds=[ZAP_RECEIPT], authors=[self.provider], tags={"p": [self.provider]})
        for event in await self.buyer.pool.query(wanted):
            if event.tag("bolt11") == bolt11:
                assert event.verify()
                assert event.tag("description") == request
                assert event.tag("P") == self.buyer.keys.pubkey
                return event
        return None

    @asynccontextmanager
    async def promised(self, words: int = 20, **fields: Any) -> AsyncIterator[Promise]:
        """A job of a shop that sells on hold invoices: the payment is accepted, and the job is on its way."""
        job = await self.ask(words, **fields)
        quote = await self.buyer.quote(job)
        assert quote.bolt11 is not None
        said = decode(quote.bolt11)
        assert quote.msat is not None
        assert quote.msat == said.msat
        paying = asyncio.ensure_future(self.wallets.pay(quote.bolt11))
        try:
            await self.shop.said("promised", job=job)
            yield Promise(job, said.payment_hash, quote.msat, paying)
        finally:
            paying.cancel()
            await asyncio.gather(paying, return_exceptions=True)

    async def buy_by_zap(self) -> Receipt:
        """A job, paid by zapping its quote."""
        job = await self.ask()
        quote = await self.buyer.quote(job)
        assert quote.msat is not None
        assert ["zap", self.provider] in [list(tag[:2]) for tag in quote.tags]
        payment_hash = await self.zap(quote.msat, quote.event.id)
        receipt = await self._delivered(job)
        assert [(p.source, p.payment_hash, p.msat) for p in receipt.payments] == [("zap", payment_hash, quote.msat)]
        return receipt

    async def top_up(self, msat: int) -> Receipt:
        """Zap the shop itself: a receipt without a job says amount and balance."""
        payment_hash = await self.zap(msat)
        receipt = await self.receipt_of(payment_hash)
        assert (receipt.paid, receipt.after - receipt.before) == (msat, msat)
        return receipt

    async def spend(self) -> Receipt:
        """A job that the balance covers: no quote, no payment."""
        job = await self.ask()
        receipt = await self._delivered(job)
        assert "payment-required" not in " ".join(self.buyer.said(job))
        return receipt

    async def withdraw(self, msat: int) -> Receipt:
        """Ask for money back, to an invoice of the customer's wallet: paid, and receipted."""
        bolt11 = await self.wallets.invoice(msat)
        request = await self.ask_to_withdraw(bolt11)
        answer = await self.answer(request, "success")
        assert answer.withdrawal is not None
        assert (answer.withdrawal.state, answer.withdrawal.msat) == ("paid", msat)
        receipt = await self.receipt_of(decode(bolt11).payment_hash)
        assert receipt.paid == -(msat + answer.withdrawal.fee_msat)
        return receipt

    async def ask_to_withdraw(self, bolt11: str) -> Event:
        now = int(time.time())
        draft = account_request_draft(self.buyer.keys, self.provider, "withdraw", now, bolt11=bolt11)
        request = draft.sign(self.buyer.keys, now)
        await self.buyer.send(request)
        return request

    async def answer(self, request: Event, status: str, timeout: float = 60) -> AccountAnswer:
        """What the shop says to an account request in the end."""
        found: list[AccountAnswer] = []

        async def said() -> bool:
            wanted = Filter(kinds=[ACCOUNT_ANSWER], authors=[self.provider], tags={"e": [request.id]})
            answers = [parse_account_answer(event, self.buyer.keys, request) for event in await self._query(wanted)]
            assert status == "error" or not [each for each in answers if each.status == "error"], answers
            found.extend(each for each in answers if each.status == status)
            return bool(found)

        await until(said, timeout)
        return found[0]

    async def books_are_right(self) -> dict[str, int]:
        """Every chain whole, every book in order; the accounts."""
        balance = self.buyer.check_chain(*self.paid)
        store = await SqliteStore.open(self.shop.data)
        try:
            assert (await store.balance(self.buyer.keys.pubkey)).available == balance
            return await store.accounts()
        finally:
            await store.close()
            assert read(self.shop.data, audit) == []

    async def _delivered(self, job: str) -> Receipt:
        result = await self.buyer.result(job, 60)
        assert result.content
        return await self.buyer.receipt(job, 60)

    async def receipt_of(self, payment_hash: str) -> Receipt:
        """The receipt without a job: of a top-up, or of a withdrawal."""
        event = await self.buyer.until("", lambda event: payment_hash in self._names(event), 60)
        return next(each for each in self.buyer.chain() if each.id == event.id)

    def _names(self, event: Event) -> list[str]:
        return [p.payment_hash for each in self.buyer.chain() if each.id == event.id for p in each.payments]

    async def _query(self, wanted: Filter) -> list[Event]:
        return await self.buyer.pool.query(wanted)


@asynccontextmanager
async def market(directory: Path, relay: str, wallets: Wallets, **configuration: Any) -> AsyncIterator[Market]:
    """A daemon with that wallet, a gateway, and a Lightning address there; `configuration` as of `configure`."""
    listen = f"127.0.0.1:{free_port()}"
    keys = Keys.generate()
    tables = {
        "gateway": {"listen": listen, "url": f"http://{listen}"},
        "payouts": {"min_sats": 1},
        **configuration.pop("tables", {}),
    }
    lnurl = LnurlClient(allow_private=True)
    try:
        async with (
            daemon(
                directory,
                [relay],
                keys=keys,
                env=wallets.env,
                wallet=wallets.table,
                model=configuration.pop("model", ECHO),
                price=configuration.pop("price", {"per_request": 21}),  # so that no change pays for the next job
                identity={"lud16": f"shop@{listen}"},
                tables=tables,
                **configuration,
            ) as shop,
            customer(relay) as buyer,
        ):
            yield Market(relay, wallets, shop, keys, buyer, f"shop@{listen}", lnurl)
    finally:
        await lnurl.close()
