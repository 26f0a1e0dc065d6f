"""The paper wallet: the contract, what it remembers over a SIGKILL, and its socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import MAX_LENGTH, decode
from dvm.lightning.paper import PaperNode, PaperWallet, Refused
from dvm.lightning.paper_node import JOURNAL, SOCKET
from dvm.lightning.paper_socket import pay_over_socket
from tests.lightning.contract import SETTLED, UNKNOWN, Bench, WalletContract
from tests.lightning.hold_contract import HoldBench, HoldContract


@pytest.fixture
async def shop() -> AsyncIterator[PaperWallet]:
    node = PaperNode()
    node.open_wallet("customer", 1_000_000)
    node.open_wallet("shop", 1_000_000)
    wallet = PaperWallet(node, "shop", owns=True)
    await wallet.start()
    yield wallet
    await wallet.close()


class TestPaper(WalletContract, HoldContract):
    @pytest.fixture
    def bench(self, shop: PaperWallet) -> Bench:
        async def pay(bolt11: str) -> None:
            shop.node.pay(bolt11, payer="customer")

        async def invoice(msat: int) -> str:
            return shop.node.make("customer", msat, description="change", expiry=600).bolt11

        return Bench(shop, pay, invoice)

    @pytest.fixture
    def hold_bench(self, shop: PaperWallet) -> HoldBench:
        customer = PaperWallet(shop.node, "customer")

        async def pay(bolt11: str) -> str | None:
            try:
                return (await customer.pay(bolt11, fee_limit_msat=0)).preimage
            except Refused:
                return None

        async def balance() -> int:
            return shop.node.balance("customer")

        return HoldBench(shop, pay, balance)


class Clock:
    def __init__(self) -> None:
        self.at = 1_780_000_000.0

    def __call__(self) -> float:
        return self.at


async def test_it_says_that_it_is_paper() -> None:
    wallet = PaperWallet(PaperNode())
    await wallet.start()
    invoice = await wallet.create_invoice(1_000, description="x" * 1_000, expiry=60)
    said = decode(invoice.bolt11)
    assert "paper" in (said.description or "")
    assert said.network == "regtest"
    info = await wallet.info()
    assert "paper" in info.alias
    assert info.network == "regtest"


async def test_paying_moves_msat_between_wallets_and_makes_none() -> None:
    node = PaperNode()
    node.open_wallet("customer", 10_000)
    first, second = (node.make("shop", msat, expiry=60) for msat in (7_000, 4_000))
    node.pay(first.bolt11.upper(), payer="customer")
    assert (node.balance("customer"), node.balance("shop")) == (3_000, 7_000)
    with pytest.raises(Refused, match="3000 msat") as refused:
        node.pay(second.bolt11, payer="customer")
    assert (refused.value.reason, refused.value.code) == ("insufficient", "insufficient")
    assert (node.balance("customer"), node.balance("shop")) == (3_000, 7_000)


async def test_an_invoice_is_paid_once_and_not_after_its_expiry() -> None:
    clock = Clock()
    node = PaperNode(now=clock)
    invoice, late = (node.make("shop", 1_000, expiry=60) for _ in range(2))
    node.pay(invoice.bolt11)
    with pytest.raises(Refused) as refused:
        node.pay(invoice.bolt11)
    assert refused.value.reason == "already_paid"
    assert node.lookup("shop", late.payment_hash).state is InvoiceState.PENDING
    clock.at += 60
    with pytest.raises(Refused) as refused:
        node.pay(late.bolt11)
    assert refused.value.reason == "expired"
    assert node.lookup("shop", late.payment_hash).state is InvoiceState.FAILED
    assert node.balance("shop") == 1_000


async def test_another_nodes_invoice_is_not_paid() -> None:
    theirs = PaperNode().make("shop", 1_000, expiry=60)
    with pytest.raises(Refused) as refused:
        PaperNode().pay(theirs.bolt11)
    assert refused.value.reason == "unknown"


async def test_another_wallets_settlement_is_not_ours() -> None:
    node = PaperNode()
    shop = PaperWallet(node, "shop")
    await shop.start()
    invoice = node.make("customer", 1_000, expiry=60)
    node.pay(invoice.bolt11)
    assert (await shop.lookup(invoice.payment_hash)).state is UNKNOWN


async def test_faults_strike_as_ordered() -> None:
    node = PaperNode()
    wallet = PaperWallet(node)
    await wallet.start()
    hints = wallet.settlements()
    wallet.faults.drop_settlements = True
    dropped, doubled = [await wallet.create_invoice(1_000, description="", expiry=60) for _ in range(2)]
    node.pay(dropped.bolt11)
    wallet.faults.drop_settlements = False
    wallet.faults.duplicate_settlements = 1
    node.pay(doubled.bolt11)
    assert [await anext(hints), await anext(hints)] == [doubled.payment_hash] * 2
    wallet.faults.error = "rate_limited"
    with pytest.raises(WalletError, match="rate_limited"):
        await wallet.create_invoice(1_000, description="", expiry=60)
    assert (await wallet.lookup(dropped.payment_hash)).state is UNKNOWN  # not "unpaid"
    wallet.faults.error = None
    assert (await wallet.lookup(dropped.payment_hash)).state is SETTLED


# --- what it remembers ---------------------------------------------------------------------------------


async def test_invoices_balances_and_the_key_survive_a_restart(tmp_path: Path) -> None:
    node = PaperNode(tmp_path)
    await node.start()
    node.open_wallet("customer", 10_000)
    paid, unpaid = (node.make("shop", 1_000, description=f"job {n}", expiry=600) for n in range(2))
    node.pay(paid.bolt11, payer="customer")
    await node.close()

    again = PaperNode(tmp_path)
    await again.start()
    again.open_wallet("customer", 10_000)  # it is there already: no second gift
    assert again.pubkey == node.pubkey
    assert (again.balance("shop"), again.balance("customer")) == (1_000, 9_000)
    assert again.lookup("shop", paid.payment_hash) == node.lookup("shop", paid.payment_hash)
    assert [i.payment_hash for i in again.incoming("shop")] == [unpaid.payment_hash, paid.payment_hash]
    assert [i.payment_hash for i in again.outgoing("customer")] == [paid.payment_hash]
    again.pay(unpaid.bolt11)
    with pytest.raises(Refused, match="already"):
        again.pay(paid.bolt11)
    await again.close()


async def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    node = PaperNode(tmp_path)
    await node.start()
    with pytest.raises(WalletError, match="another process"):
        await PaperNode(tmp_path).start()
    await node.close()
    assert stat.S_IMODE((tmp_path / JOURNAL).stat().st_mode) == 0o600


async def test_a_torn_line_never_counted_and_hurts_nothing(tmp_path: Path) -> None:
    node = PaperNode(tmp_path)
    await node.start()
    kept = node.make("shop", 1_000, expiry=600)
    await node.close()
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'["paid","' + kept.payment_hash.encode()[:20])
    for _ in range(2):
        node = PaperNode(tmp_path)
        await node.start()
        assert node.lookup("shop", kept.payment_hash).state is InvoiceState.PENDING
        node.make("shop", 1_000, expiry=600)
        await node.close()
    node = PaperNode(tmp_path)
    await node.start()
    assert len(list(node.incoming("shop"))) == 3
    await node.close()


@pytest.mark.parametrize("text", ['{"a":1}\n', '["paid","ab",1,null]\n', '["invoice",1]\n', '["node","zz"]\n'])
async def test_a_file_that_is_not_ours_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(WalletError, match=r"paper\.jsonl"):
        await PaperNode(tmp_path).start()


KILLED = """
import asyncio, sys
from pathlib import Path
from dvm.lightning.paper import PaperNode
async def main():
    node = PaperNode(Path(sys.argv[1]))
    await node.start()
    while True:
        invoice = node.make("shop", 1000, expiry=600)
        node.pay(invoice.bolt11)
        print(invoice.payment_hash, flush=True)
asyncio.run(main())
"""


async def test_what_was_settled_stays_settled_over_sigkill(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = [process.stdout.readline().strip() for _ in range(50)]
    os.kill(process.pid, signal.SIGKILL)
    told += [line.strip() for line in process.stdout.read().splitlines() if len(line.strip()) == 64]
    process.wait()
    node = PaperNode(tmp_path)
    await node.start()
    assert all(node.lookup("shop", payment_hash).state is InvoiceState.SETTLED for payment_hash in told)
    settled = [i for i in node.incoming("shop") if i.settled_at is not None]
    assert node.balance("shop") == 1_000 * len(settled)
    await node.close()


# --- its socket ----------------------------------------------------------------------------------------


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[PaperNode]:
    node = PaperNode(tmp_path)
    await node.start()
    await node.listen()
    yield node
    await node.close()


async def test_another_process_pays_over_the_socket(node: PaperNode, tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    invoice = node.make("shop", 1_000, expiry=600)
    answer = await pay_over_socket(path, invoice.bolt11)
    assert answer == {
        "paid": True,
        "payment_hash": invoice.payment_hash,
        "preimage": invoice.preimage,
        "msat": 1_000,
    }
    again = await pay_over_socket(path, invoice.bolt11)
    assert (again["paid"], again["reason"]) == (False, "already_paid")
    await node.close()
    with pytest.raises(WalletError, match="unreachable"):
        await pay_over_socket(path, invoice.bolt11)


async def test_many_lines_are_answered_in_order(node: PaperNode, tmp_path: Path) -> None:
    invoices = [node.make("shop", 1_000, expiry=600) for _ in range(300)]
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
    writer.write("".join(f"{invoice.bolt11}\r\n" for invoice in invoices).encode())
    answers = [json.loads(await reader.readline()) for _ in invoices]
    assert [answer["payment_hash"] for answer in answers] == [invoice.payment_hash for invoice in invoices]
    writer.close()


@pytest.mark.parametrize("line", [b"", b"lnbc1", b"\xff\xfe\x00", b'{"pay": 1}', b"q" * MAX_LENGTH])
async def test_nonsense_is_answered_and_the_next_line_works(node: PaperNode, tmp_path: Path, line: bytes) -> None:
    invoice = node.make("shop", 1_000, expiry=600)
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
    writer.write(line + b"\n" + invoice.bolt11.encode() + b"\n")
    refused = json.loads(await reader.readline())
    assert (refused["paid"], refused["reason"]) == (False, "invalid")
    assert json.loads(await reader.readline())["paid"]
    writer.close()


async def test_a_line_without_end_is_cut_off(node: PaperNode, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
    writer.write(b"q" * (MAX_LENGTH + 3))
    assert not json.loads(await reader.readline())["paid"]
    assert await reader.read() == b""
    writer.close()


async def test_who_does_not_read_the_answers_is_not_read_either(node: PaperNode, tmp_path: Path) -> None:
    _, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET), limit=1)
    assert node._socket is not None
    async with asyncio.timeout(60):
        while not any(not payer.reading for payer in node._socket.connections):
            writer.write(b"x\n" * 10_000)
            await asyncio.sleep(0)
    invoice = node.make("shop", 1_000, expiry=600)  # others are served all the while
    assert (await pay_over_socket(tmp_path / SOCKET, invoice.bolt11))["paid"]
    writer.transport.abort()


async def test_connections_are_bounded_and_given_back(node: PaperNode, tmp_path: Path) -> None:
    invoice = node.make("shop", 1_000, expiry=600)
    held = [await asyncio.open_unix_connection(str(tmp_path / SOCKET)) for _ in range(64)]
    assert "too many" in str((await pay_over_socket(tmp_path / SOCKET, invoice.bolt11))["error"])
    for reader, writer in held:
        writer.write(b"\n")
        await reader.readline()
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(60):
        while not (await pay_over_socket(tmp_path / SOCKET, invoice.bolt11))["paid"]:
            await asyncio.sleep(0.01)


async def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    first = PaperNode()
    await first.listen(tmp_path / SOCKET)
    second = PaperNode()
    await second.listen(tmp_path / SOCKET)
    invoice = second.make("shop", 1_000, expiry=600)
    assert (await pay_over_socket(tmp_path / SOCKET, invoice.bolt11))["paid"]
    await second.close()
    await first.close()


async def test_a_path_too_long_for_a_socket_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match=r"paper\.sock"):
        await PaperNode().listen(tmp_path / ("d" * 100) / SOCKET)
