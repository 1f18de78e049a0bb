"""How fast a file is fed, the first time and again, and what remembering it takes.

JSON lines with real random ids and no ids of their own, so that content and occurrence must tell them apart; one day,
one process, one file. "Read" is the first of two passes: every line is checked, and its content noted. Nobody counts
meanwhile: what a worker takes is `counting`'s question.
"""

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import msgspec

from benchmarks.harness import Run, main
from benchmarks.surroundings import RealServer, real_server
from benchmarks.traffic import EVENT_SHAPE, events
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.keys import Keys
from producers.backfill.feeding import Fed, Feeder
from producers.backfill.framing import Framer, day_name
from producers.backfill.holdings import Holdings
from producers.backfill.lookups import agree_routing
from producers.backfill.pace import Pace
from producers.backfill.running import Rules
from producers.backfill.running import Run as BackfillRun
from producers.backfill.sources import Source
from producers.backfill.survey import Surveyed, survey

KEYS: Final = Keys("bench")
_CHUNK: Final = 1_000
_DAY_US: Final = 86_400_000_000


@dataclass(frozen=True)
class _Pass:
    """What one run of the whole took."""

    found: Surveyed
    fed: Fed
    read_s: float
    feed_s: float
    partitions: int


def measure(run: Run) -> None:
    """Feed one file twice."""
    wanted = run.sized(500_000, 2_000)
    run.configuration = {
        "lines": wanted,
        "codec": "mz",
        "aof": "everysec",
        "identity": "content and occurrence",
        "event_shape": EVENT_SHAPE,
    }
    with tempfile.TemporaryDirectory(prefix="ss-bench-") as folder, real_server(aof=True) as server:
        run.server = server.about
        path = Path(folder) / "events.jsonl"
        day = _write(path, wanted)
        before_kib = _peak_kib()
        first = anyio.run(_pass, server.url, path)
        again = anyio.run(_pass, server.url, path)
        run.configuration["partitions"] = first.partitions
        run.configuration["bytes_a_line"] = round(path.stat().st_size / wanted)
        run.require(first.fed.new == wanted, f"of {wanted} lines {first.fed.new} were new")
        run.require(again.fed.known == wanted, f"of {wanted} lines {again.fed.known} were known again")
        _figures(run, wanted, first, again)
        _ledger(run, server, first, day)
        grown = (_peak_kib() - before_kib) / 1_024
        run.figure("memory that the process grew by, at most", grown, "MiB", wanted)


def _figures(run: Run, wanted: int, first: _Pass, again: _Pass) -> None:
    why = "Python: a line is read twice, encoded and hashed"
    run.figure("read", wanted / first.read_s, "events/s", wanted, limited_by=why)
    run.figure("fed for the first time", wanted / first.feed_s, "events/s", wanted, limited_by=why)
    whole_s = first.read_s + first.feed_s
    run.figure("the whole command, first time", wanted / whole_s, "events/s", wanted, limited_by=why)
    whole_s = again.read_s + again.feed_s
    run.figure("the whole command, all known", wanted / whole_s, "events/s", wanted, limited_by=why)


def _ledger(run: Run, server: RealServer, first: _Pass, day: str) -> None:
    used = anyio.run(_ledger_bytes, server.url, first.partitions, day)
    count = first.found.events
    run.figure("ledger, MEMORY USAGE", used / count, "bytes/event", count)
    run.figure(
        "ledger, as it is said beforehand", first.found.ledger_bytes(first.partitions) / count, "bytes/event", count
    )
    run.require(0 < used <= first.found.ledger_bytes(first.partitions), "the ledger takes more than is said beforehand")


def _write(path: Path, wanted: int) -> str:
    """Write lines of one day, and return which."""
    begins_us = (time.time_ns() // 1_000 // _DAY_US - 1) * _DAY_US
    with path.open("wb") as file:
        for start in range(0, wanted, _CHUNK):
            for number, event in enumerate(events(min(_CHUNK, wanted - start)), start):
                file.write(msgspec.json.encode(msgspec.structs.replace(event, time_us=begins_us + number)) + b"\n")
    return day_name(begins_us // _DAY_US)


async def _pass(url: str, path: Path) -> _Pass:
    server = AsyncServer(RedisSettings(url))
    try:
        begun_s, now_us = time.monotonic(), time.time_ns() // 1_000
        source = Source.of(path)
        found, repeated, _ = await survey(source, now_us, "", lambda _: None)
        read_s, partitions = time.monotonic() - begun_s, await agree_routing(server, KEYS)
        begun_s = time.monotonic()
        framer = Framer(partitions)
        feeder = Feeder(server, KEYS, framer, Pace(None))
        await BackfillRun(Rules("", now_us, Holdings()), framer, feeder).feed(source, repeated)
        return _Pass(found, feeder.fed, read_s, time.monotonic() - begun_s, partitions)
    finally:
        await server.aclose()


async def _ledger_bytes(url: str, partitions: int, day: str) -> int:
    server = AsyncServer(RedisSettings(url))
    try:
        commands = [["MEMORY", "USAGE", KEYS.partition(n).ledger(day), "SAMPLES", 0] for n in range(partitions)]
        return sum(int(reply or 0) for reply in await server.all(commands))
    finally:
        await server.aclose()


def _peak_kib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1_024 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    sys.exit(main("backfill", __doc__, measure))
