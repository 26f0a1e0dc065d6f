"""Inputs that stand in the request, events, and the files that results lead to."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator

import pytest
from starlette.responses import Response

from dvm.jobs import inputs as module
from dvm.jobs.inputs import Inputs
from dvm.jobs.kinds import KINDS, Gathered, Part
from dvm.models import Blob
from dvm.nip90 import InvalidRequest, parse_request
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from tests.jobs.test_chaining import after, answering, asking
from tests.standins.customer import Customer, customer
from tests.standins.lnurl_server import strangers_server
from tests.standins.relay import local_relay
from tests.standins.waiting import until
from tests.standins.workshop import Workshop

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


@pytest.fixture
async def buyer(relay: str) -> AsyncIterator[Customer]:
    async with customer(relay) as each:
        yield each


async def served(shop: Workshop, buyer: Customer, *inputs: list[str]) -> tuple[str | Blob, ...]:
    """What the model is asked for these inputs."""
    job = await buyer.send(asking(buyer.keys, *inputs, provider=shop.keys.pubkey))
    await shop.pay(buyer, job)
    await buyer.result(job)
    return shop.model.prompts[-1].turns[0].parts


async def refused(shop: Workshop, buyer: Customer, *inputs: list[str]) -> str:
    job = await buyer.send(asking(buyer.keys, *inputs, provider=shop.keys.pubkey))
    return (await buyer.feedback(job, "error")).text.partition(":")[0]


def note(text: str, kind: int = 1, keys: Keys | None = None, tags: list[list[str]] | None = None) -> Event:
    return (keys or Keys.generate()).sign(kind, tags or [], text, int(time.time()))


async def test_texts_come_in_the_requests_order_with_their_markers() -> None:
    keys = Keys.generate()
    event = keys.sign(
        5050,
        [["i", "b", "text", "", "second"], ["i", "  ", "text"], ["i", "a", "text"], ["param", "prompt", "do"]],
        "",
        int(time.time()),
    )
    gathered = await Inputs().gather(parse_request(event, keys), KINDS[5050])
    assert gathered == Gathered((Part("b", "text", "second"), Part("a"), Part("do", "text", "prompt")))
    named = parse_request(asking(keys, ["0" * 64, "event"]), keys)
    with pytest.raises(InvalidRequest, match="input-unavailable"):
        await Inputs().gather(named, KINDS[5050])


async def test_what_is_asked_stands_behind_what_it_is_asked_about(shop: Workshop, buyer: Customer) -> None:
    parts = await served(
        shop, buyer, ["Which is longer?", "text", "", "prompt"], ["aa", "text", "", "left"], ["a", "text", "", "right"]
    )
    assert parts == ("left:\naa", "right:\na", "Which is longer?")


async def test_an_event_is_found_on_its_hint_and_on_our_relays(shop: Workshop, buyer: Customer) -> None:
    here, far = note("here"), note("far away", 30_023, tags=[["d", "x"]])
    await buyer.send(here)
    async with local_relay() as url, customer(url) as there:
        await there.send(far)
        parts = await served(shop, buyer, [here.id, "event"], [far.id, "event", url], ["Sum it up.", "text"])
    assert parts == ("here", "far away", "Sum it up.")


async def test_a_customers_own_event_is_found_where_they_write(shop: Workshop, buyer: Customer) -> None:
    mine = note("mine", keys=buyer.keys)
    async with local_relay() as url, customer(url) as there:
        await there.send(mine)
        await buyer.send(buyer.keys.sign(10_002, [["r", url, "write"]], "", int(time.time())))
        assert await served(shop, buyer, [mine.id, "event"]) == ("mine",)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (note("AAAA?iv=BBBB"), "input-unreadable"),
        (note("hidden", 7375), "input-unreadable"),
        (note("hidden", tags=[["encrypted"]]), "input-unreadable"),
        (note("  "), "input-type"),
    ],
)
async def test_an_event_that_is_no_text_for_everybody_is_refused(
    shop: Workshop, buyer: Customer, event: Event, code: str
) -> None:
    await buyer.send(event)
    assert await refused(shop, buyer, [event.id, "event"]) == code


async def test_an_event_that_nobody_has_is_refused(shop: Workshop, buyer: Customer) -> None:
    assert await refused(shop, buyer, ["0" * 64, "event"]) == "input-unavailable"
    assert await refused(shop, buyer, ["0" * 64, "event", "ws://127.0.0.1:1"]) == "input-unavailable"


async def test_a_result_that_is_a_file_comes_as_that_file(shop: Workshop, buyer: Customer) -> None:
    """Kinds 5100 and 5250 answer with addresses, or inline."""
    shop.model.takes = ("image/",)
    provider = Keys.generate()
    async with strangers_server() as server:
        server.pages["/a.png"] = Response(PNG, media_type="image/png")
        inline = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
        for content in (f"{server.url}/a.png\n", inline):
            prior = asking(Keys.generate(), ["a cat", "text"], [content, "text"], provider=provider.pubkey)
            await buyer.send(prior)
            await buyer.send(answering(provider, prior, content))
            job = await buyer.send(after(buyer.keys, prior.id, shop))
            await shop.pay(buyer, job)
            await buyer.result(job)
            assert shop.model.prompts[-1].turns[0].parts[0] == Blob("image/png", PNG)
    for broken in ("data:image/png;base64,AAA", "data:image/png;base64,AAAA"):
        prior = asking(Keys.generate(), [broken, "text"], provider=provider.pubkey)
        await buyer.send(prior)
        await buyer.send(answering(provider, prior, broken))
        job = await buyer.send(after(buyer.keys, prior.id, shop))
        assert (await buyer.feedback(job, "error")).text.startswith("input-type: ")


async def test_what_is_kept_between_price_and_run_is_bounded(
    shop: Workshop, buyer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 100)
    events = [note(f"{n}" * 40) for n in range(3)]
    jobs = []
    for event in events:
        await buyer.send(event)
        jobs.append(await buyer.send(asking(buyer.keys, [event.id, "event"], provider=shop.keys.pubkey)))
        await buyer.quote(jobs[-1])
    assert list(shop.shop.inputs._kept) == jobs[1:]
    assert shop.shop.inputs._kept_bytes == 80
    await shop.pay(buyer, jobs[0])  # gathered anew, and the same
    await buyer.result(jobs[0])
    assert shop.model.prompts[0].turns[0].parts == ("0" * 40,)
    await until(lambda: list(shop.shop.inputs._kept) == [jobs[2], jobs[0]])
