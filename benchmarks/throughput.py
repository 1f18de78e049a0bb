"""How many events a second one process gets to Redis, answered; beside it single entries, and the server's own limit.

- From `usage()` to Redis's answer: a loop that reports as fast as the buffer takes it (it rests while the buffer is
  half full, so that nothing is shed), until the last event is acknowledged.
- Frames alone: sealed before the clock starts, appended by the fenced script in pipelines.
- redis-py: a pipeline of one XADD an event, encoding included.
- redis-benchmark: one XADD an event, `-P 64`, where the program is installed.
"""

import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import sidestream
from benchmarks.harness import Run, main
from benchmarks.surroundings import RealServer, connected, real_server
from benchmarks.traffic import CALLS_A_SESSION, EVENT_SHAPE, events, new_session, report, sizes
from pipeline import limits
from pipeline.connection import Server
from pipeline.errors import SidestreamError
from pipeline.events import Resource
from pipeline.keys import Keys
from pipeline.scripting import script
from pipeline.stream import SealedFrame, append_command, parse_appended
from pipeline.wire import FrameEncoder

T = TypeVar("T")

PARTITIONS: Final = 4
LINGER_MS: Final = 200
BUFFER_EVENTS: Final = 50_000
FRAMES_A_WRITE: Final = 16
ENTRIES_A_WRITE: Final = 500
LOOK_EVERY: Final = 50
"""Sessions between two looks at the buffer: a thousand events, a fiftieth of its room."""

FLUSH_S: Final = 60.0


@dataclass(frozen=True)
class Work:
    """What one way took: events, wall-clock seconds, processor seconds of this process and of the server."""

    events: int
    wall_s: float
    own_cpu_s: float
    server_cpu_s: float

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.wall_s


def measure(run: Run) -> None:
    """Measure each way on the same server, emptied before."""
    with real_server(aof=True) as server:
        run.server = server.about
        run.configuration = {
            "partitions": PARTITIONS,
            "linger_ms": LINGER_MS,
            "codec": "mz",
            "aof": "everysec",
            "buffer_events": BUFFER_EVENTS,
            "events_a_frame": limits.MAX_FRAME_EVENTS,
            "frames_a_write": FRAMES_A_WRITE,
            "entries_a_write": ENTRIES_A_WRITE,
            "event_shape": EVENT_SHAPE,
        }
        _from_usage(run, server)
        _frames(run, server)
        _single_entries(run, server)
        _redis_benchmark(run, server)


def _from_usage(run: Run, server: RealServer) -> None:
    wanted = run.sized(1_000_000, 5_000)
    some = sizes(CALLS_A_SESSION)
    _empty(server)
    sidestream.configure(
        service="bench",
        redis_url=server.url,
        namespace="bench",
        partitions=PARTITIONS,
        linger_ms=LINGER_MS,
        buffer_events=BUFFER_EVENTS,
    )
    try:
        with sidestream.session_context(new_session(), "user-0"):
            report(some)  # the publisher's thread, its imports and its connection are there before the clock starts
        run.require(sidestream.flush(FLUSH_S), "Redis did not answer in time")
        work = _worked(server, wanted, lambda: run.require(_report_all(wanted), "the flush was not answered in time"))
        counts = sidestream.statistics()
    finally:
        sidestream.close()
    run.require(counts.shed + counts.invalid == 0, "events were shed: that is faster than storing them")
    run.require(counts.appended == wanted + CALLS_A_SESSION, f"of {wanted} events {counts.appended} were appended")
    run.configuration["events_a_frame, from usage()"] = round(counts.appended / _entries(server), 1)
    why = "one interpreter lock for the caller's loop, encoding and reading back, zstd and the socket"
    run.at_least(250_000, "from usage() to Redis's answer", work.rate, "events/s", work.events, limited_by=why)
    _shares(run, "from usage() to Redis's answer", work)


def _report_all(wanted: int) -> bool:
    some = sizes(CALLS_A_SESSION)
    for number in range(wanted // CALLS_A_SESSION):
        with sidestream.session_context(new_session(), "user-1", tenant="acme", state="drafting"):
            report(some)
        if number % LOOK_EVERY == 0:
            while sidestream.statistics().buffered > BUFFER_EVENTS // 2:
                time.sleep(0.001)
    return sidestream.flush(FLUSH_S)


def _frames(run: Run, server: RealServer) -> None:
    wanted = run.sized(2_000, 8)
    keys = Keys("bench")
    bodies = _bodies(run.sized(40, 4))
    frames = _sealed(bodies, wanted)
    _empty(server)
    accepted = 0
    with connected(server.url) as client:
        client.call("SCRIPT", "LOAD", script("append").text)

        def append() -> None:
            nonlocal accepted
            for some in _portions(frames, FRAMES_A_WRITE):
                accepted += _append(client, keys, some)

        work = _worked(server, wanted * limits.MAX_FRAME_EVENTS, append)
    run.require(accepted == wanted, f"of {wanted} frames {accepted} were accepted")
    run.require(_entries(server) == wanted, "the streams do not hold what was appended")
    why = "the server: one script call and 40 KB written to the AOF a frame; then packing the commands"
    run.at_least(500_000, "prebuilt frames to Redis alone", work.rate, "events/s", work.events, limited_by=why)
    _shares(run, "prebuilt frames to Redis alone", work)
    stored = sum(map(len, bodies)) / len(bodies) / limits.MAX_FRAME_EVENTS
    run.figure("bytes of an event in a full frame's body", stored, "bytes", len(bodies) * limits.MAX_FRAME_EVENTS)


def _bodies(count: int) -> list[bytes]:
    encoder = FrameEncoder(Resource(service="bench", version="1", environment="test"))
    found = events(count * limits.MAX_FRAME_EVENTS)
    return [encoder.encode(list(part)) for part in _portions(found, limits.MAX_FRAME_EVENTS)]


def _sealed(bodies: Sequence[bytes], count: int) -> list[SealedFrame]:
    producer, size = new_session(), limits.MAX_FRAME_EVENTS
    return [
        SealedFrame(n % PARTITIONS, producer, n // PARTITIONS * size, size, "mz", bodies[n % len(bodies)])
        for n in range(count)
    ]


def _append(client: Server, keys: Keys, frames: Sequence[SealedFrame]) -> int:
    replies = client.batch([append_command(keys.partition(frame.partition), frame) for frame in frames])
    return sum(not isinstance(reply, SidestreamError) and parse_appended(reply).answer == "OK" for reply in replies)


def _single_entries(run: Run, server: RealServer) -> None:
    wanted = run.sized(300_000, 2_000)
    some = events(run.sized(20_000, 500))
    encode = msgspec.msgpack.Encoder().encode
    _empty(server)
    client: Any = redis.Redis(unix_socket_path=str(server.path), retry=Retry(NoBackoff(), 0))

    def add() -> None:
        for start in range(0, wanted, ENTRIES_A_WRITE):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, start + ENTRIES_A_WRITE):
                pipeline.xadd("bench", {"e": encode(some[number % len(some)])})
            pipeline.execute()

    try:
        work = _worked(server, wanted, add)
        run.require(client.xlen("bench") == wanted, "redis-py did not add every entry")
    finally:
        client.close()
    run.figure("redis-py pipeline, one XADD an event", work.rate, "events/s", wanted)
    _shares(run, "redis-py pipeline, one XADD an event", work)


def _redis_benchmark(run: Run, server: RealServer) -> None:
    name = "redis-benchmark -P 64, one XADD an event"
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        run.skip(name, "the program is not installed")
        return
    wanted = run.sized(1_000_000, 5_000)
    bare = msgspec.msgpack.encode(events(1)[0]).hex()[:280]
    command = [program, "-s", str(server.path), "-P", "64", "-n", str(wanted), "--csv", "XADD", "bench", "*", "e", bare]
    _empty(server)
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    rows = list(csv.DictReader(answer.stdout.splitlines()))
    with connected(server.url) as client:
        # It sends whole pipelines: up to 63 more than asked.
        run.require(int(client.call("XLEN", "bench")) >= wanted, "redis-benchmark did not add every entry")
    run.figure(name, float(rows[0]["rps"]), "events/s", wanted)


def _worked(server: RealServer, count: int, work: Callable[[], None]) -> Work:
    server_s, own_s, wall_s = server.cpu_s(), time.process_time(), time.perf_counter()
    work()
    took_s, own_took_s = time.perf_counter() - wall_s, time.process_time() - own_s
    return Work(count, took_s, own_took_s, server.cpu_s() - server_s)


def _shares(run: Run, name: str, work: Work) -> None:
    run.figure(f"{name}: this process's share of a core", work.own_cpu_s / work.wall_s, "cores", work.events)
    run.figure(f"{name}: the server's share of a core", work.server_cpu_s / work.wall_s, "cores", work.events)


def _empty(server: RealServer) -> None:
    with connected(server.url) as client:
        client.call("FLUSHALL")


def _entries(server: RealServer) -> int:
    keys = Keys("bench")
    with connected(server.url) as client:
        return sum(int(client.call("XLEN", keys.partition(number).stream())) for number in range(PARTITIONS))


def _portions(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


if __name__ == "__main__":
    sys.exit(main("throughput", __doc__, measure))
