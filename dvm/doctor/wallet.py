"""The wallet: who it is, and an invoice over one sat, made and looked up. Nothing is paid."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from dvm.config import Config
from dvm.daemon import build_wallet
from dvm.doctor.findings import Finding, Steps, advice_for
from dvm.lightning.base import InvoiceState, Wallet, WalletError, WalletErrorCode, WalletInfo
from dvm.secrets import WALLET_SECRETS, Secrets

SECONDS = 12.0  # for one request to the wallet, at most
EXPIRY = 600  # seconds; nobody is shown the invoice

_LIQUIDITY = ("liquidity", "inbound", "incoming capacity", "capacity", "channel", "receive")
_NO_LIQUIDITY = (
    "The wallet can receive nothing: open a channel to it, or buy inbound liquidity, from within the wallet."
)


async def wallet(config: Config, secrets: Secrets, data: Path, *, daemon: bool) -> Steps:
    """`daemon`: one is running in the data directory."""
    kind = config.wallet.type
    if kind == "paper" and daemon:
        seen = "not tried: the daemon that is running here has it, and only one process may"
        yield Finding("wallet", kind, "ok", seen)
        return
    if kind == "paper" and not await asyncio.to_thread(data.is_dir):
        advice = "Run `dvm init`, or name the right directory with --data."
        yield Finding("wallet", kind, "failed", f"it lives in {data}, and that does not exist", advice)
        return
    patient = config.wallet.model_copy(update={"timeout_seconds": min(SECONDS, config.wallet.timeout_seconds)})
    used = build_wallet(config.model_copy(update={"wallet": patient}), secrets, data)
    try:
        await used.start()
        async for finding in _tried(used, kind):
            yield finding
    except WalletError as error:
        yield Finding("wallet", kind, "failed", str(error), advise(kind, error))
    finally:
        await used.close()


async def _tried(used: Wallet, kind: str) -> Steps:
    """Raises WalletError where the wallet cannot be talked to at all."""
    try:
        info = await used.info()
    except WalletError as error:
        if error.code not in ("unsupported", "restricted", "not_found", "failed"):
            raise
        # Some connections may make invoices and nothing else: that is enough.
        seen = f"it does not say who it is: {error}"
        yield Finding("wallet", kind, "warning", seen, "Look into the wallet which network it is on, and its balance.")
    else:
        for finding in _known(kind, info):
            yield finding
    yield await _invoice(used, kind)


def _known(kind: str, info: WalletInfo) -> Iterable[Finding]:
    able = info.capabilities
    abilities = [
        "tells of payments at once" if able.push else "is asked about payments every few seconds",
        *(["can pay (refunds, withdrawals)"] if able.pay else []),
    ]
    balance = "" if info.balance_msat is None else f", balance {info.balance_msat // 1000:,} sat"
    name = f"{info.alias}, " if info.alias else ""
    seen = f"{name}{info.network}{balance}; {'; '.join(abilities)}"
    if info.network != "mainnet" and kind != "paper":
        advice = f"For real money connect a wallet of mainnet: {info.network} coins are worth nothing."
        yield Finding("wallet", kind, "warning", f"wrong network? {seen}", advice)
    else:
        yield Finding("wallet", kind, "ok", seen)


async def _invoice(used: Wallet, kind: str) -> Finding:
    """One sat, never shown to anybody."""
    try:
        invoice = await used.create_invoice(1000, description="dvm doctor: not to be paid", expiry=EXPIRY)
    except WalletError as error:
        return Finding("wallet invoice", kind, "failed", f"none was made: {error}", advise(kind, error))
    state = (await used.lookup(invoice.payment_hash)).state
    if state is InvoiceState.PENDING:
        return Finding("wallet invoice", kind, "ok", "an invoice over 1 sat was made, and found unpaid")
    if state is InvoiceState.UNKNOWN:
        seen = "an invoice over 1 sat was made, but cannot be looked up"
        what = "Give the connection the permission to look up invoices: without it no payment is ever noticed."
        return Finding("wallet invoice", kind, "failed", seen, what)
    seen = f"an invoice over 1 sat was made, and the wallet calls it {state.value} at once"
    return Finding("wallet invoice", kind, "failed", seen, "Do not sell with this wallet: its answers cannot be true.")


def advise(kind: str, error: WalletError) -> str:
    """What to do about an error of the wallet: the usual mistake behind it."""
    text = str(error)
    if error.code in ("failed", "insufficient"):
        return advice_for(
            text,
            (
                (_LIQUIDITY, _NO_LIQUIDITY),
                (("another process",), "End the process that has it, or wait until it is done."),
                (("no space", "disk is full"), "Make room on the disk."),
            ),
            "Look into the wallet itself; without a channel, or without inbound liquidity, it can receive nothing.",
        )
    if error.code == "untrustworthy":
        return advice_for(
            text,
            (
                ((" is expected",), "The wallet is on the wrong network: connect one of the expected network."),
                (("clock",), "Set the clocks of this machine and of the wallet's (NTP)."),
            ),
            "Do not sell with this wallet until its operator has explained that.",
        )
    return _BY_CODE[error.code].format(variable=WALLET_SECRETS.get(kind, "the wallet's secret"))


_BY_CODE: dict[WalletErrorCode, str] = {
    "unreachable": "Make sure that the wallet is running and online, and that this machine reaches its address (of "
    "an NWC connection: its relay); if its relay is gone, make a new connection and set {variable}.",
    "unauthorized": "Make a new connection in the wallet and set {variable}: this one is wrong, expired or removed.",
    "restricted": "Make a connection that may make and look up invoices, and set {variable}: this one is read-only.",
    "rate_limited": "Wait a minute and run `dvm doctor` again; if it stays so, raise the wallet's limit.",
    "quota": "Raise the budget of the connection, in the wallet.",
    "unsupported": "Update the wallet, or connect another one: this one lacks what is needed (make_invoice, "
    "lookup_invoice, and NIP-44 or NIP-04 encryption).",
    "not_found": "Make a new connection in the wallet and set {variable}: it does not know its own invoices.",
}
