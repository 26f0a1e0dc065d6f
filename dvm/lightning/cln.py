"""Core Lightning (23.11 or newer) through clnrest, with a rune.

The rune needs these commands: see `cln_rpc.COMMANDS` (one without `pay` and `xpay` sells, and pays nothing
out). CLN has no hold invoices of its own. It hashes descriptions itself: a zap's invoice needs the text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dvm.lightning.base import Capabilities, Invoice, InvoiceState, Payment, WalletError, WalletInfo
from dvm.lightning.checks import cut, hash_of, text_of
from dvm.lightning.cln_pay import ClnPayer
from dvm.lightning.cln_rpc import WAIT_TIMED_OUT, Rpc, RpcError, checked_rune, index_of, msat_of
from dvm.lightning.cln_sweep import Sweep
from dvm.lightning.making import Asked
from dvm.lightning.places import MAX_INDEX, Place
from dvm.lightning.registry import Setup
from dvm.lightning.rest import Rest, clean
from dvm.lightning.retries import Retries
from dvm.lightning.server_wallet import ServerWallet

log = logging.getLogger(__name__)

_NETWORKS = {
    "bitcoin": "mainnet",
    "testnet": "testnet",
    "testnet4": "testnet",
    "signet": "signet",
    "regtest": "regtest",
}
_USABLE = ("CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE")  # payments go on while a splice confirms
_ESCAPED = re.compile(r"[\x00-\x1f]")  # as \u00…, which CLN does not take
_EARLY = 10_000


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds. `timeout` bounds a request; `wait` is how long lightningd is asked to wait for the
    next payment; `retry_for` how long it looks for a route, and `pay_timeout` how long we wait for that;
    after a failure the stream is taken up again after `backoff`, doubled up to `max_backoff`."""

    timeout: float = 30.0
    wait: int = 50
    retry_for: int = 60
    pay_timeout: float = 90.0
    backoff: float = 1.0
    max_backoff: float = 60.0


class ClnWallet(ServerWallet):
    """A CLN node behind clnrest."""

    name = "cln"

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        """As `[wallet]` configures it. Raises WalletError for a rune or a certificate that is none."""
        self._options = options or Options(timeout=setup.timeout)
        rest = Rest(
            setup.address("clnrest, say https://localhost:3010"),
            headers={"Rune": checked_rune(setup.secret)},
            tls_cert=setup.tls_cert,
            timeout=self._options.timeout,
        )
        self._rpc = Rpc(rest)
        self._sweep = Sweep(self._rpc)
        super().__init__(rest, self._sweep, setup.network)
        self._payer = ClnPayer(self._rpc, self._options.retry_for, self._options.pay_timeout)
        self._data = setup.data
        self._early: list[str] | None = []  # invoices made before the stream has begun

    @classmethod
    def from_setup(cls, setup: Setup) -> ClnWallet:
        return cls(setup)

    async def info(self) -> WalletInfo:
        """Its money is what its channels can send and receive; on-chain funds are not counted."""
        told = await self._rpc.call("getinfo")
        alias = told.get("alias")
        balance: int | None = None
        receivable: int | None = None
        try:
            balance, receivable = _liquidity(await self._rpc.call("listpeerchannels"))
        except WalletError as error:
            if error.code != "restricted":  # a rune may well be forbidden to ask
                raise
        return WalletInfo(
            alias=clean(alias) if isinstance(alias, str) else "",
            network=_network(told),
            balance_msat=balance,
            receivable_msat=receivable,
            capabilities=Capabilities(push=True, description_hash=True, pay=await self._payer.may_pay()),
        )

    async def _make(self, asked: Asked) -> Invoice:
        if asked.description is None:
            raise WalletError("unsupported", "CLN hashes a description itself, and needs the text beside its hash")
        hashed = asked.description_hash is not None
        if not hashed:
            asked = asked.saying(cut(_ESCAPED.sub(" ", asked.text)))
        params = {
            "amount_msat": asked.msat,
            "label": f"dvm-{uuid4().hex}",
            "description": asked.text,
            "expiry": asked.expiry,
        }
        network = await self._expected_network()
        told = await self._rpc.call("invoice", params | ({"deschashonly": True} if hashed else {}))
        invoice = asked.made(told.get("bolt11"), network, hash_of(told.get("payment_hash")))
        if "warning_capacity" in told:
            log.warning("wallet: the node's channels cannot receive %d msat: it lacks inbound liquidity", asked.msat)
        self._sweep.made(invoice.payment_hash)
        if self._early is not None and len(self._early) < _EARLY:
            self._early.append(invoice.payment_hash)
        return invoice

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        return await self._payer.pay(bolt11, fee_limit_msat)

    async def payment(self, payment_hash: str) -> Payment:
        return await self._payer.payment(payment_hash)

    # --- the stream of payments ------------------------------------------------------------------------

    def _followers(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        return {"payments": self._follow_for_ever}

    async def _follow_for_ever(self) -> None:
        retries = Retries(log, self._options.backoff, self._options.max_backoff)
        place: Place | None = None
        last = 0
        while True:
            try:
                if place is None:
                    place, last = await self._begin()
                last = await self._next(place, last)
                retries.fine()
            except WalletError as error:
                await retries.wait(error)

    async def _begin(self) -> tuple[Place, int]:
        """The place that was kept for this very node, or else where its payments are now."""
        told = await self._rpc.call("getinfo")
        self._network = self._network or _network(told)
        place = Place(self._data, self.name, text_of(told.get("id")))
        last = (await place.load()).get("pay")
        if last is None:
            last = await self._last_paid()
            for payment_hash in self._early or ():  # it may have been paid before we knew where to begin
                if (await self._sweep.look_up(payment_hash)).state is InvoiceState.SETTLED:
                    self._hints.tell(payment_hash)
            await place.keep({"pay": last})
        self._early = None
        return place, last

    async def _next(self, place: Place, last: int) -> int:
        """Wait for the payment after `last`, and tell of it. Raises WalletError."""
        told = await self._wait(last, self._options.wait)
        if told is None:
            return last
        index, payment_hash = index_of(told.get("pay_index")), hash_of(told.get("payment_hash"))
        if index is None or index <= last or payment_hash is None:
            raise WalletError("untrustworthy", "waitanyinvoice: not a payment after the last one")
        self._hints.tell(payment_hash)
        await place.keep({"pay": index})
        return index

    async def _last_paid(self) -> int:
        """The latest pay_index, which no command tells: doubled until there is no payment after it, then
        halved between. Some forty calls at most, once in a node's life."""
        low, high = 0, 1
        while high < MAX_INDEX and (told := await self._wait(high - 1, 0)) is not None:
            low = index_of(told.get("pay_index")) or high
            high = max(low, high) * 2
        while low + 1 < high:
            middle = (low + high) // 2
            if (told := await self._wait(middle - 1, 0)) is None:
                high = middle
            else:
                low = max(index_of(told.get("pay_index")) or middle, middle)
        return low

    async def _wait(self, last: int, seconds: int) -> dict[str, Any] | None:
        try:
            return await self._rpc.call(
                "waitanyinvoice",
                {"lastpay_index": last, "timeout": seconds},
                timeout=seconds + self._options.timeout,
            )
        except RpcError as error:
            if error.number == WAIT_TIMED_OUT:
                return None
            raise

    async def _ask_network(self) -> str:
        return _network(await self._rpc.call("getinfo"))


def _network(told: dict[str, Any]) -> str:
    """What `getinfo` names, in our words. Raises WalletError."""
    named = told.get("network")
    if not isinstance(named, str) or named not in _NETWORKS:
        raise WalletError("untrustworthy", "getinfo: a network that no invoice can be for")
    return _NETWORKS[named]


def _liquidity(told: dict[str, Any]) -> tuple[int, int]:
    """Msat that the usable channels can send, and receive. Raises WalletError."""
    channels = told.get("channels")
    if not isinstance(channels, list):
        raise WalletError("untrustworthy", "listpeerchannels: an answer without channels")
    usable = [each for each in channels if isinstance(each, dict) and each.get("state") in _USABLE]
    return (
        sum(msat_of(each.get("spendable_msat")) or 0 for each in usable),
        sum(msat_of(each.get("receivable_msat")) or 0 for each in usable),
    )
