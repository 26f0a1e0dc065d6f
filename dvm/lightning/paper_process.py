"""The paper wallet service as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from dvm.lightning.base import WalletError
from dvm.lightning.paper_node import ALIAS, PaperNode
from dvm.lightning.paper_service import BOTH, PaperService
from dvm.nostr.addresses import AddressRefused
from dvm.nostr.encryption import Scheme
from dvm.nostr.keys import InvalidKey, Keys

_KEYS = "paper-connections.json"
_SCHEMES: dict[str, tuple[Scheme, ...]] = {"both": BOTH, "nip44_v2": ("nip44",), "nip04": ("nip04",)}


def main(arguments: list[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT. Exit code 2 is a usage error, 1 anything else that went wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m dvm.lightning.paper_service",
        description="A NIP-47 wallet service for trying things out: real invoices on regtest, no real money.",
        epilog="Prints one JSON line: shop and customer hold each wallet's nostr+walletconnect URI.",
    )
    parser.add_argument("--relay", action="append", required=True, help="where it listens; may be repeated")
    parser.add_argument("--data", type=Path, help="keep invoices and connections in this directory")
    parser.add_argument("--sats", type=int, default=1_000_000, help="what the customer begins with")
    parser.add_argument("--encryption", choices=list(_SCHEMES), default="both")
    options = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(options.relay, options.data, options.sats, _SCHEMES[options.encryption]))
    except AddressRefused as error:
        parser.error(f"--relay: {error}")
    except (WalletError, OSError) as error:
        sys.exit(f"paper wallet: {error}")


async def _serve(relays: list[str], data: Path | None, sats: int, schemes: tuple[Scheme, ...]) -> None:
    node = PaperNode(data)
    service = PaperService(node, relays)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        await node.start()
        node.open_wallet("customer", sats * 1_000)
        if data is not None:
            await node.listen()
        keys = _keys(data)
        served = [service.connect(name, keys=keys[name], schemes=schemes) for name in ("shop", "customer")]
        await service.start()
        uris = {connected.name: connected.connection.uri() for connected in served}
        # The one place where the URIs go: whoever started this process reads them here.
        sys.stdout.write(json.dumps(uris | {"wallet": ALIAS, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        await stopped.wait()
    finally:
        await service.close()
        await node.close()


def _keys(data: Path | None) -> dict[str, tuple[Keys, Keys]]:
    """The service's and the client's keys of each connection, kept in the directory if there is one."""
    path = None if data is None else data / _KEYS
    if path is not None:
        with contextlib.suppress(FileNotFoundError):
            try:
                stored = json.loads(path.read_text())
                return {
                    name: (Keys.parse(stored[name][0]), Keys.parse(stored[name][1])) for name in ("shop", "customer")
                }
            except (ValueError, KeyError, IndexError, TypeError, AttributeError, InvalidKey):
                raise WalletError("failed", f"{path}: not a paper wallet's file") from None
    keys = {name: (Keys.generate(), Keys.generate()) for name in ("shop", "customer")}
    if path is not None:
        text = json.dumps({name: [own.nsec(), client.nsec()] for name, (own, client) in keys.items()})
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "w") as out:
            out.write(text)
    return keys
