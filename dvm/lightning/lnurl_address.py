"""What people write to say where somebody is paid: Lightning addresses and LNURLs. No I/O.

`name@domain` (LUD-16), `lnurl1…` (LUD-01), `lnurlp://…` (LUD-17) or the URL itself.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pynostr import bech32

from dvm.nostr.addresses import AddressRefused, check_url, is_public, literal

_ADDRESS = re.compile(r"([a-z0-9._+-]{1,64})@([a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?").fullmatch
_MAX_CHARS = 2048
WELL_KNOWN = "/.well-known/lnurlp/"


class InvalidLnurl(ValueError):
    """Not where anybody could be paid; the text says why."""


def pay_url(text: str, *, insecure: bool = False) -> str:
    """The URL that tells how to pay (LUD-06). Pure: nothing is looked up. Raises InvalidLnurl.

    It is https://, and http:// only for an onion service or, if `insecure`, for an address of this machine
    or its network, and for a URL that says so.
    """
    text = text.strip()
    if len(text) > _MAX_CHARS:
        raise InvalidLnurl("too long for a Lightning address or an LNURL")
    lower = text.lower().removeprefix("lightning:")
    if match := _ADDRESS(lower):
        name, domain, port = match.groups()
        authority = f"{domain}{port or ''}"
        return _checked(f"{_scheme(domain, insecure=insecure)}://{authority}{WELL_KNOWN}{name}", insecure=insecure)
    if lower.startswith("lnurl1"):
        return _checked(_decode(text.removeprefix("lightning:").removeprefix("LIGHTNING:")), insecure=insecure)
    if lower.startswith("lnurlp:"):
        rest = text[len("lnurlp:") :].lstrip("/")
        return _checked(f"{_scheme(rest.partition('/')[0], insecure=insecure)}://{rest}", insecure=insecure)
    if lower.startswith(("https://", "http://")):
        return _checked(text, insecure=insecure)
    raise InvalidLnurl("neither a Lightning address (name@domain) nor an LNURL")


def encode_lnurl(url: str) -> str:
    """A URL as `lnurl1…` (LUD-01), in lower case."""
    data = bech32.convertbits(url.encode(), 8, 5)
    return str(bech32.bech32_encode("lnurl", data, bech32.Encoding.BECH32))


def place(text: str) -> str | None:
    """Where a Lightning address or an LNURL leads, without scheme and case of the host, so that two spellings
    of one place are equal. None for what leads nowhere."""
    try:
        url = pay_url(text, insecure=True)
    except InvalidLnurl:
        return None
    return url.partition("://")[2].rstrip("/")


def is_at(address: str, url: str) -> bool:
    """Whether the Lightning address is one that the web server at `url` answers for: the same host and port."""
    domain = address.rpartition("@")[2].lower()
    parts = urlsplit(url)
    host, port = (parts.hostname or ""), parts.port
    shown = f"[{host}]" if ":" in host else host
    default = {"https": 443, "http": 80}.get(parts.scheme)
    named = {shown, f"{shown}:{default}"} if port in (None, default) else {f"{shown}:{port}"}
    return bool(host) and domain in named


def _decode(text: str) -> str:
    hrp, data, spec = bech32.bech32_decode(text)
    if hrp != "lnurl" or spec is not bech32.Encoding.BECH32:
        raise InvalidLnurl("the LNURL is damaged: a character is missing or changed")
    raw = bech32.convertbits(data, 5, 8, False)
    try:
        return bytes(raw or ()).decode("ascii")
    except UnicodeDecodeError:
        raise InvalidLnurl("the LNURL holds no URL") from None


def _scheme(authority: str, *, insecure: bool) -> str:
    host = authority.rpartition(":")[0] if re.search(r":[0-9]+$", authority) else authority
    host = host.strip("[]").lower()
    if host.endswith(".onion"):
        return "http"
    ip = literal(host)
    return "http" if insecure and (host == "localhost" or (ip is not None and not is_public(ip))) else "https"


def _checked(url: str, *, insecure: bool) -> str:
    try:
        endpoint = check_url(url, ("https", "http"))
    except AddressRefused as error:
        raise InvalidLnurl(str(error)) from None
    if endpoint.scheme == "http" and not insecure and not endpoint.host.endswith(".onion"):
        raise InvalidLnurl("http:// is not secure: anybody on the way could put their own invoice in")
    return endpoint.url
