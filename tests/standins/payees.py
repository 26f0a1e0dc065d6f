"""Whom a wallet pays: somebody else's invoices, and the preimages that their payments bring."""

from __future__ import annotations

import time
from hashlib import sha256

from coincurve import PrivateKey

from dvm.lightning.bolt11 import encode
from dvm.nostr.randomness import random_bytes


def invoice_of_another(
    preimages: dict[str, str],
    msat: int,
    *,
    network: str = "regtest",
    key: PrivateKey | None = None,
    created_at: int | None = None,
    expiry: int = 600,
) -> str:
    """A new invoice; its preimage, in hex, goes to `preimages` under the payment hash."""
    preimage = random_bytes(32)
    digest = sha256(preimage)
    preimages[digest.hexdigest()] = preimage.hex()
    return encode(
        key or PrivateKey(),
        network=network,
        msat=msat,
        payment_hash=digest.digest(),
        description="change",
        created_at=int(time.time()) if created_at is None else created_at,
        expiry=expiry,
    )
