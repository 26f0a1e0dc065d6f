"""A unix socket on which other processes of the same user pay a paper node's invoices.

One invoice a line in, one JSON object a line out, in the same order, as many as one likes on a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import orjson

from dvm.lightning.base import WalletError
from dvm.lightning.bolt11 import MAX_LENGTH

_CONNECTIONS = 64
_LINE = MAX_LENGTH + 2  # an invoice and its end
_BATCH = 64  # lines answered at once, before the loop may do something else


class PaperSocket:
    """Listens at `path`, readable and writable for its owner only, and answers each line with `serve`."""

    def __init__(self, path: Path, serve: Callable[[str], dict[str, object]]) -> None:
        self._path = path
        self._serve = serve
        self._server: asyncio.Server | None = None
        self.connections: set[_Connection] = set()

    async def open(self) -> None:
        """Listen. A socket that a dead process left is replaced. Raises WalletError."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            listening.bind(str(self._path))
            os.chmod(self._path, 0o600)  # before it listens: until then nobody can connect
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: _Connection(self.connections, self._serve), sock=listening
            )
        except OSError as error:
            listening.close()
            raise WalletError("failed", f"{self._path}: {error.strerror or error}") from None

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.end()
        await self._server.wait_closed()
        self._server = None
        with contextlib.suppress(OSError):
            os.unlink(self._path)


class _Connection(asyncio.Protocol):
    """One payer. Lines are answered in batches; whoever does not read the answers is not read either."""

    _transport: asyncio.Transport

    def __init__(self, all_: set[_Connection], serve: Callable[[str], dict[str, object]]) -> None:
        self._all = all_
        self._serve = serve
        self._buffer = bytearray()
        self._pending: asyncio.Handle | None = None
        self._blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type only
        self._transport = transport
        if len(self._all) >= _CONNECTIONS:
            self._refuse("too many connections")
        else:
            self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        if self._pending is not None:
            self._pending.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._pending is None:
            self._answer()

    def pause_writing(self) -> None:
        self._blocked = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._pending is None:
            self._answer()

    @property
    def reading(self) -> bool:
        """False while it does not take its answers."""
        return not self._blocked

    def end(self) -> None:
        self._transport.abort()

    def _answer(self) -> None:
        self._pending = None
        if self._blocked or self._transport.is_closing():
            return
        *lines, rest = self._buffer.split(b"\n", _BATCH)
        if lines:
            answers = (orjson.dumps(self._serve(line.decode("ascii", "replace").strip())) for line in lines)
            self._transport.write(b"\n".join(answers) + b"\n")
        self._buffer = rest
        if b"\n" in rest:
            self._transport.pause_reading()
            self._pending = asyncio.get_running_loop().call_soon(self._answer)
        elif len(rest) > _LINE:
            self._refuse("a line is longer than any invoice")
        elif not self._blocked:
            self._transport.resume_reading()

    def _refuse(self, why: str) -> None:
        self._buffer.clear()
        self._transport.write(orjson.dumps({"paid": False, "reason": "invalid", "error": why}) + b"\n")
        self._transport.close()


async def pay_over_socket(path: Path, bolt11: str) -> dict[str, object]:
    """Pay one invoice through a paper node's socket; its answer. Raises WalletError."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError as error:
        raise WalletError("unreachable", f"{path}: {error.strerror or error}") from None
    try:
        writer.write(bolt11.encode("ascii", "replace") + b"\n")
        answer = orjson.loads(await reader.readline())
    except (OSError, ValueError):
        raise WalletError("unreachable", f"{path}: no answer") from None
    finally:
        writer.close()
    if not isinstance(answer, dict):
        raise WalletError("untrustworthy", f"{path}: not a paper node")
    return answer
