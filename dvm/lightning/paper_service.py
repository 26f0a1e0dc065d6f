"""The paper node as a NIP-47 wallet service: the demo and the tests take the path of a real wallet.

`python -m dvm.lightning.paper_service --relay ws://… [--data DIR]` runs it as a process of its own and
prints one JSON line with the connections' URIs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from dvm.lightning import nip47, paper_methods
from dvm.lightning.nip47 import Connection
from dvm.lightning.paper_methods import METHODS, MethodError
from dvm.lightning.paper_node import PaperInvoice, PaperNode
from dvm.nostr.encryption import DecryptError, Scheme, decrypt, encrypt
from dvm.nostr.event import Event
from dvm.nostr.filters import Filter
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool

BOTH: tuple[Scheme, ...] = ("nip44", "nip04")
NOTIFIED = ("payment_received", "payment_sent", "hold_invoice_accepted")
_SCHEMES: dict[str, Scheme] = {name: scheme for scheme, name in nip47.SCHEME_NAMES.items()}
_TASKS = 1_000  # under way; what more strangers ask is not answered
_AGE = 60  # seconds: older requests have been answered, or their client has given up


@dataclass(slots=True)
class ServiceFaults:
    """What a test may order of one connection. A number is used up, True is for ever."""

    delay: float = 0.0  # seconds before each answer and notification
    drop_requests: int | bool = 0  # neither done nor answered
    drop_responses: int | bool = 0  # done, and not answered
    drop_notifications: int | bool = 0
    drop_accepted: int | bool = 0  # only the notifications that a hold invoice is accepted
    delay_accepted: float = 0.0  # seconds before those
    silent: Collection[str] = ()  # methods that are done, and not answered
    duplicate_notifications: int = 0  # extra copies, each its own event
    omit_state: bool = False
    omit_nulls: bool = False
    errors: dict[str, str] = field(default_factory=dict)  # method, or "*": the code to answer with
    limited: int = 0  # so many requests are answered with RATE_LIMITED
    tamper: Callable[[str, dict[str, Any]], object] | None = None  # method, body → body, or text as it is
    author: Keys | None = None  # who signs the responses, if not the service
    answers_to: str | None = None  # the request that the responses name, if not the one that was asked


@dataclass(slots=True)
class ServiceCounters:
    requests: int = 0
    by_method: dict[str, int] = field(default_factory=dict)
    responses: int = 0
    notifications: int = 0


@dataclass(slots=True)
class Served:
    """One connection as the service sees it: its own key, the client's, and what the client may do."""

    name: str
    wallet: str
    keys: Keys
    connection: Connection
    methods: frozenset[str]
    schemes: tuple[Scheme, ...]
    notifications: tuple[str, ...]
    faults: ServiceFaults = field(default_factory=ServiceFaults)
    counters: ServiceCounters = field(default_factory=ServiceCounters)


class PaperService:
    """Answers NIP-47 requests for the wallets of `node` on `relays`."""

    def __init__(self, node: PaperNode, relays: Sequence[str]) -> None:
        self.node = node
        self._relays = tuple(relays)
        # Two connections, for the reason that NwcClient gives.
        identity = Keys.generate()  # for relays that want to know somebody (NIP-42)
        self._hear = RelayPool(relays, [], keys=identity)
        self._speak = RelayPool([], relays, keys=identity)
        self._served: dict[str, Served] = {}  # by the service's key for that connection
        self._answered: dict[str, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(
        self,
        wallet: str,
        *,
        name: str | None = None,
        keys: tuple[Keys, Keys] | None = None,
        methods: Iterable[str] = METHODS,
        schemes: Sequence[Scheme] = BOTH,
        notifications: Sequence[str] = NOTIFIED,
    ) -> Served:
        """A new connection to that wallet of the node, before `start`. `keys`: the service's and the client's."""
        own, client = keys or (Keys.generate(), Keys.generate())
        served = Served(
            name=name or wallet,
            wallet=wallet,
            keys=own,
            connection=Connection(own.pubkey, self._relays, client),
            methods=frozenset(methods),
            schemes=tuple(schemes),
            notifications=tuple(notifications),
        )
        self.node.open_wallet(wallet)
        self._served[own.pubkey] = served
        return served

    async def start(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109
        """Connect and announce. Returns once a relay has every announcement, or after `timeout` seconds;
        it goes on trying, and stays until `close`."""
        self.node.on_settled.append(self._settled)
        self.node.on_accepted.append(self._accepted)
        self._hear.subscribe(
            Filter(kinds=[nip47.REQUEST], tags={"p": list(self._served)}),
            self._on_request,
            since=int(time.time()) - _AGE,
        )
        self._hear.start()
        self._speak.start()
        await self._hear.wait_connected(1, timeout)
        await self._announce(timeout)

    async def close(self) -> None:
        """Leave the relays. Safe to call twice."""
        if self._settled in self.node.on_settled:
            self.node.on_settled.remove(self._settled)
            self.node.on_accepted.remove(self._accepted)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hear.close()
        await self._speak.close()

    async def notify(self, served: Served, kind: str, invoice: PaperInvoice, *, settled_at: int | None) -> None:
        """Send a notification. Called by a test about an unpaid invoice, it is a lie."""
        faults = served.faults
        transaction = paper_methods.transaction(invoice, "outgoing" if kind == "payment_sent" else "incoming")
        if kind == "hold_invoice_accepted":
            transaction |= {"state": "accepted"}
        else:
            transaction |= {"state": "settled", "settled_at": settled_at, "preimage": invoice.preimage}
        if faults.omit_state:
            del transaction["state"]
        text = orjson.dumps({"notification_type": kind, "notification": transaction}).decode()
        if faults.delay:
            await asyncio.sleep(faults.delay)
        client = served.connection.keys.pubkey
        for _ in range(1 + faults.duplicate_notifications):
            for scheme in served.schemes:
                content = encrypt(scheme, served.keys, client, text)
                event = served.keys.sign(nip47.NOTIFICATIONS[scheme], [["p", client]], content)
                served.counters.notifications += 1
                await self._speak.publish(event)

    # --- within ----------------------------------------------------------------------------------------

    async def _announce(self, timeout: float) -> None:  # noqa: ASYNC109
        events = [self._announcement(served) for served in self._served.values()]
        await asyncio.gather(*(self._speak.publish(event, timeout=timeout) for event in events))

    def _announcement(self, served: Served) -> Event:
        tags = [["notifications", " ".join(served.notifications)]] if served.notifications else []
        if served.schemes != ("nip04",):  # an old service has no such tag
            tags.append(["encryption", " ".join(nip47.SCHEME_NAMES[scheme] for scheme in served.schemes)])
        words = [method for method in METHODS if method in served.methods]
        if served.notifications:
            words.append("notifications")
        return served.keys.sign(nip47.INFO, tags, " ".join(words))

    def _on_request(self, event: Event, _: str) -> None:
        served = next((s for p in event.values("p") if (s := self._served.get(p)) is not None), None)
        if served is None or event.id in self._answered or len(self._tasks) >= _TASKS:
            return
        expiration = event.tag("expiration")
        if expiration is not None and expiration.isdecimal() and int(expiration[:18]) < time.time():
            return
        self._answered[event.id] = None
        if len(self._answered) > 10_000:
            del self._answered[next(iter(self._answered))]
        self._spawn(self._respond(served, event))

    async def _respond(self, served: Served, event: Event) -> None:
        faults = served.faults
        served.counters.requests += 1
        if _strikes(faults, "drop_requests"):
            return
        method, body, scheme = await self._answer(served, event)
        if faults.omit_nulls:
            body = {name: value for name, value in body.items() if value is not None}
        tampered = body if faults.tamper is None else faults.tamper(method, body)
        text = tampered if isinstance(tampered, str) else orjson.dumps(tampered).decode()
        if faults.delay:
            await asyncio.sleep(faults.delay)
        if method in faults.silent or _strikes(faults, "drop_responses"):
            return
        author = faults.author or served.keys
        tags = [["p", event.pubkey], ["e", faults.answers_to or event.id]]
        served.counters.responses += 1
        await self._speak.publish(author.sign(nip47.RESPONSE, tags, encrypt(scheme, author, event.pubkey, text)))

    async def _answer(self, served: Served, event: Event) -> tuple[str, dict[str, Any], Scheme]:
        """Do what is asked: the method, the response's body, and the scheme to send it in."""
        asked = event.tag("encryption") or "nip04"
        scheme = _SCHEMES.get(asked, "nip44")
        method = "unknown"
        try:
            if event.pubkey != served.connection.keys.pubkey:
                raise MethodError("UNAUTHORIZED", "this key has no wallet connected")
            if asked not in _SCHEMES or scheme not in served.schemes:
                scheme = served.schemes[0]
                raise MethodError("UNSUPPORTED_ENCRYPTION", "this service knows another encryption")
            method, params = self._read(served, event)
            result = await self._call(served, method, params)
        except MethodError as error:
            return (
                method,
                {"result_type": method, "error": {"code": error.code, "message": str(error)}, "result": None},
                scheme,
            )
        return method, {"result_type": method, "error": None, "result": result}, scheme

    def _read(self, served: Served, event: Event) -> tuple[str, dict[str, Any]]:
        try:
            request = orjson.loads(decrypt(served.keys, event.pubkey, event.content)[0])
        except (DecryptError, orjson.JSONDecodeError):
            raise MethodError("OTHER", "the request cannot be read") from None
        method = request.get("method") if isinstance(request, dict) else None
        params = (request.get("params") or {}) if isinstance(request, dict) else None
        if not isinstance(method, str) or not isinstance(params, dict):
            raise MethodError("OTHER", "a request has a method and params")
        return method, params

    async def _call(self, served: Served, method: str, params: dict[str, Any]) -> dict[str, Any]:
        faults = served.faults
        counts = served.counters.by_method
        counts[method] = counts.get(method, 0) + 1
        if faults.limited > 0:
            faults.limited -= 1
            raise MethodError("RATE_LIMITED", "too many requests")
        ordered = faults.errors.get(method) or faults.errors.get("*")
        if ordered is not None:
            raise MethodError(ordered, "so ordered by a test")
        if method not in METHODS:
            raise MethodError("NOT_IMPLEMENTED", "no such method")
        if method not in served.methods:
            raise MethodError("RESTRICTED", f"this connection may not {method}")
        result = await paper_methods.call(self.node, served.wallet, method, params)
        if method == "get_info":
            result |= {"methods": sorted(served.methods), "notifications": list(served.notifications)}
        if faults.omit_state:
            for transaction in result.get("transactions", [result]):
                transaction.pop("state", None)
        return result

    def _settled(self, invoice: PaperInvoice) -> None:
        for served in self._served.values():
            for kind, wallet in (("payment_received", invoice.wallet), ("payment_sent", invoice.payer)):
                hears = wallet == served.wallet and kind in served.notifications
                if hears and not _strikes(served.faults, "drop_notifications"):
                    self._spawn(self.notify(served, kind, invoice, settled_at=invoice.settled_at))

    def _accepted(self, invoice: PaperInvoice) -> None:
        kind = "hold_invoice_accepted"
        for served in self._served.values():
            hears = invoice.wallet == served.wallet and kind in served.notifications
            dropped = hears and (
                _strikes(served.faults, "drop_accepted") or _strikes(served.faults, "drop_notifications")
            )
            if hears and not dropped:
                self._spawn(self._notify_accepted(served, kind, invoice))

    async def _notify_accepted(self, served: Served, kind: str, invoice: PaperInvoice) -> None:
        if served.faults.delay_accepted:
            await asyncio.sleep(served.faults.delay_accepted)
        await self.notify(served, kind, invoice, settled_at=None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _strikes(faults: ServiceFaults, name: str) -> bool:
    """Whether that fault strikes now; a counted one is used up."""
    value = getattr(faults, name)
    if value is True or value <= 0:
        return value is True
    setattr(faults, name, value - 1)
    return True


if __name__ == "__main__":
    from dvm.lightning.paper_process import main

    main()
