"""What bytes from a stranger are: their media type, by what they begin with and not by what was said of them."""

from __future__ import annotations

import codecs
import re

# What the families of media begin with. A format that is not here is not handed to a model as a file.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"FORM", "audio/aiff"),
    (b"\x00\x00\x01\xba", "video/mpeg"),
    (b"\x00\x00\x01\xb3", "video/mpeg"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS = {b"avif": "image/avif", b"heic": "image/heic", b"heix": "image/heic", b"mif1": "image/heif"}
_BRANDS |= {b"M4A ": "audio/mp4", b"M4B ": "audio/mp4", b"qt  ": "video/quicktime"}
# One container for sound and for pictures with sound: then the word of who serves it tells which.
_EITHER = frozenset({"video/webm", "audio/ogg", "video/mp4", "audio/mp4", "video/quicktime"})
_UNTOLD = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_TEXTS = frozenset(
    {"application/json", "application/xml", "application/yaml", "application/x-subrip", "application/x-ndjson"}
)
HTML = frozenset({"text/html", "application/xhtml+xml"})

# The others that Python knows are no charsets of pages, and some of them (punycode) take quadratic time.
_CHARSET = re.compile(
    r"utf-(8|16|32)(-[lb]e)?|ascii|iso8859-\d+|cp125\d|cp866|cp932|cp949|koi8-[rut]|shift_jis|euc_(jp|kr)|"
    r"iso2022_jp|gb2312|gbk|gb18030|big5(hkscs)?|mac-(roman|cyrillic)|tis-620"
).fullmatch
_META = re.compile(rb"<meta[^>]{0,200}?charset=[\"']?([A-Za-z0-9_:-]{1,40})", re.IGNORECASE).search
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def sniff(body: bytes) -> str | None:
    """The media type that these bytes begin like; None if they are no media that we know."""
    for magic, found in _MAGIC:
        if body.startswith(magic):
            return found
    if body[:4] == b"RIFF":
        return _RIFF.get(body[8:12])
    if body[4:8] == b"ftyp":
        return _BRANDS.get(body[8:12], "video/mp4")
    if body[:1] == b"\xff" and len(body) > 1:  # the sync word of ADTS, or of MPEG audio, layers 2 and 3
        if body[1] & 0xF6 == 0xF0:
            return "audio/aac"
        if body[1] & 0xE0 == 0xE0 and body[1] & 0x06 in (0x02, 0x04):
            return "audio/mpeg"
    return None


def is_text(declared: str) -> bool:
    """Whether something of that media type is characters."""
    return declared.startswith("text/") or declared in _TEXTS or declared.endswith(("+json", "+xml"))


def fitting(declared: str, body: bytes) -> str | None:
    """The media type of a file that was declared to be `declared`; None where that and its bytes disagree.

    Of the same family (`image/jpg` that is a PNG) the bytes are right. Where nothing was said, too.
    """
    found = sniff(body)
    if found is None:
        return None
    if declared in _UNTOLD or _family(declared) == _family(found):
        return found
    if found in _EITHER and _family(declared) in ("audio", "video"):
        return f"{_family(declared)}/{found.partition('/')[2]}"
    return "audio/ogg" if declared == "application/ogg" and found == "audio/ogg" else None


def decoded(body: bytes, charset: str, *, html: bool = False) -> str | None:
    """The characters of a text; None if these bytes are none.

    In the charset of its byte order mark, else the declared one, else (HTML) its own `meta`, else UTF-8.
    """
    if sniff(body) is not None:
        return None
    name = next((name for mark, name in _MARKS if body.startswith(mark)), None) or _known(charset)
    if name is None and html and (found := _META(body[:1024])):
        name = _known(found[1].decode("ascii"))
    text = body.decode(name or "utf-8", "replace").removeprefix("\ufeff")
    return None if "\0" in text else text


def _family(declared: str) -> str:
    return declared if declared.startswith("application/") else declared.partition("/")[0]


def _known(charset: str) -> str | None:
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return None
    return name if _CHARSET(name) else None
