"""What looking costs: how long each view of the web page takes, and what open pages ask of Redis.

The state holds 1,000 cells and 100,000 sessions of the last 24 hours, evenly spread: the worst case for a page, for
each hour has all cells. The page is served by the command, in a process of its own. A first look is the first request
of a fresh process, when nothing has been read; later ones find what others have read. Pages left open are streams of
changes, as browsers hold them.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import httpx

from benchmarks.harness import ROOT, Run, main, quantile, say
from benchmarks.surroundings import START_S, RealServer, connected, real_server
from benchmarks.traffic import SEED, new_session
from consumers.runtime.run import Worker
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.events import Event, Resource, TransitionEvent, UsageEvent
from pipeline.keys import Keys, partition_of
from pipeline.presence import agree_partitions
from pipeline.scripting import script
from pipeline.stream import SealedFrame, append_command
from pipeline.wire import FrameEncoder
from sidestream.compose import fold_effects
from sidestream.dashboard.address import VIEWS

PARTITIONS: Final = 4
KEYS: Final = Keys("bench")
AGENTS, STATES = 20, 10
MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o3", "claude-sonnet-4-5")
FIRST_TARGET_MS: Final = 2_000.0
EVENTS_A_FRAME: Final = 500
HOURS: Final = 24
SHARE_TARGET: Final = 0.1
"""Of one core of Redis, for any number of pages."""

_WHY: Final = "reading and adding up the values of 1,000 cells in 25 windows, 4 partitions and 2 handlers: Python"
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def measure(run: Run) -> None:
    """Fill a server, then look."""
    sessions, seconds = run.sized(100_000, 300), 0.3 if run.quick else 30.0
    run.configuration = {
        "partitions": PARTITIONS,
        "cells": AGENTS * len(MODELS) * STATES,
        "sessions": sessions,
        "events a session": 3,
        "range": f"{HOURS}h",
        "aof": "everysec",
        "seconds of open pages": seconds,
    }
    with real_server(aof=True) as server:
        run.server = server.about
        _fill(run, server, sessions)
        for view in VIEWS[:1] if run.quick else VIEWS:
            _look(run, server, view)
        with _page(server) as (address, pid):
            _check(run, address, sessions)
            _open(run, server, (address, pid), [], seconds)
            _open(run, server, (address, pid), ["view=overview"], seconds)
            if not run.quick:
                _open(run, server, (address, pid), ["view=overview"] * 10, seconds)
                mixed = [f"view={view}" for view in VIEWS] + ["view=tokens&agent=agent-1", "view=cost&range=1h"]
                _open(run, server, (address, pid), mixed, seconds)


def _fill(run: Run, server: RealServer, sessions: int) -> None:
    say("  filling")
    with connected(server.url) as client:
        client.call("SCRIPT", "LOAD", script("append").text)
        agree_partitions(client, KEYS, PARTITIONS)
        events = _events(sessions)
        for number in range(PARTITIONS):
            _append(client, number, [event for event in events if partition_of(event.session, PARTITIONS) == number])
    moved = anyio.run(_fold, server.url)
    run.require(moved == 2 * 3 * sessions, f"the worker moved {moved} events, not {2 * 3 * sessions}")


def _events(sessions: int) -> list[Event]:
    dice, now_us = random.Random(SEED), time.time_ns() // 1_000  # noqa: S311 - repeatable on purpose
    found: list[Event] = []
    for number in range(sessions):
        session, at_us = new_session(), now_us - dice.randrange(HOURS * 3_600 * 1_000_000)
        state = f"state-{number % STATES}"
        for turn in range(2):
            agent, model = f"agent-{dice.randrange(AGENTS)}", dice.choice(MODELS)
            at = min(now_us, at_us + turn)
            found.append(UsageEvent(at, agent, model, 900, 200, 1_100_000, session, state=state, run_id=new_session()))
        after = f"state-{(number + 1) % STATES}"
        found.append(TransitionEvent(at_us, from_state=state, to_state=after, duration_us=10_000_000, session=session))
    return found


def _append(client: Server, partition: int, events: Sequence[Event]) -> None:
    encoder, producer = FrameEncoder(Resource(service="bench", version="1", environment="test")), new_session()
    for first in range(0, len(events), EVENTS_A_FRAME):
        part = list(events[first : first + EVENTS_A_FRAME])
        frame = SealedFrame(partition, producer, first, len(part), "mz", encoder.encode(part))
        client.call(*append_command(KEYS.partition(partition), frame))


async def _fold(url: str) -> int:
    server = AsyncServer(RedisSettings(url))
    try:
        return await Worker(server, KEYS, fold_effects(("metrics", "cost"))).run_until_idle()
    finally:
        await server.aclose()


@contextmanager
def _page(server: RealServer) -> Generator[tuple[str, int]]:
    """Serve the page, and give its address and its process."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "address"
        command = [sys.executable, "-m", "sidestream", "dashboard", "--port", "0", "--ready-file", str(ready)]
        process = subprocess.Popen(
            [*command, "--redis-url", server.url, "--namespace", KEYS.namespace],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until_s = time.monotonic() + START_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > until_s:
                    raise RuntimeError("the page did not start")
                time.sleep(0.02)
            address = ready.read_text(encoding="utf-8")
            # It listens before it answers: that is not what is measured.
            httpx.get(f"{address}assets/icon.svg", trust_env=False, timeout=START_S)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait()


def _look(run: Run, server: RealServer, view: str) -> None:
    with _page(server) as (address, _), httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        path = "/" if view == "overview" else f"/{view}"
        first_ms, size = _timed(client, path)
        later = sorted(_timed(client, path)[0] for _ in range(run.sized(50, 3)))
    name = f"{view}: first look"
    run.at_most(FIRST_TARGET_MS, name, first_ms, "ms", 1, limited_by=_WHY)
    run.figure(f"{view}: later looks, p50", statistics.median(later), "ms", len(later))
    run.figure(f"{view}: later looks, p95", quantile(later, 0.95), "ms", len(later))
    run.figure(f"{view}: page, before compression", size, "bytes", 1)


def _timed(client: httpx.Client, path: str) -> tuple[float, int]:
    started_s = time.perf_counter()
    answer = client.get(path)
    took_ms = (time.perf_counter() - started_s) * 1_000
    answer.raise_for_status()
    return took_ms, len(answer.content)


def _check(run: Run, address: str, sessions: int) -> None:
    """See that the page shows what was filled in."""
    answer = httpx.get(f"{address}api/view?view=tokens", trust_env=False, timeout=60).json()
    agents, requests = answer["choices"]["agent"], answer["reports"]["agent"]["totals"]["requests"]["count"]
    run.require(len(agents) == AGENTS, f"the page knows {len(agents)} agents, not {AGENTS}")
    # Those that were dated a day ago have left the range meanwhile.
    run.require(requests > 1.9 * sessions, f"the page shows {requests} requests of {2 * sessions}")


def _open(run: Run, server: RealServer, page: tuple[str, int], queries: Sequence[str], seconds: float) -> None:
    """Leave pages open for a while, and see what they ask of Redis and of the process that serves them."""
    address, pid = page
    spent = anyio.run(_leave_open, server, address, pid, queries, seconds)
    kinds = len(set(queries))
    what = f"{len(queries)} pages open" if len(queries) != 1 else "1 page open"
    what += f", {kinds} views and filters" if kinds > 1 else ""
    run.require(all(spent.told), f"{what}: {spent.told.count(0)} were told nothing")
    run.figure(f"{what}: commands to Redis", spent.commands / spent.took_s, "/s", spent.commands)
    share = spent.redis_s / spent.took_s
    if queries:
        run.at_most(SHARE_TARGET, f"{what}: Redis, of one core", share, "cores", spent.commands, limited_by=_WHY)
        own = spent.page_s / spent.took_s
        run.figure(f"{what}: the page's process, of one core", own, "cores", len(queries), limited_by=_WHY)
        run.figure(f"{what}: the page's process, resident", _resident_mib(pid), "MiB", 1, limited_by=_WHY)
    else:
        run.figure(f"{what}: Redis, of one core", share, "cores", spent.commands)


@dataclass
class _Spent:
    """What was asked and used while pages were open, in `took_s` seconds; `told` is how often each page was."""

    told: list[int]
    commands: int = 0
    redis_s: float = 0.0
    page_s: float = 0.0
    took_s: float = 0.0


async def _leave_open(server: RealServer, address: str, pid: int, queries: Sequence[str], seconds: float) -> _Spent:
    spent = _Spent([0] * len(queries))
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=60, limits=limits) as client,
        anyio.create_task_group() as group,
    ):
        for place, query in enumerate(queries):
            group.start_soon(_listen, client, query, spent.told, place)
        # The first look is measured by itself.
        await anyio.sleep(min(seconds, 5.0))
        before, redis_s, page_s, started_s = _commands(server), server.cpu_s(), _cpu_s(pid), time.perf_counter()
        await anyio.sleep(seconds)
        spent.took_s = time.perf_counter() - started_s
        spent.page_s = _cpu_s(pid) - page_s
        spent.redis_s = server.cpu_s() - redis_s
        spent.commands = _commands(server) - before
        group.cancel_scope.cancel()
    return spent


async def _listen(client: httpx.AsyncClient, query: str, told: list[int], place: int) -> None:
    async with client.stream("GET", f"/live?{query}") as answer:
        async for line in answer.aiter_lines():
            told[place] += line.startswith("event:")


def _commands(server: RealServer) -> int:
    return int(server.info("stats")["total_commands_processed"])


def _cpu_s(pid: int) -> float:
    """Return the processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main("dashboard", __doc__, measure))
