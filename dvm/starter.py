"""The two files that an operator starts from: `dvm init` writes them, and they stand in the project's root.

`dvm init` can also begin with another wallet, or with a variant that needs no account anywhere: a paper wallet
instead of a real one, the embedded model or echo instead of Gemini or OpenAI. The text is the same but for those
tables.
"""

from __future__ import annotations

import json
from typing import Literal

Wallet = Literal["nwc", "lnd", "cln", "lnbits", "phoenixd", "paper"]
Model = Literal["gemini", "openai", "embedded", "echo"]

NAME = "My DVM"

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
name = {name}
about = "Answers, summaries, translations and transcripts, paid by the token"
# picture = "https://example.com/picture.png"
# lud16 = "name@example.com"
nsec_file = {nsec_file}      # or the variable DVM_NSEC

[wallet]
{wallet}

{model}

[[service]]
kind = 5050                 # text generation
{models:<28}# in order of preference; the customer may name one, or "auto"
price = "per-token"         # or {{ per_request = 21 }} in sats, or "free"

[[service]]
kind = 5001                 # summaries
{models}
price = "per-token"

[[service]]
kind = 5002                 # translations
{models}
price = "per-token"

[[service]]
kind = 5000                 # the text of pages, and of documents, pictures and sound, where the model takes them
{models}
price = "per-token"

# Images (5100), speech (5250), and kinds of your own: docs/kinds.md

[limits]                    # these are the defaults; 0 is no limit
jobs_per_minute = 60        # per customer
open_quotes = 50            # per customer
open_quotes_total = 10000
prompt_tokens = 100000
concurrency = 32            # jobs running at once
quote_minutes = 1440        # how long a price is kept

# [admission]               # who is served; without this table everybody
# deny_file = "deny.txt"    # an npub in each line; read again when it changes. There is allow_file as well
# pow_bits = 20             # proof of work of strangers, unless they have a balance
# follows_of = "npub1…"     # or only those whom this npub follows

# [payouts]                 # customers may withdraw what they own, as far as the wallet can pay
# enabled = true

# [operator]
# npub = "npub1…"           # who gets an encrypted message when the wallet holds less than customers are owed

# [gateway]                 # a Lightning address of your own, for zaps; set identity.lud16 as well
# listen = "127.0.0.1:8402"
# url = "https://pay.example.com"
"""

_WALLETS: dict[Wallet, str] = {
    "nwc": """\
type = "nwc"                # the connection is in the variable DVM_NWC_URI; "paper" is for trying things out
# secret_file = "nwc.uri"   # or in this file""",
    "lnd": """\
type = "lnd"                # the macaroon is in the variable DVM_LND_MACAROON
# secret_file = "lnd.key"   # or in this file, in hex
url = "https://127.0.0.1:8080"      # its REST interface
# tls_cert_file = "/home/bitcoin/.lnd/tls.cert"
# hold = true               # no answer, no charge: sell on hold invoices""",
    "cln": """\
type = "cln"                # the rune is in the variable DVM_CLN_RUNE
# secret_file = "cln.key"   # or in this file
url = "https://127.0.0.1:3010"      # clnrest
# tls_cert_file = "/home/bitcoin/.lightning/bitcoin/ca.pem\"""",
    "lnbits": """\
type = "lnbits"             # the wallet's admin or invoice key is in the variable DVM_LNBITS_KEY
# secret_file = "lnbits.key"    # or in this file
url = "https://lnbits.example.com"  # the server, not the page of the wallet""",
    "phoenixd": """\
type = "phoenixd"           # http-password is in the variable DVM_PHOENIXD_PASSWORD
# secret_file = "phoenixd.key"  # or in this file
url = "http://127.0.0.1:9740\"""",
    "paper": """\
type = "paper"              # for trying things out: no payment is real. For money: "nwc" and DVM_NWC_URI""",
}

_GEMINI = """\
[models.flash]
provider = "gemini"         # the key is in the variable GEMINI_API_KEY
model = "gemini-2.5-flash"
# api_key_file = "gemini.key"   # or in this file
input = 300                 # sats per million tokens
cached = 75
output = 2500               # thinking tokens are output
max_output_tokens = 8192"""

_OPENAI = """\
[models.chat]
provider = "openai"         # the key is in the variable OPENAI_API_KEY
model = "gpt-4.1-mini"
# api_key_file = "openai.key"   # or in this file
# base_url = "http://127.0.0.1:11434/v1"    # whatever speaks its protocol: OpenRouter, Ollama, vLLM, llama.cpp
input = 400                 # sats per million tokens
cached = 100
output = 1600               # thinking tokens are output
max_output_tokens = 8192"""

_EMBEDDED = """\
[models.local]
provider = "embedded"       # a small model on this machine: no key, no network
input = 100                 # sats per million tokens
cached = 25
output = 400
max_output_tokens = 1024"""

_ECHO = """\
[models.echo]
provider = "echo"           # repeats the prompt: for trying things out
input = 100                 # sats per million tokens
cached = 25
output = 400
max_output_tokens = 1024"""

_MODELS: dict[Model, tuple[str, str]] = {
    "gemini": ("flash", _GEMINI),
    "openai": ("chat", _OPENAI),
    "embedded": ("local", _EMBEDDED),
    "echo": ("echo", _ECHO),
}


def dvm_toml(nsec_file: str = "data/nsec", *, name: str = NAME, wallet: Wallet = "nwc", model: Model = "gemini") -> str:
    """The text of a first `dvm.toml`, whose key lies in `nsec_file` (relative to that file's directory)."""
    called, table = _MODELS[model]
    return _DVM_TOML.format(
        name=_quoted(name),
        nsec_file=_quoted(nsec_file),
        wallet=_WALLETS[wallet],
        model=table,
        models=f'models = ["{called}"]',
    )


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
