"""What can be set on the wire. Times are in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """How one connection behaves. `retry_delay` is the first pause after a `rate-limited`.

    A frame longer than `event_bytes` (and its envelope) is not parsed; one longer than `frame_bytes` is not
    even read: the connection is closed (1009). Between the two it is only skipped, so that a stranger's
    large event cannot cut us off from a relay. A connection that lasted `stable` seconds, or on which the relay
    accepted `served` events, was good: its end starts no back-off.
    """

    event_bytes: int = 262_144
    frame_bytes: int = 4 << 20
    connect_timeout: float = 10.0
    ping_interval: float = 20.0
    ping_timeout: float = 20.0
    min_backoff: float = 0.5
    max_backoff: float = 60.0
    stable: float = 10.0
    served: int = 100
    retry_delay: float = 1.0
    send_buffer: int = 8 << 20
    max_pending: int = 20_000


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How the relays act together, and what strangers' relays may cost.

    A passing relay, one that a customer named, is closed after `passing_idle` without use; at most
    `passing_total` are kept, `passing_per_event` used for one event, and each gets `passing_timeout` for an
    event. A host that failed is left alone for `remember_failure`. `allow_private` admits loopback and private
    addresses: for tests. `remembered_events` bounds a subscription's memory of what it has seen.
    `learn_limits`: ask our relays for their limits (NIP-11) once they are connected, and daily.
    `query_grace` is how long a query waits for the others once one relay has answered.
    """

    relay: RelayOptions = field(default_factory=RelayOptions)
    allow_private: bool = False
    learn_limits: bool = False
    passing_per_event: int = 10
    passing_total: int = 64
    passing_idle: float = 60.0
    passing_timeout: float = 5.0
    remember_failure: float = 600.0
    remembered_events: int = 65_536
    query_grace: float = 2.0
    sweep_timeout: float = 10.0
