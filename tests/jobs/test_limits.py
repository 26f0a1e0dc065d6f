"""Bounds on quotes and jobs: for each customer, for all, and never beyond what the wallet can receive."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from throttled.store import MemoryStore

from dvm.jobs.admission import first_refusal, jobs_per_minute_total, open_quotes, open_quotes_total, standard_policies
from dvm.jobs.shop import ZapSettings
from dvm.ledger import Job, JobState
from dvm.nip90 import request_draft
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.standins.customer import KIND, Customer, customer
from tests.standins.workshop import Workshop, workshop

LIMIT = [("max_tokens", "60")]


class Empty:
    """A book without a quote."""

    def open_quotes(self, _customer: str) -> int:
        return 0

    def open_quotes_total(self) -> int:
        return 0

    def deleted_quotes(self) -> int:
        return 0


def request(keys: Keys | None = None) -> Event:
    keys = keys or Keys.generate()
    return request_draft(KIND, ["a"], keys=keys).sign(keys, 1_700_000_000)


def test_keys_cost_nothing_so_one_bucket_is_for_all() -> None:
    policy = jobs_per_minute_total(3)
    said = [policy(request(), Empty()) for _ in range(5)]
    assert [each and each.code for each in said] == [None, None, None, "busy", "busy"]


def test_daemons_that_share_a_store_share_the_bucket() -> None:
    store = MemoryStore()
    one, other = jobs_per_minute_total(2, store), jobs_per_minute_total(2, store)
    assert one(request(), Empty()) is None
    assert other(request(), Empty()) is None
    assert one(request(), Empty()) is not None
    assert other(request(), Empty()) is not None


def test_who_is_refused_for_another_reason_takes_no_place_of_all() -> None:
    greedy = Keys.generate()
    policies = standard_policies(per_minute=1, quotes=0, quotes_total=0, per_minute_total=2)
    codes = [first_refusal(policies, request(greedy), Empty()) for _ in range(4)]
    assert [each and each.code for each in codes] == [None, *["rate-limited"] * 3]
    assert first_refusal(policies, request(), Empty()) is None


async def spent_on(shop: Workshop, buyer: Customer) -> None:
    """A first job that leaves change on the customer's balance."""
    job = await buyer.ask("first")
    await shop.pay(buyer, job)
    await buyer.receipt(job)


async def test_a_full_book_turns_away_strangers_and_nobody_who_pays_from_the_balance(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    async with workshop(relay, data=tmp_path, policies=[open_quotes(5), open_quotes_total(1)]) as shop:
        await spent_on(shop, buyer)
        async with customer(relay) as stranger:
            await stranger.quote(await stranger.ask("takes the one place", providers=[shop.keys.pubkey]))
        covered = await buyer.ask("small", params=LIMIT, providers=[shop.keys.pubkey])
        assert (await buyer.result(covered)).content == "well"
        dear = await buyer.ask("dear", params=[("max_tokens", "1000")], providers=[shop.keys.pubkey])
        said = await buyer.feedback(dear, "error")
        assert said.text.startswith("busy:")
        assert await shop.state(dear) is JobState.REJECTED


async def test_no_invoice_is_made_beyond_what_the_wallet_can_receive(
    relay: str, tmp_path: Path, buyer: Customer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with workshop(relay, data=tmp_path) as shop:
        room = 100_000
        monkeypatch.setattr(shop.engine._shop, "receivable", lambda: room)
        job = await buyer.ask("too dear for the channel", providers=[shop.keys.pubkey])
        said = await buyer.feedback(job, "error")
        assert said.text.startswith("payment-unavailable:")
        assert not list(shop.node.incoming("shop"))
        assert "no inbound liquidity" in caplog.text or any(
            "inbound" in str(record.__dict__.get("error")) for record in caplog.records
        )
        room = 10_000_000
        job = await buyer.ask("after somebody has opened a channel", providers=[shop.keys.pubkey])
        await buyer.quote(job)


async def test_a_quote_may_have_no_invoice_and_ends_with_its_time(relay: str, tmp_path: Path, buyer: Customer) -> None:
    zaps = ZapSettings("shop@pay.example.com", own=True, quote="zap")
    async with workshop(relay, data=tmp_path, zaps=zaps) as shop:
        job = await buyer.ask("by zap only")
        quote = await buyer.quote(job)
        assert quote.bolt11 is None
        assert quote.msat
        assert ["zap", shop.keys.pubkey] in [list(tag[:2]) for tag in quote.tags]
        assert await shop.store.watched(shop.shop.now()) == []
        shop.later = shop.settings.quote_seconds + 1
        await shop.engine.settlements.reconcile()
        assert await shop.state(job) is JobState.EXPIRED
        assert shop.engine.quotes.open_quotes_total() == 0


async def test_a_deletion_takes_no_more_places_than_a_request_whatever_it_names(
    relay: str, tmp_path: Path, buyer: Customer
) -> None:
    async with workshop(relay, data=tmp_path, policies=[jobs_per_minute_total(2)]) as shop, customer(relay) as stranger:
        unknown = [f"{n:064x}" for n in range(20)]
        tags = [["k", str(KIND)], *(["e", each] for each in unknown)]
        await shop.engine.unpaid.delete(stranger.keys.sign(5, tags, "", int(time.time())))
        await buyer.quote(await buyer.ask("is there a place?", providers=[shop.keys.pubkey]))
        known = [await shop.store.open_job(new(each, stranger)) for each in unknown]
        assert {each.known for each in known} == {JobState.CANCELLED}


async def test_what_cannot_be_read_is_deleted_without_a_word(shop: Workshop, buyer: Customer) -> None:
    await shop.store.open_job(new("a" * 64, buyer, buyer.keys.sign(5050, [["i", "x", "nonsense"]], "", 0)))
    await shop.engine.unpaid.delete(buyer.keys.sign(5, [["e", "a" * 64]], "", int(time.time())))
    assert await shop.state("a" * 64) is JobState.CANCELLED
    assert await shop.store.answers("a" * 64) == []


def new(job_id: str, of: Customer, request: Event | None = None) -> Job:
    return Job(job_id, of.keys.pubkey, KIND, JobState.RECEIVED, request.to_json() if request else "", 0, 0)
