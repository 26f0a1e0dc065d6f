"""The paper wallet's hold invoices: whose money it is at each moment, over restarts and deadlines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from dvm.lightning.base import Lookup, WalletError
from dvm.lightning.paper import PaperInvoice, PaperNode, PaperWallet, Refused
from dvm.lightning.paper_node import JOURNAL, SOCKET
from dvm.lightning.paper_socket import pay_over_socket
from tests.lightning.contract import FAILED, PENDING, SETTLED, UNKNOWN
from tests.lightning.hold_contract import HELD, secret


def made(node: PaperNode, msat: int = 7_000, hold: int = 144) -> tuple[PaperInvoice, str]:
    """A hold invoice of the shop's, and its preimage."""
    preimage, payment_hash = secret()
    return node.make("shop", msat, expiry=600, payment_hash=payment_hash, hold=hold), preimage


@pytest.fixture
def node() -> PaperNode:
    node = PaperNode()
    node.open_wallet("customer", 10_000)
    return node


def balances(node: PaperNode) -> tuple[int, int]:
    return node.balance("customer"), node.balance("shop")


async def test_what_waits_is_nobodys_until_it_is_decided(node: PaperNode) -> None:
    (settled, preimage), (cancelled, _) = made(node), made(node, 3_000)
    for invoice in (settled, cancelled):
        node.pay(invoice.bolt11, payer="customer")
        assert invoice.preimage == ""
    assert balances(node) == (0, 0)
    node.settle("shop", preimage)
    assert balances(node) == (0, 7_000)
    node.cancel("shop", cancelled.payment_hash)
    assert balances(node) == (3_000, 7_000)
    for act in (lambda: node.settle("shop", preimage), lambda: node.cancel("shop", cancelled.payment_hash)):
        act()  # twice
    assert balances(node) == (3_000, 7_000)


async def test_only_its_own_wallet_decides(node: PaperNode) -> None:
    invoice, preimage = made(node)
    node.pay(invoice.bolt11, payer="customer")
    for act in (lambda: node.settle("customer", preimage), lambda: node.cancel("customer", invoice.payment_hash)):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.reason == "unknown"
    ordinary = node.make("shop", 1_000, expiry=600)
    with pytest.raises(Refused, match="no hold invoice"):
        node.cancel("shop", ordinary.payment_hash)
    assert node.lookup("shop", invoice.payment_hash).state is HELD


async def test_each_payment_is_taken_once(node: PaperNode) -> None:
    invoice, preimage = made(node)
    node.pay(invoice.bolt11, payer="customer")
    reasons = []
    for act in (lambda: None, lambda: node.settle("shop", preimage)):
        act()
        with pytest.raises(Refused) as refused:
            node.pay(invoice.bolt11)
        reasons.append(refused.value.reason)
    assert reasons == ["held", "already_paid"]
    assert balances(node) == (3_000, 7_000)


async def test_the_deadline_sends_the_money_back(node: PaperNode) -> None:
    node.mine(100)
    (late, preimage), (later, _) = made(node, 4_000, hold=10), made(node, 5_000, hold=11)
    for invoice in (late, later):
        node.pay(invoice.bolt11, payer="customer")
    assert (late.deadline, later.deadline) == (110, 111)
    node.mine(9)
    assert node.lookup("shop", late.payment_hash) == Lookup(HELD, 4_000, blocks_left=1)
    node.mine()
    assert node.lookup("shop", late.payment_hash).state is FAILED
    assert node.lookup("shop", later.payment_hash) == Lookup(HELD, 5_000, blocks_left=1)
    assert balances(node) == (5_000, 0)
    with pytest.raises(Refused) as refused:
        node.settle("shop", preimage)
    assert refused.value.reason == "cancelled"


async def test_what_was_accepted_outlives_its_invoices_expiry() -> None:
    at = 1_780_000_000.0
    node = PaperNode(now=lambda: at)
    invoice, preimage = made(node)
    node.pay(invoice.bolt11)
    at += 10_000
    assert node.lookup("shop", invoice.payment_hash).state is HELD
    node.settle("shop", preimage)
    assert node.balance("shop") == 7_000


# --- what it remembers ---------------------------------------------------------------------------------


async def test_hold_invoices_survive_a_restart_in_each_state(tmp_path: Path) -> None:
    node = PaperNode(tmp_path)
    await node.start()
    node.open_wallet("customer", 100_000)
    node.mine(50)
    (unpaid, _), (held, held_preimage), (settled, preimage), (cancelled, _) = (made(node) for _ in range(4))
    for invoice in (held, settled, cancelled):
        node.pay(invoice.bolt11, payer="customer")
    node.settle("shop", preimage)
    node.cancel("shop", cancelled.payment_hash)
    await node.close()

    again = PaperNode(tmp_path)
    await again.start()
    assert again.height == 50
    for invoice, state in ((unpaid, PENDING), (held, HELD), (settled, SETTLED), (cancelled, FAILED)):
        assert again.lookup("shop", invoice.payment_hash).state is state
        assert again.lookup("shop", invoice.payment_hash) == node.lookup("shop", invoice.payment_hash)
    assert balances(again) == (100_000 - 14_000, 7_000)
    again.settle("shop", held_preimage)
    with pytest.raises(Refused, match="cancelled"):
        again.pay(cancelled.bolt11)
    assert balances(again) == (100_000 - 14_000, 14_000)
    await again.close()


async def test_a_time_out_that_a_crash_has_cut_short_is_made_up_for(tmp_path: Path) -> None:
    node = PaperNode(tmp_path)
    await node.start()
    node.open_wallet("customer", 10_000)
    invoice, _ = made(node, hold=3)
    node.pay(invoice.bolt11, payer="customer")
    await node.close()
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'["mined",3]\n')  # and then it was killed
    again = PaperNode(tmp_path)
    await again.start()
    assert again.lookup("shop", invoice.payment_hash).state is FAILED
    assert again.balance("customer") == 10_000
    await again.close()


@pytest.mark.parametrize(
    "text", ['["settled","ab",1,"cd"]\n', '["cancelled","ab",1]\n', '["accepted","ab",1,null,9]\n']
)
async def test_steps_of_no_invoice_are_not_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(WalletError, match=r"paper\.jsonl"):
        await PaperNode(tmp_path).start()


KILLED = """
import asyncio, sys
from hashlib import sha256
from pathlib import Path
from dvm.lightning.paper import PaperNode
async def main():
    node = PaperNode(Path(sys.argv[1]))
    await node.start()
    node.open_wallet("customer", 10**9)
    for n in range(10**9):
        preimage = n.to_bytes(32, "big")
        invoice = node.make("shop", 1000, expiry=600, payment_hash=sha256(preimage).hexdigest(), hold=5)
        node.pay(invoice.bolt11, payer="customer")
        print("held", n, flush=True)
        if n % 3 == 0:
            node.settle("shop", preimage.hex())
            print("settled", n, flush=True)
        elif n % 3 == 1:
            node.cancel("shop", invoice.payment_hash)
            print("cancelled", n, flush=True)
        elif n % 30 == 2:
            node.mine()
asyncio.run(main())
"""


async def test_no_msat_is_made_or_lost_over_sigkill(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [process.stdout.readline().split() for _ in range(400)]
    os.kill(process.pid, signal.SIGKILL)
    told += [words for line in process.stdout.read().splitlines() if len(words := line.split()) == 2]
    process.wait()
    node = PaperNode(tmp_path)
    await node.start()
    states = {"settled": SETTLED, "cancelled": FAILED}
    for word, number in told:
        if word in states:
            payment_hash = sha256(int(number).to_bytes(32, "big")).hexdigest()
            assert node.lookup("shop", payment_hash).state is states[word]
    waiting = sum(invoice.msat for invoice in node.incoming("shop") if invoice.held)
    assert node.balance("shop") + node.balance("customer") + waiting == 10**9
    await node.close()


# --- paying --------------------------------------------------------------------------------------------


async def test_paying_waits_and_is_pending_when_it_waits_too_long(node: PaperNode) -> None:
    customer = PaperWallet(node, "customer", pay_timeout=0.05)
    invoice, preimage = made(node)
    assert (await customer.pay(invoice.bolt11, fee_limit_msat=0)).state is PENDING
    assert (await customer.pay(invoice.bolt11, fee_limit_msat=0)).state is PENDING  # not paid twice
    assert (await customer.payment(invoice.payment_hash)).state is PENDING
    assert node.balance("customer") == 3_000
    node.settle("shop", preimage)
    assert (await customer.pay(invoice.bolt11, fee_limit_msat=0)).preimage == preimage
    assert (await customer.payment(invoice.payment_hash)).preimage == preimage
    customer.faults.error = "unreachable"
    told = await customer.payment(invoice.payment_hash)
    assert (told.state, told.known) == (UNKNOWN, True)


async def test_an_outside_payer_asks_on_the_socket_what_has_become_of_it(tmp_path: Path) -> None:
    node = PaperNode(tmp_path)
    await node.start()
    await node.listen()
    (settled, preimage), (cancelled, _) = made(node), made(node)
    for invoice in (settled, cancelled):
        for _ in range(2):
            answer = await pay_over_socket(tmp_path / SOCKET, invoice.bolt11)
            assert (answer["paid"], answer["held"], answer["deadline"]) == (False, True, 144)
    node.settle("shop", preimage)
    node.cancel("shop", cancelled.payment_hash)
    answer = await pay_over_socket(tmp_path / SOCKET, settled.bolt11)
    assert (answer["paid"], answer["preimage"]) == (True, preimage)
    answer = await pay_over_socket(tmp_path / SOCKET, cancelled.bolt11)
    assert (answer["paid"], answer["reason"]) == (False, "cancelled")
    assert node.balance("shop") == 7_000
    await node.close()


# --- faults --------------------------------------------------------------------------------------------


async def test_pushes_of_accepted_hold_invoices_fail_as_ordered(node: PaperNode) -> None:
    shop = PaperWallet(node)
    await shop.start()
    hints = shop.settlements()
    (dropped, _), (doubled, _), (late, _) = (made(node, 1_000) for _ in range(3))
    shop.faults.drop_accepted = True
    node.pay(dropped.bolt11)
    shop.faults.drop_accepted = False
    shop.faults.duplicate_settlements = 1
    node.pay(doubled.bolt11)
    shop.faults.duplicate_settlements = 0
    shop.faults.delay_pushes = 0.05
    node.pay(late.bolt11)
    node.cancel("shop", late.payment_hash)
    async with asyncio.timeout(60):
        assert [await anext(hints) for _ in range(3)] == [doubled.payment_hash] * 2 + [late.payment_hash]
    await shop.close()


async def test_an_answer_that_is_lost_leaves_what_was_done(node: PaperNode) -> None:
    shop = PaperWallet(node)
    await shop.start()
    shop.faults.lose_answers = True
    (settled, preimage), (cancelled, _) = made(node, 1_000), made(node, 1_000)
    for invoice in (settled, cancelled):
        node.pay(invoice.bolt11)
    for call in (shop.settle_hold(preimage), shop.cancel_hold(cancelled.payment_hash)):
        with pytest.raises(WalletError) as error:
            await call
        assert error.value.code == "unreachable"
    assert (await shop.lookup(settled.payment_hash)).state is SETTLED
    assert (await shop.lookup(cancelled.payment_hash)).state is FAILED
    await shop.close()
