"""Everything on this machine: a relay, a paper Lightning node with two wallets behind NIP-47, the daemon.

It takes the path that a real service takes: the daemon and its customer meet on the relay only, and each
reaches its wallet over Nostr Wallet Connect. Only the money is paper.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dvm.announcing import drafts_of
from dvm.config import Config, Relays
from dvm.daemon import Daemon
from dvm.lightning.paper_node import PaperNode
from dvm.lightning.paper_service import PaperService
from dvm.nostr.embedded import EmbeddedRelay
from dvm.nostr.keys import Keys
from dvm.secrets import Secrets

CUSTOMER_MSAT = 100_000_000

# A small model earns small money; these prices make whole sats of a few sentences, to be seen.
_MODEL: dict[str, Any] = {"input": 20_000, "cached": 5_000, "output": 100_000, "max_output_tokens": 512}
MODELS: dict[str, dict[str, Any]] = {
    "embedded": {"provider": "embedded", **_MODEL},
    "echo": {"provider": "echo", "chunk_tokens": 4, "delay_seconds": 0.2, **_MODEL},
}


@dataclass(frozen=True)
class Shop:
    """Where the demo's shop is, and its customer's wallet connection (a secret, though of paper)."""

    relay: str
    npub: str
    pubkey: str
    wallet: str
    daemon: Daemon


@asynccontextmanager
async def open_shop(data: Path, model: str) -> AsyncIterator[Shop]:
    """The whole street; `data` is the daemon's directory. Raises ImportError where the relay is not
    installed, ConfigError where the model is not."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(EmbeddedRelay())
        node = PaperNode()
        node.open_wallet("customer", CUSTOMER_MSAT)
        service = PaperService(node, [relay])
        shop = service.connect("shop")
        customer = service.connect("customer")
        await service.start()
        stack.push_async_callback(service.close)
        keys = Keys.generate()
        daemon = await stack.enter_async_context(
            Daemon(
                config_of(model),
                Relays.model_validate({"relay": [{"url": relay}]}),
                Secrets(keys, shop.connection.uri(), MappingProxyType({})),
                data,
            )
        )
        for draft in drafts_of(daemon.config, daemon.relays, daemon.services):
            await daemon.pool.publish(draft.sign(keys, int(time.time())))
        yield Shop(relay, keys.npub, keys.pubkey, customer.connection.uri(), daemon)


def config_of(model: str) -> Config:
    """What the demo's shop sells."""
    return Config.model_validate(
        {
            "identity": {"name": "Demo", "about": "A shop that is open for a minute", "announce": False},
            "wallet": {"type": "nwc"},
            "models": {model: MODELS[model]},
            "service": [{"kind": 5050, "models": [model], "price": "per-token"}],
            # So small a model may be done within a second: here its partials come more often, to be seen.
            "limits": {"allow_private_addresses": True, "partial_seconds": 0.25},
        },
        context={"directory": Path()},
    )
