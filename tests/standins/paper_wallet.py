"""The paper wallet service as a process that misbehaves: pushes lost, doubled and late, answers lost.

`python -m tests.standins.paper_wallet --relay ws://… --data DIR` prints one JSON line: the URIs of the `shop`
and the `customer`, and the `socket` through which anybody pays. It obeys JSON lines on stdin, which set the
attributes of `ServiceFaults` of the shop's connection: `{"errors": {"make_invoice": "INTERNAL"}}`; `{"mine": 3}`
mines three blocks, at whose deadline accepted hold invoices are cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

from dvm.lightning.paper_node import PaperInvoice, PaperNode
from dvm.lightning.paper_process import _keys
from dvm.lightning.paper_service import PaperService, Served
from dvm.nostr.event import Event


class Careless(PaperService):
    """Each with its own probability: a push is dropped, doubled, late; a request is done and not answered."""

    def __init__(self, node: PaperNode, relays: list[str], options: argparse.Namespace) -> None:
        super().__init__(node, relays)
        self._options = options
        self._random = random.Random(options.seed)

    async def notify(self, served: Served, kind: str, invoice: PaperInvoice, *, settled_at: int | None) -> None:
        options, chance = self._options, self._random.random
        if chance() < options.drop:
            return
        if chance() < options.late:
            await asyncio.sleep(chance() * 2)
        for _ in range(2 if chance() < options.double else 1):
            await super().notify(served, kind, invoice, settled_at=settled_at)

    async def _respond(self, served: Served, event: Event) -> None:
        if self._random.random() < self._options.silent:
            served.faults.drop_responses = 1
        await super()._respond(served, event)


async def serve(options: argparse.Namespace) -> None:
    node = PaperNode(options.data)
    service = Careless(node, [options.relay], options)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await node.start()
    node.open_wallet("customer", 10**12)
    await node.listen()
    keys = _keys(options.data)
    shop, customer = (service.connect(name, keys=keys[name]) for name in ("shop", "customer"))
    try:
        await service.start()
        said: dict[str, Any] = {"shop": shop.connection.uri(), "customer": customer.connection.uri()}
        print(json.dumps(said | {"socket": str(options.data / "paper.sock")}), flush=True)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        obeying = asyncio.create_task(obey(reader, shop, node))
        await stopped.wait()
        obeying.cancel()
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await service.close()
        await node.close()


async def obey(orders: asyncio.StreamReader, shop: Served, node: PaperNode) -> None:
    async for line in orders:
        for name, value in json.loads(line).items():
            if name == "mine":
                node.mine(value)
            else:
                setattr(shop.faults, name, value)
        print(json.dumps({"obeyed": json.loads(line)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A careless paper wallet.")
    parser.add_argument("--relay", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    for name in ("drop", "double", "late", "silent"):
        parser.add_argument(f"--{name}", type=float, default=0.0, help="a probability")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
