"""LND, or what is between, failing in every way: nothing is paid twice, nothing unproven is money, nothing raises
but WalletError."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.lnd import LndWallet
from dvm.lightning.lnd_macaroon import parse
from dvm.lightning.rest import NotSent
from tests.lightning.contract import PENDING, SETTLED, UNKNOWN
from tests.lightning.hold_contract import HELD, secret
from tests.lightning.lnd_node import FAULTS, Body, wallet_in
from tests.standins.lnd import Fault, LndStandin, bake, lnd_standin
from tests.standins.waiting import until


@pytest.fixture
async def wallet(node: LndStandin, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LndWallet]:
    async with wallet_in(request.node.name, node, tmp_path) as each:
        yield each


# --- invoices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_invoice_that_is_not_made_says_why(node: LndStandin, wallet: LndWallet, fault: Fault) -> None:
    node.faults["/v1/invoices"] = fault
    with pytest.raises(WalletError) as failed:
        await wallet.create_invoice(21_000, description="a job", expiry=600)
    expected = {"refuse": "failed", "html": "untrustworthy", "html-500": "failed"}
    assert failed.value.code == expected.get(fault, "unreachable")
    assert node.admin not in str(failed.value)


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_cannot_be_looked_up_is_unknown(node: LndStandin, wallet: LndWallet, fault: Fault) -> None:
    """money.md 14: also when it has settled."""
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
    await node.books.receive(invoice.bolt11)
    node.faults["/v1/invoice"] = fault
    assert (await wallet.lookup(invoice.payment_hash)).state is UNKNOWN
    assert (await wallet.lookup_many([invoice.payment_hash], 0))[invoice.payment_hash].state is UNKNOWN
    node.faults.clear()
    assert (await wallet.lookup(invoice.payment_hash)).state is SETTLED


def other_amount(answer: Body) -> Body:
    return {**answer, "payment_request": LndStandin().books.add(22_000, "a job", None, 600).bolt11}


def other_hash(answer: Body) -> Body:
    return {**answer, "r_hash": "A" * 43 + "="}


@pytest.mark.parametrize(
    "lie",
    [
        other_amount,
        other_hash,
        lambda answer: {**answer, "payment_request": "lnbcrt1"},
        lambda answer: {**answer, "payment_request": None},
        lambda answer: {**answer, "r_hash": 7},
        lambda answer: {},
        lambda answer: [answer],
        lambda answer: "done",
    ],
)
async def test_an_invoice_that_is_another_is_not_given_away(
    node: LndStandin, wallet: LndWallet, lie: Callable[[Body], Any]
) -> None:
    node.twisted["/v1/invoices"] = lie
    with pytest.raises(WalletError) as refused:
        await wallet.create_invoice(21_000, description="a job", expiry=600)
    assert refused.value.code == "untrustworthy"


async def test_an_invoice_for_another_network_is_not_given_away(tmp_path: Path) -> None:
    async with lnd_standin("signet") as node:
        wallet = LndWallet(node.url, parse(node.admin), tmp_path, network="mainnet")
        with pytest.raises(WalletError, match="signet"):
            await wallet.create_invoice(21_000, description="a job", expiry=600)
        assert (await wallet.info()).network == "signet"
        await wallet.close()


@pytest.mark.parametrize("skew", [-7_200, -300, 300, 7_200])
async def test_a_clock_that_is_wrong_makes_no_invoice_look_paid_or_failed(
    node: LndStandin, wallet: LndWallet, skew: int
) -> None:
    node.books.skew = skew
    if skew <= -600:
        with pytest.raises(WalletError, match="clock"):
            await wallet.create_invoice(21_000, description="a job", expiry=600)
        return
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
    assert (await wallet.lookup(invoice.payment_hash)).state is PENDING
    await node.books.receive(invoice.bolt11)
    assert (await wallet.lookup(invoice.payment_hash)).state is SETTLED


@pytest.mark.parametrize(
    "lie",
    [
        lambda told: {**told, "r_hash": "A" * 43 + "="},
        lambda told: {**told, "state": "PAID"},
        lambda told: {**told, "state": None},
        lambda told: {**told, "amt_paid_msat": "0"},
        lambda told: {**told, "amt_paid_msat": "-21000"},
        lambda told: {**told, "amt_paid_msat": "9" * 400},
        lambda told: {**told, "amt_paid_msat": 21_000.5},
        lambda told: {**told, "amt_paid_msat": True},
        lambda told: {**told, "amt_paid_msat": str(1 << 62)},
        lambda told: {**told, "settle_date": "tomorrow"},
        lambda told: {**told, "add_index": [1]},
        lambda told: {**told, "state": "ACCEPTED", "htlcs": None},
        lambda told: {**told, "state": "ACCEPTED", "htlcs": [7, {"state": "CANCELED", "amt_msat": "21000"}]},
        lambda told: {},
        lambda told: [],
        lambda told: None,
    ],
)
async def test_a_settlement_that_does_not_add_up_is_unknown(
    node: LndStandin, wallet: LndWallet, lie: Callable[[Body], Any]
) -> None:
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
    await node.books.receive(invoice.bolt11)
    node.twisted["/v1/invoice"] = lie
    assert (await wallet.lookup(invoice.payment_hash)).state is UNKNOWN
    node.twisted["/v1/invoices"] = lambda listed: {"invoices": [lie(each) for each in listed["invoices"]]}
    assert (await wallet.lookup_many([invoice.payment_hash], 0))[invoice.payment_hash].state is not SETTLED


@pytest.mark.parametrize(
    "lie",
    [
        lambda listed: {"invoices": listed["invoices"] * 2_000},
        lambda listed: {"invoices": [{**listed["invoices"][0], "add_index": "5"}] * 1_000},  # for ever the same page
        lambda listed: {"invoices": "none"},
        lambda listed: {},
        lambda listed: [],
    ],
)
async def test_a_list_that_is_none_ends(node: LndStandin, wallet: LndWallet, lie: Callable[[Body], Any]) -> None:
    node.books.fake(5_000)
    node.twisted["/v1/invoices"] = lie
    found = await wallet.lookup_many(["ab" * 32], 0)
    assert found["ab" * 32].state is UNKNOWN
    assert node.calls.total() <= 3


# --- pushes ---------------------------------------------------------------------------------------------


async def test_a_push_that_lies_is_a_hint_and_no_more(node: LndStandin, wallet: LndWallet) -> None:
    hints = wallet.settlements()
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
    await until(lambda: node.books.listeners)
    told = node.books.find(invoice.payment_hash).json()
    for lie in ({}, {"state": "SETTLED"}, {**told, "r_hash": "x"}, {**told, "state": "SETTLED", "amt_paid_msat": "0"}):
        node.books.push(lie)
    node.books.push({**told, "state": "SETTLED", "amt_paid_msat": "21000", "settle_index": "1"})
    async with asyncio.timeout(60):
        assert await anext(hints) == invoice.payment_hash
    assert (await wallet.lookup(invoice.payment_hash)).state is PENDING
    assert (await wallet.lookup_many([invoice.payment_hash], 0))[invoice.payment_hash].state is PENDING


async def test_a_push_that_comes_twice_is_told_once(node: LndStandin, wallet: LndWallet) -> None:
    node.books.repeat_pushes = 2
    hints = wallet.settlements()
    await until(lambda: node.books.listeners)
    sold = [node.books.fake(5_000) for _ in range(3)]
    for invoice in sold:
        await node.books.receive_for(invoice)
    async with asyncio.timeout(60):
        assert [await anext(hints) for _ in sold] == [invoice.payment_hash for invoice in sold]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_stream_that_fails_is_one_line_in_the_log(
    node: LndStandin, wallet: LndWallet, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node.faults["/v1/invoices/subscribe"] = fault
    hints = wallet.settlements()
    await until(lambda: node.calls["/v1/invoices/subscribe"] >= (1 if "hang" in fault else 4))
    node.faults.clear()
    node.server.cut_streams()
    invoice = node.books.fake(5_000)
    await node.books.receive_for(invoice)
    async with asyncio.timeout(60):
        assert await anext(hints) == invoice.payment_hash
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) <= 1
    assert node.admin not in caplog.text


# --- holds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_became_of_settling_is_told_by_the_look_up(
    node: LndStandin, wallet: LndWallet, fault: Fault
) -> None:
    preimage, payment_hash = secret()
    invoice = await wallet.create_hold_invoice(21_000, payment_hash=payment_hash, description="a job", expiry=600)
    paying = asyncio.ensure_future(node.books.receive(invoice.bolt11))
    await until(lambda: node.books.find(payment_hash).state == "ACCEPTED")
    node.faults["/v2/invoices/settle"] = fault
    with pytest.raises(WalletError) as failed:
        await wallet.settle_hold(preimage)
    assert preimage not in str(failed.value)
    assert (await wallet.lookup(payment_hash)).state is (SETTLED if fault.startswith("done") else HELD)
    node.faults.clear()
    await wallet.settle_hold(preimage)
    assert await paying == preimage
    assert (await wallet.lookup(payment_hash)).state is SETTLED


async def test_an_error_that_repeats_the_preimage_is_not_repeated(node: LndStandin, wallet: LndWallet) -> None:
    preimage, _ = secret()
    node.faults["/v2/invoices/settle"] = "refuse"
    node.refusal = f"cannot settle {preimage}"
    with pytest.raises(WalletError) as failed:
        await wallet.settle_hold(preimage)
    assert preimage not in str(failed.value)


async def test_cancelling_what_lnd_has_deleted_is_no_error(node: LndStandin, wallet: LndWallet) -> None:
    """LND can be set to delete what is cancelled."""
    await wallet.cancel_hold("ab" * 32)


# --- keys and connections -------------------------------------------------------------------------------


async def test_each_usual_mistake_is_named(node: LndStandin, tmp_path: Path) -> None:
    async def said(macaroon: str, url: str = node.url) -> WalletError:
        wallet = LndWallet(url, parse(macaroon), tmp_path, timeout=2.0)
        with pytest.raises(WalletError) as failed:
            await wallet.info()
        assert macaroon not in str(failed.value)
        await wallet.close()
        return failed.value

    stranger = await said(bake())
    assert (stranger.code, "not this node's" in str(stranger)) == ("unauthorized", True)
    limited = await said(node.invoicing)
    assert (limited.code, "bakemacaroon" in str(limited)) == ("restricted", True)
    node.faults["/v1/getinfo"] = "locked"
    locked = await said(node.admin)
    assert isinstance(locked, NotSent)
    assert "unlock" in str(locked)
    node.faults["/v1/getinfo"] = "refuse"
    node.refusal = 'caveat "time-before 2024" not satisfied: macaroon has expired'
    assert "expired" in str(await said(node.admin))
    elsewhere = await said(node.admin, node.url + "/elsewhere")
    assert (elsewhere.code, "REST interface" in str(elsewhere)) == ("unsupported", True)
    await node.server.stop()
    assert isinstance(await said(node.admin), NotSent)


async def test_a_wallet_that_is_closed_raises_nothing_else(node: LndStandin, wallet: LndWallet) -> None:
    await wallet.close()
    with pytest.raises(WalletError):
        await wallet.info()
    with pytest.raises(WalletError):
        await wallet.pay(node.books.invoice_of_another(5_000), fee_limit_msat=1_000)
    assert (await wallet.lookup("ab" * 32)).state is InvoiceState.UNKNOWN
    assert (await wallet.payment("ab" * 32)).state is InvoiceState.UNKNOWN
    assert (await wallet.lookup_many(["ab" * 32], 0))["ab" * 32].state is InvoiceState.UNKNOWN
