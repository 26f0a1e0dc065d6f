"""How the files of an answer reach the customer: at an address, or within the answer itself.

Images and speech are uploaded to the operator's Blossom servers, and the result's content is where they are, one
address a line. Where that is not possible a small file stands in the answer as a `data:` URL. What was asked for
under encryption is not put into the open: it stands in the answer, or is uploaded encrypted (AES-GCM), and the
answer tells how to read it, by the names of NIP-17's kind 15.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import secrets
from collections.abc import Sequence
from typing import Protocol

import orjson

from dvm.jobs.kinds import Kind
from dvm.models import Blob
from dvm.nip90 import Answers, JobRequest
from dvm.nostr.blossom import Blossom, Stored, UploadError

log = logging.getLogger(__name__)

# No relay takes an event of this size: do not even build one.
MAX_INLINE_BYTES = 192 * 1024
_SEALED = "application/octet-stream"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_MEDIA_TYPE = re.compile(r"[a-z]{1,32}/[a-z0-9][a-z0-9.+-]{0,63}").fullmatch


class Undeliverable(Exception):
    """The files cannot reach the customer; the text says why, and customers read it."""


class Made(Protocol):
    """What a job has made."""

    @property
    def request(self) -> JobRequest: ...
    @property
    def answers(self) -> Answers: ...
    @property
    def files(self) -> list[Blob]: ...
    @property
    def oversized(self) -> bool: ...


class Files:
    """Delivers what was made. `blossom` is where to upload, None is nowhere; `seconds` bound all of a job's uploads."""

    def __init__(self, blossom: Blossom | None = None, *, seconds: float = 120.0) -> None:
        self._blossom = blossom
        self._seconds = seconds

    async def close(self) -> None:
        """Safe to call twice."""
        if self._blossom is not None:
            await self._blossom.close()

    async def deliver(self, made: Made, kind: Kind) -> str:
        """The content of the result. Raises Undeliverable, nothing else.

        Doing it again (after a crash, say) puts the same files at the same addresses, unless they are encrypted.
        """
        if made.oversized:
            raise Undeliverable("the files are larger than anything that can be delivered")
        files = [Blob(_media_type(each.mime), each.data) for each in made.files]
        wanted = kind.output(made.request) or ""
        if wanted.startswith(("image/", "audio/")) and any(each.mime != wanted for each in files):
            raise Undeliverable(f"the model made {files[0].mime}, not {wanted}")
        sealed = made.answers.scheme is not None
        if sealed and (content := _inline(files, kind, made.answers)) is not None:
            return content
        try:
            return await self._upload(files, sealed=sealed)
        except (UploadError, TimeoutError) as error:
            reason = str(error) or f"not done within {self._seconds:g} s"
            if not sealed and (content := _inline(files, kind, made.answers)) is not None:
                if self._blossom is not None:
                    log.warning("an upload failed; the answer holds the file itself", extra={"error": reason})
                return content
            log.error("the files of a job cannot be uploaded: see files.servers", extra={"error": reason})
            raise Undeliverable("the files could not be uploaded") from None

    async def _upload(self, files: Sequence[Blob], *, sealed: bool) -> str:
        if self._blossom is None:
            raise UploadError("files.servers names no server")
        lines = []
        async with asyncio.timeout(self._seconds):
            for file in files:
                if sealed:
                    lines.append(await self._sealed(self._blossom, file))
                else:
                    lines.append((await self._blossom.upload(file.data, file.mime)).url)
        return "\n".join(lines)

    async def _sealed(self, blossom: Blossom, file: Blob) -> str:
        """A line of JSON: where the encrypted file is, and how to read it."""
        key, nonce = secrets.token_bytes(_KEY_BYTES), secrets.token_bytes(_NONCE_BYTES)
        data, original = await asyncio.to_thread(_seal, file.data, key, nonce)
        stored: Stored = await blossom.upload(data, _SEALED)
        described = {
            "url": stored.url,
            "file-type": file.mime,
            "encryption-algorithm": "aes-gcm",
            "decryption-key": key.hex(),
            "decryption-nonce": nonce.hex(),
            "x": stored.sha256,
            "ox": original,
            "size": stored.size,
        }
        return orjson.dumps(described).decode()


def _seal(data: bytes, key: bytes, nonce: bytes) -> tuple[bytes, str]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key).encrypt(nonce, data, None), hashlib.sha256(data).hexdigest()


def _inline(files: Sequence[Blob], kind: Kind, answers: Answers) -> str | None:
    """The files as `data:` URLs (RFC 2397), if the kind allows it and an answer can carry them."""
    if not kind.inline or sum(len(each.data) for each in files) > MAX_INLINE_BYTES:
        return None
    content = "\n".join(f"data:{each.mime};base64,{base64.b64encode(each.data).decode()}" for each in files)
    return content if answers.longest(content) == content else None


def _media_type(mime: str) -> str:
    """Without parameters; what is none is just bytes."""
    named = mime.partition(";")[0].strip().lower()
    return named if _MEDIA_TYPE(named) else _SEALED
