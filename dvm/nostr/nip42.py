"""NIP-42: proving to a relay who we are, when it asks and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dvm.nostr.frames import event_frame
from dvm.nostr.keys import Keys

AUTH_KIND = 22242

_MAX_CHALLENGE = 1024
_PATIENCE = 10.0  # seconds: some relays take an AUTH without answering it


class Authentication:
    """One connection's authentication. Who we are is told only to a relay that refused us without it.

    `done` is called with None when the relay has accepted, or with its reason when it has not.
    """

    def __init__(
        self,
        url: str,
        keys: Keys | None,
        send: Callable[[str], bool],
        done: Callable[[str | None], None],
    ) -> None:
        self._url, self._keys, self._send, self._done = url, keys, send, done
        self._challenge: str | None = None
        self._wanted = self._finished = False
        self._event_id: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def reset(self) -> None:
        """The connection is gone, and all that was agreed on it."""
        self._challenge = self._event_id = None
        self._wanted = self._finished = False
        self._stop_timer()

    def challenge(self, text: str) -> None:
        """The relay's `AUTH`: kept until something is refused for want of it."""
        if len(text) > _MAX_CHALLENGE:
            return
        if text != self._challenge:
            self._challenge, self._event_id, self._finished = text, None, False
        if self._wanted and self._event_id is None:
            self._answer_challenge()

    def demand(self) -> bool:
        """The relay has refused something as `auth-required`. False: it is no use trying again.

        That is so without keys, and when this connection is authenticated already. True: `done` will be called
        (unless the relay never sends a challenge, or the connection breaks).
        """
        if self._keys is None or self._finished:
            return False
        self._wanted = True
        if self._event_id is None and self._challenge is not None:
            self._answer_challenge()
        return True

    def answer(self, event_id: str, accepted: bool, reason: str) -> bool:
        """An `OK`: whether it was for our authentication."""
        if event_id != self._event_id:
            return False
        self._finish(None if accepted else reason or "auth refused")
        return True

    def _answer_challenge(self) -> None:
        if self._keys is None or self._challenge is None:
            return
        event = self._keys.sign(AUTH_KIND, [["relay", self._url], ["challenge", self._challenge]])
        self._event_id = event.id
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._finish, None)
        self._send(event_frame(event, "AUTH"))

    def _finish(self, error: str | None) -> None:
        self._stop_timer()
        self._event_id, self._wanted, self._finished = None, False, True
        self._done(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
