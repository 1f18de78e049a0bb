"""The applications whose sessions the middleware finds: Starlette and FastAPI, HTTP and WebSocket, sync and async."""

import asyncio
from typing import Annotated

from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket
from fastapi.params import Depends
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteSocket

import sidestream

sidestream.configure("sessions", linger_ms=5)


def report(agent: str) -> None:
    """Report one request to a model."""
    sidestream.usage(agent, "gpt-4o", 1, 2)


api = FastAPI()


@api.get("/sync/{session_id}")
def sync_endpoint(session_id: str) -> str:
    """Report from a thread of the pool."""
    report("sync")
    return session_id


@api.get("/background/{session_id}")
async def background(session_id: str, tasks: BackgroundTasks) -> str:
    """Report after the answer, from a task and from a thread."""
    tasks.add_task(report, "background")
    return session_id


@api.get("/tasks/{session_id}")
async def in_tasks(session_id: str) -> str:
    """Report from tasks and threads of the endpoint's own."""
    await asyncio.gather(asyncio.to_thread(report, "thread"), run_in_threadpool(report, "pool"))
    await asyncio.create_task(asyncio.to_thread(report, "task"))
    return session_id


@api.get("/fail/{session_id}")
async def fail(session_id: str) -> str:
    """Fail without a handler."""
    raise RuntimeError(f"no such deck: {session_id}")


def _refuse() -> None:
    raise HTTPException(404)


@api.get("/missing/{session_id}")
async def missing(session_id: str, _: Annotated[None, Depends(_refuse)]) -> str:
    """Answer by an exception."""
    return session_id


@api.websocket("/ws/{session_id}")
async def talk(socket: WebSocket, session_id: str) -> None:
    """Report each message, until the client leaves."""
    await socket.accept()
    while True:
        await socket.receive_text()
        report("talker")
        await socket.send_text(session_id)


async def read(_: Request) -> PlainTextResponse:
    """Report, and answer."""
    report("reader")
    return PlainTextResponse("read")


async def listen(socket: StarletteSocket) -> None:
    """Report one message, and say goodbye."""
    await socket.accept()
    await socket.receive_text()
    report("listener")
    await socket.close()


routes = [Route("/read", read), WebSocketRoute("/live/{deck}", listen)]
fastapi_app = sidestream.SessionMiddleware(
    api,
    session=[f"/{name}/{{session_id}}" for name in ("sync", "background", "tasks", "fail", "missing", "ws")],
    user="query:user",
)
starlette_app = sidestream.SessionMiddleware(
    Starlette(routes=[*routes, Mount("/mounted", routes=routes)]),
    session=["/live/{deck}", "/mounted/live/{deck}", "header:X-Session", "cookie:sid"],
    user=lambda scope: "user-of-the-scope" if scope["path"].endswith("read") else None,
    tenant="header:x-tenant",
)
