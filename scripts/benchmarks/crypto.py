"""The floor of a job's own cryptography: what it cannot do without, counted on a real job and timed on its own.

Counted is what the daemon receives and what it says: each event that came is verified and its id computed, each that
went out is signed and its id computed; what was encrypted is decrypted, what is said in secret is encrypted; a receipt
has the hash of the inputs and of the answer; an upload has the file's hash and a signed authorisation.

Not counted is the agreement on a key with a customer (ECDH), which is done once and kept, the word that a slow job is
under way, and the wallet's own cryptography.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from coincurve import PublicKeyXOnly

from dvm.nip90 import FEEDBACK, is_encrypted, parse_request
from dvm.nostr import Keys
from dvm.nostr.encryption import Scheme, decrypt, encrypt
from dvm.nostr.event import Event
from scripts.benchmarks.machine import Cores

ROUNDS, TIMES = 5, 20
_AUTHORIZATION = 24242  # BUD-11


@dataclass(slots=True)
class Needs:
    """The operations of one job: events to verify and to sign, texts to open and to seal (each with who else has the
    key), and bytes to hash."""

    verified: list[Event] = field(default_factory=list)
    signed: list[bytes] = field(default_factory=list)
    opened: list[tuple[Keys, str, str]] = field(default_factory=list)
    sealed: list[tuple[Keys, str, Scheme, str]] = field(default_factory=list)
    hashed: list[bytes] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {
            "verified": len(self.verified),
            "signed": len(self.signed),
            "hashed": len(self.hashed),
            "decrypted": len(self.opened),
            "encrypted": len(self.sealed),
        }

    def receive(self, event: Event) -> None:
        self.verified.append(event)
        self.hashed.append(event.serialize())

    def send(self, event: Event) -> None:
        self.signed.append(bytes.fromhex(event.id))
        self.hashed.append(event.serialize())


def needs_of(
    request: Event,
    heard: Sequence[dict[str, Any]],
    customer: Keys,
    provider: str,
    *,
    looked_up: Sequence[Event] = (),
    file: bytes | None = None,
) -> Needs:
    """The operations behind a finished job. `heard` are the daemon's answers, `looked_up` the events that its inputs
    name and that came from a relay, `file` what was uploaded."""
    needs = Needs()
    for event in (request, *looked_up):
        needs.receive(event)
    if is_encrypted(request):
        needs.opened.append((customer, provider, request.content))
    answer = b""
    for raw in heard:
        event = Event.parse(raw)
        if event.kind == FEEDBACK and event.tag("status") in ("processing", "partial"):
            continue
        needs.send(event)
        text = event.content
        if is_encrypted(event):
            text, scheme = decrypt(customer, provider, event.content)
            needs.sealed.append((customer, provider, scheme, text))
        if 6000 <= event.kind <= 6999:
            answer = text.encode()
    inputs = parse_request(request, customer).inputs
    needs.hashed += ["\n".join(each.data for each in inputs).encode(), answer]
    if file is not None:
        digest = hashlib.sha256(file).hexdigest()
        tags = [["t", "upload"], ["x", digest], ["expiration", str(request.created_at + 600)]]
        needs.hashed.append(file)
        needs.send(customer.sign(_AUTHORIZATION, tags, "Upload the result of a job", request.created_at))
    return needs


def time_needs(needs: Needs, cores: Cores, *, rounds: int = ROUNDS, times: int = TIMES) -> float:
    """Processor seconds of all that, one after the other and with nothing around it: the median of some rounds, on the
    daemon's processor, while it is idle."""
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores.daemon)
    try:
        work = _work(needs)
        work()
        took = []
        for _ in range(rounds):
            began = time.process_time()
            for _ in range(times):
                work()
            took.append((time.process_time() - began) / times)
    finally:
        os.sched_setaffinity(0, here)
    return median(took)


def _work(needs: Needs) -> Callable[[], None]:
    signer = Keys.generate()
    verified = [
        (PublicKeyXOnly(bytes.fromhex(event.pubkey)), bytes.fromhex(event.sig), bytes.fromhex(event.id))
        for event in needs.verified
    ]

    def work() -> None:
        for data in needs.hashed:
            hashlib.sha256(data).hexdigest()
        for key, signature, digest in verified:
            key.verify(signature, digest)
        for keys, other, payload in needs.opened:
            decrypt(keys, other, payload)
        for keys, other, scheme, text in needs.sealed:
            encrypt(scheme, keys, other, text)
        for digest in needs.signed:
            signer.sign_digest(digest)

    return work
