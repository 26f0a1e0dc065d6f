"""Paying by zap: topping a balance up, and quotes that have no invoice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from dvm.customer import AccountFailed, Customer, Declined, Due, Paid, Quoted
from dvm.customer.quotes import Unpayable
from dvm.customer.zapping import receiver_of
from dvm.lightning.base import InvoiceState, Payment
from dvm.lightning.lnurl import LnurlClient
from dvm.lightning.paper import PaperWallet
from dvm.lightning.paper_node import PaperNode
from dvm.nip90 import JobRequest
from dvm.nostr import Event, Keys, RelayPool
from tests.customer.conftest import all_of, done, failed
from tests.customer.purse import BRISK
from tests.standins.desk import Desk, ZapServer, desk, zap_server
from tests.standins.provider import Money, Provider, provider, wallet
from tests.standins.relay import TestRelay
from tests.standins.waiting import until

SHOP, STRANGER = Keys.generate(), Keys.generate()


@dataclass
class Town:
    """A provider with a Lightning address, a customer with a wallet, one node between them."""

    desk: Desk
    zaps: ZapServer
    node: PaperNode
    wallet: PaperWallet
    lnurl: LnurlClient
    keys: Keys
    pool: RelayPool

    def customer(self, **more: Any) -> Customer:
        given: dict[str, Any] = {"payer": self.wallet, "options": BRISK, "lnurl": self.lnurl} | more
        return Customer(self.keys, self.pool, **given)

    def credits(self, source: str = "zap", **lies: Any) -> None:
        """From now on, the provider receipts whatever is settled."""

        def hear(invoice: Any) -> None:
            for zap, zapped in self.zaps.zaps:
                if zapped is invoice:
                    self.desk.do(
                        self.desk.receipt(zap.payer, invoice.msat, invoice.payment_hash, source=source, **lies)
                    )

        self.node.on_settled.append(hear)


@pytest.fixture
async def town(relay: TestRelay, pool: RelayPool, keys: Keys) -> AsyncIterator[Town]:
    node, lnurl = PaperNode(), LnurlClient(allow_private=True)
    async with desk(relay.url, keys=SHOP, node=node) as stands, zap_server(stands.pool, SHOP, node) as zaps:
        yield Town(stands, zaps, node, await wallet(node), lnurl, keys, pool)
    await lnurl.close()


async def refused(work: Any) -> AccountFailed:
    with pytest.raises(AccountFailed) as failure:
        await work
    return failure.value


# --- topping up ------------------------------------------------------------------------------------------


async def test_a_zap_of_the_profile_tops_the_balance_up(town: Town, relay: TestRelay) -> None:
    town.credits()
    topped_up = await town.customer().top_up(SHOP.npub, 21_000, text="for later")
    assert (topped_up.msat, topped_up.sure) == (21_000, True)
    assert topped_up.receipt is not None
    assert (topped_up.receipt.problems, topped_up.receipt.receipt.after) == ((), 21_000)
    ((zap, invoice),) = town.zaps.zaps  # which was checked as a provider checks it
    assert invoice.payment_hash == topped_up.payment_hash
    assert (zap.payer, zap.msat, zap.comment, zap.event_id) == (town.keys.pubkey, 21_000, "for later", None)
    assert zap.relays == (relay.url,) or zap.relays == (relay.url + "/",)


async def test_without_a_wallet_somebody_is_shown_the_invoice(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody knows by which wallet it will be paid, so it is an invoice for real money that is asked for.
    monkeypatch.setattr("dvm.customer.client.REAL", "regtest")
    town.credits()
    town.node.open_wallet("somebody", 10**6)
    shown: list[Quoted] = []

    def show(quote: Quoted) -> None:
        shown.append(quote)
        town.node.pay(quote.bolt11, payer="somebody")

    topped_up = await town.customer(payer=None).top_up(SHOP.npub, 21_000, show=show)
    assert topped_up.receipt is not None
    assert (topped_up.receipt.problems, [quote.msat for quote in shown]) == ((), [21_000])


async def test_an_invoice_that_nobody_pays_is_told_as_unpaid(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvm.customer.client.REAL", "regtest")
    customer = town.customer(payer=None, options=replace(BRISK, by_hand=0.3, receipt=0.3))
    assert (await refused(customer.top_up(SHOP.npub, 21_000, show=lambda _: None))).code == "unpaid"


async def test_an_invoice_for_play_money_is_not_shown_to_anybody(town: Town) -> None:
    shown: list[Quoted] = []
    failure = await refused(town.customer(payer=None).top_up(SHOP.npub, 21_000, show=shown.append))
    assert (failure.code, shown) == ("unpayable", [])
    assert "regtest" in failure.text


async def test_a_receipt_that_credits_too_little_is_found(town: Town) -> None:
    def hear(invoice: Any) -> None:
        town.desk.do(town.desk.receipt(town.keys.pubkey, 20_000, invoice.payment_hash, source="zap"))

    town.node.on_settled.append(hear)
    topped_up = await town.customer().top_up(SHOP.npub, 21_000)
    assert topped_up.receipt is not None
    assert topped_up.receipt.problems == ("it credits 20000 msat for a payment of 21000",)


async def test_a_wallet_that_refuses_has_paid_nothing_and_waits_for_no_receipt(town: Town) -> None:
    town.node.open_wallet("poor", 5)
    poor = PaperWallet(town.node, "poor")
    await poor.start()
    failure = await refused(town.customer(payer=poor).top_up(SHOP.npub, 21_000))
    assert failure.code == "payment-failed"


class Unsure(PaperWallet):
    """Never knows what became of a payment."""

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        return Payment(InvoiceState.UNKNOWN)


async def test_a_payment_of_which_nobody_knows_is_told_as_such(town: Town) -> None:
    unsure = Unsure(town.node, "customer")
    await unsure.start()
    options = replace(BRISK, money=0.5)
    topped_up = await town.customer(payer=unsure, options=options).top_up(SHOP.npub, 21_000)
    assert (topped_up.receipt, topped_up.sure) == (None, False)


async def test_a_payment_that_is_not_receipted_in_time_is_paid(town: Town) -> None:
    topped_up = await town.customer(options=replace(BRISK, money=0.7)).top_up(SHOP.npub, 21_000)
    assert (topped_up.receipt, topped_up.sure) == (None, True)
    assert town.node.balance(SHOP.pubkey) == 21_000


async def test_an_invoice_over_another_amount_is_not_paid(town: Town) -> None:
    dearer = town.node.make(SHOP.pubkey, 99_000, description="more", expiry=600)
    town.zaps.answer = lambda answer: {**answer, "pr": dearer.bolt11}
    failure = await refused(town.customer().top_up(SHOP.npub, 21_000))
    assert (failure.code, town.node.balance(SHOP.pubkey)) == ("unpayable", 0)
    assert "99000" in failure.text


async def test_an_address_that_makes_no_zap_receipts_is_not_paid(town: Town) -> None:
    town.zaps.params = {"allowsNostr": False}
    failure = await refused(town.customer().top_up(SHOP.npub, 21_000))
    assert failure.code == "unpayable"
    assert "zap receipts" in failure.text


async def test_a_provider_without_an_address_cannot_be_topped_up(town: Town) -> None:
    failure = await refused(town.customer().top_up(STRANGER.npub, 21_000))
    assert (failure.code, failure.text) == ("unpayable", "its profile has no Lightning address")


@pytest.mark.parametrize("content", ["", "[]", '{"lud16": 5}', '{"lud16": "http://127.0.0.1/x"}', '"' + "x" * 70_000])
async def test_a_profile_that_is_none_has_no_address(town: Town, content: str) -> None:
    stranger = Keys.generate()
    await town.desk.pool.publish(stranger.sign(0, [], content))
    failure = await refused(town.customer().top_up(stranger.npub, 21_000))
    assert (failure.code, failure.text) == ("unpayable", "its profile has no Lightning address")


async def test_an_address_of_this_machine_is_refused_unless_that_is_allowed(town: Town) -> None:
    customer = town.customer(lnurl=None)
    failure = await refused(customer.top_up(SHOP.npub, 21_000))
    await customer.close()
    assert failure.code == "unpayable"
    assert town.zaps.http.calls.total() == 0


@pytest.mark.parametrize("msat", [0, -1_000, 1_500])
async def test_only_whole_sats_are_zapped(town: Town, msat: int) -> None:
    with pytest.raises(ValueError, match="whole number of sats"):
        await town.customer().top_up(SHOP.npub, msat)


async def test_without_a_wallet_and_without_eyes_nothing_is_asked(town: Town) -> None:
    with pytest.raises(ValueError, match="somebody must be shown"):
        await town.customer(payer=None).top_up(SHOP.npub, 21_000)


# --- jobs ------------------------------------------------------------------------------------------------


async def zap_sale(p: Provider, job: JobRequest, zaps: ZapServer, msat: int = 5_000) -> None:
    """An honest sale to a zap of the quote."""
    quote = await p.say(p.answers(job).payment_required(msat, None, "zap me", p.now(), zap=""))
    await until(lambda: zaps.zaps)
    zap, invoice = zaps.zaps[0]
    assert (zap.event_id, zap.payer) == (quote.id, job.customer)
    await p.paid(invoice)
    paid = [Money("zap", invoice.payment_hash, invoice.msat)]
    await p.receipt(job, await p.result(job), None, place={"payments": paid})


async def test_a_quote_without_an_invoice_is_paid_by_zapping_it(town: Town, relay: TestRelay) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await zap_sale(p, job, town.zaps)

    async with provider(relay.url, act, node=town.node, keys=SHOP):
        updates = await all_of(town.customer(), provider=SHOP.npub)
        last = done(updates)
        assert (last.text, last.verified, last.msat) == ("the answer", True, 5_000)
        assert last.payment_hash == town.zaps.invoices[0].payment_hash
        kinds = [type(update) for update in updates]
        assert kinds.index(Quoted) < kinds.index(Due) < kinds.index(Paid)
        assert kinds.count(Quoted) == 1
        assert next(u for u in updates if isinstance(u, Quoted)).text == "zap me"


async def test_a_quote_above_the_limit_is_not_even_asked_about(town: Town, relay: TestRelay) -> None:
    async def act(p: Provider, job: JobRequest) -> None:
        await p.say(p.answers(job).payment_required(51_000, None, "zap me", p.now(), zap=""))

    async with provider(relay.url, act, node=town.node, keys=SHOP):
        assert failed(await all_of(town.customer(), provider=SHOP.npub)).code == "too-dear"
        assert town.zaps.http.calls.total() == 0


async def test_a_zap_that_gets_no_invoice_is_a_quote_that_cannot_be_paid(town: Town, relay: TestRelay) -> None:
    town.zaps.answer = lambda _: {"status": "ERROR", "reason": "no liquidity"}

    async def act(p: Provider, job: JobRequest) -> None:
        await p.say(p.answers(job).payment_required(5_000, None, "zap me", p.now(), zap=""))

    async with provider(relay.url, act, node=town.node, keys=SHOP):
        updates = await all_of(town.customer(), provider=SHOP.npub)
        assert failed(updates).code == "unpayable"
        assert [u.code for u in updates if isinstance(u, Declined)] == ["zap-failed"]
        assert "no liquidity" in failed(updates).text


async def test_a_cheaper_invoice_is_paid_rather_than_a_zap(town: Town, relay: TestRelay) -> None:
    """A broadcast: one provider wants a zap, another has an invoice over less."""

    async def zaps(p: Provider, job: JobRequest) -> None:
        await p.say(p.answers(job).payment_required(5_000, None, "zap me", p.now(), zap=""))

    async def sells(p: Provider, job: JobRequest) -> None:
        await until(lambda: town.zaps.zaps)
        await p.sell(job, 4_000)

    async with (
        provider(relay.url, zaps, node=town.node, keys=SHOP),
        provider(relay.url, sells, node=town.node) as other,
    ):
        last = done(await all_of(town.customer(options=replace(BRISK, window=1.0))))
        assert (last.provider, last.msat) == (other.keys.pubkey, 4_000)
        assert town.node.balance(SHOP.pubkey) == 0


def zapped(*tags: list[str]) -> Event:
    return SHOP.sign(7000, [list(tag) for tag in tags], "")


@pytest.mark.parametrize(
    ("tags", "receiver"),
    [
        ([], (SHOP.pubkey, "")),
        ([["zap", STRANGER.pubkey]], (STRANGER.pubkey, "")),
        ([["zap", STRANGER.pubkey, "wss://r.example", "1"]], (STRANGER.pubkey, "wss://r.example")),
        ([["zap", STRANGER.pubkey, "", "5"], ["zap", SHOP.pubkey, "", "0"]], (STRANGER.pubkey, "")),
        ([["zap", STRANGER.pubkey, "", "5"], ["zap", SHOP.pubkey]], (STRANGER.pubkey, "")),
    ],
)
def test_who_is_zapped_is_whom_the_event_names(tags: list[list[str]], receiver: tuple[str, str]) -> None:
    assert receiver_of(zapped(*tags)) == receiver


@pytest.mark.parametrize(
    "tags",
    [
        [["zap", STRANGER.pubkey], ["zap", SHOP.pubkey]],
        [["zap", STRANGER.pubkey, "", "1"], ["zap", SHOP.pubkey, "", "1"]],
        [["zap", STRANGER.pubkey, "", "0"]],
        [["zap", STRANGER.pubkey, "", "-1"]],
        [["zap", STRANGER.pubkey, "", "much"]],
        [["zap", "nobody"]],
        [["zap"]],
    ],
)
def test_a_job_is_paid_by_one_payment_to_one_receiver(tags: list[list[str]]) -> None:
    with pytest.raises(Unpayable):
        receiver_of(zapped(*tags))
