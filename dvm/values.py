"""What a single value of the configuration may be: each type checks itself and says what it wants.

No message repeats the value: somebody may have put a secret there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo

from dvm.nostr.keys import InvalidKey, parse_pubkey

# Kinds within the range of NIP-90's job requests that other NIPs use for something else.
NOT_JOBS = frozenset({5128, 5129})


def _check_url(url: str, *schemes: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in schemes or not host or not url.isprintable() or " " in url:
        raise ValueError(f"must be a URL that begins with {' or '.join(f'{s}://' for s in schemes)}")
    if "@" in parts.netloc:
        raise ValueError("has a name or a password in it: secrets never stand in the configuration")
    if parts.fragment:
        raise ValueError("must not have a #fragment")
    return url


def _http(url: str) -> str:
    return _check_url(url, "http", "https")


def _ws(url: str) -> str:
    return _check_url(url, "ws", "wss")


def _picture(url: str) -> str:
    return url and _http(url)


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError('must be a file name, in "quotes"')
    if re.fullmatch(r"[0-9a-fA-F]{32,}", value):
        raise ValueError("must name a file that holds the secret; the secret itself never stands here")
    directory = info.context["directory"] if info.context else Path()
    try:
        return Path(directory, Path(value).expanduser())
    except RuntimeError:
        raise ValueError("~ cannot be resolved: there is no home directory") from None


def _lud16(value: str) -> str:
    if value and not re.fullmatch(r"[a-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?", value):
        raise ValueError("must be a Lightning address: name@domain, the name in lower case")
    return value


def _npub(value: str) -> str:
    if not value.startswith("npub1"):
        raise ValueError("must be a public key: npub1…")
    try:
        parse_pubkey(value)
    except InvalidKey:
        raise ValueError("must be a public key: npub1…") from None
    return value


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError('must be "host:port"')
    return value


def _job_kind(kind: int) -> int:
    if kind in NOT_JOBS:
        raise ValueError(f"{kind} is not a job request, although it lies among them")
    return kind


def _model_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", name):
        raise ValueError("the name of a model is up to 64 letters, digits and . _ : / -")
    return name


def _env_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
        raise ValueError("must be the name of an environment variable, not what is in it")
    return name


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


# The bounds keep every sum of prices far below 64 bits; no token ever costs a thousand sats.
MAX_SATS = 1_000_000_000
Sats = Annotated[int, Field(ge=0, le=MAX_SATS)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Minutes = Annotated[int, Field(ge=0, le=525_600)]
Interval = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=4000)]
System = Annotated[str, StringConstraints(max_length=100_000)]
HttpUrl = Annotated[str, AfterValidator(_http)]
RelayUrl = Annotated[str, AfterValidator(_ws)]
Picture = Annotated[str, AfterValidator(_picture)]
LightningAddress = Annotated[str, AfterValidator(_lud16)]
Npub = Annotated[str, AfterValidator(_npub)]
Listen = Annotated[str, AfterValidator(_listen)]
FilePath = Annotated[Path, BeforeValidator(_path)]
ModelName = Annotated[str, AfterValidator(_model_name)]
EnvName = Annotated[str, AfterValidator(_env_name)]
JobKind = Annotated[int, Field(ge=5000, le=5999), AfterValidator(_job_kind)]
# TOML has lists; what never changes is a tuple.
AsTuple = BeforeValidator(_tuple)
