"""What was published is marked, also when the daemon is ending, and nothing is left behind that would do so later."""

from __future__ import annotations

import asyncio
import gc
import secrets
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dvm.jobs import Settings, Shop
from dvm.jobs import outbox as module
from dvm.jobs.outbox import Outbox
from dvm.ledger import Publication
from dvm.nostr.pool import Published

OK = Published(accepted=["wss://relay.example"])


class Relays:
    """What was posted is accepted when the test says so."""

    def __init__(self) -> None:
        self.done: list[Callable[[Published], None]] = []

    def post(self, _event: str, _payload: str, done: Callable[[Published], None], **_: Any) -> None:
        self.done.append(done)


class Marks:
    """A store that keeps what was marked; `wait` is waited for first."""

    def __init__(self) -> None:
        self.marked: list[str] = []
        self.wait = asyncio.Event()
        self.wait.set()
        self.closed = False

    async def published(self, ids: list[str], _at: int) -> None:
        assert not self.closed
        await self.wait.wait()
        self.marked += ids


def parts() -> tuple[Outbox, Relays, Marks]:
    relays, store = Relays(), Marks()
    shop = SimpleNamespace(relays=relays, store=store, settings=Settings(customer_relays=False), now=lambda: 0)
    return Outbox(cast("Shop", shop)), relays, store


def event() -> Publication:
    return Publication(secrets.token_hex(32), "result", "{}")


@pytest.mark.parametrize("ending", ["flushed", "closed"])
def test_nothing_is_left_to_be_marked_when_the_loop_ends(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer that is left would make a task in the loop's last turn, which never begins."""
    monkeypatch.setattr(module, "MARK_SECONDS", 0.0)

    async def live() -> list[str]:
        outbox, relays, store = parts()
        outbox.send([event()])
        if ending == "flushed":
            relays.done[0](OK)
        await outbox.flush(0)
        await outbox.close()
        store.closed = True
        if ending == "closed":  # its OK comes when all is over
            relays.done[0](OK)
        return store.marked

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = asyncio.new_event_loop()
        marked = loop.run_until_complete(live())  # with one turn after its end, in which a timer that is due is called
        loop.close()
        gc.collect()
    assert [str(each.message) for each in caught] == []
    assert len(marked) == (1 if ending == "flushed" else 0)


async def test_the_end_waits_for_what_is_being_marked() -> None:
    outbox, relays, store = parts()
    outbox.send([event(), event()])
    store.wait.clear()
    relays.done[0](OK)
    outbox._mark_soon()  # its time is up
    await asyncio.sleep(0)
    relays.done[1](OK)
    flushing = asyncio.create_task(outbox.flush(1))
    await asyncio.sleep(0)
    assert not flushing.done()
    store.wait.set()
    await flushing
    assert len(store.marked) == 2
