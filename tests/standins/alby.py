"""Alby's own NIP-47 service before a wallet of LNbits (`tests/ldk/alby_lnbits.mjs`), as a Node.js process."""

from __future__ import annotations

import secrets

from dvm.lightning.nip47 import SCHEME_NAMES, Connection
from dvm.nostr.encryption import Scheme
from dvm.nostr.keys import Keys
from tests.standins import lnbits
from tests.standins.ldk import program
from tests.standins.process import Process


class AlbyService(Process):
    """It announces and understands `scheme` alone. `connection` stays the same from start to start."""

    def __init__(self, relay: str, server: lnbits.Lnbits, wallet: lnbits.Keys, scheme: Scheme) -> None:
        own, client = secrets.token_hex(32), secrets.token_hex(32)
        self.connection = Connection(Keys.parse(own).pubkey, (relay,), Keys.parse(client))
        keys = {
            "LNBITS_ADMIN_KEY": wallet.admin,
            "LNBITS_INVOICE_KEY": wallet.invoice,
            "WALLET_SECRET": own,
            "CLIENT_SECRET": client,
        }
        script = program().parent / "alby_lnbits.mjs"
        super().__init__([str(script), relay, server.url, SCHEME_NAMES[scheme]], keys, program="node")

    async def start(self) -> None:
        begun = len(self.lines)
        await self.spawn()
        await self.line("listening", start=begun)
