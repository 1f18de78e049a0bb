"""What the storm rages in: a server that can be killed and put back, and processes that can be killed and frozen."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from storms.oracle import Testimony
from support import server_binary

from pipeline.connection import RedisSettings, Server
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

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._data), "--save", ""]
        # Under `everysec` a server may answer although its write to the file is put off by an fsync that is under way:
        # a kill may then lose what was answered. Here only `roll_back` loses, and it is known to the event what.
        persistence = ["--appendonly", "yes", "--appendfsync", "always"]
        command = [str(self.binary), *options, *persistence]
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

    def restart(self) -> None:
        """Kill it, and start it on what its file holds."""
        self.kill()
        self.process = self._start()

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
    """

    def __init__(self, environment: Mapping[str, str], variant: str) -> None:
        self.testimony = Testimony()
        self.living: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = environment
        self._variant = variant
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
        self.living[name] = subprocess.Popen(
            command, env=environment, pass_fds=[pipe], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

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

    def hear_out(self) -> Testimony:
        """Return what they said, once nobody can say more."""
        os.close(self._writing)
        self._thread.join()
        return self.testimony


def weighted(weights: Mapping[str, int]) -> tuple[Sequence[str], Sequence[int]]:
    """Return names and their weights, as dice want them."""
    return list(weights), list(weights.values())
