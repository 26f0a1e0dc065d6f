"""A relay that is correct until a fault is switched on. A real websocket server, for tests.

It stores, replaces nothing, filters, broadcasts and answers OK, EOSE and CLOSED as NIP-01 has it. Each fault is
an attribute of `Faults`, to be set at any time, also while clients are connected:

    async with bad_relay() as relay:
        relay.faults.eose = False
        relay.faults.reject = "rate-limited: slow down"
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from tests.standins.ports import free_port

GARBAGE: tuple[str | bytes, ...] = (
    "",
    "no JSON",
    "null",
    "{}",
    "[]",
    '["EVENT"]',
    '["EVENT",7,{}]',
    '["EVENT","unheard-of",{"id":7}]',
    '["OK","00",1,7]',
    '["OK","' + "0" * 64 + '",true,""]',
    '["EOSE"]',
    '["EOSE",["s1"]]',
    '["CLOSED",null,"x"]',
    '["NOTICE",{}]',
    '["AUTH",5]',
    '["WHAT","is","this"]',
    "[" * 5000,
    '["NOTICE","\\ud800"]',
    b"\x00\xff\xfe binary",
)


@dataclass
class Faults:
    """What is wrong with the relay. Times in seconds."""

    refuse: bool = False
    """Answers the opening handshake with HTTP 503."""
    mute_handshake: bool = False
    """Accepts the TCP connection and never answers."""
    drop_after: int | None = None
    """Breaks each connection after so many messages from the client."""
    drop_chance: float = 0.0
    """Breaks the connection at any message, this likely."""
    delay: float = 0.0
    """Before each answer."""
    garbage: bool = False
    """Sends all of GARBAGE before each answer."""
    eose: bool = True
    ok: bool = True
    """False: takes events and never says OK."""
    broadcast: bool = True
    """False: stores events without pushing them (they can be queried)."""
    store: bool = True
    reject: str | None = None
    """Refuses each event with this reason."""
    reject_times: int | None = None
    """How often `reject` is still to be used; None is for ever."""
    closed: str | None = None
    """Answers each REQ with CLOSED and this reason."""
    closed_times: int | None = None
    copies: int = 1
    """How often each event is sent."""
    forge: Callable[[dict[str, Any]], list[dict[str, Any]]] | None = None
    """What is sent for an event, instead of it: see `bad_signature`, `other_content`, `wrong_id`."""
    ignore_filters: bool = False
    """Pushes and answers with every event that it has."""
    oversize: int | None = None
    """Sends a NOTICE of so many bytes before each answer."""
    max_limit: int | None = None
    """Answers a REQ with no more than the newest so many."""
    document: dict[str, Any] | None = None
    """NIP-11: what it says of itself."""
    auth: bool = False
    """NIP-42: demands authentication to read and to write."""
    auth_refuse: str | None = None
    """Refuses every authentication with this reason."""
    auth_early: bool = True
    """The challenge comes with the connection; else with each refusal, before or after it, and each time a new one."""


@dataclass(eq=False)
class Client:
    socket: ServerConnection
    challenge: str
    messages: int = 0
    authenticated: str | None = None
    requests: dict[str, list[Filter]] = field(default_factory=dict)


class BadRelay:
    """A running relay with its `faults`, what it has `stored`, and counts of what it was asked."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.faults = Faults()
        self.stored: dict[str, dict[str, Any]] = {}
        self.received: Counter[str] = Counter()
        """Messages by name; `EVENT:<id>` counts each event."""
        self.requested: list[list[dict[str, Any]]] = []
        """The filters of each REQ, in order."""
        self.clients: set[Client] = set()
        self.connections = 0
        self.authenticated: list[dict[str, Any]] = []
        self._server: Server | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self._stopping = False
        self._server = await serve(
            self._client,
            "127.0.0.1",
            self.port,
            process_request=self._handshake,
            compression=None,
            max_size=8 << 20,
            ping_interval=None,
            close_timeout=0.2,
        )

    async def stop(self) -> None:
        """Breaks all connections and refuses new ones, until `start`."""
        if self._server is not None:
            self._stopping = True
            self.drop()
            for task in self._tasks:
                task.cancel()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def drop(self) -> None:
        """Breaks all connections without a word."""
        for client in list(self.clients):
            client.socket.transport.abort()

    def add(self, *events: Event) -> None:
        """Puts events into the store without pushing them."""
        for event in events:
            self.stored[event.id] = json.loads(event.to_json())

    async def push(self, event: Event | dict[str, Any]) -> None:
        """Sends an event to everyone who asked for it."""
        raw = json.loads(event.to_json()) if isinstance(event, Event) else event
        for client in list(self.clients):
            for name, filters in list(client.requests.items()):
                if self.faults.ignore_filters or any(_matches(f, raw) for f in filters):
                    await self._send_event(client, name, raw)

    async def _handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        while self.faults.mute_handshake and not self._stopping:
            await asyncio.sleep(0.01)
        if self.faults.refuse:
            return connection.respond(503, "refused\n")
        if request.headers.get("Accept") == "application/nostr+json":
            document = self.faults.document
            return (
                connection.respond(404, "none\n") if document is None else connection.respond(200, json.dumps(document))
            )
        return None

    async def _client(self, socket: ServerConnection) -> None:
        client = Client(socket, challenge=f"challenge-{random.getrandbits(64):x}")
        self.clients.add(client)
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.faults.auth and self.faults.auth_early:
                await self._send(client, ["AUTH", client.challenge])
            async for message in socket:
                client.messages += 1
                await self._message(client, json.loads(message))
                if self._breaks(client):
                    socket.transport.abort()
        except ConnectionClosed:
            pass
        finally:
            self.clients.discard(client)
            self._tasks.discard(task)

    def _breaks(self, client: Client) -> bool:
        after = self.faults.drop_after
        return (after is not None and client.messages >= after) or random.random() < self.faults.drop_chance

    async def _message(self, client: Client, frame: list[Any]) -> None:
        self.received[frame[0]] += 1
        if self.faults.delay:
            await asyncio.sleep(self.faults.delay)
        if self.faults.garbage:
            for item in GARBAGE:
                await client.socket.send(item)
        if self.faults.oversize:
            await self._send(client, ["NOTICE", "x" * self.faults.oversize])
        match frame[0]:
            case "EVENT":
                await self._event(client, frame[1])
            case "REQ":
                await self._request(client, frame[1], frame[2:])
            case "CLOSE":
                client.requests.pop(frame[1], None)
            case "AUTH":
                await self._authenticate(client, frame[1])

    async def _event(self, client: Client, raw: dict[str, Any]) -> None:
        self.received[f"EVENT:{raw['id']}"] += 1
        if reason := self._use("reject"):
            await self._challenge(client, reason)
            await self._send(client, ["OK", raw["id"], False, reason])
            return
        if await self._must_authenticate(client, ["OK", raw["id"], False, "auth-required: who are you?"]):
            return
        if not Event.parse(raw).verify():
            await self._send(client, ["OK", raw["id"], False, "invalid: bad id or signature"])
            return
        fresh = raw["id"] not in self.stored
        if self.faults.store and not 20_000 <= raw["kind"] < 30_000:
            self.stored[raw["id"]] = raw
        if self.faults.ok:
            await self._send(client, ["OK", raw["id"], True, "" if fresh else "duplicate: have it"])
        if fresh and self.faults.broadcast:
            await self.push(raw)

    async def _request(self, client: Client, name: str, filters: list[dict[str, Any]]) -> None:
        self.requested.append(filters)
        if reason := self._use("closed"):
            await self._send(client, ["CLOSED", name, reason])
            await self._challenge(client, reason)
            return
        if await self._must_authenticate(client, ["CLOSED", name, "auth-required: who are you?"]):
            return
        client.requests[name] = [_filter(f) for f in filters]
        answer = [
            raw
            for raw in self.stored.values()
            if self.faults.ignore_filters or any(_matches(f, raw) for f in client.requests[name])
        ]
        answer.sort(key=lambda raw: -raw["created_at"])
        limits = [f["limit"] for f in filters if "limit" in f] + [self.faults.max_limit or len(answer)]
        for raw in answer[: min(limits)]:
            await self._send_event(client, name, raw)
        if self.faults.eose:
            await self._send(client, ["EOSE", name])

    async def _authenticate(self, client: Client, raw: dict[str, Any]) -> None:
        event = Event.parse(raw)
        good = (
            event.verify()
            and event.kind == 22242
            and event.tag("challenge") == client.challenge
            and event.tag("relay") == self.url
        )
        reason = self.faults.auth_refuse if good else "invalid: not what was asked for"
        if reason is None:
            client.authenticated = event.pubkey
            self.authenticated.append(raw)
        await self._send(client, ["OK", event.id, reason is None, reason or ""])

    async def _must_authenticate(self, client: Client, refusal: list[Any]) -> bool:
        if not self.faults.auth or client.authenticated:
            return False
        await self._send(client, refusal)
        await self._challenge(client, refusal[-1])
        return True

    async def _challenge(self, client: Client, reason: str) -> None:
        if reason.startswith("auth-required") and not self.faults.auth_early:
            client.challenge = f"challenge-{random.getrandbits(64):x}"
            await self._send(client, ["AUTH", client.challenge])

    def _use(self, fault: str) -> str | None:
        reason: str | None = getattr(self.faults, fault)
        times: int | None = getattr(self.faults, f"{fault}_times")
        if reason is None or times == 0:
            return None
        if times is not None:
            setattr(self.faults, f"{fault}_times", times - 1)
        return reason

    async def _send_event(self, client: Client, name: str, raw: dict[str, Any]) -> None:
        for item in [raw] if self.faults.forge is None else self.faults.forge(raw):
            for _ in range(self.faults.copies):
                await self._send(client, ["EVENT", name, item])

    async def _send(self, client: Client, frame: list[Any]) -> None:
        try:
            await client.socket.send(json.dumps(frame, ensure_ascii=False))
        except ConnectionClosed:
            self.clients.discard(client)


def bad_signature(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """The event under a signature of nobody."""
    return [raw | {"sig": "0" * 128}]


def other_content(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Other words under the right id and signature."""
    return [raw | {"content": raw["content"] + " (forged)"}]


def wrong_id(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """The right words and signature under another id."""
    return [raw | {"id": "f" * 64}]


def forgeries_first(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """All forged copies, then the real event."""
    return [*bad_signature(raw), *other_content(raw), *wrong_id(raw), raw]


@asynccontextmanager
async def bad_relay(**faults: Any) -> AsyncIterator[BadRelay]:
    """A running relay, with these faults from the start."""
    relay = BadRelay()
    relay.faults = Faults(**faults)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


def _filter(raw: dict[str, Any]) -> Filter:
    plain = {name: raw[name] for name in ("ids", "authors", "kinds", "since", "until", "limit") if name in raw}
    return Filter(**plain, tags={name[1:]: values for name, values in raw.items() if name.startswith("#")})


def _matches(wanted: Filter, raw: dict[str, Any]) -> bool:
    return wanted.matches(Event.parse(raw))
