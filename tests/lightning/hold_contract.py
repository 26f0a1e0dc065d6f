"""What every wallet with hold invoices must do, written once; each such wallet's test file runs it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256

import pytest

from dvm.lightning.base import HoldWallet, Invoice, InvoiceState, WalletError
from dvm.lightning.bolt11 import decode
from tests.lightning.contract import FAILED, PENDING, SETTLED

HELD = InvoiceState.HELD


@dataclass
class HoldBench:
    """A started wallet, and the payer.

    `pay` pays an invoice and returns when that is decided: the preimage, or None when the payment was
    refused or the money has come back. `balance` is what the payer can spend, in msat.
    """

    wallet: HoldWallet
    pay: Callable[[str], Awaitable[str | None]]
    balance: Callable[[], Awaitable[int]]


@dataclass
class Accepted:
    """A hold invoice that is paid and waits: `paying` ends when its payment is decided."""

    invoice: Invoice
    preimage: str
    paying: asyncio.Task[str | None]

    async def outcome(self) -> str | None:
        """What the payer has got: the preimage, or None and the money back."""
        async with asyncio.timeout(30):
            return await self.paying


def secret() -> tuple[str, str]:
    """A preimage and its payment hash."""
    preimage = secrets.token_bytes(32)
    return preimage.hex(), sha256(preimage).hexdigest()


async def hold_invoice(bench: HoldBench, msat: int = 21_000) -> tuple[Invoice, str]:
    """A hold invoice and its preimage."""
    preimage, payment_hash = secret()
    invoice = await bench.wallet.create_hold_invoice(msat, payment_hash=payment_hash, description="held", expiry=600)
    return invoice, preimage


async def reaches(bench: HoldBench, payment_hash: str, state: InvoiceState) -> None:
    async with asyncio.timeout(30):
        while (await bench.wallet.lookup(payment_hash)).state is not state:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def accepted(bench: HoldBench, msat: int = 21_000) -> AsyncIterator[Accepted]:
    """A hold invoice that has been paid. If it still waits at the end, it is cancelled."""
    invoice, preimage = await hold_invoice(bench, msat)
    paying = asyncio.ensure_future(bench.pay(invoice.bolt11))
    try:
        await reaches(bench, invoice.payment_hash, HELD)
        held = Accepted(invoice, preimage, paying)  # type: ignore[arg-type]
        yield held
        if (await bench.wallet.lookup(invoice.payment_hash)).state is HELD:
            await bench.wallet.cancel_hold(invoice.payment_hash)
        await held.outcome()
    finally:
        paying.cancel()
        await asyncio.gather(paying, return_exceptions=True)


class HoldContract:
    """Subclasses provide the fixture `hold_bench`."""

    async def test_it_says_that_it_can_hold(self, hold_bench: HoldBench) -> None:
        assert isinstance(hold_bench.wallet, HoldWallet)
        assert (await hold_bench.wallet.info()).capabilities.hold

    async def test_a_hold_invoice_says_what_was_asked(self, hold_bench: HoldBench) -> None:
        before = int(time.time())
        preimage, payment_hash = secret()
        invoice = await hold_bench.wallet.create_hold_invoice(
            21_000, payment_hash=payment_hash, description="a job", expiry=600
        )
        said = decode(invoice.bolt11)
        assert (said.payment_hash, invoice.payment_hash) == (payment_hash, payment_hash)
        assert (said.msat, invoice.msat) == (21_000, 21_000)
        assert "a job" in (said.description or "")
        assert abs(invoice.expires_at - before - 600) <= 5
        assert preimage not in repr(invoice)

    async def test_a_hold_invoice_carries_a_description_hash(self, hold_bench: HoldBench) -> None:
        digest = sha256(b"a zap request").hexdigest()
        invoice = await hold_bench.wallet.create_hold_invoice(
            21_000, payment_hash=secret()[1], description_hash=digest, expiry=600
        )
        assert decode(invoice.bolt11).description_hash == digest

    async def test_a_hash_has_one_invoice(self, hold_bench: HoldBench) -> None:
        invoice, _ = await hold_invoice(hold_bench)
        with pytest.raises(WalletError):
            await hold_bench.wallet.create_hold_invoice(
                5_000, payment_hash=invoice.payment_hash, description="again", expiry=600
            )
        assert (await hold_bench.wallet.lookup(invoice.payment_hash)).state is PENDING

    async def test_amounts_and_hashes_that_are_none_are_refused(self, hold_bench: HoldBench) -> None:
        for msat, payment_hash in ((0, secret()[1]), (-1_000, secret()[1]), (21_000, "ab"), (21_000, "x" * 64)):
            with pytest.raises(WalletError):
                await hold_bench.wallet.create_hold_invoice(
                    msat, payment_hash=payment_hash, description="a job", expiry=600
                )

    async def test_a_payment_is_pushed_and_waits(self, hold_bench: HoldBench) -> None:
        hints = hold_bench.wallet.settlements()
        invoice, _ = await hold_invoice(hold_bench)
        assert (await hold_bench.wallet.lookup(invoice.payment_hash)).state is PENDING
        paying = asyncio.ensure_future(hold_bench.pay(invoice.bolt11))
        async with asyncio.timeout(60):
            while await anext(hints) != invoice.payment_hash:
                pass
        await reaches(hold_bench, invoice.payment_hash, HELD)
        found = await hold_bench.wallet.lookup(invoice.payment_hash)
        assert (found.state, found.msat, found.settled_at) == (HELD, 21_000, None)
        assert found.blocks_left is None or found.blocks_left > 0
        assert not paying.done()
        await hold_bench.wallet.cancel_hold(invoice.payment_hash)
        assert await asyncio.wait_for(paying, 30) is None

    async def test_settling_takes_the_money_and_gives_the_preimage(self, hold_bench: HoldBench) -> None:
        async with accepted(hold_bench) as held:
            await hold_bench.wallet.settle_hold(held.preimage)
            assert await held.outcome() == held.preimage
            await reaches(hold_bench, held.invoice.payment_hash, SETTLED)
            found = await hold_bench.wallet.lookup(held.invoice.payment_hash)
            assert found.msat == 21_000
            assert abs((found.settled_at or 0) - time.time()) < 30

    async def test_settling_again_is_no_error(self, hold_bench: HoldBench) -> None:
        async with accepted(hold_bench) as held:
            await hold_bench.wallet.settle_hold(held.preimage)
            await held.outcome()
            await hold_bench.wallet.settle_hold(held.preimage)
            await reaches(hold_bench, held.invoice.payment_hash, SETTLED)

    async def test_cancelling_sends_the_money_back(self, hold_bench: HoldBench) -> None:
        before = await hold_bench.balance()
        async with accepted(hold_bench) as held:
            await hold_bench.wallet.cancel_hold(held.invoice.payment_hash)
            assert await held.outcome() is None
            await reaches(hold_bench, held.invoice.payment_hash, FAILED)
            async with asyncio.timeout(60):
                while await hold_bench.balance() != before:
                    await asyncio.sleep(0.02)

    async def test_cancelling_again_is_no_error(self, hold_bench: HoldBench) -> None:
        async with accepted(hold_bench) as held:
            for _ in range(2):
                await hold_bench.wallet.cancel_hold(held.invoice.payment_hash)
            assert await held.outcome() is None
            await reaches(hold_bench, held.invoice.payment_hash, FAILED)

    async def test_what_is_cancelled_before_it_is_paid_cannot_be_paid(self, hold_bench: HoldBench) -> None:
        invoice, preimage = await hold_invoice(hold_bench)
        await hold_bench.wallet.cancel_hold(invoice.payment_hash)
        assert (await hold_bench.wallet.lookup(invoice.payment_hash)).state is FAILED
        async with asyncio.timeout(30):
            assert await hold_bench.pay(invoice.bolt11) is None
        assert (await hold_bench.wallet.lookup(invoice.payment_hash)).state is FAILED
        with pytest.raises(WalletError):
            await hold_bench.wallet.settle_hold(preimage)

    async def test_settling_what_is_cancelled_is_an_error(self, hold_bench: HoldBench) -> None:
        async with accepted(hold_bench) as held:
            await hold_bench.wallet.cancel_hold(held.invoice.payment_hash)
            assert await held.outcome() is None
            with pytest.raises(WalletError):
                await hold_bench.wallet.settle_hold(held.preimage)
            assert (await hold_bench.wallet.lookup(held.invoice.payment_hash)).state is FAILED

    async def test_cancelling_what_is_settled_is_an_error(self, hold_bench: HoldBench) -> None:
        async with accepted(hold_bench) as held:
            await hold_bench.wallet.settle_hold(held.preimage)
            await held.outcome()
            await reaches(hold_bench, held.invoice.payment_hash, SETTLED)
            with pytest.raises(WalletError) as refused:
                await hold_bench.wallet.cancel_hold(held.invoice.payment_hash)
            assert refused.value.code == "failed"
            assert (await hold_bench.wallet.lookup(held.invoice.payment_hash)).state is SETTLED

    async def test_a_wrong_preimage_settles_nothing(self, hold_bench: HoldBench) -> None:
        async with accepted(hold_bench) as held:
            wrong = secret()[0]
            for preimage in (wrong, "ab", "", "x" * 64):
                with pytest.raises(WalletError) as refused:
                    await hold_bench.wallet.settle_hold(preimage)
                assert wrong not in str(refused.value)
            assert (await hold_bench.wallet.lookup(held.invoice.payment_hash)).state is HELD

    async def test_what_is_unpaid_cannot_be_settled(self, hold_bench: HoldBench) -> None:
        invoice, preimage = await hold_invoice(hold_bench)
        with pytest.raises(WalletError) as refused:
            await hold_bench.wallet.settle_hold(preimage)
        assert preimage not in str(refused.value)
        assert (await hold_bench.wallet.lookup(invoice.payment_hash)).state is PENDING

    async def test_many_are_looked_up_and_the_held_are_told(self, hold_bench: HoldBench) -> None:
        since = int(time.time()) - 1
        unpaid, _ = await hold_invoice(hold_bench)
        ordinary = await hold_bench.wallet.create_invoice(7_000, description="no hold", expiry=600)
        async with accepted(hold_bench, 5_000) as held:
            asked = [each.payment_hash for each in (unpaid, ordinary, held.invoice)]
            found = await hold_bench.wallet.lookup_many(asked, since)
            assert [found[h].state for h in asked] == [PENDING, PENDING, HELD]
            assert found[held.invoice.payment_hash].msat == 5_000
            await hold_bench.wallet.settle_hold(held.preimage)
            await held.outcome()
            await reaches(hold_bench, held.invoice.payment_hash, SETTLED)
            assert (await hold_bench.wallet.lookup_many(asked, since))[held.invoice.payment_hash].state is SETTLED
