"""Zap receipts of a provider that serves our address and many others: what is forged credits nobody, each
for a reason that the log tells; what is honest is credited once, whatever else is going on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dvm.jobs.payments import zap_receipts
from dvm.jobs.payments.zap_receipts import Patience, ZapReceipts
from dvm.jobs.shop import ZapSettings
from dvm.ledger import JobState
from dvm.lightning.lnurl_address import encode_lnurl
from dvm.lightning.zaps import description_hash
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.standins.bad_relay import bad_relay
from tests.standins.customer import Customer, customer
from tests.standins.lnurl_server import StrangersServer, strangers_server
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop
from tests.standins.zaps import broken, invoice, payment_hash_of, zap_receipt, zap_request

MSAT = 50_000
REJECTED = "a zap receipt was rejected"
OF_LOG = "dvm.jobs.payments.zap_receipts"


class Scene:
    """A shop whose address is at a foreign provider, which signs with `provider`."""

    def __init__(self, shop: Workshop, buyer: Customer, server: StrangersServer, provider: Keys) -> None:
        self.shop, self.buyer, self.server, self.provider = shop, buyer, server, provider
        self.thief = Keys.generate()
        shop.node.open_wallet("thief", 10**9)

    def request(self, payer: Keys | None = None, **fields: object) -> Event:
        changes = {"msat": MSAT, **fields}
        return zap_request(payer or self.buyer.keys, self.shop.keys.pubkey, **changes)  # type: ignore[arg-type]

    def ours(self, request: Event, msat: int = MSAT, *, paid: bool = True, wallet: str = "shop") -> str:
        """An invoice that the provider made for that request, in our wallet unless another is named."""
        text = request.to_json()
        made = self.shop.node.make(wallet, msat, description_hash=description_hash(text), expiry=600)
        if paid:
            self.shop.node.pay(made.bolt11)
        return made.bolt11

    def receipt(self, request: Event, bolt11: str, **changes: object) -> Event:
        return zap_receipt(self.provider, request, bolt11, **changes)

    async def publish(self, receipt: Event) -> Event:
        await self.buyer.send(receipt)
        return receipt

    async def zap(self, **fields: object) -> Event:
        """An honest one."""
        request = self.request(**fields)
        return await self.publish(self.receipt(request, self.ours(request)))

    async def credited(self, msat: int, pubkey: str = "") -> None:
        """Wait until that customer's balance is so high; then the books balance too."""
        who = pubkey or self.buyer.keys.pubkey
        await self.reached(lambda balance: balance == msat, who)
        await self.shop.balanced()

    async def reached(self, condition: Callable[[int], bool], who: str) -> None:
        async with asyncio.timeout(10):
            while not condition((await self.shop.store.balance(who)).available):
                await asyncio.sleep(0.01)


def rejections(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """Why each receipt was rejected, by its id."""
    return {r.__dict__["receipt"]: r.__dict__["reason"] for r in caplog.records if r.getMessage() == REJECTED}


@pytest.fixture
def trust() -> str:
    return "wallet"


@pytest.fixture
async def scene(
    tmp_path: Path, trust: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Scene]:
    caplog.set_level(logging.INFO, OF_LOG)
    quick = Patience(pauses=(0.02, 0.02, 0.02), rest=0.01, retry=0.05, rotated=0.0)
    monkeypatch.setattr(ZapReceipts, "patience", quick)
    provider = Keys.generate()
    async with bad_relay() as relay, strangers_server() as server, customer(relay.url) as buyer:
        address = server.pays("shop", allowsNostr=True, nostrPubkey=provider.pubkey)
        zaps = ZapSettings(address, own=False, trust=trust)  # type: ignore[arg-type]
        async with workshop(relay.url, data=tmp_path, zaps=zaps) as shop:
            yield Scene(shop, buyer, server, provider)


async def test_an_honest_zap_tops_up_and_is_receipted(scene: Scene) -> None:
    receipt = await scene.zap(lnurl=encode_lnurl(f"{scene.server.url}/.well-known/lnurlp/shop"))
    said = await scene.buyer.receipt("")
    assert [(p.source, p.payment_hash, p.msat) for p in said.payments] == [("zap", payment_hash_of(receipt), MSAT)]
    assert (said.before, said.after, said.job) == (0, MSAT, None)
    await scene.credited(MSAT)


async def test_a_zap_on_the_announcement_tops_up_and_one_on_anothers_does_not(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    us = scene.shop.keys.pubkey
    await scene.zap(address=f"31990:{us}:dvm", event="cc" * 32)
    await scene.credited(MSAT)
    forged = await scene.zap(address=f"31990:{scene.thief.pubkey}:dvm")
    await until(lambda: forged.id in rejections(caplog))
    assert rejections(caplog)[forged.id] == "a: it is not ours"
    assert (await scene.shop.store.balance(scene.buyer.keys.pubkey)).available == MSAT


@pytest.mark.parametrize("what", ["quote", "request"])
async def test_a_zap_on_a_quote_or_its_request_pays_the_job_whoever_zaps(scene: Scene, what: str) -> None:
    job = await scene.buyer.ask("pay me by zap")
    quote = await scene.buyer.quote(job)
    assert quote.msat is not None
    target = quote.event.id if what == "quote" else job
    request = scene.request(scene.thief, event=target, msat=quote.msat, extra=[["anon", ""]])
    await scene.publish(scene.receipt(request, scene.ours(request, quote.msat)))
    await scene.buyer.result(job)
    assert (await scene.buyer.receipt(job)).payments[0].source == "zap"
    assert (await scene.shop.store.balance(scene.thief.pubkey)).available == 0
    await scene.shop.balanced()


async def test_too_little_and_then_too_late_stand_on_the_balance_of_the_jobs_customer(scene: Scene) -> None:
    job = await scene.buyer.ask("too little")
    quote = await scene.buyer.quote(job)
    assert quote.msat is not None
    assert quote.msat > 1000
    request = scene.request(scene.thief, event=quote.event.id, msat=1000)
    await scene.publish(scene.receipt(request, scene.ours(request, 1000)))
    await scene.credited(1000)
    assert await scene.shop.state(job) is JobState.QUOTED
    await scene.buyer.cancel(job)
    await scene.buyer.feedback(job, "error")
    late = scene.request(scene.thief, event=quote.event.id, msat=2000)
    await scene.publish(scene.receipt(late, scene.ours(late, 2000)))
    await scene.credited(3000)


FORGERIES: dict[str, tuple[Callable[[Scene], Event], str]] = {
    "their own invoice, paid by themselves, naming us": (
        lambda s: own_invoice(s),
        "settled in no wallet of ours",
    ),
    "an invoice of another node": (
        lambda s: s.receipt(r := s.request(s.thief), invoice(MSAT, r.to_json())),
        "settled in no wallet of ours",
    ),
    "an invoice that nobody has paid": (
        lambda s: s.receipt(r := s.request(s.thief), s.ours(r, paid=False)),
        "settled in no wallet of ours",
    ),
    "an event that is not ours": (
        lambda s: s.receipt(r := s.request(s.thief, event="cc" * 32), s.ours(r)),
        "e: no quote and no job of ours",
    ),
    "another event in the receipt than in the request": (
        lambda s: s.receipt(r := s.request(s.thief, event="cc" * 32), s.ours(r), swap=[["e", "dd" * 32]]),
        "e: the receipt names another event than the request",
    ),
    "an amount that is not the invoice's": (
        lambda s: s.receipt(r := s.request(s.thief, msat=10 * MSAT), s.ours(r)),
        "request: amount: 500000 msat, the invoice is over 50000",
    ),
    "an unsigned request": (
        lambda s: s.receipt(r := broken(s.request(s.thief), sig="0" * 128), s.ours(r)),
        "request: the signature is not valid",
    ),
    "a request of the victim, altered": (
        lambda s: s.receipt(r := broken(s.request(), pubkey=s.thief.pubkey), s.ours(r)),
        "request: the signature is not valid",
    ),
    "a receipt that the thief has signed": (
        lambda s: zap_receipt(s.thief, r := s.request(s.thief), s.ours(r)),
        "its author is not the provider of our Lightning address",
    ),
    "a receipt that we have signed": (
        lambda s: zap_receipt(s.shop.keys, r := s.request(s.thief), s.ours(r)),
        "its author is not the provider of our Lightning address",
    ),
    "a zap for another, with us in the receipt": (
        lambda s: s.receipt(
            r := zap_request(s.thief, s.thief.pubkey), s.ours(r), drop=["p"], extra=[["p", s.shop.keys.pubkey]]
        ),
        "request: p: it does not zap us",
    ),
    "another's address": (
        lambda s: s.receipt(r := s.request(s.thief, lnurl=encode_lnurl("https://evil.example/x")), s.ours(r)),
        "request: lnurl: it is not our address",
    ),
    "an old invoice": (
        lambda s: s.receipt(
            r := s.request(s.thief), invoice(MSAT, r.to_json(), created_at=int(time.time()) - 15 * 86_400)
        ),
        "bolt11: the invoice was made too long ago, or ahead of our clock",
    ),
    "an anonymous one": (
        lambda s: s.receipt(r := s.request(s.thief, extra=[["anon", ""]]), s.ours(r)),
        "anonymous: it tops up nobody's balance",
    ),
}


def own_invoice(scene: Scene) -> Event:
    request = scene.request(scene.thief)
    return scene.receipt(request, scene.ours(request, wallet="thief"))


@pytest.mark.parametrize("name", FORGERIES)
async def test_money_18_a_forged_zap_credits_nobody_and_the_log_says_why(
    scene: Scene, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    forge, reason = FORGERIES[name]
    forged = await scene.publish(forge(scene))
    await until(lambda: forged.id in rejections(caplog))
    assert rejections(caplog)[forged.id] == reason
    await scene.zap()
    await scene.reached(lambda balance: balance == MSAT, scene.buyer.keys.pubkey)
    assert (await scene.shop.store.balance(scene.thief.pubkey)).available == 0
    assert (await scene.shop.store.accounts())["customers"] == MSAT


async def test_money_18_one_payment_is_credited_once_whatever_is_said_of_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.shop.wallet.faults.duplicate_settlements = 3
    request = scene.request()
    bolt11 = scene.ours(request)
    await scene.publish(scene.receipt(request, bolt11))
    await scene.credited(MSAT)
    same = await scene.publish(scene.receipt(request, bolt11, extra=[["alt", "the same once more"]]))
    stolen = scene.request(scene.thief)
    theirs = await scene.publish(scene.receipt(stolen, bolt11))
    await until(lambda: {same.id, theirs.id} <= set(rejections(caplog)))
    assert {rejections(caplog)[each.id] for each in (same, theirs)} == {
        "another receipt has attributed this payment before"
    }
    await scene.zap(msat=None)
    await scene.credited(2 * MSAT)
    assert (await scene.shop.store.balance(scene.thief.pubkey)).available == 0


async def test_nobody_claims_the_invoice_of_anothers_quote(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    job = await scene.buyer.ask("mine")
    quote = await scene.buyer.quote(job)
    assert quote.bolt11 is not None
    claim = scene.request(scene.thief, msat=None)
    receipt = await scene.publish(scene.receipt(claim, quote.bolt11))
    await until(lambda: receipt.id in rejections(caplog))
    assert rejections(caplog)[receipt.id] == "the payment is known, and is another's"
    scene.shop.node.pay(quote.bolt11)
    await scene.buyer.result(job)
    assert (await scene.shop.store.balance(scene.thief.pubkey)).available == 0


async def test_the_wallets_amount_is_credited_and_a_wallet_that_is_away_is_waited_for(scene: Scene) -> None:
    scene.shop.wallet.faults.error = "unreachable"
    await scene.zap()
    receipts = scene.shop.engine.zap_receipts
    assert receipts is not None
    await until(lambda: receipts._queue)
    scene.shop.wallet.faults.error = None
    await scene.credited(MSAT)


async def test_a_provider_that_is_away_is_asked_again_and_may_take_another_key(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    pages = dict(scene.server.pages)
    scene.server.pages.clear()
    await scene.zap()
    await until(lambda: len(scene.server.asked) > 1)
    scene.server.pages.update(pages)
    await scene.credited(MSAT)
    scene.provider = Keys.generate()
    scene.server.pays("shop", allowsNostr=True, nostrPubkey=scene.provider.pubkey)
    await scene.zap()
    await scene.credited(2 * MSAT)
    assert rejections(caplog) == {}


async def test_what_came_while_the_shop_was_closed_is_credited_and_nothing_twice(scene: Scene) -> None:
    await scene.zap()
    await scene.credited(MSAT)
    await scene.shop.close()
    await scene.zap()
    await scene.shop.open()
    await scene.credited(2 * MSAT)
    await scene.shop.reopen()
    await scene.zap()
    await scene.credited(3 * MSAT)


async def test_receipts_that_the_wallet_does_not_know_are_bounded_per_payer_and_in_all(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZapReceipts, "patience", Patience(pauses=(60.0,), rest=0.01, retry=0.05, rotated=60.0))
    monkeypatch.setattr(zap_receipts, "PER_PAYER", 3)
    monkeypatch.setattr(zap_receipts, "WAITING", 5)
    await scene.shop.reopen()
    receipts = scene.shop.engine.zap_receipts
    assert receipts is not None
    for _ in range(4):
        await scene.publish(own_invoice(scene))
    await until(lambda: rejections(caplog))
    assert list(rejections(caplog).values()) == ["the wallet knows nothing of too many payments of this payer"]
    for _ in range(4):
        scene.thief = Keys.generate()
        await scene.publish(own_invoice(scene))
    await until(lambda: len(rejections(caplog)) == 3)
    assert receipts.waiting == 5
    await scene.zap()
    await scene.credited(MSAT)


async def test_in_a_flood_each_receipt_is_looked_up_once_before_it_makes_room(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZapReceipts, "patience", Patience(pauses=(60.0,), rest=0.01, retry=0.05, rotated=60.0))
    monkeypatch.setattr(zap_receipts, "WAITING", 5)
    await scene.shop.reopen()
    receipts = scene.shop.engine.zap_receipts
    assert receipts is not None
    for _ in range(12):
        receipts.on_receipt(own_invoice(scene))
    request = scene.request()
    receipts.on_receipt(scene.receipt(request, scene.ours(request)))
    await scene.credited(MSAT)
    assert set(rejections(caplog).values()) == {
        "too many receipts wait for the wallet, and it does not know of this payment"
    }


async def test_what_the_ledger_knows_otherwise_is_not_claimed(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def known(_payment: object) -> bool:
        return False

    monkeypatch.setattr(scene.shop.store, "expect", known)  # an invoice that we pay, say
    receipt = await scene.zap()
    await until(lambda: receipt.id in rejections(caplog))
    assert rejections(caplog)[receipt.id] == "the payment is known, and is another's"
    assert (await scene.shop.store.accounts())["customers"] == 0


async def test_a_flood_of_rejections_is_logged_in_part(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zap_receipts, "LOGGED_PER_MINUTE", 3)
    for _ in range(10):
        await scene.publish(zap_receipt(scene.thief, scene.request(scene.thief), invoice(MSAT, "x")))
    await scene.zap()
    await scene.credited(MSAT)
    assert len(rejections(caplog)) == 3
    scene.shop.later = 61
    await scene.publish(zap_receipt(scene.thief, scene.request(scene.thief), invoice(MSAT, "x")))
    await until(lambda: len(rejections(caplog)) == 4)
    more = [r for r in caplog.records if r.getMessage() == "more zap receipts were rejected"]
    assert [r.__dict__["count"] for r in more] == [7]


@pytest.mark.parametrize("trust", ["provider"])
async def test_an_operator_who_trusts_the_provider_is_credited_by_the_receipt_alone(scene: Scene) -> None:
    request = scene.request()
    receipt = await scene.publish(scene.receipt(request, invoice(MSAT, request.to_json())))
    await scene.reached(lambda balance: balance == MSAT, scene.buyer.keys.pubkey)
    again = scene.receipt(request, receipt.tag("bolt11") or "", extra=[["alt", "once more"]])
    await scene.publish(again)
    await scene.shop.reopen()
    second = scene.request(comment="another")
    await scene.publish(scene.receipt(second, invoice(MSAT, second.to_json())))
    await scene.reached(lambda balance: balance == 2 * MSAT, scene.buyer.keys.pubkey)
