"""`dvm ask --paper`: the first purchase of somebody who has a paper shop, and no wallet at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dvm.commands import paper_payer
from dvm.commands.paper_payer import PaperPayer
from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.paper_node import PaperNode
from tests.commands.running import Runner
from tests.standins.daemon import daemon
from tests.standins.relay import local_relay


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[PaperNode]:
    """A paper node whose directory is that of the test, as a shop's is."""
    made = PaperNode(tmp_path)
    await made.start()
    made.open_wallet("shop")
    await made.listen()
    yield made
    await made.close()


async def test_it_pays_what_the_shop_asks_for_once(node: PaperNode, tmp_path: Path) -> None:
    payer = PaperPayer(tmp_path)
    await payer.start()
    invoice = node.make("shop", 21_000, expiry=600)
    paid = await payer.pay(invoice.bolt11, fee_limit_msat=0)
    assert (paid.state, paid.fee_msat) == (InvoiceState.SETTLED, 0)
    assert node.balance("shop") == 21_000
    with pytest.raises(WalletError, match="paid already"):
        await payer.pay(invoice.bolt11, fee_limit_msat=0)
    assert node.balance("shop") == 21_000


async def test_a_hold_invoice_is_paid_once_it_is_settled(
    node: PaperNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_payer, "HELD_SECONDS", 0.01)
    preimage = "11" * 32
    invoice = node.make("shop", 21_000, expiry=600, payment_hash=hashlib.sha256(bytes.fromhex(preimage)).hexdigest())
    accepted = asyncio.Event()
    node.on_accepted.append(lambda _: accepted.set())
    paying = asyncio.create_task(PaperPayer(tmp_path).pay(invoice.bolt11, fee_limit_msat=0))
    await accepted.wait()
    assert not paying.done()
    node.settle("shop", preimage)
    assert (await paying).state is InvoiceState.SETTLED


async def test_a_shop_that_ends_while_it_holds_a_payment_leaves_the_outcome_open(
    node: PaperNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_payer, "HELD_SECONDS", 0.01)
    invoice = node.make("shop", 21_000, expiry=600, payment_hash="22" * 32)
    accepted = asyncio.Event()
    node.on_accepted.append(lambda _: accepted.set())
    paying = asyncio.create_task(PaperPayer(tmp_path).pay(invoice.bolt11, fee_limit_msat=0))
    await accepted.wait()
    await node.close()
    assert (await paying).state is InvoiceState.UNKNOWN


async def test_what_is_no_invoice_of_the_shop_is_not_paid_and_without_a_shop_nothing_is_asked(
    node: PaperNode, tmp_path: Path
) -> None:
    with pytest.raises(WalletError):
        await PaperPayer(tmp_path).pay("lnbcrt1nonsense", fee_limit_msat=0)
    with pytest.raises(WalletError, match="no paper shop runs there; start it with `dvm run`"):
        await PaperPayer(tmp_path / "elsewhere").start()


async def test_the_first_purchase_needs_nothing_but_two_commands(
    here: Path, dvm: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "xdg"))
    async with local_relay() as relay, daemon(here, [relay]):
        ran = await asyncio.to_thread(dvm, "ask", "--paper", "data", "What is a relay?")
    assert (ran.code, ran.out) == (0, "What is a relay?\n")
    for part in ("regtest: not real money", "paid 1 sat", "receipt 1 verified", "announced prices"):
        assert part in ran.err
