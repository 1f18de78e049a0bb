"""What an event costs in Redis's memory at 1, 5, 50 and 500 events a frame: the stream alone, then with state.

Real random ids, since compressible ones flatter. Each size has a server of its own. `used_memory` is what the server
says of all it holds, before and after; MEMORY USAGE is what it says of the streams' keys alone. The state is that of
metrics and cost folded by a worker: it grows with sessions, users, cells and windows, not with events, so its share an
event belongs to the traffic described in the configuration.
"""

import sys
from typing import Final

import anyio

from benchmarks.harness import Run, main
from benchmarks.surroundings import RealServer, connected, real_server
from benchmarks.traffic import EVENT_SHAPE, events, new_session
from consumers.runtime.run import Worker
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.errors import SidestreamError
from pipeline.events import Event, Resource
from pipeline.keys import Keys
from pipeline.presence import agree_partitions
from pipeline.scripting import script
from pipeline.stream import SealedFrame, append_command, parse_appended
from pipeline.wire import FrameEncoder
from sidestream.compose import fold_effects

PARTITIONS: Final = 4
EVENTS_A_FRAME: Final = (1, 5, 50, 500)
COMMANDS_A_WRITE: Final = 64
KEYS: Final = Keys("bench")

_TARGETS: Final = {5: 250.0, 50: 120.0, 500: 120.0}
_WHY: Final = (
    "random ids do not compress; the state of sessions and users; below 50 events a frame, the entry's own fields"
)


def measure(run: Run) -> None:
    """Fill one server for each number of events a frame."""
    wanted = run.sized(100_000, 1_000)
    run.configuration = {
        "partitions": PARTITIONS,
        "codec": "mz",
        "aof": "off",
        "events": wanted,
        "handlers": "metrics, cost",
        "event_shape": EVENT_SHAPE,
    }
    some = events(wanted)
    for size in EVENTS_A_FRAME:
        with real_server(aof=False) as server:
            run.server = server.about
            _filled(run, server, some, size)


def _filled(run: Run, server: RealServer, some: list[Event], size: int) -> None:
    with connected(server.url) as client:
        client.call("SCRIPT", "LOAD", script("append").text)
        agree_partitions(client, KEYS, PARTITIONS)
        empty = _used(server)
        accepted = _append_all(client, some, size)
        run.require(accepted == len(some), f"of {len(some)} events {accepted} were accepted")
        appended = _used(server)
        streams = sum(
            int(client.call("MEMORY", "USAGE", KEYS.partition(number).stream(), "SAMPLES", 0) or 0)
            for number in range(PARTITIONS)
        )
    folded = anyio.run(_fold, server.url)
    run.require(folded == 2 * len(some), f"the worker moved {folded} events, not {2 * len(some)}")
    full = _used(server)
    count, frame = len(some), f"{size} events a frame" if size > 1 else "1 event a frame"
    run.figure(f"{frame}: streams, MEMORY USAGE", streams / count, "bytes/event", count)
    run.figure(f"{frame}: appended, used_memory", (appended - empty) / count, "bytes/event", count)
    name, each = f"{frame}: with metrics and cost folded, used_memory", (full - empty) / count
    if size in _TARGETS:
        run.at_most(_TARGETS[size], name, each, "bytes/event", count, limited_by=_WHY)
    else:
        run.figure(name, each, "bytes/event", count, limited_by=_WHY)


def _append_all(client: Server, some: list[Event], size: int) -> int:
    encoder = FrameEncoder(Resource(service="bench", version="1", environment="test"))
    producer, next_seq, accepted = new_session(), [0] * PARTITIONS, 0
    waiting: list[SealedFrame] = []
    for number, start in enumerate(range(0, len(some), size)):
        partition, part = number % PARTITIONS, some[start : start + size]
        waiting.append(SealedFrame(partition, producer, next_seq[partition], len(part), "mz", encoder.encode(part)))
        next_seq[partition] += len(part)
        if len(waiting) == COMMANDS_A_WRITE:
            accepted += _append(client, waiting)
            waiting.clear()
    return accepted + _append(client, waiting)


def _append(client: Server, frames: list[SealedFrame]) -> int:
    replies = client.batch([append_command(KEYS.partition(frame.partition), frame) for frame in frames])
    return sum(
        frame.count
        for frame, reply in zip(frames, replies, strict=True)
        if not isinstance(reply, SidestreamError) and parse_appended(reply).answer == "OK"
    )


async def _fold(url: str) -> int:
    server = AsyncServer(RedisSettings(url))
    try:
        return await Worker(server, KEYS, fold_effects(("metrics", "cost"))).run_until_idle()
    finally:
        await server.aclose()


def _used(server: RealServer) -> int:
    return int(server.info("memory")["used_memory"])


if __name__ == "__main__":
    sys.exit(main("memory", __doc__, measure))
