"""One relay: is it there, what does it say of itself, does it take an event and give it back?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from dvm.config import RelayConfig
from dvm.doctor.findings import Finding, Steps, advice_for
from dvm.nip90.wire import DELETION
from dvm.nostr import Event, Filter, Keys, Limitation, NotPublished, Relay, RelayInfoUnavailable, fetch_relay_info
from dvm.nostr.frames import prefix
from dvm.nostr.options import RelayOptions
from dvm.nostr.requests import Request

CONNECT = 8.0  # seconds
STEP = 5.0  # seconds for each answer
# Ephemeral (NIP-01: 20000 to 29999), so no relay keeps it; a number that no NIP uses.
EPHEMERAL = 29_090
# Application data (NIP-78), replaceable; deleted again at once.
STORED = 30_078
STORED_D = "dvm-doctor"
# strfry's default for an event; a result with its request embedded is often larger than half of it.
LEAST_MESSAGE = 65_536
LEAST_CONTENT = 16_384
# An answer is published again after an outage with the time at which it was made.
LEAST_PAST = 86_400
# The statuses of one job within one second have rising times.
LEAST_FUTURE = 60

_UNREACHABLE = (
    (("name or service", "nodename", "getaddrinfo", "resolution", "no address"), "Check the spelling of the address, "
     "and that this machine can resolve names."),
    (("certificate", "ssl"), "Its certificate is not valid for this address: check the address, this machine's clock "
     "and its root certificates."),
    (("connect call failed", "refused"), "Nothing listens there: check the address and the port, or choose another "
     "relay in relays.toml."),
    (("http", "invalidstatus"), "A server is there, but does not answer as a relay: check the address's path, try "
     "later, or choose another relay."),
    (("timed out", "timeout", "in time"), "Check that a firewall lets this machine out to it, or choose another "
     "relay in relays.toml."),
)  # fmt: skip
_OTHERWISE = "Try later, or choose another relay in relays.toml."
_REFUSED = (
    (("auth-required",), "It does not accept this service's authentication (NIP-42): have its operator admit your "
     "npub, or choose another relay."),
    (("restricted", "blocked", "pay", "allow", "whitelist", "member"), "Have its operator admit your npub (some ask "
     "to be paid), or set write = false for it in relays.toml."),
    (("rate-limited",), "Wait a minute and run `dvm doctor` again; if it stays so, choose another relay."),
    (("pow", "proof"), "It demands proof of work, which this program does not do: set write = false for it."),
    (("created_at", "timestamp", "too old", "future", "too early", "too late"), "Set this machine's clock."),
    (("no answer in time", "not connected"), "It takes events without a word: choose another relay."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Told:
    """What a relay's server said of the time: `offset` is how far it is ahead of us, in seconds."""

    url: str
    offset: float


async def connection(use: RelayConfig, keys: Keys) -> Steps:
    """Connect; then ask and publish, as the daemon will use it."""
    settled = asyncio.Event()

    def changed(relay: Relay) -> None:
        if relay.state in ("connected", "waiting"):
            settled.set()

    relay = Relay(use.url, keys=keys, options=RelayOptions(connect_timeout=CONNECT), on_state=changed)
    try:
        relay.start()
        await settled.wait()
        if not relay.connected:
            reason = relay.last_error or "no connection"
            yield Finding("relay", use.url, "failed", reason, advice_for(reason, _UNREACHABLE, _OTHERWISE))
            return
        yield Finding("relay", use.url, "ok", "connected")
        if use.read or use.write:
            yield await _tried(relay, use, keys)
    finally:
        await relay.close()


async def information(use: RelayConfig, told: list[Told]) -> Steps:
    """The NIP-11 document, and in passing the server's time."""

    async def hear(response: httpx.Response) -> None:
        now = time.time()
        try:
            at = parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        told.append(Told(use.url, at - now))

    try:
        async with httpx.AsyncClient(event_hooks={"response": [hear]}) as client:
            info = await fetch_relay_info(use.url, timeout=CONNECT, client=client)
    except RelayInfoUnavailable as error:
        if not str(error).startswith("Connect"):  # who cannot be reached at all is told of as such, once
            yield Finding("relay limits", use.url, "ok", f"it does not tell them (NIP-11: {error})")
        return
    concerns = list(_concerns(info.limitation, use))
    for seen, advice in concerns:
        yield Finding("relay limits", use.url, "warning", seen, advice)
    if not concerns:
        software = " ".join(part for part in (info.software.rpartition("/")[2], info.version) if part)
        yield Finding("relay limits", use.url, "ok", f"nothing in our way{f' ({software})' if software else ''}")


def _concerns(limits: Limitation, use: RelayConfig) -> Sequence[tuple[str, str]]:
    """Of a relay's limits, those that matter to us: what it says, and what to do."""
    found: list[tuple[str, str]] = []

    def concern(seen: str, advice: str) -> None:
        found.append((seen, advice))

    if limits.auth_required:
        concern(
            "auth_required: only those who authenticate may ask or publish",
            "Add a relay that is open to all: customers whose programs cannot authenticate do not reach you here.",
        )
    if use.write and limits.payment_required:
        concern("payment_required: it asks to be paid", "Pay its operator, or set write = false for it.")
    if use.write and limits.restricted_writes:
        concern(
            "restricted_writes: it takes events only under conditions of its own",
            "Read its conditions; if your answers or your customers' requests are refused, choose another relay.",
        )
    if use.write and limits.min_pow_difficulty:
        concern(
            f"min_pow_difficulty: it demands {limits.min_pow_difficulty} bits of proof of work",
            "Set write = false for it: this program does no proof of work.",
        )
    for name, least, of in (
        ("max_message_length", LEAST_MESSAGE, "bytes"),
        ("max_content_length", LEAST_CONTENT, "characters"),
    ):
        most = getattr(limits, name)
        if use.write and most is not None and most < least:
            concern(
                f"{name}: {most} {of}; an answer can be longer",
                f"Keep at least one write relay that takes {least} {of}, or lower max_output_tokens.",
            )
    if use.write and limits.created_at_lower_limit is not None and limits.created_at_lower_limit < LEAST_PAST:
        concern(
            f"created_at_lower_limit: it refuses what is older than {limits.created_at_lower_limit} s",
            "Keep another write relay: an answer that is published again after an outage is older.",
        )
    if use.write and limits.created_at_upper_limit is not None and limits.created_at_upper_limit < LEAST_FUTURE:
        concern(
            f"created_at_upper_limit: it refuses what is more than {limits.created_at_upper_limit} s ahead",
            "Keep this machine's clock exact (NTP).",
        )
    if use.read and limits.max_subscriptions is not None and limits.max_subscriptions < 3:
        concern(
            f"max_subscriptions: {limits.max_subscriptions} at a time",
            "Choose another relay to read from: the daemon needs three.",
        )
    return found


async def _tried(relay: Relay, use: RelayConfig, keys: Keys) -> Finding:
    """Publish an event that no relay keeps, and see it come back to a subscription."""
    url = use.url
    now = int(time.time())
    tags = [["expiration", str(now + 60)], ["alt", "A test of the relay by `dvm doctor`"]]
    event = keys.sign(EPHEMERAL, tags, "", now)
    came = asyncio.Event()
    ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def take(raw: dict[str, Any]) -> None:
        if relay.check(raw, request.filters, ()) == event:
            came.set()

    def end(error: str | None) -> None:
        if not ended.done():
            ended.set_result(error)

    wanted = Filter(authors=[keys.pubkey], kinds=[EPHEMERAL], since=now - 60)
    request = Request([wanted], take, end, lasting=True)
    if use.read:
        relay.request(request)
        await asyncio.wait([ended], timeout=STEP)
        if ended.done() and (reason := ended.result()) is not None:
            return Finding("relay answers", url, "failed", f"it refuses to be asked: {reason}", _advice(reason))
    if not use.write:
        return _silent(url) if not ended.done() else Finding("relay answers", url, "ok", "it can be asked")
    refusal = await _publish(relay, event)
    if refusal is not None and prefix(refusal) in ("auth-required", "restricted", "rate-limited", "pow"):
        return Finding("relay answers", url, "failed", f"it refuses events: {refusal}", _advice(refusal))
    if refusal is None:
        if not use.read:
            return Finding("relay answers", url, "ok", "it took an event")
        if await _within(came, STEP):
            took = "took an event and gave it back"
            return _silent(url) if not ended.done() else Finding("relay answers", url, "ok", f"it {took}")
    return await _stored(relay, use, keys, refusal)


async def _stored(relay: Relay, use: RelayConfig, keys: Keys, refusal: str | None) -> Finding:
    """The second try, with an event that is kept: a relay may refuse, or not pass on, what is ephemeral."""
    url = use.url
    now = int(time.time())
    event = keys.sign(STORED, [["d", STORED_D], ["expiration", str(now + 60)]], "", now)
    second = await _publish(relay, event)
    if second is not None:
        return Finding("relay answers", url, "failed", f"it refuses events: {second}", _advice(second))
    try:
        found: list[Event] = await relay.query([Filter(ids=[event.id])], STEP) if use.read else [event]
    finally:
        deletion = [["e", event.id], ["a", f"{STORED}:{keys.pubkey}:{STORED_D}"], ["k", str(STORED)]]
        await _publish(relay, keys.sign(DELETION, deletion, "", now))
    if event not in found:
        seen = "it says OK to events and gives none back"
        return Finding("relay answers", url, "failed", seen, "Choose another relay: what is published here is lost.")
    if refusal is not None:
        seen = f"it refuses ephemeral events ({refusal}) and takes others"
        advice = "Good enough for jobs; do not use it as the relay of a wallet connection (NIP-47)."
        return Finding("relay answers", url, "warning", seen, advice)
    seen = "it keeps events, but does not push them to subscribers"
    advice = "Prefer another relay to read from: jobs are found here by the sweep only (limits.sweep_seconds)."
    return Finding("relay answers", url, "warning", seen, advice)


async def _publish(relay: Relay, event: Event) -> str | None:
    """None when the relay has it, else why not."""
    try:
        await relay.publish(event, STEP)
    except NotPublished as error:
        return str(error)
    return None


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _silent(url: str) -> Finding:
    seen = "it never says that it has sent all that it has (EOSE)"
    return Finding(
        "relay answers", url, "warning", seen, "Prefer another relay: each query waits for this one in vain."
    )


def _advice(reason: str) -> str:
    return advice_for(reason, _REFUSED, "Set write = false for it, or choose another relay in relays.toml.")
