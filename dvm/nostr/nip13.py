"""NIP-13, proof of work: an id that begins with so many zero bits, and that was meant to."""

from __future__ import annotations

import re

from dvm.nostr.event import Event

_BITS = re.compile(r"0|[1-9][0-9]{0,2}").fullmatch


def difficulty(event_id: str) -> int:
    """How many zero bits an id (hex) begins with."""
    return 4 * len(event_id) - int(event_id, 16).bit_length()


def committed(event: Event) -> int:
    """The difficulty that its author aimed at: the third item of the one `nonce` tag; 0 without a clear one.

    What was only lucky does not count: else spam for many readers would pay for each of them out of one effort.
    """
    nonces = event.all("nonce")
    if len(nonces) != 1 or len(nonces[0]) < 3 or not _BITS(nonces[0][2]):
        return 0
    return int(nonces[0][2])


def is_proof(event: Event, bits: int) -> bool:
    """Whether an event, whose id was verified, proves work of at least `bits` bits, and was meant to."""
    return committed(event) >= bits and difficulty(event.id) >= bits
