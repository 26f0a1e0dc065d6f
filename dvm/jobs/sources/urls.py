"""Inputs of type `url`: what is at an address that a stranger named, if it is what it says that it is."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re

from dvm.jobs.kinds import Kind
from dvm.jobs.sources.html import readable
from dvm.jobs.sources.media import HTML, decoded, fitting, is_text
from dvm.models import Blob
from dvm.nip90 import InvalidRequest
from dvm.nostr.fetching import BodyTooLarge, Fetched, Fetcher, FetchError

log = logging.getLogger(__name__)

MAX_TEXT_BYTES = 2_000_000  # of a page: far more than the longest prompt that is taken
# One text for whatever kept us from it: who may name any address is not told what our network looks like.
_UNAVAILABLE = "nothing could be had from an address that the request names"
_WRONG_TYPE = "what is at an address that the request names is not what it says that it is, or is not taken here"
_DATA = re.compile(r"data:([\w.+/-]{1,100});base64,", re.ASCII | re.IGNORECASE)


class Urls:
    """Fetches what customers name."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    async def fetch(self, url: str, kind: Kind, max_bytes: int) -> str | Blob:
        """The text of a page, if the kind takes `text/`, or a file of a type that it takes, as it is. Raises
        InvalidRequest."""
        if max_bytes <= 0:
            raise too_large(max_bytes)
        try:
            got = await self._fetcher.get(url, max_bytes=max_bytes)
        except BodyTooLarge as error:
            raise too_large(max_bytes) from error
        except FetchError as error:
            log.info("an input cannot be fetched", extra={"error": str(error)})
            raise unavailable() from error
        if got.status != 200 or not got.body:
            raise unavailable()
        return await asyncio.to_thread(_content, got, kind)  # a large page takes some tenths of a second


def from_data(url: str, kind: Kind) -> Blob | None:
    """The file that a `data:` URL holds (RFC 2397, base64 only), for results that carry theirs so; None if it is no
    such URL. Raises InvalidRequest."""
    match = _DATA.match(url)
    if match is None:
        return None
    try:
        body = base64.b64decode(url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("input-type", _WRONG_TYPE) from None
    return _file(match[1].lower(), body, kind)


def unavailable() -> InvalidRequest:
    return InvalidRequest("input-unavailable", _UNAVAILABLE)


def too_large(max_bytes: int) -> InvalidRequest:
    left = max(max_bytes, 0)
    return InvalidRequest("input-too-large", f"an input is larger than the {left} bytes that are left for it")


def _content(got: Fetched, kind: Kind) -> str | Blob:
    if not is_text(got.type):
        return _file(got.type, got.body, kind)
    if "text/" not in kind.files:
        raise InvalidRequest("input-type", _WRONG_TYPE)
    if len(got.body) > MAX_TEXT_BYTES:
        raise InvalidRequest("input-too-large", f"a text may have {MAX_TEXT_BYTES} bytes")
    page = got.type in HTML
    text = decoded(got.body, got.charset, html=page)
    if text is None:
        raise InvalidRequest("input-type", _WRONG_TYPE)
    text = readable(text) if page else text.strip()
    if not text:
        raise InvalidRequest("input-type", "there is no text at an address that the request names")
    return text


def _file(declared: str, body: bytes, kind: Kind) -> Blob:
    mime = fitting(declared, body)
    if mime is None or not mime.startswith(kind.files):
        raise InvalidRequest("input-type", _WRONG_TYPE)
    return Blob(mime, body)
