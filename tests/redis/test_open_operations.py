"""A producer that dies in the middle of a call beside one whose call is only slow: a reader can tell them apart."""

import asyncio
import subprocess
import sys

import pytest

from consumers.views import status as views
from consumers.views.inflight import InFlight
from pipeline.connection import AsyncServer
from pipeline.keys import Keys

pytestmark = pytest.mark.one_server

APPLICATION = """
import sys
from producers import inflight
from producers.settings import PublishSettings
from producers.telemetry import Telemetry
telemetry = Telemetry(PublishSettings(namespace="test"), lambda: sys.argv[1])
telemetry.open_operations.older_than.__func__.__defaults__ = (0,)  # what is young is shown too: a test does not wait
with telemetry.operation("call-" + sys.argv[2]):
    print("open", flush=True)
    sys.stdin.read()
"""


async def in_flight(server: AsyncServer, keys: Keys) -> dict[str, InFlight]:
    """Return what is open, by its name."""
    return {row.operation.name: row for row in (await views.read_status(server, keys, 4)).in_flight}


async def test_a_call_that_died_with_its_process_is_told_apart_from_a_slow_one(
    redis_url: str, server: AsyncServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are open when last heard of; once the killed process is silent, its call is unknown and the other's open."""
    command = [sys.executable, "-c", APPLICATION, redis_url]
    processes = [subprocess.Popen([*command, name], stdin=-1, stdout=-1) for name in ("slow", "dead")]  # noqa: ASYNC220
    try:
        slow, dead = processes
        for process in processes:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"open\n"
        while len(await in_flight(server, keys)) < 2:
            pass
        dead.kill()
        dead.wait()
        monkeypatch.setattr(views, "SILENT_MS", 6000)  # a heartbeat comes every five seconds
        while (found := await in_flight(server, keys))["call-dead"].state != "unknown":
            pass
        assert found["call-slow"].state == "open"
        assert found["call-slow"].open_ms > 5000
        assert found["call-dead"].open_ms < found["call-slow"].open_ms
        await asyncio.to_thread(slow.communicate)
        assert slow.returncode == 0
        assert list(await in_flight(server, keys)) == ["call-dead"]
    finally:
        for process in processes:
            with process:
                process.kill()
