"""What the NIP-47 methods mean for a paper node. Nothing here knows of Nostr."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import orjson

from dvm.lightning.base import InvoiceState, WalletError
from dvm.lightning.bolt11 import InvalidInvoice, decode
from dvm.lightning.paper_node import ALIAS, HOLD_BLOCKS, NETWORK, PaperInvoice, PaperNode, Refused

METHODS = (
    "get_info",
    "get_balance",
    "make_invoice",
    "lookup_invoice",
    "list_transactions",
    "pay_invoice",
    "make_hold_invoice",
    "settle_hold_invoice",
    "cancel_hold_invoice",
)

_DEFAULT_EXPIRY = 3_600
_MAX_EXPIRY = 366 * 86_400
_PAGE, _MAX_PAGE = 20, 50
_MAX_ANSWER = 39_000  # bytes: padded and in base64 (NIP-44), an event below the usual 64 KB
_HEX32 = re.compile(r"[0-9a-fA-F]{64}").fullmatch
_MAX_HOLD = 1_008  # blocks, a week
_REASONS = {"insufficient": "INSUFFICIENT_BALANCE", "invalid": "OTHER", "failed": "INTERNAL"}

Direction = Literal["incoming", "outgoing"]


class MethodError(Exception):
    """An error with a NIP-47 code."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


async def call(node: PaperNode, wallet: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one of METHODS for that wallet; of paying a hold invoice, once that is decided.

    What does not wait is done before this coroutine first gives way. Raises MethodError.
    """
    match method:
        case "get_info":
            return {"alias": ALIAS, "color": "#f5f5dc", "pubkey": node.pubkey, "network": NETWORK} | {
                "block_height": node.height,
                "block_hash": f"{node.height:064x}",
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
            return await _pay(node, wallet, params)
        case "make_hold_invoice":
            return _make(node, wallet, params, hold=True)
        case "settle_hold_invoice":
            return _settle(node, wallet, params)
        case "cancel_hold_invoice":
            return _cancel(node, wallet, params)
    raise MethodError("NOT_IMPLEMENTED", "no such method")


def transaction(invoice: PaperInvoice, direction: Direction, state: str | None = None) -> dict[str, Any]:
    """An invoice as NIP-47 shows it to the wallet that made it, or to the one that paid it."""
    settled = invoice.settled_at is not None
    waits = "accepted" if direction == "incoming" else "pending"
    undone = "failed" if invoice.cancelled_at is not None else "pending"
    optional = {
        "description": invoice.description,
        "description_hash": invoice.description_hash,
        "settle_deadline": invoice.deadline if invoice.held and direction == "incoming" else None,
    }
    return {name: value for name, value in optional.items() if value is not None} | {
        "type": direction,
        "state": state or ("settled" if settled else waits if invoice.held else undone),
        "invoice": invoice.bolt11,
        "preimage": invoice.preimage if settled else None,
        "payment_hash": invoice.payment_hash,
        "amount": invoice.msat,
        "fees_paid": 0,
        "created_at": invoice.created_at if direction == "incoming" else invoice.paid_at,
        "expires_at": invoice.expires_at,
        "settled_at": invoice.settled_at,
    }


def _received(node: PaperNode, invoice: PaperInvoice) -> dict[str, Any]:
    over = node.lookup(invoice.wallet, invoice.payment_hash).state is InvoiceState.FAILED
    return transaction(invoice, "incoming", "expired" if over and invoice.cancelled_at is None else None)


def _make(node: PaperNode, wallet: str, params: dict[str, Any], *, hold: bool = False) -> dict[str, Any]:
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
            payment_hash=_hash(params) if hold else None,
            hold=_integer(params, "min_cltv_expiry_delta", 1, _MAX_HOLD, HOLD_BLOCKS),
        )
    except WalletError as error:
        raise MethodError("OTHER", str(error)) from None
    return transaction(invoice, "incoming")


def _settle(node: PaperNode, wallet: str, params: dict[str, Any]) -> dict[str, Any]:
    preimage = params.get("preimage")
    if not (isinstance(preimage, str) and _HEX32(preimage)):
        raise MethodError("OTHER", "preimage: 64 hex digits expected")
    return _held(lambda: node.settle(wallet, preimage.lower()))


def _cancel(node: PaperNode, wallet: str, params: dict[str, Any]) -> dict[str, Any]:
    payment_hash = _hash(params)
    return _held(lambda: node.cancel(wallet, payment_hash))


def _held(act: Callable[[], object]) -> dict[str, Any]:
    try:
        act()
    except Refused as refused:
        raise MethodError("NOT_FOUND" if refused.reason == "unknown" else "OTHER", str(refused)) from None
    except WalletError as error:
        raise MethodError("INTERNAL", str(error)) from None
    return {}


def _look_up(node: PaperNode, wallet: str, params: dict[str, Any]) -> dict[str, Any]:
    payment_hash = params.get("payment_hash")
    if payment_hash is None and isinstance(params.get("invoice"), str):
        try:
            payment_hash = decode(params["invoice"]).payment_hash
        except InvalidInvoice as error:
            raise MethodError("OTHER", str(error)) from None
    invoice = node.get(_hash({"payment_hash": payment_hash}))
    if invoice is not None and invoice.wallet == wallet:
        return _received(node, invoice)
    if invoice is not None and invoice.payer == wallet and invoice.paid_at is not None:
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
            if (at := invoice.paid_at or 0) < start:
                break
            if at <= end and (unpaid or invoice.settled_at is not None):
                found.append((at, invoice, "outgoing"))
        found.sort(key=lambda item: -item[0])
    return found


async def _pay(node: PaperNode, wallet: str, params: dict[str, Any]) -> dict[str, Any]:
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
    await node.decided(invoice)
    if invoice.settled_at is None:
        raise MethodError("PAYMENT_FAILED", "the recipient has sent the payment back")
    return {"preimage": invoice.preimage, "fees_paid": 0}


def _hash(params: dict[str, Any]) -> str:
    payment_hash = params.get("payment_hash")
    if not (isinstance(payment_hash, str) and _HEX32(payment_hash)):
        raise MethodError("OTHER", "payment_hash: 64 hex digits expected")
    return payment_hash.lower()


def _integer(params: dict[str, Any], name: str, least: int, most: int, default: int | None = None) -> int:
    value = params.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise MethodError("OTHER", f"{name}: a whole number expected")
    return value
