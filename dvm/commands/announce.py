"""`dvm announce`: kinds and prices (31990), the profile (0) and the relay list (10002), onto the write relays."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dvm.announcer import Outcome, publish
from dvm.announcing import drafts_of
from dvm.building import build_services, offered
from dvm.commands.common import CONFIG, DATA, RELAYS, AsJson, ConfigPath, DataPath, Failure, RelaysPath, print_json
from dvm.config import load_config, load_relays
from dvm.nip90.wire import ANNOUNCEMENT, PROFILE, RELAY_LIST
from dvm.nostr import AddressRefused, Event, Keys, Relay
from dvm.problems import ConfigError
from dvm.secrets import load_keys

NAMES = {ANNOUNCEMENT: "what is sold", PROFILE: "profile", RELAY_LIST: "relays"}


def main(
    config: ConfigPath = CONFIG,
    relays: RelaysPath = RELAYS,
    data: DataPath = DATA,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the signed events as JSON; publish none.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish what is sold: kinds, prices, profile, relays. Do so again whenever one of them changes."""
    events, keys, urls = _prepared(config, relays)
    if dry_run:
        print_json([json.loads(event.to_json()) for event in events])
        return
    outcomes = asyncio.run(once(events, urls, keys))
    nowhere = [event for event in events if all(o.error is not None for o in outcomes if o.event == event)]
    if as_json:
        print_json(_as_json(keys, events, outcomes))
        raise typer.Exit(1 if nowhere else 0)
    for url in urls:
        typer.echo(url)
        for outcome in outcomes:
            if outcome.relay == url:
                word = "published" if outcome.error is None else f"not published: {outcome.error}"
                typer.echo(f"    {outcome.event.kind:<6}{NAMES[outcome.event.kind]:<14}{word}")
    if nowhere:
        names = ", ".join(NAMES[event.kind] for event in nowhere)
        raise Failure(f"no relay took: {names}. `dvm doctor` says what is wrong with each relay")
    typer.echo(f"\n{keys.npub} is announced")


async def once(events: Sequence[Event], urls: Sequence[str], keys: Keys) -> list[Outcome]:
    """Publish on connections of its own; the outcomes are in the order of `urls` and `events`."""
    # Passing relays: they fail at once where they cannot be reached, with the reason.
    relays = [Relay(url, keys=keys, lasting=False) for url in urls]
    try:
        return await publish(events, relays)
    finally:
        await asyncio.gather(*(relay.close() for relay in relays))


def _prepared(config: Path, relays: Path) -> tuple[list[Event], Keys, list[str]]:
    """The signed events, whose they are, where they go. Raises ConfigError."""
    settings, where = load_config(config, offered()), load_relays(relays)
    keys = load_keys(settings, os.environ, file=str(config))
    now = int(time.time())
    events = [draft.sign(keys, now) for draft in drafts_of(settings, where, build_services(settings))]
    try:
        for url in where.write:
            Relay(url)
    except AddressRefused as error:
        raise ConfigError([f"{relays}: {error}"]) from None
    return events, keys, where.write


def _as_json(keys: Keys, events: Sequence[Event], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "npub": keys.npub,
        "pubkey": keys.pubkey,
        "events": [
            {
                "kind": event.kind,
                "id": event.id,
                "published": [o.relay for o in outcomes if o.event == event and o.error is None],
                "failed": {o.relay: o.error for o in outcomes if o.event == event and o.error is not None},
            }
            for event in events
        ],
    }
