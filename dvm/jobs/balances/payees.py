"""Where a withdrawal goes, and whether it may go there: invoices, Lightning addresses, fee limits."""

from __future__ import annotations

from typing import Literal

import orjson

from dvm.lightning.bolt11 import Bolt11, InvalidInvoice, decode
from dvm.nip90 import PROFILE, is_lightning_address
from dvm.nostr.filters import Filter
from dvm.nostr.pool import RelayPool
from dvm.pricing import sats

LEAST_SECONDS = 30
"""How long an invoice must still be payable: below that, it expires on the way."""
MILLION = 1_000_000
_MAX_PROFILE_CHARS = 65_536


PayoutCode = Literal[
    "invalid-amount",
    "invalid-invoice",
    "invoice-used",
    "no-address",
    "address-failed",
    "insufficient",
    "too-small",
    "daily-limit",
    "too-many-withdrawals",
    "unavailable",
    "expired",
    "failed",
    "owed",  # said to the operator alone, about the operator's own payouts
]


class PayoutRefused(Exception):
    """Nothing is paid out; `code` is for programs (docs/events.md), `text` for people. `str()` is both."""

    def __init__(self, code: PayoutCode, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code: PayoutCode = code
        self.text = text


def insufficient(available_msat: int, msat: int, fee_limit_msat: int) -> PayoutRefused:
    """The balance does not cover the amount and its fee."""
    return PayoutRefused(
        "insufficient",
        f"your balance is {sats(available_msat)}, and {sats(msat)} with a fee of at most {sats(fee_limit_msat)} "
        "were to be paid",
    )


def fee_limit(msat: int, *, fee_msat: int, fee_ppm: int) -> int:
    """What routing may cost, in msat: the larger one of `fee_msat` and `fee_ppm` millionths, rounded down."""
    return max(fee_msat, msat * fee_ppm // MILLION)


def payable(bolt11: str, *, now: int, amount_msat: int | None = None, network: str | None = None) -> Bolt11:
    """The invoice, if it can be paid: over `amount_msat` (None: over any amount) and for `network` (None: for
    any). Raises PayoutRefused `invalid-invoice`."""
    try:
        said = decode(bolt11)
    except InvalidInvoice as error:
        raise _invalid(str(error)) from None
    if said.msat is None:  # whoever is paid would say how much it was
        raise _invalid("it leaves the amount open")
    if amount_msat is not None and said.msat != amount_msat:
        raise _invalid(f"it is over {sats(said.msat)}, and {sats(amount_msat)} were asked for")
    if network is not None and said.network != network:
        raise _invalid(f"it is for {said.network}, and this provider's wallet is on {network}")
    if said.unknown_required:
        raise _invalid(f"it demands features that are not known here: {', '.join(map(str, said.unknown_required))}")
    if said.payment_secret is None:
        raise _invalid("it has no payment secret")
    if said.expires_at < now + LEAST_SECONDS:
        raise _invalid("it has expired, or will do so at any moment")
    return said


async def address_of(pubkey: str, relays: RelayPool) -> str:
    """The Lightning address in somebody's newest profile (kind 0) on our relays. Raises PayoutRefused."""
    profiles = await relays.query(Filter(kinds=[PROFILE], authors=[pubkey], limit=1))
    content = profiles[0].content if profiles else ""
    try:
        profile = orjson.loads(content) if len(content) <= _MAX_PROFILE_CHARS else None
    except orjson.JSONDecodeError:
        profile = None
    address = profile.get("lud16") if isinstance(profile, dict) else None
    if not isinstance(address, str) or not is_lightning_address(address.strip()):
        raise PayoutRefused(
            "no-address", "no invoice and no address were given, and your profile has none that we can find"
        )
    return address.strip()


def _invalid(text: str) -> PayoutRefused:
    return PayoutRefused("invalid-invoice", text)
