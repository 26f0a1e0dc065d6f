"""A real Lightning network of two: btcd on a private chain, and two lnds with a channel between them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.standins.ports import free_port

NETWORK = "regtest"
_CAPACITY = 10_000_000  # sats, half of it on either side
_SEGWIT = 450  # blocks until it is active on a new chain of an older btcd: three periods of BIP 9, of 144 each
_CREDENTIALS = ("rpc", "a-password-of-a-private-chain")
_MACAROONS = f"data/chain/bitcoin/{NETWORK}"


def programs() -> None:
    """Skips the test where lnd or btcd is missing."""
    missing = [name for name in ("lnd", "btcd", "btcctl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not on the PATH: {', '.join(missing)} (`scripts/lnd --build` builds them)")


@dataclass
class Daemon:
    """A program that runs until it is told to end. Its output goes to a file beside its data."""

    name: str
    directory: Path
    arguments: list[str]
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "output").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.arguments, stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL, env=_environment()
            )

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            try:
                await asyncio.wait_for(self.process.wait(), 30)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    def check(self) -> None:
        assert self.process is not None
        if self.process.returncode is not None:
            tail = (self.directory / "output").read_text(errors="replace")[-2_000:]
            raise AssertionError(f"{self.name} has ended with {self.process.returncode}:\n{tail}")


@dataclass
class Lnd:
    """One of the two."""

    daemon: Daemon
    url: str
    peers: str
    rpc: int
    _client: httpx.AsyncClient | None = field(default=None, repr=False)

    @property
    def tls_cert(self) -> Path:
        return self.daemon.directory / "tls.cert"

    def macaroon(self, name: str = "admin") -> str:
        """As hex: admin, readonly, invoice, …"""
        return (self.daemon.directory / _MACAROONS / f"{name}.macaroon").read_bytes().hex()

    async def call(self, method: str, path: str, json: Any = None) -> dict[str, Any]:
        """Any call of its REST interface, as its owner. Raises httpx.HTTPError."""
        if self._client is None:
            context = ssl.create_default_context(cafile=str(self.tls_cert))
            headers = {"Grpc-Metadata-macaroon": self.macaroon()}
            self._client = httpx.AsyncClient(base_url=self.url, verify=context, headers=headers, timeout=30)
        answer = await self._client.request(method, path, json=json)
        answer.raise_for_status()
        return dict(answer.json())

    async def key(self) -> str:
        return str((await self.call("GET", "/v1/getinfo"))["identity_pubkey"])

    async def disconnect(self, other: Lnd) -> None:
        await self.call("DELETE", f"/v1/peers/{await other.key()}")

    async def connect(self, other: Lnd) -> None:
        await self.call(
            "POST", "/v1/peers", {"addr": {"pubkey": await other.key(), "host": other.peers}, "timeout": "10"}
        )

    async def ready(self) -> None:
        """Once it answers and follows the chain."""

        async def synced() -> bool:
            return bool((await self.call("GET", "/v1/getinfo"))["synced_to_chain"])

        await _until(synced, self.daemon)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        await self.daemon.stop()


@dataclass
class LndPair:
    """`shop` and `customer`, each with half of the channel."""

    shop: Lnd
    customer: Lnd
    _chain: Chain

    async def mine(self, blocks: int) -> None:
        """That many blocks, seen by both."""
        height = await self._chain.mine(blocks)
        for node in (self.shop, self.customer):

            async def there(node: Lnd = node) -> bool:
                return int((await node.call("GET", "/v1/getinfo"))["block_height"]) >= height

            await _until(there, node.daemon)

    async def reconnect(self) -> None:
        """The link between them again, and the channel with it."""

        async def active() -> bool:
            nodes = (self.shop, self.customer)
            if all([(await node.call("GET", "/v1/channels?active_only=true"))["channels"] for node in nodes]):
                return True
            with contextlib.suppress(httpx.HTTPError):  # they may be at it themselves
                await self.shop.connect(self.customer)
            return False

        await _until(active, self.shop.daemon)


class Chain:
    """btcd, on which blocks come when they are asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.rpc, peers = free_port(), free_port()
        self._daemon = Daemon("btcd", directory, [])
        self._arguments = [
            "btcd",
            f"--{NETWORK}",
            f"--datadir={directory / 'data'}",
            f"--logdir={directory / 'logs'}",
            f"--configfile={directory / 'btcd.conf'}",
            f"--rpcuser={_CREDENTIALS[0]}",
            f"--rpcpass={_CREDENTIALS[1]}",
            f"--rpclisten=127.0.0.1:{self.rpc}",
            f"--listen=127.0.0.1:{peers}",
            f"--rpccert={self.certificate}",
            f"--rpckey={directory / 'rpc.key'}",
            "--txindex",
            "--nobanning",
            "--nostalldetect",
            "--trickleinterval=100ms",
        ]

    @property
    def certificate(self) -> Path:
        return self._directory / "rpc.cert"

    async def start(self, miner: str | None = None) -> None:
        """`miner`: the address that new blocks pay."""
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "btcd.conf").touch()
        self._daemon.arguments = [*self._arguments, *([f"--miningaddr={miner}"] if miner else [])]
        await self._daemon.start()

        async def answers() -> bool:
            return (await self._control("getblockcount"))[0] == 0

        await _until(answers, self._daemon)

    async def stop(self) -> None:
        await self._daemon.stop()

    async def mine(self, blocks: int) -> int:
        """The height then."""
        code, out = await self._control("generate", str(blocks))
        assert code == 0, out
        return int((await self._control("getblockcount"))[1])

    async def _control(self, *what: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            "btcctl",
            f"--{NETWORK}",
            f"--configfile={self._directory / 'btcd.conf'}",
            f"--rpcuser={_CREDENTIALS[0]}",
            f"--rpcpass={_CREDENTIALS[1]}",
            f"--rpcserver=127.0.0.1:{self.rpc}",
            f"--rpccert={self.certificate}",
            *what,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(),
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode().strip()


@asynccontextmanager
async def lnd_pair(directory: Path) -> AsyncIterator[LndPair]:
    """A new chain and a new channel, in `directory`. Skips the test where the programs are missing."""
    programs()
    chain = Chain(directory / "btcd")
    await chain.start()
    pair = LndPair(_lnd("shop", directory, chain), _lnd("customer", directory, chain), chain)
    nodes = (pair.shop, pair.customer)
    try:
        for node in nodes:
            await node.daemon.start()
        await _open(pair, chain)
        yield pair
    finally:
        await asyncio.gather(*(node.close() for node in nodes))
        await chain.stop()


async def _open(pair: LndPair, chain: Chain) -> None:
    """Mine, and open the channel."""

    async def has_an_address() -> bool:
        addresses.append((await pair.shop.call("GET", "/v1/newaddress"))["address"])
        return True

    addresses: list[str] = []
    await _until(has_an_address, pair.shop.daemon)
    await chain.stop()
    await chain.start(addresses[-1])
    await chain.mine(_SEGWIT)
    await asyncio.gather(pair.shop.ready(), pair.customer.ready())
    await pair.mine(1)

    async def connects() -> bool:
        await pair.shop.connect(pair.customer)
        return True

    await _until(connects, pair.shop.daemon)

    async def opens() -> bool:
        order = {
            "node_pubkey": base64.b64encode(bytes.fromhex(await pair.customer.key())).decode(),
            "local_funding_amount": str(_CAPACITY),
            "push_sat": str(_CAPACITY // 2),
        }
        return bool(await pair.shop.call("POST", "/v1/channels", order))

    await _until(opens, pair.shop.daemon)

    async def is_open() -> bool:
        for node in (pair.shop, pair.customer):
            if not (await node.call("GET", "/v1/channels?active_only=true"))["channels"]:
                await pair.mine(1)
                return False
        return True

    await _until(is_open, pair.shop.daemon)
    for payee, payer in ((pair.customer, pair.shop), (pair.shop, pair.customer)):

        async def can_pay(payee: Lnd = payee, payer: Lnd = payer) -> bool:
            invoice = await payee.call("POST", "/v1/invoices", {"value_msat": "1000"})
            order = {"payment_request": invoice["payment_request"]}
            return not (await payer.call("POST", "/v1/channels/transactions", order))["payment_error"]

        await _until(can_pay, payer.daemon)


def _lnd(name: str, directory: Path, chain: Chain) -> Lnd:
    rpc, rest, peers = (free_port() for _ in range(3))
    arguments = [
        "lnd",
        f"--lnddir={directory / name}",
        f"--configfile={directory / name / 'lnd.conf'}",
        f"--alias={name}",
        f"--bitcoin.{NETWORK}",
        "--bitcoin.node=btcd",
        f"--btcd.rpchost=127.0.0.1:{chain.rpc}",
        f"--btcd.rpcuser={_CREDENTIALS[0]}",
        f"--btcd.rpcpass={_CREDENTIALS[1]}",
        f"--btcd.rpccert={chain.certificate}",
        "--bitcoin.defaultchanconfs=1",
        "--noseedbackup",
        "--nobootstrap",
        "--debuglevel=info",
        f"--rpclisten=127.0.0.1:{rpc}",
        f"--restlisten=127.0.0.1:{rest}",
        f"--listen=127.0.0.1:{peers}",
        "--trickledelay=50",
    ]
    (directory / name).mkdir(parents=True)
    (directory / name / "lnd.conf").touch()
    return Lnd(Daemon("lnd", directory / name, arguments), f"https://127.0.0.1:{rest}", f"127.0.0.1:{peers}", rpc)


async def _until(condition: Callable[[], Coroutine[Any, Any, bool]], daemon: Daemon, timeout: float = 60.0) -> None:
    """Until it holds; what the daemons refuse meanwhile is not there yet."""
    last: object = None
    try:
        async with asyncio.timeout(timeout):
            while True:
                daemon.check()
                try:
                    if await condition():
                        return
                except (httpx.HTTPError, OSError, KeyError, ValueError) as error:
                    last = error
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{daemon.name}: not within {timeout:g} s; last: {last!r}") from None


def _environment() -> dict[str, str]:
    """What the programs get of ours; on two processors, one thread each is enough."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
