"""LNbits' websocket: that something was paid, as a hint, and where there is none, a poll of the list.

Whoever knows the key can write to it, so nothing it says is believed. Its address carries the key: it stands
in no error and no log, whatever a library would say of it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from random import uniform
from urllib.parse import quote, urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from dvm.lightning.base import WalletError
from dvm.lightning.lnbits_rows import is_hash

log = logging.getLogger(__name__)

MAX_FRAME = 256 << 10  # bytes; a payment is about two thousand
PING_SECONDS = 20.0
OPEN_SECONDS = 10.0
_STABLE_SECONDS = 30.0

# What websockets logs has the path of the request in it, and so the key.
_silent = logging.getLogger(f"{__name__}.silent")
_silent.propagate = False
_silent.disabled = True


class Push:
    """A connection that is made again whenever it is lost."""

    def __init__(
        self,
        url: str,
        key: Callable[[], Awaitable[str]],
        heard: Callable[[str], None],
        catch_up: Callable[[], Awaitable[None]],
        *,
        context: ssl.SSLContext | None,
        poll: float,
        backoff: float,
        most: float,
    ) -> None:
        """`heard` is called with each payment hash that is told of, `catch_up` after each connection and, while
        there is none, every `poll` seconds. `backoff` and `most`: the first and the longest pause, in seconds.
        """
        self._url, self._key, self._heard, self._catch_up, self._context = url, key, heard, catch_up, context
        self._poll, self._backoff, self._most = poll, backoff, most

    async def run(self) -> None:
        """Listen; until cancelled."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            began, opened = loop.time(), False
            try:
                async with await self._open() as connection:
                    opened = True
                    await self._catch_up()
                    async for message in connection:
                        self._take(message)
            except Exception as error:  # noqa: BLE001 - it outlives whatever its library raises: a ValueError, say
                # Its text may name the address.
                log.debug("wallet: no push: %s", error if isinstance(error, WalletError) else type(error).__name__)
            attempt = 0 if opened and loop.time() - began > _STABLE_SECONDS else min(attempt + 1, 30)
            until = loop.time() + uniform(self._backoff / 2, min(self._most, self._backoff * 2**attempt))
            while (left := until - loop.time()) > 0:
                await asyncio.sleep(min(self._poll, left))
                await self._catch_up()

    async def works(self) -> bool:
        """Whether a connection can be made at all."""
        try:
            async with await self._open():
                return True
        except (WalletError, OSError, TimeoutError, ValueError, WebSocketException):
            return False  # ValueError: a redirect to another place

    async def _open(self) -> ClientConnection:
        parts = urlsplit(self._url)
        secure = parts.scheme == "https"
        address = f"{'wss' if secure else 'ws'}://{parts.netloc}{parts.path}/api/v1/ws/"
        return await connect(
            address + quote(await self._key(), safe=""),
            # With the host given, websockets follows no redirect to another one, which would get the key.
            host=parts.hostname,
            port=parts.port or (443 if secure else 80),
            ssl=self._context if secure else None,
            proxy=None,
            compression=None,
            max_size=MAX_FRAME,
            open_timeout=OPEN_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=1.0,
            user_agent_header="lightning-dvm",
            logger=_silent,
        )

    def _take(self, message: str | bytes) -> None:
        try:
            told = orjson.loads(message)
        except orjson.JSONDecodeError:
            return
        payment = told.get("payment") if isinstance(told, dict) else None
        payment_hash = payment.get("payment_hash") if isinstance(payment, dict) else None
        if isinstance(payment_hash, str) and is_hash(payment_hash):
            self._heard(payment_hash)
