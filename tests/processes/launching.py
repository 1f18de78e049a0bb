"""What these tests share: processes of an application, with a real server to speak to, and what arrived there."""

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.connection import AsyncServer, RedisSettings
from pipeline.events import Event
from pipeline.keys import Keys
from pipeline.presence import Presence, read_presences
from pipeline.stream import read_after
from pipeline.wire import FrameDecoder

HERE = Path(__file__).parent
PARTITIONS = 4

KEEP_MS = 10_000
"""The linger of these processes: an event stays in memory for longer than a test lasts, unless it is drained."""


@dataclass(frozen=True)
class Site:
    """One test's server and namespace: what its processes are told, and what they sent."""

    url: str
    keys: Keys

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of an application's process."""
        own = {
            "SIDESTREAM_REDIS_URL": self.url,
            "SIDESTREAM_NAMESPACE": self.keys.namespace,
            "SIDESTREAM_LINGER_MS": str(KEEP_MS),
        }
        return {**os.environ, **own, **more}

    def agents(self) -> list[str]:
        """Return who reported each event on the streams."""
        return [str(getattr(event, "agent", "")) for event in self.events()]

    def events(self) -> list[Event]:
        """Return every event on the streams, in the order in which they happened."""
        return sorted(asyncio.run(_events(self)), key=lambda event: event.time_us)

    def presences(self) -> list[Presence]:
        """Return the last word of every producer, each with its account checked."""
        found = asyncio.run(_presences(self))
        assert all(presence.offered == presence.accounted() for presence in found)
        return found

    @contextmanager
    def process(self, *command: str, **more: str) -> Generator[subprocess.Popen[str]]:
        """Run a command beside the hosted application; kill it if it is still there at the end."""
        process = subprocess.Popen(
            command,
            cwd=HERE,
            env=self.environment(more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def script(self, code: str, **more: str) -> str:
        """Run a script to its end, which must be a good one; return what it printed."""
        done = subprocess.run(
            script_command(code),
            cwd=HERE,
            env=self.environment(more),
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def script_command(code: str) -> Sequence[str]:
    """Return the command that runs a script of an application which is configured."""
    head = "import sidestream\nsidestream.configure('script')\n"
    return (sys.executable, "-W", "ignore::DeprecationWarning", "-c", head + textwrap.dedent(code))


async def _events(site: Site) -> list[Event]:
    server = AsyncServer(RedisSettings(site.url))
    found: list[Event] = []
    for number in range(PARTITIONS):
        for stored in await read_after(server, site.keys.partition(number), "-", inclusive=True, most=100_000):
            frame = FrameDecoder().decode(stored.parse())
            found += [event for event in frame.events if event is not None]
    await server.aclose()
    return found


async def _presences(site: Site) -> list[Presence]:
    server = AsyncServer(RedisSettings(site.url))
    found = await read_presences(server, site.keys)
    await server.aclose()
    return found


def until(what: Callable[[], bool], within_s: float = 10) -> None:
    """Ask until it is so, for at most this many seconds."""
    end_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)
