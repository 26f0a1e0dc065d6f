"""Which wallets there are: a new one is its file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from dvm.lightning.base import Wallet, WalletError


@dataclass(frozen=True, slots=True)
class Setup:
    """What `[wallet]` says. `data`: the directory where the wallet may keep what it must remember. `network`:
    what its invoices must be for (None: what the wallet says). `timeout`: of one request, in seconds.
    `tls_cert`: the PEM file of the node's own certificate."""

    url: str | None
    secret: str | None = field(repr=False)
    data: Path
    network: str | None = None
    timeout: float = 30.0
    tls_cert: Path | None = None

    def address(self, example: str) -> str:
        """The url. Raises WalletError, with an example of one, where there is none."""
        if self.url is None:
            raise WalletError("failed", f"wallet.url is missing: the address of {example}")
        return self.url


# type → module and the class in it, which has a classmethod `from_setup(setup) -> Wallet`. Imported when it
# is asked for: nobody needs the code of five wallets.
WALLETS: Mapping[str, tuple[str, str]] = {
    "cln": ("dvm.lightning.cln", "ClnWallet"),
    "lnbits": ("dvm.lightning.lnbits", "LnbitsWallet"),
    "lnd": ("dvm.lightning.lnd", "LndWallet"),
    "nwc": ("dvm.lightning.nwc", "NwcWallet"),
    "paper": ("dvm.lightning.paper", "PaperWallet"),
    "phoenixd": ("dvm.lightning.phoenixd", "PhoenixdWallet"),
}


def make_wallet(type: str, setup: Setup) -> Wallet:  # noqa: A002 - the name that it has in dvm.toml
    """The wallet that `[wallet]` configures, not yet started. Raises WalletError."""
    if type not in WALLETS:
        raise WalletError("failed", f"no wallet is called {type!r}; there are {', '.join(sorted(WALLETS))}")
    module, name = WALLETS[type]
    make: Callable[[Setup], Wallet] = getattr(import_module(module), name).from_setup
    return make(setup)
