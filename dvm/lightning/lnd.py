"""LND, over its REST interface: invoices, hold invoices, payments, and a stream of settlements that is resumed.

Needs a macaroon that may do `info:read invoices:read invoices:write offchain:read offchain:write` (admin.macaroon
may) and the node's tls.cert.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

from dvm.lightning.base import Capabilities, Invoice, InvoiceState, Lookup, Payment, WalletError, WalletInfo
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.checks import cut, hash_of
from dvm.lightning.hints import Hints
from dvm.lightning.lnd_client import LndClient, grpc_error, hex32, is_unknown_thing, number, to_base64
from dvm.lightning.lnd_invoices import LndInvoice, Lookups
from dvm.lightning.lnd_macaroon import Macaroon, parse
from dvm.lightning.lnd_payments import Payments
from dvm.lightning.lnd_stream import HoldWatch, Pace, SettlementStream
from dvm.lightning.making import Asked, MakesHoldInvoices
from dvm.lightning.places import Place
from dvm.lightning.registry import Setup
from dvm.lightning.rest import Refused, Rest, clean

log = logging.getLogger(__name__)

_CONNECTIONS = 64  # at once: streams, payments and look-ups have one each
_HEX32 = re.compile(r"[0-9a-f]{64}").fullmatch
_HEX33 = re.compile(r"[0-9a-f]{66}").fullmatch
# LND's name of a network → ours; testnet4's invoices look like testnet's. Others (simnet) go by LND's name.
_NETWORKS = {"testnet4": "testnet"}
_RPC, _INVOICES, _ROUTER = "/lnrpc.Lightning/", "/invoicesrpc.Invoices/", "/routerrpc.Router/"


class LndWallet(MakesHoldInvoices):
    """A wallet that is an LND node's."""

    name = "lnd"

    def __init__(
        self,
        url: str,
        macaroon: Macaroon,
        data: Path,
        *,
        tls_cert: Path | None = None,
        network: str | None = None,
        timeout: float = 30.0,
        pace: Pace | None = None,
    ) -> None:
        """`data`: where the stream's place is kept. `network`: what invoices must be for; by default LND's.
        `timeout`: of one request, and of LND's search for a route, in seconds. Raises WalletError."""
        rest = Rest(
            url,
            headers={"Grpc-Metadata-macaroon": macaroon.hex},
            tls_cert=tls_cert,
            timeout=timeout,
            connections=_CONNECTIONS,
        )
        self._client = LndClient(rest)
        self._macaroon, self._data, self._network = macaroon, data, network
        pace = pace or Pace()
        self._hints = Hints()
        self._lookups = Lookups(self._client, self._on_seen)
        self._payments = Payments(self._client, timeout)
        self._stream = SettlementStream(self._client, self._place, self._hints, self._on_push, pace)
        self._holds = HoldWatch(self._client, self._on_push, pace)
        self._wanted = asyncio.Event()  # somebody reads what is pushed
        self._can_hold: bool | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @classmethod
    def from_setup(cls, setup: Setup) -> LndWallet:
        """As `[wallet]` configures it. Raises WalletError."""
        if setup.url is None or not setup.url.startswith(("https://", "http://")):
            raise WalletError("failed", "wallet.url: lnd's REST interface expected, as https://127.0.0.1:8080")
        return cls(
            setup.url,
            parse(setup.secret),
            setup.data,
            tls_cert=setup.tls_cert,
            network=setup.network,
            timeout=setup.timeout,
        )

    async def start(self) -> None:
        if not self._tasks and not self._closed:
            for name, work in (("stream", self._follow()), ("holds", self._holds.run())):
                self._tasks.append(asyncio.get_running_loop().create_task(work, name=f"lnd {name}"))

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            await self._stream.keep()
        self._tasks = []
        await self._holds.close()
        self._hints.close()
        await self._client.close()

    async def info(self) -> WalletInfo:
        told = await self._client.get("/v1/getinfo")
        network = _network(told)
        self._network = self._network or network
        balance = receivable = None
        try:
            balance, receivable = await self._liquidity()
        except WalletError as error:  # a macaroon may well be forbidden to ask
            log.debug("wallet: lnd's balance cannot be learned: %s", error)
        may = self._macaroon.may
        invoicing = may("invoices", "write", f"{_RPC}AddInvoice") and may("invoices", "read", f"{_RPC}LookupInvoice")
        alias = told.get("alias")
        return WalletInfo(
            alias=clean(alias) if isinstance(alias, str) else "",
            network=network,
            balance_msat=balance,
            capabilities=Capabilities(
                push=may("invoices", "read", f"{_RPC}SubscribeInvoices"),
                description_hash=True,
                pay=may("offchain", "write", f"{_ROUTER}SendPaymentV2")
                and may("offchain", "read", f"{_ROUTER}TrackPaymentV2"),
                hold=invoicing and may("invoices", "write", f"{_INVOICES}AddHoldInvoice") and await self._holds_built(),
            ),
            receivable_msat=receivable,
        )

    async def lookup(self, payment_hash: str) -> Lookup:
        return await self._lookups.one(payment_hash)

    async def lookup_many(
        self, payment_hashes: Collection[str], since: int, holds: Collection[str] | None = None
    ) -> dict[str, Lookup]:
        return await self._lookups.many(payment_hashes, since, live=self._stream.live)

    def settlements(self) -> AsyncIterator[str]:
        self._wanted.set()
        return self._hints.read()

    # --- hold invoices ---------------------------------------------------------------------------------

    async def settle_hold(self, preimage: str) -> None:
        if not _HEX32(preimage):
            raise WalletError("failed", "a preimage is 64 lowercase hex digits")
        try:
            await self._client.post("/v2/invoices/settle", {"preimage": to_base64(preimage)})
        except Refused as error:
            message = grpc_error(error.body)[1]
            if "already settled" in message:
                return
            for said in ("invoice still open", "invoice already canceled"):
                if said in message:
                    raise WalletError("failed", f"it cannot be settled: {said}") from None
            if is_unknown_thing(error):
                raise WalletError("not_found", "lnd has no invoice for that preimage") from None
            raise _without(error, preimage) from None

    async def cancel_hold(self, payment_hash: str) -> None:
        if hash_of(payment_hash) is None:
            raise WalletError("failed", "a payment hash is 64 lowercase hex digits")
        try:
            await self._client.post("/v2/invoices/cancel", {"payment_hash": to_base64(payment_hash)})
        except Refused as error:
            if "already canceled" in grpc_error(error.body)[1]:
                return
            # LND may be set to delete what is cancelled; what it does not know, nobody can pay.
            if not is_unknown_thing(error):
                raise

    # --- paying ----------------------------------------------------------------------------------------

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        return await self._payments.pay(bolt11, fee_limit_msat=fee_limit_msat)

    async def payment(self, payment_hash: str) -> Payment:
        return await self._payments.payment(payment_hash)

    # --- within ----------------------------------------------------------------------------------------

    async def _make(self, asked: Asked) -> Invoice:
        network = await self._expected_network()
        asked, order = _order(asked)
        made = await self._client.post("/v1/invoices", order)
        invoice = asked.made(made.get("payment_request"), network, hex32(made, "r_hash"))
        self._lookups.made(invoice.payment_hash)
        return invoice

    async def _make_hold(self, asked: Asked, payment_hash: str) -> Invoice:
        network = await self._expected_network()
        asked, order = _order(asked)
        made = await self._client.post("/v2/invoices/hodl", {**order, "hash": to_base64(payment_hash)})
        invoice = asked.made(made.get("payment_request"), network, payment_hash)
        self._lookups.made(invoice.payment_hash)
        self._holds.watch(payment_hash, invoice.expires_at, subscribe=True)
        return invoice

    def _on_push(self, payment_hash: str) -> None:
        self._lookups.tell(payment_hash)
        self._hints.tell(payment_hash)

    def _on_seen(self, invoice: LndInvoice) -> None:
        if invoice.hold and invoice.lookup.state is InvoiceState.PENDING:  # made before a restart, perhaps
            self._holds.watch(invoice.payment_hash, invoice.expires_at, subscribe=False)
        elif invoice.lookup.state in (InvoiceState.SETTLED, InvoiceState.FAILED):
            self._holds.forget(invoice.payment_hash)

    async def _follow(self) -> None:
        await self._wanted.wait()  # a settlement that nobody reads would be lost
        await self._stream.run()

    async def _place(self) -> Place:
        """Where the stream was left: of this very node, whatever its address. Raises WalletError."""
        owner = self._client.url
        try:
            key = (await self._client.get("/v1/getinfo")).get("identity_pubkey")
            if isinstance(key, str) and _HEX33(key):
                owner = key
        except WalletError as error:
            if error.code != "restricted":
                raise
        return Place(self._data, self.name, owner)

    async def _expected_network(self) -> str:
        """The network that invoices must be for: as configured, as LND says, or mainnet. Raises WalletError."""
        if self._network is None:
            try:
                self._network = _network(await self._client.get("/v1/getinfo"))
            except WalletError as error:
                if error.code != "restricted":
                    raise
                self._network = "mainnet"
        return self._network

    async def _liquidity(self) -> tuple[int, int]:
        """What LND's channels hold for us, and what they can still receive: of those that are up, what their other
        side has beyond its reserve; both in msat. Raises WalletError."""
        local = (await self._client.get("/v1/balance/channels")).get("local_balance")
        channels = (await self._client.get("/v1/channels", {"active_only": "true"})).get("channels")
        if not isinstance(local, dict) or not isinstance(channels, list):
            raise WalletError("untrustworthy", "lnd's balance is none")
        receivable = 0
        for channel in channels:
            limits = channel.get("remote_constraints") if isinstance(channel, dict) else None
            if isinstance(limits, dict):
                reserve = number(limits, "chan_reserve_sat")
                receivable += max(number(channel, "remote_balance") - reserve, 0) * 1_000
        return number(local, "msat", MAX_MSAT), min(receivable, MAX_MSAT)

    async def _holds_built(self) -> bool:
        """Whether this LND was built with hold invoices, as the released ones are."""
        if self._can_hold is None:
            try:
                tags = (await self._client.get("/v2/versioner/version")).get("build_tags")
            except WalletError as error:
                log.debug("wallet: how lnd was built cannot be learned: %s", error)
                return True
            self._can_hold = not isinstance(tags, list) or not tags or "invoicesrpc" in tags
        return self._can_hold


def _order(asked: Asked) -> tuple[Asked, dict[str, Any]]:
    """The invoice as it will be, and in LND's words. `private`: with hints to channels that are not announced, without
    which a node that has no others could not be paid."""
    order: dict[str, Any] = {"value_msat": str(asked.msat), "expiry": str(asked.expiry), "private": True}
    if asked.description_hash is not None:
        return asked, {**order, "description_hash": to_base64(asked.description_hash)}
    asked = asked.saying(cut(asked.text))
    return asked, {**order, "memo": asked.text}


def _without(error: Refused, secret: str) -> WalletError:
    """The refusal, unless it repeats the secret that was sent."""
    if secret in str(error) or to_base64(secret) in str(error):
        return WalletError(error.code, "lnd has refused")
    return error


def _network(info: dict[str, Any]) -> str:
    """Raises WalletError."""
    chains = info.get("chains")
    first = chains[0] if isinstance(chains, list) and chains else None
    network = first.get("network") if isinstance(first, dict) else None
    if not isinstance(network, str):
        raise WalletError("untrustworthy", "lnd does not say which network it is on")
    return _NETWORKS.get(network, clean(network)[:20])
