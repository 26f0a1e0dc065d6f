"""A phoenixd, as far as a shop uses its API: real regtest invoices, made-up payments.

Paths, forms, answers and their texts are phoenixd's. Its clock, its word and what it does can be bent.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

from coincurve import PrivateKey

from dvm.lightning.bolt11 import InvalidInvoice, decode, encode
from dvm.nostr.randomness import random_bytes
from tests.standins.loopback import Loopback, Receive, Scope, Send, body_of
from tests.standins.payees import invoice_of_another

FULL = "0123456789abcdef-full"
LIMITED = "0123456789abcdef-limited"
UNAUTHORIZED = "Invalid authentication (use basic auth with the http password set in phoenix.conf)"
Entry = dict[str, Any]


class Said(Exception):
    """A status and its plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass
class Phoenixd:
    """Knobs: `paying` is what payinvoice does: "ok", "refused" (no attempt), "failed" (an attempt), "stuck"
    (under way, no answer). `liquidity`: msat that the next payment in costs. `push`: "once", "twice", "lost".
    `without`: paths that it does not have. `on_chain`: hashes as if of payments that are not Lightning's."""

    now: Callable[[], float] = time.time
    chain: str = "regtest"
    paying: str = "ok"
    liquidity: int = 0
    push: str = "once"
    without: frozenset[str] = frozenset()
    balance: int = 1_000_000_000
    id: str = "02" + "ab" * 32
    on_chain: set[str] = field(default_factory=set)
    key: PrivateKey = field(default_factory=PrivateKey)
    incoming: dict[str, Entry] = field(default_factory=dict)
    outgoing: list[Entry] = field(default_factory=list)
    payees: dict[str, str] = field(default_factory=dict)  # customers' payment hash → preimage

    def __post_init__(self) -> None:
        self.listeners: list[asyncio.Queue[str]] = []

    # --- what happens outside ---------------------------------------------------------------------------

    def customer_pays(self, bolt11: str, *, at: float | None = None) -> None:
        """A customer pays one of its invoices; `at`: when, if not now."""
        said = decode(bolt11)
        assert said.msat is not None
        entry = self.incoming[said.payment_hash]
        assert not entry["isPaid"]
        assert not self._expired(entry)
        fee, self.liquidity = self.liquidity, 0
        entry |= {
            "isPaid": True,
            "receivedSat": (said.msat - fee) // 1000,
            "fees": fee,
            "completedAt": int((self.now() if at is None else at) * 1000),
        }
        self.balance += said.msat - fee
        if self.push != "lost":
            for _ in range(2 if self.push == "twice" else 1):
                self.tell(said.payment_hash, entry["receivedSat"])

    def tell(self, payment_hash: str, sat: int = 21) -> None:
        """Push it to whoever listens. Without a payment it is a lie."""
        event = {
            "type": "payment_received",
            "timestamp": int(self.now() * 1000),
            "amountSat": sat,
            "paymentHash": payment_hash,
            "externalId": "dvm",
        }
        self.say(json.dumps(event))

    def say(self, message: str) -> None:
        for listener in self.listeners:
            listener.put_nowait(message)

    def customer_invoice(self, msat: int) -> str:
        """An invoice of somebody else."""
        return invoice_of_another(self.payees, msat)

    def resolve(self, payment_hash: str, *, success: bool) -> None:
        """A payment that is under way ends, one way or the other."""
        for entry in self.outgoing:
            if entry["paymentHash"] == payment_hash and entry["completedAt"] is None:
                entry["completedAt"] = int(self.now() * 1000)
                if success:
                    entry |= {"isPaid": True, "preimage": self.payees[payment_hash]}
                    self.balance -= (decode(entry["invoice"]).msat or 0) + entry["fees"]

    # --- its API ----------------------------------------------------------------------------------------

    async def answer(self, method: str, path: str, asked: dict[str, str], password: str | None) -> Any:
        if password not in (FULL, LIMITED):
            raise Said(401, UNAUTHORIZED)
        parts = path.strip("/").split("/")
        if "/".join(parts[:2]) in self.without:
            raise Said(404, "Unknown endpoint (check api doc)")
        match method, parts:
            case "GET", ["getinfo"]:
                return {"nodeId": self.id, "channels": [], "chain": self.chain, "blockHeight": 7, "version": "0.7.3"}
            case "GET", ["getbalance"]:
                return {"balanceSat": self.balance // 1000, "feeCreditSat": 3}
            case "POST", ["createinvoice"]:
                return self._create(asked)
            case "GET", ["payments", "incoming"]:
                return self._list(asked)
            case "GET", ["payments", "incoming", payment_hash]:
                if payment_hash not in self.incoming:
                    raise Said(404, "Not found")
                return self._told(self.incoming[payment_hash])
            case "GET", ["payments", "outgoingbyhash", payment_hash]:
                tries = [each for each in self.outgoing if each["paymentHash"] == payment_hash]
                if not tries:
                    raise Said(404, "Not found")
                best = max(tries, key=lambda each: (each["isPaid"], each["completedAt"] is None))
                return {key: value for key, value in best.items() if value is not None}
            case "POST", ["payinvoice"]:
                if password != FULL:
                    raise Said(401, UNAUTHORIZED)
                return await self._pay(asked)
        raise Said(404, "Unknown endpoint (check api doc)")

    def _create(self, asked: dict[str, str]) -> Entry:
        text, digest = asked.get("description"), asked.get("descriptionHash")
        if (text is None) == (digest is None):
            raise Said(400, "Must provide either a description or descriptionHash")
        if text is not None and len(text.encode("utf-16-le")) > 256:
            raise Said(400, "Request parameter description is too long (max 128 characters)")
        preimage = random_bytes(32)
        payment_hash = sha256(preimage).hexdigest()
        bolt11 = encode(
            self.key,
            network=self.chain,
            msat=int(asked["amountSat"]) * 1000,
            payment_hash=sha256(preimage).digest(),
            description=text,
            description_hash=None if digest is None else bytes.fromhex(digest),
            created_at=int(self.now()),
            expiry=int(asked["expirySeconds"]),
        )
        created = int(self.now() * 1000)
        self.incoming[payment_hash] = {
            "type": "incoming_payment",
            "subType": "lightning",
            "paymentHash": payment_hash,
            "preimage": preimage.hex(),
            "externalId": asked.get("externalId"),
            "description": text,
            "invoice": bolt11,
            "isPaid": False,
            "requestedSat": int(asked["amountSat"]),
            "receivedSat": 0,
            "fees": 0,
            "expiresAt": created + int(asked["expirySeconds"]) * 1000,
            "createdAt": created,
        }
        return {"amountSat": int(asked["amountSat"]), "paymentHash": payment_hash, "serialized": bolt11}

    def _list(self, asked: dict[str, str]) -> list[Entry]:
        begin, end = int(asked.get("from", 0)), int(asked.get("to", self.now() * 1000))
        paid = [each for each in self.incoming.values() if each["isPaid"] and begin <= each["completedAt"] <= end]
        paid.sort(key=lambda each: -each["completedAt"])
        offset = int(asked.get("offset", 0))
        page = paid[offset : offset + int(asked.get("limit", 20))]
        # Counted in the page, and left out of it.
        return [self._told(each) for each in page if each["paymentHash"] not in self.on_chain]

    async def _pay(self, asked: dict[str, str]) -> Entry:
        try:
            said = decode(asked.get("invoice", ""))
        except InvalidInvoice:
            raise Said(400, "Request parameter invoice couldn't be parsed/converted to bolt11invoice") from None
        assert said.msat is not None
        payment_hash, fee = said.payment_hash, 4_000 + said.msat * 4_000 // 1_000_000
        tries = [each for each in self.outgoing if each["paymentHash"] == payment_hash]
        if any(each["isPaid"] for each in tries):
            return _not(payment_hash, "this invoice has already been paid")
        if any(each["completedAt"] is None for each in tries):
            return _not(payment_hash, "another payment is in progress for that invoice")
        if self.paying == "refused":
            return _not(payment_hash, "payment request features not supported")
        entry = {
            "type": "outgoing_payment",
            "subType": "lightning",
            "paymentId": str(uuid4()),
            "paymentHash": payment_hash,
            "isPaid": False,
            "sent": (said.msat + fee) // 1000,
            "fees": fee,
            "invoice": asked["invoice"],
            "completedAt": None,
            "createdAt": int(self.now() * 1000),
        }
        self.outgoing.append(entry)
        if said.msat + fee > self.balance:
            self.resolve(payment_hash, success=False)
            return _not(payment_hash, "not enough funds in wallet to afford payment")
        if self.paying == "stuck":
            await asyncio.Event().wait()
        self.resolve(payment_hash, success=self.paying == "ok")
        if self.paying == "failed":
            return _not(payment_hash, "recipient rejected the payment")
        return {
            "recipientAmountSat": said.msat // 1000,
            "routingFeeSat": fee // 1000,
            "paymentId": entry["paymentId"],
            "paymentHash": payment_hash,
            "paymentPreimage": entry["preimage"],
        }

    def _told(self, entry: Entry) -> Entry:
        return {key: value for key, value in entry.items() if value is not None} | {"isExpired": self._expired(entry)}

    def _expired(self, entry: Entry) -> bool:
        return bool(self.now() * 1000 > entry["expiresAt"])

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        password = _password(scope)
        if scope["type"] == "websocket":
            await self._push(password, receive, send)
            return
        if (body := await body_of(receive)) is None:
            return
        asked = parse_qs((body or scope["query_string"]).decode(), keep_blank_values=True)
        try:
            answer = await self.answer(
                scope["method"], scope["path"], {key: values[0] for key, values in asked.items()}, password
            )
            status, kind, text = 200, b"application/json", json.dumps(answer, indent=4)
        except Said as said:
            status, kind, text = said.status, b"text/plain; charset=UTF-8", said.text
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": text.encode()})

    async def _push(self, password: str | None, receive: Receive, send: Send) -> None:
        await receive()
        if password not in (FULL, LIMITED) or "websocket" in self.without:
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        events: asyncio.Queue[str] = asyncio.Queue()
        self.listeners.append(events)
        gone = asyncio.create_task(receive())  # type: ignore[arg-type]
        try:
            while not gone.done():
                event = asyncio.create_task(events.get())
                await asyncio.wait({event, gone}, return_when=asyncio.FIRST_COMPLETED)
                if event.done():
                    await send({"type": "websocket.send", "text": event.result()})
                event.cancel()
        finally:
            self.listeners.remove(events)
            gone.cancel()


def loopback(node: Phoenixd) -> Loopback:
    """Its API, not yet started."""
    return Loopback(node.serve)


def _password(scope: Scope) -> str | None:
    kind, _, coded = dict(scope["headers"]).get(b"authorization", b"").decode().partition(" ")
    user, _, password = b64decode(coded).decode().partition(":")
    return password if kind == "Basic" and not user else None


def _not(payment_hash: str, reason: str) -> Entry:
    return {"paymentHash": payment_hash, "reason": reason}
