"""`dvm balance`: what customers own here, or what you own at a provider."""

from __future__ import annotations

import sqlite3
from typing import Annotated, Any

import typer

from dvm.commands.buyer import KeyFile, account_at, asked_account, complaints, provider_key
from dvm.commands.common import DATA, RELAYS, AsJson, DataPath, Failure, RelaysPath, count, print_json, sats
from dvm.customer import Account, compare
from dvm.ledger import Balance, StoreError, queries
from dvm.ledger.sqlite import read
from dvm.nip90 import AccountAnswer
from dvm.nostr import npub

AtProvider = Annotated[
    str | None, typer.Option("--at", help="As a customer: what this provider's receipts say that you own there.")
]


def main(
    customer: Annotated[str | None, typer.Argument(metavar="[NPUB]", help="One customer; all without.")] = None,
    at: AtProvider = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="With --at: ask the provider itself, and hold its word against its receipts.")
    ] = False,
    data: DataPath = DATA,
    relays: RelaysPath = RELAYS,
    key_file: KeyFile = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many customers.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """What customers own here (from the ledger in --data, beside a running daemon); or, with --at, what you own
    at a provider: from its receipts on the relays, whose chain is checked.

    Exit code 1 if the receipts contradict each other, or (--ask) the provider; receipts that are missing are told.
    """
    if at is not None:
        if customer is not None:
            raise typer.BadParameter("--at shows your own balance: leave NPUB out", param_hint="NPUB")
        raise typer.Exit(_at(provider_key(at, "--at"), relays, key_file, ask=ask, as_json=as_json))
    if ask:
        raise typer.BadParameter("--ask needs --at with the provider to ask", param_hint="--ask")
    one = None if customer is None else provider_key(customer, "NPUB")

    def query(db: sqlite3.Connection) -> tuple[list[tuple[str, Balance]], dict[str, int]]:
        found = queries.balances(db, limit) if one is None else [(one, queries.balance(db, one))]
        return found, queries.accounts(db)

    try:
        found, accounts = read(data, query)
    except StoreError as error:
        raise Failure(str(error)) from None
    if as_json:
        customers = [_customer(pubkey, balance) for pubkey, balance in found]
        print_json(customers[0] if one is not None else {"customers": customers, "accounts_msat": accounts})
        return
    for pubkey, balance in found:
        held = f", {sats(balance.held)} held for running jobs" if balance.held else ""
        leaving = f", {sats(balance.leaving)} leaving" if balance.leaving else ""
        typer.echo(f"{npub(pubkey)}  {sats(balance.available)}{held}{leaving}")
    if one is None:
        totals = ", ".join(f"{name} {sats(msat)}" for name, msat in accounts.items())
        typer.echo(f"{count(len(found), 'customer')} with a balance. All accounts, of which the sum is zero: {totals}")


def _customer(pubkey: str, balance: Balance) -> dict[str, Any]:
    return {
        "npub": npub(pubkey),
        "pubkey": pubkey,
        "available_msat": balance.available,
        "held_msat": balance.held,
        "leaving_msat": balance.leaving,
    }


def _at(provider: str, relays: RelaysPath, key_file: KeyFile, *, ask: bool, as_json: bool) -> int:
    answer: AccountAnswer | None = None
    if ask:
        account, answer = asked_account(provider, relays, key_file)
    else:
        account = account_at(provider, relays, key_file)
    contradictions = [] if answer is None else compare(account, answer)
    newest = account.receipts[-1] if account.receipts else None
    if as_json:
        print_json(_account(account) | ({} if answer is None else {"stated": _stated(answer, contradictions)}))
        return 1 if account.problems or contradictions else 0
    if answer is not None:
        _print_stated(answer)
    if newest is None:
        typer.echo(f"{sats(0)}: the relays have no receipt of {npub(provider)} for {npub(account.customer)}")
    else:
        state = "DO NOT VERIFY" if account.problems else "verified"
        receipts = count(len(account.receipts), "receipt")
        typer.echo(f"{sats(account.balance_msat)} after receipt {newest.seq}; {receipts} {state}")
        for complaint in complaints(account):
            typer.echo(complaint, err=True)
    if answer is not None and answer.entries and answer.entries[0].seq > (newest.seq if newest else 0):
        typer.echo(f"missing: receipts up to {answer.entries[0].seq}, which it says it has given", err=True)
    for contradiction in contradictions:
        typer.echo(f"wrong: {contradiction}", err=True)
    return 1 if account.problems or contradictions else 0


def _account(account: Account) -> dict[str, Any]:
    newest = account.receipts[-1] if account.receipts else None
    return {
        "provider": account.provider,
        "customer": account.customer,
        "balance_msat": account.balance_msat,
        "receipts": len(account.receipts),
        "newest": None if newest is None else {"seq": newest.seq, "id": newest.id, "at": newest.event.created_at},
        "verified": not account.problems,
        "complete": account.complete,
        "problems": list(account.problems),
        "missing": [list(gap) for gap in account.missing],
    }


def _stated(answer: AccountAnswer, contradictions: list[str]) -> dict[str, Any]:
    balance = answer.balance
    return {
        "available_msat": None if balance is None else balance.available,
        "held_msat": None if balance is None else balance.held,
        "leaving_msat": None if balance is None else balance.leaving,
        "newest": answer.entries[0].seq if answer.entries else None,
        "problems": contradictions,
    }


def _print_stated(answer: AccountAnswer) -> None:
    if (balance := answer.balance) is None:
        typer.echo("the provider answers, and states no balance", err=True)
        return
    held = f", {sats(balance.held)} held for running jobs" if balance.held else ""
    leaving = f", {sats(balance.leaving)} leaving by withdrawals" if balance.leaving else ""
    typer.echo(f"the provider says: {sats(balance.available)} available{held}{leaving}")
