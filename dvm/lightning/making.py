"""Making invoices: what may be asked of any wallet, and what its invoice must say then. See `Wallet.create_invoice`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from hashlib import sha256

from dvm.lightning.base import Invoice, WalletError
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.checks import hash_of, readable

_MAX_EXPIRY = 10 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class Asked:
    """An invoice that a wallet is asked for, as `Wallet.create_invoice` describes it. Raises WalletError for what no
    invoice of ours may be, before the wallet is asked."""

    msat: int
    description: str | None
    description_hash: str | None
    expiry: int

    def __post_init__(self) -> None:
        if not 0 < self.msat <= MAX_MSAT or self.msat % 1_000:
            raise WalletError("failed", f"an invoice over {self.msat} msat: a positive number of whole sats expected")
        if self.description is None and self.description_hash is None:
            raise WalletError("failed", "a description or the hash of one expected")
        if self.description_hash is not None and not hash_of(self.description_hash):
            raise WalletError("failed", "a description hash is 64 lowercase hex digits")
        if self.description_hash is not None and self._digest not in (None, self.description_hash):
            raise WalletError("failed", "the description hash is not the description's")
        if not 0 < self.expiry <= _MAX_EXPIRY:
            raise WalletError("failed", f"an expiry of {self.expiry} seconds: 1 second to 10 years expected")

    @property
    def text(self) -> str:
        """The description, empty where there is none."""
        return self.description or ""

    def saying(self, description: str) -> Asked:
        """The same with the description that this wallet can take."""
        return replace(self, description=description)

    def made(self, bolt11: object, network: str, payment_hash: str | None = None) -> Invoice:
        """The invoice that the wallet made, if it is the one that it was asked for.

        `payment_hash` is what the wallet says beside the invoice; the hash that it will be asked about is the
        invoice's. Raises WalletError `untrustworthy`: a customer would pay it, and the money be another's.
        """
        said = readable(bolt11, "untrustworthy")
        wrong = None
        if said.network != network:
            wrong = f"the wallet made an invoice for {said.network}, and {network} is expected"
        elif said.msat != self.msat:
            wrong = f"asked for {self.msat} msat, the wallet made an invoice over {said.msat}"
        elif payment_hash is not None and said.payment_hash != payment_hash:
            wrong = "the wallet names a payment hash that is not its invoice's"
        elif (self.description_hash is not None and said.description_hash != self.description_hash) or (
            self.description and said.description_hash not in (None, self._digest)
        ):
            wrong = "the wallet's invoice commits to another description"
        elif said.expires_at <= time.time():
            wrong = "the wallet's invoice has expired already: compare its clock with this machine's"
        if wrong is not None:
            raise WalletError("untrustworthy", wrong)
        return Invoice(str(bolt11), said.payment_hash, self.msat, said.created_at, said.expires_at)

    @property
    def _digest(self) -> str | None:
        if self.description is None:
            return None
        return sha256(self.description.encode(errors="replace")).hexdigest()


class MakesInvoices(ABC):
    """The part of `Wallet` that makes invoices: checked before, and by whoever makes it with `Asked.made` after.

    When the wallet's answer is lost, the invoice may exist all the same: nobody has seen it, so nobody pays it.
    """

    async def create_invoice(
        self,
        msat: int,
        *,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
    ) -> Invoice:
        return await self._make(Asked(msat, description, description_hash, expiry))

    @abstractmethod
    async def _make(self, asked: Asked) -> Invoice:
        """Raises WalletError."""


class MakesHoldInvoices(MakesInvoices):
    """The same for `HoldWallet`."""

    async def create_hold_invoice(
        self,
        msat: int,
        *,
        payment_hash: str,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
    ) -> Invoice:
        asked = Asked(msat, description, description_hash, expiry)
        if hash_of(payment_hash) is None:
            raise WalletError("failed", "a payment hash is 64 lowercase hex digits")
        return await self._make_hold(asked, payment_hash)

    @abstractmethod
    async def _make_hold(self, asked: Asked, payment_hash: str) -> Invoice:
        """Raises WalletError."""
