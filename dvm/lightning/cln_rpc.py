"""lightningd's commands over clnrest: `POST /v1/<command>`, parameters and result as JSON, the rune in a header.

What is refused comes with lightningd's own number (its `common/jsonrpc_errors.h`); what comes without one was
said by something in between, and the command may have been carried out all the same.
"""

from __future__ import annotations

import re
from typing import Any

from dvm.lightning.base import WalletError
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.places import MAX_INDEX
from dvm.lightning.rest import Refused, Rest, said

COMMANDS = "getinfo, listpeerchannels, invoice, listinvoices, waitanyinvoice, wait, listpays, pay, xpay"

WAIT_TIMED_OUT = 904  # waitanyinvoice
_UNKNOWN_COMMAND = -32601
_GONE = (-4, -5)  # the plugin, or lightningd, ended while it was at work
_RUNE = range(1501, 1504)
_RUNE_NOT_PERMITTED = 1502

_MSAT = re.compile(r"(0|[1-9][0-9]{0,18})msat").fullmatch
_RUNE_TEXT = re.compile(r"[A-Za-z0-9_\-+/]{20,4000}={0,2}").fullmatch


class RpcError(WalletError):
    """lightningd's own no, with its number: the command is over."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__("failed", text)
        self.number = number


class Rpc:
    """Commands of one node."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    async def call(
        self,
        command: str,
        params: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - of the HTTP request
    ) -> dict[str, Any]:
        """The command's result. Raises WalletError: RpcError for what lightningd refused; `unauthorized`,
        `restricted`, `rate_limited` and `unsupported` before it has done anything; NotSent; and any other
        `unreachable` or `untrustworthy` where it may have done it."""
        try:
            result = await self._rest.post(f"/v1/{command}", params or {}, timeout=timeout)
        except Refused as refused:
            raise _reason(refused, command) from None
        if not isinstance(result, dict):
            raise WalletError("untrustworthy", f"{command}: an answer that is no object")
        return result


def checked_rune(secret: str | None) -> str:
    """The rune, if it can be one. Raises WalletError."""
    if secret is None:
        raise WalletError("unauthorized", "the rune is missing: `lightning-cli createrune` makes one")
    if not _RUNE_TEXT(secret):
        raise WalletError("unauthorized", "what is given as the rune is none: base64 expected")
    return secret


def msat_of(value: object) -> int | None:
    """An amount in msat: an integer, or `"123msat"`, as older versions write it. None for anything else."""
    if isinstance(value, str) and (match := _MSAT(value)):
        value = int(match[1])
    return value if type(value) is int and 0 <= value <= MAX_MSAT else None


def index_of(value: object) -> int | None:
    """One of lightningd's indexes, which count from 1, or None."""
    return value if type(value) is int and 0 < value < MAX_INDEX else None


def time_of(value: object) -> int | None:
    """Unix seconds; some commands give a fraction. None for anything else."""
    if type(value) is float and 0 <= value < 1 << 40:
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 40 else None


def _reason(refused: Refused, command: str) -> WalletError:
    body = refused.body
    if isinstance(body.get("error"), dict):  # the clnrest of before 24.11
        body = body["error"]
    number = body.get("code")
    text = said(body)
    if type(number) is not int:
        if refused.status in (401, 403):
            return WalletError("unauthorized", f"{command}: the rune is refused")
        if refused.status == 404:
            return WalletError("not_found", f"{command}: nothing there: is wallet.url the address of clnrest?")
        if refused.code == "rate_limited":
            return WalletError("rate_limited", f"{command}: too many requests")
        return WalletError("unreachable", f"{command}: {refused.status}, and no word of lightningd's {text}".rstrip())
    if number in _RUNE:
        return _rune_reason(number, text, command)
    if number == _UNKNOWN_COMMAND:
        return WalletError("unsupported", f"the node does not know {command} (23.11 or newer expected): {text}")
    if number in _GONE:
        return WalletError("unreachable", f"{command}: {text}")
    return RpcError(f"{command}: {text} ({number})", number)


def _rune_reason(number: int, text: str, command: str) -> WalletError:
    if number != _RUNE_NOT_PERMITTED:  # malformed, another node's, or blacklisted
        return WalletError(
            "unauthorized", f"the rune is refused ({text}): make a new one with `lightning-cli createrune`"
        )
    if "too soon" in text or "rate" in text.lower():
        return WalletError("rate_limited", f"{command}: the rune's rate is used up ({text})")
    return WalletError("restricted", f"the rune does not allow {command} ({text}); this wallet uses {COMMANDS}")
