"""How many events a second one worker counts exactly once; beside it the same frames only read, and what peers do.

The stream is filled before the clock starts, in frames of 500 events. A worker then folds and commits until nothing is
left, without leases; the report is held against what was appended. Two loads: 100 cells, and 1,000 cells with 10,000
sessions. Beside it: the same frames read and decoded, without fold and commit; redis-py reading and acknowledging
single entries, with no work; FastStream with an empty handler, where it is installed.
"""

import importlib
import random
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.harness import Run, main, say
from benchmarks.peers import FIELDS, installed
from benchmarks.surroundings import RealServer, connected, real_server
from benchmarks.traffic import SEED, new_session, sizes
from consumers.reader import StateReader
from consumers.runtime.run import Worker
from consumers.views.accounting import read_unit_accounts
from consumers.windows import DAY
from pipeline import limits
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.errors import SidestreamError
from pipeline.events import Event, Resource, UsageEvent
from pipeline.keys import Keys
from pipeline.presence import agree_partitions
from pipeline.scripting import script
from pipeline.stream import SealedFrame, append_command, parse_appended, parse_entries
from pipeline.wire import FrameDecoder, FrameEncoder
from sidestream.compose import fold_effects

PARTITIONS: Final = 4
KEYS: Final = Keys("bench")
FRAMES_A_WRITE: Final = 16
REQUESTS_A_RUN: Final = 5
SPREAD_S: Final = 60
"""The events' times lie within the last minute, as a worker's do that keeps up or nearly so."""

MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "o4-mini")
"""Models that the catalogue prices."""

_WHY: Final = "CPython: decoding 1, folding 2 to 3, and 8 us for each value of a cell or name that a commit sets"


@dataclass(frozen=True)
class Load:
    """What the events are about."""

    name: str
    cells: int
    sessions: int
    target: float


LOADS: Final = (
    Load("100 cells, 1,000 sessions", 100, 1_000, 200_000),
    Load("1,000 cells, 10,000 sessions", 1_000, 10_000, 80_000),
)


def measure(run: Run) -> None:
    """Count each load, then let the peers read."""
    wanted = run.sized(400_000, 2_000)
    run.configuration = {
        "partitions": PARTITIONS,
        "events": wanted,
        "events_a_frame": limits.MAX_FRAME_EVENTS,
        "codec": "mz",
        "aof": "everysec",
        "event times": f"spread over the last {SPREAD_S} s",
        "worker": "one process, run_until_idle: no leases",
        "event_shape": f"usage of 20 fields; {REQUESTS_A_RUN} a run, of one agent; random ids; latencies log-normal",
    }
    for load in LOADS:
        _load(run, load, wanted)
    _peers(run)


def _load(run: Run, load: Load, wanted: int) -> None:
    some = make_events(load, wanted)
    for handlers in (("metrics",), ("metrics", "cost")):
        with real_server(aof=True) as server:
            run.server = server.about
            fill(run, server, some)
            name = f"{' and '.join(handlers)}, {load.name}"
            say(f"  {name}")
            server_s, own_s, wall_s = server.cpu_s(), time.process_time(), time.perf_counter()
            commits = anyio.run(_count, server.url, handlers)
            wall_s, own_s, server_s = (
                time.perf_counter() - wall_s,
                time.process_time() - own_s,
                server.cpu_s() - server_s,
            )
            rate = wanted / wall_s
            if handlers == ("metrics",):
                run.at_least(load.target, f"{name}: counted", rate, "events/s", wanted, limited_by=_WHY)
            else:
                run.figure(f"{name}: counted by both", rate, "events/s", wanted)
            run.figure(f"{name}: worker's processor an event", own_s / wanted * 1e6, "us", wanted)
            run.figure(f"{name}: server's processor an event", server_s / wanted * 1e6, "us", wanted)
            run.figure(f"{name}: commits", commits, "commits", wanted)
            found = anyio.run(_found, server.url)
            run.require(found == wanted, f"{name}: of {wanted} events {found} are in the state")
            if handlers == ("metrics",):
                _read_only(run, server, load, wanted)


@asynccontextmanager
async def _asking(url: str) -> AsyncGenerator[AsyncServer]:
    server = AsyncServer(RedisSettings(url))
    try:
        yield server
    finally:
        await server.aclose()


async def _count(url: str, handlers: Sequence[str]) -> int:
    async with _asking(url) as server:
        worker = Worker(server, KEYS, fold_effects(handlers))
        await worker.run_until_idle()
        return sum(unit.statistics.commits for unit in worker.units)


async def _found(url: str) -> int:
    async with _asking(url) as server:
        accounts = await read_unit_accounts(server, KEYS, PARTITIONS)
        if any(account.outstanding or account.dead for account in accounts):
            return -1
        reader = StateReader(server, KEYS, PARTITIONS)
        days = sorted({DAY.start_of(int(time.time()) - back) for back in (0, SPREAD_S + 600)})
        cells = await reader.cells("metrics", [(DAY, day) for day in days])
        return sum(measures.get("rq", 0) for measures in cells.values())


def _read_only(run: Run, server: RealServer, load: Load, wanted: int) -> None:
    decoder, events = FrameDecoder(), 0
    started_s = time.perf_counter()
    with connected(server.url) as client:
        for number in range(PARTITIONS):
            after = "-"
            while entries := parse_entries(
                client.call("XRANGE", KEYS.partition(number).stream(), after, "+", "COUNT", 64)
            ):
                for entry in entries:
                    events += decoder.decode(entry.parse()).count
                after = f"({entries[-1].entry_id}"
    rate = events / (time.perf_counter() - started_s)
    run.require(events == wanted, f"of {wanted} events {events} were read")
    run.figure(f"the same frames read and decoded, {load.name}", rate, "events/s", wanted)


def make_events(load: Load, count: int) -> list[Event]:
    """Return events of a load, dated over the last minute."""
    dice = random.Random(SEED)  # noqa: S311 - repeatable on purpose
    sessions = [new_session() for _ in range(load.sessions)]
    agents, states = 10, max(1, load.cells // 50)
    now_us = time.time_ns() // 1000
    found: list[Event] = []
    cell = 0
    for number, size in enumerate(sizes(count)):
        if number % REQUESTS_A_RUN == 0:
            cell = dice.randrange(load.cells)
        session = sessions[number // 20 % load.sessions]
        found.append(
            UsageEvent(
                now_us - int(SPREAD_S * 1e6 * (1 - number / count)),
                f"agent-{cell % agents}",
                MODELS[cell // agents % len(MODELS)],
                size.input_tokens,
                size.output_tokens,
                size.duration_us,
                session,
                f"user-{session[:3]}",
                "acme",
                f"state-{cell // 50 % states}",
                run_id=f"{session[:20]}{number // REQUESTS_A_RUN:04x}",
                parent_id=f"{number:024x}",
                trace_id=session,
                provider="openai",
                response_model=MODELS[cell // agents % len(MODELS)],
                finish_reason="stop",
                ttft_us=size.ttft_us,
                cache_read_tokens=size.cached_tokens,
                reasoning_tokens=size.reasoning_tokens,
            )
        )
    return found


def fill(run: Run, server: RealServer, some: Sequence[Event]) -> None:
    """Append events in full frames, round about the partitions, under a producer of their own."""
    encoder = FrameEncoder(Resource(service="bench", version="1", environment="test"))
    producer, size = new_session(), limits.MAX_FRAME_EVENTS
    frames = [
        SealedFrame(
            n % PARTITIONS, producer, n // PARTITIONS * size, size, "mz", encoder.encode(list(some[at : at + size]))
        )
        for n, at in enumerate(range(0, len(some), size))
    ]
    accepted = 0
    with connected(server.url) as client:
        client.call("SCRIPT", "LOAD", script("append").text)
        agree_partitions(client, KEYS, PARTITIONS)
        for at in range(0, len(frames), FRAMES_A_WRITE):
            commands = [append_command(KEYS.partition(f.partition), f) for f in frames[at : at + FRAMES_A_WRITE]]
            replies = client.batch(commands)
            accepted += sum(not isinstance(r, SidestreamError) and parse_appended(r).answer == "OK" for r in replies)
    run.require(accepted == len(frames), f"of {len(frames)} frames {accepted} were accepted")


def _peers(run: Run) -> None:
    wanted = run.sized(100_000, 1_000)
    with real_server(aof=True) as server:
        client: Any = redis.Redis(unix_socket_path=str(server.path), retry=Retry(NoBackoff(), 0))
        try:
            _add_single_entries(client, wanted)
            client.xgroup_create("bench", "group", id="0")
            started_s, read = time.perf_counter(), 0
            while rows := client.xreadgroup("group", "c", {"bench": ">"}, count=500):
                ids = [entry_id for entry_id, _ in rows[0][1]]
                client.xack("bench", "group", *ids)
                read += len(ids)
            run.require(read == wanted, f"of {wanted} entries {read} were read")
            rate = read / (time.perf_counter() - started_s)
            run.figure("redis-py, single entries read and acknowledged, no work", rate, "events/s", read)
        finally:
            client.close()
    name = "FastStream, empty handler"
    if installed("faststream"):
        _faststream(run, name, run.sized(20_000, 200))
    else:
        run.skip(name, "it is not installed")


def _add_single_entries(client: Any, wanted: int) -> None:  # noqa: ANN401 - redis-py's own types are loose
    for at in range(0, wanted, 500):
        pipeline = client.pipeline(transaction=False)
        for _ in range(min(500, wanted - at)):
            pipeline.xadd("bench", FIELDS)
        pipeline.execute()


def _faststream(run: Run, name: str, wanted: int) -> None:
    with real_server(aof=True) as server:
        with connected(server.url) as client:
            # The broker would begin its group at the end of the stream.
            client.call("XGROUP", "CREATE", "bench", "group", "0", "MKSTREAM")
        try:
            rate = anyio.run(partial(_faststream_rate, server, wanted))
        except TimeoutError:
            run.skip(name, "it did not read what was there within two minutes")
        else:
            run.figure(name, rate, "events/s", wanted)


async def _faststream_rate(server: RealServer, wanted: int) -> float:
    faststream: Any = importlib.import_module("faststream.redis")
    broker = faststream.RedisBroker(server.url, logger=None)
    done, seen = anyio.Event(), 0

    async def handler(_message: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen >= wanted:
            done.set()

    subscribed = broker.subscriber(stream=faststream.StreamSub("bench", group="group", consumer="c", max_records=500))
    subscribed(handler)
    await broker.connect()
    for _ in range(wanted):
        await broker.publish(FIELDS, stream="bench")
    started_s = time.perf_counter()
    await broker.start()
    with anyio.fail_after(120):
        await done.wait()
    rate = wanted / (time.perf_counter() - started_s)
    await broker.stop()
    return rate


if __name__ == "__main__":
    sys.exit(main("counting", __doc__, measure))
