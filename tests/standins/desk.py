"""A provider's account desk and Lightning address, whose every word a test decides.

async def act(desk: Desk, request: AccountRequest) -> None:
    await desk.answer(request, balance=StatedBalance(1, 2, 3))

async with desk(url, act) as d: ...
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dvm.lightning.paper_node import PaperInvoice, PaperNode
from dvm.lightning.zaps import ZapRequest, description_hash, parse_zap_request
from dvm.nip90 import (
    ACCOUNT_REQUEST,
    AccountRequest,
    Profile,
    StatedBalance,
    Withdrawal,
    make_account_answer,
    make_receipt,
    parse_account_request,
    profile_draft,
)
from dvm.nostr import Event, Filter, Keys, RelayPool
from tests.standins.loopback import Loopback
from tests.standins.provider import Money, Place
from tests.standins.seller import QUICK

Act = Callable[["Desk", AccountRequest], Awaitable[None]]


async def silent(_desk: Desk, _request: AccountRequest) -> None:
    """Answers nothing."""


class Desk:
    """One provider; `requests` are what it was asked, `said` what it has published, `node` where it is paid."""

    def __init__(self, pool: RelayPool, keys: Keys, node: PaperNode, act: Act) -> None:
        self.pool, self.keys, self.node, self.act = pool, keys, node, act
        self.requests: list[AccountRequest] = []
        self.said: list[Event] = []
        self._last: dict[str, tuple[int, str | None, int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        node.open_wallet(keys.pubkey)

    async def say(self, event: Event) -> Event:
        self.said.append(event)
        await self.pool.publish(event)
        return event

    async def answer(self, request: AccountRequest, *, by: Keys | None = None, **fields: Any) -> Event:
        """The fields are those of `make_account_answer`."""
        return await self.say(make_account_answer(by or self.keys, request, int(time.time()), **fields))

    async def done(self, request: AccountRequest, msat: int, fee_msat: int, payment_hash: str, **fields: Any) -> Event:
        """A withdrawal that is paid, it says."""
        told = Withdrawal(request.id, "paid", msat, fee_msat, payment_hash)
        balance = StatedBalance(0, 0, 0)
        return await self.answer(request, **{"withdrawal": told, "balance": balance, **fields})

    async def receipt(
        self, customer: str, msat: int, payment_hash: str, *, source: str = "bolt11", **lies: Any
    ) -> Event:
        """The next receipt of this customer's chain, without a job; `lies` change its place."""
        seq, prev, before = self._last.get(customer, (0, None, 0))
        place: dict[str, Any] = {"seq": seq + 1, "prev": prev, "before": before, "cost": 0}
        place["payments"] = [Money(source, payment_hash, msat)]
        place |= lies
        place["after"] = place["before"] + sum(payment.msat for payment in place["payments"])
        event = make_receipt(self.keys, customer, Place(**place), int(time.time()), scheme="nip44")
        self._last[customer] = seq + 1, event.id, place["after"]
        return await self.say(event)

    def hear(self, event: Event, _: str) -> None:
        if event.id in {request.id for request in self.requests}:
            return
        request = parse_account_request(event, self.keys)
        self.requests.append(request)
        self.do(self.act(self, request))

    def do(self, work: Any) -> None:
        """In the background; what it raises fails the test."""
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


@asynccontextmanager
async def desk(
    url: str, act: Act = silent, *, keys: Keys | None = None, node: PaperNode | None = None, since: int | None = None
) -> AsyncIterator[Desk]:
    """A provider that does `act` for each account request to it, as long as the block."""
    keys = keys or Keys.generate()
    async with RelayPool([url], [url], keys=keys, options=QUICK) as pool:
        stands = Desk(pool, keys, node or PaperNode(), act)
        wanted = Filter(kinds=[ACCOUNT_REQUEST], tags={"p": [keys.pubkey]})
        pool.subscribe(wanted, stands.hear, since=int(time.time()) - 5 if since is None else since)
        await pool.wait_connected(timeout=10)
        try:
            yield stands
        finally:
            await stands.close()


class ZapServer:
    """The LNURL server of a provider's Lightning address. `zaps` are the zap requests that it has accepted, each as
    the provider checks it, with its invoice. `answer` may change what the callback says."""

    def __init__(self, keys: Keys, node: PaperNode) -> None:
        self._keys, self._node = keys, node
        self.zaps: list[tuple[ZapRequest, PaperInvoice]] = []
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self.params: dict[str, Any] = {}
        node.open_wallet(keys.pubkey)
        self.http = Loopback(
            Starlette(routes=[Route("/.well-known/lnurlp/shop", self._offer), Route("/callback", self._pay)])
        )

    @property
    def address(self) -> str:
        return f"shop@{self.http.url.removeprefix('http://')}"

    @property
    def invoices(self) -> list[PaperInvoice]:
        return [invoice for _, invoice in self.zaps]

    async def _offer(self, _: Request) -> Response:
        said = {
            "tag": "payRequest",
            "callback": f"{self.http.url}/callback",
            "minSendable": 1_000,
            "maxSendable": 10**9,
            "metadata": '[["text/plain","a shop"]]',
            "allowsNostr": True,
            "nostrPubkey": self._keys.pubkey,
        }
        return JSONResponse({**said, **self.params})

    async def _pay(self, request: Request) -> Response:
        msat, text = int(request.query_params["amount"]), request.query_params["nostr"]
        zap = parse_zap_request(
            text, recipient=self._keys.pubkey, provider=self._keys.pubkey, msat=msat, lnurls=[self.address]
        )
        invoice = self._node.make(self._keys.pubkey, msat, description_hash=description_hash(text), expiry=600)
        self.zaps.append((zap, invoice))
        return JSONResponse(self.answer({"pr": invoice.bolt11, "routes": []}))


@asynccontextmanager
async def zap_server(pool: RelayPool, keys: Keys, node: PaperNode) -> AsyncIterator[ZapServer]:
    """The address of the provider with these keys, which its profile on the relay names, as long as the block."""
    async with AsyncExitStack() as stack:
        server = ZapServer(keys, node)
        await server.http.start()
        stack.push_async_callback(server.http.stop)
        profile = profile_draft(Profile("a shop", lud16=server.address)).sign(keys, int(time.time()))
        assert await pool.publish(profile)
        yield server


def foreign(msat: int = 5_000) -> tuple[PaperNode, PaperInvoice]:
    """A node of somebody else's, and an invoice there: where a withdrawal may go."""
    node = PaperNode()
    node.open_wallet("payee")
    return node, node.make("payee", msat, description="mine", expiry=600)
