"""`dvm statement`: a customer's receipts, or your own at a provider."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from dvm.commands.balance import AtProvider
from dvm.commands.buyer import KeyFile, account_at, complaints, provider_key
from dvm.commands.common import DATA, RELAYS, AsJson, DataPath, Failure, RelaysPath, print_json, sats
from dvm.customer import receipt_dict
from dvm.ledger import Entry, StoreError, queries
from dvm.ledger.sqlite import read
from dvm.nip90 import Receipt
from dvm.nostr import npub


def main(
    customer: Annotated[str | None, typer.Argument(metavar="[NPUB]", help="Whose statement, of the ledger.")] = None,
    at: AtProvider = None,
    data: DataPath = DATA,
    relays: RelaysPath = RELAYS,
    key_file: KeyFile = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """A customer's receipts from the ledger in --data, newest first; or, with --at, your own at a provider:
    from the relays and from what was kept here, with the chain checked.

    Exit code 1 if the receipts contradict each other; receipts that are missing are told.
    """
    if (customer is None) == (at is None):
        raise typer.BadParameter("either a customer's NPUB or --at with a provider's expected", param_hint="NPUB")
    if at is not None:
        raise typer.Exit(_at(provider_key(at, "--at"), relays, key_file, limit, as_json=as_json))
    pubkey = provider_key(customer or "", "NPUB")
    try:
        entries = read(data, lambda db: queries.statement(db, pubkey, limit))
    except StoreError as error:
        raise Failure(str(error)) from None
    if as_json:
        receipts = [_entry(entry) for entry in entries]
        print_json({"npub": npub(pubkey), "pubkey": pubkey, "receipts": receipts})
        return
    for entry in entries:
        _line(entry.seq, entry.at, entry.paid, entry.cost, entry.after, entry.job)
    if not entries:
        typer.echo(f"no receipts for {npub(pubkey)}")


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "seq": entry.seq,
        "id": entry.receipt,
        "job": entry.job,
        "at": entry.at,
        "paid_msat": entry.paid,
        "cost_msat": entry.cost,
        "after_msat": entry.after,
    }


def _at(provider: str, relays: RelaysPath, key_file: KeyFile, limit: int, *, as_json: bool) -> int:
    account = account_at(provider, relays, key_file)
    newest: list[Receipt] = list(reversed(account.receipts))[:limit]
    if as_json:
        print_json(
            {
                "provider": provider,
                "customer": account.customer,
                "balance_msat": account.balance_msat,
                "verified": not account.problems,
                "complete": account.complete,
                "problems": list(account.problems),
                "missing": [list(gap) for gap in account.missing],
                "receipts": [receipt_dict(receipt) for receipt in newest],
            }
        )
        return 1 if account.problems else 0
    for receipt in newest:
        _line(receipt.seq, receipt.event.created_at, receipt.paid, receipt.cost or 0, receipt.after, receipt.job)
    if not newest:
        typer.echo(f"the relays have no receipt of {npub(provider)} for {npub(account.customer)}")
    for complaint in complaints(account):
        typer.echo(complaint, err=True)
    return 1 if account.problems else 0


def _line(seq: int, at: int, paid: int, cost: int, after: int, job: str | None) -> None:
    day = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(at, 253_402_300_799)))
    about = "no job" if job is None else f"job {job[:16]}"
    typer.echo(f"{seq:>6}  {day} UTC  paid {sats(paid):>14}  cost {sats(cost):>14}  balance {sats(after):>16}  {about}")
