"""phoenixd (0.5 or newer), with one of its two passwords; the limited one sells, and pays nothing out.

Its liquidity is bought automatically: when a payment needs a channel, or more room in one, phoenixd keeps the
price of it from what has come, or from its balance. The customer has paid the whole invoice, and is credited
with the whole: the price of liquidity is the operator's, and shows as a balance below what was received. What
is too little for a channel is kept as credit for future fees: `balance_msat` does not count it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dvm.lightning.base import Capabilities, Invoice, InvoiceState, Lookup, Payment, WalletError, WalletInfo
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.checks import check_asked, checked_invoice, hash_of
from dvm.lightning.hints import Hints
from dvm.lightning.phoenixd_pay import Payer
from dvm.lightning.phoenixd_push import Push
from dvm.lightning.phoenixd_received import Received
from dvm.lightning.places import Place
from dvm.lightning.registry import Setup
from dvm.lightning.rest import Refused, Rest, clean, tls_context
from dvm.lightning.retries import Retries

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


class PhoenixdWallet:
    """A phoenixd."""

    name = "phoenixd"

    def __init__(
        self,
        url: str,
        password: str | None,
        data: Path,
        *,
        network: str | None = None,
        tls_cert: Path | None = None,
        options: Options | None = None,
    ) -> None:
        """`data`: where it is kept up to when its payments are known. `network`: what invoices must be for,
        by default what it says. Raises WalletError for a certificate that is none."""
        if not password:
            raise WalletError("unauthorized", "the password is missing: http-password in phoenix.conf")
        self._options = options or Options()
        auth = httpx.BasicAuth("", password)
        self._rest = Rest(url, auth=auth, tls_cert=tls_cert, timeout=self._options.timeout)
        self._received = Received(self._rest)
        self._payer = Payer(self._rest, self._options.pay_timeout)
        self._push = Push(url, password, tls_context(tls_cert), self._on_push, self._options)
        self._data = data
        self._network = network
        self._hints = Hints()
        self._wake = asyncio.Event()
        self._pushed: dict[str, None] = {}
        self._started = self._heard = False
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def from_setup(cls, setup: Setup) -> PhoenixdWallet:
        """As `[wallet]` configures it. Raises WalletError."""
        if setup.url is None:
            raise WalletError("failed", "wallet.url is missing: the address of phoenixd, say http://127.0.0.1:9740")
        return cls(
            setup.url,
            setup.secret,
            setup.data,
            network=setup.network,
            tls_cert=setup.tls_cert,
            options=Options(timeout=setup.timeout),
        )

    async def start(self) -> None:
        self._started = True
        self._listen()

    async def close(self) -> None:
        self._started = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._hints.close()
        await self._rest.close()

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

    async def create_invoice(
        self,
        msat: int,
        *,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
    ) -> Invoice:
        check_asked(msat, description, description_hash, expiry)
        asked = {"amountSat": str(msat // 1000), "expirySeconds": str(expiry), "externalId": EXTERNAL_ID}
        if description_hash is not None:
            asked["descriptionHash"] = description_hash
        else:
            description = asked["description"] = _cut(description or "")
        network = self._network or await self._learn_network()
        told = await self._rest.call("POST", "/createinvoice", data=asked)
        if not isinstance(told, dict):
            raise WalletError("untrustworthy", "createinvoice: an answer that is no object")
        return checked_invoice(
            told.get("serialized"),
            network=network,
            msat=msat,
            payment_hash=hash_of(told.get("paymentHash")),
            description=description,
            description_hash=description_hash,
        )

    async def lookup(self, payment_hash: str) -> Lookup:
        return await self._received.look_up(payment_hash)

    async def lookup_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        return await self._received.look_up_many(payment_hashes, since)

    def settlements(self) -> AsyncIterator[str]:
        reader = self._hints.read()
        self._heard = True
        self._listen()
        return reader

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`. phoenixd takes no fee limit: its fee is known, and refused beforehand where it is
        above the limit. Asking again for the same invoice never pays twice."""
        return await self._payer.pay(bolt11, fee_limit_msat)

    async def payment(self, payment_hash: str) -> Payment:
        return await self._payer.payment(payment_hash)

    # --- what comes in ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Begin once there is somebody to tell: a hint that nobody hears would move the place on."""
        if self._started and self._heard and not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [
                loop.create_task(self._follow_for_ever(), name="phoenixd payments"),
                loop.create_task(self._push.run(), name="phoenixd push"),
            ]

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
        place = Place(self._data, self.name, str(told.get("nodeId")))
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

    async def _learn_network(self) -> str:
        self._network = _network(await self._object("/getinfo"))
        return self._network


def _network(told: dict[str, Any]) -> str:
    """What `getinfo` names, in our words. Raises WalletError."""
    chain = told.get("chain")
    if not isinstance(chain, str) or chain.lower() not in _NETWORKS:
        raise WalletError("untrustworthy", "getinfo: a chain that no invoice can be for")
    return _NETWORKS[chain.lower()]


def _cut(description: str) -> str:
    raw = description.encode("utf-16-le", errors="replace")[: 2 * MAX_DESCRIPTION]
    return raw.decode("utf-16-le", errors="ignore")
