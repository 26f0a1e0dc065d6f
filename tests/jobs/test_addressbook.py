"""Answers reach customers where they read, no answer waits for that, and a crowd is no storm of questions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dvm.jobs import addressbook
from dvm.jobs.addressbook import AddressBook, read_relays_of
from dvm.nip90 import FEEDBACK, RELAY_LIST, RelayUse, relay_list_draft
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool
from tests.standins.bad_relay import BadRelay, bad_relay, bad_signature
from tests.standins.customer import OPTIONS, customer
from tests.standins.relay import free_port, local_relay
from tests.standins.waiting import until
from tests.standins.workshop import workshop


def relay_list(keys: Keys, *urls: str, at: int | None = None, write: bool = False) -> Event:
    """The kind 10002 of somebody who reads at these (or else only writes there)."""
    return relay_list_draft(RelayUse(url, read=not write, write=write) for url in urls).sign(
        keys, at or int(time.time())
    )


async def answers(url: str, job: str) -> list[Event]:
    async with RelayPool([url], []) as pool:
        return await pool.query(Filter(kinds=[FEEDBACK], tags={"e": [job]}))


async def found(book: AddressBook, keys: Keys, hints: Sequence[str] = ()) -> tuple[str, ...]:
    await until(lambda: book.read_relays(keys.pubkey, hints))
    return book.read_relays(keys.pubkey)


def looked_up(relay: BadRelay) -> list[list[str]]:
    """The authors of each question for relay lists."""
    return [f["authors"] for filters in relay.requested for f in filters if f.get("kinds") == [RELAY_LIST]]


async def test_the_first_answer_follows_and_the_next_go_at_once_to_where_the_customer_reads(tmp_path: Path) -> None:
    async with local_relay() as ours, local_relay() as home, workshop(ours, data=tmp_path), customer(ours) as c:
        await c.send(relay_list(c.keys, home))
        for text in ("hello", "hello again"):
            job = await c.ask(text)
            await c.quote(job)

            async def stands_there(asked: str = job) -> bool:
                return [event.tag("e") for event in await answers(home, asked)] == [asked]

            await until(stands_there)


async def test_nothing_is_looked_up_where_the_operator_does_not_want_it(tmp_path: Path) -> None:
    async with bad_relay() as ours, workshop(ours.url, data=tmp_path, customer_relays=False), customer(ours.url) as c:
        await c.quote(await c.ask("hello"))
        assert looked_up(ours) == []


async def test_no_answer_waits_for_a_relay_that_never_tells(tmp_path: Path) -> None:
    async with bad_relay(eose=False) as ours, workshop(ours.url, data=tmp_path), customer(ours.url) as c:
        c.pool.subscribe(Filter(kinds=[FEEDBACK]), c._hear)
        assert await c.quote(await c.ask("hello"))


async def test_a_list_is_looked_up_once_and_so_is_that_there_is_none() -> None:
    listed, unlisted = Keys.generate(), Keys.generate()
    async with bad_relay() as relay, RelayPool([relay.url], [], options=OPTIONS) as pool:
        await pool.wait_connected()
        relay.add(relay_list(listed, "wss://home.example/"))
        book = AddressBook(pool)
        book.read_relays(unlisted.pubkey)
        assert await found(book, listed) == ("wss://home.example",)
        for _ in range(10):
            book.read_relays(listed.pubkey)
            book.read_relays(unlisted.pubkey)
        await until(lambda: book._worker is not None and book._worker.done())
        assert sorted(author for authors in looked_up(relay) for author in authors) == sorted(
            [listed.pubkey, unlisted.pubkey]
        )
        await book.close()


async def test_a_thousand_new_customers_at_once_are_a_few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addressbook, "PAUSE_SECONDS", 0.0)
    strangers = [f"{n:064x}" for n in range(1000)]
    async with bad_relay() as relay, RelayPool([relay.url], [], options=OPTIONS) as pool:
        await pool.wait_connected()
        book = AddressBook(pool)
        for stranger in strangers:
            assert book.read_relays(stranger) == ()
        await until(lambda: book._worker is not None and book._worker.done())
        assert sorted(author for authors in looked_up(relay) for author in authors) == strangers
        assert len(looked_up(relay)) == 10
        await book.close()


async def test_all_that_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("REMEMBERED", 3), ("MAX_WAITING", 5), ("MAX_FOLLOWING", 2), ("PAUSE_SECONDS", 0.0)):
        monkeypatch.setattr(addressbook, name, value)
    async with bad_relay() as relay, RelayPool([relay.url], [], options=OPTIONS) as pool:
        await pool.wait_connected()
        book = AddressBook(pool)
        followed: list[object] = []
        for n in range(10):
            book.read_relays(f"{n:064x}", follow=followed.append)
        assert (len(book._waiting), book._following) == (5, 2)
        await until(lambda: book._worker is not None and book._worker.done())
        assert (len(book._known), book._following, followed) == (3, 0, [])
        await book.close()


async def test_the_relays_of_the_request_are_asked_when_ours_know_nothing() -> None:
    keys = Keys.generate()
    gone = f"ws://127.0.0.1:{free_port()}"
    async with bad_relay() as ours, bad_relay() as named, RelayPool([ours.url], [], options=OPTIONS) as pool:
        await pool.wait_connected()
        named.add(relay_list(keys, "wss://home.example"))
        book = AddressBook(pool)
        assert await found(book, keys, [gone, named.url]) == ("wss://home.example",)
        await book.close()


async def test_the_newest_list_counts_and_a_forged_one_does_not() -> None:
    keys = Keys.generate()
    old, new = relay_list(keys, "wss://old.example", at=1_000), relay_list(keys, "wss://new.example", at=2_000)
    forged = relay_list(keys, "wss://evil.example", at=3_000)
    async with bad_relay() as relay, RelayPool([relay.url], [], options=OPTIONS) as pool:
        await pool.wait_connected()
        relay.add(old, new)
        relay.stored[forged.id] = bad_signature({**relay.stored[old.id], "created_at": 3_000, "id": forged.id})[0]
        book = AddressBook(pool)
        assert await found(book, keys) == ("wss://new.example",)
        await book.close()


async def test_while_no_relay_is_there_nothing_is_believed_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addressbook, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(addressbook, "UNASKED_SECONDS", 0.0)
    keys = Keys.generate()
    relay = BadRelay()
    async with RelayPool([relay.url], [], options=OPTIONS) as pool:
        book = AddressBook(pool)
        book.read_relays(keys.pubkey)
        await until(lambda: book._worker is not None and book._worker.done())
        relay.add(relay_list(keys, "wss://home.example"))
        await relay.start()
        try:
            assert await found(book, keys) == ("wss://home.example",)
        finally:
            await book.close()
            await relay.stop()


def test_of_a_list_only_what_is_an_address_to_read_at_counts_and_five_at_most() -> None:
    keys = Keys.generate()
    bad = ["http://a.example", "wss://me:secret@b.example", "wss://c.example/" + "x" * 300, "nonsense", ""]
    good = [f"wss://{n}.example" for n in range(9)]
    assert read_relays_of(relay_list(keys, *bad, good[0] + "/", *good)) == tuple(good[:5])
    assert read_relays_of(relay_list(keys, *good, write=True)) == ()
    assert read_relays_of(keys.sign(1, [["r", good[0]]], "", 1)) == ()


async def test_private_addresses_in_a_list_are_not_connected_to(tmp_path: Path) -> None:
    async with bad_relay() as ours, bad_relay() as inside, workshop(ours.url, data=tmp_path, opened=False) as shop:
        shop.pool_options = type(shop.pool_options)(relay=shop.pool_options.relay, allow_private=False)
        await shop.open()
        async with customer(ours.url) as c:
            await c.send(relay_list(c.keys, inside.url))
            first = await c.ask("hello")
            await c.quote(first)
            await until(lambda: looked_up(ours))
            await until(lambda: shop.engine.outbox._book and shop.engine.outbox._book.read_relays(c.keys.pubkey))
            await c.quote(await c.ask("hello again"))
        assert inside.connections == 0
