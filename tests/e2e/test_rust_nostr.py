"""rust-nostr as the customer: every kind of job, in clear and encrypted, paid by its own wallet client,
cancelled, and read by its own accessors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256

import httpx
import nostr_sdk as sdk
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.e2e.bazaar import (
    BID,
    LARGE,
    NOTE,
    PNG,
    QUESTION,
    WARES,
    Bazaar,
    Ware,
    bazaar,
    is_about_the_three,
    pictures,
)
from tests.e2e.stranger import Raw, Stranger, stranger
from tests.standins.relay import running_relay

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMES = (None, "nip44", "nip04")
LONG = "word " * 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bazaar]:
    async with bazaar(tmp_path_factory.mktemp("bazaar")) as each:
        yield each


@pytest_asyncio.fixture(loop_scope="module")
async def customer(shop: Bazaar) -> AsyncIterator[Stranger]:
    async with stranger(shop.relay, shop.wallet.customer_uri) as each:
        yield each


@pytest.mark.parametrize("ware", WARES, ids=lambda ware: str(ware.kind))
async def test_a_job_in_clear_and_in_both_schemes_is_quoted_paid_and_read(
    shop: Bazaar, customer: Stranger, ware: Ware
) -> None:
    quoted = asyncio.Barrier(len(SCHEMES))

    async def one(scheme: str | None) -> None:
        wanted = [
            *(["i", *each] for each in ware.inputs),
            *(["param", *each] for each in ware.params),
            ["output", ware.output],
            ["bid", str(BID)],
        ]
        job = await ask(shop, customer, scheme, ware.kind, wanted)
        quote = read(customer, await customer.feedback(job, "payment-required"), scheme)
        await quoted.wait()  # else what one leaves of its payment pays for another
        await customer.pay(first(quote, "amount")[2])
        result = read(customer, await customer.of_kind(job, ware.kind + 1000), scheme)
        receipt = customer.events[(await customer.of_kind(job, 7090))["id"]]

        for event in (quote, result, receipt):
            assert event.verify()
            assert event.author().to_hex() == shop.provider
            assert [tag.content() for tag in event.tags() if tag.kind() == "p"] == [customer.pubkey]
            assert first(event, "e")[1] == job
        assert result.kind().as_u16() == ware.kind + 1000
        assert first(result, "status") == ["status", "success"]
        assert first(result, "amount") == first(quote, "amount")[:2]
        assert said(customer, result, scheme) == ware.answer
        assert ("i" in names(result)) is (scheme is None)
        request = sdk.Event.from_json(first(result, "request")[1])
        assert request.verify()
        assert (request.id().to_hex(), request.author().to_hex()) == (job, customer.pubkey)
        assert request.kind().as_u16() == ware.kind

    async with asyncio.TaskGroup() as jobs:
        for scheme in SCHEMES:
            jobs.create_task(one(scheme))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_page_an_event_and_an_earlier_job_are_asked_about(
    shop: Bazaar, customer: Stranger, scheme: str | None
) -> None:
    earlier = WARES[2]
    wanted = [*(["i", *each] for each in earlier.inputs), *(["param", *each] for each in earlier.params)]
    prior = await ask(shop, customer, scheme, earlier.kind, wanted)
    inputs = [
        ["i", f"{shop.pages.url}/page", "url"],
        ["i", await customer.send(1, [], NOTE), "event", shop.relay],
        ["i", prior, "job", shop.relay, "said before"],
        ["i", QUESTION, "text"],
    ]
    job = await ask(shop, customer, scheme, 5050, inputs)
    await pay(customer, prior, scheme)
    await pay(customer, job, scheme)
    result = read(customer, await customer.of_kind(job, 6050), scheme)
    assert result.verify()
    assert said(customer, result, scheme) == WARES[3].answer
    assert [tag.to_vec() for tag in result.tags() if tag.kind() == "i"] == ([] if scheme else inputs)
    assert is_about_the_three(shop.shown(5050)[-1], earlier.answer)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_picture_at_an_address_comes_before_the_model_as_a_picture(
    shop: Bazaar, customer: Stranger, scheme: str | None
) -> None:
    wanted = [["i", f"{shop.pages.url}/image.png", "url"], ["output", "application/json"]]
    job = await ask(shop, customer, scheme, 5000, wanted)
    await pay(customer, job, scheme)
    result = read(customer, await customer.of_kind(job, 6000), scheme)
    assert said(customer, result, scheme) == WARES[0].answer
    assert pictures(shop.shown(5000)[-1]) == [PNG]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_file_that_no_event_holds_is_where_the_result_says_for_its_customer(
    shop: Bazaar, customer: Stranger, scheme: str | None
) -> None:
    with shop.uploading():
        job = await ask(shop, customer, scheme, 5100, [["i", "A coin", "text"], ["param", "model", "large"]])
        await pay(customer, job, scheme)
        result = read(customer, await customer.of_kind(job, 6100), scheme)
    answer = said(customer, result, scheme)
    told = {"url": answer} if scheme is None else json.loads(answer)
    async with httpx.AsyncClient() as client:
        data = (await client.get(told["url"])).content
    assert sha256(data).hexdigest() == told.get("x", sha256(LARGE).hexdigest())
    assert sha256(data).hexdigest() in told["url"]
    if scheme is not None:
        key = AESGCM(bytes.fromhex(told["decryption-key"]))
        data = key.decrypt(bytes.fromhex(told["decryption-nonce"]), data, None)
    assert data == LARGE


@pytest.mark.parametrize("scheme", [None, "nip44"])
async def test_everything_reaches_a_customer_who_listens_on_their_own_relay_only(
    shop: Bazaar, scheme: str | None
) -> None:
    """NIP-65: they write where the shop listens, and read elsewhere; no request names that relay."""
    async with running_relay() as home, stranger(home.url, shop.wallet.customer_uri, writes=shop.relay) as customer:
        await customer.send(10002, [["r", home.url, "read"], ["r", shop.relay, "write"]])
        job = await ask(shop, customer, scheme, 5050, [["i", "Why?", "prompt"]])
        await pay(customer, job, scheme)
        result = read(customer, await customer.of_kind(job, 6050), scheme)
        assert said(customer, result, scheme) == WARES[3].answer
        assert (await customer.of_kind(job, 7090))["pubkey"] == shop.provider
        assert customer.relays == {home.url}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_quoted_job_is_taken_back(shop: Bazaar, customer: Stranger, scheme: str | None) -> None:
    job = await ask(shop, customer, scheme, 5050, [["i", LONG, "text"], ["param", "model", "slow"]])
    await customer.feedback(job, "payment-required")
    await customer.cancel(job, 5050)
    refusal = read(customer, await customer.feedback(job, "error"), scheme)
    assert inner(customer, refusal, scheme, "status") == ["status", "error", "cancelled"]


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_running_job_is_stopped_and_what_came_is_read(
    shop: Bazaar, customer: Stranger, scheme: str | None
) -> None:
    job = await ask(shop, customer, scheme, 5050, [["i", LONG, "text"], ["param", "model", "slow"]])
    await pay(customer, job, scheme)
    partial = read(customer, await customer.feedback(job, "partial"), scheme)
    come = partial.content() if scheme is None else inner(customer, partial, scheme, "content")[1]
    assert come
    assert LONG.startswith(come)
    await customer.cancel(job, 5050)
    refusal = read(customer, await customer.feedback(job, "error"), scheme)
    assert inner(customer, refusal, scheme, "status") == ["status", "error", "cancelled"]
    assert "6050" not in customer.statuses(job)


async def test_a_deletion_by_ids_alone_cancels_what_is_quoted_what_waits_and_what_runs(
    shop: Bazaar, customer: Stranger
) -> None:
    slow = [["i", LONG, "text"], ["param", "model", "slow"]]
    running, quoted = [await ask(shop, customer, None, 5050, slow) for _ in range(2)]
    waiting = await ask(shop, customer, None, 5050, [["i", "e" * 64, "job"]])
    await pay(customer, running, None)
    await customer.feedback(quoted, "payment-required")
    await customer.feedback(running, "partial")
    await customer.delete(running, quoted, waiting)
    for job in (running, quoted, waiting):
        error = customer.events[(await customer.feedback(job, "error"))["id"]]
        assert first(error, "status") == ["status", "error", "cancelled"]
    assert "6050" not in customer.statuses(running)


async def ask(shop: Bazaar, customer: Stranger, scheme: str | None, kind: int, tags: list[list[str]]) -> str:
    """In clear, or encrypted; the job's id."""
    if scheme is None:
        return await customer.send(kind, [*tags, ["p", shop.provider]])
    return await customer.ask_hidden(shop.provider, scheme, kind, tags)


async def pay(customer: Stranger, job: str, scheme: str | None) -> None:
    """What the job's quote asks for."""
    quote = read(customer, await customer.feedback(job, "payment-required"), scheme)
    await customer.pay(first(quote, "amount")[2])


def read(customer: Stranger, raw: Raw, scheme: str | None) -> sdk.Event:
    """The client's own event, in the scheme that was asked in."""
    event = customer.events[raw["id"]]
    assert ("encrypted" in names(event)) is (scheme is not None)
    assert scheme is None or ("?iv=" in event.content()) is (scheme == "nip04")
    return event


def said(customer: Stranger, event: sdk.Event, scheme: str | None) -> str:
    return event.content() if scheme is None else customer.open(event)


def inner(customer: Stranger, event: sdk.Event, scheme: str | None, name: str) -> list[str]:
    """The first tag of that name: of an encrypted answer, among those within."""
    if scheme is None:
        return first(event, name)
    return next(list(tag) for tag in json.loads(customer.open(event)) if tag[0] == name)


def names(event: sdk.Event) -> list[str]:
    return [tag.kind() for tag in event.tags()]


def first(event: sdk.Event, name: str) -> list[str]:
    """The first tag of that name, whole."""
    return next(tag.to_vec() for tag in event.tags() if tag.kind() == name)
