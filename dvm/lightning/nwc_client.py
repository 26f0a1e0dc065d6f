"""Requests to a NIP-47 wallet service: encrypted, matched with their answers, paced as the service asks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from random import uniform
from typing import Any

import orjson

from dvm.lightning import nip47
from dvm.lightning.base import WalletError
from dvm.lightning.nip47 import Answer, Connection, InvalidAnswer, Service
from dvm.nostr.encryption import DecryptError, EncryptError, Scheme, decrypt, encrypt
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.pool import Published, RelayPool

log = logging.getLogger(__name__)

_SKEW = 600  # seconds that the wallet's clock may be behind ours
_MAX_BACKOFF = 60.0
_PAY = "pay_invoice"  # the one request whose repetition might cost something


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds. `timeout` bounds a request, `pay_timeout` a payment, `info_timeout` the wait for
    the service's announcement; a request without an answer is sent again after each `resend`, a payment
    never; `concurrency` requests are under way at once, and `payments` payments, which may take long;
    `backoff` is the first pause after a RATE_LIMITED, doubled with each further one. `poll` is the pause
    between two looks at a wallet that does not push.

    A sweep lists at most `pages` pages of `page` settled transactions and `held_pages` pages of all, and looks
    up at most `lookups` invoices one by one; `relist` is the time between two complete listings. A hold
    invoice asks that its payment may wait `hold_blocks` blocks."""

    timeout: float = 15.0
    pay_timeout: float = 60.0
    info_timeout: float = 3.0
    resend: float = 5.0
    concurrency: int = 16
    backoff: float = 1.0
    poll: float = 3.0
    page: int = 50
    pages: int = 20
    held_pages: int = 4
    lookups: int = 10
    relist: float = 600.0
    payments: int = 64
    hold_blocks: int = 144


class RequestError(WalletError):
    """The service answered with an error; `nip47` is its code, in NIP-47's own words."""

    def __init__(self, code: str, method: str, text: str) -> None:
        super().__init__(nip47.ERRORS.get(code, "failed"), f"{method}: the wallet says {code}: {text}")
        self.nip47 = code


class NwcClient:
    """One connection to a wallet service. All methods belong to the loop in which `start` was called."""

    def __init__(self, connection: Connection, options: Options, on_notification: Callable[[str, str], None]) -> None:
        """`on_notification` gets a type and a payment hash, of which nothing is proved."""
        self._connection, self._options, self._on_notification = connection, options, on_notification
        # One connection hears, another speaks. A relay without TCP_NODELAY keeps our answer back until we
        # have acknowledged its OK, which the kernel delays: 40 ms for every request on a connection that
        # does both. And a relay that closes a connection which speaks much does not make us deaf.
        self._hear = RelayPool(connection.relays, [], keys=connection.keys, name="wallet, hearing")
        self._speak = RelayPool([], connection.relays, keys=connection.keys, name="wallet, speaking")
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._slots = asyncio.Semaphore(options.concurrency)
        # Paying a hold invoice is answered when it is settled or cancelled: that must not hold up the rest.
        self._payments = asyncio.Semaphore(options.payments)
        self._announced: tuple[int, Service] | None = None
        self._announcement = asyncio.Event()
        self._waited = False
        self._scheme: Scheme | None = None  # what the service asked for, against its announcement
        self._not_before = 0.0
        self._backoff = 0.0
        self._closed = False

    def start(self) -> None:
        """Connect in the background."""
        wallet, client = self._connection.wallet, self._connection.keys.pubkey
        self._hear.subscribe(Filter(kinds=[nip47.INFO], authors=[wallet]), self._on_info)
        self._hear.subscribe(
            Filter(kinds=[nip47.RESPONSE, *nip47.NOTIFICATIONS.values()], authors=[wallet], tags={"p": [client]}),
            self._on_event,
            since=int(time.time()) - _SKEW,
        )
        self._hear.start()
        self._speak.start()

    @property
    def connections(self) -> int:
        """How often a relay was connected to: when it rises, notifications may have been missed."""
        return sum(relay.counters["connections"] for relay in self._hear.status())

    async def close(self) -> None:
        """Disconnect; what still waits is unreachable. Safe to call twice."""
        self._closed = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(WalletError("unreachable", "the wallet was closed"))
        await self._hear.close()
        await self._speak.close()

    async def service(self) -> Service | None:
        """What the service announces; None if no relay has told. Waits for it once, `info_timeout` long."""
        if self._announced is None and not self._waited:
            try:
                async with asyncio.timeout(self._options.info_timeout):
                    await self._announcement.wait()
            except TimeoutError:
                self._waited = True
        return None if self._announced is None else self._announced[1]

    async def request(
        self,
        method: str,
        params: Mapping[str, object],
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> dict[str, Any]:
        """The result of `method`. Raises WalletError: NotSent when nothing has left; any other `unreachable`,
        and `untrustworthy`, mean that it may have been done all the same."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._options.timeout if timeout is None else timeout)
        other_scheme = False
        limited: RequestError | None = None
        async with self._slot(self._payments if method == _PAY else self._slots, deadline):
            while True:
                await self._pace(deadline)
                await self._connected(deadline)
                scheme = await self._choose(other_scheme)
                try:
                    result = await self._exchange(method, params, scheme, deadline)
                except RequestError as error:
                    if error.nip47 == "RATE_LIMITED":
                        limited = error
                        self._slow_down()
                    elif error.nip47 == "UNSUPPORTED_ENCRYPTION" and not other_scheme:
                        other_scheme = True
                    else:
                        raise
                except WalletError as error:
                    if limited is None or error.code != "unreachable" or method == _PAY:
                        raise
                    raise limited from None  # time ran out in the next attempt: that says more
                else:
                    self._backoff = 0.0
                    if other_scheme:
                        self._scheme = scheme
                    return result

    # --- one request -----------------------------------------------------------------------------------

    async def _exchange(
        self, method: str, params: Mapping[str, object], scheme: Scheme, deadline: float
    ) -> dict[str, Any]:
        """Ask, and ask again in case a relay has lost the question or the answer; a payment is asked for once."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        sent: list[str] = []
        publishing: asyncio.Task[Published] | None = None
        try:
            while True:
                event = self._signed(method, params, scheme, deadline - loop.time())
                sent.append(event.id)
                self._waiting[event.id] = answered
                until = deadline if method == _PAY else min(deadline, loop.time() + self._options.resend)
                if publishing is not None:
                    publishing.cancel()
                publishing = loop.create_task(self._speak.publish(event, timeout=max(until - loop.time(), 0.1)))
                try:
                    async with asyncio.timeout_at(until):
                        answer = await self._answer(answered, publishing)
                        break
                except TimeoutError:
                    if until >= deadline:
                        raise WalletError(
                            "unreachable", f"{method}: no answer from the wallet in time; is its service running?"
                        ) from None
        finally:
            for event_id in sent:
                del self._waiting[event_id]
            if publishing is not None:
                publishing.cancel()
        if answer.error is not None:
            raise RequestError(answer.error, method, answer.text)
        if answer.method != method:
            raise WalletError("untrustworthy", f"{method}: the wallet answered another question")
        return answer.result

    def _signed(self, method: str, params: Mapping[str, object], scheme: Scheme, left: float) -> Event:
        keys, wallet = self._connection.keys, self._connection.wallet
        try:
            content = encrypt(scheme, keys, wallet, orjson.dumps({"method": method, "params": params}).decode())
        except (EncryptError, TypeError):
            raise WalletError("failed", f"{method}: the request cannot be encrypted") from None
        tags = [["p", wallet], ["expiration", str(ceil(time.time() + left))]]
        if scheme != "nip04":  # absent means NIP-04; old services stumble over tags that they do not know
            tags.append(["encryption", nip47.SCHEME_NAMES[scheme]])
        return keys.sign(nip47.REQUEST, tags, content)

    async def _answer(self, answered: asyncio.Future[Answer], publishing: asyncio.Task[Published]) -> Answer:
        """The answer; no longer waited for once every relay has refused the request."""
        either: set[asyncio.Future[Any]] = {answered, publishing}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done() and not publishing.result():
            reasons = "; ".join(sorted({nip47.clean(why) for why in publishing.result().failed.values()}))
            raise WalletError("unreachable", f"no relay took the request: {reasons}")
        await asyncio.wait({answered})  # not awaited itself: a time-out would cancel it for the next attempt
        return answered.result()

    async def _choose(self, other: bool) -> Scheme:
        """NIP-44 where the service knows it; NIP-04 where it does not, or announces nothing at all."""
        service = await self.service()
        announced: Scheme = "nip44" if service is not None and "nip44" in service.schemes else "nip04"
        chosen = self._scheme or announced
        if other:
            return "nip04" if chosen == "nip44" else "nip44"
        return chosen

    # --- pace ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _slot(self, slots: asyncio.Semaphore, deadline: float) -> AsyncIterator[None]:
        """A place among the requests under way, waited for until `deadline`."""
        try:
            async with asyncio.timeout_at(deadline):
                await slots.acquire()
        except TimeoutError:
            raise NotSent("too many requests wait for the wallet") from None
        try:
            yield
        finally:
            slots.release()

    async def _connected(self, deadline: float) -> None:
        left = max(deadline - asyncio.get_running_loop().time(), 0.0)
        try:
            connected = not self._closed and await self._speak.wait_connected(1, left)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            connected = False  # the pool was closed, not we cancelled
        if not connected:
            raise NotSent("none of the wallet connection's relays can be reached")

    async def _pace(self, deadline: float) -> None:
        wait = self._not_before - asyncio.get_running_loop().time()
        if wait > 0:
            if self._not_before >= deadline:
                raise WalletError("rate_limited", "the wallet wants fewer requests; tried again later")
            await asyncio.sleep(wait)

    def _slow_down(self) -> None:
        self._backoff = min(max(self._backoff * 2, self._options.backoff), _MAX_BACKOFF)
        pause = uniform(self._backoff / 2, self._backoff)
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + pause)

    # --- what arrives ----------------------------------------------------------------------------------

    def _on_info(self, event: Event, _: str) -> None:
        if self._announced is None or event.created_at > self._announced[0]:
            self._announced = (event.created_at, Service.parse(event))
            self._scheme = None
            self._announcement.set()

    def _on_event(self, event: Event, _: str) -> None:
        if event.kind == nip47.RESPONSE:
            waiting = next((w for e in event.values("e") if (w := self._waiting.get(e)) is not None), None)
            if waiting is not None and not waiting.done():
                try:
                    waiting.set_result(Answer.parse(self._decrypt(event)))
                except (DecryptError, InvalidAnswer) as error:
                    waiting.set_exception(WalletError("untrustworthy", f"the wallet's answer: {error}"))
            return
        try:
            told = nip47.parse_notification(self._decrypt(event))
        except (DecryptError, InvalidAnswer) as error:
            log.debug("wallet: a notification is skipped: %s", error)
            return
        if told is not None:
            self._on_notification(*told)

    def _decrypt(self, event: Event) -> str:
        return decrypt(self._connection.keys, self._connection.wallet, event.content)[0]


class NotSent(WalletError):
    """Nothing has left: what was to be done has certainly not been done."""

    def __init__(self, text: str) -> None:
        super().__init__("unreachable", text)
