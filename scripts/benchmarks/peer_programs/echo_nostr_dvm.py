"""A kind 5050 echo job on nostr-dvm, free: its generic DVM, as its own examples set one up.

Runs in an environment of its own: `python echo_nostr_dvm.py RELAY`. Nothing but that relay is spoken to.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from nostr_dvm.tasks.generic_dvm import GenericDVM
from nostr_dvm.utils.admin_utils import AdminConfig
from nostr_dvm.utils.dvmconfig import DVMConfig
from nostr_dvm.utils.nip89_utils import NIP89Config
from nostr_sdk import Keys, Kind


class Echo(GenericDVM):
    """Answers with its input. The base class keeps its options for all jobs in one dictionary; here each
    job has its own, so that jobs at once do not answer one another."""

    async def create_request_from_nostr_event(self, event: Any, client: Any = None, dvm_config: Any = None) -> Any:
        tags = [tag.to_vec() for tag in event.tags()]
        prompt = next(tag[1] for tag in tags if tag[0] == "i")
        return {"jobID": event.id().to_hex(), "options": json.dumps({"input": prompt})}

    async def process(self, request_form: Any) -> str:
        return str(self.set_options(request_form)["input"])


def main(relay: str) -> None:
    config = DVMConfig()
    config.PRIVATE_KEY = Keys.generate().secret_key().to_hex()
    config.IDENTIFIER = "echo"
    config.KIND = Kind(5050)
    config.FIX_COST = 0
    config.RELAY_LIST = [relay]
    config.SYNC_DB_RELAY_LIST = [relay]
    config.ANNOUNCE_RELAY_LIST = [relay]
    config.LNBITS_URL = ""
    nip89 = NIP89Config()
    nip89.DTAG = "echo"
    nip89.CONTENT = json.dumps({"name": "echo"})
    Echo(name="echo", dvm_config=config, nip89config=nip89, admin_config=AdminConfig()).run()


main(sys.argv[1])
