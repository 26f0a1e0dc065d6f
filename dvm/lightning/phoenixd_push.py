"""phoenixd's websocket: it says at once that something has come. What it says is looked for, never believed."""

from __future__ import annotations

import asyncio
import logging
import ssl
from base64 import b64encode
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect

from dvm.lightning.checks import hash_of

log = logging.getLogger(__name__)

MAX_FRAME = 64 << 10  # bytes; a payment is some three hundred, and what its payer has noted
_OPEN_SECONDS = 10.0

# What websockets logs has the headers of the request in it, and so the password.
_silent = logging.getLogger(f"{__name__}.silent")
_silent.propagate = False
_silent.disabled = True


class Pauses(Protocol):
    """Seconds from one connection to the next: the first pause, and the longest."""

    @property
    def backoff(self) -> float: ...

    @property
    def max_backoff(self) -> float: ...


class Push:
    """A connection that is made again whenever it is lost."""

    def __init__(
        self,
        url: str,
        password: str,
        context: ssl.SSLContext,
        told: Callable[[str | None], None],
        pauses: Pauses,
    ) -> None:
        """`told` is called with each payment hash that is pushed, and with None after each connection."""
        self._parts = urlsplit(url.rstrip("/"))
        self._authorization = f"Basic {b64encode(f':{password}'.encode()).decode()}"
        self._context, self._told, self._pauses = context, told, pauses

    async def run(self) -> None:
        """Listen; until cancelled."""
        pause = self._pauses.backoff
        while True:
            try:
                async with await self._open() as connection:
                    self._told(None)
                    async for message in connection:
                        pause = self._pauses.backoff
                        self._take(message)
            except Exception as error:  # noqa: BLE001 - websockets raises what its parts raise; it has to live on
                log.debug("wallet: no push: %s", type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._pauses.max_backoff)

    async def _open(self) -> ClientConnection:
        secure = self._parts.scheme == "https"
        return await connect(
            f"{'wss' if secure else 'ws'}://{self._parts.netloc}{self._parts.path}/websocket",
            # With the host given, websockets follows no redirect to another one, which would get the password.
            host=self._parts.hostname,
            port=self._parts.port or (443 if secure else 80),
            ssl=self._context if secure else None,
            additional_headers={"Authorization": self._authorization},
            proxy=None,
            compression=None,
            max_size=MAX_FRAME,
            open_timeout=_OPEN_SECONDS,
            close_timeout=1.0,
            logger=_silent,
        )

    def _take(self, message: str | bytes) -> None:
        try:
            told = orjson.loads(message)
        except orjson.JSONDecodeError:
            return
        if isinstance(told, dict) and told.get("type") == "payment_received":
            self._told(hash_of(told.get("paymentHash")))
