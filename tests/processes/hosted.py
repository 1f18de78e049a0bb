"""The application that the servers host: each request reports one event, which stays in memory until someone drains."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import sidestream
from producers.asgi import Message, Receive, Scope, Send

sidestream.configure("host")


async def answer(request: Request) -> PlainTextResponse:
    """Report one request to a model, and answer."""
    sidestream.usage("director", "gpt-4o", 10, 20)
    return PlainTextResponse(str(os.getpid()))


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    """Report an operation when the application shuts down: telemetry must still be open."""
    yield
    sidestream.operation_done("goodbye", duration_us=1)


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a framework, and without a lifespan."""
    assert scope["type"] == "http"
    sidestream.usage("director", "gpt-4o", 10, 20)
    message: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    await send(message)
    await send({"type": "http.response.body", "body": b""})


undrained = Starlette(routes=[Route("/", answer)], lifespan=lifespan)
with_lifespan = sidestream.DrainMiddleware(undrained)
without_lifespan = sidestream.DrainMiddleware(plain)
