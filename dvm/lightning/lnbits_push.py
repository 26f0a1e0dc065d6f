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
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from dvm.lightning.base import WalletError
from dvm.lightning.checks import hash_of
from dvm.lightning.websocket import open_websocket, read_object

log = logging.getLogger(__name__)

MAX_FRAME = 256 << 10  # bytes; a payment is about two thousand
_STABLE_SECONDS = 30.0


class Push:
    """A connection that is made again whenever it is lost."""

    def __init__(
        self,
        url: str,
        key: Callable[[], Awaitable[str]],
        heard: Callable[[str], None],
        catch_up: Callable[[], Awaitable[None]],
        *,
        context: ssl.SSLContext,
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
        path = "/api/v1/ws/" + quote(await self._key(), safe="")
        return await open_websocket(self._url, path, context=self._context, max_frame=MAX_FRAME)

    def _take(self, message: str | bytes) -> None:
        payment = read_object(message).get("payment")
        if isinstance(payment, dict) and (payment_hash := hash_of(payment.get("payment_hash"))) is not None:
            self._heard(payment_hash)
