"""What the operator's files say, as the events that tell the world: 31990, kind 0 and 10002. No I/O.

`dvm announce` publishes them, and whoever wants to know whether they have changed compares the drafts: the
same files give the same drafts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from dvm.config import Identity, Relays
from dvm.jobs import Service
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


def drafts_of(identity: Identity, relays: Relays, services: Mapping[int, Service]) -> tuple[Draft, Draft, Draft]:
    """The unsigned events, in the order in which they are published: what is sold, profile, relays."""
    profile = Profile(identity.name, identity.about, identity.picture, identity.lud16)
    uses = [RelayUse(relay.url, relay.read, relay.write) for relay in relays.relay]
    return (
        announcement_draft(announcement_of(identity, services)),
        profile_draft(profile),
        relay_list_draft(uses),
    )


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


def _params(sold: Iterable[Service]) -> dict[str, Param]:
    """What customers may set; for `model`, the names to choose from."""
    descriptions: dict[str, str] = {}
    models: dict[str, None] = {}
    for service in sold:
        for name, description in service.kind.params.items():
            descriptions.setdefault(name, description)
        if "model" in service.kind.params:
            models.update(dict.fromkeys(service.models))
    return {
        name: Param(description, values=tuple(models) if name == "model" else ())
        for name, description in descriptions.items()
    }


def _amount(prices: Iterable[Price]) -> Literal["free", "flexible"] | int:
    """The one price there is, in sats, or what clients show instead."""
    different = set(prices)
    if different <= {FREE}:
        return "free"
    if len(different) == 1 and isinstance(price := different.pop(), PerRequest):
        return whole_sats(price.msat) // MSAT
    return "flexible"
