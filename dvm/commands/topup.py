"""`dvm topup`: put money on your balance at a provider, by zapping its profile."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer

from dvm.commands.ask_display import invoice_text, one_line
from dvm.commands.buyer import (
    CONNECT_SECONDS,
    AllowPrivate,
    KeyFile,
    NwcFile,
    archive,
    provider_key,
    purse_of,
    run,
    urls_of,
    wallet_of,
)
from dvm.commands.common import RELAYS, AsJson, Failure, RelaysPath, print_json, sats
from dvm.config import load_relays
from dvm.customer import AccountFailed, Customer, Quoted, ToppedUp, receipt_dict
from dvm.lightning.lnurl import LnurlClient
from dvm.lightning.nwc import NwcWallet
from dvm.nostr import Keys, npub


def main(
    provider: Annotated[str, typer.Argument(metavar="NPUB", help="The provider.")],
    amount: Annotated[int, typer.Argument(metavar="SATS", min=1, help="How much.")],
    comment: Annotated[
        str | None, typer.Option("--comment", help="A text that goes with the zap, for all to read.")
    ] = None,
    relays: RelaysPath = RELAYS,
    nwc_file: NwcFile = None,
    key_file: KeyFile = None,
    allow_private: AllowPrivate = False,
    as_json: AsJson = False,
) -> None:
    """Zap a provider's profile: what it receives stands on your balance there, and its receipt says so.

    Without a wallet connection the invoice is shown, as text and as a QR code, for any wallet to pay.

    Exit code 0: the provider's receipt is here and verifies. 1: not paid, or paid and no such receipt has come. 2:
    wrong usage.
    """
    pubkey = provider_key(provider, "NPUB")
    urls = urls_of(load_relays(relays))
    wallet = wallet_of(nwc_file)
    keys = purse_of(key_file, make=True).keys

    async def work() -> ToppedUp | None:
        return await _top_up(keys, urls, wallet, pubkey, amount * 1000, comment or "", allow_private=allow_private)

    topped_up = run(work)
    if as_json:
        print_json(_as_dict(topped_up))
    else:
        _print(topped_up)
    receipted = topped_up.receipt
    raise typer.Exit(0 if receipted is not None and receipted.verified else 1)


async def _top_up(
    keys: Keys, urls: list[str], wallet: NwcWallet | None, provider: str, msat: int, text: str, *, allow_private: bool
) -> ToppedUp | None:
    """None if it was interrupted. Raises Failure."""

    def show(quote: Quoted) -> None:
        typer.echo(f"pay {sats(quote.msat)}:\n{invoice_text(quote.bolt11)}", err=True)

    try:
        async with AsyncExitStack() as stack:
            lnurl = LnurlClient(allow_private=allow_private)
            stack.push_async_callback(lnurl.close)
            if wallet is not None:
                stack.push_async_callback(wallet.close)
                await wallet.start()
            customer = await stack.enter_async_context(
                Customer(keys, urls, payer=wallet, archive=archive(), lnurl=lnurl)
            )
            if not await customer.relays.wait_connected(timeout=CONNECT_SECONDS):
                raise Failure("no relay can be reached; `dvm doctor` says more")
            return await customer.top_up(provider, msat, text=text, show=show)
    except AccountFailed as error:
        raise Failure(one_line(str(error))) from None
    except asyncio.CancelledError:
        typer.echo("interrupted: what the wallet has paid will stand on your balance all the same", err=True)
        return None


def _print(topped_up: ToppedUp) -> None:
    if (receipted := topped_up.receipt) is not None:
        state = "verified" if receipted.verified else "DOES NOT VERIFY"
        balance = sats(receipted.receipt.after)
        typer.echo(f"paid {sats(topped_up.msat)}; receipt {receipted.receipt.seq} {state}: your balance is {balance}")
        for problem in receipted.problems:
            typer.echo(f"wrong: {one_line(problem)}", err=True)
        return
    did = "paid" if topped_up.sure else "the wallet does not know whether it has paid"
    typer.echo(
        f"{did} {sats(topped_up.msat)} ({topped_up.payment_hash}); no receipt has come yet: "
        f"`dvm balance --at {npub(topped_up.provider)}` shows it then. Do not pay again before",
        err=True,
    )


def _as_dict(topped_up: ToppedUp) -> dict[str, Any]:
    receipted = topped_up.receipt
    return {
        "provider": topped_up.provider,
        "msat": topped_up.msat,
        "payment_hash": topped_up.payment_hash,
        "sure": topped_up.sure,
        "problems": [] if receipted is None else list(receipted.problems),
        "receipt": None if receipted is None else receipt_dict(receipted.receipt),
    }
