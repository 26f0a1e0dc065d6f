"""The wallet of the benchmarks: a paper node behind NIP-47 in a process of its own, which counts what it is asked.

Its first line holds the connection's URI and the socket where anybody pays. It obeys lines on stdin: `pushes on` and
`pushes off`, and `counts NUMBER`, which is answered with the requests by method since the last such line. It ends
when its stdin does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import orjson

from dvm.lightning.paper_node import SOCKET, PaperNode
from dvm.lightning.paper_service import PaperService, Served


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("relay")
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    node = PaperNode(options.data)
    service = PaperService(node, [options.relay])
    await node.start()
    try:
        await node.listen()
        shop = service.connect("shop")
        await service.start()
        _say({"uri": shop.connection.uri(), "socket": str(options.data / SOCKET)})
        while line := await asyncio.to_thread(sys.stdin.readline):
            _obey(line.split(), shop)
    finally:
        await service.close()
        await node.close()


def _obey(words: list[str], shop: Served) -> None:
    match words:
        case ["pushes", ("on" | "off") as wanted]:
            shop.faults.drop_notifications = wanted == "off"
            _say({"pushes": wanted})
        case ["counts", number]:
            _say({"asked": number, "requests": dict(shop.counters.by_method)})
            shop.counters.by_method.clear()


def _say(what: dict[str, object]) -> None:
    print(orjson.dumps(what).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
