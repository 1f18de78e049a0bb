"""ASGI: drain telemetry where a server lets an application say goodbye, the lifespan's shutdown.

At SIGTERM uvicorn and gunicorn's uvicorn worker never run `atexit`: what is in memory then would die with the process.

Keeps:
- Telemetry closes after the application's own shutdown, so that what this reports is still taken, and before the
  server hears that the shutdown is complete.
- Nothing of the lifespan that the application has, its answers or its exceptions, is changed; an application without
  one gets one.
- Requests pass through untouched; a fault of ours ends neither a request nor the server.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from producers.exceptions import fault
from producers.telemetry import Telemetry

# The values are any, by the protocol's own definition.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG: Final = logging.getLogger("sidestream")

_ENDS: Final = frozenset({"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"})
"""After each of these the server ends the process."""


class DrainMiddleware:
    """Publishes what is buffered, and says goodbye, when the server shuts the application down.

    Args:
        app: The application, with a lifespan of its own or without.
        telemetry: What to close.
        timeout_s: Seconds the shutdown may wait for Redis; by default the setting `close_timeout_s`.
    """

    def __init__(self, app: App, telemetry: Telemetry, timeout_s: float | None = None) -> None:
        self._app = app
        self._telemetry = telemetry
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the lifespan."""
        if scope["type"] == "lifespan":
            await _Lifespan(self._app, receive, send, self._drain).serve(scope)
        else:
            self._telemetry.notice_off()
            await self._app(scope, receive, send)

    async def _drain(self) -> None:
        try:
            await self._telemetry.aclose(self._timeout_s)
        except Exception as error:  # noqa: BLE001 - the shutdown must go on, whatever became of the telemetry
            LOG.error("telemetry could not be closed at the application's shutdown: %s", fault(error))  # noqa: TRY400


class _Lifespan:
    """One lifespan: the application's, with draining before its end, or one in its place."""

    def __init__(self, app: App, receive: Receive, send: Send, drain: Callable[[], Awaitable[None]]) -> None:
        self._app = app
        self._receive = receive
        self._send = send
        self._drain = drain
        self._asked = False
        self._started = False
        self._ended = False

    async def serve(self, scope: Scope) -> None:
        """Run the application's lifespan; if it turns out to have none, stand in for it."""
        try:
            await self._app(scope, self._ask, self._answer)
        except Exception:
            # An application without a lifespan raises before it asks for anything. One that asked has failed on its
            # own account, and what that means is the server's to decide.
            if self._asked or self._started:
                raise
        if not self._ended:
            await self._stand_in()

    async def _ask(self) -> Message:
        self._asked = True
        return await self._receive()

    async def _answer(self, message: Message) -> None:
        self._started = True
        if message["type"] in _ENDS:
            self._ended = True
            await self._drain()
        await self._send(message)

    async def _stand_in(self) -> None:
        """Do what the application leaves out, from where it left."""
        if not self._asked:
            await self._receive()
        if not self._started:
            await self._send({"type": "lifespan.startup.complete"})
        await self._receive()
        await self._drain()
        await self._send({"type": "lifespan.shutdown.complete"})


__all__ = ["App", "DrainMiddleware", "Message", "Receive", "Scope", "Send"]
