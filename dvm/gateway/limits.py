"""How often a stranger may ask: token buckets per client and for all."""

from __future__ import annotations

import ipaddress

from starlette.requests import Request
from throttled import RateLimiterType, Throttled, rate_limiter
from throttled.store import MemoryStore

_CLIENTS = 10_000


class Limit:
    """So many requests a minute for each client, and so many for all together."""

    def __init__(self, per_client: int, in_all: int) -> None:
        self._client = _bucket(per_client)
        self._all = _bucket(in_all)

    def exceeded(self, request: Request) -> bool:
        """Count this request; whether it is one too many."""
        return self._client.limit(client_of(request)).limited or self._all.limit("all").limited


def client_of(request: Request) -> str:
    """Who asks: an IPv4 address, or the network of an IPv6 address, of which one customer has 2⁶⁴."""
    host = request.client.host if request.client else ""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is None:
        return str(ipaddress.IPv6Network((ip, 64), strict=False))
    return str(ip)


def _bucket(per_minute: int) -> Throttled:
    return Throttled(
        using=RateLimiterType.TOKEN_BUCKET.value,
        quota=rate_limiter.per_min(per_minute, burst=per_minute),
        store=MemoryStore(options={"MAX_SIZE": _CLIENTS}),
    )
