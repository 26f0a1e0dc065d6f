"""Addresses that strangers name: which may be connected to at all.

A customer's `relays` tag and `url` inputs would otherwise let anyone make the daemon knock at the doors of
its own network (server-side request forgery). A name is resolved once, all its addresses are checked, and
the connection goes to a checked address: a second look-up could answer differently (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from urllib.parse import urlsplit

_MAX_URL = 1024
_DEFAULT_PORTS = {"ws": 80, "wss": 443, "http": 80, "https": 443}
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_REFUSED_V6 = (  # Teredo, 6to4, documentation (RFC 9637): not, or not always, known to `is_global`
    ipaddress.IPv6Network("2001::/32"),
    ipaddress.IPv6Network("2002::/16"),
    ipaddress.IPv6Network("3fff::/20"),
)
_REFUSED_V4 = (ipaddress.IPv4Network("192.88.99.0/24"), ipaddress.IPv4Network("192.0.0.0/24"))

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressRefused(ValueError):
    """The address is malformed, or not one to connect to; the text says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a URL points: `host` as the URL has it (lower case, IPv6 without brackets), and the port."""

    url: str
    scheme: str
    host: str
    port: int


def is_public(ip: IPAddress) -> bool:
    """Whether an address belongs to the public internet.

    Not public: loopback, private, link-local, carrier-grade NAT, multicast, documentation, reserved, and
    IPv6 forms that lead to an IPv4 address which is not public.
    """
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if ip not in _GLOBAL_UNICAST or any(ip in network for network in _REFUSED_V6):
            return False
        return ip.is_global and not ip.is_multicast
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _REFUSED_V4)


def check_relay_url(url: str) -> str:
    """A relay's URL in its one normal form, so that a relay is one connection however it is written.

    Lower-case scheme and host, no default port, no trailing slash, no fragment. Raises AddressRefused.
    """
    return check_url(url, ("ws", "wss")).url


def check_url(url: str, schemes: Collection[str]) -> Endpoint:
    """A URL taken apart and normalised. Pure: nothing is resolved. Raises AddressRefused."""
    url = url.strip()
    if len(url) > _MAX_URL:
        raise AddressRefused("the address is too long")
    if not url.isascii() or not url.isprintable() or any(c in url for c in ' \\"<>^`{|}'):
        raise AddressRefused("the address holds characters that no URL has")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise AddressRefused("not a URL") from None
    scheme = parts.scheme.lower()
    if scheme not in schemes:
        raise AddressRefused(f"the address must begin with {' or '.join(f'{s}://' for s in schemes)}")
    if "@" in parts.netloc:
        raise AddressRefused("the address must not carry a user name or password")
    host = host.rstrip(".")
    if not host or "%" in host or len(host) > 253 or any(not 0 < len(s) < 64 for s in host.split(".")):
        raise AddressRefused("the address names no host")
    if port == 0:
        raise AddressRefused("port 0 is no port")
    default = _DEFAULT_PORTS[scheme]
    shown = f"[{host}]" if ":" in host else host
    netloc = shown if port in (None, default) else f"{shown}:{port}"
    path = parts.path.rstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    return Endpoint(f"{scheme}://{netloc}{path}{query}", scheme, host, port or default)


def literal(host: str) -> IPAddress | None:
    """The address that a host spells out, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def resolve_public(
    endpoint: Endpoint,
    *,
    timeout: float,  # noqa: ASYNC109
    executor: Executor | None = None,
    allow_private: bool = False,
) -> list[str]:
    """The checked addresses of an endpoint, to be connected to as they are; IPv4 first.

    All of them must be public, unless `allow_private`. `timeout` is in seconds. Raises AddressRefused.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            found = await loop.run_in_executor(executor, _look_up, endpoint.host, endpoint.port)
    except TimeoutError:
        raise AddressRefused(f"{endpoint.host}: the name was not resolved in time") from None
    except (OSError, UnicodeError):
        raise AddressRefused(f"{endpoint.host}: no such host") from None
    if not found:
        raise AddressRefused(f"{endpoint.host}: no such host")
    if not allow_private and not all(is_public(ip) for ip in found):
        raise AddressRefused(f"{endpoint.host}: not a public address")
    return [str(ip) for ip in sorted(found, key=lambda ip: ip.version)]


def _look_up(host: str, port: int) -> list[IPAddress]:
    found: dict[IPAddress, None] = {}
    for _, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        found[ipaddress.ip_address(str(address[0]).partition("%")[0])] = None
    return list(found)
