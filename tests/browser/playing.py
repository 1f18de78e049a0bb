"""What a page is looked at with: a server, a counted day, workers, an application that goes on, the page itself."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import anyio
from deckster_day import Day, append_day
from support import Appender, spawned

import sidestream
from consumers.runtime.run import Worker
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.keys import Keys
from sidestream.compose import fold_effects

KEYS: Final = Keys("demo")
START_S: Final = 30.0
LIVE_SESSIONS: Final = 6
PAUSE_S: Final = 1.0
REQUESTS: Final = (*[("director", "gpt-4o-mini", "openai")] * 15, ("writer", "claude-sonnet-4-5", "anthropic"))
"""What the application asks for while somebody looks: about as much as it spent an hour of its day."""

TURNS: Final = 12
"""Runs that a session has before it goes on."""

MEMORY: Final = ("--maxmemory", "256mb")

RULES: Final = """
[worker]
grace_s = 1

[[alert]]
name = "high-token-usage"
kind = "tokens"
threshold = 150_000
summary = "More tokens than usual: look for runaway agents."

[[alert]]
name = "slow-operation"
kind = "slow_operation"
threshold = "30s"
summary = "An operation took longer than 30 seconds: investigate what it waited for."

[[alert]]
name = "writer budget"
kind = "tokens"
threshold = 2_000_000
window = "1h"
severity = "critical"
where = { agent = "writer" }
summary = "The writer spends more than it may: ask who let it."
"""


@contextmanager
def playing(folder: Path, *, sessions: int = 400, hung: bool = False) -> Generator[str]:
    """Play an application's day and go on with it; give the page's address.

    Args:
        folder: For files.
        sessions: How many the day had.
        hung: Leave a request open, as if its provider had stalled.
    """
    with ExitStack() as stack:
        real = stack.enter_context(spawned("valkey", *MEMORY))
        anyio.run(_count_a_day, real.url, sessions)
        rules = folder / "rules.toml"
        rules.write_text(RULES, "utf-8")
        where = ["--redis-url", real.url, "--namespace", KEYS.namespace]
        for _ in range(2):
            stack.enter_context(
                _process(["worker", "--config", str(rules), "--handlers", "metrics,cost,alerts", *where])
            )
        stack.enter_context(_application(real.url, hung=hung))
        ready = folder / "address"
        stack.enter_context(_process(["dashboard", "--port", "0", "--ready-file", str(ready), *where]))
        until_s = time.monotonic() + START_S
        while not ready.exists():
            assert time.monotonic() < until_s, "the page did not start"
            time.sleep(0.05)
        yield ready.read_text("utf-8").rstrip("/")


async def _count_a_day(url: str, sessions: int) -> None:
    server = AsyncServer(RedisSettings(url))
    await append_day(Appender(server, KEYS), Day(time.time_ns() // 1_000, sessions=sessions))
    await Worker(server, KEYS, fold_effects(("metrics", "cost"))).run_until_idle()
    await server.aclose()


@contextmanager
def _process(command: list[str]) -> Generator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sidestream", *command],
        env={name: value for name, value in os.environ.items() if not name.startswith("SIDESTREAM_")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _application(url: str, *, hung: bool) -> Generator[None]:
    """Report requests through the public functions, a few a second, until it is left."""
    sidestream.configure("deckster", version="1.5.0", environment="production", redis_url=url, namespace=KEYS.namespace)
    stopping = threading.Event()
    threads = [threading.Thread(target=_talk, args=(stopping,))]
    if hung:
        threads.append(threading.Thread(target=_hang, args=(stopping,)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        sidestream.close()


def _talk(stopping: threading.Event) -> None:
    number = 0
    while not stopping.wait(PAUSE_S):
        seat, turn = number % LIVE_SESSIONS, number // LIVE_SESSIONS
        session, size = f"deck-live-{turn // TURNS}-{seat}", 2_400 + number
        agent, model, provider = REQUESTS[number % len(REQUESTS)]
        if turn and turn % TURNS == 0:
            with sidestream.session_context(f"deck-live-{turn // TURNS - 1}-{seat}", f"user-{seat}"):
                sidestream.track_state_transition("review", "done")
        with sidestream.session_context(session, f"user-{seat}", state="drafting"):
            if turn % TURNS == 0:
                sidestream.track_state_transition("", "drafting")
            with sidestream.operation(agent, kind="run", agent=agent):
                sidestream.usage(agent, model, size, 380, provider=provider, duration_us=2_100_000)
            if turn % TURNS == TURNS - 1:
                sidestream.track_state_transition("drafting", "review")
        number += 1


def _hang(stopping: threading.Event) -> None:
    """Wait for a provider that does not answer."""
    with sidestream.session_context("deck-hangs", "user-7", state="illustrating"):
        sidestream.track_state_transition("drafting", "illustrating")
        with sidestream.model_request("illustrator", "gpt-4o", provider="openai"):
            stopping.wait()
