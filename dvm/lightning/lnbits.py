"""LNbits (1.0 and newer): one wallet of an LNbits server, over its REST interface.

The key decides what may be done: an invoice key receives, an admin key pays as well. LNbits' websocket is a
hint, `GET` the proof. An invoice that has expired can still be paid from within the same LNbits until
somebody asks about it, and one that LNbits calls failed can still settle where its node says so later: both
are found by listing what has settled.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from dvm.lightning.base import (
    Capabilities,
    Invoice,
    InvoiceState,
    Payment,
    WalletError,
    WalletInfo,
)
from dvm.lightning.bolt11 import InvalidInvoice, decode
from dvm.lightning.checks import cut, payable, readable
from dvm.lightning.lnbits_push import Push
from dvm.lightning.lnbits_rows import InvalidRow, Row
from dvm.lightning.lnbits_sweep import LOOKUPS, PAGE, PAYMENTS, Sweep
from dvm.lightning.making import Asked
from dvm.lightning.places import Place
from dvm.lightning.registry import Setup
from dvm.lightning.rest import NotSent, Refused, Rest, clean, said, tls_context
from dvm.lightning.server_wallet import ServerWallet

log = logging.getLogger(__name__)

WALLET = "/api/v1/wallet"
PAY_SECONDS = 60.0
_LOOKS = 3  # at a payment whose outcome is open
_PROBE_EXPIRY = 60  # seconds
_REMEMBERED = 10_000
_TURNED_AWAY = ("unauthorized", "restricted", "rate_limited")  # before LNbits looked at the invoice
_is_key = re.compile(r"[\x21-\x7e]{8,512}").fullmatch


@dataclass(frozen=True, slots=True)
class Options:
    """How patient the wallet is, in seconds. `poll`: between two looks at the list while there is no push;
    `pay_timeout`: LNbits itself answers "pending" after some seconds of its own."""

    poll: float = 5.0
    backoff: float = 0.5
    max_backoff: float = 60.0
    pay_timeout: float = PAY_SECONDS
    page: int = PAGE
    lookups: int = LOOKUPS


class LnbitsWallet(ServerWallet):
    """A wallet of an LNbits server."""

    name = "lnbits"

    def __init__(self, setup: Setup, options: Options | None = None) -> None:
        """As `[wallet]` configures it; what its invoices must be for is by default what they are for when it is first
        seen. Raises WalletError for a key or an address that can be none, and for a certificate that is none.
        """
        url, key = setup.address("LNbits"), setup.secret
        if key is None:
            raise WalletError("unauthorized", "the key of the LNbits wallet is missing: set DVM_LNBITS_KEY")
        if not _is_key(key):
            raise WalletError("unauthorized", "what DVM_LNBITS_KEY holds is no key of an LNbits wallet")
        parts = urlsplit(url)
        if parts.query or parts.path.rstrip("/").endswith("/wallet"):
            # What follows the question mark gives access to the whole account: it is not repeated.
            raise WalletError("failed", "wallet.url must be the address of LNbits alone, such as https://example.com")
        rest = Rest(url, headers={"X-Api-Key": key}, tls_cert=setup.tls_cert, timeout=setup.timeout)
        self._options = options or Options(pay_timeout=max(setup.timeout, PAY_SECONDS))
        self._sweep = Sweep(rest, page=self._options.page, lookups=self._options.lookups)
        super().__init__(rest, self._sweep, setup.network)
        self._key = key
        self._place = Place(setup.data, self.name, url)
        self._settled: float | None = None  # until when what has settled was told, by LNbits' clock
        self._told: dict[str, None] = {}  # of that, lately
        self._push = Push(
            rest.url,
            self._listening_key,
            self._hints.tell,
            self._catch_up,
            context=tls_context(setup.tls_cert),
            poll=self._options.poll,
            backoff=self._options.backoff,
            most=self._options.max_backoff,
        )
        self._push_key: str | None = None
        self._pushes: bool | None = None

    @classmethod
    def from_setup(cls, setup: Setup) -> LnbitsWallet:
        return cls(setup)

    async def info(self) -> WalletInfo:
        """LNbits tells neither its network nor how much it can receive: the network is read off an invoice,
        and for the first one, where there is none yet, one over a sat is made."""
        told = await self._wallet()
        name, balance = told.get("name"), told.get("balance")
        network = await self._expected_network()
        if self._pushes is None:
            self._pushes = await self._push.works()
        return WalletInfo(
            alias=clean(name) if isinstance(name, str) else "",
            network=network,
            balance_msat=balance if type(balance) is int else None,
            capabilities=Capabilities(push=self._pushes, description_hash=True, pay=_may_pay(told)),
        )

    async def _make(self, asked: Asked) -> Invoice:
        order: dict[str, Any] = {
            "out": False,
            "unit": "sat",
            "amount": asked.msat // 1_000,
            "expiry": asked.expiry,
        }
        if asked.description_hash is not None:
            order["description_hash"] = asked.description_hash
            if asked.description is not None:  # some of the nodes behind LNbits want to hash it themselves
                order["unhashed_description"] = asked.text.encode(errors="replace").hex()
        else:
            asked = asked.saying(cut(asked.text) or " ")  # an empty one LNbits would replace by its own name
            order["memo"] = asked.text
        try:
            told = await self._rest.post(PAYMENTS, order)
        except WalletError as error:
            raise _meant(error) from None
        if not isinstance(told, dict):
            raise WalletError("untrustworthy", "an answer that is no invoice")
        bolt11, named = told.get("bolt11"), told.get("payment_hash")
        network = self._network or readable(bolt11, "untrustworthy").network
        invoice = asked.made(bolt11, network, named.lower() if isinstance(named, str) else None)
        self._network = self._network or network
        self._sweep.made(invoice.payment_hash)
        return invoice

    # --- paying ----------------------------------------------------------------------------------------

    async def pay(self, bolt11: str, *, fee_limit_msat: int) -> Payment:
        """As `Wallet.pay`. LNbits takes no fee limit: it spends at most a reserve of its own, which is set
        there (1 %, at least 2 sat) and which it tells. One that is larger than our limit is refused here."""
        invoice, _ = payable(bolt11)
        if self._network is not None and invoice.network != self._network:
            raise WalletError("failed", f"an invoice for {invoice.network}, and the wallet is on {self._network}")
        if invoice.expires_at <= time.time():
            # It may have been paid before: what is known of it counts more than the clock.
            return await self._outcome(invoice.payment_hash, WalletError("failed", "the invoice has expired"))
        if (refusal := await self._too_dear(bolt11, fee_limit_msat)) is not None:
            return await self._outcome(invoice.payment_hash, refusal)
        asked = {"out": True, "bolt11": bolt11}
        try:
            told = await self._rest.post(PAYMENTS, asked, timeout=self._options.pay_timeout)
            row = Row.parse(told)
        except NotSent:
            raise
        except InvalidRow as error:
            return await self._outcome(invoice.payment_hash, WalletError("untrustworthy", str(error)), in_doubt=True)
        except WalletError as error:
            return await self._outcome(invoice.payment_hash, _meant(error), in_doubt=not _refused(error))
        if row.payment_hash == invoice.payment_hash and row.msat < 0 and row.state is not InvoiceState.UNKNOWN:
            return row.paid()
        told_wrong = WalletError("untrustworthy", "LNbits answers with another payment")
        return await self._outcome(invoice.payment_hash, told_wrong, in_doubt=True)

    async def payment(self, payment_hash: str) -> Payment:
        return await self._sweep.payment(payment_hash)

    async def _too_dear(self, bolt11: str, fee_limit_msat: int) -> WalletError | None:
        """The reason not to pay, if LNbits might spend more on fees than that. Raises WalletError."""
        try:
            told = await self._rest.get(f"{PAYMENTS}/fee-reserve", {"invoice": bolt11})
        except WalletError as error:
            if error.code == "unreachable":
                raise
            return _meant(error)
        reserve = told.get("fee_reserve") if isinstance(told, dict) else None
        if type(reserve) is not int or reserve < 0:
            return WalletError("unsupported", "LNbits does not tell its fee reserve: version 1.0 or newer is needed")
        if reserve > fee_limit_msat:
            return WalletError(
                "failed",
                f"LNbits may spend up to {reserve} msat on fees, and {fee_limit_msat} are allowed: lower its fee "
                "reserve (lnbits_reserve_fee_min and _percent), or raise the limit",
            )
        return None

    async def _outcome(self, payment_hash: str, error: WalletError, *, in_doubt: bool = False) -> Payment:
        """What became of a payment that was answered with `error`, or not at all.

        "Already paid" and "still pending" are errors as well, so the error is all there is only if LNbits
        knows of no such payment. `in_doubt`: our request may still be on its way.
        """
        for look in range(_LOOKS if in_doubt else 1):
            if look:
                await asyncio.sleep(self._options.backoff * look)
            found = await self.payment(payment_hash)
            if found.state is not InvoiceState.UNKNOWN:
                return found
            if not in_doubt and (not found.known or error.code in _TURNED_AWAY):
                raise error
        return Payment(InvoiceState.UNKNOWN)

    # --- hints -----------------------------------------------------------------------------------------

    def _followers(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        return {"push": self._listen}

    async def _listen(self) -> None:
        kept = (await self._place.load()).get("settled_ms")
        self._settled = None if kept is None else kept / 1_000
        await self._push.run()

    async def _catch_up(self) -> None:
        """Tell of what has settled since the last time: what a push has missed, or while we were away."""
        begin = time.time() if self._settled is None else self._settled
        hashes, place = await self._sweep.settled_since(begin)
        for payment_hash in hashes:
            if payment_hash not in self._told:
                self._told[payment_hash] = None
                self._hints.tell(payment_hash)
        while len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]
        if place is not None:
            self._settled = place
            await self._place.keep({"settled_ms": int(place * 1_000)})

    async def _listening_key(self) -> str:
        """The invoice key, which is all that the websocket needs: an admin key never stands in an address,
        since addresses end up in the logs of servers and proxies. LNbits tells it to who changes nothing."""
        if self._push_key is None:
            if not _may_pay(await self._wallet()):
                self._push_key = self._key
            else:
                told = await self._rest.call("PATCH", WALLET, json={})
                key = told.get("inkey") if isinstance(told, dict) else None
                if not isinstance(key, str) or not _is_key(key) or key == self._key:
                    raise WalletError("unsupported", "LNbits does not tell its wallet's invoice key")
                self._push_key = key
        return self._push_key

    # --- within ----------------------------------------------------------------------------------------

    async def _wallet(self) -> dict[str, Any]:
        """What LNbits says of the key's wallet. Raises WalletError."""
        try:
            told = await self._rest.get(WALLET)
        except WalletError as error:
            raise _meant(error) from None
        if not isinstance(told, dict) or "balance" not in told:
            raise WalletError("untrustworthy", "an answer that is not LNbits': is wallet.url its address?")
        return told

    async def _ask_network(self) -> str:
        """The network of the newest invoice, or of one that is made for it."""
        params = {"limit": 10, "sortby": "created_at", "direction": "desc", "amount[gt]": 0}
        try:
            told = await self._rest.get(PAYMENTS, params)
        except WalletError as error:
            raise _meant(error) from None
        for raw in told[:10] if isinstance(told, list) else ():
            try:
                row = Row.parse(raw)
                if row.msat > 0:
                    return decode(row.bolt11).network
            except (InvalidRow, InvalidInvoice):
                continue
        made = await self.create_invoice(1_000, description="which network?", expiry=_PROBE_EXPIRY)
        return decode(made.bolt11).network


def _may_pay(told: dict[str, Any]) -> bool:
    """LNbits tells a wallet's id to its admin key only."""
    return isinstance(told.get("id"), str)


def _refused(error: WalletError) -> bool:
    """Whether it is LNbits' own word that this call paid nothing. A proxy's answer is none, nor is a 500; an
    answer of 520 is what LNbits gives to every payment that fails, in JSON (Cloudflare's 520 is HTML)."""
    return isinstance(error, Refused) and bool(error.body) and (error.status < 500 or error.status == 520)


def _meant(error: WalletError) -> WalletError:
    """What LNbits means by an error: it answers 404 to a wrong key, and 520 to whatever else goes wrong."""
    if not isinstance(error, Refused):
        return error
    text = said(error.body).lower()
    if error.status == 404 and "wallet" in text:
        return WalletError("unauthorized", "LNbits knows no wallet with this key")
    if error.status == 404:
        return WalletError(
            "failed", "there is no LNbits of version 1.0 or newer at this address (404): is wallet.url right?"
        )
    if "insufficient balance" in text or "must reserve" in text:
        return WalletError("insufficient", clean(text))
    return error
