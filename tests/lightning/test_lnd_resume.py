"""No settlement is missed or repeated: over cut streams, over restarts, and from a node that has none yet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dvm.lightning.lnd import LndWallet
from dvm.lightning.lnd_macaroon import parse
from dvm.lightning.lnd_stream import Pace
from tests.lightning.contract import SETTLED
from tests.standins.lnd import LndStandin, lnd_standin
from tests.standins.ports import free_port
from tests.standins.waiting import until

QUICK = Pace(silence=5.0, backoff=0.02, longest=0.1, poll=0.05)


class Till:
    """A wallet, and everything that it has told."""

    def __init__(self, node: LndStandin, data: Path, pace: Pace = QUICK) -> None:
        self.wallet = LndWallet(node.url, parse(node.admin), data, timeout=20.0, pace=pace)
        self.told: list[str] = []
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> Till:
        await self.wallet.start()
        self._reading = asyncio.create_task(self._read(self.wallet.settlements()))
        return self

    async def _read(self, hints: AsyncIterator[str]) -> None:
        async for payment_hash in hints:
            self.told.append(payment_hash)

    async def has(self, *told: str) -> None:
        """Wait until just these were told, in this order."""
        await until(lambda: len(self.told) >= len(told))
        assert self.told == list(told)

    async def close(self) -> None:
        await self.wallet.close()
        if self._reading is not None:
            await self._reading


async def sell(node: LndStandin, count: int = 1) -> list[str]:
    """Invoices, made by whomever, and paid."""
    sold = [node.books.fake(5_000) for _ in range(count)]
    for invoice in sold:
        await node.books.receive_for(invoice)
    return [invoice.payment_hash for invoice in sold]


async def streaming(node: LndStandin) -> None:
    await until(lambda: node.server.streams == 1 and len(node.books.listeners) == 1)


def kept(data: Path) -> int:
    file = data / "wallet-lnd.json"
    return int(json.loads(file.read_text())["indexes"]["settle_index"]) if file.exists() else 0


async def test_what_settles_while_the_stream_is_cut_is_told_once(node: LndStandin, tmp_path: Path) -> None:
    till = await Till(node, tmp_path).open()
    sold = await sell(node, 3)
    await till.has(*sold)
    for _ in range(4):
        await streaming(node)
        assert node.server.cut_streams() == 1
        sold += await sell(node, 3)
        await streaming(node)
        sold += await sell(node, 2)
        await till.has(*sold)
    await till.close()


async def test_what_settles_while_we_are_down_is_told_once(node: LndStandin, tmp_path: Path) -> None:
    sold: list[str] = []
    for _ in range(4):
        till = await Till(node, tmp_path).open()
        meanwhile = sold
        await till.has(*meanwhile)
        now = await sell(node, 2)
        await till.has(*meanwhile, *now)
        await till.close()
        sold = await sell(node, 3)  # nobody hears of these


async def test_what_settles_while_lnd_restarts_is_told_once(node: LndStandin, tmp_path: Path) -> None:
    till = await Till(node, tmp_path).open()
    sold = await sell(node)
    await till.has(*sold)
    await node.server.stop()
    sold += await sell(node, 2)
    await node.server.start()
    await till.has(*sold)
    await till.close()


async def test_the_place_moves_only_when_a_hint_was_dealt_with(node: LndStandin, tmp_path: Path) -> None:
    """A crash between being told and having dealt with it repeats the hint, and does not lose it."""
    wallet = LndWallet(node.url, parse(node.admin), tmp_path, pace=QUICK)
    await wallet.start()
    hints = wallet.settlements()
    sold = await sell(node, 2)
    assert await anext(hints) == sold[0]
    assert await anext(hints) == sold[1]
    await asyncio.sleep(0)
    assert kept(tmp_path) == 0  # the second is in our hands, and we have not come back for more
    more = asyncio.ensure_future(anext(hints, None))
    await until(lambda: kept(tmp_path) == 2)
    await wallet.close()
    assert await more is None


async def test_a_crash_repeats_and_loses_nothing(node: LndStandin, tmp_path: Path) -> None:
    wallet = LndWallet(node.url, parse(node.admin), tmp_path, pace=QUICK)
    await wallet.start()
    hints = wallet.settlements()
    (sold,) = await sell(node)
    assert await anext(hints) == sold
    await wallet.close()  # in the midst of dealing with it
    till = await Till(node, tmp_path).open()
    await till.has(sold)
    await till.close()


async def test_nothing_is_lost_while_nobody_reads_yet(node: LndStandin, tmp_path: Path) -> None:
    till = await Till(node, tmp_path).open()
    first = await sell(node)
    await till.has(*first)
    await till.close()
    till = Till(node, tmp_path)
    await till.wallet.start()
    sold = await sell(node, 2)
    await till.wallet.info()
    await till.open()
    await till.has(*sold)
    await till.close()


async def test_the_very_first_settlement_is_told_although_index_0_means_from_now_on(
    node: LndStandin, tmp_path: Path
) -> None:
    """It came between the list and the subscription, or while that was cut."""
    node.faults["/v1/invoices/subscribe"] = "cut"
    till = await Till(node, tmp_path).open()
    await until(lambda: node.calls["/v1/invoices/subscribe"] > 0)
    sold = await sell(node, 2)
    await till.has(*sold)
    node.faults.clear()
    await streaming(node)
    sold += await sell(node)
    await till.has(*sold)
    await till.close()


async def test_the_first_settlements_are_told_whatever_subscribing_misses(node: LndStandin, tmp_path: Path) -> None:
    till = await Till(node, tmp_path, Pace(silence=60.0)).open()
    await streaming(node)
    node.books.drop_pushes = True  # as if LND had not yet taken up the subscription
    sold = await sell(node)
    await till.has(*sold)
    node.books.drop_pushes = False
    sold += await sell(node)
    await till.has(*sold)
    await till.close()


async def test_a_silent_stream_is_taken_up_anew(node: LndStandin, tmp_path: Path) -> None:
    """A connection can die without a word: what it would have told comes with the next."""
    till = await Till(node, tmp_path, Pace(silence=0.3, backoff=0.02, longest=0.1)).open()
    sold = await sell(node)
    await till.has(*sold)
    node.books.drop_pushes = True
    await streaming(node)
    sold += await sell(node, 2)
    await till.has(*sold)
    await till.close()


async def test_another_node_has_another_place(node: LndStandin, tmp_path: Path) -> None:
    till = await Till(node, tmp_path).open()
    await till.has(*(await sell(node, 5)))
    await till.close()
    assert kept(tmp_path) == 5
    async with lnd_standin() as other:
        till = await Till(other, tmp_path).open()
        sold = await sell(other, 2)
        await till.has(*sold)
        await till.close()
    assert kept(tmp_path) == 2


async def test_the_same_node_at_another_address_keeps_its_place(node: LndStandin, tmp_path: Path) -> None:
    till = await Till(node, tmp_path).open()
    await till.has(*(await sell(node, 3)))
    await till.close()
    await node.server.stop()
    node.server.port = free_port()
    await node.server.start()
    till = await Till(node, tmp_path).open()
    sold = await sell(node)
    await till.has(*sold)
    await till.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"owner": 1}', '{"owner": "x", "indexes": {"settle_index": -1}}'])
async def test_a_lost_place_costs_a_repetition(node: LndStandin, tmp_path: Path, content: str) -> None:
    till = await Till(node, tmp_path).open()
    sold = await sell(node, 2)
    await till.has(*sold)
    await till.close()
    (tmp_path / "wallet-lnd.json").write_text(content)
    till = await Till(node, tmp_path).open()
    await till.has(*sold)
    sold += await sell(node)
    await till.has(*sold)
    await till.close()


async def test_an_index_that_cannot_be_mutes_nothing(node: LndStandin, tmp_path: Path) -> None:
    till = await Till(node, tmp_path).open()
    sold = await sell(node)
    await till.has(*sold)
    await streaming(node)
    assert node.server.cut_streams() == 1
    await until(lambda: node.calls["/v1/invoices/subscribe"] > 1)
    await streaming(node)
    liar = node.books.fake(5_000)
    node.books.push(
        {**liar.json(), "state": "SETTLED", "amt_paid_msat": "5000", "settle_index": str(1 << 62), "settle_date": "1"}
    )
    sold += await sell(node)
    await till.has(*sold)
    assert (await till.wallet.lookup(sold[-1])).state is SETTLED
    await till.close()
    assert kept(tmp_path) == 2
