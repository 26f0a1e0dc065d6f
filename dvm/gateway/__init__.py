"""The HTTP side: Lightning address and zaps, NIP-05, health and metrics."""
