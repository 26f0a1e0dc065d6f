"""Paying a provider by zap (NIP-57): their Lightning address, our signed request, the invoice to pay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson

from dvm.customer.conversation import Conversation
from dvm.customer.quotes import LEAST_SECONDS, Unpayable
from dvm.customer.updates import Quoted
from dvm.lightning.bolt11 import decode
from dvm.lightning.lnurl import LnurlClient, LnurlError
from dvm.lightning.lnurl_address import encode_lnurl
from dvm.lightning.zaps import ZAP_REQUEST
from dvm.nip90 import PROFILE, Draft, Feedback, is_lightning_address
from dvm.nip90.wire import is_hex64, natural
from dvm.nostr import Event, Filter, Keys, RelayPool

REAL = "mainnet"
"""The network of an invoice that is paid by hand: nobody knows by which wallet, so it is one for real money."""
MAX_PROFILE_CHARS = 65_536
MAX_RELAYS = 5
MAX_WEIGHT = 10**9


class ZapQuotes:
    """Makes quotes that only a zap pays into offers, in the background, for one job."""

    def __init__(
        self,
        zapper: Zapper,
        talk: Conversation,
        ended: Callable[[], None],
        *,
        network: str | None,
    ) -> None:
        """`ended` is called after each. `network` is the payer's; None is REAL."""
        self._zapper, self._talk, self._ended = zapper, talk, ended
        self._network = network or REAL
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, relays: Sequence[str]) -> None:
        """Ask for the invoices of the quotes that are new; `relays` is where the receipts are wanted."""
        while self._talk.unpriced:
            feedback = self._talk.unpriced.popleft()
            task = asyncio.get_running_loop().create_task(self._ask(feedback, relays), name="customer zap")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ask no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, feedback: Feedback, relays: Sequence[str]) -> None:
        try:
            quote = await self._zapper.quote(
                feedback.provider,
                feedback.msat or 0,
                network=self._network,
                event=feedback.event,
                receipt_relays=relays,
            )
        except Unpayable as error:
            self._talk.refuse(feedback.provider, error.code, f"it has no invoice; {error}")
        else:
            self._talk.offer(replace(quote, text=feedback.text))
        self._ended()


class Zapper:
    """Gets invoices that a zap of ours pays. `lnurl` stays its owner's."""

    def __init__(self, keys: Keys, relays: RelayPool, lnurl: LnurlClient, *, timeout: float = 5.0) -> None:
        """`timeout` is the seconds for which relays are asked for a profile."""
        self._keys, self._relays, self._lnurl, self._timeout = keys, relays, lnurl, timeout

    async def quote(
        self,
        provider: str,
        msat: int,
        *,
        network: str,
        event: Event | None = None,
        receipt_relays: Sequence[str] = (),
        text: str = "",
    ) -> Quoted:
        """An invoice over exactly `msat` (whole sats) which zaps `event`, or without one the provider's profile.

        The receipt is wanted on `receipt_relays`, or on all of ours. `provider` in hex. Raises Unpayable
        `no-address`, `zap-failed` or `expired`.
        """
        receiver, hint = (provider, "") if event is None else receiver_of(event)
        address = await fetch_address(self._relays, receiver, timeout=self._timeout)
        if address is None and hint:
            address = await fetch_address(self._relays, receiver, at=[hint], timeout=self._timeout)
        if address is None:
            raise Unpayable("no-address", "its profile has no Lightning address")
        try:
            params = await self._lnurl.fetch(address)
            lnurl = encode_lnurl(params.url)
            where = list(receipt_relays) or [status.url for status in self._relays.status()]
            request = zap_request_draft(
                receiver, msat, lnurl=lnurl, relays=where[:MAX_RELAYS], about=event, text=text
            ).sign(self._keys, int(time.time()))
            bolt11 = await self._lnurl.invoice(
                params, msat, network=network, zap_request=request.to_json(), lnurl=lnurl
            )
        except LnurlError as error:
            raise Unpayable("zap-failed", f"its Lightning address {address}: {error}") from None
        invoice = decode(bolt11)
        if invoice.expires_at < time.time() + LEAST_SECONDS:
            raise Unpayable("expired", "the invoice of its Lightning address has expired")
        return Quoted(
            provider=provider,
            msat=msat,
            bolt11=bolt11,
            payment_hash=invoice.payment_hash,
            network=invoice.network,
            expires_at=invoice.expires_at,
            text=text,
        )


def zap_request_draft(
    receiver: str, msat: int, *, lnurl: str, relays: Sequence[str], about: Event | None = None, text: str = ""
) -> Draft:
    """The unsigned zap request (NIP-57, appendix A): of an event, or of the receiver's profile."""
    tags = [["relays", *relays], ["amount", str(msat)], ["lnurl", lnurl], ["p", receiver]]
    if about is not None:
        tags += [["e", about.id], ["k", str(about.kind)]]
    return Draft(ZAP_REQUEST, tags, text)


def receiver_of(event: Event) -> tuple[str, str]:
    """Who is zapped for an event, and a relay where their profile may be ("" if none is named): whom its `zap`
    tags name, or its author if there are none (NIP-57, appendix G).

    Raises Unpayable `zap-failed` where several would share: a job is paid by one payment.
    """
    found: dict[str, str] = {}
    tags = event.all("zap")
    weighed = any(len(tag) > 3 for tag in tags)
    for tag in tags:
        try:
            # Where some have a weight, who has none gets nothing.
            weight = natural(tag[3], MAX_WEIGHT) if len(tag) > 3 else int(not weighed)
        except ValueError:
            raise Unpayable("zap-failed", "its zap tag has no weight that can be read") from None
        if len(tag) < 2 or not is_hex64(tag[1]):
            raise Unpayable("zap-failed", "its zap tag names nobody")
        if weight:
            found[tag[1]] = tag[2] if len(tag) > 2 else ""
    if len(found) > 1 or (tags and not found):
        raise Unpayable("zap-failed", "its zap tags do not name exactly one receiver")
    return found.popitem() if found else (event.pubkey, "")


async def fetch_address(
    relays: RelayPool,
    pubkey: str,
    *,
    at: Sequence[str] | None = None,
    timeout: float,  # noqa: ASYNC109
) -> str | None:
    """The Lightning address in somebody's newest profile (kind 0), on our relays or `at` those that a stranger
    named; None if there is none that can be one."""
    profiles = await relays.query(Filter(kinds=[PROFILE], authors=[pubkey], limit=1), relays=at, timeout=timeout)
    for profile in profiles[:1]:
        try:
            content = orjson.loads(profile.content) if len(profile.content) <= MAX_PROFILE_CHARS else None
        except orjson.JSONDecodeError:
            continue
        address = content.get("lud16") if isinstance(content, dict) else None
        if isinstance(address, str) and is_lightning_address(address.strip()):
            return address.strip()
    return None
