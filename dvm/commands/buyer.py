"""What the buyer's commands share: the customer's key, wallet, relays and kept receipts."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dvm.commands.ask_display import one_line
from dvm.commands.common import Failure
from dvm.config import Relays, load_relays
from dvm.customer import (
    Account,
    AccountFailed,
    Archive,
    ArchiveError,
    Customer,
    PurseError,
    compare,
    data_directory,
    open_purse,
)
from dvm.customer.purse import NSEC, Purse
from dvm.lightning.base import WalletError
from dvm.lightning.nwc import NwcWallet
from dvm.nip90 import AccountAnswer
from dvm.nostr import InvalidKey, parse_pubkey
from dvm.problems import ConfigError
from dvm.secrets import from_environment, from_file

NWC = "DVM_CUSTOMER_NWC"
CONNECT_SECONDS = 10.0
INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM."""

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        help=f"The customer's key; by default {NSEC} in the environment, or a file that is made on first use.",
    ),
]
NwcFile = Annotated[
    Path | None,
    typer.Option("--nwc-file", help=f"A file with a wallet connection that may pay; or {NWC} in the environment."),
]
Paper = Annotated[
    Path | None,
    typer.Option(
        "--paper", help="Pay with paper, at the paper shop on this machine that has this --data: to try things out."
    ),
]
AllowPrivate = Annotated[
    bool,
    typer.Option(
        "--allow-private", help="Also pay Lightning addresses of this machine and its network: to try things out."
    ),
]
ATTEMPTS = 2
"""A job that ends while its provider answers may look like a contradiction, once."""
T = TypeVar("T")


def purse_of(key_file: Path | None, *, make: bool) -> Purse:
    """The customer's key; what its owner should know of it goes to stderr. Raises ConfigError."""
    try:
        purse = open_purse(os.environ, key_file, make=make)
    except PurseError as error:
        raise ConfigError([str(error)]) from None
    if purse.made:
        typer.echo(
            f"made you a key: {purse.keys.npub} in {purse.origin}. Your balances at providers belong to it: keep it.",
            err=True,
        )
    if purse.warning:
        typer.echo(purse.warning, err=True)
    return purse


def wallet_of(nwc_file: Path | None) -> NwcWallet | None:
    """The wallet behind the connection that is configured, not started; None without one. Raises ConfigError."""
    origin = NWC if nwc_file is None else str(nwc_file)
    try:
        uri = from_environment(os.environ, NWC) if nwc_file is None else from_file(nwc_file)
        return None if uri is None else NwcWallet(uri)
    except (ValueError, WalletError) as error:
        raise ConfigError([f"{origin}: {error}"]) from None


def archive() -> Archive:
    """Where the receipts that we have seen are kept."""
    return Archive(data_directory(os.environ) / "receipts")


def urls_of(relays: Relays) -> list[str]:
    """All relays of the file. `read` and `write` are the provider's: where it only listens we must speak, and
    where it only publishes we must hear."""
    return [relay.url for relay in relays.relay]


def provider_key(text: str, option: str) -> str:
    """A provider's or customer's public key in hex, from npub or hex. Raises BadParameter."""
    try:
        return parse_pubkey(text)
    except InvalidKey as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def account_at(provider: str, relays: Path, key_file: Path | None) -> Account:
    """Our account at a provider (hex), from its receipts. Raises ConfigError, Failure."""
    return _at_provider(relays, key_file, lambda customer: customer.account(provider))


def asked_account(provider: str, relays: Path, key_file: Path | None) -> tuple[Account, AccountAnswer]:
    """Our account at a provider (hex) from its receipts, and what the provider itself answers: the balance and the
    newest entry of the statement. Raises ConfigError, Failure."""

    async def ask(customer: Customer) -> tuple[Account, AccountAnswer]:
        for _ in range(ATTEMPTS):
            try:
                answer = await customer.statement(provider, limit=1)
            except AccountFailed as error:
                raise Failure(one_line(str(error))) from None
            # Asked first, so that what has been receipted meanwhile is no contradiction.
            account = await customer.account(provider)
            if not compare(account, answer):
                break
        return account, answer

    return _at_provider(relays, key_file, ask)


def _at_provider(relays: Path, key_file: Path | None, ask: Callable[[Customer], Awaitable[T]]) -> T:
    urls = urls_of(load_relays(relays))
    keys = purse_of(key_file, make=False).keys

    async def work() -> T:
        async with Customer(keys, urls, archive=archive()) as customer:
            if not await customer.relays.wait_connected(timeout=CONNECT_SECONDS):
                raise Failure(f"no relay of {relays} can be reached; `dvm doctor` says more")
            return await ask(customer)

    return asyncio.run(work())


def complaints(account: Account) -> list[str]:
    """What is wrong with the receipts of an account, or missing, for people."""
    found = [f"wrong: {problem}" for problem in account.problems]
    for first, last in account.missing:
        which = f"receipt {first}" if first == last else f"receipts {first} to {last}"
        found.append(f"missing: {which}; no relay that was asked has it")
    if account.unreadable:
        found.append(f"missing: {account.unreadable} receipts cannot be read")
    return found


def run(work: Callable[[], Coroutine[Any, Any, T | None]]) -> T:
    """Run a command's coroutine; what its parts raise becomes the command's failure. Raises Failure. SIGTERM ends it
    in the same good order as Ctrl-C: a job that nobody waits for is cancelled, not paid for. Where the coroutine
    answers None, it was interrupted, and so the command exits."""

    async def until_terminated() -> T | None:
        task = asyncio.current_task()
        if task is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work()

    try:
        done = asyncio.run(until_terminated())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (WalletError, ArchiveError) as error:
        raise Failure(str(error)) from None
    if done is None:
        raise typer.Exit(INTERRUPTED)
    return done
