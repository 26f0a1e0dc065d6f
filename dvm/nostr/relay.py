"""One relay: one connection, kept for ever, over which events and questions go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from random import uniform
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from dvm.nostr import frames
from dvm.nostr.addresses import AddressRefused, check_url
from dvm.nostr.dialing import dial
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.nip11 import Limitation
from dvm.nostr.nip42 import Authentication
from dvm.nostr.options import RelayOptions
from dvm.nostr.outgoing import Done, Outgoing
from dvm.nostr.requests import Request, Requests
from dvm.nostr.status import Counters, RelayStatus, State
from dvm.nostr.writer import Writer

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # a program that sets up no log has its own way to tell

_ENVELOPE = 4096  # bytes of a frame around its event
_LOG_INTERVAL = 60.0  # seconds between two log lines of a sort on one relay


class NotPublished(Exception):
    """The relay does not have the event; the text is its reason, or ours."""


class Relay:
    """One connection to one relay; `start` it and it is there whenever it can be.

    A lasting relay reconnects for ever. A passing one (`lasting=False`, what a customer named) connects when
    it is needed, fails at once what it cannot deliver, and stays away until it is needed again.
    `locate` answers the addresses to connect to instead of the URL's host (it raises AddressRefused).
    `name` is what the connection is for, in the log: one process may have several to one relay.
    """

    def __init__(
        self,
        url: str,
        *,
        keys: Keys | None = None,
        options: RelayOptions | None = None,
        on_state: Callable[[Relay], None] | None = None,
        lasting: bool = True,
        locate: Callable[[], Awaitable[list[str]]] | None = None,
        name: str = "",
    ) -> None:
        """Raises AddressRefused when `url` is not a relay's."""
        self.endpoint = check_url(url, ("ws", "wss"))
        self.url = self.endpoint.url
        self.counters = Counters()
        self.last_error: str | None = None
        self.state: State = "idle"
        self.state_since = time.time()
        self.limitation = Limitation()  # what it says of itself, once somebody has asked (NIP-11)
        self._options = options or RelayOptions()
        self._on_state, self._lasting, self._locate = on_state, lasting, locate
        self._connection: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._about = {"relay": self.url, **({"use": name} if name else {})}
        self._next_log = 0.0
        self._next_of: dict[str, float] = {}
        self._told: State = "idle"  # what the log says of the connection
        self._writer = Writer(self._options.send_buffer, self._options.ping_timeout, on_drained=self._resume)
        send = self._writer.send
        self._auth = Authentication(self.url, keys, send, self._authenticated)
        delay = self._options.retry_delay
        self._outgoing = Outgoing(send, self._auth.demand, retry_delay=delay, limit=self._options.max_pending)
        self._requests = Requests(send, self._auth.demand, retry_delay=delay)

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def busy(self) -> bool:
        """Whether anything still waits for this relay."""
        return bool(len(self._outgoing) or len(self._requests))

    def start(self) -> None:
        """Connect in the background. Returns at once; a second call changes nothing."""
        if self._task is None and self.state != "closed":
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"relay {self.url}")

    async def close(self) -> None:
        """End the connection; what still waits fails."""
        self._set_state("closed")
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._outgoing.fail("the connection was closed")
        self._requests.fail("the connection was closed")
        self._auth.reset()

    def post(self, event_id: str, frame: str, timeout: float, done: Done) -> None:
        """Publish an event whose frame is made already; `done` is called once, within `timeout` seconds."""
        if self.state == "closed":
            done("the connection was closed")
            return
        most = min(self._options.frame_bytes, self.limitation.max_message_length or self._options.frame_bytes)
        if 4 * len(frame) > most and len(frame.encode()) > most:  # UTF-8 takes at most four bytes a character
            done(f"the event is too large: {most} bytes at most")
            return
        self._outgoing.publish(event_id, frame, timeout, done)
        if not self._lasting:
            self.start()

    async def publish(self, event: Event, timeout: float = 10.0) -> None:  # noqa: ASYNC109
        """Publish and wait for the relay's OK, and for the connection first. Raises NotPublished."""
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.post(event.id, frames.event_frame(event), timeout, _resolve(future))
        error = await future
        if error is not None:
            raise NotPublished(error)

    def request(self, request: Request) -> None:
        """Open a request, now or when the connection is there; a subscription again with each connection."""
        if self.state == "closed":
            request.on_end("the connection was closed")
            return
        self._requests.add(request)
        if not self._lasting:
            self.start()

    def drop(self, request: Request) -> None:
        """Close a request."""
        self._requests.remove(request)

    async def fetch(
        self,
        filters: Sequence[Filter],
        on_event: Callable[[dict[str, Any]], None],
        *,
        timeout: float,  # noqa: ASYNC109
        since: int | None = None,
        until: int | None = None,
    ) -> str | None:
        """Query stored events, handed over unchecked. None after EOSE; else why the answer is not complete."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str | None] = loop.create_future()
        finish = _resolve(future)
        request = Request(filters, on_event, finish, since=lambda: since, until=until, lasting=False)
        timer = loop.call_later(timeout, finish, "no answer in time")
        try:
            self.request(request)
            return await future
        finally:
            timer.cancel()
            self.drop(request)

    async def query(self, filters: Sequence[Filter], timeout: float = 10.0) -> list[Event]:  # noqa: ASYNC109
        """Stored events, verified, each once; after `timeout` seconds, what has come until then."""
        found: dict[str, Event] = {}

        def take(raw: dict[str, Any]) -> None:
            event = self.check(raw, filters, found)
            if event is not None:
                found[event.id] = event

        await self.fetch(filters, take, timeout=timeout)
        return list(found.values())

    def check(self, raw: dict[str, Any], filters: Sequence[Filter], known: Any) -> Event | None:
        """The event, if it is well-formed, what `filters` ask for, genuine, and its id is not in `known`.

        The id counts as known only to the caller, who adds it after this has verified it: a forged copy that
        comes first must not shadow the real event.
        """
        event_id = raw.get("id")
        if isinstance(event_id, str) and event_id in known:
            self.counters.duplicates += 1
            return None
        try:
            event = Event.parse(raw)
        except ValueError:
            self.counters.garbage += 1
            return None
        if not any(wanted.matches(event) for wanted in filters):
            self.counters.unmatched += 1
            return None
        if not event.verify():
            self.counters.forged += 1
            self._report("relay sends forged events")
            return None
        self.counters.events += 1
        return event

    def status(self) -> RelayStatus:
        latency = self._outgoing.latency
        if latency is None and self._connection is not None:
            latency = self._connection.latency or None
        return RelayStatus(
            url=self.url,
            state=self.state,
            since=self.state_since,
            last_error=self.last_error,
            latency=latency,
            accepted=self._outgoing.accepted,
            rejected=self._outgoing.rejected,
            counters=asdict(self.counters),
        )

    async def _run(self) -> None:
        options, loop, attempt = self._options, asyncio.get_running_loop(), 0
        while True:
            self._set_state("connecting")
            started, accepted = loop.time(), self._outgoing.accepted
            reason = "closed by the relay"
            try:
                connection = await self._connect()
                try:
                    await self._serve(connection)
                finally:
                    await self._lost(connection)
            except ConnectionClosed as error:
                reason = frames.clean(str(error))
                if error.sent is not None and error.sent.code == 1009:
                    self.counters.oversized += 1
                    self._requests.too_large()
                    started = loop.time()  # else one event that is too large would keep us reconnecting hot
            except (OSError, TimeoutError, AddressRefused) as error:
                reason = frames.clean(str(error)) or type(error).__name__
            except Exception as error:  # noqa: BLE001 - a lasting relay outlives whatever its libraries raise
                reason = frames.clean(f"{type(error).__name__}: {error}")
            self.last_error = reason
            self.counters.failures += 1
            if not self._lasting:
                self._task = None
                self._set_state("idle")
                self._outgoing.fail(reason)
                self._requests.fail(reason)
                return
            self._set_state("waiting")
            if loop.time() - started > options.stable or self._outgoing.accepted - accepted >= options.served:
                # It was a good connection: some relays close one after so many messages. Back at once.
                attempt = 0
                if self._told == "connected":
                    self._tell("connecting", logging.INFO, "relay lost: connecting again", reason)
                await asyncio.sleep(uniform(0, options.min_backoff / 5))
                continue
            self._tell("waiting", logging.WARNING, "relay away: trying again", reason)
            # Exponential back-off with full jitter.
            attempt = min(attempt + 1, 30)
            ceiling = min(options.max_backoff, options.min_backoff * 2**attempt)
            await asyncio.sleep(uniform(options.min_backoff, max(ceiling, options.min_backoff)))

    async def _connect(self) -> ClientConnection:
        hosts = [None] if self._locate is None else (await self._locate())[:2]
        return await dial(self.endpoint, hosts, self._options)

    async def _serve(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._writer.attach(connection)
        self.counters.connections += 1
        self._set_state("connected")
        self._requests.connected()
        self._outgoing.connected()
        receive, longest = connection.recv, self._options.event_bytes + _ENVELOPE
        while True:
            data = await receive(decode=False)
            if len(data) > longest:
                self.counters.oversized += 1
            else:
                self._receive(data)

    async def _lost(self, connection: ClientConnection) -> None:
        self._connection = None
        self._writer.detach()
        self._auth.reset()
        self._requests.disconnected()
        if connection.transport.get_write_buffer_size():
            connection.transport.abort()  # a closing handshake would wait for ever behind what it does not read
        await connection.close()

    def _receive(self, data: bytes) -> None:
        counters = self.counters
        counters.frames += 1
        try:
            frame = frames.parse(data)
        except frames.InvalidFrame:
            counters.garbage += 1
            return
        match frame[0]:
            case "EVENT":
                asked = self._requests.event(frame[1], frame[2])
            case "OK":
                event_id, accepted, reason = frame[1], frame[2], frame[3]
                asked = self._outgoing.answer(event_id, accepted, reason) or self._auth.answer(
                    event_id, accepted, reason
                )
            case "EOSE":
                asked = self._requests.end_of_stored(frame[1])
            case "CLOSED":
                asked = self._requests.closed(frame[1], frame[2])
                if asked:
                    self._report("relay closed a subscription", error=frames.clean(frame[2]))
            case "AUTH":
                asked = True
                self._auth.challenge(frame[1])
            case _:
                asked = True
                counters.notices += 1
                self._report("relay notice", text=frames.clean(frame[1]))
        if not asked:
            counters.unasked += 1

    def _resume(self) -> None:
        self._requests.resume()
        self._outgoing.resume()

    def _authenticated(self, error: str | None) -> None:
        if error is not None:
            self._report("relay refused our authentication", error=frames.clean(error))
        self._requests.authenticated(error)
        self._outgoing.authenticated(error)

    def _set_state(self, state: State) -> None:
        if self.state in (state, "closed"):
            return
        self.state, self.state_since = state, time.time()
        if state == "connected":
            self.last_error = None
            level = logging.INFO if self._lasting else logging.DEBUG
            self._tell(state, level, "relay connected", always=True)
        if self._on_state is not None:
            self._on_state(self)

    def _report(self, event: str, **fields: str) -> None:
        """One log line, but not more than one a minute: a relay must not be able to fill the log."""
        now = time.monotonic()
        if now >= self._next_log:
            self._next_log = now + _LOG_INTERVAL
            # What strangers name is none of the operator's relays.
            log.log(logging.INFO if self._lasting else logging.DEBUG, event, extra={**self._about, **fields})

    def _tell(self, state: State, level: int, event: str, error: str | None = None, *, always: bool = False) -> None:
        """A change of the connection, each sort once a minute; what was said to be away is always said to be back."""
        now = time.monotonic()
        if state != self._told and (always or now >= self._next_of.get(event, 0.0)):
            self._told, self._next_of[event] = state, now + _LOG_INTERVAL
            log.log(level, event, extra=self._about if error is None else {**self._about, "error": error})


def _resolve(future: asyncio.Future[str | None]) -> Done:
    def done(error: str | None) -> None:
        if not future.done():
            future.set_result(error)

    return done
