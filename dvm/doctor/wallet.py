"""The wallet: who it is, what it can do, whether that is enough, and an invoice over one sat, made and looked up.

Nothing is paid.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from dvm.building import build_wallet, build_zaps
from dvm.config import Config
from dvm.doctor.findings import Finding, Steps
from dvm.doctor.wallet_advice import HOLD, INBOUND, LESS_THAN_OWED, PAYOUTS, PUSH, advise
from dvm.ledger import StoreError, queries
from dvm.ledger.sqlite import read
from dvm.lightning.base import HoldWallet, InvoiceState, Wallet, WalletError, WalletInfo
from dvm.problems import ConfigError
from dvm.secrets import Secrets

SECONDS = 12.0  # for one request to the wallet, at most
EXPIRY = 600  # seconds; nobody is shown the invoice
LITTLE = 10_000_000  # msat that can still be received; below it, some jobs have no invoice
_TEXT = "dvm doctor: not to be paid"


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
    try:
        async with _opened(config.model_copy(update={"wallet": patient}), secrets, data) as used:
            async for finding in _tried(used, config, data):
                yield finding
    except WalletError as error:
        yield Finding("wallet", kind, "failed", str(error), advise(kind, error))
    except ConfigError as error:  # a secret or an address that can be none
        advice = "Correct it: docs/configuration.md, How to go live with each wallet."
        yield Finding("wallet", kind, "failed", str(error).removeprefix("dvm.toml: ").removeprefix("wallet: "), advice)


@asynccontextmanager
async def _opened(config: Config, secrets: Secrets, data: Path) -> AsyncIterator[Wallet]:
    """With a connection of our own: what a wallet keeps of its place in a stream is the daemon's."""
    with TemporaryDirectory() as own:
        used = build_wallet(config, secrets, data if config.wallet.type == "paper" else Path(own))
        try:
            await used.start()
            yield used
        finally:
            await used.close()


async def _tried(used: Wallet, config: Config, data: Path) -> Steps:
    """Raises WalletError where the wallet cannot be talked to at all."""
    kind = config.wallet.type
    try:
        info = await used.info()
    except WalletError as error:
        if error.code not in ("unsupported", "restricted", "not_found", "failed"):
            raise
        # Some connections may make invoices and nothing else: that is enough.
        seen = f"it does not say who it is: {error}"
        yield Finding("wallet", kind, "warning", seen, "Look into the wallet which network it is on, and its balance.")
    else:
        yield _known(config, info)
        for finding in _enough(used, config, info):
            yield finding
        if (covered := await _covered(kind, data, info)) is not None:
            yield covered
    invoice = await _invoice(used, kind)
    yield invoice
    zaps = build_zaps(config)
    if invoice.state != "failed" and zaps is not None and zaps.own:
        yield await _zap_invoice(used, kind)


def _known(config: Config, info: WalletInfo) -> Finding:
    kind, wanted = config.wallet.type, config.wallet.network
    seen = "; ".join([_who(info), *_abilities(info)])
    if wanted is not None and info.network != wanted:
        advice = f"Connect a wallet of {wanted}, or correct wallet.network."
        return Finding("wallet", kind, "failed", f"wrong network: {wanted} is expected. {seen}", advice)
    if info.network != "mainnet" and wanted is None and kind != "paper":
        advice = (
            f"For real money connect a wallet of mainnet: {info.network} coins are worth nothing "
            "(wallet.network says that it is meant)."
        )
        return Finding("wallet", kind, "warning", f"wrong network? {seen}", advice)
    return Finding("wallet", kind, "ok", seen)


def _who(info: WalletInfo) -> str:
    known = [info.alias.strip(), info.network]
    if info.balance_msat is not None:
        known.append(f"balance {info.balance_msat // 1000:,} sat")
    if info.receivable_msat is not None:
        known.append(f"can receive {info.receivable_msat // 1000:,} sat")
    return ", ".join(part for part in known if part)


def _abilities(info: WalletInfo) -> Iterator[str]:
    able = info.capabilities
    yield "tells of payments at once" if able.push else "is asked about payments every few seconds"
    if able.pay:
        yield "can pay (refunds, withdrawals)"
    if able.hold:
        yield "can hold invoices (no answer, no charge)"
    if able.description_hash:
        yield "can be zapped"


def _enough(used: Wallet, config: Config, info: WalletInfo) -> Iterator[Finding]:
    """What the configuration promises, and the wallet does not keep."""
    kind, able = config.wallet.type, info.capabilities
    if config.wallet.hold and not (able.hold and isinstance(used, HoldWallet)):
        yield Finding("wallet hold", kind, "failed", "wallet.hold is true, and this wallet cannot hold invoices", HOLD)
    if config.payouts.enabled and not able.pay:
        advice = f"{PAYOUTS.get(kind, 'Take a wallet that can')}; or write enabled = false under [payouts]."
        yield Finding("wallet payouts", kind, "warning", "customers may withdraw, and this wallet cannot pay", advice)
    if not able.push and kind in PUSH:
        yield Finding("wallet push", kind, "warning", "it does not tell of payments by itself", PUSH[kind])
    if config.identity.lud16 and not able.description_hash:
        seen = "it makes no invoices for zaps: their description is a hash"
        yield Finding("wallet zaps", kind, "warning", seen, "Sell for invoices only, or take a wallet that can.")
    if info.receivable_msat is not None and info.receivable_msat < LITTLE and kind in INBOUND:
        # phoenixd buys what it needs.
        empty = info.receivable_msat < 1_000 and kind != "phoenixd"
        seen = f"it can receive {'nothing' if empty else f'no more than {info.receivable_msat // 1000:,} sat'}"
        yield Finding("wallet liquidity", kind, "failed" if empty else "warning", seen, INBOUND[kind])


async def _covered(kind: str, data: Path, info: WalletInfo) -> Finding | None:
    """Whether the wallet holds what customers are owed; None where one of both is not known."""
    if info.balance_msat is None:
        return None
    try:
        accounts = await asyncio.to_thread(read, data, queries.accounts)
    except StoreError:  # the check of the database tells that
        return None
    # As the watchdog counts: what is leaving may be gone from the wallet already.
    owed = accounts["customers"] + accounts["held"]
    held = f"it holds {info.balance_msat // 1000:,} sat, and customers are owed {-(-owed // 1000):,} sat"
    if info.balance_msat < owed:
        return Finding("wallet balance", kind, "warning", held, LESS_THAN_OWED)
    return Finding("wallet balance", kind, "ok", held)


async def _invoice(used: Wallet, kind: str) -> Finding:
    """One sat, never shown to anybody."""
    try:
        invoice = await used.create_invoice(1000, description=_TEXT, expiry=EXPIRY)
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


async def _zap_invoice(used: Wallet, kind: str) -> Finding:
    """As our own Lightning address needs it (NIP-57): the node behind a wallet may not know how."""
    digest = sha256(_TEXT.encode()).hexdigest()
    try:
        await used.create_invoice(1000, description=_TEXT, description_hash=digest, expiry=EXPIRY)
    except WalletError as error:
        seen = f"no invoice for a zap was made: {error}"
        advice = (
            "Take identity.lud16 out of dvm.toml, or take a wallet that can hash descriptions: nobody can zap here."
        )
        return Finding("wallet zaps", kind, "failed", seen, advice)
    return Finding("wallet zaps", kind, "ok", "an invoice for a zap was made")
