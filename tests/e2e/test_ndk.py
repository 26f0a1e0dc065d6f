"""NDK as the customer: every kind of job, in clear and encrypted, paid, cancelled, and read by NDK's own accessors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest
import pytest_asyncio

from dvm.lightning.bolt11 import decode
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
    spoken,
)
from tests.standins.ldk import program
from tests.standins.ndk import Heard, NdkCustomer, ndk_customer

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="module")]

# How NDK asks: the scheme, and whether `output` and `bid` stand beside what is encrypted instead of within.
SHAPES = [(None, False), ("nip44", False), ("nip44", True), ("nip04", False), ("nip04", True)]
ENCRYPTED = [
    pytest.param(shape, id="-".join(("beside" if shape[1] else "within", str(shape[0])))) for shape in SHAPES[1:]
]
LONG = [["word " * 200, "text"]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bazaar]:
    program()
    async with bazaar(tmp_path_factory.mktemp("bazaar")) as each:
        yield each


@pytest_asyncio.fixture(loop_scope="module")
async def ndk(shop: Bazaar) -> AsyncIterator[NdkCustomer]:
    async with ndk_customer(shop.relay, shop.provider) as each:
        yield each


@pytest.mark.parametrize("ware", WARES, ids=lambda ware: str(ware.kind))
async def test_a_job_in_every_shape_that_ndk_has_is_quoted_paid_and_read(
    shop: Bazaar, ndk: NdkCustomer, ware: Ware
) -> None:
    quoted = asyncio.Barrier(len(SHAPES))

    async def one(scheme: str | None, beside: bool) -> None:
        terms = {"output": ware.output, "bid": BID}
        asked = await ndk.ask(ware.kind, ware.inputs, ware.params, **terms, scheme=scheme, beside=beside)
        names = [tag[0] for tag in asked["event"]["tags"]]
        assert ("i" in names) is (scheme is None)
        assert ("bid" in names) is (scheme is None or beside)
        assert ("?iv=" in asked["event"]["content"]) is (scheme == "nip04")
        quote = await ndk.status(asked["job"], "payment-required")
        await quoted.wait()  # else what one leaves of its payment pays for another
        await shop.wallet.pay(agreed(quote))
        result = await ndk.result(asked["job"])

        read = {name: result[name] for name in ("kind", "status", "result", "author", "encrypted", "valid")}
        assert read == {
            "kind": ware.kind + 1000,
            "status": "success",
            "result": ware.answer,
            "author": shop.provider,
            "encrypted": scheme is not None,
            "valid": True,
        }
        assert result["amounts"] == [quote["amounts"][0][:1]]  # the invoice is paid: it is not shown again
        assert result["inputs"] == ([] if scheme else ware.inputs)
        request = result["request"]
        assert (request["id"], request["valid"], request["kind"]) == (asked["job"], True, ware.kind)
        assert request["params"] == ([] if scheme else ware.params)
        in_clear = scheme is None or beside
        assert (request.get("bid"), request.get("output")) == ((BID, [ware.output]) if in_clear else (None, None))
        for answer in ndk.heard[asked["job"]]:
            assert answer["valid"]
            assert answer["author"] == shop.provider
            assert answer["encrypted"] is (scheme is not None)
            if scheme:
                assert ("?iv=" in answer["sealed"]) is (scheme == "nip04")

    async with asyncio.TaskGroup() as jobs:
        for scheme, beside in SHAPES:
            jobs.create_task(one(scheme, beside))


@pytest.mark.parametrize("scheme", [None, "nip44", "nip04"])
async def test_a_page_an_event_and_an_earlier_job_are_what_ndk_asks_about(
    shop: Bazaar, ndk: NdkCustomer, scheme: str | None
) -> None:
    earlier = WARES[2]
    prior = await ndk.ask(earlier.kind, earlier.inputs, earlier.params, scheme=scheme)
    inputs = [
        [f"{shop.pages.url}/page", "url"],
        [await ndk.note(NOTE), "event", shop.relay],
        [prior["job"], "job", shop.relay, "said before"],
        [QUESTION, "text"],
    ]
    asked = await ndk.ask(5050, inputs, [], scheme=scheme)
    await shop.wallet.pay(agreed(await ndk.status(prior["job"], "payment-required")))
    await shop.wallet.pay(agreed(await ndk.status(asked["job"], "payment-required")))
    result = await ndk.result(asked["job"])
    assert (result["result"], result["status"], result["valid"]) == (WARES[3].answer, "success", True)
    assert result["encrypted"] is (scheme is not None)
    assert result["inputs"] == ([] if scheme else inputs)
    assert is_about_the_three(shop.shown(5050)[-1], earlier.answer)


@pytest.mark.parametrize("scheme", [None, "nip44", "nip04"])
async def test_a_picture_at_an_address_comes_before_the_model_as_a_picture(
    shop: Bazaar, ndk: NdkCustomer, scheme: str | None
) -> None:
    asked = await ndk.ask(5000, [[f"{shop.pages.url}/image.png", "url"]], [], output="application/json", scheme=scheme)
    await shop.wallet.pay(agreed(await ndk.status(asked["job"], "payment-required")))
    assert (await ndk.result(asked["job"]))["result"] == WARES[0].answer
    assert pictures(shop.shown(5000)[-1]) == [PNG]


@pytest.mark.parametrize("ware", [ware for ware in WARES if ware.made], ids=lambda ware: str(ware.kind))
async def test_ndk_fetches_a_file_from_the_address_that_the_result_is(
    shop: Bazaar, ndk: NdkCustomer, ware: Ware
) -> None:
    with shop.uploading():
        asked = await ndk.ask(ware.kind, ware.inputs, ware.params, output=ware.output)
        await shop.wallet.pay(agreed(await ndk.status(asked["job"], "payment-required")))
        url = (await ndk.result(asked["job"]))["result"]
    file = PNG if ware.kind == 5100 else spoken()
    fetched = await ndk.fetch(url)
    assert (fetched["status"], fetched["sha256"]) == (200, sha256(file).hexdigest())
    assert fetched["sha256"] in url
    assert shop.files.get(url) == (file, ware.output)


@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
async def test_ndk_opens_an_encrypted_file_by_what_the_encrypted_result_says(
    shop: Bazaar, ndk: NdkCustomer, scheme: str
) -> None:
    with shop.uploading():
        asked = await ndk.ask(5100, [["A coin", "text"]], [["model", "large"]], scheme=scheme)
        await shop.wallet.pay(agreed(await ndk.status(asked["job"], "payment-required")))
        told = json.loads((await ndk.result(asked["job"]))["result"])
    fetched = await ndk.fetch(told["url"], told["decryption-key"], told["decryption-nonce"])
    assert fetched["sha256"] == told["x"]
    assert fetched["opened"] == told["ox"] == sha256(LARGE).hexdigest()


async def test_json_that_ndk_asked_for_is_json(shop: Bazaar, ndk: NdkCustomer) -> None:
    ware = WARES[0]
    asked = await ndk.ask(ware.kind, ware.inputs, ware.params, output=ware.output, scheme="nip44")
    await shop.wallet.pay(agreed(await ndk.status(asked["job"], "payment-required")))
    assert json.loads((await ndk.result(asked["job"]))["result"]) == json.loads(ware.answer)


@pytest.mark.parametrize("shape", [pytest.param(SHAPES[0], id="clear"), *ENCRYPTED])
async def test_ndk_takes_a_job_back_before_it_pays(ndk: NdkCustomer, shape: tuple[str | None, bool]) -> None:
    scheme, beside = shape
    asked = await ndk.ask(5050, LONG, [["model", "slow"]], bid=BID, scheme=scheme, beside=beside)
    await ndk.status(asked["job"], "payment-required")
    await ndk.cancel(asked["job"])
    assert (await ndk.status(asked["job"], "error"))["text"] == "cancelled"


@pytest.mark.parametrize("scheme", [None, "nip44", "nip04"])
async def test_ndk_stops_a_job_that_runs_and_keeps_what_it_read(
    shop: Bazaar, ndk: NdkCustomer, scheme: str | None
) -> None:
    asked = await ndk.ask(5050, LONG, [["model", "slow"]], scheme=scheme)
    await shop.wallet.pay(agreed(await ndk.status(asked["job"], "payment-required")))
    partial = await ndk.status(asked["job"], "partial")
    assert partial["content"]
    assert LONG[0][0].startswith(partial["content"])
    await ndk.cancel(asked["job"])
    assert (await ndk.status(asked["job"], "error"))["text"] == "cancelled"
    assert not [heard for heard in ndk.heard[asked["job"]] if heard["kind"] != 7000]


@pytest.mark.parametrize("scheme", [None, "nip44", "nip04"])
async def test_ndk_reads_why_a_request_is_refused(ndk: NdkCustomer, scheme: str | None) -> None:
    asked = await ndk.ask(5002, [["Good morning", "text"]], [["language", "klingonese"]], scheme=scheme)
    refusal = await ndk.status(asked["job"], "error")
    assert refusal["text"].startswith("invalid-param: language")
    assert refusal["content"] == refusal["text"]


def agreed(quote: Heard) -> str:
    """The invoice of a quote, which asks what the quote says, wherever it says it."""
    (msat, bolt11), *again = quote["amounts"]
    assert decode(bolt11).msat == int(msat)
    assert all(each == [msat, bolt11] for each in again)
    return str(bolt11)
