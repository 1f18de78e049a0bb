"""Whether a backlog's length matters, and how workers share one: time an event, and memory of a worker.

Real worker processes (`sidestream worker --handlers metrics`) meet a stream that is full already: 10^5, 10^6 and, with
`BACKLOG_MILLIONS=10`, 10^7 events with one worker; the middle one with 1, 2 and 4. The clock starts when the first of
them has committed something (start-up and leases are not what is asked), and stops when all is counted. Memory is the
largest resident set that the kernel saw.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.counting import KEYS, LOADS, PARTITIONS, fill, make_events
from benchmarks.harness import ROOT, Run, main, say
from benchmarks.surroundings import RealServer, connected, real_server
from pipeline.connection import Server

MOST_MIB: Final = 150.0
PATIENCE_S: Final = 900.0
LOOK_S: Final = 0.02
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
            last, ended_s = _wait_for(client, size)
            memory = [_peak_mib(process.pid) for process in processes]
        run.require(last == size, f"{name}: {last} events were counted")
        done = size - first
        if done and ended_s > began_s:
            run.figure(f"{name}: time an event", (ended_s - began_s) / done * 1e6, "us", done)
        why = "what is remembered of the state, frames decoded ahead, and the interpreter with its libraries (60 MiB)"
        run.at_most(MOST_MIB, f"{name}: memory of the largest worker", max(memory), "MiB", size, limited_by=why)


@contextmanager
def _workers(server: RealServer, count: int) -> Generator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", "sidestream", "worker", "--handlers", "metrics"]
    command += ["--namespace", KEYS.namespace, "--redis-url", server.url]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(count)
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
