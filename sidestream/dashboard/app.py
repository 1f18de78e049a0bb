"""The page over HTTP: views, their data, what changes of them, and the files they need."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.errors import SidestreamError
from sidestream.dashboard.access import Access, App
from sidestream.dashboard.address import SESSION, VIEWS, Address, AddressError, parse_address
from sidestream.dashboard.document import view_json
from sidestream.dashboard.page import Pages, asset, failure_page
from sidestream.dashboard.settings import DashboardSettings
from sidestream.dashboard.sources import Sources
from sidestream.dashboard.view import View, read_view

log = logging.getLogger("sidestream.dashboard")

MOST_LISTENERS: Final = 64
"""Pages that are told of changes at once; further ones ask by themselves."""

_STILL_S: Final = 15.0
"""After so long without a change something is said all the same, so that a dead connection shows."""

_GZIP_BYTES: Final = 1_000
_AWAY: Final = 503
_KINDS: Final[Mapping[str, str]] = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}

_Parameters = Mapping[str, str]


@dataclass(slots=True)
class Dashboard:
    """Answers requests about one namespace."""

    sources: Sources
    every_s: float = 1.0
    pages: Pages = field(default_factory=Pages)
    listeners: int = 0
    stopping: anyio.Event = field(default_factory=anyio.Event)

    async def page(self, request: Request) -> Response:
        """Answer with a view as a page."""
        name = request.path_params.get("view", "overview")
        if name not in {*VIEWS, SESSION}:
            return _no_page()
        address = parse_address(name, _query_of(request))
        return HTMLResponse(self.pages.page(await read_view(self.sources, address)))

    async def api(self, request: Request) -> Response:
        """Answer with a view's data as JSON."""
        return _json(view_json(await read_view(self.sources, _address_of(request))))

    async def parts(self, request: Request) -> Response:
        """Answer with the parts of a page, for one that asks by itself."""
        view = await read_view(self.sources, _address_of(request))
        return _json(msgspec.json.encode(self.pages.parts(view).plain()))

    async def live(self, request: Request) -> Response:
        """Tell a page what changes of it, until it is closed."""
        address = _address_of(request)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        if self.listeners >= MOST_LISTENERS:
            return PlainTextResponse("Too many pages listen; ask with /parts.\n", 503)
        return StreamingResponse(self._changes(address), media_type="text/event-stream")

    async def _changes(self, address: Address) -> AsyncGenerator[bytes]:
        self.listeners += 1
        told: dict[str, str] = {}
        still_s = 0.0
        try:
            while not self.stopping.is_set():
                view = await self._look(address)
                if view is not None:
                    parts = self.pages.parts(view).plain()
                    changed = {name: html for name, html in parts.items() if told.get(name) != html}
                    if changed:
                        # The first time all of them: the page was made a moment before.
                        yield b"event: parts\ndata: " + msgspec.json.encode(changed) + b"\n\n"
                        told, still_s = parts, 0.0
                if still_s >= _STILL_S:
                    yield b"event: still\ndata: -\n\n"
                    still_s = 0.0
                pause_s = max(self.every_s, view.held.every_s if view else self.every_s)
                still_s += pause_s
                with anyio.move_on_after(pause_s):
                    await self.stopping.wait()
        finally:
            self.listeners -= 1

    async def _look(self, address: Address) -> View | None:
        try:
            return await read_view(self.sources, address)
        except (SidestreamError, AddressError):
            # It was never read; the page says so, and the next try may do better.
            return None

    @staticmethod
    async def asset(request: Request) -> Response:
        """Answer with a file of the page."""
        name = request.path_params["name"]
        if name not in _KINDS:
            return PlainTextResponse("Not found\n", 404)
        content, version = asset(name)
        headers = _FOR_EVER if request.query_params.get("v") == version else {}
        return Response(content, media_type=_KINDS[name], headers=headers)


def create_app(sources: Sources, settings: DashboardSettings, stopping: anyio.Event | None = None) -> App:
    """Return the page as an ASGI application.

    Args:
        sources: What it reads.
        settings: Who may look.
        stopping: Ends the streams to open pages, which would hold a server that stops.
    """
    dashboard = Dashboard(sources, every_s=sources.shared.every_s)
    if stopping is not None:
        dashboard.stopping = stopping
    routes = [
        Route("/", _answering(dashboard.page)),
        Route("/api/view", _answering(dashboard.api)),
        Route("/parts", _answering(dashboard.parts)),
        Route("/live", _answering(dashboard.live)),
        Route("/assets/{name}", dashboard.asset),
        Route("/{view}", _answering(dashboard.page)),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        yield
        dashboard.stopping.set()

    app = Starlette(
        routes=routes,
        middleware=[Middleware(GZipMiddleware, minimum_size=_GZIP_BYTES)],
        exception_handlers={404: lambda _request, _error: _no_page()},
        lifespan=lifespan,
    )
    return Access(app, settings)


Endpoint = Callable[[Request], Awaitable[Response]]


def _answering(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that says in a page, or to a program in JSON, what it cannot do."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AddressError as error:
            return _failure(request, 400, "This address is wrong", str(error))
        except SidestreamError as error:
            log.warning("Redis cannot be read", extra={"code": error.code})
            sentence = "The page shows what Redis holds, and Redis does not answer. It tries again every few seconds."
            return _failure(request, _AWAY, "Redis cannot be read", f"{sentence} ({error.code})")

    return answer


def _no_page() -> Response:
    return HTMLResponse(failure_page("There is no such page", f"Known are {', '.join(VIEWS)}."), 404)


def _failure(request: Request, status: int, title: str, sentence: str) -> Response:
    if request.url.path in {"/api/view", "/parts", "/live"}:
        return _json(msgspec.json.encode({"error": title, "reason": sentence}), status)
    return HTMLResponse(failure_page(title, sentence, again=status == _AWAY), status)


def _address_of(request: Request) -> Address:
    query = _query_of(request)
    query.pop("poll", None)
    return parse_address(query.pop("view", "overview"), query)


def _query_of(request: Request) -> dict[str, str]:
    """Return the parameters of a request.

    Raises:
        AddressError: One is given twice.
    """
    query = dict(request.query_params)
    if len(query) < len(request.query_params.multi_items()):
        twice = next(name for name in query if len(request.query_params.getlist(name)) > 1)
        raise AddressError(f"{twice}: is given twice")
    return query


def _json(document: bytes, status: int = 200) -> Response:
    return Response(document, status, media_type="application/json")
