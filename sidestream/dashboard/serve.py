"""Serves the page until it is told to stop."""

import socket
from pathlib import Path
from typing import Final

import anyio
import uvicorn

from pipeline.errors import SettingsError
from sidestream.dashboard.access import App
from sidestream.dashboard.settings import DashboardSettings

MOST_REQUESTS: Final = 256
"""Requests at once; further ones are answered 503."""

_END_S: Final = 3
"""Seconds that open requests have when the server stops."""


class _Server(uvicorn.Server):
    """Uvicorn, which tells open pages when it stops."""

    def __init__(self, config: uvicorn.Config, stopping: anyio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: a page that listens would hold the server until its time is over."""
        self._stopping.set()
        await super().shutdown(sockets)


def listen(settings: DashboardSettings) -> socket.socket:
    """Return the socket to serve on.

    Raises:
        SettingsError: Nobody can listen there.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise SettingsError(
            f"--host, --port: cannot listen on {settings.host}, port {settings.port} ({error.strerror}); "
            "choose another with --port"
        ) from error
    # Connections inherit it. asyncio leaves it out where a socket does not name its protocol, and then the body of each
    # answer waits 40 ms for the acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the address of the page, as a browser takes it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def spoken_address(listener: socket.socket, settings: DashboardSettings) -> str:
    """Return where the page is and who may look, for people."""
    asks = ", for whoever signs in" if settings.token else ", for whom the proxy lets in" if settings.guarded else ""
    if settings.host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        return f"port {listener.getsockname()[1]} on every address of this machine{asks}"
    return f"{address_of(listener)}{asks}"


async def serve(app: App, listener: socket.socket, stopping: anyio.Event, ready_file: Path | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        app: The page.
        listener: Where.
        stopping: Set when it ends.
        ready_file: Gets the page's address once it is served.
    """
    # Addresses carry names of agents and users: no log of them. Whose header is believed, `access` decides alone.
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_REQUESTS,
        timeout_graceful_shutdown=_END_S,
    )
    if ready_file is not None:
        # Renamed into place: whoever waits for the file never reads half of it. Connections wait until it is served.
        draft = ready_file.with_suffix(".draft")
        await anyio.Path(draft).write_text(address_of(listener))
        await anyio.Path(draft).replace(ready_file)
    with listener:
        await _Server(config, stopping).serve(sockets=[listener])
