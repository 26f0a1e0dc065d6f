"""Core Lightning behind clnrest: the contract, and what is its own: hashes of texts, runes, channels."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.cln import ClnWallet, Options
from dvm.lightning.registry import Setup, make_wallet
from tests.lightning.contract import Bench, WalletContract
from tests.lightning.serving import bench_of, serving
from tests.standins.cln import FULL, NO_PAY, ONLY_XPAY, READ_ONLY, ClnNode, Failed, loopback
from tests.standins.loopback import Loopback, own_certificate

QUICK = Options(timeout=20.0, wait=5, retry_for=1, pay_timeout=20.0, backoff=0.01, max_backoff=0.05)


@asynccontextmanager
async def running(
    data: Path, node: ClnNode | None = None, *, rune: str = FULL, options: Options = QUICK, network: str | None = None
) -> AsyncIterator[tuple[ClnWallet, ClnNode, Loopback]]:
    node = node or ClnNode()
    server = loopback(node)
    async with serving(server, lambda url: ClnWallet(Setup(url, rune, data, network), options)) as wallet:
        yield wallet, node, server


class TestContract(WalletContract):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Bench]:
        async with running(tmp_path) as (wallet, node, _):
            yield bench_of(wallet, node)


class TestContractOfOldVersions(WalletContract):
    """Amounts as texts; the same."""

    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Bench]:
        async with running(tmp_path, ClnNode(texts=True)) as (wallet, node, _):
            yield bench_of(wallet, node)


class TestContractOfNewVersions(WalletContract):
    """Without `pay`, which is `xpay` now."""

    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[Bench]:
        async with running(tmp_path, ClnNode(without=frozenset({"pay"}))) as (wallet, node, _):
            yield bench_of(wallet, node)


async def test_it_is_made_from_the_setup(tmp_path: Path) -> None:
    node = ClnNode()
    server = loopback(node)
    await server.start()
    setup = Setup(server.url, FULL, tmp_path)
    wallet = make_wallet("cln", setup)
    assert (await wallet.info()).network == "regtest"
    await wallet.close()
    await server.stop()
    assert set(node.runes) == {FULL}
    for wrong in (replace(setup, url=None), replace(setup, secret=None), replace(setup, secret="rune: ä\n")):
        with pytest.raises(WalletError) as refused:
            make_wallet("cln", wrong)
        assert "ä" not in str(refused.value)


async def test_its_channels_say_what_it_can_send_and_receive(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, _, _):
        info = await wallet.info()
        assert (info.balance_msat, info.receivable_msat) == (1_000_000_000, 2_000_000_000)
        assert info.alias == "SHOP "
        assert not info.capabilities.hold


async def test_a_hashed_description_needs_its_text(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, _, server):
        text = '{"kind":9734,"content":"' + "ä" * 2_000 + '\n\\u0001"}'
        digest = sha256(text.encode()).hexdigest()
        with pytest.raises(WalletError, match="unsupported: CLN hashes a description itself"):
            await wallet.create_invoice(21_000, description_hash=digest, expiry=600)
        invoice = await wallet.create_invoice(21_000, description=text, description_hash=digest, expiry=600)
        assert decode(invoice.bolt11).description_hash == digest
        with pytest.raises(WalletError, match="the description hash is not the description's"):
            await wallet.create_invoice(21_000, description="another", description_hash=digest, expiry=600)
        assert server.calls["/v1/invoice"] == 1


async def test_a_description_is_made_to_fit(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, _, _):
        invoice = await wallet.create_invoice(21_000, description="bell\x07 and " + "ä" * 700, expiry=600)
        said = decode(invoice.bolt11).description or ""
        assert said.startswith("bell  and ää")
        assert len(said.encode()) in (638, 639)


async def test_what_was_overpaid_is_received(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, node, _):
        invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
        node.customer_pays(invoice.bolt11, 30_001)
        assert (await wallet.lookup(invoice.payment_hash)).msat == 30_001


async def test_an_expired_invoice_has_failed(tmp_path: Path) -> None:
    ahead = 0.0
    node = ClnNode()
    node.now = lambda clock=node.now: clock() + ahead  # type: ignore[misc]
    async with running(tmp_path, node) as (wallet, _, _):
        invoice = await wallet.create_invoice(21_000, description="a job", expiry=600)
        ahead = 700.0
        assert (await wallet.lookup(invoice.payment_hash)).state is InvoiceState.FAILED
        found = await wallet.lookup_many([invoice.payment_hash], invoice.created_at)
        assert found[invoice.payment_hash].state is InvoiceState.FAILED


async def test_too_little_inbound_liquidity_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, ClnNode(receivable=20_000)) as (wallet, _, _):
        with caplog.at_level(logging.WARNING):
            await wallet.create_invoice(21_000, description="a job", expiry=600)
        assert "cannot receive 21000 msat: it lacks inbound liquidity" in caplog.text


async def test_a_rune_that_is_none_of_the_nodes_is_refused(tmp_path: Path) -> None:
    rune = "c29tZWJvZHkgZWxzZSdzIHJ1bmU="
    async with running(tmp_path, rune=rune) as (wallet, _, _):
        with pytest.raises(
            WalletError, match=r"unauthorized: the rune is refused .*Not derived from master"
        ) as refused:
            await wallet.info()
        assert rune not in str(refused.value)
        assert rune not in repr(refused.value)


async def test_a_read_only_rune_makes_no_invoice_and_pays_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, rune=READ_ONLY) as (wallet, node, _):
        assert (await wallet.info()).balance_msat is not None
        with pytest.raises(WalletError, match="restricted: the rune does not allow invoice"):
            await wallet.create_invoice(21_000, description="a job", expiry=600)
        with pytest.raises(WalletError, match=r"restricted: the rune does not allow x?pay "):
            await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=1_000)
        assert node.pays == []


async def test_a_rune_that_may_only_xpay_pays(tmp_path: Path) -> None:
    async with running(tmp_path, rune=ONLY_XPAY) as (wallet, node, _):
        assert (await wallet.info()).capabilities.pay
        assert (await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=1_000)).state is InvoiceState.SETTLED


async def test_a_rune_that_may_not_pay_sells(tmp_path: Path) -> None:
    async with running(tmp_path, rune=NO_PAY) as (wallet, node, _):
        assert not (await wallet.info()).capabilities.pay
        await wallet.create_invoice(21_000, description="a job", expiry=600)
        bolt11 = node.customer_invoice(5_000)
        with pytest.raises(WalletError, match="restricted"):
            await wallet.pay(bolt11, fee_limit_msat=1_000)
        assert not (await wallet.payment(decode(bolt11).payment_hash)).known


@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        (401, {"code": 1503, "message": "Not authorized: Blacklisted rune"}, "unauthorized", "Blacklisted rune"),
        (401, {"code": 1502, "message": "Not permitted: too soon"}, "rate_limited", "rate is used up"),
        (403, {"error": {"code": 1501, "message": "Not authorized: Missing rune"}}, "unauthorized", "Missing rune"),
        (403, None, "unauthorized", "the rune is refused"),
        (404, None, "not_found", "is wallet.url the address of clnrest"),
        (404, {"code": -32601, "message": "Unknown command 'wait'"}, "unsupported", "23.11 or newer"),
        (500, {"code": -5, "message": "lightningd is shutting down"}, "unreachable", "shutting down"),
        (500, {"code": None, "message": "connection refused"}, "unreachable", "no word of lightningd's"),
        (500, {"code": -32602, "message": "missing required parameter"}, "failed", "missing required parameter"),
    ],
)
async def test_each_refusal_says_what_is_wrong(tmp_path: Path, status: int, body: object, code: str, says: str) -> None:
    async with running(tmp_path) as (wallet, node, _):

        async def refusing(name: str, params: object) -> dict[str, object]:
            failed = Failed(0, "", status)
            failed.body = body  # type: ignore[assignment]
            raise failed

        node.command = refusing  # type: ignore[method-assign]
        with pytest.raises(WalletError) as refused:
            await wallet.info()
        assert (refused.value.code, says in str(refused.value)) == (code, True), str(refused.value)


async def test_a_node_that_has_too_little_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, ClnNode(spendable=4_000)) as (wallet, node, _):
        with pytest.raises(WalletError, match="insufficient: pay: Insufficient funds"):
            await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=1_000)


async def test_its_own_certificate_is_trusted_if_it_is_named_and_only_then(tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path)
    server = loopback(ClnNode(), ssl_certfile=str(certificate), ssl_keyfile=str(key))
    await server.start()
    trusting = ClnWallet(Setup(server.url, FULL, tmp_path, tls_cert=certificate), QUICK)
    assert (await trusting.info()).network == "regtest"
    wary = ClnWallet(Setup(server.url, FULL, tmp_path), QUICK)
    with pytest.raises(WalletError, match=r"cannot be verified: set wallet\.tls_cert_file .*ca\.pem of clnrest"):
        await wary.info()
    for wallet in (trusting, wary):
        await wallet.close()
    await server.stop()


async def test_another_network_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, network="mainnet") as (wallet, _, _):
        assert (await wallet.info()).network == "regtest"
        with pytest.raises(WalletError, match="an invoice for regtest, and mainnet is expected"):
            await wallet.create_invoice(21_000, description="a job", expiry=600)


async def test_another_address_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as (wallet, _, server):
        server.faults["*"] = "html"
        with pytest.raises(WalletError, match=r"no JSON .*is this the wallet's address"):
            await wallet.info()
