"""Whether a backlog's length matters, how workers share one, and a flow that is trimmed: time an event, and memory.

Real worker processes (`sidestream worker --handlers metrics`) meet a stream that is full already: 10^5, 10^6 and, with
`BACKLOG_MILLIONS=10`, 10^7 events with one worker; the middle one with 1, 2 and 4. The clock starts when the first of
them has committed something (start-up and leases are not what is asked), and stops when all is counted. Memory is the
largest resident set that the kernel saw. In the flow nothing that is counted is kept: 10^6 events pass through a
stream, with `BACKLOG_MILLIONS=10` 10^7, and as many wait at most as are made at once, twice.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.counting import KEYS, LOADS, PARTITIONS, fill, make_events
from benchmarks.harness import ROOT, Run, main, say
from benchmarks.surroundings import RealServer, connected, real_server
from consumers.runtime.housekeeping import EVERY_S as HOUSEKEEPING_EVERY_S
from pipeline import limits
from pipeline.connection import Server

MOST_MIB: Final = 150.0
PATIENCE_S: Final = 300.0
LOOK_S: Final = 0.02
TENTHS: Final = 10
_WHY: Final = "what is remembered of the state, frames decoded ahead, and the interpreter with its libraries (60 MiB)"
BATCH: Final = 100_000
"""Events that are made once and appended over and over, under producers of their own."""


def measure(run: Run) -> None:
    """Let workers meet each backlog."""
    millions = int(os.environ.get("BACKLOG_MILLIONS", "1"))
    sizes = [2_000] if run.quick else [100_000, 1_000_000, *([millions * 1_000_000] if millions > 1 else [])]
    run.configuration = {
        "partitions": PARTITIONS,
        "load": LOADS[0].name,
        "handlers": "metrics",
        "aof": "everysec",
        "events_a_frame": 500,
    }
    for size in sizes:
        _met(run, size, 1)
    for workers in (2, 4) if not run.quick else (2,):
        _met(run, sizes[min(1, len(sizes) - 1)], workers)
    _flow(run, sizes[0] if run.quick else millions * 1_000_000)


def _met(run: Run, size: int, workers: int) -> None:
    name = f"{size:,} events, {workers} worker{'s' if workers > 1 else ''}"
    say(f"  {name}")
    some = make_events(LOADS[0], min(size, BATCH))
    with real_server(aof=True) as server:
        run.server = server.about
        for _ in range(size // len(some)):
            fill(run, server, some)
        with _workers(server, workers) as processes, connected(server.url) as client:
            first, began_s = _wait_for(client, 1)
            tenth, tenth_s = _wait_for(client, size // TENTHS)
            ninth, ninth_s = _wait_for(client, size - size // TENTHS)
            last, ended_s = _wait_for(client, size)
            memory = [_peak_mib(process.pid) for process in processes]
        run.require(last == size, f"{name}: {last} events were counted")
        done = size - first
        if done and ended_s > began_s:
            run.figure(f"{name}: time an event", (ended_s - began_s) / done * 1e6, "us", done)
        if size > BATCH and tenth > first and last > ninth:
            run.figure(f"{name}: the first tenth of them", (tenth_s - began_s) / (tenth - first) * 1e6, "us", size)
            run.figure(f"{name}: the last tenth of them", (ended_s - ninth_s) / (last - ninth) * 1e6, "us", size)
        run.at_most(MOST_MIB, f"{name}: memory of the largest worker", max(memory), "MiB", size, limited_by=_WHY)


def _flow(run: Run, size: int) -> None:
    """Let events pass through a stream that is trimmed behind the cursors."""
    name = f"a flow of {size:,} events, trimmed"
    say(f"  {name}")
    # In whole frames.
    batch = min(size // TENTHS, BATCH) // limits.MAX_FRAME_EVENTS * limits.MAX_FRAME_EVENTS or limits.MAX_FRAME_EVENTS
    some = make_events(LOADS[0], batch)
    rounds = size // len(some)
    passed_s: list[float] = []
    with real_server(aof=True) as server:
        run.server = server.about
        environment = {**os.environ, "SIDESTREAM_RETENTION": "0s"}
        with _workers(server, 1, environment) as processes, connected(server.url) as client:
            for number in range(rounds):
                fill(run, server, some)
                _, now_s = _wait_for(client, (number - 1) * len(some))
                passed_s.append(now_s)
            last, now_s = _wait_for(client, size)
            passed_s.append(now_s)
            memory = _peak_mib(processes[0].pid)
            left = sum(_entries(run, client))
            used = _used_mib(client)
        run.require(last == size, f"{name}: {last} events were counted")
        tenth = max(1, rounds // TENTHS)
        for what, at in (("second tenth", min(tenth, rounds - tenth)), ("last tenth", rounds - tenth)):
            took_s = passed_s[at + tenth] - passed_s[at]
            run.figure(f"{name}: time an event, {what}", took_s / (tenth * len(some)) * 1e6, "us", size)
        run.at_most(MOST_MIB, f"{name}: memory of the worker", memory, "MiB", size, limited_by=_WHY)
        run.figure(f"{name}: entries on the streams in the end", left, "entries", size)
        run.figure(f"{name}: memory of the server in the end", used, "MiB", size)


def _entries(run: Run, client: Server) -> list[int]:
    """Return the lengths of the streams once a round of trimming has passed over what is counted."""
    time.sleep(0 if run.quick else 2 * HOUSEKEEPING_EVERY_S)
    return [int(client.call("XLEN", KEYS.partition(number).stream())) for number in range(PARTITIONS)]


def _used_mib(client: Server) -> float:
    lines = client.call("INFO", "memory").decode().splitlines()
    (line,) = [line for line in lines if line.startswith("used_memory:")]
    return int(line.partition(":")[2]) / 1024**2


@contextmanager
def _workers(
    server: RealServer, count: int, environment: Mapping[str, str] | None = None
) -> Generator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", "sidestream", "worker", "--handlers", "metrics"]
    command += ["--namespace", KEYS.namespace, "--redis-url", server.url]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def _wait_for(client: Server, count: int) -> tuple[int, float]:
    """Wait until so many events are counted; return how many there are, and when that was."""
    cursors = [KEYS.partition(number).unit("metrics").cursor() for number in range(PARTITIONS)]
    deadline_s = time.perf_counter() + PATIENCE_S
    while True:
        replies = client.batch([["HGET", cursor, "committed"] for cursor in cursors])
        held = sum(int(reply) for reply in replies if isinstance(reply, bytes))
        if held >= count or time.perf_counter() > deadline_s:
            return held, time.perf_counter()
        time.sleep(LOOK_S)


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main("backlog", __doc__, measure))
