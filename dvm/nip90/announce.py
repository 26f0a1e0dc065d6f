"""What a provider says of itself: kind 31990 (NIP-89), its profile (kind 0) and its relays (NIP-65)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import orjson

from dvm.nip90.receipts import MAX_CLASSES, MAX_NAME_CHARS
from dvm.nip90.wire import (
    ANNOUNCEMENT,
    MAX_MSAT,
    MAX_TAGS,
    PROFILE,
    RELAY_LIST,
    Draft,
    natural,
)
from dvm.nostr.event import Event

MAX_TEXT_CHARS = 4096
MAX_RELAYS = 32


class InvalidAnnouncement(ValueError):
    """The event announces nothing that can be relied upon; the text says why."""


@dataclass(frozen=True, slots=True)
class Param:
    """A param that customers may (or must) give; `values` are the ones to choose from, if it is a choice."""

    description: str = ""
    required: bool = False
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """Kind 0. Whatever is empty is left out."""

    name: str
    about: str = ""
    picture: str = ""
    lud16: str = ""
    nip05: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What one provider sells. `prices` are by model, then by class: msat per million tokens (`input`,
    `cached`, `output`), or msat for a whole job (`request`).

    `amount` is "free", "flexible" or a number of sats: what clients show that know nothing of prices.
    `d` tells one announcement of a provider from another. `params` are by name.
    """

    d: str
    kinds: tuple[int, ...]
    name: str
    about: str = ""
    picture: str = ""
    image: str = ""
    lud16: str = ""
    topics: tuple[str, ...] = ()
    amount: Literal["free", "flexible"] | int = "flexible"
    prices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    params: Mapping[str, Param] = field(default_factory=dict)
    encryption: bool = True
    provider: str = ""
    """Whose it is: a public key in hex. Known where an announcement was read."""

    @property
    def address(self) -> str:
        """What a receipt's `a` says."""
        return f"{ANNOUNCEMENT}:{self.provider}:{self.d}"


@dataclass(frozen=True, slots=True)
class RelayUse:
    """One relay of a relay list, hostile input when it is another's: where its author reads and writes."""

    url: str
    read: bool = True
    write: bool = True


def announcement_draft(announcement: Announcement) -> Draft:
    """The unsigned event of kind 31990; the same announcement gives the same bytes."""
    a = announcement
    tags = [["d", a.d], *(["k", str(kind)] for kind in a.kinds), *(["t", topic] for topic in a.topics)]
    tags += [["price", model, name, str(price)] for model, prices in a.prices.items() for name, price in prices.items()]
    tags.append(["alt", f"A data vending machine: {a.name}"])
    content: dict[str, Any] = {"name": a.name, "about": a.about, "picture": a.picture, "image": a.image}
    content["lud16"] = a.lud16
    content = {key: value for key, value in content.items() if value}
    content |= {
        "amount": a.amount,
        "nip90Params": {
            name: {"required": p.required, "values": list(p.values), "description": p.description}
            for name, p in a.params.items()
        },
        "encryptionSupported": a.encryption,  # clients look for the one or the other spelling
        "supportsEncryption": a.encryption,
    }
    return Draft(ANNOUNCEMENT, tags, orjson.dumps(content).decode())


def profile_draft(profile: Profile) -> Draft:
    """The unsigned kind 0 (NIP-01), with `bot: true` (NIP-24)."""
    fields = {
        "name": profile.name,
        "about": profile.about,
        "picture": profile.picture,
        "lud16": profile.lud16,
        "nip05": profile.nip05,
    }
    content = {key: value for key, value in fields.items() if value} | {"bot": True}
    return Draft(PROFILE, [], orjson.dumps(content).decode())


def relay_list_draft(relays: Iterable[RelayUse]) -> Draft:
    """The unsigned kind 10002 (NIP-65): a relay that is both read and written has no marker."""
    tags = []
    for relay in relays:
        if relay.read or relay.write:
            marker = [] if relay.read and relay.write else ["read" if relay.read else "write"]
            tags.append(["r", relay.url, *marker])
    return Draft(RELAY_LIST, tags)


def parse_announcement(event: Event) -> Announcement:
    """What a provider sells, from its 31990, which must have been verified. Raises InvalidAnnouncement only.

    Prices are strict; of the content, which is there to be looked at, what is no text is left out.
    """
    if event.kind != ANNOUNCEMENT:
        raise InvalidAnnouncement(f"kind {ANNOUNCEMENT} expected")
    d = event.tag("d")
    if d is None or len(d) > MAX_NAME_CHARS or len(event.tags) > MAX_TAGS:
        raise InvalidAnnouncement(f"d: expected; and at most {MAX_TAGS} tags")
    try:
        kinds = tuple(dict.fromkeys(natural(kind, 65_535) for kind in event.values("k")))
    except ValueError as error:
        raise InvalidAnnouncement(f"k: {error}") from None
    content = _content(event.content)
    return Announcement(
        d=d,
        kinds=kinds,
        name=_text(content.get("name")),
        about=_text(content.get("about")),
        picture=_text(content.get("picture")),
        image=_text(content.get("image")),
        lud16=_text(content.get("lud16")),
        topics=tuple(topic for topic in event.values("t") if len(topic) <= MAX_NAME_CHARS),
        amount=_amount(content.get("amount")),
        prices=_prices(event),
        params=_params(content.get("nip90Params")),
        encryption=content.get("encryptionSupported") is True or content.get("supportsEncryption") is True,
        provider=event.pubkey,
    )


def parse_relay_list(event: Event) -> tuple[RelayUse, ...]:
    """Where somebody reads and writes (NIP-65), at most 32 relays. Never raises: another kind has none."""
    uses: dict[str, RelayUse] = {}
    if event.kind != RELAY_LIST:
        return ()
    for tag in event.tags:
        if len(tag) > 1 and tag[0] == "r" and 0 < len(tag[1]) <= 512 and tag[1] not in uses:
            marker = tag[2] if len(tag) > 2 else ""
            uses[tag[1]] = RelayUse(tag[1], read=marker != "write", write=marker != "read")
            if len(uses) == MAX_RELAYS:
                break
    return tuple(uses.values())


def _prices(event: Event) -> dict[str, dict[str, int]]:
    prices: dict[str, dict[str, int]] = {}
    for tag in event.all("price"):
        if len(tag) < 4 or max(len(tag[1]), len(tag[2])) > MAX_NAME_CHARS:
            raise InvalidAnnouncement('price: ["price", model, class, msat per million tokens] expected')
        model = prices.setdefault(tag[1], {})
        if tag[2] in model or len(model) == MAX_CLASSES:
            raise InvalidAnnouncement("price: a class is stated twice, or there are too many")
        try:
            model[tag[2]] = natural(tag[3], MAX_MSAT)
        except ValueError as error:
            raise InvalidAnnouncement(f"price: {error}") from None
    return prices


def _content(text: str) -> dict[str, Any]:
    """The content's JSON object; empty where there is none (NIP-89 allows an empty content)."""
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}


def _text(value: object) -> str:
    return value[:MAX_TEXT_CHARS] if isinstance(value, str) else ""


def _amount(value: object) -> Literal["free", "flexible"] | int:
    if value == "free":
        return "free"
    try:
        return natural(str(value), MAX_MSAT) if type(value) in (int, str) else "flexible"
    except ValueError:
        return "flexible"


def _params(raw: object) -> dict[str, Param]:
    params: dict[str, Param] = {}
    if not isinstance(raw, dict):
        return params
    for name, value in list(raw.items())[:MAX_TAGS]:
        if isinstance(value, dict) and len(name) <= MAX_NAME_CHARS:
            values = value.get("values")
            chosen = [v for v in values if isinstance(v, str)] if isinstance(values, list) else []
            params[name] = Param(
                _text(value.get("description")), value.get("required") is True, tuple(chosen[:MAX_TAGS])
            )
    return params
