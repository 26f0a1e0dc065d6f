"""Many open invoices over Nostr Wallet Connect: all that has settled is found, in few requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from dvm.lightning import paper_methods
from dvm.lightning.nwc_client import Options
from dvm.lightning.paper_methods import METHODS, transaction
from tests.lightning.connected import QUICK, Body, Setup, made, result, settle, setup
from tests.lightning.contract import PENDING, SETTLED, UNKNOWN
from tests.lightning.hold_contract import HELD, secret


async def test_28_a_thousand_unpaid_quotes_cost_a_handful_of_requests() -> None:
    """money.md 28: checking every unpaid invoice one by one exhausts the wallet's rate limit."""
    async with setup(options=Options(timeout=10.0)) as ready:
        since = int(time.time())
        quotes = [ready.node.make("shop", 1_000, expiry=600).payment_hash for _ in range(1_000)]
        paid = quotes[::25]
        for payment_hash in paid:
            settle(ready, payment_hash)
        before = ready.shop.counters.requests
        found = await ready.wallet.lookup_many(quotes, since)
        assert {h for h in quotes if found[h].state is SETTLED} == set(paid)
        assert {found[h].state for h in quotes} == {SETTLED, PENDING}
        assert ready.shop.counters.requests - before <= 5


async def test_a_listing_longer_than_its_budget_goes_on_with_the_next_sweep() -> None:
    async with setup(options=Options(timeout=10.0, page=5, pages=2, lookups=0)) as ready:
        since = int(time.time())
        quotes = [ready.node.make("shop", 1_000, expiry=600).payment_hash for _ in range(31)]
        for payment_hash in quotes:
            settle(ready, payment_hash)
        found: set[str] = set()
        for _ in range(8):
            sweep = await ready.wallet.lookup_many([h for h in quotes if h not in found], since)
            assert {lookup.state for lookup in sweep.values()} <= {SETTLED, UNKNOWN}  # not "unpaid"
            found |= {h for h, lookup in sweep.items() if lookup.state is SETTLED}
            if len(found) == 31:
                break
        assert found == set(quotes)


async def test_without_a_listing_a_few_are_looked_up_each_time_in_turn() -> None:
    async with setup(methods=["get_info", "make_invoice", "lookup_invoice"]) as ready:
        quotes = [await made(ready) for _ in range(12)]
        settle(ready, quotes[11])
        counts = ready.shop.counters.by_method
        known: set[str] = set()
        for sweep in range(1, 4):
            found = await ready.wallet.lookup_many(quotes, 0)
            known |= {h for h, lookup in found.items() if lookup.state is not UNKNOWN}
            assert counts["lookup_invoice"] == QUICK.lookups * sweep
        assert known == set(quotes)
        assert "list_transactions" not in counts


async def test_a_wallet_that_ignores_the_offset_is_not_taken_for_complete() -> None:
    async with setup(options=Options(timeout=10.0, page=5, lookups=3)) as ready:
        since = int(time.time())
        old = [ready.node.make("shop", 1_000, expiry=600).payment_hash for _ in range(2)]
        new = [ready.node.make("shop", 1_000, expiry=600).payment_hash for _ in range(8)]
        for payment_hash in [*old, *new]:
            settle(ready, payment_hash)
        ready.shop.faults.tamper = result(lambda r: {"transactions": first} if "transactions" in r else r)
        first = (await ready.wallet._client.request("get_balance", {})) and [
            _shown(ready, payment_hash) for payment_hash in reversed(new[3:])
        ]
        found = await ready.wallet.lookup_many([*old, *new], since)
        assert PENDING not in {lookup.state for lookup in found.values()}
        # Not page after page of the same: two of what is settled, two of what may wait.
        assert ready.shop.counters.by_method["list_transactions"] == 4
        for _ in range(3):
            again = await ready.wallet.lookup_many([h for h in old if found[h].state is UNKNOWN], since)
            found |= again
        assert all(found[h].state is SETTLED for h in old)


async def test_what_a_listing_says_unreadably_is_unknown_not_unpaid() -> None:
    async with setup(options=Options(timeout=10.0, lookups=0)) as ready:
        paid, unpaid = await made(ready), await made(ready)
        settle(ready, paid)
        whose = {"payment_hash": "?"}  # it might be either's
        for spoil in (whose, {"preimage": "ab" * 32}, {"state": "perhaps"}, {"amount": None}, whose):
            ready.shop.faults.tamper = result(
                lambda r, spoil=spoil: r | {"transactions": [t | spoil for t in r["transactions"]]}
            )
            found = await ready.wallet.lookup_many([paid, unpaid], int(time.time()) - 5)
            assert [found[h].state for h in (paid, unpaid)] == [UNKNOWN, UNKNOWN if spoil is whose else PENDING]
        ready.shop.faults.tamper = None
        found = await ready.wallet.lookup_many([paid, unpaid], int(time.time()) - 5)
        assert [found[h].state for h in (paid, unpaid)] == [SETTLED, PENDING]


def _shown(ready: Setup, payment_hash: str) -> Body:
    invoice = ready.node.get(payment_hash)
    assert invoice is not None
    return transaction(invoice, "incoming")


# --- what it costs -------------------------------------------------------------------------------------

ORDINARY = [method for method in METHODS if "hold" not in method]


def quoted(ready: Setup, number: int) -> list[str]:
    return [ready.node.make("shop", 1_000, expiry=600).payment_hash for _ in range(number)]


async def cost(number: int, **connection: object) -> list[int]:
    """The requests of each of six sweeps over that many open quotes; one, the oldest that is left, is paid
    before each."""
    async with setup(options=Options(timeout=10.0), **connection) as ready:
        since = int(time.time())
        quotes = quoted(ready, number)
        counted: list[int] = []
        for paid in quotes[:6]:
            settle(ready, paid)
            before = ready.shop.counters.requests
            found = await ready.wallet.lookup_many(quotes, since)
            counted.append(ready.shop.counters.requests - before)
            assert found[paid].state is SETTLED
            assert found[quotes[-1]].state is PENDING
        return counted


async def test_28_two_thousand_open_quotes_cost_as_many_requests_as_ten() -> None:
    assert await cost(10, methods=ORDINARY) == await cost(2_000, methods=ORDINARY) == [1] * 6


async def test_28_where_quotes_may_be_held_a_few_pages_more_are_read_and_no_more() -> None:
    most = 1 + Options().held_pages
    assert max(await cost(10)) <= most
    assert max(await cost(2_000)) <= most


async def test_what_has_been_listed_is_not_listed_again() -> None:
    async with setup(options=Options(timeout=10.0), methods=ORDINARY) as ready:
        since = int(time.time())
        quotes = quoted(ready, 400)
        late, unpaid, *sold = quotes
        for payment_hash in sold:
            settle(ready, payment_hash)
        counts = ready.shop.counters.by_method
        sweeps: list[int] = []
        for step in range(4):
            before = counts.get("list_transactions", 0)
            if step == 2:
                settle(ready, late)  # made first, so it is the last of the list
            found = await ready.wallet.lookup_many([late, unpaid], since)
            sweeps.append(counts["list_transactions"] - before)
            assert [found[h].state for h in (late, unpaid)] == [SETTLED if step >= 2 else PENDING, PENDING]
        assert sweeps[0] == 8  # all of it
        assert sweeps[1] == sweeps[3] == 1  # the count says that there is nothing new
        assert sweeps[2] == 8  # the count says that there is something, and it is at the very end
        ready.shop.faults.tamper = result(lambda r: r | {"total_count": r["total_count"] + 1})
        for expected in (9, 1, 1):  # searched for once, to an empty page; after that the count says nothing
            before = counts["list_transactions"]
            await ready.wallet.lookup_many([late, unpaid], since)
            assert counts["list_transactions"] - before == expected


@pytest.mark.parametrize("listed", [0, 1], ids=["the first listing", "a later one"])
async def test_what_settles_while_it_is_listed_is_found_by_the_next_sweep(listed: int) -> None:
    async with setup(options=Options(timeout=10.0, page=5, lookups=0), methods=ORDINARY) as ready:
        since = int(time.time())
        first, *quotes = quoted(ready, 41)
        for payment_hash in quotes[::2]:
            settle(ready, payment_hash)
        for _ in range(listed):
            await ready.wallet.lookup_many(quotes, since)
        settle(ready, first)  # the last of the list: a later listing goes through all of it as well
        late, pages = quotes[25], 0  # belongs on the second page

        def settle_late(body: Body) -> Body:
            nonlocal pages
            pages += 1
            if pages == 4:
                settle(ready, late)
            return body

        ready.shop.faults.tamper = result(settle_late)
        assert (await ready.wallet.lookup_many(quotes, since))[late].state is PENDING
        assert (await ready.wallet.lookup_many(quotes, since))[late].state is SETTLED


async def test_a_count_that_was_never_right_ends_no_search() -> None:
    async with setup(options=Options(timeout=10.0, page=5), methods=ORDINARY) as ready:
        ready.shop.faults.tamper = result(lambda r: r | {"total_count": 25})
        since = int(time.time())
        quotes = quoted(ready, 27)
        for payment_hash in quotes[:20]:
            settle(ready, payment_hash)
        await ready.wallet.lookup_many(quotes, since)
        for payment_hash in quotes[20:26]:  # five of them are the newest page, and make 25
            settle(ready, payment_hash)
        found = await ready.wallet.lookup_many(quotes, since)
        assert [found[h].state for h in quotes] == [SETTLED] * 26 + [PENDING]


async def test_who_asks_about_older_ones_is_told_of_them() -> None:
    async with setup(options=Options(timeout=10.0), methods=ORDINARY) as ready:
        since = int(time.time())
        paid, unpaid = quoted(ready, 2)
        settle(ready, paid)
        assert (await ready.wallet.lookup_many([unpaid], since + 1_000))[unpaid].state is PENDING
        assert (await ready.wallet.lookup_many([paid], since))[paid].state is SETTLED


async def test_a_listing_that_began_too_late_is_no_answer_about_older_ones() -> None:
    async with setup(options=Options(timeout=10.0, page=5, pages=1, lookups=0), methods=ORDINARY) as ready:
        now = time.time()
        ready.node.now = lambda: now - 1_000
        older = ready.node.make("shop", 1_000, expiry=6_000).payment_hash
        settle(ready, older)
        ready.node.now = time.time
        newer = quoted(ready, 12)
        for payment_hash in newer:
            settle(ready, payment_hash)
        assert (await ready.wallet.lookup_many(newer, int(now) + 290))[newer[0]].state is UNKNOWN  # one page of three
        states = {(await ready.wallet.lookup_many([older], int(now) - 1_000))[older].state for _ in range(6)}
        assert states == {UNKNOWN, SETTLED}


async def test_after_a_reconnection_everything_is_listed_again() -> None:
    options = Options(timeout=2.0, resend=0.3, backoff=0.02, poll=0.05, page=5)
    async with setup(options=options, methods=[*ORDINARY]) as ready:
        ready.shop.faults.tamper = result(lambda r: {n: v for n, v in r.items() if n != "total_count"})
        hints = ready.wallet.settlements()
        since = int(time.time())
        late = await made(ready)
        sold = quoted(ready, 20)
        for payment_hash in sold:
            settle(ready, payment_hash)
        assert (await ready.wallet.lookup_many([late], since))[late].state is PENDING
        await ready.relay.stop()
        ready.shop.faults.drop_notifications = True
        settle(ready, late)
        await ready.relay.start()
        async with asyncio.timeout(60):
            while await anext(hints) != late:
                pass


async def paid_late(ready: Setup) -> tuple[str, int]:
    """Of a wallet that tells no count: an invoice that was paid when it had been listed as unpaid, before 199 others;
    and since when."""
    ready.shop.faults.tamper = result(lambda r: {n: v for n, v in r.items() if n != "total_count"})
    since = int(time.time())
    late, *sold = quoted(ready, 200)
    for payment_hash in sold:
        settle(ready, payment_hash)
    assert (await ready.wallet.lookup_many([late], since))[late].state is PENDING
    settle(ready, late)
    return late, since


async def test_a_wallet_without_a_count_is_listed_again_when_pushes_may_have_been_missed() -> None:
    async with setup(options=Options(timeout=10.0), methods=ORDINARY) as ready:
        late, since = await paid_late(ready)
        before = ready.shop.counters.requests
        assert (await ready.wallet.lookup_many([late], since))[late].state is PENDING  # not yet: it is listed last
        assert ready.shop.counters.requests == before + 1
        ready.wallet._sweep.distrust()
        assert (await ready.wallet.lookup_many([late], since))[late].state is SETTLED


async def test_a_wallet_without_a_count_is_listed_again_after_a_time() -> None:
    async with setup(options=Options(timeout=10.0, relist=0.0), methods=ORDINARY) as ready:
        late, since = await paid_late(ready)
        assert (await ready.wallet.lookup_many([late], since))[late].state is SETTLED


@pytest.mark.parametrize("count", [lambda r: len(r["transactions"]), lambda r: 7, lambda r: 10**9, lambda r: -1])
async def test_a_count_that_is_wrong_hides_nothing(count: Callable[[Body], int]) -> None:
    async with setup(options=Options(timeout=10.0, page=5, relist=0.0), methods=ORDINARY) as ready:
        ready.shop.faults.tamper = result(lambda r: r | {"total_count": count(r)} if "transactions" in r else r)
        since = int(time.time())
        late, unpaid, *sold = quoted(ready, 22)
        for payment_hash in sold:
            settle(ready, payment_hash)
        for _ in range(2):
            found = await ready.wallet.lookup_many([late, unpaid, *sold], since)
            assert {found[h].state for h in sold} == {SETTLED}
        settle(ready, late)
        found = await ready.wallet.lookup_many([late, unpaid], since)
        assert [found[h].state for h in (late, unpaid)] == [SETTLED, PENDING]


async def test_a_wallet_that_lists_by_the_last_change_is_read_from_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    matching = paper_methods._matching

    def by_change(node: Any, wallet: str, params: Body) -> Any:  # as Alby Hub does, whose `from` means this time
        found = [row for row in matching(node, wallet, params | {"from": 0}) if row[1].settled_at >= params["from"]]
        return sorted(found, key=lambda row: -changed.index(row[1].payment_hash))

    changed: list[str] = []
    monkeypatch.setattr(paper_methods, "_matching", by_change)
    async with setup(options=Options(timeout=10.0), methods=ORDINARY) as ready:
        ready.shop.faults.tamper = result(lambda r: {n: v for n, v in r.items() if n != "total_count"})
        late, unpaid, *sold = quoted(ready, 200)
        for payment_hash in sold:
            settle(ready, payment_hash)
            changed.append(payment_hash)
        since = int(time.time())
        assert (await ready.wallet.lookup_many([late], since))[late].state is PENDING
        settle(ready, late)
        changed.append(late)
        before = ready.shop.counters.requests
        found = await ready.wallet.lookup_many([late, unpaid], since)
        assert [found[h].state for h in (late, unpaid)] == [SETTLED, PENDING]
        assert ready.shop.counters.requests - before <= 2


async def test_many_settled_at_once_are_all_found_in_a_few_sweeps() -> None:
    async with setup(options=Options(timeout=10.0, page=5, pages=4, lookups=0), methods=ORDINARY) as ready:
        since = int(time.time())
        quotes = quoted(ready, 90)
        assert PENDING is (await ready.wallet.lookup_many(quotes, since))[quotes[0]].state
        for payment_hash in quotes[:80]:
            settle(ready, payment_hash)
        for _ in range(12):
            found = await ready.wallet.lookup_many(quotes, since)
            if all(found[h].state is SETTLED for h in quotes[:80]):
                break
            assert PENDING not in {found[h].state for h in quotes}  # while more may be on the list
        found = await ready.wallet.lookup_many(quotes, since)
        assert [found[h].state for h in quotes] == [SETTLED] * 80 + [PENDING] * 10


# --- hold invoices -------------------------------------------------------------------------------------


async def test_accepted_hold_invoices_are_found_among_many_after_a_restart() -> None:
    options = Options(timeout=10.0, page=10, held_pages=3, lookups=2)
    async with setup(options=options) as ready:
        since = int(time.time())
        ready.shop.faults.drop_accepted = True
        held = [ready.node.make("shop", 1_000, expiry=600, payment_hash=secret()[1]) for _ in range(5)]
        quotes = [invoice.payment_hash for invoice in held] + quoted(ready, 100)
        for invoice in held:
            ready.node.pay(invoice.bolt11)
        for _ in range(8):
            before = ready.shop.counters.requests
            found = await ready.wallet.lookup_many(quotes, since)
            assert ready.shop.counters.requests - before <= 1 + 3 + 2 + 1
        assert [found[h].state for h in quotes] == [HELD] * 5 + [PENDING] * 100
        ready.node.mine(144)
        for _ in range(8):
            found = await ready.wallet.lookup_many(quotes, since)
        assert HELD not in {lookup.state for lookup in found.values()}
        assert SETTLED not in {lookup.state for lookup in found.values()}


async def test_a_held_one_that_cannot_be_asked_about_is_asked_about_again() -> None:
    async with setup(options=Options(timeout=10.0, page=10, held_pages=1, lookups=2)) as ready:
        since = int(time.time())
        held = ready.node.make("shop", 1_000, expiry=600, payment_hash=secret()[1])
        ready.node.pay(held.bolt11)
        quotes = [held.payment_hash]
        assert (await ready.wallet.lookup_many(quotes, since))[held.payment_hash].state is HELD
        quotes += quoted(ready, 30)  # it is on the newest page no more
        states = []
        for error in ({"lookup_invoice": "INTERNAL"}, {}):
            ready.shop.faults.errors = dict(error)
            states.append((await ready.wallet.lookup_many(quotes, since))[held.payment_hash].state)
        assert states == [UNKNOWN, HELD]


async def test_what_is_settled_is_not_told_as_held_any_more() -> None:
    async with setup() as ready:
        preimage, payment_hash = secret()
        invoice = await ready.wallet.create_hold_invoice(5_000, payment_hash=payment_hash, description="", expiry=600)
        ready.node.pay(invoice.bolt11)
        states = [(await ready.wallet.lookup_many([payment_hash], invoice.created_at))[payment_hash].state]
        await ready.wallet.settle_hold(preimage)
        states.append((await ready.wallet.lookup_many([payment_hash], invoice.created_at))[payment_hash].state)
        assert states == [HELD, SETTLED]
