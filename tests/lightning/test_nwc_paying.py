"""Paying over Nostr Wallet Connect: refusals, lost answers, and what is only decided later."""

from __future__ import annotations

import asyncio

import pytest

from dvm.lightning.base import WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.nip47 import ERRORS
from dvm.lightning.nwc_client import Options
from tests.lightning.connected import IMPATIENT, Setup, asked, foreign_invoice, payer, result, setup
from tests.lightning.contract import FAILED, PENDING, SETTLED, UNKNOWN
from tests.lightning.hold_contract import HELD, secret
from tests.standins.waiting import until


@pytest.mark.parametrize("code", ["INSUFFICIENT_BALANCE", "QUOTA_EXCEEDED", "RESTRICTED", "PAYMENT_FAILED", "OTHER"])
async def test_a_refused_payment_that_the_wallet_does_not_know_has_not_left(code: str) -> None:
    async with setup() as ready:
        ready.shop.faults.errors["pay_invoice"] = code
        with pytest.raises(WalletError) as error:
            await ready.wallet.pay(asked(ready), fee_limit_msat=0)
        assert error.value.code == ERRORS[code]


async def test_07_a_refusal_after_the_payment_is_no_refund() -> None:
    """money.md 7: a refund pays twice after a blind retry."""
    async with setup() as ready:
        bolt11 = asked(ready)
        assert (await ready.wallet.pay(bolt11, fee_limit_msat=0)).state is SETTLED
        for code in ("PAYMENT_FAILED", "INSUFFICIENT_BALANCE", "INTERNAL"):
            ready.shop.faults.errors["pay_invoice"] = code
            assert (await ready.wallet.pay(bolt11, fee_limit_msat=0)).state is SETTLED
        assert ready.node.balance("shop") == 995_000


async def test_07_a_payment_whose_answer_is_lost_is_found_or_stays_unknown() -> None:
    async with setup(options=IMPATIENT) as ready:
        ready.shop.faults.drop_responses = 1
        assert (await ready.wallet.pay(asked(ready), fee_limit_msat=0)).state is SETTLED
        bolt11 = asked(ready)
        ready.shop.faults.drop_responses = True
        assert (await ready.wallet.pay(bolt11, fee_limit_msat=0)).state is UNKNOWN
        ready.shop.faults.drop_responses = 0
        assert (await ready.wallet.pay(bolt11, fee_limit_msat=0)).state is SETTLED
        assert ready.node.balance("shop") == 990_000
        assert ready.shop.counters.by_method["pay_invoice"] == 3  # a payment is not asked for again by itself


async def test_15_not_found_after_no_answer_is_unknown() -> None:
    """money.md 15: "not found", refund, and then the payment settles after all."""
    async with setup(options=IMPATIENT) as ready:
        ready.shop.faults.drop_requests = 1
        assert (await ready.wallet.pay(asked(ready), fee_limit_msat=0)).state is UNKNOWN


async def test_a_wrong_preimage_proves_nothing() -> None:
    async with setup() as ready:
        ready.shop.faults.tamper = result(lambda r: r | {"preimage": "ab" * 32})
        payment = await ready.wallet.pay(asked(ready), fee_limit_msat=0)
        assert payment.preimage is None  # the look-up says that it is settled; the proof is not one


@pytest.mark.parametrize("fee", [(1 << 64) - 1, -1, 1.5, "7", True, None])
async def test_a_fee_that_cannot_be_is_none(fee: object) -> None:
    async with setup() as ready:
        ready.shop.faults.tamper = result(lambda r: r | {"fees_paid": fee})
        payment = await ready.wallet.pay(asked(ready), fee_limit_msat=0)
        assert (payment.state, payment.fee_msat) == (SETTLED, 0)


async def test_an_invoice_without_an_amount_or_past_its_time_is_not_paid() -> None:
    async with setup() as ready:
        for text in (foreign_invoice(msat=None), foreign_invoice(created_at=1_500_000_000)):
            with pytest.raises(WalletError) as error:
                await ready.wallet.pay(text, fee_limit_msat=0)
            assert error.value.code == "failed"
        assert "pay_invoice" not in ready.shop.counters.by_method


async def test_without_a_relay_nothing_has_left() -> None:
    async with setup(options=IMPATIENT) as ready:
        bolt11 = asked(ready)
        await ready.relay.stop()
        await until(lambda: not ready.wallet._client._speak.connected)
        with pytest.raises(WalletError) as error:
            await ready.wallet.pay(bolt11, fee_limit_msat=0)
        assert error.value.code == "unreachable"


# --- what became of a payment --------------------------------------------------------------------------


async def test_a_payment_that_cannot_be_asked_about_may_have_left() -> None:
    """Only "not found" says that the wallet has never heard of it."""
    async with setup(options=IMPATIENT) as ready:
        bolt11 = asked(ready)
        payment_hash = decode(bolt11).payment_hash
        assert (await ready.wallet.payment(payment_hash)).known is False
        for code in ("INTERNAL", "RESTRICTED", "UNAUTHORIZED", "NOT_IMPLEMENTED", "OTHER"):
            ready.shop.faults.errors["lookup_invoice"] = code
            told = await ready.wallet.payment(payment_hash)
            assert (told.state, told.known) == (UNKNOWN, True)
        ready.shop.faults.errors.clear()
        for tamper in (lambda m, b: "<html>", result(lambda r: r | {"amount": -1})):
            await ready.wallet.pay(bolt11, fee_limit_msat=0)
            ready.shop.faults.tamper = tamper
            told = await ready.wallet.payment(payment_hash)
            assert (told.state, told.known) == (UNKNOWN, True)
            ready.shop.faults.tamper = None
        ready.shop.faults.drop_requests = True
        told = await ready.wallet.payment(payment_hash)
        assert (told.state, told.known) == (UNKNOWN, True)
        ready.shop.faults.drop_requests = False
        assert (await ready.wallet.payment(payment_hash)).state is SETTLED


# --- hold invoices, from the payer's side --------------------------------------------------------------


async def hold_invoice(ready: Setup) -> tuple[str, str, str]:
    """The shop's hold invoice, its payment hash and its preimage."""
    preimage, payment_hash = secret()
    invoice = await ready.wallet.create_hold_invoice(21_000, payment_hash=payment_hash, description="x", expiry=600)
    return invoice.bolt11, payment_hash, preimage


async def test_paying_a_hold_invoice_is_answered_when_it_is_decided() -> None:
    async with setup() as ready, payer(ready) as customer:
        for end in ("settled", "cancelled"):
            bolt11, payment_hash, preimage = await hold_invoice(ready)
            paying = asyncio.create_task(customer.pay(bolt11, fee_limit_msat=0))
            await until(lambda h=payment_hash: ready.node.lookup("shop", h).state is HELD)
            assert (await customer.payment(payment_hash)).state is PENDING
            assert not paying.done()
            if end == "settled":
                await ready.wallet.settle_hold(preimage)
                assert (await paying).preimage == preimage
                assert (await customer.payment(payment_hash)).state is SETTLED
            else:
                await ready.wallet.cancel_hold(payment_hash)
                assert (await paying).state is FAILED
                assert (await customer.payment(payment_hash)).state is FAILED
        assert ready.node.balance("customer") == 10_000_000 - 21_000


async def test_a_payment_that_waits_longer_than_its_payer_is_pending_and_not_paid_again() -> None:
    async with setup() as ready, payer(ready, IMPATIENT) as customer:
        bolt11, payment_hash, preimage = await hold_invoice(ready)
        for _ in range(2):
            assert (await customer.pay(bolt11, fee_limit_msat=0)).state is PENDING
        assert ready.node.balance("customer") == 10_000_000 - 21_000
        await ready.wallet.settle_hold(preimage)
        assert (await customer.payment(payment_hash)).preimage == preimage
        assert (await customer.pay(bolt11, fee_limit_msat=0)).state is SETTLED
        assert ready.node.balance("customer") == 10_000_000 - 21_000


async def test_payments_that_wait_do_not_hold_up_the_rest() -> None:
    options = Options(timeout=5.0, pay_timeout=30.0, concurrency=2)
    async with setup() as ready, payer(ready, options) as customer:
        held = [await hold_invoice(ready) for _ in range(4)]
        paying = [asyncio.create_task(customer.pay(bolt11, fee_limit_msat=0)) for bolt11, _, _ in held]
        await until(lambda: all(ready.node.lookup("shop", h).state is HELD for _, h, _ in held))
        assert (await customer.info()).balance_msat == 10_000_000 - 4 * 21_000
        for _, payment_hash, _ in held:
            await ready.wallet.cancel_hold(payment_hash)
        assert {payment.state for payment in await asyncio.gather(*paying)} == {FAILED}


# --- hold invoices, from the shop's side ---------------------------------------------------------------


async def test_what_is_done_and_not_answered_is_done() -> None:
    async with setup(options=IMPATIENT) as ready:
        ready.shop.faults.silent = {"settle_hold_invoice", "cancel_hold_invoice"}
        for end in (SETTLED, FAILED):
            bolt11, payment_hash, preimage = await hold_invoice(ready)
            ready.node.pay(bolt11, payer="customer")
            if end is SETTLED:
                await ready.wallet.settle_hold(preimage)
            else:
                await ready.wallet.cancel_hold(payment_hash)
            assert ready.node.lookup("shop", payment_hash).state is end


async def test_what_cannot_be_learned_is_an_error() -> None:
    async with setup(options=IMPATIENT) as ready:
        bolt11, payment_hash, preimage = await hold_invoice(ready)
        ready.node.pay(bolt11, payer="customer")
        ready.shop.faults.drop_requests = True
        for call in (ready.wallet.settle_hold(preimage), ready.wallet.cancel_hold(payment_hash)):
            with pytest.raises(WalletError) as error:
                await call
            assert error.value.code == "unreachable"
            assert preimage not in str(error.value)
        assert ready.node.lookup("shop", payment_hash).state is HELD


async def test_a_wallet_without_hold_invoices_says_so() -> None:
    async with setup(methods=["get_info", "make_invoice", "lookup_invoice"]) as ready:
        assert not (await ready.wallet.info()).capabilities.hold
        with pytest.raises(WalletError) as error:
            await hold_invoice(ready)
        assert error.value.code == "restricted"
        ready.shop.faults.errors["make_hold_invoice"] = "NOT_IMPLEMENTED"
        with pytest.raises(WalletError) as error:
            await hold_invoice(ready)
        assert error.value.code == "unsupported"


async def test_a_hold_invoice_over_another_hash_is_refused() -> None:
    async with setup() as ready:
        await ready.wallet.info()
        other = bytes(32)
        ready.shop.faults.tamper = result(
            lambda r: r | {"invoice": foreign_invoice(payment_hash=other), "payment_hash": other.hex()}
        )
        with pytest.raises(WalletError, match="another payment hash") as error:
            await hold_invoice(ready)
        assert error.value.code == "untrustworthy"


async def test_what_waits_too_long_goes_back() -> None:
    async with setup() as ready, payer(ready) as customer:
        bolt11, payment_hash, preimage = await hold_invoice(ready)
        ready.node.mine(100)
        paying = asyncio.create_task(customer.pay(bolt11, fee_limit_msat=0))
        await until(lambda: ready.node.lookup("shop", payment_hash).state is HELD)
        assert (await ready.wallet.lookup(payment_hash)).blocks_left == 144
        ready.node.mine(144)
        assert (await paying).state is FAILED
        assert (await ready.wallet.lookup(payment_hash)).state is FAILED
        with pytest.raises(WalletError):
            await ready.wallet.settle_hold(preimage)
        assert ready.node.balance("customer") == 10_000_000
