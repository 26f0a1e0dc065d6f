"""This machine's clock, against what the relays' servers say."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from dvm.doctor.findings import Finding
from dvm.doctor.relays import Told

# Authentication (NIP-42), quotes and expirations suffer from here on.
WRONG = 10.0  # seconds
# A request from further back is not news (limits.max_age_minutes), and NIP-42 allows no more either.
USELESS = 600.0  # seconds
ADVICE = "Let the machine keep its time by NTP (`timedatectl set-ntp true`)."


def clock(told: Sequence[Told]) -> Finding:
    """The median counts: one relay's server may be wrong itself."""
    if not told:
        advice = "Make sure yourself that this machine's clock is right (`timedatectl`)."
        return Finding("clock", "", "warning", "no relay's server said what time it is", advice)
    offset = median(each.offset for each in told)
    servers = f"{len(told)} relay{'s' if len(told) > 1 else ''}"
    # The header has whole seconds, cut off: half a second is what it lacks on average.
    offset += 0.5
    if abs(offset) <= WRONG:
        return Finding("clock", "", "ok", f"agrees with {servers}, to {max(1, round(abs(offset)))} s")
    way = "slow" if offset > 0 else "fast"
    seen = f"{abs(offset):.0f} s {way}, by {servers}"
    return Finding("clock", "", "failed" if abs(offset) > USELESS else "warning", seen, ADVICE)
