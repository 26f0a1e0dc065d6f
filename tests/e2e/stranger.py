"""A customer who knows nothing of this project but a relay's address: rust-nostr's client and its own NWC."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import nostr_sdk as sdk

Raw = dict[str, Any]


class Stranger:
    """`heard` holds what came for each job, as decoded JSON, in the order of its coming; `events` the client's own
    objects, by id."""

    def __init__(self, wallet_uri: str) -> None:
        self.keys = sdk.Keys.generate()
        self.heard: defaultdict[str, list[Raw]] = defaultdict(list)
        self.events: dict[str, sdk.Event] = {}
        self.relays: set[str] = set()  # from which it heard anything
        self._client = sdk.ClientBuilder().build()
        self._wallet = sdk.NostrWalletConnectBuilder(sdk.NostrWalletConnectUri.parse(wallet_uri)).build()
        self._changed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    @property
    def pubkey(self) -> str:
        return self.keys.public_key().to_hex()

    async def connect(self, relay: str, writes: str | None = None) -> None:
        """To listen on that relay, and to publish there as well, or else on `writes`."""
        if writes is None:
            await self._client.add_relay(sdk.RelayUrl.parse(relay))
        else:
            await self._client.add_relay(sdk.RelayUrl.parse(relay), capabilities=sdk.RelayCapabilities.read())
            await self._client.add_relay(sdk.RelayUrl.parse(writes), capabilities=sdk.RelayCapabilities.write())
        await self._client.try_connect(timedelta(seconds=10))
        notifications = self._client.notifications()
        self._listening = asyncio.create_task(self._listen(notifications))
        kinds = [sdk.Kind(kind) for kind in (7000, 6000, 6001, 6002, 6050, 6100, 6250, 7090)]
        wanted = sdk.Filter().kinds(kinds).pubkey(self.keys.public_key())
        await self._client.subscribe(sdk.ReqTarget.auto([wanted]))

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        await self._client.shutdown()

    async def ask(self, text: str, *tags: list[str]) -> str:
        """Publish a job request of kind 5050; its id."""
        return await self.send(5050, [["i", text, "text"], *tags])

    async def ask_hidden(self, provider: str, scheme: str, kind: int, tags: list[list[str]]) -> str:
        """Publish a job request whose tags are encrypted for `provider`, with `nip44` or `nip04`; its id."""
        whom, secret, text = sdk.PublicKey.parse(provider), self.keys.secret_key(), json.dumps(tags)
        if scheme == "nip04":
            content = sdk.nip04_encrypt(secret, whom, text)
        else:
            content = sdk.nip44_encrypt(secret, whom, text, sdk.Nip44Version.V2)
        return await self.send(kind, [["p", provider], ["encrypted"]], content)

    async def cancel(self, job: str, kind: int) -> None:
        """Take a job of that kind back (NIP-09)."""
        await self.send(5, [["e", job], ["k", str(kind)]], "changed my mind")

    async def delete(self, *jobs: str) -> None:
        """Take jobs back as NIP-09 has it at the least: by their ids alone."""
        tags = [sdk.Tag.event(sdk.EventId.parse(job)) for job in jobs]
        event = sdk.EventBuilder(sdk.Kind(5), "").tags(tags).finalize(self.keys)
        assert [tag.to_vec() for tag in event.tags()] == [["e", job] for job in jobs]
        assert (await self._client.send_event(event)).success

    async def send(self, kind: int, tags: list[list[str]], content: str = "") -> str:
        """Publish an event; its id."""
        builder = sdk.EventBuilder(sdk.Kind(kind), content).tags([sdk.Tag.parse(tag) for tag in tags])
        event = builder.finalize(self.keys)
        sent = await self._client.send_event(event)
        assert sent.success
        return str(event.id().to_hex())

    def open(self, event: sdk.Event) -> str:
        """What an encrypted answer says, by the scheme that it is in."""
        opened = sdk.nip04_decrypt if "?iv=" in event.content() else sdk.nip44_decrypt
        return str(opened(self.keys.secret_key(), event.author(), event.content()))

    async def pay(self, invoice: str) -> str:
        """Pay an invoice through the wallet connection; the preimage."""
        request = sdk.PayInvoiceRequest(id=None, invoice=invoice, amount=None)
        return str((await self._wallet.pay_invoice(request)).preimage)

    async def until(self, job: str, condition: Callable[[Raw], bool], timeout: float = 60.0) -> Raw:
        """The first event of that job of which the condition holds, waited for."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for event in self.heard[job]:
                        if condition(event):
                            return event
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not among {self.heard[job]}") from None

    async def feedback(self, job: str, status: str) -> Raw:
        """The first feedback of that status."""
        return await self.until(job, lambda event: event["kind"] == 7000 and tag(event, "status")[1] == status)

    async def of_kind(self, job: str, kind: int) -> Raw:
        return await self.until(job, lambda event: event["kind"] == kind)

    def statuses(self, job: str) -> list[str]:
        """What came for it, in order: the statuses of feedback, the numbers of other kinds."""
        return [tag(e, "status")[1] if e["kind"] == 7000 else str(e["kind"]) for e in self.heard[job]]

    async def _listen(self, notifications: Any) -> None:
        while (note := await notifications.next()) is not None:
            if isinstance(note, sdk.ClientNotification.NEW_EVENT):
                event = json.loads(note.event.as_json())
                self.events[event["id"]] = note.event
                self.relays.add(str(note.relay_url))
                self.heard[tag(event, "e")[1]].append(event)
                self._changed.set()


@asynccontextmanager
async def stranger(relay: str, wallet_uri: str, writes: str | None = None) -> AsyncIterator[Stranger]:
    one = Stranger(wallet_uri)
    await one.connect(relay, writes)
    try:
        yield one
    finally:
        await one.close()


def tag(event: Raw, name: str) -> list[str]:
    """The first tag of that name, whole."""
    return next(each for each in event["tags"] if each[0] == name)


def tags(event: Raw, name: str) -> list[list[str]]:
    """All tags of that name."""
    return [each for each in event["tags"] if each[0] == name]
