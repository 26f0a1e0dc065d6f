"""LNbits' REST interface and its websocket, as far as a shop uses them, with a clock and a word that can be bent.

Shapes, statuses and texts are those of LNbits 1.6; invoices are real ones of regtest, and nobody pays them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from coincurve import PrivateKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dvm.lightning.bolt11 import decode, encode
from dvm.nostr.randomness import random_bytes
from tests.standins.loopback import Loopback
from tests.standins.payees import invoice_of_another

ADMIN, INVOICE = "a0" * 16, "1c" * 16
Entry = dict[str, Any]
Paying = Literal["ok", "pending", "failed", "refused", "another"]


@dataclass
class LnbitsNode:
    """Knobs: `now` is its clock; `paying` what becomes of a payment ("refused": before it is written down,
    "another": it answers with one that nobody asked for); `alter` changes an answer to what was asked by POST;
    `statuses` are what it calls payments, whatever they are, `swapped` those in whose place it tells of others;
    `inkey` is what it says is the invoice key; `push`: "lost" ones are not told, "none" is no
    websocket at all, an address is one that it sends elsewhere."""

    now: Callable[[], float] = time.time
    network: str = "regtest"
    paying: Paying = "ok"
    fee_msat: int = 7
    reserve_msat: int = 2_000
    balance_msat: int = 1_000_000
    push: str = "on"
    old: bool = False  # without the fee reserve
    alter: Callable[[Entry], object] = lambda told: told
    inkey: str | None = INVOICE
    statuses: dict[str, str] = field(default_factory=dict)
    swapped: dict[str, str] = field(default_factory=dict)
    payments: list[Entry] = field(default_factory=list)
    payees: dict[str, str] = field(default_factory=dict)  # customers' payment hash → preimage
    listeners: list[WebSocket] = field(default_factory=list)
    posted: list[Entry] = field(default_factory=list)
    key: PrivateKey = field(default_factory=PrivateKey)

    # --- what happens outside ---------------------------------------------------------------------------

    async def customer_pays(self, payment_hash: str, *, times: int = 1) -> None:
        """An invoice of the wallet settles, and is told of so many times, if at all."""
        entry = next(each for each in self.payments if each["payment_hash"] == payment_hash and each["amount"] > 0)
        entry |= {"status": "success", "updated_at": self._time()}
        self.balance_msat += entry["amount"]
        for _ in range(times if self.push == "on" else 0):
            await self.tell({"wallet_balance": self.balance_msat // 1_000, "payment": entry})

    async def tell(self, message: object) -> None:
        """Anything, to all who listen: whoever knows the key can."""
        for listener in list(self.listeners):
            await listener.send_text(message if isinstance(message, str) else json.dumps(message))

    def customer_invoice(self, msat: int, expiry: int = 600, created_at: int | None = None) -> str:
        """An invoice of somebody else."""
        return invoice_of_another(self.payees, msat, created_at=created_at, expiry=expiry)

    def resolve(self, payment_hash: str, status: str) -> None:
        """A pending payment comes to its end."""
        entry = next(each for each in self.payments if each["payment_hash"] == payment_hash)
        entry["status"] = status

    # --- REST -------------------------------------------------------------------------------------------

    async def _wallet(self, request: Request) -> Response:
        key = request.headers.get("x-api-key")
        if key not in (ADMIN, INVOICE):
            return _error(404, "Wallet not found.")
        if request.method == "PATCH":
            keys = {"adminkey": ADMIN, "inkey": self.inkey}
            return JSONResponse({"id": "w", "name": "SHOP\u0007"} | keys) if key == ADMIN else _error(403, "Invalid")
        told = {"name": "SHOP\u0007", "balance": self.balance_msat}
        return JSONResponse(told | ({"id": "w"} if key == ADMIN else {}))

    async def _list(self, request: Request) -> Response:
        if request.headers.get("x-api-key") not in (ADMIN, INVOICE):
            return _error(404, "Wallet not found.")
        asked = request.query_params
        found = [self._told(each) for each in self.payments]
        for name in ("status", "payment_hash"):
            if name in asked:
                found = [each for each in found if each[name] == asked[name]]
        if "amount[gt]" in asked:
            found = [each for each in found if each["amount"] > int(asked["amount[gt]"])]
        if sortby := asked.get("sortby"):
            found.sort(key=lambda each: each[sortby], reverse=asked.get("direction") == "desc")
        offset, limit = int(asked.get("offset", 0)), min(int(asked.get("limit", 10)), 1_000)
        page = found[offset : offset + limit]
        paginated = request.url.path.endswith("/paginated")
        return JSONResponse({"data": page, "total": len(found)} if paginated else page)

    async def _one(self, request: Request) -> Response:
        payment_hash = request.path_params["payment_hash"]
        if payment_hash == "fee-reserve" and not self.old:
            return JSONResponse({"fee_reserve": self.reserve_msat})
        found = sorted(
            (each for each in self.payments if each["payment_hash"] == payment_hash), key=lambda each: each["amount"]
        )
        if not found:
            return _error(404, "Payment does not exist.")
        other = self.swapped.get(payment_hash, payment_hash)
        found = [each for each in self.payments if each["payment_hash"] == other] if other != payment_hash else found
        entry = self._told(found[0])
        told: Entry = {"paid": found[0]["status"] == "success", "status": entry["status"]}
        ours = request.headers.get("x-api-key") in (ADMIN, INVOICE)
        return JSONResponse(told | ({"details": entry} if ours else {}))

    async def _post(self, request: Request) -> Response:
        key, asked = request.headers.get("x-api-key"), await request.json()
        self.posted.append(asked)
        if key not in (ADMIN, INVOICE):
            return _error(404, "Wallet not found.")
        if asked["out"]:
            return self._pay(asked["bolt11"]) if key == ADMIN else _error(403, "Invoice (or Admin) key required.")
        preimage = random_bytes(32)
        digest = asked.get("description_hash")
        bolt11 = encode(
            self.key,
            network=self.network,
            msat=asked["amount"] * 1_000,
            payment_hash=sha256(preimage).digest(),
            description=None if digest else asked["memo"],
            description_hash=bytes.fromhex(digest) if digest else None,
            created_at=int(self.now()),
            expiry=asked["expiry"],
        )
        return JSONResponse(self.alter(dict(self._write(bolt11, preimage.hex(), asked["amount"] * 1_000))), 201)

    def _pay(self, bolt11: str) -> Response:
        said = decode(bolt11)
        assert said.msat is not None
        known = [each for each in self.payments if each["payment_hash"] == said.payment_hash and each["amount"] < 0]
        if known and known[0]["status"] != "failed":
            paid = known[0]["status"] == "success"
            return _failed("Payment already paid." if paid else "Payment is still pending.", known[0]["status"])
        if known:
            return _failed("Payment is failed node, retrying is not possible.")
        if self.paying == "refused" or self.balance_msat < said.msat + self.reserve_msat:
            return _failed("Insufficient balance.")
        status = {"pending": "pending", "failed": "failed"}.get(self.paying, "success")
        entry = self._write(bolt11, self.payees[said.payment_hash], -said.msat, status, -self.fee_msat)
        if status == "failed":
            return _failed("Payment failed: no route")
        self.balance_msat -= said.msat + self.fee_msat
        if self.paying == "another":
            entry = entry | {"payment_hash": "ab" * 32}
        return JSONResponse(self.alter(dict(self._told(entry))), 201)

    async def _socket(self, socket: WebSocket) -> None:
        if socket.path_params["key"] != INVOICE or self.push == "none":
            await socket.close()
            return
        if self.push.startswith("ws://"):
            await socket.send_denial_response(RedirectResponse(self.push + socket.url.path))
            return
        await socket.accept()
        self.listeners.append(socket)
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            pass
        finally:
            self.listeners.remove(socket)

    # --- within -----------------------------------------------------------------------------------------

    def app(self) -> Starlette:
        payments = "/api/v1/payments"
        return Starlette(
            routes=[
                Route("/api/v1/wallet", self._wallet, methods=["GET", "PATCH"]),
                Route(payments, self._list, methods=["GET"]),
                Route(payments, self._post, methods=["POST"]),
                Route(f"{payments}/paginated", self._list, methods=["GET"]),
                Route(f"{payments}/{{payment_hash}}", self._one, methods=["GET"]),
                WebSocketRoute("/api/v1/ws/{key}", self._socket),
            ]
        )

    def _write(self, bolt11: str, preimage: str, msat: int, status: str = "pending", fee: int = 0) -> Entry:
        now = self._time()
        entry = {
            "payment_hash": decode(bolt11).payment_hash,
            "amount": msat,
            "fee": fee,
            "bolt11": bolt11,
            "status": status,
            "preimage": preimage,
            "created_at": now,
            "updated_at": now,
        }
        self.payments.append(entry)
        return entry

    def _told(self, entry: Entry) -> Entry:
        return entry | {"status": self.statuses.get(entry["payment_hash"], entry["status"])}

    def _time(self) -> str:
        return datetime.fromtimestamp(self.now(), UTC).isoformat()


def loopback(node: LnbitsNode) -> Loopback:
    """Not yet started."""
    return Loopback(node.app())


def _error(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)


def _failed(detail: str, status: str = "failed") -> Response:
    return JSONResponse({"detail": detail, "status": status}, 520)
