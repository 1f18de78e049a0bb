"""Who may look, and what browsers are told: around everything that is served.

Keeps:
- Nothing is answered to a Host that is not ours: a page elsewhere cannot reach this one through a name that it has
  pointed at loopback (DNS rebinding).
- GET and HEAD alone, but for signing in, which changes nothing but the browser's own cookie.
- The token is compared in constant time, stands in no address and in no log, and the cookie is not the token. The
  cookie comes along when a link elsewhere leads here (SameSite=Lax): what it leads to only reads.
- No script but our own file runs, nothing is loaded from elsewhere, no other page shows this one in a frame.
"""

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from sidestream.dashboard.page import login_page
from sidestream.dashboard.settings import DashboardSettings, is_loopback

log = logging.getLogger("sidestream.dashboard")

COOKIE: Final = "sidestream"
COOKIE_AGE_S: Final = 30 * 86_400

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)

_LOGIN: Final = "/login"
_OPEN: Final = "/assets/"
"""The look of the page is no secret, and the form of signing in has it too."""

_MAX_FORM_BYTES: Final = 4096
_REFUSED_S: Final = 0.5
"""How long the answer to a wrong token takes."""

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class Access:
    """An ASGI application that lets `app` answer those who may look."""

    app: App
    settings: DashboardSettings
    _cookie: str = field(init=False)

    def __post_init__(self) -> None:
        # Whoever reads the cookie does not know the token; another token makes every cookie void.
        self._cookie = hmac.new(self.settings.token.encode(), b"sidestream dashboard", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer = await self._refusal(request)
        await (answer or self.app)(scope, receive, _with_headers(send))

    async def _refusal(self, request: Request) -> Response | None:
        """Return the answer to somebody who may not look, or who signs in; None where the application answers."""
        if not self._knows_host(request.headers.get("host", "")):
            return PlainTextResponse("This page is not served under that name: see --host-name.\n", 421)
        if request.url.path == _LOGIN and self.settings.token:
            return await self._sign_in(request)
        if request.method not in {"GET", "HEAD"}:
            return PlainTextResponse("The page only reads: GET and HEAD.\n", 405, {"Allow": "GET, HEAD"})
        if not self.settings.guarded or self._may_look(request) or request.url.path.startswith(_OPEN):
            return None
        if self.settings.token and "text/html" in request.headers.get("accept", ""):
            path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"{_LOGIN}?{urlencode({'then': path})}", 303)
        return PlainTextResponse("Sign in, or send the token: Authorization: Bearer …\n", 401)

    def _knows_host(self, host: str) -> bool:
        name = _name_of(host)
        if name in self.settings.host_names or (name == self.settings.host and not self._is_any(name)):
            return True
        if is_loopback(name):
            return True
        # Whoever must sign in cannot be led here by a name of somebody else's: the cookie belongs to the right one.
        return self.settings.guarded and not self.settings.host_names and not is_loopback(self.settings.host)

    @staticmethod
    def _is_any(name: str) -> bool:
        return name in {"0.0.0.0", "::"}  # noqa: S104 - compared, not listened on

    def _may_look(self, request: Request) -> bool:
        header = self.settings.proxy_header
        if header and request.client and request.client.host in self.settings.proxies and request.headers.get(header):
            return True
        if not self.settings.token:
            return False
        given = request.headers.get("authorization", "")
        if given[:7].lower() == "bearer " and self._is_token(given[7:]):
            return True
        return hmac.compare_digest(_cookie_of(request.headers).encode(), self._cookie.encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.settings.token.encode())

    async def _sign_in(self, request: Request) -> Response:
        if request.method in {"GET", "HEAD"}:
            return HTMLResponse(login_page(refused=False, then=_own_path(request.query_params.get("then", ""))))
        if request.method != "POST":
            return PlainTextResponse("GET, HEAD and POST.\n", 405, {"Allow": "GET, HEAD, POST"})
        form = parse_qs((await _body(request)).decode("utf-8", "replace"))
        then = _own_path(form.get("then", [""])[0])
        if not self._is_token(form.get("token", [""])[0].strip()):
            log.warning("a wrong token", extra={"peer": request.client.host if request.client else ""})
            await anyio.sleep(_REFUSED_S)
            return HTMLResponse(login_page(refused=True, then=then), 403)
        answer = RedirectResponse(then, 303)
        is_tls = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(COOKIE, self._cookie, max_age=COOKIE_AGE_S, httponly=True, samesite="lax", secure=is_tls)
        return answer


def _own_path(text: str) -> str:
    """Return a path of this page, as it stands; anything else is the first page's."""
    parts = urlsplit(text)
    own = text.startswith("/") and not text.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return text if own and text.isprintable() else "/"


def _with_headers(send: Send) -> Send:
    async def told(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message["headers"] = [*headers, *HEADERS]
        await send(message)

    return told


async def _body(request: Request) -> bytes:
    """Return the body, as far as a token can be in it."""
    found = b""
    async for piece in request.stream():
        found += piece
        if len(found) > _MAX_FORM_BYTES:
            break
    return found[:_MAX_FORM_BYTES]


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _cookie_of(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
