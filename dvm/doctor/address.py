"""The gateway and the Lightning address: whether it can listen, and what whoever zaps will find at the address."""

from __future__ import annotations

import asyncio

from dvm.doctor.findings import Finding, State, Steps
from dvm.gateway.server import GatewayError, bind
from dvm.jobs.shop import ZapSettings
from dvm.lightning.lnurl import LnurlClient, LnurlError

SECONDS = 12.0  # for the address' server, at most


async def listening(listen: str) -> Steps:
    """Whether gateway.listen, "host:port", is free; to be asked while no daemon has it."""
    try:
        (await asyncio.to_thread(bind, listen)).close()
    except GatewayError as error:
        seen = str(error).removeprefix(f"gateway.listen: {listen}: ")
        advice = "End what listens there, or set gateway.listen to another port, for the reverse proxy as well."
        yield Finding("gateway", listen, "failed", f"it cannot listen there: {seen}", advice)
    else:
        yield Finding("gateway", listen, "ok", "it can listen there")


async def served(zaps: ZapSettings, pubkey: str, *, daemon: bool, allow_private: bool) -> Steps:
    """What its server says, asked as a wallet asks it (LUD-16). `pubkey`, hex, is ours; `daemon`: one is running
    in the data directory. Nothing is paid."""
    where = zaps.lud16
    if zaps.own and not daemon:
        yield Finding("lightning address", where, "ok", "not tried: `dvm run` serves it, and is not running here")
        return
    # Where quotes ask for zaps, an address without them sells nothing.
    trouble: State = "failed" if zaps.own or zaps.quote != "invoice" else "warning"
    client = LnurlClient(allow_private=allow_private, timeout=SECONDS)
    try:
        found = await client.fetch(where)
    except LnurlError as error:
        if zaps.own:
            advice = "Let the reverse proxy of that domain pass /.well-known/ on to gateway.listen, with TLS."
        else:
            advice = "Correct identity.lud16, or take it out: nobody can be zapped there."
        yield Finding("lightning address", where, trouble, str(error), advice)
        return
    finally:
        await client.close()
    if found.nostr_pubkey is None:
        seen = "its server makes no zap receipts (allowsNostr, nostrPubkey): what is zapped is credited to nobody"
        advice = (
            "Take an address at a provider that allows Nostr, or serve one here (docs/configuration.md, [gateway])."
        )
        yield Finding("lightning address", where, trouble, seen, advice)
    elif zaps.own and found.nostr_pubkey != pubkey:
        seen = "it is another service that answers there: its zap receipts are signed by another key"
        advice = "Let the reverse proxy of that domain pass /.well-known/ on to gateway.listen, and to nothing else."
        yield Finding("lightning address", where, "failed", seen, advice)
    else:
        amounts = f"{-(-found.min_msat // 1000):,} to {found.max_msat // 1000:,} sat"
        yield Finding("lightning address", where, "ok", f"it can be zapped with {amounts}")
