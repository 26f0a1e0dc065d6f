"""NIP-47 with parts that nobody here wrote: a real Lightning network (LDK), Alby's client, Alby's service."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256

import pytest
import pytest_asyncio
from coincurve import PrivateKey

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import decode, encode
from dvm.lightning.nwc import NwcWallet
from dvm.lightning.nwc_client import Options
from dvm.lightning.paper_node import PaperNode
from dvm.lightning.paper_service import PaperService
from dvm.nostr.encryption import Scheme
from tests.lightning.contract import FAILED, PENDING, SETTLED, UNKNOWN, Bench, WalletContract
from tests.lightning.hold_contract import HELD, HoldBench, HoldContract, accepted, hold_invoice, reaches
from tests.standins.ldk import LdkNetwork, ldk_network, program
from tests.standins.relay import TestRelay, local_relay, running_relay

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="module")]

PATIENT = Options(timeout=20.0, pay_timeout=20.0, resend=0.5, backoff=0.05, poll=0.2)


@dataclass
class Network:
    relay: TestRelay
    ldk: LdkNetwork


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network() -> AsyncIterator[Network]:
    program()
    async with running_relay() as relay, ldk_network(relay.url) as ldk:
        yield Network(relay, ldk)


@pytest_asyncio.fixture(loop_scope="module")
async def bench(network: Network) -> AsyncIterator[Bench]:
    shop, customer = (NwcWallet(uri, options=PATIENT) for uri in (network.ldk.shop, network.ldk.customer))
    await shop.start()
    await customer.start()

    async def invoice(msat: int) -> str:
        return (await customer.create_invoice(msat, description="change", expiry=600)).bolt11

    async def pay(bolt11: str) -> None:
        assert (await customer.pay(bolt11, fee_limit_msat=10_000)).state is SETTLED

    yield Bench(shop, pay, invoice)
    await shop.close()
    await customer.close()


@pytest_asyncio.fixture(loop_scope="module")
async def hold_bench(network: Network) -> AsyncIterator[HoldBench]:
    shop, customer = (NwcWallet(uri, options=PATIENT) for uri in (network.ldk.shop, network.ldk.customer))
    await shop.start()
    await customer.start()

    async def pay(bolt11: str) -> str | None:
        try:
            payment = await customer.pay(bolt11, fee_limit_msat=10_000)
        except WalletError:
            return None
        assert payment.state in (SETTLED, FAILED)
        return payment.preimage

    async def balance() -> int:
        return (await customer.info()).balance_msat or 0

    yield HoldBench(shop, pay, balance)
    await shop.close()
    await customer.close()


class TestLdk(WalletContract, HoldContract):
    """The contracts, over real channels."""


async def test_a_payment_in_flight_is_unknown_until_it_is_final(network: Network, bench: Bench) -> None:
    """money.md 15: "not found" or no answer, refund, and then the payment settles after all."""
    payer = NwcWallet(network.ldk.customer, options=Options(timeout=10.0, pay_timeout=1.0, backoff=0.05))
    await payer.start()
    invoice = await bench.wallet.create_invoice(33_000, description="slow", expiry=600)
    await network.ldk.post("/disconnect?how=stall")
    payment = await payer.pay(invoice.bolt11, fee_limit_msat=1_000)
    assert payment.state is PENDING
    assert (await payer.payment(invoice.payment_hash)).state is PENDING
    assert (await bench.wallet.lookup(invoice.payment_hash)).state is PENDING
    await network.ldk.post("/disconnect")
    await network.ldk.post("/reconnect")
    async with asyncio.timeout(30):
        while (again := await payer.pay(invoice.bolt11, fee_limit_msat=1_000)).state is not SETTLED:
            assert again.state is PENDING
    assert (await payer.payment(invoice.payment_hash)).state is SETTLED
    assert (await bench.wallet.lookup(invoice.payment_hash)).state is SETTLED
    await payer.close()


async def test_without_a_route_the_payment_fails_for_certain(network: Network, bench: Bench) -> None:
    payer = NwcWallet(network.ldk.customer, options=PATIENT)
    await payer.start()
    invoice = await bench.wallet.create_invoice(34_000, description="no way", expiry=600)
    await network.ldk.post("/disconnect")
    with pytest.raises(WalletError) as failed:
        await payer.pay(invoice.bolt11, fee_limit_msat=1_000)
    assert failed.value.code in ("failed", "insufficient")
    await network.ldk.post("/reconnect")
    await bench.pay(invoice.bolt11)
    await payer.close()


# --- hold invoices -------------------------------------------------------------------------------------


async def test_the_blocks_that_are_left_are_counted_and_at_the_deadline_the_money_goes_back(
    network: Network, hold_bench: HoldBench
) -> None:
    before = await hold_bench.balance()
    async with accepted(hold_bench) as held:
        payment_hash = held.invoice.payment_hash
        left = (await hold_bench.wallet.lookup(payment_hash)).blocks_left
        assert left is not None
        assert 24 <= left <= 144 + 120  # what was asked for, and the payer's blocks for privacy
        await network.ldk.post("/block?n=3")
        async with asyncio.timeout(60):
            while (await hold_bench.wallet.lookup(payment_hash)).blocks_left != left - 3:
                await asyncio.sleep(0.1)
        await network.ldk.post(f"/block?n={left}")
        await reaches(hold_bench, payment_hash, FAILED)
        assert await held.outcome() is None
        with pytest.raises(WalletError):
            await hold_bench.wallet.settle_hold(held.preimage)
    async with asyncio.timeout(60):
        while await hold_bench.balance() != before:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("end", [SETTLED, FAILED])
async def test_the_link_is_cut_while_a_hold_invoice_waits(
    network: Network, hold_bench: HoldBench, end: InvoiceState
) -> None:
    async with accepted(hold_bench) as held:
        payment_hash = held.invoice.payment_hash
        await network.ldk.post("/disconnect")
        assert (await hold_bench.wallet.lookup(payment_hash)).state is HELD
        if end is SETTLED:
            await hold_bench.wallet.settle_hold(held.preimage)
        else:
            await hold_bench.wallet.cancel_hold(payment_hash)
        assert (await hold_bench.wallet.lookup(payment_hash)).state is end
        assert not held.paying.done()  # the payer cannot know yet
        await network.ldk.post("/reconnect")
        assert await held.outcome() == (held.preimage if end is SETTLED else None)


async def test_a_held_payment_is_pending_for_its_payer_until_it_is_decided(
    network: Network, hold_bench: HoldBench
) -> None:
    payer = NwcWallet(network.ldk.customer, options=Options(timeout=10.0, pay_timeout=1.0, backoff=0.05))
    await payer.start()
    for end in (SETTLED, FAILED):
        invoice, preimage = await hold_invoice(hold_bench)
        assert (await payer.pay(invoice.bolt11, fee_limit_msat=1_000)).state is PENDING
        assert (await payer.payment(invoice.payment_hash)).state is PENDING
        await reaches(hold_bench, invoice.payment_hash, HELD)
        if end is SETTLED:
            await hold_bench.wallet.settle_hold(preimage)
        else:
            await hold_bench.wallet.cancel_hold(invoice.payment_hash)
        async with asyncio.timeout(60):
            while (told := await payer.payment(invoice.payment_hash)).state is not end:
                assert told.state is PENDING
        assert told.preimage == (preimage if end is SETTLED else None)
    await payer.close()


async def test_an_accepted_hold_invoice_whose_push_is_lost_is_found(network: Network, hold_bench: HoldBench) -> None:
    since = int(time.time())
    await network.ldk.post("/knobs", {"wallet": "shop", "dropNotifications": True})
    try:
        async with accepted(hold_bench) as held:
            payment_hash = held.invoice.payment_hash
            found = await hold_bench.wallet.lookup_many([payment_hash], since)
            assert (found[payment_hash].state, found[payment_hash].msat) == (HELD, 21_000)
            assert (found[payment_hash].blocks_left or 0) > 0
    finally:
        await network.ldk.post("/knobs", {"wallet": "shop", "dropNotifications": False})


# --- what a wallet may do ------------------------------------------------------------------------------


async def test_a_lost_push_is_found_and_a_lie_is_not_believed(network: Network, bench: Bench) -> None:
    """money.md, rule 7: a push is a hint to look."""
    lost = await bench.wallet.create_invoice(35_000, description="lost", expiry=600)
    lied = await bench.wallet.create_invoice(36_000, description="lied", expiry=600)
    hints = bench.wallet.settlements()
    await network.ldk.post("/knobs", {"wallet": "shop", "dropNotifications": True})
    await bench.pay(lost.bolt11)
    await network.ldk.post("/knobs", {"wallet": "shop", "dropNotifications": False})
    await network.ldk.post(
        "/notify",
        {
            "wallet": "shop",
            "type": "payment_received",
            "notification": {
                "type": "incoming",
                "state": "settled",
                "payment_hash": lied.payment_hash,
                "amount": 36_000,
                "settled_at": int(time.time()),
            },
        },
    )
    async with asyncio.timeout(60):
        while await anext(hints) != lied.payment_hash:
            pass
    found = await bench.wallet.lookup_many([lost.payment_hash, lied.payment_hash], lost.created_at)
    assert found[lost.payment_hash].state is SETTLED
    assert found[lied.payment_hash].state is PENDING


async def test_states_and_nulls_that_are_omitted(network: Network, bench: Bench) -> None:
    await network.ldk.post("/knobs", {"omitState": True, "omitNulls": True})
    try:
        paid, unpaid = [await bench.wallet.create_invoice(37_000, description="x", expiry=600) for _ in range(2)]
        await bench.pay(paid.bolt11)
        hashes = [paid.payment_hash, unpaid.payment_hash]
        assert [(await bench.wallet.lookup(h)).state for h in hashes] == [SETTLED, PENDING]
        found = await bench.wallet.lookup_many(hashes, paid.created_at)
        assert [found[h].state for h in hashes] == [SETTLED, PENDING]
    finally:
        await network.ldk.post("/knobs", {"omitState": False, "omitNulls": False})


async def test_the_relay_restarts_in_the_middle(network: Network, bench: Bench) -> None:
    """money.md 8: what was paid while nobody heard it is found."""
    invoice = await bench.wallet.create_invoice(38_000, description="meanwhile", expiry=600)
    await network.relay.stop()
    await network.ldk.post("/pay", {"invoice": invoice.bolt11})
    await network.relay.start()
    async with asyncio.timeout(40):
        while (await bench.wallet.lookup(invoice.payment_hash)).state is not SETTLED:
            pass


async def test_an_expired_invoice_has_failed(bench: Bench) -> None:
    invoice = await bench.wallet.create_invoice(39_000, description="short", expiry=1)
    async with asyncio.timeout(60):
        while (await bench.wallet.lookup(invoice.payment_hash)).state is not FAILED:
            await asyncio.sleep(0.1)


# --- Alby's own client and service ---------------------------------------------------------------------


async def _node(script: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "node",
        str(program().parent / script),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def test_albys_client_is_served_by_the_paper_wallet() -> None:
    program()
    async with local_relay() as relay:
        node = PaperNode()
        node.open_wallet("customer", 1_000_000)
        service = PaperService(node, [relay])
        customer = service.connect("customer")
        await service.start()
        invoice = node.make("shop", 42_000, description="a job", expiry=600)
        process = await _node("alby_client.mjs", customer.connection.uri(), invoice.bolt11)
        out, _ = await process.communicate()
        told = json.loads(out)
        assert "paper" in told["info"]["alias"]
        assert told["balance"]["balance"] == 1_000_000
        assert decode(told["made"]["invoice"]).msat == 21_000
        assert told["unpaid"]["state"] == "pending"
        assert sha256(bytes.fromhex(told["paid"]["preimage"])).hexdigest() == invoice.payment_hash
        assert told["again"]["code"] == "PAYMENT_FAILED"
        assert [t["payment_hash"] for t in told["list"]["transactions"]] == [invoice.payment_hash]
        assert node.balance("shop") == 42_000
        await service.close()


def _invoice(preimage: bytes, msat: int) -> str:
    return encode(
        PrivateKey(),
        network="regtest",
        msat=msat,
        payment_hash=sha256(preimage).digest(),
        description="a job",
        created_at=int(time.time()),
        expiry=600,
    )


@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
async def test_our_wallet_is_served_by_albys_service(scheme: Scheme) -> None:
    program()
    preimage, proof = bytes(range(32)), bytes(range(1, 33))
    invoice, bill = _invoice(preimage, 21_000), _invoice(proof, 5_000)
    async with local_relay() as relay:
        process = await _node("alby_service.mjs", relay, invoice, sha256(preimage).hexdigest(), bill, proof.hex())
        assert process.stdout is not None
        wallet = NwcWallet((await process.stdout.readline()).decode(), options=PATIENT)
        await wallet.start()
        try:
            service = await wallet._client.service()
            assert service is not None
            assert service.schemes == {"nip44", "nip04"}
            wallet._client._scheme = scheme  # it knows both: we would take the newer one
            info = await wallet.info()
            assert (info.alias, info.network, info.balance_msat) == ("alby", "regtest", 7_000)
            assert (info.capabilities.pay, info.capabilities.hold) == (True, False)
            made = await wallet.create_invoice(21_000, description="a job", expiry=600)
            assert made.bolt11 == invoice
            assert (await wallet.lookup(made.payment_hash)).state is SETTLED
            found = await wallet.lookup_many([made.payment_hash, "ab" * 32], made.created_at)
            assert [lookup.state for lookup in found.values()] == [SETTLED, PENDING]
            told = await wallet.payment(sha256(proof).hexdigest())
            assert (told.state, told.known) == (UNKNOWN, False)
            for _ in range(2):
                payment = await wallet.pay(bill, fee_limit_msat=1_000)
                assert (payment.state, payment.fee_msat, payment.preimage) == (SETTLED, 1_000, proof.hex())
            assert (await wallet.payment(sha256(proof).hexdigest())).state is SETTLED
            with pytest.raises(WalletError) as refused:
                await wallet.create_hold_invoice(
                    21_000, payment_hash=sha256(b"x").hexdigest(), description="x", expiry=600
                )
            assert refused.value.code == "unsupported"
        finally:
            await wallet.close()
            process.terminate()
            await process.wait()
