"""LNbits in every bad mood: nothing but a WalletError comes out, and no money is believed that is not there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import decode, encode
from dvm.lightning.registry import Setup, make_wallet
from tests.lightning.contract import Bench, WalletContract
from tests.lightning.lnbits_place import IMPATIENT, PAYMENTS, QUICK, Place, place
from tests.standins.lnbits_api import ADMIN, INVOICE, LnbitsNode, loopback
from tests.standins.loopback import Fault
from tests.standins.waiting import until

SETTLED, PENDING, FAILED, UNKNOWN = (
    InvoiceState.SETTLED,
    InvoiceState.PENDING,
    InvoiceState.FAILED,
    InvoiceState.UNKNOWN,
)
BEFORE: tuple[Fault, ...] = ("hang", "cut", "500", "502", "html", "text")
AFTER: tuple[Fault, ...] = ("done-hang", "done-cut", "done-500", "done-html")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as each:
        yield each


class TestContract(WalletContract):
    @pytest.fixture
    async def bench(self, here: Place) -> Bench:
        here.node.reserve_msat, here.node.fee_msat = 900, 0

        async def invoice(msat: int) -> str:
            return here.node.customer_invoice(msat)

        return Bench(here.wallet, lambda bolt11: here.node.customer_pays(decode(bolt11).payment_hash), invoice)


@pytest.mark.parametrize("fault", BEFORE)
async def test_whatever_is_answered_is_a_wallet_error_or_unknown(tmp_path: Path, fault: Fault) -> None:
    async with place(tmp_path, timeout=1.0 if "hang" in fault else 20.0) as here:
        payment_hash = await here.job()
        here.server.faults["*"] = fault
        for asked in (here.job(), here.wallet.info()):
            with pytest.raises(WalletError) as caught:
                await asked
            assert caught.value.code in ("unreachable", "untrustworthy", "failed")
        assert (await here.wallet.lookup(payment_hash)).state is UNKNOWN
        assert await here.found(payment_hash) is UNKNOWN
        assert (await here.wallet.payment(payment_hash)).state is UNKNOWN
        here.server.faults.clear()
        assert await here.found(payment_hash) is PENDING


@pytest.mark.parametrize("fault", [*BEFORE, *AFTER])
async def test_a_payment_in_doubt_is_never_taken_for_failed(tmp_path: Path, fault: Fault) -> None:
    async with place(tmp_path, IMPATIENT if "hang" in fault else QUICK) as here:
        bolt11 = here.node.customer_invoice(5_000)
        here.server.faults[PAYMENTS] = fault
        outcome = await here.wallet.pay(bolt11, fee_limit_msat=5_000)
        assert outcome.state is (SETTLED if fault in AFTER else UNKNOWN)
        here.server.faults.clear()
        again = await here.wallet.pay(bolt11, fee_limit_msat=5_000)
        assert (again.state, again.fee_msat) == (SETTLED, 7)
        assert [each["amount"] for each in here.node.payments] == [-5_000], "paid once"


async def test_what_lnbits_says_of_a_payment_is_what_became_of_it(here: Place) -> None:
    for paying, state in (("pending", PENDING), ("failed", FAILED), ("another", SETTLED)):
        here.node.paying = paying  # type: ignore[assignment]
        bolt11 = here.node.customer_invoice(5_000)
        assert (await here.wallet.pay(bolt11, fee_limit_msat=5_000)).state is state
        assert (await here.wallet.pay(bolt11, fee_limit_msat=5_000)).state is state
        assert (await here.wallet.payment(decode(bolt11).payment_hash)).state is state
    stuck = decode(str(here.node.payments[0]["bolt11"])).payment_hash
    here.node.resolve(stuck, "success")
    assert (await here.wallet.payment(stuck)).state is SETTLED


async def test_what_cannot_be_paid_is_refused_before_anything_left(here: Place) -> None:
    node, wallet = here.node, here.wallet
    node.paying = "refused"
    with pytest.raises(WalletError, match="insufficient"):
        await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=5_000)
    node.paying = "ok"
    with pytest.raises(WalletError, match="may spend up to 2000 msat on fees, and 1999 are allowed"):
        await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=1_999)
    with pytest.raises(WalletError, match="expired"):
        await wallet.pay(node.customer_invoice(5_000, created_at=1_700_000_000), fee_limit_msat=5_000)
    await here.job()
    other = encode(
        PrivateKey(),
        network="mainnet",
        msat=1_000,
        payment_hash=b"5" * 32,
        description="",
        created_at=int(time.time()),
        expiry=600,
    )
    with pytest.raises(WalletError, match="an invoice for mainnet, and the wallet is on regtest"):
        await wallet.pay(other, fee_limit_msat=5_000)
    node.old = True
    with pytest.raises(WalletError, match="there is no LNbits of version"):
        await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=5_000)
    assert [each["amount"] for each in node.payments] == [21_000]
    await here.server.stop()
    with pytest.raises(WalletError, match="unreachable"):
        await wallet.pay(node.customer_invoice(5_000), fee_limit_msat=5_000)


async def test_settled_while_it_says_unknown(here: Place) -> None:
    payment_hash = await here.job()
    here.node.statuses[payment_hash] = "unknown"
    await here.node.customer_pays(payment_hash)
    assert (await here.wallet.lookup(payment_hash)).state is UNKNOWN
    here.node.statuses[payment_hash] = "pending"
    assert (await here.wallet.lookup(payment_hash)).state is UNKNOWN, "paid, and pending: one of both is wrong"
    here.node.statuses.clear()
    assert (await here.wallet.lookup(payment_hash)).state is SETTLED
    assert await here.found(payment_hash) is SETTLED


async def test_another_payment_than_the_one_asked_about_proves_nothing(here: Place) -> None:
    paid, unpaid = await here.job(), await here.job()
    await here.node.customer_pays(paid)
    here.node.swapped[unpaid] = paid
    assert (await here.wallet.lookup(unpaid)).state is PENDING, "the list has the right one"
    out = here.node.customer_invoice(5_000)
    await here.wallet.pay(out, fee_limit_msat=5_000)
    here.node.swapped[paid] = decode(out).payment_hash
    assert (await here.wallet.payment(paid)).state is UNKNOWN


Change = Callable[[dict[str, Any]], object]


def invoice_of(**about: Any) -> str:
    asked: dict[str, Any] = {"network": "regtest", "msat": 21_000, "description": "a job"} | about
    return encode(PrivateKey(), payment_hash=b"7" * 32, created_at=int(time.time()), expiry=600, **asked)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: [],
        lambda told: {},
        lambda told: told | {"bolt11": 5},
        lambda told: told | {"payment_hash": "ab" * 32},
        lambda told: {"bolt11": invoice_of(msat=42_000)},
        lambda told: {"bolt11": invoice_of(network="mainnet")},
        lambda told: {"bolt11": invoice_of(description=None, description_hash=b"x" * 32)},
    ],
    ids=["a list", "nothing", "no text", "another hash", "another amount", "another network", "another text"],
)
async def test_an_invoice_that_is_not_the_one_asked_for_is_refused(here: Place, change: Change) -> None:
    await here.job()  # so that the network is known
    here.node.alter = change
    with pytest.raises(WalletError, match="untrustworthy"):
        await here.job()


# --- the key ---------------------------------------------------------------------------------------------


async def test_no_key_reaches_a_log_an_error_or_another_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    texts = []
    async with place(tmp_path) as here:
        elsewhere = loopback(LnbitsNode())
        await elsewhere.start()
        try:
            hints = here.wallet.settlements()
            await until(lambda: here.node.listeners)
            here.node.push = elsewhere.url.replace("http://", "ws://")
            here.server.cut()
            await until(lambda: here.server.calls[f"/api/v1/ws/{INVOICE}"] > 3)
            assert not elsewhere.calls
            here.server.faults["*"] = "500"
            with pytest.raises(WalletError) as caught:
                await here.job()
            texts += [str(caught.value), repr(caught.value), repr(here.wallet), repr(hints)]
        finally:
            await elsewhere.stop()
    assert not any(ADMIN in path for path in here.server.calls), "an admin key stands in no address"
    kept = [file.read_text() for file in tmp_path.iterdir()]
    for key in (ADMIN, INVOICE):
        assert key not in "\n".join([caplog.text, *texts, *kept])


@pytest.mark.parametrize("inkey", [ADMIN, None, "", "5"])
async def test_without_an_invoice_key_there_is_no_websocket(tmp_path: Path, inkey: str | None) -> None:
    async with place(tmp_path) as here:
        here.node.inkey = inkey
        assert not (await here.wallet.info()).capabilities.push
        assert not [path for path in here.server.calls if "/ws/" in path]


@pytest.mark.parametrize(
    ("url", "key", "text"),
    [
        (None, ADMIN, "wallet.url is missing"),
        ("https://lnbits.example.com", None, "set DVM_LNBITS_KEY"),
        ("https://lnbits.example.com", "two words", "is no key of an LNbits wallet"),
        ("https://lnbits.example.com", "ключ" * 8, "is no key of an LNbits wallet"),
        ("https://lnbits.example.com/wallet?usr=5ec7e7", ADMIN, "the address of LNbits alone"),
    ],
)
def test_what_can_never_work_is_told_at_once(tmp_path: Path, url: str | None, key: str | None, text: str) -> None:
    with pytest.raises(WalletError, match=text) as caught:
        make_wallet("lnbits", Setup(url, key, tmp_path))
    assert "5ec7e7" not in str(caught.value)
    assert key is None or key not in str(caught.value)
