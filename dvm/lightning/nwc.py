"""Nostr Wallet Connect (NIP-47): any wallet that speaks it, over the relays of its connection.

Its kinds are ephemeral and its notifications are hints: `lookup` is the proof, `lookup_many` finds what a
push has missed. A time-out is no failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from typing import Any

from dvm.lightning import nip47
from dvm.lightning.base import (
    Capabilities,
    Invoice,
    InvoiceState,
    Lookup,
    Payment,
    WalletError,
    WalletInfo,
)
from dvm.lightning.checks import check_asked, checked_invoice, cut, readable
from dvm.lightning.hints import Hints
from dvm.lightning.nip47 import Connection, InvalidAnswer, InvalidConnection, Transaction
from dvm.lightning.nwc_client import NotSent, NwcClient, Options
from dvm.lightning.nwc_sweep import Sweep
from dvm.lightning.registry import Setup

log = logging.getLogger(__name__)

_REMEMBERED = 10_000  # hashes told of, so that both kinds of a notification are one hint
_LOOKS = 3  # at a payment whose outcome is open
_NETWORKS = {
    "mainnet": "mainnet",
    "bitcoin": "mainnet",
    "testnet": "testnet",
    "testnet4": "testnet",
    "signet": "signet",
    "mutinynet": "signet",
    "regtest": "regtest",
}


class NwcWallet:
    """A wallet behind a NIP-47 connection."""

    name = "nwc"

    def __init__(self, uri: str, *, network: str | None = None, options: Options | None = None) -> None:
        """`network` is what invoices must be for; by default what the wallet says, or else mainnet.

        Raises WalletError for a URI that is none.
        """
        try:
            self._connection = Connection.parse(uri)
        except InvalidConnection as error:
            raise WalletError("failed", str(error)) from None
        self._options = options or Options()
        self._client = NwcClient(self._connection, self._options, self._on_notification)
        self._sweep = Sweep(self._client, self._options)
        self._network = network
        self._hints = Hints()
        self._told: dict[str, None] = {}
        self._open: dict[str, Invoice] = {}  # made here and not yet seen settled: what a poll asks about
        self._poll: asyncio.Task[None] | None = None

    @classmethod
    def from_setup(cls, setup: Setup) -> NwcWallet:
        """As `[wallet]` configures it. Raises WalletError."""
        if setup.secret is None:
            raise WalletError("unauthorized", "the wallet connection is missing: a nostr+walletconnect:// URI")
        return cls(setup.secret, network=setup.network, options=Options(timeout=setup.timeout))

    async def start(self) -> None:
        if self._poll is None:
            self._client.start()
            self._poll = asyncio.get_running_loop().create_task(self._poll_for_ever(), name="nwc poll")

    async def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
        self._hints.close()
        await self._client.close()

    async def info(self) -> WalletInfo:
        try:
            told = await self._client.request("get_info", {})
            self._network = self._network or _network(told)
        except WalletError as error:
            if error.code not in ("unsupported", "restricted"):
                raise
            told = {}  # its announcement says most of it
        balance: int | None = None
        with contextlib.suppress(WalletError):  # a connection may well be forbidden to ask
            amount = (await self._client.request("get_balance", {})).get("balance")
            balance = amount if type(amount) is int else None
        alias = told.get("alias")
        methods, notifications = _names(told, "methods"), _names(told, "notifications")
        service = await self._client.service()
        if service is not None:
            methods |= service.methods
            notifications |= service.notifications
        return WalletInfo(
            alias=nip47.clean(alias) if isinstance(alias, str) else "",
            network=_network(told),
            balance_msat=balance,
            capabilities=Capabilities(
                push="payment_received" in notifications,
                description_hash=True,
                pay="pay_invoice" in methods,
                hold={"make_hold_invoice", "settle_hold_invoice", "cancel_hold_invoice"} <= methods,
            ),
        )

    async def create_invoice(
        self,
        msat: int,
        *,
        description: str | None = None,
        description_hash: str | None = None,
        expiry: int,
    ) -> Invoice:
        # When this times out the invoice may exist all the same: nobody has seen it, so nobody pays it.
        check_asked(msat, description, description_hash, expiry)
        network = await self._expected_network()
        params: dict[str, object] = {"amount": msat, "expiry": expiry}
        if description_hash is not None:
            params["description_hash"] = description_hash
        else:
            description = params["description"] = cut(description or "")
        result = await self._client.request("make_invoice", params)
        named = result.get("payment_hash")
        invoice = checked_invoice(
            result.get("invoice"),
            network=network,
            msat=msat,
            payment_hash=named.lower() if isinstance(named, str) else None,
            description=description,
            description_hash=description_hash,
        )
        self._open[invoice.payment_hash] = invoice
        return invoice

    async def lookup(self, payment_hash: str) -> Lookup:
        found = await self._sweep.look_up(payment_hash)
        if found.state in (InvoiceState.SETTLED, InvoiceState.FAILED):
            self._open.pop(payment_hash, None)
        return found

    async def lookup_many(self, payment_hashes: Collection[str], since: int) -> dict[str, Lookup]:
        found = await self._sweep.look_up_many(payment_hashes, since)
        for payment_hash, lookup in found.items():
            if lookup.state in (InvoiceState.SETTLED, InvoiceState.FAILED):
                self._open.pop(payment_hash, None)
        return found

    def settlements(self) -> AsyncIterator[str]:
        return self._hints.read()

    # --- paying ----------------------------------------------------------------------------------------

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`. NIP-47 has no fee limit: it is the wallet's own that holds, and `fee_msat` tells
        what it was. Asking again for the same invoice is safe, and how an UNKNOWN is cleared up."""
        said = readable(bolt11)
        if said.msat is None:
            raise WalletError("failed", "the invoice leaves the amount open")
        if said.expires_at <= time.time():
            # It may have been paid before: what is known of it counts more than the clock.
            return await self._outcome(said.payment_hash, WalletError("failed", "the invoice has expired"))
        try:
            result = await self._client.request("pay_invoice", {"invoice": bolt11}, timeout=self._options.pay_timeout)
        except NotSent:
            raise
        except WalletError as error:
            return await self._outcome(said.payment_hash, error)
        fee = result.get("fees_paid")
        preimage = result.get("preimage")
        if nip47.opens(preimage, said.payment_hash):
            return Payment(InvoiceState.SETTLED, fee if type(fee) is int and fee >= 0 else 0, str(preimage))
        return await self._outcome(
            said.payment_hash, WalletError("untrustworthy", "the wallet's preimage is not the invoice's")
        )

    async def _outcome(self, payment_hash: str, error: WalletError) -> Payment:
        """What became of a payment that was answered with `error`, or not at all.

        An error does not say that nothing was paid: "already paid" and "in flight, so the balance is too
        low" are errors as well. Only if the wallet knows of no such payment is the error all there is.
        """
        in_doubt = error.code in ("unreachable", "untrustworthy")
        for look in range(_LOOKS if in_doubt else 1):
            if look:
                await asyncio.sleep(self._options.backoff * look)
            try:
                result = await self._client.request("lookup_invoice", {"payment_hash": payment_hash})
                paid = Transaction.parse(result)
            except InvalidAnswer:
                return Payment(InvoiceState.UNKNOWN)
            except WalletError as answer:
                if answer.code in ("not_found", "unsupported", "restricted", "unauthorized"):
                    if in_doubt:  # the request may still be on its way to the wallet
                        continue
                    raise error from None
                if answer.code in ("unreachable", "untrustworthy", "rate_limited"):
                    continue
                return Payment(InvoiceState.UNKNOWN)
            if paid.direction != "outgoing" or paid.payment_hash != payment_hash:
                if in_doubt:
                    continue
                raise error
            verdict = paid.verdict
            if verdict is InvoiceState.SETTLED:
                proof = paid.preimage if nip47.opens(paid.preimage, payment_hash) else None
                return Payment(InvoiceState.SETTLED, paid.fee_msat, proof)
            if verdict is InvoiceState.FAILED:
                return Payment(InvoiceState.FAILED)
            if not in_doubt:
                return Payment(InvoiceState.UNKNOWN)
        return Payment(InvoiceState.UNKNOWN)

    # --- within ----------------------------------------------------------------------------------------

    async def _expected_network(self) -> str:
        """The network that invoices must be for: as configured, as the wallet says, or mainnet."""
        if self._network is None:
            try:
                self._network = _network(await self._client.request("get_info", {}))
            except WalletError as error:
                if error.code == "failed":
                    return "mainnet"  # asked again next time
                if error.code not in ("unsupported", "restricted"):
                    raise
                self._network = "mainnet"
        return self._network

    def _on_notification(self, kind: str, payment_hash: str) -> None:
        if kind == "payment_received" and payment_hash not in self._told:
            self._told[payment_hash] = None
            if len(self._told) > _REMEMBERED:
                del self._told[next(iter(self._told))]
            self._hints.tell(payment_hash)

    async def _poll_for_ever(self) -> None:
        """Look for what was made here, while it can be paid: again and again where the wallet does not push,
        and after each reconnection where it does, for what it pushed meanwhile."""
        connections = 0
        while True:
            await asyncio.sleep(self._options.poll)
            connections = connections or self._client.connections
            now = time.time()
            for invoice in [i for i in self._open.values() if i.expires_at < now - 60]:
                del self._open[invoice.payment_hash]
            service = await self._client.service()
            pushes = service is not None and "payment_received" in service.notifications
            reconnected = self._client.connections != connections
            if self._open and (reconnected or not pushes):
                connections = self._client.connections
                since = min(invoice.created_at for invoice in self._open.values())
                for payment_hash, found in (await self.lookup_many(list(self._open), since)).items():
                    if found.state is InvoiceState.SETTLED:
                        self._on_notification("payment_received", payment_hash)


def _network(told: dict[str, Any]) -> str:
    network = told.get("network")
    return _NETWORKS.get(network.lower(), "mainnet") if isinstance(network, str) else "mainnet"


def _names(told: dict[str, Any], field: str) -> frozenset[str]:
    names = told.get(field)
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()
