"""The two files that an operator starts from: `dvm init` writes them, and they stand in the project's root."""

from __future__ import annotations

import json

RELAYS_TOML = """\
# Where the daemon listens for jobs (read) and publishes its answers (write). The buyer's commands read
# this file too. Both are true if left out; at least one relay must have each.

[[relay]]
url = "wss://relay.damus.io"

[[relay]]
url = "wss://nos.lol"

[[relay]]
url = "wss://relay.primal.net"
"""

_DVM_TOML = """\
# What this service sells, for how much, and where it is paid. Every key: docs/configuration.md.
# Secrets never stand here: they come from environment variables, or from files that this one names.

[identity]
name = "My DVM"
about = "Text generation, paid by the token"
# picture = "https://example.com/picture.png"
# lud16 = "name@example.com"
nsec_file = {nsec_file}      # or the variable DVM_NSEC

[wallet]
type = "nwc"                # the connection is in the variable DVM_NWC_URI; "paper" is for trying things out
# secret_file = "nwc.uri"   # or in this file

[models.flash]
provider = "gemini"         # the key is in the variable GEMINI_API_KEY
model = "gemini-2.5-flash"
# api_key_file = "gemini.key"   # or in this file
input = 300                 # sats per million tokens
cached = 75
output = 2500               # thinking tokens are output
max_output_tokens = 8192

[[service]]
kind = 5050                 # text generation
models = ["flash"]          # in order of preference; the customer may name one
price = "per-token"         # or {{ per_request = 21 }} in sats, or "free"

[limits]                    # these are the defaults; 0 is no limit
jobs_per_minute = 60        # per customer
open_quotes = 50            # per customer
open_quotes_total = 10000
prompt_tokens = 100000
concurrency = 32            # jobs running at once
quote_minutes = 1440        # how long a price is kept
"""


def dvm_toml(nsec_file: str = "data/nsec") -> str:
    """The text of a first `dvm.toml`, whose key lies in `nsec_file` (relative to that file's directory)."""
    return _DVM_TOML.format(nsec_file=json.dumps(nsec_file, ensure_ascii=False))
