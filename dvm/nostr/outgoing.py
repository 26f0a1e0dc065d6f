"""Events on their way to one relay: sent, sent again after a break, until its `OK` or until time is up.

No task and no time-out object per event: an event costs a dictionary entry, and one timer serves them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import uniform

from dvm.nostr.frames import clean, prefix

Done = Callable[[str | None], None]
"""Called once: with None when the relay has the event, else with the reason why it has not."""

UNANSWERED, UNCONNECTED = "no answer in time", "not connected in time"


class _Pending:
    __slots__ = ("attempts", "authenticated", "frame", "retry", "sent_at", "waiters")

    def __init__(self, frame: str) -> None:
        self.frame = frame
        self.waiters: list[tuple[float, Done]] = []
        self.sent_at = 0.0
        self.attempts = 0
        self.authenticated = False
        self.retry: asyncio.TimerHandle | None = None


class Outgoing:
    """What one relay has yet to confirm.

    `send` writes a frame, or answers False while there is no connection; `demand_auth` starts NIP-42, or
    answers False where that is no use. `retry_delay`, in seconds, is doubled with each refusal as
    `rate-limited`. More than `limit` events at once are refused rather than kept.
    """

    def __init__(
        self,
        send: Callable[[str], bool],
        demand_auth: Callable[[], bool],
        *,
        retry_delay: float,
        limit: int,
    ) -> None:
        self._send, self._demand_auth = send, demand_auth
        self._retry_delay, self._limit = retry_delay, limit
        self._pending: dict[str, _Pending] = {}
        self._awaiting_auth: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.latency: float | None = None
        self.accepted = self.rejected = 0

    def __len__(self) -> int:
        return len(self._pending)

    def publish(self, event_id: str, frame: str, timeout: float, done: Done) -> None:
        """Send an event, now or when the connection is there; `done` within `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        pending = self._pending.get(event_id)
        if pending is None:
            if len(self._pending) >= self._limit:
                done("too many events wait for this relay")
                return
            pending = self._pending[event_id] = _Pending(frame)
            self._transmit(pending, loop.time())
        pending.waiters.append((deadline, done))
        if self._timer is None or deadline < self._timer.when():
            self._schedule(deadline)

    def connected(self) -> None:
        """A new connection: everything without an `OK` goes out (again; its id makes it the same event)."""
        now = asyncio.get_running_loop().time()
        self._awaiting_auth.clear()
        for pending in list(self._pending.values()):
            if pending.retry is None:
                pending.authenticated = False
                self._transmit(pending, now)

    def resume(self) -> None:
        """The relay reads again: what could not be written goes out."""
        now = asyncio.get_running_loop().time()
        for event_id, pending in list(self._pending.items()):
            if not pending.sent_at and pending.retry is None and event_id not in self._awaiting_auth:
                self._transmit(pending, now)
                if not pending.sent_at:
                    return

    def answer(self, event_id: str, accepted: bool, reason: str) -> bool:
        """The relay's `OK`. False: it is for nothing that we sent."""
        pending = self._pending.get(event_id)
        if pending is None:
            return False
        code = prefix(reason)
        if accepted or code == "duplicate":
            if pending.sent_at:
                took = asyncio.get_running_loop().time() - pending.sent_at
                self.latency = took if self.latency is None else 0.9 * self.latency + 0.1 * took
            self.accepted += 1
            self._finish(event_id, None)
        elif code == "auth-required" and not pending.authenticated and self._demand_auth():
            self._awaiting_auth.add(event_id)
        elif code == "rate-limited":
            self._retry_later(event_id, pending)
        else:
            self.rejected += 1
            self._finish(event_id, clean(reason) or "rejected without a reason")
        return True

    def authenticated(self, error: str | None) -> None:
        """NIP-42 is through: what waited for it is sent once more, or fails with the relay's reason."""
        waiting, self._awaiting_auth = self._awaiting_auth, set()
        now = asyncio.get_running_loop().time()
        for event_id in waiting:
            pending = self._pending.get(event_id)
            if pending is None:
                continue
            if error is None:
                pending.authenticated = True
                self._transmit(pending, now)
            else:
                self.rejected += 1
                self._finish(event_id, f"auth-required: {clean(error)}")

    def fail(self, reason: str) -> None:
        """Nothing more will come of any of them."""
        for event_id in list(self._pending):
            self._finish(event_id, reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _transmit(self, pending: _Pending, now: float) -> None:
        pending.sent_at = now if self._send(pending.frame) else 0.0

    def _retry_later(self, event_id: str, pending: _Pending) -> None:
        # Full jitter: whoever was limited together must not come back together.
        delay = self._retry_delay * 2 ** min(pending.attempts, 6)
        pending.attempts += 1
        if pending.retry is None:
            loop = asyncio.get_running_loop()
            pending.retry = loop.call_later(uniform(delay / 2, delay), self._retry, event_id)

    def _retry(self, event_id: str) -> None:
        pending = self._pending.get(event_id)
        if pending is not None:
            pending.retry = None
            self._transmit(pending, asyncio.get_running_loop().time())

    def _finish(self, event_id: str, error: str | None) -> None:
        pending = self._pending.pop(event_id)
        self._awaiting_auth.discard(event_id)
        if pending.retry is not None:
            pending.retry.cancel()
        for _, done in pending.waiters:
            done(error)

    def _schedule(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        earliest: float | None = None
        for event_id, pending in list(self._pending.items()):
            late = [done for deadline, done in pending.waiters if deadline <= now]
            if late:
                pending.waiters = [waiter for waiter in pending.waiters if waiter[0] > now]
                reason = self._reason(pending)
                if not pending.waiters:
                    self._finish(event_id, None)
                for done in late:
                    done(reason)
            for deadline, _ in pending.waiters:
                earliest = deadline if earliest is None else min(earliest, deadline)
        # A callback may have published, and so have set the timer itself.
        if earliest is not None and (self._timer is None or earliest < self._timer.when()):
            self._schedule(earliest)

    @staticmethod
    def _reason(pending: _Pending) -> str:
        if pending.attempts:
            return "rate-limited: still so when time was up"
        return UNANSWERED if pending.sent_at else UNCONNECTED
