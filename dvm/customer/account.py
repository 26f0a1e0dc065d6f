"""A customer's account at one provider, as the provider's signed receipts tell it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from dvm.customer.archive import Archive, ArchiveError
from dvm.nip90 import (
    ANNOUNCEMENT,
    RECEIPT,
    Announcement,
    InvalidAnnouncement,
    InvalidReceipt,
    Receipt,
    parse_announcement,
    parse_receipt,
    verify_chain,
)
from dvm.nip90.wire import MAX_COUNT, natural
from dvm.nostr import Event, Filter, Keys, RelayPool

log = logging.getLogger(__name__)

PAGE = 500
MAX_PAGES = 100
RECENT = 200
"""Receipts of the chain that are checked with each new one; `Customer.account` checks them all."""
FULL_PAGE = 100
"""From so many events on, a relay may have cut its answer off: there may be more."""


@dataclass(frozen=True, slots=True)
class Account:
    """What receipts were found, by number, and whether they are one unbroken chain.

    `missing` are numbers, (first, last), that nobody has; `problems` what contradicts itself: two receipts
    of one number, a balance that does not follow, a job billed twice. `unreadable` counts what cannot be
    parsed. The newest receipt that exists may be one that nobody showed us.
    """

    provider: str
    customer: str
    receipts: tuple[Receipt, ...]
    problems: tuple[str, ...] = ()
    missing: tuple[tuple[int, int], ...] = ()
    unreadable: int = 0

    @property
    def balance_msat(self) -> int:
        """What the newest receipt leaves."""
        return self.receipts[-1].after if self.receipts else 0

    @property
    def complete(self) -> bool:
        """Whether there is no gap, back to number 1 or to where the look back ended."""
        return not self.missing and not self.unreadable


def examine(
    provider: str, customer: str, events: Iterable[Event], keys: Keys | None, *, recent: int | None = None
) -> Account:
    """The account that these receipts tell; of the newest `recent` numbers only, if that is given. `keys` are the
    customer's, for encrypted ones. Never raises.

    Signatures are checked here, one by one: some 0.1 ms each.
    """
    events = list(events)
    oldest = 1
    if recent is not None:
        numbers = [number for event in events if event.pubkey == provider and (number := _number(event)) is not None]
        oldest = max(max(numbers, default=1) - recent + 1, 1)
        events = [event for event in events if (_number(event) or oldest) >= oldest]
    found: dict[str, Receipt] = {}
    unreadable = 0
    for event in {event.id: event for event in events}.values():
        if event.kind != RECEIPT or event.pubkey != provider or not event.verify():
            continue
        try:
            receipt = parse_receipt(event, keys)
        except InvalidReceipt:
            unreadable += 1
            continue
        if receipt.customer == customer:
            found[receipt.id] = receipt
    chain = sorted(found.values(), key=lambda r: (r.seq, r.id))
    problems: list[str] = []
    missing: list[tuple[int, int]] = []
    expected = oldest
    run: list[Receipt] = []
    for receipt in chain:
        if receipt.seq > expected:
            missing.append((expected, receipt.seq - 1))
            problems += _problems(run)
            run = []
        run.append(receipt)
        expected = max(expected, receipt.seq + 1)
    problems += _problems(run)
    problems += _twice(chain)
    return Account(provider, customer, tuple(chain), tuple(dict.fromkeys(problems)), tuple(missing), unreadable)


async def fetch_account(
    relays: RelayPool,
    keys: Keys,
    provider: str,
    archive: Archive | None = None,
    *,
    also: Iterable[Event] = (),
    recent: int | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109
) -> Account:
    """The account as the relays and the archive know it; the archive remembers what is new to it.

    `also` are events that are at hand already. With `recent` only the newest so many are looked at: what has
    been checked before need not be checked at each job. Raises ArchiveError.
    """
    known: dict[str, Event] = {event.id: event for event in also}
    if archive is not None:
        known |= {event.id: event for event in await archive.load(keys.pubkey, provider)}
    before = set(known) - {event.id for event in also}
    until: int | None = None
    for _ in range(MAX_PAGES):
        wanted = Filter(kinds=[RECEIPT], authors=[provider], tags={"p": [keys.pubkey]}, until=until, limit=PAGE)
        page = await relays.query(wanted, timeout=timeout)
        new = [event for event in page if event.id not in known]
        known |= {event.id: event for event in new}
        if len(page) < FULL_PAGE or not new or recent is not None or _is_whole(known.values()):
            break
        until = min(event.created_at for event in page)
    account = await asyncio.to_thread(examine, provider, keys.pubkey, known.values(), keys, recent=recent)
    if archive is not None:
        await archive.save(keys.pubkey, provider, [r.event for r in account.receipts if r.id not in before])
    return account


async def account_around(
    receipt: Receipt,
    relays: RelayPool,
    keys: Keys,
    archive: Archive | None,
    timeout: float,  # noqa: ASYNC109
) -> Account:
    """The part of the account that a new receipt is checked against. As `fetch_account`, and without an archive that
    fails: for this, it is only a help."""
    fetch = partial(fetch_account, relays, keys, receipt.provider, also=[receipt.event], recent=RECENT, timeout=timeout)
    if archive is not None:
        try:
            return await fetch(archive=archive)
        except ArchiveError as error:
            log.warning("receipts are not kept: %s", error)
    return await fetch()


async def fetch_announcements(
    relays: RelayPool,
    provider: str,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109
) -> list[Announcement]:
    """What the provider announces (31990), the newest of each name; what cannot be parsed is left out."""
    events = await relays.query(Filter(kinds=[ANNOUNCEMENT], authors=[provider], limit=20), timeout=timeout)
    newest: dict[str, Announcement] = {}
    for event in events:  # newest first
        try:
            announcement = parse_announcement(event)
        except InvalidAnnouncement:
            continue
        newest.setdefault(announcement.d, announcement)
    return list(newest.values())


def _problems(run: list[Receipt]) -> list[str]:
    return verify_chain(run, complete=bool(run) and run[0].seq == 1)


def _twice(chain: list[Receipt]) -> list[str]:
    """What is wrong across gaps."""
    payments = Counter(p.payment_hash for r in chain for p in r.payments if p.payment_hash)
    jobs = Counter(r.job for r in chain if r.job is not None)
    return [f"the payment {one} is named {count} times" for one, count in payments.items() if count > 1] + [
        f"the job {one} is billed {count} times" for one, count in jobs.items() if count > 1
    ]


def _is_whole(events: Iterable[Event]) -> bool:
    """Whether the numbers of the receipts leave no gap."""
    numbers = {_number(event) for event in events}
    return bool(numbers) and all(number in numbers for number in range(1, len(numbers) + 1))


def _number(event: Event) -> int | None:
    """A receipt's number, which stands in clear also where the rest is encrypted; None if it is none."""
    try:
        return natural(event.tag("seq") or "", MAX_COUNT)
    except ValueError:
        return None
