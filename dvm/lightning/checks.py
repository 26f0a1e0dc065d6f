"""What holds for every wallet: what may be asked of it, and what its invoice must say. See `Wallet`."""

from __future__ import annotations

import re
import time
from hashlib import sha256

from dvm.lightning.base import Invoice, WalletError
from dvm.lightning.bolt11 import MAX_DESCRIPTION, MAX_MSAT, Bolt11, InvalidInvoice, decode

_HEX32 = re.compile(r"[0-9a-f]{64}").fullmatch
_MAX_EXPIRY = 10 * 365 * 86_400


def check_asked(msat: int, description: str | None, description_hash: str | None, expiry: int) -> None:
    """Refuse what no invoice of ours may be. Raises WalletError, before the wallet is asked."""
    if not 0 < msat <= MAX_MSAT or msat % 1_000:
        raise WalletError("failed", f"an invoice over {msat} msat: a positive number of whole sats expected")
    if description is None and description_hash is None:
        raise WalletError("failed", "a description or the hash of one expected")
    if description_hash is not None and not _HEX32(description_hash):
        raise WalletError("failed", "a description hash is 64 lowercase hex digits")
    if None not in (description, description_hash) and _sha256(description or "") != description_hash:
        raise WalletError("failed", "the description hash is not the description's")
    if not 0 < expiry <= _MAX_EXPIRY:
        raise WalletError("failed", f"an expiry of {expiry} seconds: 1 second to 10 years expected")


def cut(description: str) -> str:
    """The description, cut to what an invoice holds (639 bytes of UTF-8)."""
    return description.encode(errors="replace")[:MAX_DESCRIPTION].decode(errors="ignore")


def checked_invoice(
    bolt11: object,
    *,
    network: str,
    msat: int,
    payment_hash: str | None = None,
    description: str | None = None,
    description_hash: str | None = None,
) -> Invoice:
    """The invoice that a wallet made, if it is the one that it was asked for.

    `payment_hash` is what the wallet says beside the invoice; the hash that it will be asked about is the
    invoice's. Raises WalletError `untrustworthy`: a customer would pay it, and the money be another's.
    """
    said = readable(bolt11, "untrustworthy")
    if said.network != network:
        raise WalletError("untrustworthy", f"the wallet made an invoice for {said.network}, and {network} is expected")
    if said.msat != msat:
        raise WalletError("untrustworthy", f"asked for {msat} msat, the wallet made an invoice over {said.msat}")
    if payment_hash is not None and said.payment_hash != payment_hash:
        raise WalletError("untrustworthy", "the wallet names a payment hash that is not its invoice's")
    if description_hash is not None and said.description_hash != description_hash:
        raise WalletError("untrustworthy", "the wallet's invoice commits to another description")
    if description and said.description_hash not in (None, _sha256(description)):
        raise WalletError("untrustworthy", "the wallet's invoice commits to another description")
    if said.expires_at <= time.time():
        raise WalletError(
            "untrustworthy", "the wallet's invoice has expired already: compare its clock with this machine's"
        )
    return Invoice(str(bolt11), said.payment_hash, msat, said.created_at, said.expires_at)


def hash_of(value: object) -> str | None:
    """A payment hash (64 lowercase hex digits), or None."""
    return value if isinstance(value, str) and _HEX32(value) else None


def readable(bolt11: object, code: str = "failed") -> Bolt11:
    """The invoice decoded. Raises WalletError with that code."""
    try:
        if not isinstance(bolt11, str):
            raise InvalidInvoice("none is there")
        return decode(bolt11)
    except InvalidInvoice as error:
        reason = f"not a BOLT 11 invoice: {error}"
        raise WalletError("untrustworthy" if code == "untrustworthy" else "failed", reason) from None


def _sha256(text: str) -> str:
    return sha256(text.encode(errors="replace")).hexdigest()
