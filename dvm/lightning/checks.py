"""What holds for every wallet: hashes, texts that fit, invoices that can be read and paid."""

from __future__ import annotations

import re

from dvm.lightning.base import WalletError, WalletErrorCode
from dvm.lightning.bolt11 import MAX_DESCRIPTION, Bolt11, InvalidInvoice, decode

_HEX32 = re.compile(r"[0-9a-f]{64}").fullmatch


def cut(description: str) -> str:
    """The description, cut to what an invoice holds (639 bytes of UTF-8)."""
    return description.encode(errors="replace")[:MAX_DESCRIPTION].decode(errors="ignore")


def hash_of(value: object) -> str | None:
    """A payment hash (64 lowercase hex digits), or None."""
    return value if isinstance(value, str) and _HEX32(value) else None


def text_of(value: object) -> str:
    """A text, empty where it is none. Not `str`: of what nests a thousand deep there is no text."""
    return value if isinstance(value, str) else ""


def readable(bolt11: object, code: WalletErrorCode = "failed") -> Bolt11:
    """The invoice decoded. Raises WalletError with that code."""
    try:
        if not isinstance(bolt11, str):
            raise InvalidInvoice("none is there")
        return decode(bolt11)
    except InvalidInvoice as error:
        raise WalletError(code, f"not a BOLT 11 invoice: {error}") from None


def payable(bolt11: str) -> tuple[Bolt11, int]:
    """An invoice that is to be paid, decoded, and its msat: none that leaves the amount to the payer, since what it
    would cost was agreed with nobody. Raises WalletError."""
    said = readable(bolt11)
    if said.msat is None:
        raise WalletError("failed", "the invoice leaves the amount open")
    return said, said.msat
