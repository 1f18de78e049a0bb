"""The processes that count: started, killed, frozen, asked to leave, and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from storms.world import TESTS

AWAY: Final = 3
"""The exit code of a worker that starts while Redis is away; whoever runs it starts it again."""

CLOSE_S: Final = 30.0
YOUNG_S: Final = 5.0
"""How long a worker may take to start."""

_OWN: Final = ("SIDESTREAM_", "LOGFIRE_", "OTEL_")
"""What of the environment is not handed on."""


class Workers:
    """The processes that count.

    Args:
        environment: Of each.
        variant: The guard that they do without.
        log: What they write to standard error.
    """

    def __init__(self, environment: Mapping[str, str], variant: str, log: Path) -> None:
        self.living: dict[str, subprocess.Popen[bytes]] = {}
        self.leaving: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._born: dict[str, float] = {}
        self._young: set[str] = set()
        self.failed: list[str] = []
        """Who ended otherwise than it was made to."""
        self.books: dict[str, str] = {}
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        self._environment |= {**environment, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
        self._variant = variant
        self._log = log

    def start(self, book: str = "none") -> None:
        """Start one more."""
        name = f"worker{len(self.books) + 1}"
        self.books[name], self._born[name] = book, time.monotonic()
        with self._log.open("ab") as log:
            self.living[name] = subprocess.Popen(
                [sys.executable, "-m", "storms.consumer", self._variant, book],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def tend(self) -> None:
        """Start those again that came while Redis was away; note who ended by itself."""
        for name, process in list(self.living.items()):
            code = process.poll()
            if code is not None:
                del self.living[name]
                self._note(name, code)
                self.start(self.books[name])

    def _note(self, name: str, code: int) -> None:
        # Who is asked to leave before it listens to signals dies of it.
        if code not in {0, AWAY} and not (code == -signal.SIGTERM and name in self._young):
            self.failed.append(f"{name} ended with {code}")

    def named(self, pid: int) -> str | None:
        """Return which one a process is, if it lives."""
        return next((name for name, process in self.living.items() if process.pid == pid), None)

    def kill(self, name: str) -> int:
        """Kill one with SIGKILL, wait until it is gone, and return which process it was."""
        process = self.living.pop(name)
        process.kill()
        process.wait()
        return process.pid

    def drain(self, name: str) -> None:
        """Ask one to leave."""
        process = self.living.pop(name)
        if time.monotonic() - self._born[name] < YOUNG_S:
            self._young.add(name)
        process.terminate()
        self.leaving.append((name, process))

    def close(self) -> None:
        """Ask every one to leave, and see that all do."""
        for name in list(self.living):
            self.drain(name)
        for name, process in self.leaving:
            try:
                self._note(name, process.wait(CLOSE_S))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self.failed.append(f"{name} did not leave")
        self.leaving.clear()

    def last_words(self) -> str:
        """Return the end of what they said."""
        return self._log.read_text("utf-8", "replace")[-2_000:] if self._log.exists() else ""

    def complaints(self) -> list[str]:
        """Return what was raised in any of them, and what repeating cannot mend."""
        if not self._log.exists():
            return []
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return [line for line in lines if " ERROR " in line or line.startswith(("Traceback", "LookupError"))]
