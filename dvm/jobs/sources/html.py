"""The text of a page, as people read it, in one pass: whatever a page is made of, its time grows with its length.

Parsers that build a tree do not promise that: tags in one another, a hundred thousand deep, cost them minutes.
"""

from __future__ import annotations

import re
from html import unescape

_MARKUP = re.compile(r"<(?=[A-Za-z/!?])")  # any other < is one
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]{0,31})")
_SKIPPED = {
    name: re.compile(f"</{name}", re.IGNORECASE)
    for name in ("script", "style", "noscript", "template", "svg", "iframe", "textarea", "select")
}
_LINES = re.compile(
    "address|article|aside|blockquote|body|br|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|header|"
    "hr|li|main|nav|ol|p|pre|section|table|title|tr|ul"
).fullmatch
_CELLS = frozenset({"td", "th"})
_BREAKS = re.compile(r"[\r\n]+")
_BLANKS = re.compile(r"[^\S\n]+")


def readable(html: str) -> str:
    """The text without markup, scripts and styles; a line for each paragraph, heading, item or row."""
    html = _BREAKS.sub(" ", html)
    pieces: list[str] = []
    at = 0
    while found := _MARKUP.search(html, at):
        begin = found.start()
        pieces.append(html[at:begin])
        if html.startswith("<!--", begin):
            at = _after(html, "-->", begin + 4)
        elif tag := _TAG.match(html, begin):
            name = tag[2].lower()
            at = _after(html, ">", tag.end())
            if _LINES(name):
                pieces.append("\n")
            elif name in _CELLS:
                pieces.append(" ")
            elif not tag[1] and name in _SKIPPED:
                end = _SKIPPED[name].search(html, at)
                at = _after(html, ">", end.end()) if end else len(html)
        else:
            at = _after(html, ">", begin)
    pieces.append(html[at:])
    lines = (_BLANKS.sub(" ", line).strip() for line in unescape("".join(pieces)).split("\n"))
    return "\n".join(line for line in lines if line)


def _after(html: str, end: str, begin: int) -> int:
    """The place after the next `end`; that of the page's end without one."""
    found = html.find(end, begin)
    return len(html) if found < 0 else found + len(end)
