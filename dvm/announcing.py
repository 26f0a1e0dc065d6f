"""What the operator's files say, as the events that tell the world: 31990, kind 0 and 10002. No I/O.

`dvm announce` and the daemon publish them, and whoever wants to know whether they have changed compares the drafts: the
same files give the same drafts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

from dvm.config import Config, Identity, Relays
from dvm.jobs import Service
from dvm.jobs.choosing import AUTO
from dvm.lightning.lnurl_address import is_at
from dvm.nip90.announce import (
    Announcement,
    Param,
    Profile,
    RelayUse,
    announcement_draft,
    profile_draft,
    relay_list_draft,
)
from dvm.nip90.wire import Draft
from dvm.pricing import FREE, PerRequest, Price
from dvm.pricing.prices import MSAT, by_class, whole_sats

# The `d` of our announcement. One key is one provider, and one provider has one announcement. It is a
# constant, so that a daemon that lost its data directory replaces its announcement rather than adding a second
# one, and so that the `a` of every receipt ever given still leads to it.
IDENTIFIER = "lightning-dvm"


def announcement_of(identity: Identity, services: Mapping[int, Service]) -> Announcement:
    """What is sold, for how much: kinds, prices in msat, params, topics.

    NIP-90 prices go by model, whatever the kind: where two kinds sell one model at two prices, the dearer is
    announced, so that nobody is ever billed more than was announced.
    """
    sold = [services[kind] for kind in sorted(services)]
    return Announcement(
        d=IDENTIFIER,
        kinds=tuple(service.kind.kind for service in sold),
        name=identity.name,
        about=identity.about,
        picture=identity.picture,
        image=identity.picture,
        lud16=identity.lud16,
        topics=tuple(dict.fromkeys(topic for service in sold for topic in service.kind.topics)),
        amount=_amount(price for service in sold for price in service.prices.values()),
        prices=_prices(sold),
        params=_params(sold),
        encryption=True,
    )


def drafts_of(config: Config, relays: Relays, services: Mapping[int, Service]) -> tuple[Draft, Draft, Draft]:
    """The unsigned events, in the order in which they are published: what is sold, profile, relays."""
    identity = config.identity
    profile = Profile(identity.name, identity.about, identity.picture, identity.lud16, nip05_of(config))
    uses = [RelayUse(relay.url, relay.read, relay.write) for relay in relays.relay]
    return (
        announcement_draft(announcement_of(identity, services)),
        profile_draft(profile),
        relay_list_draft(uses),
    )


def nip05_of(config: Config) -> str:
    """Our name under our domain (NIP-05), if the gateway serves it: that of the Lightning address, or `_`, which
    stands for the domain itself. Empty without a gateway that the world reaches by https:// at the usual port."""
    url = config.gateway.url if config.gateway else None
    if url is None or not url.startswith("https://") or urlsplit(url).port not in (None, 443):
        return ""
    lud16 = config.identity.lud16
    name = lud16.partition("@")[0] if lud16 and is_at(lud16, url) else "_"
    return f"{name}@{urlsplit(url).hostname}"


def _prices(sold: Iterable[Service]) -> dict[str, dict[str, int]]:
    prices: dict[str, dict[str, int]] = {}
    for service in sold:
        for model, price in service.prices.items():
            classes = by_class(price)
            if classes:
                of_model = prices.setdefault(model, {})
                for name, msat in classes.items():
                    of_model[name] = max(msat, of_model.get(name, 0))
    return prices


def _params(sold: Sequence[Service]) -> dict[str, Param]:
    """What customers may set; for `model`, the names to choose from.

    There is one list for all kinds. So a param is announced as required only where each kind that is sold requires
    it, and with values only where each kind that has it lists them; its description says the rest.
    """
    names = dict.fromkeys(name for service in sold for name in service.kind.params)
    return {name: _param(name, sold) for name in names}


def _param(name: str, sold: Sequence[Service]) -> Param:
    having = [service for service in sold if name in service.kind.params]
    params = {service.kind.kind: service.kind.param(name) for service in having}
    said: dict[str, list[int]] = {}
    for kind, param in params.items():
        said.setdefault(param.description, []).append(kind)
    description = next(iter(said))
    if len(said) > 1:
        description = "; ".join(f"{', '.join(map(str, kinds))}: {text}" for text, kinds in said.items())
    required = [str(kind) for kind, param in params.items() if param.required]
    if required and len(required) < len(sold):
        description += f" (required for kind {', '.join(required)})"
    lists = [service.models if name == "model" else service.kind.param(name).values for service in having]
    values = dict.fromkeys(value for each in lists for value in each) if all(lists) else {}
    if name == "model" and any(len(service.models) > 1 for service in having):
        values[AUTO] = None
    return Param(description, required=len(required) == len(sold), values=tuple(values))


def _amount(prices: Iterable[Price]) -> Literal["free", "flexible"] | int:
    """The one price there is, in sats, or what clients show instead."""
    different = set(prices)
    if different <= {FREE}:
        return "free"
    if len(different) == 1 and isinstance(price := different.pop(), PerRequest):
        return whole_sats(price.msat) // MSAT
    return "flexible"
