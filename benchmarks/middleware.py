"""Requests a second of a trivial FastAPI application on uvicorn: bare, and behind each of our middlewares.

Each is a server of its own on a unix socket, all up together, asked by turns over kept-alive connections by
this process; its processor time is what the kernel says it used. No event is reported: what is measured is the
middleware alone.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from benchmarks.harness import ROOT, Run, main, say
from benchmarks.surroundings import await_listening, real_server

KINDS: Final = ("none", "DrainMiddleware", "SessionMiddleware")
CONNECTIONS: Final = 8
_REQUEST: Final = (
    b"GET /ws/session-1 HTTP/1.1\r\nHost: bench\r\nX-User: user-1\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
)
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_WHY: Final = "one regular expression, a context variable set and reset, one more await a request"


@dataclass(frozen=True)
class Served:
    """One application that listens."""

    name: str
    path: Path
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """Return the processor seconds it has used, to a hundredth."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S


def measure(run: Run) -> None:
    """Ask each application for a while, by turns."""
    turns, requests = run.sized(9, 1), run.sized(6_000, 40)
    run.configuration = {
        "turns": turns,
        "requests a turn": requests,
        "connections": CONNECTIONS,
        "server": "uvicorn, one process, no access log",
        "session": 'session="/ws/{session_id}", user="header:x-user"',
    }
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu_us: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        redis = stack.enter_context(real_server(aof=False))
        run.server = redis.about
        all_served = [stack.enter_context(_served(kind, redis.url, redis.path.parent)) for kind in KINDS]
        for turn in range(turns + 1):
            say(f"  turn {turn}")
            for served in all_served:
                used_s, started_s = served.cpu_s(), time.perf_counter()
                anyio.run(_ask, served.path, requests)
                took_s, used_s = time.perf_counter() - started_s, served.cpu_s() - used_s
                if turn:  # the first warms up
                    rates[served.name].append(requests / took_s)
                    cpu_us[served.name].append(used_s / requests * 1e6)
    _figures(run, rates, cpu_us, turns * requests)


def _figures(run: Run, rates: dict[str, list[float]], cpu_us: dict[str, list[float]], samples: int) -> None:
    for kind in KINDS:
        run.figure(f"{kind}: requests a second", statistics.median(rates[kind]), "/s", samples)
        run.figure(f"{kind}: processor a request", statistics.median(cpu_us[kind]), "us", samples)
        if kind == "none":
            continue
        ratio = statistics.median(with_it / bare for with_it, bare in zip(rates[kind], rates["none"], strict=True))
        added = statistics.median(with_it - bare for with_it, bare in zip(cpu_us[kind], cpu_us["none"], strict=True))
        run.figure(f"{kind} ÷ none, requests a second", ratio, "", samples, limited_by=_WHY)
        run.figure(f"{kind}: added processor a request", added, "us", samples, limited_by=_WHY)


@contextmanager
def _served(kind: str, redis_url: str, folder: Path) -> Generator[Served]:
    path = folder / kind
    command = [sys.executable, "-m", "uvicorn", "benchmarks.middleware_app:app", "--uds", str(path)]
    environment = {**os.environ, "WITH": kind, "SIDESTREAM_REDIS_URL": redis_url}
    process = subprocess.Popen([*command, "--no-access-log", "--log-level", "error"], cwd=ROOT, env=environment)
    try:
        await_listening(path, process)
        yield Served(kind, path, process)
    finally:
        process.terminate()
        process.wait()


async def _ask(path: Path, requests: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(min(CONNECTIONS, requests)):
            group.start_soon(_connection, path, max(1, requests // CONNECTIONS))


async def _connection(path: Path, requests: int) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        for _ in range(requests):
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the application answered {head[:40]!r}")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()


if __name__ == "__main__":
    sys.exit(main("middleware", __doc__, measure))
