"""What the storm rages in: a server that can be killed and put back, and processes that can be killed and frozen."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from storms.oracle import Process, Testimony
from support import server_binary

from pipeline.connection import RedisSettings, Server, parse_info
from pipeline.errors import SidestreamError

START_S: Final = 20.0
TESTS: Final = Path(__file__).parents[1]


class OwnServer:
    """A server with an append-only file, on a unix socket, that survives its own death.

    Args:
        folder: Of its own.
        kind: Which server; see `support.server_kinds`.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.binary = server_binary(kind)
        self.socket = folder / "server"
        self._data = folder / "data"
        self._copy = folder / "copy"
        self._data.mkdir()
        self.process = self._start()

    def _start(self, *more: str) -> subprocess.Popen[bytes]:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._data), "--save", ""]
        # Under `everysec` a server may answer although its write to the file is put off by an fsync that is under way:
        # a kill may then lose what was answered. Here only `roll_back` loses, and it is known to the event what.
        # And a file that were written anew while it is copied would make no copy of one moment.
        persistence = ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]
        command = [str(self.binary), *options, *persistence, *more]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with contextlib.closing(self.client()) as client:
            ready = threading.Event()
            for _ in range(int(START_S * 50)):
                with contextlib.suppress(SidestreamError):
                    client.call("PING")
                    return process
                ready.wait(0.02)
        raise RuntimeError("the server did not start")

    def client(self) -> Server:
        """Return a client that does not go through the proxy."""
        return Server(RedisSettings(f"unix://{self.socket}"))

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def restart(self, *more: str) -> None:
        """Kill it, and start it on what its file holds; `more` are options of the server."""
        self.kill()
        self.process = self._start(*more)

    def compact(self) -> None:
        """Let it write its file anew, so that it starts soon; wait until it has."""
        with contextlib.closing(self.client()) as client, contextlib.suppress(SidestreamError):
            client.call("BGREWRITEAOF")
            deadline_s = time.monotonic() + START_S
            while time.monotonic() < deadline_s:
                facts = parse_info(client.call("INFO", "persistence"))
                if facts["aof_rewrite_in_progress"] == facts["aof_rewrite_scheduled"] == "0":
                    return
                time.sleep(0.01)

    def remember(self) -> None:
        """Copy its files as they are now."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._data, self._copy)

    @property
    def remembers(self) -> bool:
        """Whether there is a copy."""
        return self._copy.exists()

    def roll_back(self) -> None:
        """Kill it, and start it on the copy."""
        self.kill()
        shutil.rmtree(self._data)
        self._copy.rename(self._data)
        self.process = self._start()


class Applications:
    """The processes that report, and the pipe on which they say what they do.

    Args:
        environment: Of each.
        variant: The guard that they do without.
        log: What they write to standard error.
    """

    def __init__(self, environment: Mapping[str, str], variant: str, log: Path) -> None:
        self.closed: list[str] = []
        """Who was asked to close."""
        self.testimony = Testimony()
        self.living: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = environment
        self._variant = variant
        self._log = log
        self._reading, self._writing = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="oracle")
        self._thread.start()

    def _listen(self) -> None:
        with os.fdopen(self._reading, encoding="ascii") as lines:
            for line in lines:
                self.testimony.hear(line)

    def start(self, name: str, seed: int, *rest: str, **more: str) -> None:
        """Start one more."""
        pipe = self._writing
        command = [sys.executable, "-m", "storms.application", name, str(seed), str(pipe), self._variant, *rest]
        environment = {**os.environ, **self._environment, **more, "PYTHONPATH": str(TESTS)}
        with self._log.open("ab") as log:
            self.living[name] = subprocess.Popen(
                command, env=environment, pass_fds=[pipe], stdin=subprocess.PIPE, stderr=log, start_new_session=True
            )

    def forks(self) -> list[str]:
        """Return the forked children that have not said that they end."""
        spoken = list(self.testimony.processes.items())
        return [name for name, process in spoken if "f" in name and not process.over and self._is_ours(name, process)]

    def _is_ours(self, name: str, process: Process) -> bool:
        """Return whether a process lives, in the session of the application that forked it."""
        try:
            return os.getsid(process.pid) == self.testimony.processes[name.partition("f")[0]].pid
        except ProcessLookupError:
            return False

    def signal_fork(self, name: str, number: signal.Signals) -> None:
        """Send a forked child a signal, if it is still there."""
        process = self.testimony.processes[name]
        process.over |= number == signal.SIGKILL
        if self._is_ours(name, process):
            os.kill(process.pid, number)

    def kill(self, name: str) -> None:
        """Kill one with SIGKILL, and wait until it is gone."""
        process = self.living.pop(name)
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send one a signal."""
        self.living[name].send_signal(number)

    def close(self, timeout_s: float) -> list[str]:
        """Ask every living one to close; return those that did not end well."""
        for process in self.living.values():
            assert process.stdin is not None
            process.stdin.close()
        failed: list[str] = []
        self.closed += self.living
        for name, process in self.living.items():
            try:
                if process.wait(timeout_s):
                    failed.append(name)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                failed.append(name)
        self.living.clear()
        return failed

    def outlive_forks(self, timeout_s: float) -> list[str]:
        """Wait for forked children; kill and return those that have not ended by then."""
        deadline_s = time.monotonic() + timeout_s
        while (left := self.forks()) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        for name in left:
            self.signal_fork(name, signal.SIGKILL)
        return left

    def hear_out(self) -> None:
        """Listen until nobody can say more; whoever could still go on for ever is killed."""
        if self._writing < 0:
            return
        os.close(self._writing)
        self._writing = -1
        while self._thread.is_alive():
            self.outlive_forks(0)
            self._thread.join(0.05)

    def exceptions(self) -> list[str]:
        """Return what was raised in any of them, as the last line of each traceback."""
        found: list[str] = []
        inside = False
        for line in self._log.read_text("utf-8", "replace").splitlines() if self._log.exists() else []:
            if inside and line[:1].strip():
                found.append(line)
            inside = line.startswith("Traceback") or (inside and not line[:1].strip())
        return found
