"""Customers who zap the shop and take their money back, whatever becomes of the daemon meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dvm.lightning.base import WalletError
from dvm.lightning.bolt11 import decode
from dvm.lightning.nwc import NwcWallet
from dvm.lightning.paper_socket import pay_over_socket
from dvm.lightning.zaps import ZAP_REQUEST
from dvm.nip90.account import account_request_draft
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool

PATIENCE = 50  # attempts to pay: the wallet is away at times as well


@dataclass
class Zapped:
    """An invoice of the shop's Lightning address: whose balance, or which job, it must come to."""

    payer: str
    job: str | None
    msat: int
    bolt11: str


@dataclass
class Withdrawn:
    """A request for money, and the invoice that it must be paid to once at most."""

    customer: str
    payment_hash: str
    msat: int


class Money:
    """Zaps and withdrawals of one load of customers."""

    def __init__(self, relay: str, provider: str, socket: Path, gateway: str, wallet: str, chance: random.Random):
        self.zaps: dict[str, Zapped] = {}  # by payment hash
        self.withdrawals: dict[str, Withdrawn] = {}  # by request
        self._relay, self._provider, self._socket = relay, provider, socket
        self._callback = f"{gateway}/lnurlp/shop/callback"
        self._random = chance
        self._http = httpx.AsyncClient(timeout=5, trust_env=False)
        self._wallet = NwcWallet(wallet, network="regtest")

    async def start(self) -> None:
        await self._wallet.start()

    async def close(self) -> None:
        await self._wallet.close()
        await self._http.aclose()

    async def zap(self, keys: Keys, msat: int, *, event: str | None = None, job: str | None = None) -> bool:
        """Zap the shop's profile, or one of its quotes. Whether it was paid."""
        tags = [["p", self._provider], ["amount", str(msat)], ["relays", self._relay]]
        if event is not None:
            tags.append(["e", event])
        request = keys.sign(ZAP_REQUEST, tags, "zap!", int(time.time()))
        try:
            answer = await self._http.get(self._callback, params={"amount": msat, "nostr": request.to_json()})
            bolt11 = answer.json().get("pr")
        except (httpx.HTTPError, ValueError):  # the daemon is away
            return False
        if not isinstance(bolt11, str):
            return False
        self.zaps[decode(bolt11).payment_hash] = Zapped(keys.pubkey, job, msat, bolt11)
        return await pay(self._socket, bolt11)

    async def withdraw(self, pool: RelayPool, keys: Keys) -> None:
        """Ask for some sats back; sometimes more than there are, sometimes twice."""
        msat = self._random.randint(10, 80) * 1000
        try:
            invoice = await self._wallet.create_invoice(msat, description="mine", expiry=600)
        except WalletError:
            return
        now = int(time.time())
        draft = account_request_draft(
            keys, self._provider, "withdraw", now, bolt11=invoice.bolt11, relays=[self._relay]
        )
        request = draft.sign(keys, now)
        self.withdrawals[request.id] = Withdrawn(keys.pubkey, invoice.payment_hash, msat)
        await pool.publish(request)
        if self._random.random() < 0.3:
            await asyncio.sleep(self._random.random())
            await self._again(pool, keys, invoice.bolt11)

    async def _again(self, pool: RelayPool, keys: Keys, bolt11: str) -> None:
        """The same invoice in another request: it must not be paid for twice."""
        now = int(time.time()) + 1
        draft = account_request_draft(keys, self._provider, "withdraw", now, bolt11=bolt11)
        request: Event = draft.sign(keys, now)
        said: Any = decode(bolt11)
        self.withdrawals[request.id] = Withdrawn(keys.pubkey, said.payment_hash, said.msat)
        await pool.publish(request)


async def pay(socket: Path, bolt11: str) -> bool:
    """Pay an invoice as anybody may; whether its money has left (it may wait: a hold invoice)."""
    for _ in range(PATIENCE):
        try:
            answer = await pay_over_socket(socket, bolt11)
        except WalletError:
            await asyncio.sleep(0.2)
            continue
        return bool(answer["paid"]) or bool(answer.get("held")) or answer.get("reason") == "already_paid"
    return False
