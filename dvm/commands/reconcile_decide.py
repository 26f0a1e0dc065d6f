"""`dvm reconcile --decide`: the end of a payout that the wallet will never tell, as the operator has found it out.

A wallet may forget a payment, or be replaced. What was reserved for it would then stay so for ever. The operator looks
elsewhere (at the node, at the payee) and says what became of it; the customer is told as the daemon would. Where the
wallet has an answer, that counts, and nobody decides. The daemon may run meanwhile: whoever ends the row first has
ended it.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import typer

from dvm.announcing import IDENTIFIER
from dvm.building import build_pool, build_settings, build_wallet
from dvm.commands.common import Failure, sats
from dvm.commands.withdraw_operator import hold
from dvm.config import Config, Relays
from dvm.datadir import DataDir
from dvm.jobs import Shop
from dvm.jobs.balances.payout_answers import end_failed, end_paid
from dvm.jobs.balances.payout_steps import QUIET_SECONDS
from dvm.ledger import Payout, PayoutState, SqliteStore
from dvm.ledger.examine import exists
from dvm.lightning.base import InvoiceState, Wallet, WalletError
from dvm.nip90.wire import is_hex64
from dvm.secrets import Secrets

NOT_PAID = "failed: the provider has found that it was not paid: nothing was taken"
KEPT = ("id", "state", "payment_hash", "msat", "fee_msat", "reason")  # what --json prints

Decision = tuple[str, Literal["paid", "failed"]]


def parse(text: str) -> Decision:
    """PAYOUT=paid or PAYOUT=failed: the id of a payout, or its payment hash. Raises BadParameter."""
    which, _, outcome = text.partition("=")
    if is_hex64(which):
        if outcome == "paid":
            return which, "paid"
        if outcome == "failed":
            return which, "failed"
    raise typer.BadParameter(
        "PAYOUT=paid or PAYOUT=failed expected, PAYOUT the id or the payment hash that `dvm reconcile` shows",
        param_hint="--decide",
    )


async def decide(
    decision: Decision, fee_msat: int, config: Config, relays: Relays, secrets: Secrets, data: Path
) -> Payout:
    """The payout, ended. Raises Failure, LedgerError, ConfigError."""
    which, outcome = decision
    if not exists(data):
        raise Failure(f"there is no database in {data} yet")
    async with AsyncExitStack() as stack:
        # Held, if no daemon has it: none may start and pay meanwhile.
        alone = await hold(DataDir(data), stack.enter_context(ExitStack()))
        store = await SqliteStore.open(data)
        stack.push_async_callback(store.close)
        payout = await _find(store, which)
        if outcome == "failed" and (left := payout.expires_at + QUIET_SECONDS - int(time.time())) > 0:
            # Until then the daemon may ask once more for it to be paid, and the payee may let it be.
            raise Failure(f"its invoice can still be paid: ask again in {left} seconds")
        if config.wallet.type == "paper" and not alone:
            raise Failure("the daemon that is running here has the paper wallet, and only one process may: stop it")
        own = data if config.wallet.type == "paper" else Path(stack.enter_context(TemporaryDirectory()))
        wallet = build_wallet(config, secrets, own)
        stack.push_async_callback(wallet.close)
        await _no_answer(wallet, payout)
        # Nothing is published here: what is said stands in the outbox, for the daemon.
        pool = build_pool(relays, secrets.keys, config.limits)
        shop = Shop(secrets.keys, store, wallet, pool, {}, {}, settings=build_settings(config), announcement=IDENTIFIER)
        ended = end_paid(shop, payout, fee_msat) if outcome == "paid" else end_failed(shop, payout, NOT_PAID)
        if await ended is None:
            raise Failure("it has ended at this very moment: look at `dvm reconcile`")
        return await _find(store, payout.id, ended=True)


def show(payout: Payout) -> None:
    """For people."""
    if payout.state is PayoutState.PAID:
        typer.echo(f"paid: {sats(payout.msat)} and {sats(min(payout.fee_msat, payout.fee_limit_msat))} are charged")
    else:
        typer.echo(f"failed: {sats(payout.msat + payout.fee_limit_msat)} are returned")
    if payout.customer is not None:
        typer.echo("the customer is told by the daemon that runs, or by the next that does")


def as_dict(payout: Payout) -> dict[str, object]:
    """For programs."""
    return {name: value for name, value in asdict(payout).items() if name in KEPT}


async def _find(store: SqliteStore, which: str, *, ended: bool = False) -> Payout:
    """Raises Failure unless it is there, and reserved."""
    payout = await store.payout(which)
    if payout is None:
        reserved = await store.payouts((PayoutState.RESERVED,), -1)
        payout = next((each for each in reserved if each.payment_hash == which), None)
    if payout is None:
        raise Failure(f"no payout with the id or the payment hash {which} is reserved")
    if payout.state is not PayoutState.RESERVED and not ended:
        raise Failure(f"it has ended already: {payout.state.value}")
    return payout


async def _no_answer(wallet: Wallet, payout: Payout) -> None:
    """Raises Failure where the wallet knows, or may yet tell, what became of it."""
    try:
        await wallet.start()
        await wallet.info()
    except WalletError as error:
        if error.code in ("unreachable", "unauthorized", "rate_limited", "untrustworthy"):
            raise Failure(f"the wallet does not answer, and may know what became of it: {error}") from None
    state = (await wallet.payment(payout.payment_hash)).state
    if state is not InvoiceState.UNKNOWN:
        raise Failure(f"the wallet calls it {state.value}, and that counts: `dvm run` follows it")
