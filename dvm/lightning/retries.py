"""A stream of payments that breaks off is taken up again, ever more patiently; the log has its first failure and its
return, not each attempt in between."""

from __future__ import annotations

import asyncio
import logging

from dvm.lightning.base import WalletError


class Retries:
    """Times in seconds: the first pause is `first`, each further one in a row twice as long, up to `longest`."""

    def __init__(self, log: logging.Logger, first: float, longest: float) -> None:
        self._log, self._first, self._longest = log, first, longest
        self._pause = first
        self._failures = 0

    def fine(self) -> None:
        """It goes on."""
        if self._failures:
            self._log.info("wallet: its payments are followed again", extra={"failures": self._failures})
        self._failures, self._pause = 0, self._first

    async def wait(self, error: WalletError) -> None:
        """It has failed once more; returns when it is to be tried again."""
        if not self._failures:
            self._log.warning("wallet: its payments cannot be followed; trying again: %s", error)
        self._failures += 1
        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        await asyncio.sleep(pause)
