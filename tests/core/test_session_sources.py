"""Where a request's session comes from: sources that cannot be read are refused by name, the others never raise."""

import pytest

from pipeline.errors import SettingsError
from producers.asgi import Message, Receive, Scope, Send
from producers.asgi_sessions import SessionMiddleware, Source
from producers.context import CONTEXT
from producers.telemetry import Telemetry


async def session_of(source: Source, **scope: object) -> str:
    """Return the session that a request is found to be about."""
    found: list[str] = []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        found.append(CONTEXT.get().session)

    async def receive() -> Message:
        return {}

    async def send(_: Message) -> None:
        """Take what the application says."""

    plain: Scope = {"type": "http", "path": "/", "headers": [], "query_string": b"", **scope}
    await SessionMiddleware(app, Telemetry(), session=source)(plain, receive, send)
    return found[0]


def _fault(_: Scope) -> str | None:
    raise ZeroDivisionError


def _nothing(_: Scope) -> str | None:
    return None


@pytest.mark.parametrize(
    ("source", "scope", "session"),
    [
        ("/ws/{session_id}", {"path": "/ws/s-1"}, "s-1"),
        ("/ws/{session_id}", {"path": "/ws/s-1/more"}, ""),
        ("/ws/{anything}", {"path": "/ws/s-1"}, "s-1"),
        ("/u/{user_id}/s/{session_id:int}", {"path": "/u/7/s/8"}, "8"),
        ("/files/{session:path}", {"path": "/files/a/b"}, "a/b"),
        ("/a.b/{session_id}", {"path": "/aXb/s"}, ""),
        ("/ws/{session_id}", {"path": "/root/ws/s-1", "root_path": "/root"}, "s-1"),
        ("header:X-Session", {"headers": [(b"x-session", b"s-1")]}, "s-1"),
        ("query:s", {"query_string": b"s=a%20b&s=c"}, "a b"),
        ("cookie:sid", {"headers": [(b"cookie", b"sid=s-1; x=2")]}, "s-1"),
        ("cookie:sid", {"headers": [(b"cookie", b"\xff[]=;;;")]}, ""),
        (_fault, {}, ""),
        (_nothing, {}, ""),
    ],
)
async def test_a_source_finds_the_session_or_says_nothing(
    source: Source, scope: dict[str, object], session: str
) -> None:
    """Whatever a request holds, the application runs."""
    assert await session_of(source, **scope) == session


@pytest.mark.parametrize("source", ["session_id", "header:", "form:sid", "/ws", "/ws/{a}/{b}"])
def test_a_source_that_cannot_be_read_is_refused_by_name(source: str) -> None:
    """When the middleware is made, not at the first request."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        """Do nothing."""

    with pytest.raises(SettingsError, match="session="):
        SessionMiddleware(app, Telemetry(), session=source)
