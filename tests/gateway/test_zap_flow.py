"""Zaps by way of our own Lightning address, from the endpoint to the receipts, over real HTTP and a real relay."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from dvm.gateway import Gateway, Site, make_app
from dvm.jobs.payments import zaps as zaps_module
from dvm.jobs.shop import ZapSettings
from dvm.jobs.watching.watchdog import Watchdog
from dvm.ledger import JobState, StoreError
from dvm.ledger.audit import audit
from dvm.ledger.sqlite import read
from dvm.lightning.bolt11 import decode
from dvm.lightning.lnurl import LnurlClient, LnurlError, PayParams
from dvm.lightning.lnurl_address import encode_lnurl
from dvm.lightning.zaps import ZAP_RECEIPT, check_receipt
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from tests.standins.customer import Customer, customer
from tests.standins.ldk import program
from tests.standins.relay import free_port, local_relay
from tests.standins.waiting import until
from tests.standins.workshop import Workshop, workshop
from tests.standins.zaps import NETWORK, zap_request

MSAT = 42_000


class Scene:
    """A shop with its own address, a customer, and somebody's wallet that pays."""

    def __init__(self, shop: Workshop, buyer: Customer, address: str, relay: str) -> None:
        self.shop, self.buyer, self.address, self.relay = shop, buyer, address, relay
        self.lnurl = LnurlClient(allow_private=True)
        self.receipts: list[Event] = []
        self.params: PayParams

    async def start(self) -> None:
        ours = Filter(kinds=[ZAP_RECEIPT], tags={"p": [self.shop.keys.pubkey]})
        self.buyer.pool.subscribe(ours, lambda event, _: self.receipts.append(event))
        self.params = await self.lnurl.fetch(self.address)

    async def ask(self, request: Event, msat: int = MSAT) -> str:
        return await self.lnurl.invoice(self.params, msat, network=NETWORK, zap_request=request.to_json())

    def request(self, payer: Keys | None = None, **fields: Any) -> Event:
        fields = {"msat": MSAT, "relays": [self.relay], "lnurl": encode_lnurl(self.params.url), **fields}
        return zap_request(payer or self.buyer.keys, self.shop.keys.pubkey, **fields)

    async def receipt(self, request: Event) -> Event:
        """Ours for that request, waited for and checked as strangers would."""
        await until(lambda: any(each.tag("description") == request.to_json() for each in self.receipts))
        found = next(each for each in self.receipts if each.tag("description") == request.to_json())
        us = self.shop.keys.pubkey
        check_receipt(found, recipient=us, provider=us, lnurls=(self.address,), network=NETWORK, own_server=True)
        assert "preimage" not in [tag[0] for tag in found.tags]
        return found

    async def balance(self, pubkey: str = "") -> int:
        return (await self.shop.store.balance(pubkey or self.buyer.keys.pubkey)).available

    async def refused(self, request: Event, why: str, msat: int = MSAT) -> None:
        with pytest.raises(LnurlError, match=why):
            await self.ask(request, msat)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    port = free_port()
    address = f"shop@127.0.0.1:{port}"
    zaps = ZapSettings(address, own=True, max_msat=10_000_000)
    async with local_relay() as relay, customer(relay) as buyer, workshop(relay, data=tmp_path, zaps=zaps) as shop:
        site = Site(f"http://127.0.0.1:{port}", shop.keys.pubkey, "shop", (relay,))
        gateway = Gateway(make_app(site, desk=shop.engine.zaps), f"127.0.0.1:{port}", shutdown_seconds=1)
        await gateway.start()
        each = Scene(shop, buyer, address, relay)
        await each.start()
        try:
            yield each
        finally:
            await each.lnurl.close()
            await gateway.close()


async def test_a_zap_on_the_profile_tops_up_and_is_receipted_twice(scene: Scene) -> None:
    request = scene.request(comment="for later")
    bolt11 = await scene.ask(request)
    invoice = decode(bolt11)
    assert (invoice.msat, invoice.description_hash) == (MSAT, sha256(request.to_json().encode()).hexdigest())
    assert await scene.balance() == 0
    scene.shop.node.pay(bolt11)
    receipt = await scene.receipt(request)
    assert receipt.tag("P") == scene.buyer.keys.pubkey
    said = await scene.buyer.receipt("")
    assert [(p.source, p.payment_hash, p.msat) for p in said.payments] == [("zap", invoice.payment_hash, MSAT)]
    assert (said.before, said.after) == (0, MSAT)
    assert await scene.balance() == MSAT
    await scene.shop.balanced()


async def test_a_quote_names_us_as_its_zap_target_and_a_zap_on_it_pays_the_job(scene: Scene) -> None:
    job = await scene.buyer.ask("pay me by zap")
    quote = await scene.buyer.quote(job)
    assert quote.msat is not None
    assert quote.event.all("zap") == [["zap", scene.shop.keys.pubkey, scene.relay, "1"]]
    payer = Keys.generate()
    request = scene.request(payer, event=quote.event.id, msat=quote.msat, extra=[["anon", ""]])
    scene.shop.node.pay(await scene.ask(request, quote.msat))
    await scene.buyer.result(job)
    assert (await scene.receipt(request)).tag("e") == quote.event.id
    assert (await scene.buyer.receipt(job)).payments[0].source == "zap"
    assert await scene.balance(payer.pubkey) == 0
    await scene.shop.balanced()


async def test_what_is_paid_twice_by_invoice_and_by_zap_stands_on_the_customers_balance(scene: Scene) -> None:
    job = await scene.buyer.ask("paid twice")
    quote = await scene.buyer.quote(job)
    assert quote.msat is not None
    assert quote.bolt11 is not None
    request = scene.request(Keys.generate(), event=job, msat=quote.msat)
    zap = await scene.ask(request, quote.msat)
    scene.shop.node.pay(quote.bolt11)
    await scene.buyer.result(job)
    before = await scene.balance()
    scene.shop.node.pay(zap)
    await scene.receipt(request)
    assert await scene.balance() == before + quote.msat


async def test_two_zaps_on_one_job_are_both_receipted(scene: Scene) -> None:
    job = await scene.buyer.ask("zapped twice")
    quote = await scene.buyer.quote(job)
    requests = [scene.request(Keys.generate(), event=quote.event.id, msat=1000, comment=str(n)) for n in range(2)]
    for request in requests:
        scene.shop.node.pay(await scene.ask(request, 1000))
        await scene.receipt(request)
    assert await scene.balance() == 2000
    assert await scene.shop.state(job) is JobState.QUOTED


async def test_a_zap_that_is_paid_while_the_shop_is_closed_is_credited_and_receipted_later(scene: Scene) -> None:
    request = scene.request()
    bolt11 = await scene.ask(request)
    await scene.shop.close()
    scene.shop.node.pay(bolt11)
    await scene.shop.open()
    await scene.receipt(request)
    assert await scene.balance() == MSAT


async def test_an_anonymous_zap_and_a_plain_payment_are_gifts(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, zaps_module.__name__)
    request = scene.request(extra=[["anon", ""]])
    anonymous = await scene.ask(request)
    gift = await scene.lnurl.invoice(scene.params, MSAT, "thank\nyou", network=NETWORK)
    assert decode(gift).description_hash == sha256(scene.params.metadata.encode()).hexdigest()
    for bolt11 in (anonymous, gift):
        scene.shop.node.pay(bolt11)
    assert [r.__dict__["comment"] for r in caplog.records if "comment" in r.__dict__] == ["thank you"]
    assert (await scene.receipt(request)).tag("bolt11") == anonymous  # whoever zapped wants to see it done
    await until(lambda: _revenue_is(scene, 2 * MSAT))
    accounts = await scene.shop.balanced()
    assert accounts["customers"] == 0
    assert scene.buyer.chain() == []
    assert read(scene.shop._data, audit) == []


async def _revenue_is(scene: Scene, msat: int) -> bool:
    return (await scene.shop.store.accounts())["revenue"] == msat


async def test_what_is_no_zap_for_us_gets_no_invoice(scene: Scene) -> None:
    us = scene.shop.keys.pubkey
    await scene.refused(scene.request(event="cc" * 32), "e: no quote and no job of ours")
    await scene.refused(scene.request(msat=MSAT + 1000), "amount")
    await scene.refused(scene.request(lnurl=encode_lnurl("https://evil.example/x")), "lnurl")
    await scene.refused(zap_request(scene.buyer.keys, "ab" * 32), "p: it does not zap us")
    await scene.refused(scene.request(extra=[["P", scene.buyer.keys.pubkey]]), "P: it expects another signer")
    await scene.refused(scene.request(msat=1500), "whole sats", 1500)
    await scene.refused(scene.request(address=f"30023:{'ab' * 32}:post"), "a: it is not ours")
    assert await scene.shop.store.watched(scene.shop.shop.now()) == []
    assert await scene.ask(scene.request(address=f"31990:{us}:dvm", event="cc" * 32))
    assert await scene.ask(scene.request(address=f"0:{us}:", event="cc" * 32))


async def test_amounts_and_numbers_of_invoices_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async with httpx.AsyncClient() as client:

        async def ask(msat: int) -> dict[str, Any]:
            return dict((await client.get(scene.params.callback, params={"amount": msat})).json())

        for msat in (999, 10_001_000):
            assert "amount: 1000 to 10000000 msat" in (await ask(msat))["reason"]
        scene.shop.shop.receivable = lambda: 5_000
        assert (await ask(6_000))["reason"] == "amount: more than can be received at the moment"
        assert "pr" in await ask(5_000)
        desk = scene.shop.engine.zaps
        assert desk is not None
        monkeypatch.setattr(desk, "_max_open", 2)
        assert "pr" in await ask(5_000)
        assert "too many invoices" in (await ask(5_000))["reason"]
        scene.shop.later = zaps_module.EXPIRY_SECONDS + 1
        assert "pr" in await ask(5_000)


async def test_a_wallet_that_fails_is_told_without_its_words(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.shop.wallet.faults.error = "unauthorized"
    await scene.refused(scene.request(), "the wallet makes no invoice at the moment")
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == [
        "the wallet makes no invoices for our Lightning address: see `dvm doctor`"
    ]
    scene.shop.wallet.faults.error = None
    assert await scene.ask(scene.request())


@pytest.mark.parametrize(("method", "outcome"), [("job", None), ("expect", None), ("expect", False)])
async def test_no_invoice_is_given_out_whose_payment_would_not_be_credited(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, method: str, outcome: bool | None
) -> None:
    async def fail(*_: object) -> bool:
        if outcome is None:
            raise StoreError("the disk is full: /var/lib/dvm")
        return outcome

    monkeypatch.setattr(scene.shop.store, method, fail)
    with pytest.raises(LnurlError, match="at the moment") as caught:
        await scene.ask(scene.request(event="cc" * 32 if method == "job" else None))
    assert "disk" not in str(caught.value)


async def test_our_receipt_reaches_the_relays_that_the_zap_asks_for(scene: Scene) -> None:
    async with local_relay() as other, customer(other) as reader:
        heard: list[Event] = []
        reader.pool.subscribe(Filter(kinds=[ZAP_RECEIPT]), lambda event, _: heard.append(event))
        request = scene.request(relays=[other])
        scene.shop.node.pay(await scene.ask(request))
        await until(lambda: heard)
        assert heard[0].id == (await scene.receipt(request)).id


async def _nostr_tools(*arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        "node", str(program().parent / "zap.mjs"), *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return dict(json.loads(out))


@pytest.mark.node
@pytest.mark.parametrize("about", ["profile", "quote"])
async def test_nostr_tools_zaps_us_and_would_have_made_the_same_receipt(scene: Scene, about: str) -> None:
    event = []
    if about == "quote":
        quote = await scene.buyer.quote(await scene.buyer.ask("pay me by zap"))
        event = [quote.event.to_json()]
    told = await _nostr_tools(
        "ask", scene.address, scene.shop.keys.pubkey, scene.relay, str(MSAT), "from nostr-tools + 100 % ä", *event
    )
    assert told["error"] is None
    bolt11 = told["answer"]["pr"]
    paid = scene.shop.node.pay(bolt11)
    request = Event.from_json(told["request"])
    await until(lambda: scene.receipts)
    receipt = scene.receipts[0]
    told = await _nostr_tools("check", receipt.to_json(), bolt11, str(paid.settled_at))
    assert told["verified"]
    assert told["error"] is None
    assert sorted(told["expected"]["tags"]) == sorted(tag for tag in receipt.tags if tag[0] != "k")
    assert {name: told["expected"][name] for name in ("kind", "content", "created_at")} == {
        "kind": receipt.kind,
        "content": receipt.content,
        "created_at": receipt.created_at,
    }
    payer = request.pubkey if about == "profile" else scene.buyer.keys.pubkey
    if about == "profile":
        assert await scene.balance(payer) == MSAT


async def test_a_shop_that_owes_more_than_it_has_takes_gifts_and_no_more_of_what_it_would_owe(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watchdog, "selling", False)  # whatever it finds meanwhile
    await scene.refused(scene.request(), "nothing is sold at the moment")
    assert scene.shop.engine.zaps is not None
    assert decode(await scene.shop.engine.zaps.invoice(MSAT)).msat == MSAT
    monkeypatch.undo()
    assert decode(await scene.ask(scene.request())).msat == MSAT
