"""The languages that a job may name: ISO 639 codes, and BCP 47 tags that begin with one."""

from __future__ import annotations

import re

from dvm.nip90 import InvalidRequest, JobRequest

# RFC 5646, section 2.1: language, script, region, variants; what else a tag may hold says nothing to a model.
_TAG = re.compile(
    r"([A-Za-z]{2,3})(?:-([A-Za-z]{4}))?(?:-([A-Za-z]{2}|[0-9]{3}))?((?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3})){0,3})"
).fullmatch
_MOST_NAMED = "an ISO 639 code or a BCP 47 tag, such as es, deu or pt-BR, expected"


def language_param(request: JobRequest, name: str = "language") -> str | None:
    """The language that a param names, for a prompt: "Portuguese (pt-BR)". None if it is absent. Raises
    InvalidRequest."""
    stated = {value.strip() for values in request.param_values(name) for value in (values or ("",))}
    if not stated:
        return None
    found = language(stated.pop()) if len(stated) == 1 else None
    if found is None:
        raise InvalidRequest("invalid-param", f"{name}: {_MOST_NAMED}")
    return found


def language(tag: str) -> str | None:
    """The English name of the language and the tag, as BCP 47 spells it; None for what is no language."""
    match = _TAG(tag.replace("_", "-"))
    if match is None or (name := _name(match[1].lower())) is None:
        return None
    script, region, variants = match[2], match[3], match[4].lower()
    pieces = [match[1].lower(), *([script.title()] if script else ()), *([region.upper()] if region else ())]
    return f"{name} ({'-'.join(pieces)}{variants})"


def _name(code: str) -> str | None:
    """ISO 639-1, or 639-2 and 639-3; none of the codes that stand for no language (und, mul, zxx, mis)."""
    # Its tables take a quarter of a second to load, which no command but a translation should wait for.
    from iso639 import Language, LanguageNotFoundError

    readers = (Language.from_part1,) if len(code) == 2 else (Language.from_part3, Language.from_part2b)
    for reader in readers:
        try:
            found = reader(code)
        except LanguageNotFoundError:
            continue
        return None if found.scope == "S" else str(found.name)
    return None
