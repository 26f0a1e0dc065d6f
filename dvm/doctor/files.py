"""One Blossom server: a tiny file of each type that is sold, uploaded, fetched as a customer would, and deleted.

The same few bytes each time, so that a server that deletes nothing keeps no more than one copy of them.
"""

from __future__ import annotations

import hashlib
import io
import struct
import wave
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from dvm.building import build_services
from dvm.config import Config
from dvm.doctor.findings import Finding, Steps, advice_for
from dvm.nostr import Keys
from dvm.nostr.blossom import Blossom, Stored, UploadError
from dvm.nostr.fetching import Fetcher, FetchError

SECONDS = 10.0  # for one request to the server, at most
PAUSE = 1.0  # seconds until what may be passing is tried again
MB = 1_000_000

_TROUBLE = (
    (("certificate", "ssl"), "Its certificate is not valid for this address: check the address, this machine's clock "
     "and its root certificates."),
    (("connect", "no answer within"), "Check the address, and that this machine reaches it; or name another server in "
     "files.servers."),
    (("expired", "expiration", "created_at", "in the future", "timestamp"), "Set this machine's clock (NTP), and run "
     "`dvm doctor` again."),
    (("status 402",), "Pay its operator, or name another server in files.servers."),
    (("status 401", "status 403"), "Have its operator admit your npub, or name another server in files.servers."),
    (("status 415",), "Name another server in files.servers as well, one that takes files of this type."),
    (("status 413",), "Name another server in files.servers as well, one that takes larger files."),
    (("status 408", "status 425", "status 429", "status 5"), "Run `dvm doctor` again in a while; if it stays so, name "
     "another server in files.servers."),
    (("status 3", "status 404", "status 405", "no json", "no descriptor", "too large"), "Correct files.servers: it "
     "must be a Blossom server's own address, such as https://blossom.example.com, without the path of a page."),
    (("has stored", "address", "where the file is", "compressed"), "Do not deliver by this server: what it says of a "
     "file cannot be right. Name another one in files.servers."),
)  # fmt: skip
_OTHERWISE = "Ask its operator what it takes, or name another server in files.servers."
_UNSEEN = (
    (("public",), "Name a server in files.servers that customers reach: this address means something else to them."),
)
_UNSEEN_OTHERWISE = "Ask its operator, or name another server: customers would pay for files that they cannot have."


@dataclass(frozen=True)
class Sample:
    """A small file of a type; `usual` is how many bytes a job makes of it, at the longer end."""

    mime: str
    data: bytes
    usual: int

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def samples(config: Config) -> Sequence[Sample]:
    """One for each type that the services deliver: in clear, and as bytes, which encrypted ones are."""
    makes = {service.kind.makes for service in build_services(config).values()}
    found = [sample for each, sample in _SAMPLES.items() if each in makes] or list(_SAMPLES.values())
    return [*found, Sample("application/octet-stream", _SEALED, max(each.usual for each in found))]


async def server(where: str, config: Config, keys: Keys) -> Steps:
    """What becomes of files at `where`, one of files.servers. Nothing of any value is uploaded."""
    async with _opened(where, config, keys) as (blossom, fetcher):
        taken, refused = await _uploaded(blossom, where, samples(config))
        if not taken:
            yield _useless(where, refused)
            return
        for mime, why in refused.items():
            yield Finding("files types", where, "warning", f"{mime}: {why}", _advice(why))
        unseen = await _unseen(fetcher, *taken[0])
        for sample, _ in taken:
            if (long := await _too_long(blossom, where, sample)) is not None:
                yield Finding("files sizes", where, "warning", long, _advice(long))
        left = await _deleted(blossom, where, [sample for sample, _ in taken])
    if unseen is not None:
        seen = f"it takes files, and they cannot be fetched: {unseen}"
        yield Finding("files", where, "failed", seen, advice_for(unseen, _UNSEEN, _UNSEEN_OTHERWISE))
        return
    types = ", ".join(sample.mime for sample, _ in taken)
    kept = f"; it does not delete them: {left} bytes stay there" if left else ", and deleted them again"
    yield Finding("files", where, "ok", f"it took small files ({types}), gave one back{kept}")


@asynccontextmanager
async def _opened(where: str, config: Config, keys: Keys) -> AsyncIterator[tuple[Blossom, Fetcher]]:
    seconds = min(SECONDS, config.files.upload_seconds)
    blossom = Blossom(keys, (where,), timeout=seconds, pause=PAUSE)
    # As a customer's program fetches: not from addresses that are private, unless this is a test of everything.
    fetcher = Fetcher(allow_private=config.limits.allow_private_addresses, plain=True, timeout=seconds)
    try:
        yield blossom, fetcher
    finally:
        await blossom.close()
        await fetcher.close()


async def _uploaded(
    blossom: Blossom, where: str, wanted: Sequence[Sample]
) -> tuple[list[tuple[Sample, Stored]], dict[str, str]]:
    """What it took, and by type why it did not take the rest."""
    taken: list[tuple[Sample, Stored]] = []
    refused: dict[str, str] = {}
    for sample in wanted:
        try:
            taken.append((sample, await blossom.upload(sample.data, sample.mime)))
        except UploadError as error:
            refused[sample.mime] = why = _bare(error, where)
            if why.startswith(("Connect", "no answer within")):  # the others would wait as long
                break
    return taken, refused


def _useless(where: str, refused: dict[str, str]) -> Finding:
    """It took nothing."""
    reasons = dict.fromkeys(refused.values())
    why = "; ".join(reasons) if len(reasons) == 1 else "; ".join(f"{mime}: {why}" for mime, why in refused.items())
    return Finding("files", where, "failed", f"it takes no file: {why}", _advice(next(iter(reasons))))


async def _unseen(fetcher: Fetcher, sample: Sample, stored: Stored) -> str | None:
    """Why a customer would not get it; None where they do."""
    try:
        fetched = await fetcher.get(stored.url)
    except FetchError as error:
        return str(error)
    if fetched.status != 200:
        return f"status {fetched.status} at the address that it gave"
    return None if fetched.body == sample.data else "there is something else at the address that it gave"


async def _too_long(blossom: Blossom, where: str, sample: Sample) -> str | None:
    """What it says against a file of the usual size (BUD-06); None where it says nothing against it."""
    try:
        await blossom.allows(where, sample.usual, sample.mime, sample.digest)
    except UploadError as error:
        why = _bare(error, where)
        # Who refuses the question is not asked for long: only what is said of size and type is about a file.
        if "status 413" in why or "status 415" in why:
            return f"{sample.mime} of {sample.usual // MB} MB: {why}"
    return None


async def _deleted(blossom: Blossom, where: str, taken: Sequence[Sample]) -> int:
    """Take them back; how many bytes stay there."""
    left = 0
    for sample in taken:
        try:
            await blossom.delete(where, sample.digest)
        except UploadError:
            left += len(sample.data)
    return left


def _bare(error: UploadError, where: str) -> str:
    """The finding names the server itself."""
    return str(error).removeprefix(f"{urlsplit(where).netloc}: ")


def _advice(why: str) -> str:
    return advice_for(why, _TROUBLE, _OTHERWISE)


def _png() -> bytes:
    """One grey pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")
    )


def _wav() -> bytes:
    """A millisecond of silence."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(bytes(48))
    return out.getvalue()


# By what a kind of job makes. Two minutes of speech are as long as some texts are.
_SAMPLES = {"image": Sample("image/png", _png(), 3 * MB), "speech": Sample("audio/wav", _wav(), 6 * MB)}
_SEALED = hashlib.sha512(b"dvm doctor").digest()  # as random as what is encrypted
