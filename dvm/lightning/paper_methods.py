"""What the NIP-47 methods mean for a paper node. Nothing here knows of Nostr."""

from __future__ import annotations

import re
from typing import Any, Literal

import orjson

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import InvalidInvoice, decode
from dvm.lightning.paper_node import ALIAS, NETWORK, PaperInvoice, PaperNode, Refused

METHODS = (
    "get_info",
    "get_balance",
    "make_invoice",
    "lookup_invoice",
    "list_transactions",
    "pay_invoice",
)

_DEFAULT_EXPIRY = 3_600
_MAX_EXPIRY = 366 * 86_400
_PAGE, _MAX_PAGE = 20, 50
_MAX_ANSWER = 39_000  # bytes: padded and in base64 (NIP-44), an event below the usual 64 KB
_HEX32 = re.compile(r"[0-9a-fA-F]{64}").fullmatch
_REASONS = {"insufficient": "INSUFFICIENT_BALANCE", "invalid": "OTHER", "failed": "INTERNAL"}

Direction = Literal["incoming", "outgoing"]


class MethodError(Exception):
    """An error with a NIP-47 code."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def call(node: PaperNode, wallet: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one of METHODS for that wallet. Raises MethodError."""
    match method:
        case "get_info":
            return {"alias": ALIAS, "color": "#f5f5dc", "pubkey": node.pubkey, "network": NETWORK} | {
                "block_height": 0,
                "block_hash": "00" * 32,
            }
        case "get_balance":
            return {"balance": node.balance(wallet)}
        case "make_invoice":
            return _make(node, wallet, params)
        case "lookup_invoice":
            return _look_up(node, wallet, params)
        case "list_transactions":
            return _list(node, wallet, params)
        case "pay_invoice":
            return _pay(node, wallet, params)
    raise MethodError("NOT_IMPLEMENTED", "no such method")


def transaction(invoice: PaperInvoice, direction: Direction, state: str | None = None) -> dict[str, Any]:
    """An invoice as NIP-47 shows it to the wallet that made it, or to the one that paid it."""
    settled = invoice.settled_at is not None
    made = {"description": invoice.description, "description_hash": invoice.description_hash}
    return {name: value for name, value in made.items() if value is not None} | {
        "type": direction,
        "state": state or ("settled" if settled else "pending"),
        "invoice": invoice.bolt11,
        "preimage": invoice.preimage if settled else None,
        "payment_hash": invoice.payment_hash,
        "amount": invoice.msat,
        "fees_paid": 0,
        "created_at": invoice.created_at if direction == "incoming" else invoice.settled_at,
        "expires_at": invoice.expires_at,
        "settled_at": invoice.settled_at,
    }


def _received(node: PaperNode, invoice: PaperInvoice) -> dict[str, Any]:
    expired = node.lookup(invoice.wallet, invoice.payment_hash).state is InvoiceState.FAILED
    return transaction(invoice, "incoming", "expired" if expired else None)


def _make(node: PaperNode, wallet: str, params: dict[str, Any]) -> dict[str, Any]:
    description, digest = params.get("description"), params.get("description_hash")
    if not isinstance(description, str | None) or not isinstance(digest, str | None):
        raise MethodError("OTHER", "description and description_hash are text")
    try:
        invoice = node.make(
            wallet,
            _integer(params, "amount", 1, 1 << 62),
            description=None if digest else description,
            description_hash=digest or None,
            expiry=_integer(params, "expiry", 1, _MAX_EXPIRY, _DEFAULT_EXPIRY),
        )
    except WalletError as error:
        raise MethodError("OTHER", str(error)) from None
    return transaction(invoice, "incoming")


def _look_up(node: PaperNode, wallet: str, params: dict[str, Any]) -> dict[str, Any]:
    payment_hash = params.get("payment_hash")
    if payment_hash is None and isinstance(params.get("invoice"), str):
        try:
            payment_hash = decode(params["invoice"]).payment_hash
        except InvalidInvoice as error:
            raise MethodError("OTHER", str(error)) from None
    if not (isinstance(payment_hash, str) and _HEX32(payment_hash)):
        raise MethodError("OTHER", "payment_hash: 64 hex digits expected")
    invoice = node.get(payment_hash.lower())
    if invoice is not None and invoice.wallet == wallet:
        return _received(node, invoice)
    if invoice is not None and invoice.payer == wallet:
        return transaction(invoice, "outgoing")
    raise MethodError("NOT_FOUND", "no invoice or payment has this hash")


def _list(node: PaperNode, wallet: str, params: dict[str, Any]) -> dict[str, Any]:
    first = _integer(params, "offset", 0, 1 << 53, 0)
    size = min(_integer(params, "limit", 0, 1 << 53, 0) or _PAGE, _MAX_PAGE)
    found = _matching(node, wallet, params)
    page = [
        _received(node, invoice) if direction == "incoming" else transaction(invoice, direction)
        for _, invoice, direction in found[first : first + size]
    ]
    while len(page) > 1 and len(orjson.dumps(page)) > _MAX_ANSWER:
        page.pop()
    return {"transactions": page, "total_count": len(found)}


def _matching(node: PaperNode, wallet: str, params: dict[str, Any]) -> list[tuple[int, PaperInvoice, Direction]]:
    """What was made or paid within the asked time, newest first."""
    start, end = _integer(params, "from", 0, 1 << 53, 0), _integer(params, "until", 0, 1 << 53, 1 << 53)
    wanted, unpaid = params.get("type"), params.get("unpaid") is True
    found: list[tuple[int, PaperInvoice, Direction]] = []
    if wanted != "outgoing":
        for invoice in node.incoming(wallet):
            if (at := invoice.created_at) < start:
                break
            if at <= end and (unpaid or invoice.settled_at is not None):
                found.append((at, invoice, "incoming"))
    if wanted != "incoming":
        for invoice in node.outgoing(wallet):
            if (at := invoice.settled_at or 0) < start:
                break
            if at <= end:
                found.append((at, invoice, "outgoing"))
        found.sort(key=lambda item: -item[0])
    return found


def _pay(node: PaperNode, wallet: str, params: dict[str, Any]) -> dict[str, Any]:
    bolt11 = params.get("invoice")
    if not isinstance(bolt11, str):
        raise MethodError("OTHER", "invoice: text expected")
    try:
        invoice = node.find(bolt11)
        if params.get("amount") not in (None, invoice.msat):
            raise MethodError("OTHER", "the amount is not the invoice's")
        node.pay(bolt11, payer=wallet)
    except Refused as refused:
        raise MethodError(_REASONS.get(refused.reason, "PAYMENT_FAILED"), str(refused)) from None
    except WalletError as error:
        raise MethodError("INTERNAL", str(error)) from None
    return {"preimage": invoice.preimage, "fees_paid": 0}


def _integer(params: dict[str, Any], name: str, least: int, most: int, default: int | None = None) -> int:
    value = params.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise MethodError("OTHER", f"{name}: a whole number expected")
    return value
