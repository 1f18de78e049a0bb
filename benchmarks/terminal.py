"""What looking costs in a terminal: `top` left open, `report` and `status` run again and again.

Over 1,000 cells and 100,000 sessions. `top` runs in a terminal of its own (a pty of 120 by 40) and draws; commands
that end are started anew each time, one after another, so that most of their time is Python's start.
"""

import fcntl
import os
import pty
import statistics
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from benchmarks.harness import ROOT, Run, main, quantile, say
from benchmarks.looked_at import KEYS, WHY, about, fill, resident_mib, spending
from benchmarks.surroundings import START_S, RealServer, command_line, real_server

COLUMNS, ROWS = 120, 40
EVERY: Final = "2s"
COMMANDS: Final = ("report --json", "report --by session", "states", "status", "top --once")
_DRAWN: Final = b"\x1b[?1049h"
"""What opens the terminal's other screen."""


def measure(run: Run) -> None:
    """Fill a server, then look."""
    sessions, seconds = run.sized(100_000, 300), 3.0 if run.quick else 60.0
    run.configuration = {
        **about(sessions),
        "terminal": f"{COLUMNS} x {ROWS}",
        "top": f"--every {EVERY}",
        "seconds of an open top": seconds,
    }
    with real_server(aof=True) as server:
        run.server = server.about
        fill(run, server, sessions)
        _top(run, server, seconds)
        for command in COMMANDS[:1] if run.quick else COMMANDS:
            _again(run, server, command, run.sized(20, 2))


def _top(run: Run, server: RealServer, seconds: float) -> None:
    say("  top, left open")
    with _terminal(server, "top", "--every", EVERY) as terminal:
        # The first look takes longer: sessions are read back.
        time.sleep(min(seconds, 5.0))
        before = terminal.drawn
        with spending(server, terminal.pid) as spent:
            time.sleep(seconds)
        drawn, resident = terminal.drawn - before, resident_mib(terminal.pid)
    looks = max(1, int(seconds / 2))
    run.require(drawn > 0, "top drew nothing")
    spent.note(run, "top", looks, "its process")
    run.figure("top: its process, resident", resident, "MiB", 1, limited_by=WHY)
    run.figure("top: written to the terminal", drawn / spent.took_s, "bytes/s", looks)


@dataclass
class _Terminal:
    """A command in a terminal, and how many bytes it has drawn."""

    pid: int
    drawn: int = 0


@contextmanager
def _terminal(server: RealServer, *command: str) -> Generator[_Terminal]:
    own, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command_line(server, KEYS, *command), cwd=ROOT, stdin=its, stdout=its, stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(its)
    terminal, is_open = _Terminal(process.pid), threading.Event()

    def read() -> None:
        while True:
            try:
                told = os.read(own, 1 << 16)
            except OSError:
                return
            if not told:
                return
            terminal.drawn += len(told)
            if _DRAWN in told:
                is_open.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if not is_open.wait(START_S):
            raise RuntimeError(f"{command[0]} did not open its screen")
        yield terminal
    finally:
        os.write(own, b"q")
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(START_S)
        os.close(own)


def _again(run: Run, server: RealServer, command: str, times: int) -> None:
    say(f"  {command}, {times} times")
    took_ms: list[float] = []
    with spending(server) as spent:
        for _ in range(times):
            began_s = time.perf_counter()
            answer = subprocess.run(
                command_line(server, KEYS, *command.split()), cwd=ROOT, capture_output=True, check=False, timeout=60
            )
            took_ms.append((time.perf_counter() - began_s) * 1_000)
            run.require(answer.returncode == 0 and bool(answer.stdout), f"{command}: {answer.stderr.decode()}")
    took_ms.sort()
    what = f"{command}, in a loop"
    run.figure(f"{what}: one, p50", statistics.median(took_ms), "ms", times, limited_by=f"Python's start; {WHY}")
    run.figure(f"{what}: one, p95", quantile(took_ms, 0.95), "ms", times)
    run.figure(f"{what}: Redis, for one", spent.redis_s * 1_000 / times, "ms", times)
    spent.note(run, what, times)


if __name__ == "__main__":
    sys.exit(main("terminal", __doc__, measure))
