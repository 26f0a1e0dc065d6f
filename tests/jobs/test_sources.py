"""What bytes from strangers are taken for, and what is read on their pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.jobs.sources.html import readable
from dvm.jobs.sources.media import decoded, fitting, is_text, sniff

MP4 = b"\0\0\0\x18ftypisom\0\0\0\0"


@pytest.mark.parametrize(
    ("begins", "media"),
    [
        *((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif")),
        *((b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"), (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"), (b"RIFF\0\0\0\0????", None)),
        *((b"\0\0\0\x18ftypavif", "image/avif"), (b"\0\0\0\x18ftypM4A ", "audio/mp4"), (MP4, "video/mp4")),
        *((b"ID3\x04", "audio/mpeg"), (b"\xff\xfb\x90", "audio/mpeg"), (b"\xff\xf1\x50", "audio/aac")),
        *((b"%PDF-1.7", "application/pdf"), (b"fLaC", "audio/flac"), (b"OggS", "audio/ogg")),
        *((b"PK\x03\x04", None), (b"\x7fELF", None), (b"MZ", None), (b"", None), (b"hello", None)),
    ],
)
def test_media_are_known_by_what_they_begin_with(begins: bytes, media: str | None) -> None:
    assert sniff(begins) == media


@pytest.mark.parametrize(
    ("declared", "body", "media"),
    [
        *(("image/jpg", b"\x89PNG\r\n\x1a\n", "image/png"), ("application/octet-stream", b"%PDF-1", "application/pdf")),
        *(
            ("audio/mp4", MP4, "audio/mp4"),
            ("video/ogg", b"OggS", "video/ogg"),
            ("application/ogg", b"OggS", "audio/ogg"),
        ),
        *(("", b"GIF89a", "image/gif"), ("image/png", MP4, None), ("video/mp4", b"ID3", None)),
        *(("application/zip", b"%PDF-1", None), ("application/pdf", b"GIF89a", None), ("audio/wav", b"hello", None)),
    ],
)
def test_what_was_declared_has_to_fit(declared: str, body: bytes, media: str | None) -> None:
    assert fitting(declared, body) == media


@pytest.mark.parametrize(
    ("body", "charset", "text"),
    [
        *((b"a", "", "a"), ("ä".encode(), "", "ä"), ("ä".encode("cp1252"), "windows-1252", "ä")),
        *(
            ("ä".encode("utf-16"), "", "ä"),
            (b"\xef\xbb\xbfa", "latin-1", "a"),
            ("日".encode("shift_jis"), "Shift_JIS", "日"),
        ),
        *((b"a\0b", "", None), (b"%PDF-1.7", "utf-8", None), (b"\xfe\xfd", "utf-8", "\ufffd\ufffd")),
        *(
            (b"a-b", "punycode", "a-b"),
            (b"a", "zlib", "a"),
            (b"\\x41", "unicode_escape", "\\x41"),
            (b"a", "?" * 99, "a"),
        ),
    ],
)
def test_characters_are_read_in_their_charset_and_in_no_codec(body: bytes, charset: str, text: str | None) -> None:
    assert decoded(body, charset) == text


def test_a_page_may_say_its_charset_itself() -> None:
    page = '<html><head><meta charset="iso-8859-1"></head>ä'.encode("latin-1")
    assert "ä" in (decoded(page, "", html=True) or "")
    assert "ä" not in (decoded(page, "") or "")


def test_what_counts_as_text() -> None:
    texts = ("text/plain", "text/vtt", "application/json", "application/ld+json", "image/svg+xml", "application/xml")
    assert all(map(is_text, texts))
    assert not any(map(is_text, ("", "image/png", "application/pdf", "application/octet-stream", "application/zip")))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>a <b>b</b>\n c<p>d<br>e", "a b c\nd\ne"),
        ("<ul><li>1<li>2</ul><table><tr><td>x<td>y</table>", "1\n2\nx y"),
        ("a<script>if (1 < 2) x()</script>b<STYLE>c</Style >d<!-- <p>e -->f", "abdf"),
        ("<svg><text>no</text></svg>yes<noscript>no</noscript>", "yes"),
        ("1 < 2 &amp; 3 &gt; 2 &#x41;", "1 < 2 & 3 > 2 A"),
        ("&lt;script&gt;x", "<script>x"),
        ("<!doctype html><?xml?><title>T</title>", "T"),
        ("a<script>never closed", "a"),
        ("a<!-- never closed", "a"),
        ("a<b never closed", "a"),
        ("", ""),
    ],
)
def test_a_page_is_read_as_people_read_it(page: str, text: str) -> None:
    assert readable(page) == text


@pytest.mark.parametrize(
    "piece", ["<", "<div>", "<!--", "<script>", "</", "<p", "&amp", "&", " ", "<a href='", "<svg "]
)
def test_no_page_costs_out_of_proportion(piece: str) -> None:
    """A megabyte of each: with quadratic time, or with recursion, this test would not come to its end."""
    readable(piece * (1_000_000 // len(piece)))


@given(st.text(alphabet="<>/!-&;sp cript\n\"'=aé\0"))
def test_no_page_fails(page: str) -> None:
    assert "\n\n" not in readable(page)


@given(st.binary(max_size=64), st.text(max_size=20))
def test_no_bytes_fail(body: bytes, said: str) -> None:
    sniff(body)
    fitting(said, body)
    decoded(body, said, html=True)
