"""A worker's health over HTTP: `/live`, `/ready` and `/health`, for container engines and people.

Keeps:
- It answers also while the worker's event loop is blocked, which is when the answer matters most: it has a thread and a
  loop of its own, and only reads what the worker's loops have told.
- Nothing that is sent to it changes anything: GET alone, a request of at most 4 KiB, two seconds to read it and two to
  write the answer, one request a connection, and at most 32 of these: the oldest makes room for the next.
- It listens on loopback unless told otherwise, and tells no secret: counts, codes and reasons.

Of the libraries that a worker has, none is an HTTP server, and `http.server` has no bound on a request's time. Three
routes need no framework.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import msgspec

from consumers.runtime.health import Health
from pipeline.errors import SettingsError

SCHEMA: Final = "sidestream.health/1"
"""Of the document of `/health`; docs/json.md."""

MAX_REQUEST_BYTES: Final = 4096
TIMEOUT_S: Final = 2.0
MAX_CONNECTIONS: Final = 32

_START_S: Final = 5.0


class HealthEndpoint:
    """Tells, while it is entered, what `look` returns; `about` is said besides. `port` 0 takes any that is free.

    Raises:
        SettingsError: It cannot listen there.
    """

    def __init__(self, host: str, port: int, look: Callable[[], Health], about: Mapping[str, str]) -> None:
        self._look = look
        self._about = dict(about)
        self._open: dict[asyncio.StreamWriter, None] = {}
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise SettingsError(f"the health endpoint cannot listen on {host}, port {port}: {error}") from error
        self.port: int = self._socket.getsockname()[1]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="sidestream-health", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait(_START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._answer, sock=self._socket, limit=MAX_REQUEST_BYTES)
        self._started.set()
        await self._stopping.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            next(iter(self._open)).transport.abort()
        self._open[writer] = None
        # Whoever sent it hung up, or is too slow: that is its own matter.
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            try:
                status, kind, body = self.reply(await _read_request(reader))
                writer.write(_response(status, kind, body))
                async with asyncio.timeout(TIMEOUT_S):
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
            finally:
                self._open.pop(writer, None)
                writer.transport.abort()

    def reply(self, request: bytes) -> tuple[HTTPStatus, str, bytes]:
        """Return status, content type and body for the head of a request; empty stands for one that is too long."""
        if not request:
            return _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        words = request.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != len(("method", "target", "version")) or not words[2].startswith(b"HTTP/1."):
            return _text(HTTPStatus.BAD_REQUEST)
        if words[0] != b"GET":
            return _text(HTTPStatus.METHOD_NOT_ALLOWED)
        return self._route(words[1].partition(b"?")[0])

    def _route(self, path: bytes) -> tuple[HTTPStatus, str, bytes]:
        health = self._look()
        match path:
            case b"/live":
                return _verdict("ok" if health.live else health.why, good=health.live)
            case b"/ready":
                return _verdict(health.why or "ok", good=health.ready)
            case b"/health":
                status = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
                return status, "application/json", document(health, self._about)
            case _:
                return _text(HTTPStatus.NOT_FOUND)


def document(health: Health, about: Mapping[str, str]) -> bytes:
    """Return the document of `/health`."""
    return msgspec.json.encode({"schema": SCHEMA, **about, **msgspec.structs.asdict(health)})


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return b""


def _verdict(sentence: str, *, good: bool) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "text/plain; charset=utf-8", f"{sentence}\n".encode()


def _text(status: HTTPStatus) -> tuple[HTTPStatus, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode()


def _response(status: HTTPStatus, kind: str, body: bytes) -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Allow: GET",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
