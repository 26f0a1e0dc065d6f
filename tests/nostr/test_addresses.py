"""Addresses that strangers name: one normal form, and no way into our own network."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.nostr.addresses import AddressRefused, check_relay_url, check_url, is_public, resolve_public


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("wss://relay.example", "wss://relay.example"),
        ("WSS://Relay.Example:443/", "wss://relay.example"),
        ("ws://relay.example:80//", "ws://relay.example"),
        ("ws://relay.example:443", "ws://relay.example:443"),
        ("wss://relay.example./path/#there", "wss://relay.example/path"),
        ("wss://relay.example/Path?Q=1", "wss://relay.example/Path?Q=1"),
        (" wss://[2606:4700::1111]:443 ", "wss://[2606:4700::1111]"),
        ("ws://127.0.0.1:7777/", "ws://127.0.0.1:7777"),
    ],
)
def test_a_relay_has_one_address(url: str, normal: str) -> None:
    assert check_relay_url(url) == normal
    assert check_relay_url(normal) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.example",
        "http://relay.example",
        "file:///etc/passwd",
        "wss://",
        "wss:///path",
        "wss://user@relay.example",
        "wss://user:word@relay.example",
        "wss://@relay.example",
        "wss://relay.example:0",
        "wss://relay.example:65536",
        "wss://relay.example:port",
        "wss://relay..example",
        "wss://relay example",
        "wss://relay.example/\r\nHost:x",
        "wss://relay.example\\@evil.example",
        "wss://[fe80::1%25eth0]",
        "wss://[::1",
        "wss://rélay.example",
        "wss://" + "a" * 2000,
        "wss://" + "a" * 64 + ".example",
    ],
)
def test_what_is_no_relay_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_relay_url(url)


@given(st.text(max_size=60) | st.text(alphabet="wsWS:/[]@.%?#\\ 0a", max_size=30).map(lambda t: f"ws://{t}"))
def test_any_text_is_normalised_for_good_or_refused(text: str) -> None:
    try:
        normal = check_relay_url(text)
    except AddressRefused:
        return
    assert check_relay_url(normal) == normal


def test_other_schemes_for_other_uses() -> None:
    endpoint = check_url("HTTPS://Pay.Example/.well-known/lnurlp/x?a=b", ("https",))
    assert (endpoint.host, endpoint.port) == ("pay.example", 443)
    assert endpoint.url == "https://pay.example/.well-known/lnurlp/x?a=b"
    with pytest.raises(AddressRefused, match="https://"):
        check_url("http://pay.example", ("https",))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1"),
        *("198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1"),
        *("fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "2001::1", "2002:7f00:1::"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "4000::1", "3fff::1"),
    ],
)
def test_what_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"]
)
def test_what_is_public(address: str) -> None:
    assert is_public(ip_address(address))


async def test_an_address_that_is_spelled_out_is_checked_as_well() -> None:
    endpoint = check_url("ws://127.0.0.1:7777", ("ws",))
    with pytest.raises(AddressRefused, match="not a public address"):
        await resolve_public(endpoint, timeout=5)
    assert await resolve_public(endpoint, timeout=5, allow_private=True) == ["127.0.0.1"]


async def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: release.wait(30) and [])
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(AddressRefused, match="in time"):
            await resolve_public(check_url("ws://x.example", ("ws",)), timeout=0.05, executor=executor)
        release.set()


async def test_a_name_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no such name")

    monkeypatch.setattr("socket.getaddrinfo", fail)
    with pytest.raises(AddressRefused, match="no such host"):
        await asyncio.wait_for(resolve_public(check_url("ws://x.example", ("ws",)), timeout=5), 10)
