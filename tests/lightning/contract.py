"""What every wallet must do, written once; each wallet's test file runs it against itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256

import pytest

from dvm.lightning.base import InvoiceState, Wallet, WalletError
from dvm.lightning.bolt11 import decode

SETTLED, PENDING, FAILED, UNKNOWN = (
    InvoiceState.SETTLED,
    InvoiceState.PENDING,
    InvoiceState.FAILED,
    InvoiceState.UNKNOWN,
)


@dataclass
class Bench:
    """A started wallet, and the customer's: who pays an invoice, and asks for a payment of `msat`.

    `tells_strange`: the wallet says so when it has never heard of a payment."""

    wallet: Wallet
    pay: Callable[[str], Awaitable[object]]
    invoice: Callable[[int], Awaitable[str]]
    tells_strange: bool = True


class WalletContract:
    """Subclasses provide the fixture `bench`."""

    async def test_an_invoice_says_what_was_asked(self, bench: Bench) -> None:
        before = int(time.time())
        invoice = await bench.wallet.create_invoice(21_000, description="a job", expiry=600)
        said = decode(invoice.bolt11)
        assert (said.msat, invoice.msat) == (21_000, 21_000)
        assert said.payment_hash == invoice.payment_hash
        assert "a job" in (said.description or "")
        assert said.network == "regtest"
        assert before - 2 <= invoice.created_at <= time.time() + 2
        assert before + 598 <= invoice.expires_at <= time.time() + 602

    async def test_an_invoice_carries_a_description_hash(self, bench: Bench) -> None:
        assert (await bench.wallet.info()).capabilities.description_hash
        text = "a zap request, " + "much longer than an invoice's description may be" * 50
        digest = sha256(text.encode()).hexdigest()
        invoice = await bench.wallet.create_invoice(21_000, description=text, description_hash=digest, expiry=600)
        said = decode(invoice.bolt11)
        assert (said.description_hash, said.description) == (digest, None)
        with pytest.raises(WalletError):
            await bench.wallet.create_invoice(21_000, description="another", description_hash=digest, expiry=600)

    async def test_a_description_hash_alone_is_enough_or_said_not_to_be(self, bench: Bench) -> None:
        digest = sha256(b"a zap request").hexdigest()
        try:
            invoice = await bench.wallet.create_invoice(21_000, description_hash=digest, expiry=600)
        except WalletError as error:
            if error.code != "unsupported":
                raise
            return
        assert decode(invoice.bolt11).description_hash == digest

    async def test_unpaid_is_pending_and_strange_is_unknown(self, bench: Bench) -> None:
        invoice = await bench.wallet.create_invoice(21_000, description="a job", expiry=600)
        assert (await bench.wallet.lookup(invoice.payment_hash)).state is PENDING
        assert (await bench.wallet.lookup("ab" * 32)).state is UNKNOWN

    async def test_a_payment_is_pushed_and_proved_by_lookup(self, bench: Bench) -> None:
        hints = bench.wallet.settlements()
        invoice = await bench.wallet.create_invoice(21_000, description="a job", expiry=600)
        await bench.pay(invoice.bolt11)
        async with asyncio.timeout(60):
            while await anext(hints) != invoice.payment_hash:
                pass
        found = await bench.wallet.lookup(invoice.payment_hash)
        assert (found.state, found.msat) == (SETTLED, 21_000)
        assert abs((found.settled_at or 0) - time.time()) < 30

    async def test_many_are_looked_up_at_once(self, bench: Bench) -> None:
        since = int(time.time()) - 1
        invoices = [
            await bench.wallet.create_invoice(1_000 * n, description="one of many", expiry=600) for n in range(1, 31)
        ]
        for invoice in invoices[::7]:
            await bench.pay(invoice.bolt11)
        asked = [invoice.payment_hash for invoice in invoices]
        found = await bench.wallet.lookup_many([*asked, "cd" * 32], since)
        assert [found[h].state for h in asked] == [SETTLED if n % 7 == 0 else PENDING for n in range(30)]
        assert [found[i.payment_hash].msat for i in invoices[::7]] == [i.msat for i in invoices[::7]]
        assert found["cd" * 32].state is not SETTLED
        assert await bench.wallet.lookup_many([], since) == {}

    async def test_it_pays_once_and_says_so_when_asked_again(self, bench: Bench) -> None:
        bolt11 = await bench.invoice(5_000)
        before = (await bench.wallet.info()).balance_msat
        payment = await bench.wallet.pay(bolt11, fee_limit_msat=1_000)
        assert payment.state is SETTLED
        assert payment.preimage is not None
        assert sha256(bytes.fromhex(payment.preimage)).hexdigest() == decode(bolt11).payment_hash
        assert payment.preimage not in repr(payment)
        again = await bench.wallet.pay(bolt11, fee_limit_msat=1_000)
        assert again.state is SETTLED  # FAILED would be refunded: the money would have gone twice
        after = (await bench.wallet.info()).balance_msat
        assert before is not None
        assert after is not None
        assert before - after == 5_000 + payment.fee_msat

    async def test_a_payment_can_be_asked_about_afterwards(self, bench: Bench) -> None:
        bolt11 = await bench.invoice(6_000)
        payment_hash = decode(bolt11).payment_hash
        strange = await bench.wallet.payment(payment_hash)
        assert strange.state not in (SETTLED, FAILED)  # "never heard of it" is not "it has failed"
        assert not (bench.tells_strange and strange.known)
        paid = await bench.wallet.pay(bolt11, fee_limit_msat=1_000)
        found = await bench.wallet.payment(payment_hash)
        assert (found.state, found.known, found.fee_msat) == (SETTLED, True, paid.fee_msat)
        if found.preimage is not None:
            assert sha256(bytes.fromhex(found.preimage)).hexdigest() == payment_hash

    async def test_what_was_received_is_no_payment(self, bench: Bench) -> None:
        invoice = await bench.wallet.create_invoice(21_000, description="a job", expiry=600)
        assert (await bench.wallet.payment(invoice.payment_hash)).state not in (SETTLED, FAILED)
        await bench.pay(invoice.bolt11)
        assert (await bench.wallet.payment(invoice.payment_hash)).state not in (SETTLED, FAILED)

    async def test_what_is_no_hash_is_unknown(self, bench: Bench) -> None:
        for nonsense in ("", "no hash", "ab" * 31, "../getinfo", "zz" * 32):
            assert (await bench.wallet.payment(nonsense)).state is UNKNOWN
            assert (await bench.wallet.lookup(nonsense)).state is UNKNOWN

    async def test_what_is_no_invoice_is_not_paid(self, bench: Bench) -> None:
        for nonsense in ("", "lnbcrt1", "not an invoice", "lnbc1" + "q" * 9_000):
            with pytest.raises(WalletError):
                await bench.wallet.pay(nonsense, fee_limit_msat=1_000)

    async def test_amounts_that_are_no_amounts_are_refused(self, bench: Bench) -> None:
        for msat in (0, -1_000, 21_000_001 * 100_000_000_000):
            with pytest.raises(WalletError):
                await bench.wallet.create_invoice(msat, description="a job", expiry=600)

    async def test_closing_ends_the_settlements_and_is_safe_twice(self, bench: Bench) -> None:
        reader = asyncio.create_task(anext(bench.wallet.settlements(), None))
        await asyncio.sleep(0)
        await bench.wallet.close()
        async with asyncio.timeout(30):
            assert await reader is None
            assert await anext(bench.wallet.settlements(), None) is None
        await bench.wallet.close()
