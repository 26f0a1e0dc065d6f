"""A NIP-90 data vending machine: sells and buys AI answers with Bitcoin on Nostr."""

__version__ = "0.1.0"
