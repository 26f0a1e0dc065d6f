"""`dvm withdraw --to`: the operator's own revenue, paid out of the shop's wallet. Called by `dvm withdraw`.

One process moves the money of a data directory. Where a daemon runs, the payment is reserved in the database, and
the daemon takes it up from there within seconds; where none runs, this command holds the directory and pays.
Customers' money is never touched: the books let no more leave than the revenue, and the wallet, if it tells its
balance, must hold afterwards what customers are owed.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from dvm.building import build_pool, build_settings, build_wallet, offered
from dvm.commands.common import Failure, print_json, sats
from dvm.config import Config, Relays, load_config, load_relays
from dvm.datadir import DataDir
from dvm.jobs import Shop
from dvm.jobs.balances.payees import PayoutRefused, fee_limit, payable
from dvm.jobs.balances.payouts import Payouts
from dvm.jobs.outbox import Outbox
from dvm.ledger import LedgerError, Payout, PayoutState, SqliteStore, TooLittle
from dvm.ledger.examine import examine, exists
from dvm.lightning.base import WalletError
from dvm.lightning.lnurl import LnurlClient, LnurlError
from dvm.lightning.paper_node import NETWORK
from dvm.nip90 import is_lightning_address
from dvm.nostr.randomness import random_bytes
from dvm.pricing.prices import MSAT
from dvm.problems import ConfigError
from dvm.secrets import Secrets, load_secrets

WAIT_SECONDS = 120.0
POLL_SECONDS = 0.25
LOOK_SECONDS = 1.0  # for the state of the database, not for damage in it
TRIES = 3  # to hold the directory: others look for a moment whether somebody does


def main_operator(to: str, sats_: int | None, config: Path, relays: Path, data: Path, as_json: bool) -> None:
    """Pay `sats_` (None: what the invoice says) of the revenue to an invoice or a Lightning address `to`.

    Ends in typer.Exit: 0 if it was paid. Raises Failure, ConfigError.
    """
    settings, where = load_config(config, offered()), load_relays(relays)
    secrets = load_secrets(settings, os.environ, file=str(config))
    if not exists(data):
        raise Failure(f"there is no database in {data} yet: nothing has been earned")
    try:
        payout = asyncio.run(_pay(to, sats_, settings, where, secrets, data))
    except PayoutRefused as refused:
        raise Failure(str(refused)) from None
    except (WalletError, LedgerError) as error:
        raise Failure(str(error)) from None
    if as_json:
        keep = ("id", "state", "payment_hash", "msat", "fee_msat", "reason")
        print_json({name: value for name, value in asdict(payout).items() if name in keep})
    else:
        _print(payout)
    raise typer.Exit(0 if payout.state is PayoutState.PAID else 1)


def _print(payout: Payout) -> None:
    match payout.state:
        case PayoutState.PAID:
            typer.echo(f"paid {sats(payout.msat)}, and {sats(payout.fee_msat)} for routing: {payout.payment_hash}")
        case PayoutState.RESERVED:
            typer.echo(
                f"not known yet: {sats(payout.msat)} stay reserved until the wallet says what became of payment "
                f"{payout.payment_hash}; `dvm run` goes on asking, `dvm reconcile` shows it",
                err=True,
            )
        case _:
            typer.echo(f"not paid: {payout.reason}", err=True)


async def _pay(to: str, amount: int | None, config: Config, relays: Relays, secrets: Secrets, data: Path) -> Payout:
    directory = DataDir(data)
    with ExitStack() as held:
        alone = await hold(directory, held)
        payout = await _payout(to, amount, config, secrets)
        store = await SqliteStore.open(data)
        try:
            if alone:
                await _by_ourselves(payout, store, config, relays, secrets, data)
            else:
                await _reserve(store, payout)
                await _watch(store, payout, directory)
            return await store.payout(payout.id) or payout
        finally:
            await store.close()


async def hold(directory: DataDir, held: ExitStack) -> bool:
    """Whether we have the directory now; False where a daemon has it, and we may write beside it. Raises Failure."""
    alone = await _hold(directory, held)
    if not alone and (pending := (await asyncio.to_thread(examine, directory.path, LOOK_SECONDS)).pending):
        raise Failure(
            f"the daemon that runs in {directory.path} is older than this command: restart it ({len(pending)} new)"
        )
    return alone


async def _hold(directory: DataDir, held: ExitStack) -> bool:
    for last in range(TRIES):
        try:
            held.enter_context(directory.only_one())
        except ConfigError:
            if await asyncio.to_thread(directory.running) or last == TRIES - 1:
                return False
            await asyncio.sleep(POLL_SECONDS)
        else:
            return True
    return False


async def _payout(to: str, amount: int | None, config: Config, secrets: Secrets) -> Payout:
    """What is to be paid. Raises PayoutRefused, Failure, WalletError."""
    settings, now = build_settings(config), int(time.time())
    if is_lightning_address(to):
        if amount is None:
            raise typer.BadParameter("a Lightning address is paid as much as you say", param_hint="--sats")
        network = await _network(config, secrets)
        lnurl = LnurlClient(allow_private=config.limits.allow_private_addresses)
        try:
            bolt11 = await lnurl.invoice(await lnurl.fetch(to), amount * MSAT, network=network)
        except LnurlError as error:
            raise Failure(f"{to}: {error}") from None
        finally:
            await lnurl.close()
    else:
        bolt11 = to.strip().lower().removeprefix("lightning:")
        if not bolt11.startswith("ln"):
            raise typer.BadParameter(
                "an invoice (lnbc…) or a Lightning address (name@domain) expected", param_hint="--to"
            )
    said = payable(bolt11, now=now, amount_msat=None if amount is None else amount * MSAT)
    msat = said.msat or 0
    fee = fee_limit(msat, fee_msat=settings.fee_msat, fee_ppm=settings.fee_ppm)
    return Payout(
        id=random_bytes(32).hex(),
        customer=None,
        bolt11=bolt11,
        payment_hash=said.payment_hash,
        msat=msat,
        fee_limit_msat=fee,
        state=PayoutState.RESERVED,
        created_at=now,
        expires_at=said.expires_at,
    )


async def _network(config: Config, secrets: Secrets) -> str:
    """What an invoice must be for: as configured, or as the wallet says. Raises WalletError."""
    if config.wallet.network is not None:
        return config.wallet.network
    if config.wallet.type == "paper":
        return NETWORK
    with TemporaryDirectory() as own:  # what a wallet keeps of its place in a stream is the daemon's
        wallet = build_wallet(config, secrets, Path(own))
        try:
            await wallet.start()
            return (await wallet.info()).network
        finally:
            await wallet.close()


async def _reserve(store: SqliteStore, payout: Payout) -> None:
    """Raises Failure, StoreError."""
    try:
        if not await store.reserve(payout, day_limit=0):
            raise Failure("this invoice is known here already: make a new one")
    except TooLittle as error:
        revenue = (await store.accounts())["revenue"]
        most = payout.msat + payout.fee_limit_msat
        raise Failure(
            f"the revenue is {sats(revenue)}, and up to {sats(most)} were to be paid, the fee included"
        ) from error


async def _watch(store: SqliteStore, payout: Payout, directory: DataDir) -> None:
    """Until the daemon has ended it, or has ended itself."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        await asyncio.sleep(POLL_SECONDS)
        now = await store.payout(payout.id)
        if now is None or now.state is not PayoutState.RESERVED or not await asyncio.to_thread(directory.running):
            return


async def _by_ourselves(
    payout: Payout, store: SqliteStore, config: Config, relays: Relays, secrets: Secrets, data: Path
) -> None:
    async with AsyncExitStack() as stack:
        wallet = build_wallet(config, secrets, data)
        stack.push_async_callback(wallet.close)
        await wallet.start()
        # Nothing is published: the operator reads the outcome here.
        pool = build_pool(relays, secrets.keys, config.limits)
        settings = replace(build_settings(config), publish_seconds=0.0)  # it has been waited for long enough
        shop = Shop(secrets.keys, store, wallet, pool, {}, {}, settings=settings)
        payouts = Payouts(shop, Outbox(shop))
        stack.push_async_callback(payouts.close)
        await _reserve(store, payout)
        await payouts.finish(payout, WAIT_SECONDS)
