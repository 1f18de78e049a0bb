"""A real server on a real port, and agents that nobody watches once a test is over."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import uvicorn
from pydantic_ai import Agent

from examples.deckster.app import Deckster, create_app
from examples.deckster.models import Conditions

Serve = Callable[[Conditions], AbstractAsyncContextManager[tuple[str, Deckster]]]
"""Runs the server under some conditions; gives its address and what it holds."""


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Switch Sidestream off by its own switch, and leave no instrumentation behind."""
    monkeypatch.setenv("SIDESTREAM_ENABLED", "false")
    yield
    Agent.instrument_all(instrument=False)


@pytest.fixture
def serve() -> Serve:
    """Serve Deckster on a free port of this machine."""

    @asynccontextmanager
    async def run(conditions: Conditions) -> AsyncGenerator[tuple[str, Deckster]]:
        app = create_app(conditions)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(server.serve(sockets=[listener]))
                try:
                    yield f"ws://127.0.0.1:{listener.getsockname()[1]}", app.state.deckster
                finally:
                    server.should_exit = True

    return run
