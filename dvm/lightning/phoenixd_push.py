"""phoenixd's websocket: it says at once that something has come. What it says is looked for, never believed."""

from __future__ import annotations

import asyncio
import logging
import ssl
from base64 import b64encode
from collections.abc import Callable
from typing import Protocol

from dvm.lightning.checks import hash_of
from dvm.lightning.websocket import open_websocket, read_object

log = logging.getLogger(__name__)

MAX_FRAME = 64 << 10  # bytes; a payment is some three hundred, and what its payer has noted


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
        self._url, self._context, self._told, self._pauses = url, context, told, pauses
        self._headers = {"Authorization": f"Basic {b64encode(f':{password}'.encode()).decode()}"}

    async def run(self) -> None:
        """Listen; until cancelled."""
        pause = self._pauses.backoff
        while True:
            try:
                async with await open_websocket(
                    self._url, "/websocket", context=self._context, max_frame=MAX_FRAME, headers=self._headers
                ) as connection:
                    self._told(None)
                    async for message in connection:
                        pause = self._pauses.backoff
                        told = read_object(message)
                        if told.get("type") == "payment_received":
                            self._told(hash_of(told.get("paymentHash")))
            except Exception as error:  # noqa: BLE001 - websockets raises what its parts raise; it has to live on
                log.debug("wallet: no push: %s", type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._pauses.max_backoff)
