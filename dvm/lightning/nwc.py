"""Nostr Wallet Connect (NIP-47): any wallet that speaks it, over the relays of its connection.

Its kinds are ephemeral and its notifications are hints: `lookup` is the proof, `lookup_many` finds what a
push has missed. A time-out is no failure. Hold invoices are its methods `make_hold_invoice`,
`settle_hold_invoice` and `cancel_hold_invoice`, for wallets that announce them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection
from hashlib import sha256
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
from dvm.lightning.bolt11 import MAX_MSAT
from dvm.lightning.checks import cut, payable
from dvm.lightning.hints import Hints
from dvm.lightning.making import Asked, MakesHoldInvoices
from dvm.lightning.nip47 import Connection, InvalidAnswer, InvalidConnection, Transaction
from dvm.lightning.nwc_client import NotSent, NwcClient, Options
from dvm.lightning.nwc_sweep import Sweep
from dvm.lightning.registry import Setup

log = logging.getLogger(__name__)

_REMEMBERED = 10_000  # hashes told of, so that both kinds of a notification are one hint
_PLAIN = 50_000  # invoices of which it is remembered that they are ordinary ones
_HEARD = ("payment_received", "hold_invoice_accepted")
_HOLD = frozenset({"make_hold_invoice", "settle_hold_invoice", "cancel_hold_invoice"})
_TIDY = 60.0  # seconds
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


class NwcWallet(MakesHoldInvoices):
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
        self._told: dict[tuple[str, str], None] = {}
        self._plain: dict[str, None] = {}  # made here, and no hold invoices
        self._open: dict[str, Invoice] = {}  # made here and not yet seen settled: what a poll asks about
        self._open_holds: set[str] = set()  # those among them that are hold invoices
        self._tidied = 0.0
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
                hold=methods >= _HOLD,
            ),
        )

    async def lookup(self, payment_hash: str) -> Lookup:
        found = await self._sweep.look_up(payment_hash)
        if found.state in (InvoiceState.SETTLED, InvoiceState.FAILED):
            self._over(payment_hash)
        return found

    async def lookup_many(
        self, payment_hashes: Collection[str], since: int, holds: Collection[str] | None = None
    ) -> dict[str, Lookup]:
        may_wait = [each for each in payment_hashes if each not in self._plain] if holds is None else holds
        found = await self._sweep.look_up_many(payment_hashes, since, may_wait)
        for payment_hash, lookup in found.items():
            if lookup.state in (InvoiceState.SETTLED, InvoiceState.FAILED):
                self._over(payment_hash)
        return found

    def settlements(self) -> AsyncIterator[str]:
        return self._hints.read()

    # --- paying ----------------------------------------------------------------------------------------

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`. NIP-47 has no fee limit: it is the wallet's own that holds, and `fee_msat` tells
        what it was. Asking again for the same invoice is safe, and how an UNKNOWN is cleared up."""
        said, _ = payable(bolt11)
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
            if type(fee) is not int or not 0 <= fee <= MAX_MSAT:  # what no database holds could never be charged
                fee = 0
            return Payment(InvoiceState.SETTLED, fee, str(preimage))
        return await self._outcome(
            said.payment_hash, WalletError("untrustworthy", "the wallet's preimage is not the invoice's")
        )

    async def payment(self, payment_hash: str) -> Payment:
        """As `Wallet.payment`. Of a wallet that paid its own invoice NIP-47 may tell the invoice alone; then the
        outcome is UNKNOWN."""
        try:
            result = await self._client.request("lookup_invoice", {"payment_hash": payment_hash})
            return Transaction.parse(result).sent(payment_hash) or Payment(InvoiceState.UNKNOWN)
        except InvalidAnswer as error:
            log.warning("wallet: its answer about a payment is not to be trusted: %s", error)
        except WalletError as error:
            return Payment(InvoiceState.UNKNOWN, known=error.code != "not_found")
        return Payment(InvoiceState.UNKNOWN)

    async def _outcome(self, payment_hash: str, error: WalletError) -> Payment:
        """What became of a payment that was answered with `error`, or not at all.

        An error does not say that nothing was paid: "already paid" and "in flight, so the balance is too
        low" are errors as well. Only if the wallet knows of no such payment is the error all there is.
        """
        in_doubt = error.code in ("unreachable", "untrustworthy")
        outcome = Payment(InvoiceState.UNKNOWN)
        for look in range(_LOOKS if in_doubt else 1):
            if look:
                await asyncio.sleep(self._options.backoff * look)
            try:
                result = await self._client.request("lookup_invoice", {"payment_hash": payment_hash})
                paid = Transaction.parse(result).sent(payment_hash)
            except InvalidAnswer:
                return outcome
            except WalletError as answer:
                if answer.code in ("unreachable", "untrustworthy", "rate_limited"):
                    continue
                if answer.code not in ("not_found", "unsupported", "restricted", "unauthorized"):
                    return outcome
                paid = None
            if paid is None:
                if in_doubt:  # the request may still be on its way to the wallet
                    continue
                raise error from None
            outcome = paid
            if paid.state is not InvoiceState.PENDING:
                break
        return outcome

    # --- hold invoices ---------------------------------------------------------------------------------

    async def settle_hold(self, preimage: str) -> None:
        if not nip47.is_hex32(preimage):
            raise WalletError("failed", "a preimage is 64 lowercase hex digits")
        try:
            await self._client.request("settle_hold_invoice", {"preimage": preimage})
        except WalletError:
            # A wallet refuses to settle again, and an answer may be lost: what counts is what is.
            payment_hash = sha256(bytes.fromhex(preimage)).hexdigest()
            if (await self.lookup(payment_hash)).state is not InvoiceState.SETTLED:
                raise

    async def cancel_hold(self, payment_hash: str) -> None:
        try:
            await self._client.request("cancel_hold_invoice", {"payment_hash": payment_hash})
        except WalletError:
            found = await self.lookup(payment_hash)
            if found.state is InvoiceState.SETTLED:
                raise WalletError("failed", "the hold invoice is settled: its money cannot be sent back") from None
            if found.state is not InvoiceState.FAILED:
                raise
        self._over(payment_hash)

    # --- within ----------------------------------------------------------------------------------------

    async def _make(self, asked: Asked) -> Invoice:
        invoice = await self._made_by("make_invoice", {}, asked)
        self._plain[invoice.payment_hash] = None
        if len(self._plain) > _PLAIN:
            del self._plain[next(iter(self._plain))]
        return invoice

    async def _make_hold(self, asked: Asked, payment_hash: str) -> Invoice:
        params = {"payment_hash": payment_hash, "min_cltv_expiry_delta": self._options.hold_blocks}
        invoice = await self._made_by("make_hold_invoice", params, asked)
        if invoice.payment_hash != payment_hash:
            raise WalletError("untrustworthy", "the wallet made a hold invoice over another payment hash")
        self._open_holds.add(payment_hash)
        return invoice

    async def _made_by(self, method: str, params: dict[str, object], asked: Asked) -> Invoice:
        """The invoice that `method` makes. Raises WalletError."""
        network = await self._expected_network()
        params = params | {"amount": asked.msat, "expiry": asked.expiry}
        if asked.description_hash is not None:
            params["description_hash"] = asked.description_hash
        else:
            asked = asked.saying(cut(asked.text))
            params["description"] = asked.text
        result = await self._client.request(method, params)
        named = result.get("payment_hash")
        invoice = asked.made(result.get("invoice"), network, named.lower() if isinstance(named, str) else None)
        self._open[invoice.payment_hash] = invoice
        return invoice

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
        told = (kind, payment_hash)
        if kind in _HEARD and told not in self._told:
            self._told[told] = None
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
            self._tidy(time.time())
            service = await self._client.service()
            needed = set(_HEARD) if self._open_holds else {"payment_received"}
            pushes = service is not None and needed <= service.notifications
            reconnected = self._client.connections != connections
            if reconnected:
                connections = self._client.connections
                self._sweep.distrust()
            if self._open and (reconnected or not pushes):
                since = min(invoice.created_at for invoice in self._open.values())
                for payment_hash, found in (await self.lookup_many(list(self._open), since, self._open_holds)).items():
                    if found.state is InvoiceState.SETTLED:
                        self._on_notification("payment_received", payment_hash)
                    elif found.state is InvoiceState.HELD:
                        self._on_notification("hold_invoice_accepted", payment_hash)

    def _over(self, payment_hash: str) -> None:
        self._open.pop(payment_hash, None)
        self._open_holds.discard(payment_hash)

    def _tidy(self, now: float) -> None:
        """Forget what has expired; not with each poll, of ten thousand."""
        if now < self._tidied + _TIDY:
            return
        self._tidied = now
        for invoice in [each for each in self._open.values() if each.expires_at < now - _TIDY]:
            self._over(invoice.payment_hash)


def _network(told: dict[str, Any]) -> str:
    network = told.get("network")
    return _NETWORKS.get(network.lower(), "mainnet") if isinstance(network, str) else "mainnet"


def _names(told: dict[str, Any], field: str) -> frozenset[str]:
    names = told.get(field)
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()
