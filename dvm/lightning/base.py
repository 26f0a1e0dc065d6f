"""What every wallet offers: `Wallet`, one short Protocol. A new wallet is one file and one registry line.

All amounts are integer millisatoshi (msat), all times unix seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol, runtime_checkable


class InvoiceState(Enum):
    """What the wallet says of an invoice or a payment, which are different things: money.md, case 14.

    Only SETTLED is money. HELD is a hold invoice whose HTLCs have arrived and wait for us to settle or to
    cancel. FAILED is for ever: expired, cancelled, or never sent. UNKNOWN is "could not be learned", never
    "not paid".
    """

    SETTLED = "settled"
    HELD = "held"
    PENDING = "pending"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Invoice:
    """A BOLT 11 invoice that our wallet made, checked against what was asked of it."""

    bolt11: str
    payment_hash: str
    msat: int
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Lookup:
    """The wallet's answer about one payment hash. `msat` is what was received when SETTLED, what waits when
    HELD. `blocks_left`: of a HELD invoice, the blocks until its first HTLC times out and the money goes
    back, None where the wallet does not tell."""

    state: InvoiceState
    msat: int = 0
    settled_at: int | None = None
    blocks_left: int | None = None


UNKNOWN = Lookup(InvoiceState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Payment:
    """An outgoing payment's outcome. SETTLED and FAILED are definite. PENDING (under way) and UNKNOWN mean
    that it may still succeed: nothing is paid again. `known` is False where the wallet answers and has never
    heard of such a payment, which is no proof yet: our request may still be on its way to it."""

    state: InvoiceState
    fee_msat: int = 0
    preimage: str | None = None
    known: bool = True

    def __repr__(self) -> str:  # a preimage proves payment: it belongs in no log
        return f"Payment({self.state.name}, fee_msat={self.fee_msat})"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this wallet can do beyond making and looking up invoices."""

    push: bool = False
    description_hash: bool = False
    pay: bool = False
    hold: bool = False


@dataclass(frozen=True, slots=True)
class WalletInfo:
    """For `dvm doctor`, the watchdog and the log: the wallet's alias and network and, if it tells, the msat
    that it can spend, and those that it can still receive (its inbound liquidity)."""

    alias: str
    network: str
    balance_msat: int | None
    capabilities: Capabilities
    receivable_msat: int | None = None


WalletErrorCode = Literal[
    "unreachable",  # no answer: the outcome is unknown
    "unauthorized",  # the key or connection is refused
    "restricted",  # the connection may not do this
    "rate_limited",
    "quota",  # a budget of the connection is used up
    "insufficient",  # the wallet's balance is too low
    "unsupported",  # the wallet lacks the method or the encryption
    "not_found",
    "failed",  # the wallet refused for a reason of its own
    "untrustworthy",  # its answer does not fit the question (another amount, another hash, a bad invoice)
]


class WalletError(Exception):
    """The wallet did not do it. The text says what is wrong and what to do, and holds no secret."""

    def __init__(self, code: WalletErrorCode, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code: WalletErrorCode = code


class Wallet(Protocol):
    """A Lightning wallet."""

    name: str

    async def start(self) -> None:
        """Connect. Raises WalletError when that can never work (bad URI); a wallet that is merely down
        is tried again in the background and each call raises `unreachable` meanwhile."""
        ...

    async def close(self) -> None:
        """Disconnect. Safe to call twice."""
        ...

    async def info(self) -> WalletInfo:
        """Who the wallet is and what it can do. Raises WalletError."""
        ...

    async def create_invoice(
        self,
        msat: int,
        *,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
    ) -> Invoice:
        """A new invoice over `msat` (whole sats: a multiple of 1000), valid for `expiry` seconds.

        Either `description`, or `description_hash` (hex), to which the invoice then commits (BOLT 11, `h`).
        With the hash belongs the text that it is the SHA-256 of, as `description`: some wallets hash it
        themselves and raise `unsupported` without it. What comes back was checked: signature, amount, hash,
        network. Raises WalletError.
        """
        ...

    async def lookup(self, payment_hash: str) -> Lookup:
        """The state of one invoice. A wallet that cannot be asked, or answers nonsense, is UNKNOWN."""
        ...

    async def lookup_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        """The states of many invoices, all made at or after `since` (unix seconds), in few calls.

        Each hash asked for has an entry; UNKNOWN where the wallet could not be asked.
        """
        ...

    def settlements(self) -> AsyncIterator[str]:
        """Payment hashes that the wallet reports as settled, for as long as it is open: hints only.

        They may be lies, duplicates, or concern payments that are not ours; `lookup` is the proof. A
        wallet without push yields what its own batched poll finds. A wallet whose stream can be resumed
        keeps its place in the data directory (`dvm.lightning.places`) and, after a restart, goes on there.
        """
        ...

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """Pay an invoice, with routing fees of at most `fee_limit_msat` where the wallet can limit them.

        A time-out is UNKNOWN, not FAILED. Raises WalletError before anything left: after that, nothing was
        and will be paid by this call. Calling it again with the same invoice never pays twice.
        """
        ...

    async def payment(self, payment_hash: str) -> Payment:
        """What became of an outgoing payment. Raises nothing: a wallet that cannot be asked is UNKNOWN.

        FAILED only if the wallet knows the payment and says that it has failed for good.
        """
        ...


@runtime_checkable
class HoldWallet(Wallet, Protocol):
    """A wallet with hold invoices: paid by HTLCs that wait until we reveal the preimage, or refuse them.

    A wallet whose class has these methods may still lack them (`Capabilities.hold` of `info` tells): then
    they raise WalletError `unsupported`. `settlements` reports an accepted hold invoice as well as a settled
    one; `lookup` tells which it is.
    """

    async def lookup_many(
        self, payment_hashes: Collection[str], since: int, holds: Collection[str] | None = None
    ) -> dict[str, Lookup]:
        """As `Wallet.lookup_many`. `holds`: which of them are hold invoices, None if any may be: some wallets
        need further calls to find those that are accepted."""
        ...

    async def create_hold_invoice(
        self,
        msat: int,
        *,
        payment_hash: str,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
    ) -> Invoice:
        """As `create_invoice`, over the hash of a preimage that we alone know. Raises WalletError."""
        ...

    async def settle_hold(self, preimage: str) -> None:
        """Take the money of an accepted hold invoice. Settling what is settled is no error.

        Raises WalletError; whether it is settled after all is told by `lookup`.
        """
        ...

    async def cancel_hold(self, payment_hash: str) -> None:
        """Send the money of a hold invoice back, or close it before any has come. Cancelling what is
        cancelled, or has expired, is no error; what is settled raises WalletError `failed`."""
        ...
