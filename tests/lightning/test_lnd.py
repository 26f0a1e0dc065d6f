"""The LND wallet, against a stand-in that speaks its REST interface."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dvm.lightning.base import Capabilities, WalletError
from dvm.lightning.lnd import LndWallet
from dvm.lightning.lnd_invoices import EXPIRY_DELTA
from dvm.lightning.lnd_macaroon import parse
from dvm.lightning.registry import Setup, make_wallet
from tests.lightning.contract import FAILED, PENDING, SETTLED, UNKNOWN, Bench, WalletContract
from tests.lightning.hold_contract import HELD, HoldBench, HoldContract, accepted, hold_invoice
from tests.lightning.lnd_node import QUICK
from tests.standins.lnd import LndStandin, bake
from tests.standins.lnd_books import CLTV
from tests.standins.waiting import until


@pytest.fixture
async def wallet(node: LndStandin, tmp_path: Path) -> AsyncIterator[LndWallet]:
    each = LndWallet(node.url, parse(node.admin), tmp_path, timeout=20.0, pace=QUICK)
    await each.start()
    yield each
    await each.close()


@pytest.fixture
def bench(wallet: LndWallet, node: LndStandin) -> Bench:
    async def invoice(msat: int) -> str:
        return node.books.invoice_of_another(msat)

    return Bench(wallet, node.books.receive, invoice)


@pytest.fixture
def hold_bench(wallet: LndWallet, node: LndStandin) -> HoldBench:
    async def balance() -> int:
        return -node.books.balance

    return HoldBench(wallet, node.books.receive, balance)


class TestContract(WalletContract):
    """What every wallet must do."""


class TestHoldContract(HoldContract):
    """What every wallet with hold invoices must do."""


def wallet_of(node: LndStandin, data: Path, macaroon: str | None = None) -> LndWallet:
    return LndWallet(node.url, parse(macaroon or node.admin), data, timeout=20.0, pace=QUICK)


async def test_it_tells_what_the_node_is_and_has(wallet: LndWallet) -> None:
    info = await wallet.info()
    assert (info.alias, info.network) == ("a stand-in", "regtest")
    assert info.balance_msat == 5_000_000_000
    assert info.receivable_msat == (5_000_000 - 100_000) * 1_000  # the other side keeps its reserve
    assert info.capabilities == Capabilities(push=True, description_hash=True, pay=True, hold=True)


async def test_a_node_with_private_channels_only_can_be_paid(
    node: LndStandin, wallet: LndWallet, hold_bench: HoldBench
) -> None:
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
    held, _ = await hold_invoice(hold_bench)
    assert node.books.find(invoice.payment_hash).private
    assert node.books.find(held.payment_hash).private


async def test_a_macaroon_that_may_only_read_says_so(node: LndStandin, tmp_path: Path) -> None:
    wallet = wallet_of(node, tmp_path, node.readonly)
    info = await wallet.info()
    assert info.capabilities == Capabilities(push=True, description_hash=True, pay=False, hold=False)
    with pytest.raises(WalletError, match="bakemacaroon") as refused:
        await wallet.create_invoice(21_000, description="a job", expiry=600)
    assert refused.value.code == "restricted"
    await wallet.close()


async def test_an_invoice_macaroon_makes_invoices_where_the_network_is_configured(
    node: LndStandin, tmp_path: Path
) -> None:
    wallet = LndWallet(node.url, parse(node.invoicing), tmp_path, network="regtest", pace=QUICK)
    await wallet.start()
    hints = wallet.settlements()
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
    await node.books.receive(invoice.bolt11)
    async with asyncio.timeout(60):
        assert await anext(hints) == invoice.payment_hash
    assert (await wallet.lookup(invoice.payment_hash)).state is SETTLED
    await wallet.close()


@pytest.mark.parametrize(
    ("permissions", "pay", "hold"),
    [
        ({"uri": ("/routerrpc.Router/SendPaymentV2", "/routerrpc.Router/TrackPaymentV2")}, True, False),
        ({"invoices": ("read", "write")}, False, True),
        ({"offchain": ("write",)}, False, False),
    ],
)
def test_a_macaroon_is_read_for_what_it_may_do(permissions: dict[str, tuple[str, ...]], pay: bool, hold: bool) -> None:
    macaroon = parse(bake(permissions))
    paying = macaroon.may("offchain", "write", "/routerrpc.Router/SendPaymentV2") and macaroon.may(
        "offchain", "read", "/routerrpc.Router/TrackPaymentV2"
    )
    assert paying is pay
    assert macaroon.may("invoices", "write", "/invoicesrpc.Invoices/AddHoldInvoice") is hold


def test_a_macaroon_that_cannot_be_read_is_left_to_lnd_to_judge() -> None:
    raw = bytes.fromhex(bake())
    for twisted in (raw[:40], raw[:1] + b"\xff" * 40, b"\x02" + b"\x01" * 40, b"\x02" + b"\0" * 40):
        assert parse(twisted.hex()).may("invoices", "write", "x")


async def test_a_node_without_hold_invoices_says_so(node: LndStandin, wallet: LndWallet) -> None:
    node.tags = ["routerrpc"]
    assert not (await wallet.info()).capabilities.hold


def test_the_macaroon_comes_as_hex_or_base64(tmp_path: Path) -> None:
    raw = bytes.fromhex(bake())
    for secret in (
        raw.hex(),
        raw.hex().upper(),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    ):
        wallet = make_wallet("lnd", Setup("https://127.0.0.1:8080", secret, tmp_path))
        assert isinstance(wallet, LndWallet)
        assert parse(secret).hex == raw.hex()
        assert raw.hex() not in repr(parse(secret))


@pytest.mark.parametrize("secret", [None, "", "not a macaroon", "ff" * 40, "02", "02" * 9_000])
def test_what_is_no_macaroon_is_said_and_not_repeated(secret: str | None, tmp_path: Path) -> None:
    with pytest.raises(WalletError) as refused:
        make_wallet("lnd", Setup("https://127.0.0.1:8080", secret, tmp_path))
    assert refused.value.code == "unauthorized"
    assert not secret or secret not in str(refused.value)


@pytest.mark.parametrize("url", [None, "127.0.0.1:8080", "localhost", "ws://127.0.0.1:8080"])
def test_an_address_without_http_is_refused(url: str | None, tmp_path: Path) -> None:
    with pytest.raises(WalletError, match=r"wallet\.url"):
        make_wallet("lnd", Setup(url, bake(), tmp_path))


def test_a_certificate_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "tls.cert"
    broken.write_text("no certificate")
    with pytest.raises(WalletError, match="tls_cert_file"):
        make_wallet("lnd", Setup("https://127.0.0.1:8080", bake(), tmp_path, tls_cert=broken))


async def test_what_is_held_says_how_many_blocks_are_left(hold_bench: HoldBench) -> None:
    async with accepted(hold_bench) as held:
        left = CLTV + 3 - EXPIRY_DELTA  # LND cancels that long before the HTLC times out
        assert (await hold_bench.wallet.lookup(held.invoice.payment_hash)).blocks_left == left
        found = await hold_bench.wallet.lookup_many([held.invoice.payment_hash], held.invoice.created_at)
        assert found[held.invoice.payment_hash].blocks_left == left


async def test_an_expired_invoice_has_failed_once_lnd_has_cancelled_it(wallet: LndWallet, node: LndStandin) -> None:
    invoice = await wallet.create_invoice(21_000, description="a job", expiry=1)
    node.books.skew = 60
    assert (await wallet.lookup(invoice.payment_hash)).state is PENDING  # expired, and not yet closed
    node.books.cancel(node.books.find(invoice.payment_hash))
    assert (await wallet.lookup(invoice.payment_hash)).state is FAILED


# --- many of them ---------------------------------------------------------------------------------------


async def test_ten_thousand_open_quotes_cost_as_many_calls_as_ten(wallet: LndWallet, node: LndStandin) -> None:
    """money.md 28."""
    first = node.books.fake(5_000)
    await node.books.receive_for(first)  # from the first settlement on, the stream asks for nothing else
    hints = wallet.settlements()
    assert await anext(hints) == first.payment_hash
    await until(lambda: node.server.streams == 1)

    async def sweep() -> int:
        before = node.calls.total()
        found = await wallet.lookup_many(quotes, first.created_at)
        assert {found[quote].state for quote in quotes} == {PENDING}
        return node.calls.total() - before

    quotes = [node.books.fake(5_000).payment_hash for _ in range(10)]
    assert await sweep() == 1
    ten = [await sweep() for _ in range(5)]
    quotes += [node.books.fake(5_000).payment_hash for _ in range(10_000)]
    assert await sweep() <= 12  # seen for the first time, as after a restart
    assert [await sweep() for _ in range(5)] == ten == [1] * 5


async def test_what_settled_long_ago_is_found_among_ten_thousand_without_a_push(
    wallet: LndWallet, node: LndStandin
) -> None:
    """money.md 8: the push got lost."""
    await node.books.receive_for(node.books.fake(5_000))
    hints = wallet.settlements()
    await anext(hints)
    await until(lambda: node.books.listeners)
    node.books.drop_pushes = True
    quotes = [node.books.fake(5_000) for _ in range(3_500)]
    asked = [quote.payment_hash for quote in quotes]
    await wallet.lookup_many(asked, quotes[0].created_at)
    await node.books.receive_for(quotes[7])
    assert (await wallet.lookup_many(asked, quotes[0].created_at))[asked[7]].state is PENDING  # not its turn yet
    rounds = [await wallet.lookup_many(asked, quotes[0].created_at) for _ in range(6)]
    assert rounds[-1][asked[7]].state is SETTLED


async def test_what_was_pushed_is_looked_at_first_among_thousands(wallet: LndWallet, node: LndStandin) -> None:
    await node.books.receive_for(node.books.fake(5_000))
    hints = wallet.settlements()
    await anext(hints)
    quotes = [node.books.fake(5_000) for _ in range(2_100)]
    asked = [quote.payment_hash for quote in quotes]
    await wallet.lookup_many(asked, quotes[0].created_at)
    await until(lambda: node.books.listeners)
    await node.books.receive_for(quotes[7])
    assert await anext(hints) == asked[7]
    assert (await wallet.lookup_many(asked, quotes[0].created_at))[asked[7]].state is SETTLED


async def test_what_is_settled_or_cancelled_is_asked_about_only_once(wallet: LndWallet, node: LndStandin) -> None:
    paid, cancelled = [await wallet.create_invoice(21_000, description="a job", expiry=600) for _ in range(2)]
    await node.books.receive(paid.bolt11)
    node.books.cancel(node.books.find(cancelled.payment_hash))
    asked = [paid.payment_hash, cancelled.payment_hash]
    for _ in range(3):
        found = await wallet.lookup_many(asked, paid.created_at)
        assert [found[each].state for each in asked] == [SETTLED, FAILED]
    assert node.calls["/v1/invoices"] == 2 + 1  # two made, one list


async def test_an_invoice_that_lnd_has_not_got_costs_little(wallet: LndWallet, node: LndStandin) -> None:
    for _ in range(2_500):
        await node.books.receive_for(node.books.fake(5_000))
    hints = wallet.settlements()
    await anext(hints)
    await until(lambda: node.calls["/v1/invoices/subscribe"])
    since = int(time.time()) - 60
    await wallet.lookup_many(["ab" * 32], since)
    before = node.calls.total()
    for _ in range(5):
        assert (await wallet.lookup_many(["ab" * 32], since))["ab" * 32].state is UNKNOWN
    assert node.calls.total() - before <= 5 * 2


@pytest.mark.parametrize("skew", [-7_200, 7_200])
async def test_a_clock_that_is_wrong_by_hours_hides_no_invoice(wallet: LndWallet, node: LndStandin, skew: int) -> None:
    node.books.skew = skew
    quote = node.books.fake(5_000)
    await node.books.receive_for(quote)
    for _ in range(1_100):
        node.books.fake(5_000)
    found = await wallet.lookup_many([quote.payment_hash], int(time.time()))
    assert found[quote.payment_hash].state is SETTLED


async def test_how_many_blocks_are_left_is_never_told_from_memory(
    wallet: LndWallet, node: LndStandin, hold_bench: HoldBench
) -> None:
    await node.books.receive_for(node.books.fake(5_000))
    await anext(wallet.settlements())
    async with accepted(hold_bench) as held:
        payment_hash = held.invoice.payment_hash
        for _ in range(1_100):
            node.books.fake(5_000)
        await until(lambda: node.books.listeners)
        node.faults["/v1/invoice/"] = "refuse"
        assert (await wallet.lookup_many([payment_hash], 0))[payment_hash].state is UNKNOWN
        node.faults.clear()
        assert (await wallet.lookup_many([payment_hash], 0))[payment_hash].state is HELD


async def test_a_hold_invoice_of_before_a_restart_is_told_of_when_it_is_accepted(
    node: LndStandin, wallet: LndWallet, hold_bench: HoldBench, tmp_path: Path
) -> None:
    invoice, _ = await hold_invoice(hold_bench)
    await wallet.close()
    again = wallet_of(node, tmp_path)
    await again.start()
    hints = again.settlements()
    assert (await again.lookup_many([invoice.payment_hash], invoice.created_at))[invoice.payment_hash].state is PENDING
    paying = asyncio.ensure_future(node.books.receive(invoice.bolt11))
    async with asyncio.timeout(60):
        assert await anext(hints) == invoice.payment_hash
    assert (await again.lookup(invoice.payment_hash)).state is HELD
    await again.cancel_hold(invoice.payment_hash)
    assert await paying is None
    await again.close()


async def test_more_hold_invoices_than_connections_are_all_told_of(
    node: LndStandin, wallet: LndWallet, hold_bench: HoldBench
) -> None:
    hints = wallet.settlements()
    invoices = [(await hold_invoice(hold_bench))[0] for _ in range(40)]
    await until(lambda: node.server.streams == 17)  # the settlements', and one for each of the newest
    paying = [asyncio.ensure_future(node.books.receive(each.bolt11)) for each in invoices]
    told: set[str] = set()
    async with asyncio.timeout(60):
        while len(told) < len(invoices):
            told.add(await anext(hints))
    for each in invoices:
        await wallet.cancel_hold(each.payment_hash)
    assert await asyncio.gather(*paying) == [None] * len(invoices)


async def test_the_poll_goes_on_to_what_is_behind_its_first_page(
    node: LndStandin, wallet: LndWallet, hold_bench: HoldBench, tmp_path: Path
) -> None:
    invoice, _ = await hold_invoice(hold_bench)
    await wallet.close()
    for _ in range(2_100):
        node.books.fake(5_000)
    again = wallet_of(node, tmp_path)
    await again.start()
    hints = again.settlements()
    assert (await again.lookup(invoice.payment_hash)).state is PENDING
    paying = asyncio.ensure_future(node.books.receive(invoice.bolt11))
    async with asyncio.timeout(60):
        assert await anext(hints) == invoice.payment_hash
    await again.cancel_hold(invoice.payment_hash)
    assert await paying is None
    await again.close()
