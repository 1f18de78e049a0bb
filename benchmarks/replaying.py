"""What an archive costs, and how fast history is computed anew from it, beside the live fold in the same minute.

A stream is filled, counted (the live fold), archived and trimmed, one after the other; then the same handler
computes a second version from the archive alone, and, of a stream that was kept, a third from the stream. All in one
process, without leases: events/s are of one core. What a year takes is reckoned from these figures.
"""

import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import anyio

from benchmarks.counting import KEYS, LOADS, PARTITIONS, SPREAD_S, fill, make_events
from benchmarks.harness import Run, main, say
from benchmarks.surroundings import real_server
from consumers.archive.archive import SegmentArchive
from consumers.archive.store import ArchiveStore
from consumers.register import read_versions
from consumers.replay.beginning import Asked
from consumers.replay.diff import diff
from consumers.replay.dropping import drop, plan_drop
from consumers.replay.running import replay_until_idle
from consumers.runtime.effects import ArchiveEffect
from consumers.runtime.run import Worker
from consumers.runtime.trimming import Retention, trim
from consumers.versions import ALL_DAYS
from pipeline import limits
from pipeline.connection import AsyncServer, RedisSettings
from sidestream.compose import fold_effects

T = TypeVar("T")

TARGET: Final = 150_000
A_YEAR: Final = 100 * 365 * 24 * 3_600
"""Events of a year at 100 a second."""

_WHY: Final = "as the live fold: decoding 1, folding 2 to 3 us an event in CPython, and 8 us for each value that is set"


def measure(run: Run) -> None:
    """Count, archive, trim and replay each load."""
    wanted = run.sized(400_000, 2_000)
    run.configuration = {
        "partitions": PARTITIONS,
        "events": wanted,
        "events_a_frame": limits.MAX_FRAME_EVENTS,
        "aof": "everysec",
        "event times": f"spread over {SPREAD_S} s",
        "handlers": "metrics",
        "archive": "a folder, fsynced; segments of 8 MiB before compression",
    }
    for load in LOADS:
        say(f"  {load.name}")
        with real_server(aof=True) as server, tempfile.TemporaryDirectory() as folder:
            run.server = server.about
            fill(run, server, make_events(load, wanted))
            anyio.run(_measure, run, server.url, Path(folder), load.name, wanted)


async def _measure(run: Run, url: str, folder: Path, name: str, wanted: int) -> None:
    server = AsyncServer(RedisSettings(url))
    archive = SegmentArchive(ArchiveStore(folder.as_uri(), KEYS.namespace))
    folds = fold_effects(("metrics",))
    try:
        live_s, counted = await _timed(Worker(server, KEYS, folds).run_until_idle)
        run.require(counted == wanted, f"{name}: of {wanted} events {counted} were counted")
        run.figure(f"{name}: live fold", wanted / live_s, "events/s", wanted)
        archive_s, _ = await _timed(Worker(server, KEYS, [ArchiveEffect(archive)]).run_until_idle)
        stored = sum([one.size for number in range(PARTITIONS) for one in (await archive.store.segments(number))[0]])
        run.figure(f"{name}: archived", wanted / archive_s, "events/s", wanted)
        run.figure(f"{name}: archived, compressed", stored / archive_s / 1e6, "MB/s", wanted)
        run.figure(f"{name}: archive, an event", stored / wanted, "bytes", wanted)
        stream_s = await _replayed(run, server, Asked(folds, ALL_DAYS), f"{name}: from the stream", wanted)
        gone = sum([await _trim_all(server, number) for number in range(PARTITIONS)])
        run.require(gone * limits.MAX_FRAME_EVENTS >= wanted, f"{name}: {gone} entries were trimmed")
        archived_s = await _replayed(run, server, Asked(folds, ALL_DAYS, archive), f"{name}: from the archive", wanted)
        why = _WHY if wanted / archived_s < TARGET else ""
        run.at_least(
            TARGET, f"{name}: replay from the archive", wanted / archived_s, "events/s", wanted, limited_by=why
        )
        run.figure(f"{name}: replay from the stream", wanted / stream_s, "events/s", wanted)
        run.figure(f"{name}: a year at 100 events/s, archive", stored / wanted * A_YEAR / 2**30, "GiB", wanted)
        run.figure(
            f"{name}: a year at 100 events/s, replay of it", archived_s / wanted * A_YEAR / 3_600, "hours", wanted
        )
    finally:
        await server.aclose()


async def _replayed(run: Run, server: AsyncServer, asked: Asked, name: str, wanted: int) -> float:
    """Compute a version, compare it with the live one, drop it; return the seconds that computing took."""
    took_s, (replay, events) = await _timed(lambda: replay_until_idle(server, KEYS, PARTITIONS, asked))
    run.require(events == wanted, f"{name}: of {wanted} events {events} were replayed")
    result = await diff(server, KEYS, PARTITIONS, await read_versions(server, KEYS), replay)
    run.require(not result.differences and not result.apart, f"{name}: {len(result.differences)} fields differ")
    await drop(server, KEYS, PARTITIONS, await plan_drop(server, KEYS, PARTITIONS, replay.number))
    return took_s


async def _trim_all(server: AsyncServer, number: int) -> int:
    gone = 0
    while (found := await trim(server, KEYS.partition(number), Retention(0, 0, 0))).entries:
        gone += found.entries
    return gone


async def _timed(ask: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    started_s = time.perf_counter()
    answer = await ask()
    return time.perf_counter() - started_s, answer


if __name__ == "__main__":
    sys.exit(main("replaying", __doc__, measure))
