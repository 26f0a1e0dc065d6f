"""A real LNbits, as a process: a shop's wallet, a customer's, and all that a restart does to them.

Its process is no task of a test's event loop, so that one server can serve a whole module.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.standins.ports import free_port
from tests.standins.process import ROOT, environment

_PYTHON = ROOT / ".venv-lnbits" / "bin" / "python"
_READY_SECONDS = 90
_END_SECONDS = 10
_SETTINGS = {
    "LNBITS_BACKEND_WALLET_CLASS": "FakeWallet",
    "LNBITS_ADMIN_UI": "true",
    "LNBITS_RATE_LIMIT_NO": "1000000",
    "LNBITS_RESERVE_FEE_MIN": "500",  # msat: tests allow a sat
    "LNBITS_PRICE_AGGREGATOR_ENABLED": "false",
    "LNBITS_EXCHANGE_RATE_PROVIDERS": "[]",
}


def python() -> Path:
    """The Python that has LNbits. Skips the test where there is none."""
    if not list(_PYTHON.parent.parent.glob(".dvm-lnbits")):
        pytest.skip("LNbits is not installed: run `scripts/setup lnbits`")
    return _PYTHON


@dataclass(frozen=True, repr=False)
class Keys:
    """A wallet of LNbits: its id, and what gives access to it."""

    id: str
    admin: str
    invoice: str


class Lnbits:
    """One LNbits server and its data directory. `url` stays the same from start to start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._password = secrets.token_hex(8)
        self.shop = self.customer = Keys("", "", "")

    def start(self) -> None:
        """Start it, and the first time make two wallets, with a million sats for the customer. Blocks until it
        answers, which takes some seconds."""
        program = python()
        self._directory.mkdir(parents=True, exist_ok=True)
        link = self._directory / "lnbits"  # it looks for its own files below the working directory
        if not link.is_symlink():
            (package,) = program.parent.parent.glob("lib/python*/site-packages/lnbits")
            link.symlink_to(package)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-m", "uvicorn", "lnbits_app:app", "--host", "127.0.0.1", "--port", str(self._port)],
                env={
                    **environment(),
                    **_SETTINGS,
                    "LNBITS_DATA_FOLDER": str(self._directory / "data"),
                    "LNBITS_EXTENSIONS_PATH": str(self._directory / "extensions"),
                    "PYTHONPATH": str(Path(__file__).parent),
                },
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait()
        if not self.shop.id:
            self._install()

    def stop(self) -> None:
        """End it; what it has stored stays. Safe where it does not run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:  # it waits for its websockets
                self._process.kill()
                self._process.wait()
            self._process = None

    async def invoice(self, wallet: Keys, sats: int, **more: Any) -> str:
        made = await self.post("/api/v1/payments", {"out": False, "amount": sats, **more}, wallet.invoice)
        return str(made["bolt11"])

    async def pay(self, wallet: Keys, bolt11: str) -> dict[str, Any]:
        return await self.post("/api/v1/payments", {"out": True, "bolt11": bolt11}, wallet.admin)

    async def get(self, path: str, key: str) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            return _json(await client.get(path, headers={"X-Api-Key": key}))

    async def post(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            return _json(await client.post(path, json=body, headers={"X-Api-Key": key}))

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _READY_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{self.url}/api/v1/health", timeout=5)  # until it is installed, that leads elsewhere
                return
            time.sleep(0.05)
        raise AssertionError("LNbits does not start: " + (self._directory / "log").read_text()[-2000:])

    def _install(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            account = {"username": "admin", "password": self._password}
            _json(client.put("/api/v1/auth/first_install", json=account | {"password_repeat": self._password}))
            token = _json(client.post("/api/v1/auth", json=account))["access_token"]
            client.cookies.clear()  # else it wants a token against forged requests
            admin = {"Authorization": f"Bearer {token}"}
            made = [
                _json(client.post("/api/v1/wallet", json={"name": name}, headers=admin))
                for name in ("shop", "customer")
            ]
            self.shop, self.customer = (Keys(each["id"], each["adminkey"], each["inkey"]) for each in made)
            for keys, sats in ((self.customer, 1_000_000), (self.shop, 100_000)):
                balance = {"id": keys.id, "amount": sats}
                _json(client.put("/users/api/v1/balance", json=balance, headers=admin))


@contextlib.contextmanager
def running_lnbits(directory: Path) -> Iterator[Lnbits]:
    """A new LNbits with its data in that directory."""
    server = Lnbits(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _json(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
    return dict(answer.json())
