"""Paying with LND, and LND, or what is between, failing meanwhile: nothing is paid twice, nothing that may still
be paid is called failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dvm.lightning.base import WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.lnd import LndWallet
from tests.lightning.contract import FAILED, PENDING, SETTLED, UNKNOWN
from tests.lightning.lnd_node import FAULTS, SEND, TRACK, Body, wallet_in
from tests.standins.lnd import Fault, LndStandin
from tests.standins.waiting import until


@pytest.fixture
async def wallet(node: LndStandin, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LndWallet]:
    async with wallet_in(request.node.name, node, tmp_path) as each:
        yield each


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_payment_is_never_made_twice_and_never_called_failed_in_doubt(
    node: LndStandin, wallet: LndWallet, fault: Fault
) -> None:
    """money.md 7, 15 and 26."""
    bolt11 = node.books.invoice_of_another(5_000)
    payment_hash = decode(bolt11).payment_hash
    node.faults[SEND] = fault
    before = node.books.balance
    try:
        state = (await wallet.pay(bolt11, fee_limit_msat=1_000)).state
    except WalletError:
        state = FAILED
    if fault.startswith("done"):
        assert state in (SETTLED, UNKNOWN)
    else:
        # What LND refuses itself is definite; everything else is open.
        assert state is (FAILED if fault in ("refuse", "locked") else UNKNOWN)
        assert node.books.balance == before
    node.faults.clear()
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is SETTLED
    assert (await wallet.payment(payment_hash)).state is SETTLED
    assert before - node.books.balance == 6_000


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_payment_that_cannot_be_looked_up_first_is_not_made(
    node: LndStandin, wallet: LndWallet, fault: Fault
) -> None:
    bolt11 = node.books.invoice_of_another(5_000)
    node.books.decide(node.books.send(bolt11), "FAILURE_REASON_NO_ROUTE")  # so that there is something to look at
    node.faults[TRACK] = fault
    with pytest.raises(WalletError):
        await wallet.pay(bolt11, fee_limit_msat=1_000)
    assert node.calls[SEND] == 0
    assert (await wallet.payment(decode(bolt11).payment_hash)).state is UNKNOWN


async def test_a_payment_that_takes_long_is_pending_until_it_is_decided(node: LndStandin, wallet: LndWallet) -> None:
    node.books.verdict = ""
    bolt11 = node.books.invoice_of_another(5_000)
    payment_hash = decode(bolt11).payment_hash
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is PENDING
    assert (await wallet.payment(payment_hash)).state is PENDING
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is PENDING
    assert node.calls[SEND] == 1
    node.books.decide(node.books.payments[payment_hash], "settle")
    found = await wallet.payment(payment_hash)
    assert (found.state, found.fee_msat) == (SETTLED, 1_000)


async def test_a_cut_while_it_is_under_way_is_pending(node: LndStandin, wallet: LndWallet) -> None:
    node.books.verdict = ""
    bolt11 = node.books.invoice_of_another(5_000)
    paying = asyncio.ensure_future(wallet.pay(bolt11, fee_limit_msat=1_000))
    await until(lambda: node.calls[SEND] == 1)
    await until(lambda: node.server.cut_streams() == 1)
    assert (await paying).state is PENDING


@pytest.mark.parametrize("reason", ["NO_ROUTE", "TIMEOUT", "ERROR", "INCORRECT_PAYMENT_DETAILS"])
async def test_a_failure_that_lnd_calls_final_is_final(node: LndStandin, wallet: LndWallet, reason: str) -> None:
    node.books.verdict = f"FAILURE_REASON_{reason}"
    bolt11 = node.books.invoice_of_another(5_000)
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is FAILED
    found = await wallet.payment(decode(bolt11).payment_hash)
    assert (found.state, found.known) == (FAILED, True)
    node.books.verdict = "settle"
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is SETTLED


async def test_too_little_balance_says_so(node: LndStandin, wallet: LndWallet) -> None:
    node.books.verdict = "FAILURE_REASON_INSUFFICIENT_BALANCE"
    with pytest.raises(WalletError) as failed:
        await wallet.pay(node.books.invoice_of_another(5_000), fee_limit_msat=1_000)
    assert failed.value.code == "insufficient"


async def test_an_old_failure_is_not_taken_for_that_of_an_attempt_that_got_lost(
    node: LndStandin, wallet: LndWallet
) -> None:
    """The second attempt may still be on its way to LND: "failed" would be refunded, and then it is paid."""
    node.books.verdict = "FAILURE_REASON_NO_ROUTE"
    bolt11 = node.books.invoice_of_another(5_000)
    payment_hash = decode(bolt11).payment_hash
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is FAILED
    node.faults[SEND] = "cut"
    lost = await wallet.pay(bolt11, fee_limit_msat=1_000)
    assert (lost.state, lost.known) == (UNKNOWN, False)
    found = await wallet.payment(payment_hash)
    assert (found.state, found.known) == (UNKNOWN, False)
    node.books.send(bolt11)  # there it is
    assert (await wallet.payment(payment_hash)).state is PENDING
    node.books.decide(node.books.payments[payment_hash], "FAILURE_REASON_NO_ROUTE")
    assert (await wallet.payment(payment_hash)).state is FAILED


async def test_two_attempts_at_once_are_one_payment(node: LndStandin, wallet: LndWallet) -> None:
    bolt11 = node.books.invoice_of_another(5_000)
    before = node.books.balance
    outcomes = await asyncio.gather(*(wallet.pay(bolt11, fee_limit_msat=1_000) for _ in range(5)))
    assert {outcome.state for outcome in outcomes} <= {SETTLED, PENDING}
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is SETTLED
    assert before - node.books.balance == 6_000


@pytest.mark.parametrize(
    "lie",
    [
        lambda told: {**told, "payment_preimage": "ab" * 32, "status": "SUCCEEDED"},
        lambda told: {**told, "payment_preimage": None, "status": "SUCCEEDED"},
        lambda told: {**told, "fee_msat": "-5", "status": "SUCCEEDED"},
        lambda told: {**told, "payment_hash": "ab" * 32, "status": "FAILED"},
        lambda told: {**told, "status": "LOST"},
        lambda told: {**told, "payment_index": "x"},
        lambda told: {},
        lambda told: [],
        lambda told: "done",
    ],
)
async def test_a_payment_that_does_not_add_up_is_unknown(
    node: LndStandin, wallet: LndWallet, lie: Callable[[Body], Any]
) -> None:
    bolt11 = node.books.invoice_of_another(5_000)
    node.twisted["/v2/router"] = lie
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is UNKNOWN
    assert (await wallet.payment(decode(bolt11).payment_hash)).state is UNKNOWN
    node.twisted.clear()
    assert (await wallet.payment(decode(bolt11).payment_hash)).state is SETTLED


async def test_an_invoice_to_ourselves_is_refused(node: LndStandin, wallet: LndWallet) -> None:
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
    with pytest.raises(WalletError, match="self-payments"):
        await wallet.pay(invoice.bolt11, fee_limit_msat=1_000)


async def test_a_line_without_an_end_is_cut_off(node: LndStandin, wallet: LndWallet) -> None:
    bolt11 = node.books.invoice_of_another(5_000)
    node.twisted["/v2/router"] = lambda told: {**told, "htlcs": "x" * (2 << 20)}
    assert (await wallet.pay(bolt11, fee_limit_msat=1_000)).state is UNKNOWN
