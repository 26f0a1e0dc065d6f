"""`dvm reconcile`: holds ledger, wallet and relays against each other, and says what differs. It changes nothing
but what the operator decides by hand (`dvm.commands.reconcile_decide`)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from dvm.building import build_pool, build_wallet, offered
from dvm.commands import reconcile_checks as checks
from dvm.commands import reconcile_decide as decisions
from dvm.commands.common import (
    CONFIG,
    DATA,
    RELAYS,
    AsJson,
    ConfigPath,
    DataPath,
    Failure,
    RelaysPath,
    count,
    print_json,
)
from dvm.commands.reconcile_checks import Check
from dvm.config import Config, Relays, load_config, load_relays
from dvm.datadir import DataDir
from dvm.ledger import LedgerError, StoreError
from dvm.lightning.base import Wallet, WalletError
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.secrets import Secrets, load_secrets

DAY = 86_400
CONNECT_SECONDS = 10.0


def main(
    config: ConfigPath = CONFIG,
    relays: RelaysPath = RELAYS,
    data: DataPath = DATA,
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, help="How far back payments and receipts are looked up.")
    ] = 14,
    decide: Annotated[
        str | None,
        typer.Option("--decide", help="PAYOUT=paid or PAYOUT=failed: end a payout of which the wallet knows nothing."),
    ] = None,
    fee_msat: Annotated[int, typer.Option("--fee-msat", min=0, max=MAX_MSAT, help="With --decide …=paid.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Hold the ledger, the wallet and the relays against each other, beside a running daemon; nothing is changed
    but what --decide says.

    Exit code 1 if anything differs, or cannot be decided.
    """
    decision = None if decide is None else decisions.parse(decide)
    settings, where = load_config(config, offered()), load_relays(relays)
    secrets = load_secrets(settings, os.environ, file=str(config))
    if decision is not None:
        try:
            ended = asyncio.run(decisions.decide(decision, fee_msat, settings, where, secrets, data))
        except LedgerError as error:
            raise Failure(str(error)) from None
        if as_json:
            print_json(decisions.as_dict(ended))
        else:
            decisions.show(ended)
        return
    logging.disable(logging.CRITICAL)  # what relays and libraries log would stand between the lines
    try:
        found = asyncio.run(_all(settings, where, secrets, data, days))
    except StoreError as error:
        raise Failure(str(error)) from None
    finally:
        logging.disable(logging.NOTSET)
    differs = any(check.state == "differs" for check in found)
    if as_json:
        print_json({"ok": not differs, "checks": [asdict(check) for check in found]})
    else:
        _print(found)
    raise typer.Exit(1 if differs else 0)


async def _all(config: Config, relays: Relays, secrets: Secrets, data: Path, days: int) -> list[Check]:
    """Raises StoreError, ConfigError."""
    now = int(time.time())
    found = [await asyncio.to_thread(checks.books, data)]
    found += [check async for check in _wallet(config, secrets, data, now - days * DAY, now)]
    found.append(checks.outbox(data, now))
    pool = build_pool(relays, secrets.keys, config.limits)
    async with pool:
        if await pool.wait_connected(1, CONNECT_SECONDS):
            found.append(await checks.published(data, pool, now - days * DAY))
        else:
            found.append(Check("receipts", "not tried", "no relay can be reached; `dvm doctor` says more"))
    return found


async def _wallet(config: Config, secrets: Secrets, data: Path, since: int, now: int) -> AsyncIterator[Check]:
    """With a connection of our own, beside the daemon's."""
    names = ("balance", "payments in", "payments out")
    if config.wallet.type == "paper" and DataDir(data).running():
        for name in names:
            seen = "the daemon that is running here has the paper wallet, and only one process may"
            yield Check(name, "not tried", seen)
        return
    with TemporaryDirectory() as own:  # what a wallet keeps of its place in a stream is the daemon's
        wallet = build_wallet(config, secrets, data if config.wallet.type == "paper" else Path(own))
        try:
            await _reach(wallet)
        except WalletError as error:
            for name in names:
                yield Check(name, "not tried", f"the wallet does not answer: {error}")
        else:
            yield await checks.balance(data, wallet)
            yield await checks.arrived(data, wallet, since, now)
            yield await checks.left(data, wallet, since)
        finally:
            await wallet.close()


async def _reach(wallet: Wallet) -> None:
    """Raises WalletError where it cannot be talked to at all."""
    await wallet.start()
    try:
        await wallet.info()
    except WalletError as error:
        if error.code in ("unreachable", "unauthorized", "rate_limited", "untrustworthy"):
            raise  # any other answer is one: it tells nothing of itself, and may tell of payments


def _print(found: list[Check]) -> None:
    colours = {"ok": typer.colors.GREEN, "differs": typer.colors.RED, "not tried": typer.colors.YELLOW}
    width = max(len(check.name) for check in found)
    for check in found:
        state = typer.style(f"{check.state:<9}", fg=colours[check.state], bold=check.state != "ok")
        typer.echo(f"{state} {check.name:<{width}}  {check.seen}")
        for difference in check.differences:
            typer.echo(f"{'':9} {'':{width}}  {difference}")
    differences = sum(len(check.differences) for check in found)
    untried = sum(check.state == "not tried" for check in found)
    told = count(differences, "difference") if differences else "nothing differs"
    missing = f"; {count(untried, 'check')} could not be made" if untried else ""
    typer.echo(f"\n{told}{missing}")
