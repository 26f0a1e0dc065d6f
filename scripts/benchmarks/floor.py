"""The cryptographic floor: what a job's signatures cost, with nothing around them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from hashlib import sha256
from statistics import median

from coincurve import PublicKeyXOnly

from dvm.nostr import Keys
from scripts.benchmarks.machine import Cores

ROUNDS = 9
TIMES = 200


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds of one verification and of one signature."""

    verify: float
    sign: float

    def of(self, signatures: int) -> float:
        """Seconds of one verification (the request's) and that many signatures (the answers')."""
        return self.verify + signatures * self.sign


# What the daemon signs: quote, processing, result and receipt; without an invoice, no quote.
INVOICE_SIGNATURES = 4
BALANCE_SIGNATURES = 3


def time_floor(cores: Cores, *, rounds: int = ROUNDS, times: int = TIMES) -> Floor:
    """Medians over some rounds, on the daemon's processor, while it is idle."""
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores.daemon)
    try:
        keys = Keys.generate()
        digests = [sha256(bytes([number % 256, number // 256])).digest() for number in range(times)]
        signatures = [keys.sign_digest(digest) for digest in digests]
        pubkey = bytes.fromhex(keys.pubkey)
        verify, sign = [], []
        for _ in range(rounds):
            began = time.process_time()
            for digest, signature in zip(digests, signatures, strict=True):
                PublicKeyXOnly(pubkey).verify(signature, digest)
            verified = time.process_time()
            for digest in digests:
                keys.sign_digest(digest)
            sign.append((time.process_time() - verified) / times)
            verify.append((verified - began) / times)
    finally:
        os.sched_setaffinity(0, here)
    return Floor(median(verify), median(sign))
