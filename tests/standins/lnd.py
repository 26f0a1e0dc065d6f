"""A stand-in for LND: its REST interface on loopback, as grpc-gateway writes it, failing in every way on order."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, Literal

from tests.standins.lnd_books import HEIGHT, BookedInvoice, Books, GrpcError
from tests.standins.lnd_http import Answer, Cut, HttpServer, Request, served

Fault = Literal["refuse", "hang", "html", "html-500", "bad-gateway", "cut", "done-then-cut", "done-then-hang", "locked"]
_HTTP = {2: 500, 3: 400, 5: 404, 6: 409, 12: 501}  # gRPC's code → the gateway's status
_ALL = {
    "info": ("read",),
    "invoices": ("read", "write"),
    "offchain": ("read", "write"),
}


def bake(permissions: dict[str, tuple[str, ...]] = _ALL) -> str:
    """A macaroon in hex, with these permissions in its identifier, as LND bakes it."""
    operations = b"".join(
        _field(3, _field(1, entity.encode()) + b"".join(_field(2, action.encode()) for action in actions))
        for entity, actions in permissions.items()
    )
    identifier = b"\x03" + _field(1, secrets.token_bytes(16)) + _field(2, b"0") + operations
    return (b"\x02" + _packet(1, b"lnd") + _packet(2, identifier) + b"\0\0" + _packet(6, secrets.token_bytes(32))).hex()


class LndStandin:
    """`faults`: the beginning of a path → what is done instead, or after it. `calls`: how often which path came."""

    def __init__(self, network: str = "regtest") -> None:
        self.books = Books(network)
        self.server = HttpServer(self._handle)
        self.admin = bake()
        self.readonly = bake(dict.fromkeys(_ALL, ("read",)))
        self.invoicing = bake({"invoices": ("read", "write"), "address": ("read", "write"), "onchain": ("read",)})
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, Fault] = {}
        self.refusal = "something is wrong"
        self.twisted: dict[str, Callable[[dict[str, Any]], Any]] = {}  # a path's answer, turned into a lie
        self.tags = ["invoicesrpc", "routerrpc"]

    @property
    def url(self) -> str:
        return self.server.url

    async def _handle(self, request: Request) -> Answer:
        self.calls[request.path] += 1
        fault = next((fault for path, fault in self.faults.items() if request.path.startswith(path)), None)
        match fault:
            case "refuse":
                return _error(GrpcError(2, self.refusal))
            case "locked":
                return _error(GrpcError(2, "wallet locked, unlock it to enable full RPC access"))
            case "hang":
                await asyncio.Event().wait()
            case "html":
                return Answer(200, b"<html>Welcome</html>", content_type="text/html")
            case "html-500":
                return Answer(500, b"<html>Oops</html>", content_type="text/html")
            case "bad-gateway":
                return Answer(502, b"<html>Bad Gateway</html>", content_type="text/html")
            case "cut":
                raise Cut
        try:
            answer = await self._do(request)
        except GrpcError as error:
            answer = _error(error, streaming="/subscribe" in request.path or "/router/" in request.path)
        if fault == "done-then-hang":
            await asyncio.Event().wait()
        if fault == "done-then-cut":
            raise Cut
        return answer

    async def _do(self, request: Request) -> Answer:
        self._check(request)
        parts = request.path.strip("/").split("/")
        body = json.loads(request.body) if request.body else {}
        simple: dict[tuple[str, str], Callable[[], Awaitable[dict[str, Any]]]] = {
            ("GET", "/v1/getinfo"): self._info,
            ("GET", "/v2/versioner/version"): self._version,
            ("GET", "/v1/balance/channels"): self._balance,
            ("GET", "/v1/channels"): self._channels,
            ("POST", "/v1/invoices"): lambda: self._add(body),
            ("POST", "/v2/invoices/hodl"): lambda: self._add(body),
            ("POST", "/v2/invoices/settle"): lambda: self._settle(body),
            ("POST", "/v2/invoices/cancel"): lambda: self._cancel(body),
            ("GET", "/v1/invoices"): lambda: self._list(request.query),
        }
        books = self.books
        match (request.method, parts):
            case _ if (request.method, request.path) in simple:
                return self._json(request.path, await simple[request.method, request.path]())
            case ("GET", ["v1", "invoice", payment_hash]):
                return self._json("/v1/invoice", books.find(payment_hash).json())
            case ("GET", ["v1", "invoices", "subscribe"]):
                return self._streamed("", books.subscribe(int(request.query.get("settle_index", 0))))
            case ("GET", ["v2", "invoices", "subscribe", where]):
                return self._streamed("", books.follow(books.find(_unbase64(where))))
            case ("GET", ["v2", "router", "track", where]):
                if (payment := books.payments.get(_unbase64(where))) is None:
                    raise GrpcError(5, "payment isn't initiated")
                return self._streamed("/v2/router", books.track(payment))
            case ("POST", ["v2", "router", "send"]):
                payment = books.send(body["payment_request"])
                asyncio.get_running_loop().call_soon(books.decide, payment)
                return self._streamed("/v2/router", books.track(payment))
        return _error(GrpcError(5, "Not Found"))

    def _check(self, request: Request) -> None:
        """The macaroon, and what it permits."""
        given = request.headers.get("grpc-metadata-macaroon")
        if given is None:
            raise GrpcError(2, "expected 1 macaroon, got 0")
        if not given.startswith("02"):
            raise GrpcError(2, "cannot determine data format of binary-encoded macaroon")
        reads = request.method == "GET"
        if given == self.readonly and not reads:
            raise GrpcError(2, "permission denied")
        if given == self.invoicing and "/invoice" not in request.path:
            raise GrpcError(2, "permission denied")
        if given not in (self.admin, self.readonly, self.invoicing):
            raise GrpcError(2, "verification failed: signature mismatch after caveat verification")

    async def _info(self) -> dict[str, Any]:
        return {
            "identity_pubkey": self.books.key.public_key.format().hex(),
            "alias": "a stand-in",
            "block_height": HEIGHT,
            "synced_to_chain": True,
            "chains": [{"chain": "bitcoin", "network": self.books.network}],
        }

    async def _version(self) -> dict[str, Any]:
        return {"version": "0.20.0-beta", "build_tags": self.tags}

    async def _balance(self) -> dict[str, Any]:
        msat = self.books.balance
        return {"balance": str(msat // 1_000), "local_balance": {"sat": str(msat // 1_000), "msat": str(msat)}}

    async def _channels(self) -> dict[str, Any]:
        constraints = {"chan_reserve_sat": "100000"}
        return {"channels": [{"active": True, "remote_balance": "5000000", "remote_constraints": constraints}]}

    async def _add(self, body: dict[str, Any]) -> dict[str, Any]:
        payment_hash = base64.b64decode(body["hash"]).hex() if "hash" in body else None
        digest = base64.b64decode(body["description_hash"]) if "description_hash" in body else None
        made = self.books.add(int(body["value_msat"]), body.get("memo", ""), digest, int(body["expiry"]), payment_hash)
        made.private = body.get("private", False)
        told = {"payment_request": made.bolt11, "add_index": str(made.add_index), "payment_addr": ""}
        return told if payment_hash else {**told, "r_hash": base64.b64encode(bytes.fromhex(made.payment_hash)).decode()}

    async def _settle(self, body: dict[str, Any]) -> dict[str, Any]:
        preimage = base64.b64decode(body["preimage"])
        try:
            invoice: BookedInvoice = self.books.find(sha256(preimage).hexdigest())
        except GrpcError as error:
            raise GrpcError(2, error.message) from None
        if invoice.state == "OPEN":
            raise GrpcError(2, "invoice still open")
        if invoice.state == "CANCELED":
            raise GrpcError(2, "invoice already canceled")
        if invoice.state == "ACCEPTED":
            self.books.settle(invoice, preimage.hex())
        return {}

    async def _cancel(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            self.books.cancel(self.books.find(base64.b64decode(body["payment_hash"]).hex()))
        except GrpcError as error:
            raise GrpcError(2, error.message) from None
        return {}

    async def _list(self, query: dict[str, str]) -> dict[str, Any]:
        page = self.books.page(
            int(query.get("index_offset", 0)),
            int(query.get("num_max_invoices", 100)),
            backwards=query.get("reversed") == "true",
            pending=query.get("pending_only") == "true",
        )
        first, last = (page[0].add_index, page[-1].add_index) if page else (0, 0)
        return {
            "invoices": [each.json() for each in page],
            "last_index_offset": str(last),
            "first_index_offset": str(first),
        }

    def _json(self, path: str, answer: dict[str, Any]) -> Answer:
        twist = self.twisted.get(path)
        return Answer(200, json.dumps(twist(answer) if twist else answer).encode())

    def _streamed(self, path: str, updates: AsyncGenerator[dict[str, Any], None]) -> Answer:
        twist = self.twisted.get(path)

        async def lines() -> AsyncGenerator[bytes, None]:
            try:
                async for update in updates:
                    yield json.dumps({"result": twist(update) if twist else update}).encode() + b"\n"
            finally:
                await updates.aclose()

        return Answer(200, chunks=lines())


@asynccontextmanager
async def lnd_standin(network: str = "regtest") -> AsyncIterator[LndStandin]:
    standin = LndStandin(network)
    async with served(standin.server):
        yield standin


def _error(error: GrpcError, *, streaming: bool = False) -> Answer:
    body: dict[str, Any] = {"code": error.code, "message": error.message, "details": []}
    return Answer(_HTTP.get(error.code, 500), json.dumps({"error": body} if streaming else body).encode())


def _unbase64(text: str) -> str:
    return base64.urlsafe_b64decode(text).hex()


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _packet(kind: int, value: bytes) -> bytes:
    return _varint(kind) + _varint(len(value)) + value
