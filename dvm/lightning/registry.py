"""Which wallets there are: a new one is its file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dvm.lightning.base import Wallet, WalletError
from dvm.lightning.nwc import NwcWallet
from dvm.lightning.nwc_client import Options
from dvm.lightning.paper import PaperNode, PaperWallet


def _paper(url: str | None, secret: str | None, data: Path, network: str | None, timeout: float) -> Wallet:
    if network not in (None, "regtest"):
        raise WalletError("failed", f"the paper wallet's invoices are for regtest, and {network} is asked for")
    return PaperWallet(PaperNode(data), owns=True, listen=True)


def _nwc(url: str | None, secret: str | None, data: Path, network: str | None, timeout: float) -> Wallet:
    if secret is None:
        raise WalletError("unauthorized", "the wallet connection is missing: a nostr+walletconnect:// URI")
    return NwcWallet(secret, network=network, options=Options(timeout=timeout))


# type → factory of (url, secret, data directory, network, seconds that a request may take)
WALLETS: Mapping[str, Callable[[str | None, str | None, Path, str | None, float], Wallet]] = {
    "nwc": _nwc,
    "paper": _paper,
}


def make_wallet(
    type: str,  # noqa: A002 - the name that it has in dvm.toml
    *,
    url: str | None,
    secret: str | None,
    data: Path,
    network: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Wallet:
    """The wallet that `[wallet]` configures, not yet started.

    `data` is the directory where it may keep what it must remember; `network` is what its invoices must be
    for (None: what the wallet says). `options`: `timeout`, of one request, in seconds. Raises WalletError.
    """
    if type not in WALLETS:
        raise WalletError("failed", f"no wallet is called {type!r}; there are {', '.join(sorted(WALLETS))}")
    timeout = (options or {}).get("timeout", Options().timeout)
    if not isinstance(timeout, int | float) or timeout <= 0:
        raise WalletError("failed", "timeout: a positive number of seconds expected")
    return WALLETS[type](url, secret, data, network, float(timeout))
