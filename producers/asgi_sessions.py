"""ASGI: every request and every WebSocket in the context of its session, without a line in its handler.

Keeps:
- What the application sends, receives and raises is passed on unchanged; a fault of ours ends no request.
- An exception that nobody inside handled is reported once, and goes on; a client that leaves is no error.
- Who a request is about is decided before the application runs, from the scope alone: routing comes later, so route
  templates are matched here.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Final, TypeAlias
from urllib.parse import parse_qs

from pipeline.errors import SettingsError
from pipeline.log import say
from producers.asgi import App, DrainMiddleware, Receive, Scope, Send
from producers.exceptions import for_log
from producers.telemetry import Telemetry

LOG: Final = logging.getLogger("sidestream")

Source: TypeAlias = str | Callable[[Scope], str | None]
"""Where a value comes from: a route template with a place for it (`/ws/{session_id}`), `header:NAME`, `query:NAME`,
`cookie:NAME`, or a function of the scope."""

_PLACES: Final[Mapping[str, Sequence[str]]] = {
    "session": ("session_id", "session"),
    "user": ("user_id", "user"),
    "tenant": ("tenant_id", "tenant"),
}
"""What a value may be called in a route template; where there is one place only, it is that, whatever its name."""

_PLACE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::[a-z]+)?\}")


class SessionMiddleware:
    """Runs each request and WebSocket inside a session's context, and drains at the lifespan's shutdown.

    Args:
        app: The application.
        telemetry: What reports.
        session: Where the session's id comes from; of several sources, the first that says something holds.
        user: Where the user's id comes from.
        tenant: Where the tenant comes from.
        timeout_s: Seconds the shutdown may wait for Redis; by default the setting `close_timeout_s`.

    Raises:
        SettingsError: A source cannot be read; the message names it.
    """

    def __init__(  # noqa: PLR0913 - the settings, each by its name
        self,
        app: App,
        telemetry: Telemetry,
        *,
        session: Source | Sequence[Source],
        user: Source | Sequence[Source] = (),
        tenant: Source | Sequence[Source] = (),
        timeout_s: float | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._inner = app
        self._drained = DrainMiddleware(app, telemetry, timeout_s)
        self._sources = {
            name: [_reader(name, source) for source in _several(given)]
            for name, given in {"session": session, "user": user, "tenant": tenant}.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the lifespan."""
        if scope["type"] not in {"http", "websocket"}:
            await self._drained(scope, receive, send)
            return
        self._telemetry.notice_off()
        session = self._read("session", scope)
        with self._telemetry.session_context(
            session or "", self._read("user", scope), tenant=self._read("tenant", scope)
        ):
            await self._inner(scope, receive, send)

    def _read(self, name: str, scope: Scope) -> str | None:
        for read in self._sources[name]:
            try:
                found = read(scope)
            except Exception as error:  # noqa: BLE001 - the request goes on without it
                # A function of the application's, or a header that is none. No traceback: it would quote what was read.
                what = for_log(error, self._telemetry.redactor)
                say(LOG, logging.WARNING, "who a request is about could not be read", of=name, error=what)
                continue
            if found:
                return str(found)
        return None


def _several(given: Source | Sequence[Source]) -> Sequence[Source]:
    return [given] if isinstance(given, str) or callable(given) else given


def _reader(name: str, source: Source) -> Callable[[Scope], str | None]:
    if callable(source):
        return source
    kind, _, what = source.partition(":")
    if source.startswith("/"):
        return _from_route(name, source)
    if not what:
        raise SettingsError(
            f"{name}={source!r}: use a route such as '/ws/{{{_PLACES[name][0]}}}', header:NAME, query:NAME, "
            "cookie:NAME, or a function"
        )
    match kind:
        case "header":
            return lambda scope: _header(scope, what)
        case "query":
            return lambda scope: _first(parse_qs(bytes(scope["query_string"]).decode("latin-1")).get(what, ()))
        case "cookie":
            return lambda scope: _cookie(scope, what)
        case _:
            raise SettingsError(f"{name}={source!r}: there is no source {kind!r}; known are header, query and cookie")


def _from_route(name: str, template: str) -> Callable[[Scope], str | None]:
    places = _PLACE.findall(template)
    wanted = next((place for place in _PLACES[name] if place in places), places[0] if len(places) == 1 else None)
    if wanted is None:
        raise SettingsError(f"{name}={template!r}: name the place of it, such as {{{_PLACES[name][0]}}}")
    pattern = re.compile(_pattern(template))

    def read(scope: Scope) -> str | None:
        found = pattern.fullmatch(_path(scope))
        return found[wanted] if found is not None else None

    return read


def _pattern(template: str) -> str:
    """Return the regular expression of a template: a place is one part of the path, `{name:path}` any number."""
    pattern, at = "", 0
    for place in _PLACE.finditer(template):
        whole = place[0].endswith(":path}")
        pattern += re.escape(template[at : place.start()]) + f"(?P<{place[1]}>{'.+' if whole else '[^/]+'})"
        at = place.end()
    return pattern + re.escape(template[at:])


def _path(scope: Scope) -> str:
    """Return the path below where the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _header(scope: Scope, wanted: str) -> str | None:
    name = wanted.lower().encode("latin-1")
    return _first(bytes(value).decode("latin-1") for key, value in scope["headers"] if bytes(key).lower() == name)


def _cookie(scope: Scope, wanted: str) -> str | None:
    try:
        found = SimpleCookie(_header(scope, "cookie") or "").get(wanted)
    except CookieError:
        return None
    return found.value if found is not None else None


def _first(values: Iterable[str]) -> str | None:
    return next(iter(values), None)


__all__ = ["SessionMiddleware", "Source"]
