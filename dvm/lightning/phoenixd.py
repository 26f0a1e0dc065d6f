"""phoenixd (0.5 or newer), with one of its two passwords; the limited one sells, and pays nothing out.

Its liquidity is bought automatically: when a payment needs a channel, or more room in one, phoenixd keeps the
price of it from what has come, or from its balance. The customer has paid the whole invoice, and is credited
with the whole: the price of liquidity is the operator's, and shows as a balance below what was received. What
is too little for a channel is kept as credit for future fees: `balance_msat` does not count it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from dvm.lightning.base import Capabilities, Invoice, InvoiceState, Payment, WalletError, WalletInfo
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.checks import hash_of, text_of
from dvm.lightning.making import Asked
from dvm.lightning.phoenixd_pay import PhoenixdPayer
from dvm.lightning.phoenixd_push import Push
from dvm.lightning.phoenixd_received import Received
from dvm.lightning.places import Place
from dvm.lightning.registry import Setup
from dvm.lightning.rest import Refused, Rest, clean, tls_context
from dvm.lightning.retries import Retries
from dvm.lightning.server_wallet import ServerWallet

log = logging.getLogger(__name__)

EXTERNAL_ID = "dvm"  # by which the operator knows our invoices among phoenixd's
MAX_DESCRIPTION = 128  # UTF-16 units: Kotlin's length of a text

_NETWORKS = {
    "mainnet": "mainnet",
    "testnet": "testnet",
    "testnet3": "testnet",
    "testnet4": "testnet",
    "signet": "signet",
    "regtest": "regtest",
}
_PUSHED = 1_000  # hashes that were pushed and not yet looked for


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds. `timeout` bounds a request, `pay_timeout` a payment; what was received is listed after
    each push and every `poll`; after a failure again after `backoff`, doubled up to `max_backoff`."""

    timeout: float = 30.0
    pay_timeout: float = 90.0
    poll: float = 30.0
    backoff: float = 1.0
    max_backoff: float = 60.0


class PhoenixdWallet(ServerWallet):
    """A phoenixd."""

    name = "phoenixd"

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        """As `[wallet]` configures it. Raises WalletError for a certificate that is none."""
        url = setup.address("phoenixd, say http://127.0.0.1:9740")
        if not setup.secret:
            raise WalletError("unauthorized", "the password is missing: http-password in phoenix.conf")
        self._options = options or Options(timeout=setup.timeout)
        auth = httpx.BasicAuth("", setup.secret)
        rest = Rest(url, auth=auth, tls_cert=setup.tls_cert, timeout=self._options.timeout)
        self._received = Received(rest)
        super().__init__(rest, self._received, setup.network)
        self._payer = PhoenixdPayer(rest, self._options.pay_timeout)
        self._push = Push(url, setup.secret, tls_context(setup.tls_cert), self._on_push, self._options)
        self._data = setup.data
        self._wake = asyncio.Event()
        self._pushed: dict[str, None] = {}

    @classmethod
    def from_setup(cls, setup: Setup) -> PhoenixdWallet:
        return cls(setup)

    async def info(self) -> WalletInfo:
        told = await self._object("/getinfo")
        balance = (await self._object("/getbalance")).get("balanceSat")
        version = told.get("version")
        return WalletInfo(
            alias=clean(f"phoenixd {version}") if isinstance(version, str) else "phoenixd",
            network=_network(told),
            balance_msat=balance * 1000 if type(balance) is int and 0 <= balance * 1000 <= MAX_MSAT else None,
            capabilities=Capabilities(push=True, description_hash=True, pay=await self._payer.may_pay()),
        )

    async def _make(self, asked: Asked) -> Invoice:
        order = {"amountSat": str(asked.msat // 1000), "expirySeconds": str(asked.expiry), "externalId": EXTERNAL_ID}
        if asked.description_hash is not None:
            order["descriptionHash"] = asked.description_hash
        else:
            asked = asked.saying(_cut(asked.text))
            order["description"] = asked.text
        network = await self._expected_network()
        told = await self._rest.call("POST", "/createinvoice", data=order)
        if not isinstance(told, dict):
            raise WalletError("untrustworthy", "createinvoice: an answer that is no object")
        return asked.made(told.get("serialized"), network, hash_of(told.get("paymentHash")))

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`. phoenixd takes no fee limit: its fee is known, and refused beforehand where it is
        above the limit. Asking again for the same invoice never pays twice."""
        return await self._payer.pay(bolt11, fee_limit_msat)

    async def payment(self, payment_hash: str) -> Payment:
        return await self._payer.payment(payment_hash)

    # --- what comes in ---------------------------------------------------------------------------------

    def _followers(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        return {"payments": self._follow_for_ever, "push": self._push.run}

    async def _follow_for_ever(self) -> None:
        """List what has come, whenever a push says so and every `poll` seconds; a push alone is no news."""
        retries = Retries(log, self._options.backoff, self._options.max_backoff)
        place: Place | None = None
        while True:
            try:
                if place is None:
                    place = await self._begin()
                self._wake.clear()
                await self._tell(place)
                retries.fine()
            except WalletError as error:
                await retries.wait(error)
                continue
            try:
                async with asyncio.timeout(self._options.poll):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _begin(self) -> Place:
        told = await self._object("/getinfo")
        self._network = self._network or _network(told)
        place = Place(self._data, self.name, text_of(told.get("nodeId")))
        mark = (await place.load()).get("received")
        if mark is not None:
            self._received.resume(mark)
        return place

    async def _tell(self, place: Place) -> None:
        """Look, hand on what is new, and only then move the place. Raises WalletError."""
        pushed = list(self._pushed)
        await self._received.look()
        for payment_hash in self._received.news():
            self._hints.tell(payment_hash)
        for payment_hash in pushed:  # listed at another time than we look at, if phoenixd's clock was put back
            settled = self._received.settled(payment_hash)
            if not settled and (await self._received.look_up(payment_hash)).state is InvoiceState.SETTLED:
                self._hints.tell(payment_hash)
            self._pushed.pop(payment_hash, None)
        await place.keep({"received": self._received.mark})

    def _on_push(self, payment_hash: str | None) -> None:
        """`payment_hash` was pushed; None: a connection was made, and something may have been missed."""
        if payment_hash is not None and len(self._pushed) < _PUSHED:
            self._pushed[payment_hash] = None
        self._wake.set()

    async def _object(self, path: str) -> dict[str, Any]:
        try:
            told = await self._rest.get(path)
        except Refused as refused:
            if refused.status == 401:
                raise WalletError(
                    "unauthorized", "the password is refused: it is http-password in phoenix.conf"
                ) from None
            raise
        if not isinstance(told, dict):
            raise WalletError("untrustworthy", f"{path[1:]}: an answer that is no object")
        return told

    async def _ask_network(self) -> str:
        return _network(await self._object("/getinfo"))


def _network(told: dict[str, Any]) -> str:
    """What `getinfo` names, in our words. Raises WalletError."""
    chain = told.get("chain")
    if not isinstance(chain, str) or chain.lower() not in _NETWORKS:
        raise WalletError("untrustworthy", "getinfo: a chain that no invoice can be for")
    return _NETWORKS[chain.lower()]


def _cut(description: str) -> str:
    raw = description.encode("utf-16-le", errors="replace")[: 2 * MAX_DESCRIPTION]
    return raw.decode("utf-16-le", errors="ignore")
