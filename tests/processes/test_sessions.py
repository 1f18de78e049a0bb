"""Sessions on a real server: whatever reports inside a request or a WebSocket says whose it is, sync or not."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import websockets
from launching import Site, until
from test_asgi_servers import accepts

from pipeline.events import ErrorEvent

UVICORN = (sys.executable, "-m", "uvicorn", "--log-level", "critical")


@asynccontextmanager
async def serving(site: Site, path: Path, app: str) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an application on a socket; end it by SIGTERM, so that it drains."""
    with site.process(*UVICORN, "--uds", str(path), f"sessions_app:{app}", SIDESTREAM_LINGER_MS="5") as process:
        await asyncio.to_thread(until, lambda: accepts(path))
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        # A server ends the connection of a request that failed: each request has one of its own.
        alone = {"connection": "close"}
        async with httpx.AsyncClient(transport=transport, base_url="http://host", headers=alone) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) is not None


async def test_fastapi_s_endpoints_tasks_and_sockets_are_in_their_session(site: Site, tmp_path: Path) -> None:
    """By route template and query: sync endpoints, threads, tasks, background tasks and a WebSocket; one error."""
    path = tmp_path / "s"
    async with serving(site, path, "fastapi_app") as client:
        for name in ("sync", "background", "tasks"):
            answer = await client.get(f"/{name}/{name}-1", params={"user": "u1"})
            assert answer.json() == f"{name}-1"
        with pytest.raises(httpx.HTTPError):
            (await client.get("/fail/fail-1")).raise_for_status()
        assert (await client.get("/missing/missing-1")).status_code == 404
        async with websockets.unix_connect(str(path), "ws://host/ws/ws-1?user=u2") as socket:
            await socket.send("hello")
            assert await socket.recv() == "ws-1"
    found = await asyncio.to_thread(site.events)
    about = {getattr(event, "agent", ""): (event.session, event.user) for event in found if event.session}
    assert about["sync"] == ("sync-1", "u1")
    assert about["background"] == ("background-1", "u1")
    assert about["thread"] == about["pool"] == about["task"] == ("tasks-1", "u1")
    assert about["talker"] == ("ws-1", "u2")
    [error] = [event for event in found if isinstance(event, ErrorEvent)]
    assert (error.type, error.session) == ("RuntimeError", "fail-1"), "a client that leaves, and a 404, are no errors"
    [presence] = await asyncio.to_thread(site.presences)
    assert presence.closed
    assert presence.appended == presence.offered == len(found)


async def test_starlette_s_sessions_come_from_headers_cookies_and_mounted_routes(site: Site, tmp_path: Path) -> None:
    """The first source that says something holds; users and tenants have sources of their own."""
    path = tmp_path / "s"
    async with serving(site, path, "starlette_app") as client:
        await client.get("/read", headers={"x-session": "by-header", "cookie": "sid=by-cookie", "X-Tenant": "acme"})
        await client.get("/mounted/read", headers={"cookie": 'other=1; sid="by-cookie"'})
        await client.get("/read")
        for route in ("/live/deck-1", "/mounted/live/deck-2"):
            async with websockets.unix_connect(str(path), f"ws://host{route}") as socket:
                await socket.send("hello")
                await socket.wait_closed()
    found = [(event.session, event.user, event.tenant) for event in await asyncio.to_thread(site.events)]
    assert found == [
        ("by-header", "user-of-the-scope", "acme"),
        ("by-cookie", "user-of-the-scope", ""),
        ("", "user-of-the-scope", ""),
        ("deck-1", "", ""),
        ("deck-2", "", ""),
    ]
