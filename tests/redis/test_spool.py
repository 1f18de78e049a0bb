"""The spool with the real thing: applications killed while Redis is away, successors that race, full disks, forks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import RealServer

from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.views.status import read_status
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.events import Resource, UsageEvent
from pipeline.keys import Keys
from pipeline.presence import Presence, read_presences
from pipeline.stream import SealedFrame, read_after
from pipeline.wire import FrameDecoder, FrameEncoder
from producers import delivery
from producers.settings import PublishSettings
from producers.spool_file import Owner, SpoolFile, StoredFrame, has_owner, spool_files
from producers.spool_recovery import Recovery, drain
from producers.telemetry import Telemetry

pytestmark = pytest.mark.one_server

PARTITIONS = 4
TIMEOUT_S = 30
BEFORE_THE_TIME_OUT_S = 4
"""A server's answer is waited for during five seconds."""

APP = """
import os, sys, time
from producers.settings import PublishSettings
from producers.telemetry import Telemetry
url, folder, fsync = sys.argv[1:4]
settings = PublishSettings(
    namespace="test", linger_ms=5, spool_dir=folder, spool_fsync=fsync, spool_bytes=64 << 20, buffer_events=200_000
)
telemetry = Telemetry(settings, lambda: url)
count = 0
def report(events):
    global count
    for _ in range(events):
        telemetry.usage("agent", "model", 1, session=f"{os.getpid()}-{count}")
        count += 1
def say():
    print(count, flush=True)
"""
"""An application: `report` offers events that are told apart by their session, `say` tells the test how many."""


@contextmanager
def application(url: str, folder: Path, body: str, fsync: str = "always") -> Generator[subprocess.Popen[str]]:
    """Run an application that ends by its own hand, or is killed."""
    line = [sys.executable, "-W", "ignore", "-c", APP + body, url, str(folder), fsync]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> int:
    """Return the number that the application says next."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def files(folder: Path) -> list[Path]:
    """Return the spool's files of the tests' namespace."""
    return spool_files(folder / "test")


def drained(url: str, folder: Path) -> int:
    """Do what a successor does; return the events it sent."""
    server = Server(RedisSettings(url))
    try:
        return sum(one.events for one in drain(Recovery(folder / "test", Keys("test")), server))
    finally:
        server.close()


def running(url: str, folder: Path, **settings: object) -> Telemetry:
    """Return telemetry of this process with a spool."""
    plain: dict[str, object] = {"namespace": "test", "linger_ms": 5, "spool_dir": str(folder), **settings}
    return Telemetry(PublishSettings(**plain), lambda: url)  # pyright: ignore[reportArgumentType] - plain values


def wait_until(holds: Callable[[], bool]) -> None:
    """Look until something holds that happens on another thread."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


async def sessions(server: AsyncServer, keys: Keys) -> list[str]:
    """Return the session of every event on the streams, and see that a worker counts just these."""
    found: list[str] = []
    decoder = FrameDecoder()
    for number in range(PARTITIONS):
        for entry in await read_after(server, keys.partition(number), "0-0", inclusive=False, most=100_000):
            found += [event.session for event in decoder.decode(entry.parse()).events if event is not None]
    await Worker(server, keys, [FoldEffect(MetricsHandler())]).run_until_idle()
    cells = await StateReader(server, keys, PARTITIONS).lifetime("metrics")
    assert sum(measures["ti"] for measures in cells.values()) == len(found)
    return found


async def whole(server: AsyncServer, keys: Keys) -> dict[str, Presence]:
    """Return every presence by its instance; every identity of `status` holds."""
    status = await read_status(server, keys, PARTITIONS)
    assert status.broken == []
    return {presence.producer: presence for presence in await read_presences(server, keys)}


async def test_killed_while_redis_is_away_nothing_spooled_is_lost(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """`flush` says True once everything is in the file; after `kill -9` the next process sends each event once."""
    away = f"unix://{tmp_path / 'nobody'}"
    with application(away, tmp_path, "report(60_000); print(telemetry.flush(20) + 0); say(); sys.stdin.read()") as app:
        assert heard(app) == 1
        count = heard(app)
        (path,) = files(tmp_path)
        assert has_owner(path)
        assert drained(redis_url, tmp_path) == 0
    successor = running(redis_url, tmp_path)
    successor.usage("successor", "model", 1, session="successor")
    wait_until(lambda: not files(tmp_path) or files(tmp_path) != [path])
    assert successor.flush(TIMEOUT_S)
    assert successor.statistics().appended == 1
    assert successor.close(TIMEOUT_S)
    found = await sessions(server, keys)
    assert len(found) == len(set(found)) == count + 1
    dead = (await whole(server, keys))[path.stem]
    assert (dead.offered, dead.appended, dead.recovered, dead.closed) == (count, count, count, 1)
    assert list((tmp_path / "test").iterdir()) == []


async def test_killed_while_redis_hangs_nothing_spooled_is_lost(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path, real_server: RealServer
) -> None:
    """Frames are in the file before they are sent: a server that takes them and never answers changes nothing."""
    body = """
report(10); telemetry.flush(5); say(); sys.stdin.readline(); report(300)
while not telemetry.statistics().spooled: time.sleep(0.01)
print(telemetry.statistics().spooled, flush=True)
sys.stdin.read()
"""
    with application(redis_url, tmp_path, body) as app:
        assert heard(app) == 10
        real_server.process.send_signal(signal.SIGSTOP)
        try:
            assert app.stdin is not None
            began_s = time.monotonic()
            app.stdin.write("\n")
            app.stdin.flush()
            count = heard(app)
            assert time.monotonic() - began_s < BEFORE_THE_TIME_OUT_S
        finally:
            app.kill()
            real_server.process.send_signal(signal.SIGCONT)
    # What the dead process had sent may reach the server before, between or after what its successor sends.
    drained(redis_url, tmp_path)
    found = await sessions(server, keys)
    assert len(found) == len(set(found)) >= 10 + count
    await whole(server, keys)


@pytest.mark.parametrize(("seed", "fsync"), [(0, "always"), (1, "interval"), (2, "always"), (3, "interval")])
async def test_killed_at_any_moment_what_was_flushed_arrives_once(  # noqa: PLR0913, PLR0917 - fixtures
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path, seed: int, fsync: str
) -> None:
    """Redis comes and goes, connections break, the application dies; flushed events arrive, and none twice."""
    here = tmp_path / "s"
    other = Server(RedisSettings(redis_url))
    body = "while True:\n    report(700)\n    if telemetry.flush(5): say()"
    safe = 0
    with application(f"unix://{here}", tmp_path, body, fsync) as app:
        for turn in range(6):
            safe = heard(app)
            if (turn + seed) % 2:
                here.symlink_to(redis_url.removeprefix("unix://"))
            else:
                here.unlink(missing_ok=True)
                other.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            for _ in range(seed + 1):
                safe = heard(app)
        app.kill()
        assert app.stdout is not None
        safe = max([safe, *(int(line) for line in app.stdout.read().splitlines() if line)])
    other.close()
    drained(redis_url, tmp_path)
    found = await sessions(server, keys)
    assert len(found) == len(set(found)) >= safe > 0
    assert {int(name.partition("-")[2]) for name in found} >= set(range(safe))
    await whole(server, keys)
    assert files(tmp_path) == []


async def test_two_successors_race_and_each_event_arrives_once(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """Whoever has the lock sends; the command and a process of the application at once."""
    away = f"unix://{tmp_path / 'nobody'}"
    paths: set[Path] = set()
    count = 0
    for _ in range(3):
        with application(away, tmp_path, "report(8000); telemetry.flush(20); say(); sys.stdin.read()") as app:
            count += heard(app)
        paths |= set(files(tmp_path))
    assert len(paths) == 3
    commands = [cli("recover", url=redis_url, folder=tmp_path) for _ in range(3)]
    documents = [document(command, 0, 1) for command in commands]
    assert sum(one["events"] for found in documents for one in found["recovered"]) == count
    found = await sessions(server, keys)
    assert len(found) == len(set(found)) == count
    await whole(server, keys)


async def test_a_dead_producers_frames_are_shown_until_they_are_sent(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """`status` says how many events wait on which machine; afterwards that they arrived, and what died in memory."""
    here = tmp_path / "s"
    here.symlink_to(redis_url.removeprefix("unix://"))
    other = Server(RedisSettings(redis_url))
    # It speaks, loses Redis, spools, and dies with events in its buffer.
    body = "report(100); telemetry.flush(5); say(); sys.stdin.readline(); report(900); telemetry.flush(5); say()\n"
    with application(f"unix://{here}", tmp_path, body + "sys.stdin.read()") as app:
        assert heard(app) == 100
        (path,) = files(tmp_path)
        other.call("CONFIG", "SET", "maxmemory", "1mb")
        assert app.stdin is not None
        app.stdin.write("\n")
        app.stdin.flush()
        assert heard(app) == 1000
        wait_until(lambda: other.call("HGET", keys.presence(path.stem), "spooled") == b"900")
    before = (await whole(server, keys))[path.stem]
    assert (before.offered, before.appended, before.spooled, before.in_flight) == (1000, 100, 900, 0)
    other.call("CONFIG", "SET", "maxmemory", "0")
    shown = cli("ls", url=redis_url, folder=tmp_path)
    (row,) = document(shown, 0)["files"]
    assert (row["state"], row["producer"], row["events"], row["frames"] > 0) == ("waiting", path.stem, 900, True)
    assert drained(redis_url, tmp_path) == 900
    [producer] = (await read_status(server, keys, PARTITIONS)).producers
    assert (producer.life, producer.at_risk, producer.presence.spooled) == ("recovered", 0, 0)
    assert (producer.presence.appended, producer.presence.recovered) == (1000, 900)
    other.close()


async def test_what_redis_lost_meanwhile_is_counted(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """The oldest frame of the file meets a gap: the server forgot what it had acknowledged, and says so as lost."""
    here = tmp_path / "s"
    here.symlink_to(redis_url.removeprefix("unix://"))
    body = "report(400); telemetry.flush(5); say(); sys.stdin.readline(); report(300); telemetry.flush(5); say()\n"
    with application(f"unix://{here}", tmp_path, body + "sys.stdin.read()") as app:
        assert heard(app) == 400
        here.unlink()
        other = Server(RedisSettings(redis_url))
        other.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert app.stdin is not None
        app.stdin.write("\n")
        app.stdin.flush()
        assert heard(app) == 700
    other.call("FLUSHALL")
    assert drained(redis_url, tmp_path) == 300
    found = await sessions(server, keys)
    assert len(found) == len(set(found)) == 300
    lost = [int(other.call("HGET", keys.partition(n).counters(), "lost") or 0) for n in range(PARTITIONS)]
    assert sum(lost) == 400
    [presence] = (await whole(server, keys)).values()
    assert (presence.appended, presence.lost) == (700, 400)
    other.close()


async def test_a_small_spool_fills_and_the_application_goes_on(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """File, then memory, then shedding: every snapshot adds up, and what was taken arrives when Redis comes."""
    here = tmp_path / "s"
    telemetry = running(f"unix://{here}", tmp_path, spool_bytes=1 << 18, buffer_events=5000)
    offered, counts = 0, telemetry.statistics()
    while not telemetry.statistics().shed:
        for _ in range(500):
            telemetry.usage("agent", os.urandom(40).hex(), 1, session=f"{offered}")
            offered += 1
        telemetry.flush(0.05)
        counts = telemetry.statistics()
        assert counts.offered == counts.accounted()
    assert counts.spooled > 1000
    assert sum(path.stat().st_size for path in (tmp_path / "test").iterdir()) < 2 * (1 << 18)
    assert not telemetry.flush(0.2)
    here.symlink_to(redis_url.removeprefix("unix://"))
    wait_until(lambda: telemetry.statistics().appended > 0)
    assert telemetry.close(TIMEOUT_S)
    counts = telemetry.statistics()
    assert counts.appended + counts.shed == counts.offered == offered
    found = await sessions(server, keys)
    assert len(found) == len(set(found)) == counts.appended
    await whole(server, keys)
    assert list((tmp_path / "test").iterdir()) == []


def test_a_busy_application_is_spooled_as_fast_as_it_reports(tmp_path: Path) -> None:
    """While Redis is away the publisher does not sleep over a full frame: nothing is shed for want of waking."""
    telemetry = running(f"unix://{tmp_path / 'nobody'}", tmp_path, buffer_events=5000)
    began_s = time.monotonic()
    for _ in range(120):
        for _ in range(500):
            telemetry.usage("agent", "model", 1)
        wait_until(lambda: telemetry.statistics().buffered < 4000)
    assert telemetry.close(TIMEOUT_S)
    counts = telemetry.statistics()
    assert (counts.shed, counts.spooled) == (0, 60_000)
    assert time.monotonic() - began_s < 10


async def test_frames_sealed_while_redis_is_away_say_so(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """Their origin is `spooled`, those before are `live`; `close` is content when everything is in the file."""
    here = tmp_path / "s"
    here.symlink_to(redis_url.removeprefix("unix://"))
    telemetry = running(f"unix://{here}", tmp_path)
    telemetry.usage("early", "model", session="s")
    assert telemetry.flush(TIMEOUT_S)
    here.unlink()
    other = Server(RedisSettings(redis_url))
    other.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    other.close()
    telemetry.usage("at the edge", "model", session="s")
    assert telemetry.flush(TIMEOUT_S)
    telemetry.usage("late", "model", session="s")
    assert telemetry.close(TIMEOUT_S)
    counts = telemetry.statistics()
    assert (counts.offered, counts.appended) == (3, 1)
    assert counts.spooled + counts.unknown == 2
    assert drained(redis_url, tmp_path) == 2
    decoder = FrameDecoder()
    origins: dict[str, str] = {}
    for number in range(PARTITIONS):
        for entry in await read_after(server, keys.partition(number), "0-0", inclusive=False, most=100):
            frame = decoder.decode(entry.parse())
            origins |= {event.agent: frame.origin for event in frame.events if isinstance(event, UsageEvent)}
    assert (origins["early"], origins["late"]) == ("live", "spooled")
    await whole(server, keys)


async def test_an_outage_longer_than_half_the_fences_memory_takes_a_new_id(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old id's file is handed to recovery, in this process too; both accounts close, each event arrives once."""
    monkeypatch.setattr(delivery, "FRAME_AGE_S", 0.3)
    here = tmp_path / "s"
    telemetry = running(f"unix://{here}", tmp_path)
    telemetry.usage("agent", "model", 1, session="before")
    assert telemetry.flush(TIMEOUT_S)
    old_s = time.monotonic() + 0.4
    wait_until(lambda: time.monotonic() > old_s)
    telemetry.usage("agent", "model", 1, session="after")
    assert telemetry.flush(TIMEOUT_S)
    assert telemetry.statistics().spooled == 2
    assert len(files(tmp_path)) == 2
    monkeypatch.undo()
    here.symlink_to(redis_url.removeprefix("unix://"))
    wait_until(lambda: telemetry.statistics().appended == 1)
    wait_until(lambda: len(files(tmp_path)) <= 1)
    assert telemetry.close(TIMEOUT_S)
    assert sorted(await sessions(server, keys)) == ["after", "before"]
    await whole(server, keys)


async def test_a_forked_child_has_a_file_of_its_own(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """Parent and child spool side by side; the parent's death frees its file although the child lives on."""
    body = """
report(300); telemetry.flush(5)
if os.fork() == 0:
    count = 0; report(200); telemetry.flush(5); say(); sys.stdin.read(); os._exit(0)
report(300); telemetry.flush(5); say(); time.sleep(60)
"""
    with application(f"unix://{tmp_path / 'nobody'}", tmp_path, body) as app:
        assert sorted([heard(app), heard(app)]) == [200, 600]
        assert len(files(tmp_path)) == 2
        app.kill()
        wait_until(lambda: app.poll() is not None)
        assert drained(redis_url, tmp_path) == 600
        (of_child,) = files(tmp_path)
        assert has_owner(of_child)
        assert app.stdin is not None
        app.stdin.close()  # the child reads the same pipe, and ends
        wait_until(lambda: not has_owner(of_child))
    assert drained(redis_url, tmp_path) == 200
    found = await sessions(server, keys)
    assert len(found) == len(set(found)) == 800
    await whole(server, keys)


async def test_frames_older_than_three_days_are_kept_and_never_sent(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """The young ones behind them arrive, the hole is counted as lost, and the file stays under a name that says why."""
    producer = "cd" * 16
    now_ms = time.time_ns() // 1_000_000
    body = FrameEncoder(Resource()).encode([UsageEvent(now_ms * 1000, "a", "m", 1, session="s")])
    ages_ms = [4 * 24 * 3_600_000, 4 * 24 * 3_600_000, 60_000]
    frames = [
        StoredFrame(n + 1, now_ms - age_ms, SealedFrame(0, producer, n, 1, "mz", body))
        for n, age_ms in enumerate(ages_ms)
    ]
    file = SpoolFile.create(tmp_path / "test", Owner(producer, "test", partitions=PARTITIONS), 1 << 20)
    file.write(frames, trim_to=0, sync=True)
    file.close()
    recovered = document(cli("recover", url=redis_url, folder=tmp_path), 1)
    assert [(one["events"], one["lost"], one["aside"]) for one in recovered["recovered"]] == [(1, 2, 2)]
    assert [path.name for path in (tmp_path / "test").iterdir()] == [f"{producer}.spool.expired"]
    assert await sessions(server, keys) == ["s"]
    [presence] = (await whole(server, keys)).values()
    assert (presence.appended, presence.unknown, presence.lost) == (1, 2, 2)
    assert [row["state"] for row in document(cli("ls", url=redis_url, folder=tmp_path), 1)["files"]] == ["expired"]


def test_a_spool_that_nobody_set_and_a_redis_that_is_away_are_said(redis_url: str, tmp_path: Path) -> None:
    """Exit codes: 2 without a folder, 3 without Redis, 0 for an empty spool that needs none."""
    assert ended(cli("ls", url=redis_url, folder=None)) == 2
    assert ended(cli("recover", url=f"unix://{tmp_path / 'nobody'}", folder=tmp_path)) == 3
    assert document(cli("ls", url=f"unix://{tmp_path / 'nobody'}", folder=tmp_path), 0)["files"] == []


def cli(verb: str, *, url: str, folder: Path | None) -> subprocess.Popen[str]:
    """Begin `sidestream spool <verb> --json`."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    place = {"SIDESTREAM_REDIS_URL": url, "SIDESTREAM_NAMESPACE": "test"}
    if folder is not None:
        place["SIDESTREAM_SPOOL_DIR"] = str(folder)
    line = [sys.executable, "-m", "sidestream", "spool", verb, "--json"]
    return subprocess.Popen(line, env=bare | place, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def ended(command: subprocess.Popen[str]) -> int:
    """Return the exit code of a command."""
    command.communicate(timeout=TIMEOUT_S)
    return command.returncode


def document(command: subprocess.Popen[str], *codes: int) -> dict[str, Any]:
    """Return the document of a command that ends with one of these codes."""
    written, _ = command.communicate(timeout=TIMEOUT_S)
    assert command.returncode in codes
    found: dict[str, Any] = json.loads(written)
    assert found["schema"] == "sidestream.spool/1"
    return found
