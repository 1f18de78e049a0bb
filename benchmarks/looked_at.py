"""What looking is measured on: a state of 1,000 cells and 100,000 sessions, the page's process, and what looks cost.

The state is the worst case for whoever looks: each of its 24 hours has all cells.
"""

import os
import random
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import httpx

from benchmarks.harness import Plain, Run, say
from benchmarks.surroundings import START_S, RealServer, connected, running
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

PARTITIONS: Final = 4
KEYS: Final = Keys("bench")
AGENTS, STATES = 20, 10
MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o3", "claude-sonnet-4-5")
HOURS: Final = 24
EVENTS_A_SESSION: Final = 3
SHARE_TARGET: Final = 0.1
"""Of one core of Redis, for any number of those who look."""

WHY: Final = "reading and adding up the values of 1,000 cells in 25 windows, 4 partitions and 2 handlers: Python"
_EVENTS_A_FRAME: Final = 500
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def about(sessions: int) -> dict[str, Plain]:
    """Return what is looked at, for a run's configuration."""
    return {
        "partitions": PARTITIONS,
        "cells": AGENTS * len(MODELS) * STATES,
        "sessions": sessions,
        "events a session": EVENTS_A_SESSION,
        "range": f"{HOURS}h",
        "aof": "everysec",
    }


def fill(run: Run, server: RealServer, sessions: int) -> None:
    """Append the events of sessions, evenly spread over the last 24 hours, and count them."""
    say("  filling")
    with connected(server.url) as client:
        client.call("SCRIPT", "LOAD", script("append").text)
        agree_partitions(client, KEYS, PARTITIONS)
        events = _events(sessions)
        for number in range(PARTITIONS):
            _append(client, number, [event for event in events if partition_of(event.session, PARTITIONS) == number])
    moved, expected = anyio.run(_fold, server.url), 2 * EVENTS_A_SESSION * sessions
    run.require(moved == expected, f"the worker moved {moved} events, not {expected}")


def _events(sessions: int) -> list[Event]:
    dice, now_us = random.Random(SEED), time.time_ns() // 1_000  # noqa: S311 - repeatable on purpose
    found: list[Event] = []
    for number in range(sessions):
        session, at_us = new_session(), now_us - dice.randrange(HOURS * 3_600 * 1_000_000)
        state = f"state-{number % STATES}"
        for turn in range(EVENTS_A_SESSION - 1):
            agent, model = f"agent-{dice.randrange(AGENTS)}", dice.choice(MODELS)
            at = min(now_us, at_us + turn)
            found.append(UsageEvent(at, agent, model, 900, 200, 1_100_000, session, state=state, run_id=new_session()))
        after = f"state-{(number + 1) % STATES}"
        found.append(TransitionEvent(at_us, from_state=state, to_state=after, duration_us=10_000_000, session=session))
    return found


def _append(client: Server, partition: int, events: Sequence[Event]) -> None:
    encoder, producer = FrameEncoder(Resource(service="bench", version="1", environment="test")), new_session()
    for first in range(0, len(events), _EVENTS_A_FRAME):
        part = list(events[first : first + _EVENTS_A_FRAME])
        frame = SealedFrame(partition, producer, first, len(part), "mz", encoder.encode(part))
        client.call(*append_command(KEYS.partition(partition), frame))


async def _fold(url: str) -> int:
    server = AsyncServer(RedisSettings(url))
    try:
        return await Worker(server, KEYS, fold_effects(("metrics", "cost"))).run_until_idle()
    finally:
        await server.aclose()


@contextmanager
def page(server: RealServer) -> Generator[tuple[str, int]]:
    """Serve the page, and give its address and its process."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "address"
        with running(server, KEYS, "dashboard", "--port", "0", "--ready-file", str(ready)) as process:
            until_s = time.monotonic() + START_S
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > until_s:
                    raise RuntimeError("the page did not start")
                time.sleep(0.02)
            address = ready.read_text(encoding="utf-8")
            # It listens before it answers: that is not what is measured.
            httpx.get(f"{address}assets/icon.svg", trust_env=False, timeout=START_S)
            yield address, process.pid


@dataclass
class Spent:
    """What was asked of Redis and used by a process in `took_s` seconds."""

    commands: int = 0
    redis_s: float = 0.0
    own_s: float = 0.0
    took_s: float = 0.0

    def note(self, run: Run, what: str, looks: int, process: str = "") -> None:
        """Note it under a name.

        Args:
            run: Where.
            what: Who looks.
            looks: How often something was looked at: what the figures rest on.
            process: What the process is called; empty where there is none.
        """
        run.figure(f"{what}: commands to Redis", self.commands / self.took_s, "/s", self.commands)
        share = self.redis_s / self.took_s
        run.at_most(SHARE_TARGET, f"{what}: Redis, of one core", share, "cores", looks, limited_by=WHY)
        if process:
            own = self.own_s / self.took_s
            run.figure(f"{what}: {process}, of one core", own, "cores", looks, limited_by=WHY)


@contextmanager
def spending(server: RealServer, pid: int | None = None) -> Generator[Spent]:
    """Fill in what is asked of Redis, and used by a process, inside."""
    spent = Spent()
    commands, redis_s, own_s, began_s = _commands(server), server.cpu_s(), _cpu_s(pid), time.perf_counter()
    yield spent
    spent.took_s = time.perf_counter() - began_s
    spent.own_s = _cpu_s(pid) - own_s
    spent.redis_s = server.cpu_s() - redis_s
    spent.commands = _commands(server) - commands


def _commands(server: RealServer) -> int:
    return int(server.info("stats")["total_commands_processed"])


def _cpu_s(pid: int | None) -> float:
    """Return the processor seconds that a process has used; 0 of none."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int) -> float:
    """Return the memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
