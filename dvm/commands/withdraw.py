"""`dvm withdraw`: your balance at a provider, or (as the operator) your own revenue."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from dvm.commands.ask_display import one_line
from dvm.commands.buyer import CONNECT_SECONDS, KeyFile, archive, provider_key, purse_of, run, urls_of
from dvm.commands.common import (
    CONFIG,
    DATA,
    RELAYS,
    AsJson,
    ConfigPath,
    DataPath,
    Failure,
    RelaysPath,
    print_json,
    sats,
)
from dvm.config import load_relays
from dvm.customer import AccountFailed, Customer, Withdrawn, receipt_dict
from dvm.nip90 import AccountAnswer
from dvm.nostr import Keys, npub


def main(
    to: Annotated[
        str | None,
        typer.Option("--to", help="An invoice, or name@domain; with --at by default the address in your profile."),
    ] = None,
    amount: Annotated[int | None, typer.Option("--sats", min=1, help="How much; an invoice says so itself.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="As a customer: the provider that holds your balance.")] = None,
    config: ConfigPath = CONFIG,
    relays: RelaysPath = RELAYS,
    data: DataPath = DATA,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Have your balance at a provider paid out over Lightning (--at), or, as the operator, your own revenue: never
    what belongs to customers.

    Exit code 0: paid. 1: refused, failed, or not known yet, and then the text says what to do. 2: wrong usage.
    """
    if at is None:
        if to is None:
            raise typer.BadParameter("where to? An invoice or name@domain expected", param_hint="--to")
        # The operator's half brings the shop's wallet and database with it.
        from dvm.commands.withdraw_operator import main_operator

        main_operator(to, amount, config, relays, data, as_json)
        return
    provider = provider_key(at, "--at")
    urls = urls_of(load_relays(relays))
    keys = purse_of(key_file, make=False).keys
    msat = None if amount is None else amount * 1000

    async def work() -> Withdrawn | None:
        return await _withdraw(keys, urls, relays, provider, to, msat)

    withdrawn = run(work)
    if as_json:
        print_json(_as_dict(withdrawn))
    else:
        _print(withdrawn)
    raise typer.Exit(1 if withdrawn.problems else 0)


async def _withdraw(
    keys: Keys, urls: list[str], relays: Path, provider: str, to: str | None, msat: int | None
) -> Withdrawn | None:
    """None if it was interrupted. Raises Failure, BadParameter."""

    def processing(_: AccountAnswer) -> None:
        typer.echo("set aside; being paid", err=True)

    async with Customer(keys, urls, archive=archive()) as customer:
        if not await customer.relays.wait_connected(timeout=CONNECT_SECONDS):
            raise Failure(f"no relay of {relays} can be reached; `dvm doctor` says more")
        try:
            return await customer.withdraw(provider, to=to, msat=msat, processing=processing)
        except AccountFailed as error:
            raise Failure(one_line(str(error))) from None
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--to" if to else "--sats") from None
        except asyncio.CancelledError:
            typer.echo("interrupted: it may still be paid within ten minutes; look at `dvm statement`", err=True)
            return None


def _print(withdrawn: Withdrawn) -> None:
    typer.echo(f"paid {sats(withdrawn.msat)}; the fee was {sats(withdrawn.fee_msat)}")
    if (receipted := withdrawn.receipt) is None:
        typer.echo(f"no receipt has come yet; `dvm statement --at {npub(withdrawn.provider)}` shows it then", err=True)
    else:
        state = "verified" if receipted.verified else "DOES NOT VERIFY"
        typer.echo(f"receipt {receipted.receipt.seq} {state}: your balance there is {sats(receipted.receipt.after)}")
    for problem in withdrawn.problems:
        typer.echo(f"wrong: {one_line(problem)}", err=True)


def _as_dict(withdrawn: Withdrawn) -> dict[str, Any]:
    receipted = withdrawn.receipt
    return {
        "provider": withdrawn.provider,
        "request": withdrawn.request,
        "msat": withdrawn.msat,
        "fee_msat": withdrawn.fee_msat,
        "payment_hash": withdrawn.payment_hash,
        "problems": list(withdrawn.problems),
        "receipt": None if receipted is None else receipt_dict(receipted.receipt),
    }
