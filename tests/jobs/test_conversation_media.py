"""What earlier turns named: gathered again as far as it is there, within bounds, and the same for price and run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.responses import Response

from dvm.jobs import inputs as module
from dvm.jobs.sources.conversation import GONE
from dvm.models import Blob
from dvm.nip90 import Input
from tests.standins.customer import Customer
from tests.standins.lnurl_server import StrangersServer, strangers_server
from tests.standins.scripted import ScriptedModel, answer
from tests.standins.talking import LIMIT, refusal, said, turn
from tests.standins.workshop import PRICE, Workshop, workshop

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
PICTURE = Blob("image/png", PNG)


@pytest.fixture
async def web() -> AsyncIterator[StrangersServer]:
    async with strangers_server() as server:
        server.pages["/a.png"] = Response(PNG, media_type="image/png")
        server.pages["/page"] = Response("a page", media_type="text/plain")
        yield server


@pytest.fixture
async def shop(relay: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    """Sells a model that sees, and then a cheaper one that only reads."""
    models = [ScriptedModel(name="sees"), ScriptedModel(name="reads")]
    models[0].takes = ("image/",)
    async with workshop(relay, data=tmp_path, models=models, opened=False) as each:
        each.prices = {"sees": PRICE, "reads": type(PRICE)(1_000_000, 250_000, 4_000_000)}
        await each.open()
        yield each


def url(web: StrangersServer, path: str) -> Input:
    return Input(f"{web.url}{path}", "url")


async def test_a_picture_is_seen_in_the_next_turn_too_and_auto_chooses_who_sees(
    shop: Workshop, buyer: Customer, web: StrangersServer
) -> None:
    job = await turn(shop, buyer, url(web, "/a.png"), "what is it?")
    job = await turn(shop, buyer, "what colour?", session=job, model="auto")
    assert said(shop.model.prompts[1]) == [
        ("user", PICTURE, "what is it?"),
        ("model", "well"),
        ("user", "what colour?"),
    ]
    assert (await shop.job(job)).model == "sees"
    web.pages.clear()  # a remark is for whoever reads
    job = await turn(shop, buyer, "and now?", session=job, model="auto")
    assert (await shop.job(job)).model == "reads"
    web.pages["/a.png"] = Response(PNG, media_type="image/png")
    told = await refusal(shop, buyer, "what colour was it?", session=job, model="reads")
    assert told == "invalid-input: of reads none takes such an input, or one of that size"


async def test_no_conversation_dies_with_a_page(shop: Workshop, buyer: Customer, web: StrangersServer) -> None:
    job = await turn(shop, buyer, url(web, "/a.png"), url(web, "/page"), "what is it?")
    web.pages["/a.png"] = Response("moved", 404)
    job = await turn(shop, buyer, "what colour?", session=job)
    web.pages["/page"] = Response("x", headers={"content-type": "image/png"})
    await turn(shop, buyer, "what else?", session=job)
    assert [said(prompt)[0] for prompt in shop.model.prompts] == [
        ("user", PICTURE, "a page", "what is it?"),
        ("user", GONE, "a page", "what is it?"),
        ("user", GONE, GONE, "what is it?"),
    ]


async def test_a_page_that_hangs_holds_nobody_up_for_long(
    shop: Workshop, buyer: Customer, web: StrangersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EARLIER_SECONDS", 0.2)
    job = await turn(shop, buyer, url(web, "/a.png"), url(web, "/page"), "what is it?")
    web.pages["/a.png"] = web.hang
    await turn(shop, buyer, "what colour?", session=job)
    assert said(shop.model.prompts[1])[0] == ("user", GONE, "a page", "what is it?")


async def quoted(shop: Workshop, buyer: Customer, job: str) -> str:
    """A job that goes on from there, and is not in memory any more."""
    shop.model.count = 5_000  # no balance covers it
    following = await buyer.ask("go on", params=[LIMIT, ("session", job)], providers=[shop.keys.pubkey])
    await buyer.quote(following)
    await shop.reopen()
    return following


async def test_what_was_priced_is_what_runs(shop: Workshop, buyer: Customer, web: StrangersServer) -> None:
    job = await turn(shop, buyer, url(web, "/a.png"), url(web, "/page"), "what is it?")
    web.pages["/a.png"] = Response("away", 503)
    one, two = await quoted(shop, buyer, job), await quoted(shop, buyer, await turn(shop, buyer, url(web, "/page")))
    web.pages["/a.png"] = Response(PNG, media_type="image/png")  # back: and yet it was not priced
    await shop.pay(buyer, one)
    await buyer.receipt(one)
    assert said(shop.model.prompts[-1])[0] == ("user", GONE, "a page", "what is it?")
    web.pages["/page"] = Response("a longer page", media_type="text/plain")
    await shop.pay(buyer, two)
    assert (await buyer.feedback(two, "error")).text.startswith("input-changed: ")


async def test_what_is_away_when_it_runs_is_waited_for_and_not_left_out(
    shop: Workshop, buyer: Customer, web: StrangersServer
) -> None:
    following = await quoted(shop, buyer, await turn(shop, buyer, url(web, "/page"), "what is it?"))
    web.pages["/page"] = Response("away", 503)
    await shop.pay(buyer, following)
    assert (await buyer.feedback(following, "error")).text.startswith("input-unavailable: ")
    assert (await shop.job(following)).attempts == 3


async def test_history_is_within_the_bounds_of_a_job(
    shop: Workshop, buyer: Customer, web: StrangersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_NAMED", 3)
    for n in range(4):
        web.pages[f"/{n}"] = Response(f"page {n}", media_type="text/plain")
    job = await turn(shop, buyer, url(web, "/0"), url(web, "/1"), "first")
    job = await turn(shop, buyer, url(web, "/2"), "second", session=job)
    web.asked.clear()
    await turn(shop, buyer, url(web, "/3"), "third", session=job)
    assert web.asked == ["/3", "/2", "/1"]
    assert [each for each in said(shop.model.prompts[2]) if each[0] == "user"] == [
        ("user", GONE, "page 1", "first"),
        ("user", "page 2", "second"),
        ("user", "page 3", "third"),
    ]
    shop.sources = {**shop.sources, "max_bytes": 21}
    await shop.reopen()
    await turn(shop, buyer, url(web, "/3"), "fourth", session=job)
    assert said(shop.model.prompts[3])[0] == ("user", GONE, GONE, "first")
    assert said(shop.model.prompts[3])[2] == ("user", "page 2", "second")


async def test_on_hold_invoices_a_conversation_goes_on_when_the_answer_is_paid(
    shop: Workshop, buyer: Customer, web: StrangersServer
) -> None:
    shop.set(hold=True)
    await shop.reopen()
    shop.model.scripts = [answer("one"), answer("two")]
    job = await turn(shop, buyer, url(web, "/page"), "one?", session="held")
    shop.model.count = 5_000
    job = await turn(shop, buyer, "two?", session="held")
    await turn(shop, buyer, Input(job, "job"), "three?")
    assert said(shop.model.prompts[2]) == [
        ("user", "a page", "one?"),
        ("model", "one"),
        ("user", "two?"),
        ("model", "two"),
        ("user", "three?"),
    ]
