"""What every part of the engine works with: keys, ledger, wallet, relays, models, services, settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dvm.jobs.admission import Policy
from dvm.jobs.files import Files
from dvm.jobs.inputs import Inputs
from dvm.jobs.kinds import Service
from dvm.ledger import Job, Publication, Store
from dvm.lightning.base import Wallet
from dvm.lightning.lnurl import LnurlClient
from dvm.models import Model
from dvm.models.router import Bounds, Router
from dvm.nip90 import Answers, JobRequest, parse_request
from dvm.nostr.event import Event
from dvm.nostr.keys import Keys
from dvm.nostr.pool import RelayPool
from dvm.pricing import PerToken

REMEMBERED = 1000  # requests that have been read and may soon be run; any other is read from its row
REMEMBERED_CHARS = 8192  # of each at most: a thousand of the largest would be 250 MB that nobody has paid for


@dataclass(frozen=True, slots=True)
class Settings:
    """Bounds of the engine; times in seconds, a count of 0 is no limit (`[limits]` of dvm.toml).

    The fee limit of a payment that leaves is the larger one of `fee_msat` and `fee_ppm` millionths of it;
    `payout_seconds` is how long one request to pay may take; `operator` the public key (hex) that is told of
    trouble.
    """

    prompt_tokens: int = 100_000
    concurrency: int = 32
    quote_seconds: int = 86_400
    max_age: int = 600
    max_ahead: int = 900
    job_seconds: float = 600
    attempts: int = 3
    partial_seconds: float = 1.0
    processing_seconds: float = 0.25
    reconcile_seconds: float = 60
    sweep_seconds: float = 60
    follow_seconds: float = 5
    shutdown_seconds: float = 30
    lease_seconds: int = 60
    publish_seconds: float = 10
    invoice_patience: float = 60
    retry_seconds: float = 1.0
    refusals_per_minute: int = 60
    account_requests_per_minute: int = 30
    account_requests_per_minute_total: int = 1_200
    payouts_enabled: bool = True
    payout_min_msat: int = 10_000
    payout_day_msat: int = 100_000_000
    payout_seconds: float = 90
    fee_msat: int = 5_000
    fee_ppm: int = 10_000
    watchdog_seconds: float = 60
    operator: str | None = None
    hold: bool = False
    hold_margin_blocks: int = 3
    spend_msat_per_day: int = 0
    wrong_answers_per_day: int = 5
    customer_relays: bool = True


@dataclass(frozen=True, slots=True)
class ZapSettings:
    """How zaps pay. `lud16` is our Lightning address, `own` whether our gateway serves it; `trust`: whether the
    wallet's settlement alone is money, or the provider's receipt as well; `quote`: what a quote carries, an
    invoice, a zap target, or both. Amounts in msat."""

    lud16: str
    own: bool
    trust: Literal["wallet", "provider"] = "wallet"
    min_msat: int = 1_000
    max_msat: int = 1_000_000_000
    quote: Literal["invoice", "zap", "both"] = "both"


@dataclass(slots=True)
class Shop:
    """The parts, put together by the daemon. `announcement` is the `d` of our 31990, for receipts; `bounds` and
    `list_prices` are those of each model, as far as it has any."""

    keys: Keys
    store: Store
    wallet: Wallet
    relays: RelayPool
    models: Mapping[str, Model]
    services: Mapping[int, Service]
    settings: Settings = field(default_factory=Settings)
    policies: Sequence[Policy] = ()
    announcement: str | None = None
    clock: Callable[[], float] = time.time
    zaps: ZapSettings | None = None
    lnurl: LnurlClient = field(default_factory=LnurlClient)
    inputs: Inputs = field(default_factory=Inputs)
    files: Files = field(default_factory=Files)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    list_prices: Mapping[str, PerToken] = field(default_factory=dict)
    monotonic: Callable[[], float] = time.monotonic  # for pauses, which a clock that is set must not change
    router: Router = field(init=False)
    receivable: Callable[[], int | None] = lambda: None  # msat that the wallet can receive, if it tells
    selling: Callable[[], bool] = lambda: True  # False while the wallet holds less than customers are owed
    _read: dict[str, JobRequest] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        at_once = self.settings.concurrency
        self.router = Router(self.models, self.bounds, at_once=at_once, clock=lambda: self.monotonic())

    def now(self) -> int:
        """Unix seconds."""
        return int(self.clock())

    def read(self, event: Event) -> JobRequest:
        """The request in an event; remembered for a while, since a job is read again when it runs.

        Raises InvalidRequest.
        """
        request = parse_request(event, self.keys)
        if len(event.to_json()) <= REMEMBERED_CHARS:
            if len(self._read) >= REMEMBERED:
                del self._read[next(iter(self._read))]
            self._read[event.id] = request
        return request

    def request_of(self, job: Job) -> JobRequest:
        """The request of a stored job."""
        return self._read.pop(job.id, None) or parse_request(Event.from_json(job.request), self.keys)

    def answers(self, request: JobRequest | Event, relay: str = "") -> Answers:
        return Answers(self.keys, request, relay, max_bytes=self.relays.max_event_bytes)


def publication(event: Event, role: str, relays: tuple[str, ...] = ()) -> Publication:
    """A signed event, as the ledger keeps it."""
    return Publication(event.id, role, event.to_json(), relays)
