"""A Core Lightning node behind clnrest, as far as a shop uses it: real regtest invoices, made-up payments.

Shapes, indexes and error numbers are lightningd's. Its clock, its rune, its versions and its word can be bent.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from coincurve import PrivateKey

from dvm.lightning.bolt11 import decode, encode
from dvm.nostr.randomness import random_bytes
from tests.standins.loopback import Loopback, Receive, Scope, Send, body_of
from tests.standins.payees import invoice_of_another

FULL = "b25seSBmb3IgdGVzdHM6IGV2ZXJ5dGhpbmc9PQ=="
READ_ONLY = "b25seSBmb3IgdGVzdHM6IHJlYWRpbmc9PQ=="
NO_PAY = "b25seSBmb3IgdGVzdHM6IG5vdCBwYXlpbmc9PQ=="
ONLY_XPAY = "b25seSBmb3IgdGVzdHM6IG9ubHkgeHBheWluZw=="
_READING = ("getinfo", "listpeerchannels", "listinvoices", "waitanyinvoice", "wait", "listpays")
RUNES: dict[str, Callable[[str], bool]] = {
    FULL: lambda command: True,
    READ_ONLY: lambda command: command in _READING,
    ONLY_XPAY: lambda command: command != "pay",
    NO_PAY: lambda command: command in (*_READING, "invoice"),
}
Entry = dict[str, Any]


class Failed(Exception):
    """A JSON-RPC error."""

    def __init__(self, code: int | None, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status, self.body = status, {"code": code, "message": message}


@dataclass
class ClnNode:
    """Knobs: `paying` is what `pay` does: "ok", "no-route" (nothing sent), "failed" (attempts that failed),
    "stuck" (HTLCs out, no answer), "stuck-error" (the same, answered with an error). `without`: commands that
    it does not know. `texts`: amounts as old versions write them. `deaf`: payments are not told to those who
    wait. `lie`: told once, instead of the next payment."""

    now: Callable[[], float] = time.time
    network: str = "regtest"
    paying: str = "ok"
    fee_msat: int = 7
    without: frozenset[str] = frozenset()
    texts: bool = False
    deaf: bool = False
    lie: Entry | None = None
    spendable: int = 1_000_000_000
    receivable: int = 2_000_000_000
    id: str = "02" + "ab" * 32
    key: PrivateKey = field(default_factory=PrivateKey)
    invoices: list[Entry] = field(default_factory=list)
    pays: list[Entry] = field(default_factory=list)
    payees: dict[str, str] = field(default_factory=dict)  # customers' payment hash → preimage
    runes: list[str | None] = field(default_factory=list)  # as they came with each request
    updated: int = 0
    paid: int = 0

    def __post_init__(self) -> None:
        self._paid_now = asyncio.Event()

    # --- what happens outside ---------------------------------------------------------------------------

    def customer_pays(self, bolt11: str, msat: int | None = None) -> None:
        """A customer pays one of the node's invoices."""
        entry = self._entry(decode(bolt11).payment_hash)
        self._expire()
        assert entry["status"] == "unpaid", entry["status"]
        self.updated += 1
        self.paid += 1
        entry |= {
            "status": "paid",
            "pay_index": self.paid,
            "updated_index": self.updated,
            "amount_received_msat": msat or entry["amount_msat"],
            "paid_at": int(self.now()),
        }
        self.receivable -= entry["amount_received_msat"]
        self.spendable += entry["amount_received_msat"]
        if not self.deaf:
            self._paid_now.set()

    def customer_invoice(self, msat: int) -> str:
        """An invoice of somebody else."""
        return invoice_of_another(self.payees, msat)

    def resolve(self, payment_hash: str, *, success: bool) -> None:
        """The HTLCs of a stuck payment come back, one way or the other."""
        for pay in self.pays:
            if pay["payment_hash"] == payment_hash and pay["status"] == "pending":
                if success:
                    pay |= {"status": "complete", "preimage": self.payees[payment_hash]}
                else:
                    pay["status"] = "failed"
                    self.spendable += pay["amount_sent_msat"]

    # --- commands ---------------------------------------------------------------------------------------

    async def command(self, name: str, params: Entry) -> Entry:
        if name in self.without or (handler := getattr(self, f"_{name}", None)) is None:
            raise Failed(-32601, f"Unknown command '{name}'", 404)
        answer: Entry = await handler(params)
        return self._written(answer) if self.texts else answer

    async def _getinfo(self, params: Entry) -> Entry:
        return {"id": self.id, "alias": "SHOP\u0007", "network": self.network, "version": "v25.09", "blockheight": 144}

    async def _listpeerchannels(self, params: Entry) -> Entry:
        usable = {"state": "CHANNELD_NORMAL", "spendable_msat": self.spendable, "receivable_msat": self.receivable}
        closing = {"state": "ONCHAIN", "spendable_msat": 5_000, "receivable_msat": 5_000}
        return {"channels": [usable, closing, {"state": "OPENINGD"}]}

    async def _invoice(self, params: Entry) -> Entry:
        text = params["description"]
        if any(ord(c) < 32 and c not in "\b\f\n\r\t" for c in text):
            raise Failed(-32602, "description: should be a string without \\u")
        if len(text.encode()) > 639 and not params.get("deschashonly"):
            raise Failed(-32602, "Description greater than 639 bytes invalid")
        if any(entry["label"] == params["label"] for entry in self.invoices):
            raise Failed(900, f"Duplicate label '{params['label']}'")
        preimage = random_bytes(32)
        digest = sha256(preimage)
        about: Entry = {"description": text}
        if params.get("deschashonly"):
            about = {"description_hash": sha256(text.encode()).digest()}
        bolt11 = encode(
            self.key,
            network={"bitcoin": "mainnet"}.get(self.network, self.network),
            msat=params["amount_msat"],
            payment_hash=digest.digest(),
            created_at=int(self.now()),
            expiry=params["expiry"],
            **about,
        )
        entry = {
            "label": params["label"],
            "bolt11": bolt11,
            "payment_hash": digest.hexdigest(),
            "amount_msat": params["amount_msat"],
            "status": "unpaid",
            "description": text,
            "expires_at": int(self.now()) + params["expiry"],
            "created_index": len(self.invoices) + 1,
        }
        self.invoices.append(entry)
        told = {key: entry[key] for key in ("payment_hash", "expires_at", "bolt11", "created_index")}
        if params["amount_msat"] > self.receivable:
            told["warning_capacity"] = "Insufficient incoming channel capacity to pay invoice"
        return told | {"payment_secret": "00" * 32}

    async def _listinvoices(self, params: Entry) -> Entry:
        self._expire()
        found = self.invoices
        if (payment_hash := params.get("payment_hash")) is not None:
            return {"invoices": [each for each in found if each["payment_hash"] == payment_hash]}
        if params.get("index") == "updated":
            found = sorted((each for each in found if "updated_index" in each), key=lambda each: each["updated_index"])
            found = [each for each in found if each["updated_index"] >= params["start"]]
        elif params.get("index") == "created":
            found = [each for each in found if each["created_index"] >= params["start"]]
        return {"invoices": found[: params.get("limit", len(found))]}

    async def _wait(self, params: Entry) -> Entry:
        self._expire()
        assert (params["subsystem"], params["nextvalue"]) == ("invoices", 0)
        value = {"created": len(self.invoices), "updated": self.updated}[params["indexname"]]
        return {"subsystem": "invoices", params["indexname"]: value}

    async def _waitanyinvoice(self, params: Entry) -> Entry:
        last, deadline = params["lastpay_index"], asyncio.get_running_loop().time() + params["timeout"]
        while True:
            if self.lie is not None and params["timeout"]:
                told, self.lie = self.lie, None
                return told
            after = [each for each in self.invoices if each.get("pay_index", 0) > last]
            if after and not (self.deaf and params["timeout"]):
                return min(after, key=lambda each: each["pay_index"])
            left = deadline - asyncio.get_running_loop().time()
            self._paid_now.clear()
            try:
                async with asyncio.timeout(max(left, 0)):
                    await self._paid_now.wait()
            except TimeoutError:
                raise Failed(904, "Timed out while waiting for invoice to be paid") from None

    def wake(self) -> None:
        """Whoever waits looks again."""
        self._paid_now.set()

    async def _listpays(self, params: Entry) -> Entry:
        return {"pays": [each for each in self.pays if each["payment_hash"] == params["payment_hash"]]}

    async def _pay(self, params: Entry) -> Entry:
        _require(params, "bolt11")
        return await self._send(params["bolt11"], params["maxfee"], ok={"status": "complete"}, again=True)

    async def _xpay(self, params: Entry) -> Entry:
        _require(params, "invstring")
        return await self._send(params["invstring"], params["maxfee"], ok={"successful_parts": 1}, again=False)

    async def _send(self, bolt11: str, maxfee: int, *, ok: Entry, again: bool) -> Entry:
        said = decode(bolt11)
        assert said.msat is not None
        for pay in self.pays:
            if pay["payment_hash"] == said.payment_hash and pay["status"] == "complete":
                if not again:
                    raise Failed(219, "Already paid this invoice successfully")
                return ok | _sent(pay)
        sent = said.msat + self.fee_msat
        if said.expires_at <= self.now():
            raise Failed(207, "Invoice expired")
        if self.paying == "no-route" or said.payment_hash not in self.payees:
            raise Failed(205, "Could not find a route")
        if self.fee_msat > maxfee:
            raise Failed(206, f"Route wanted fee of {self.fee_msat}msat")
        if sent > self.spendable:
            raise Failed(215, "Insufficient funds")
        pay = {
            "payment_hash": said.payment_hash,
            "status": "pending",
            "created_at": int(self.now()),
            "amount_msat": said.msat,
            "amount_sent_msat": sent,
            "bolt11": bolt11,
            "created_index": len(self.pays) + 1,
        }
        self.pays.append(pay)
        self.spendable -= sent
        if self.paying == "stuck":
            await asyncio.Event().wait()
        if self.paying == "stuck-error":
            raise Failed(210, "Timed out after 60 seconds")
        self.resolve(said.payment_hash, success=self.paying != "failed")
        if self.paying == "failed":
            raise Failed(203, "failed: WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS")
        return ok | _sent(pay)

    # --- within -----------------------------------------------------------------------------------------

    def _entry(self, payment_hash: str) -> Entry:
        return next(each for each in self.invoices if each["payment_hash"] == payment_hash)

    def _expire(self) -> None:
        for entry in self.invoices:
            if entry["status"] == "unpaid" and entry["expires_at"] <= self.now():
                self.updated += 1
                entry |= {"status": "expired", "updated_index": self.updated}

    def _written(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._written(each) for each in value]
        if isinstance(value, dict):
            return {key: f"{each}msat" if key.endswith("_msat") else self._written(each) for key, each in value.items()}
        return value

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """clnrest: an ASGI application."""
        if scope["type"] != "http":
            return
        if (body := await body_of(receive)) is None:
            return
        rune = dict(scope["headers"]).get(b"rune", b"").decode() or None
        self.runes.append(rune)
        name = scope["path"].removeprefix("/v1/")
        status = 201
        try:
            if scope["method"] != "POST":
                raise Failed(-32601, "Path invalid, http_method must be POST for CLN methods", 405)
            _check(rune, name)
            answer = await self.command(name, json.loads(body or b"{}"))
        except Failed as failed:
            status, answer = failed.status, failed.body
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def loopback(node: ClnNode, **tls: str) -> Loopback:
    """The node's clnrest, not yet started."""
    return Loopback(node.serve, **tls)


def _check(rune: str | None, command: str) -> None:
    if rune is None:
        raise Failed(1501, "Not authorized: Missing rune", 403)
    if rune not in RUNES:
        raise Failed(1501, "Not authorized: Not derived from master", 401)
    if not RUNES[rune](command):
        raise Failed(1502, "Not permitted: method is not equal to invoice", 401)


def _require(params: Entry, name: str) -> None:
    if name not in params:
        raise Failed(-32602, f"missing required parameter: {name}")


def _sent(pay: Entry) -> Entry:
    told = {key: pay[key] for key in ("payment_hash", "created_at", "amount_msat", "amount_sent_msat")}
    return told | {"payment_preimage": pay["preimage"], "parts": 1}
