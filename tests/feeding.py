"""Feeding files in a test: as the command does, without its words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.views.captured import captured_hours
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.units import US_PER_S
from producers.backfill.feeding import Fed, Feeder
from producers.backfill.framing import Framer
from producers.backfill.holdings import Holdings
from producers.backfill.lookups import agree_routing, read_holdings
from producers.backfill.pace import Pace
from producers.backfill.running import FileDone, Rules, Run
from producers.backfill.sources import Source
from producers.backfill.survey import Surveyed, survey


@dataclass
class Feeding:
    """What came of a run."""

    fed: Fed
    files: list[FileDone] = field(default_factory=list[FileDone])
    found: Surveyed = field(default_factory=Surveyed)

    @property
    def told(self) -> tuple[int, int, int, int]:
        """New, known, held, bad."""
        return self.fed.new, self.fed.known, sum(f.held for f in self.files), sum(f.bad for f in self.files)


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """Write JSON lines."""
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


async def feed(  # noqa: PLR0913 - as many as the command has options
    server: AsyncServer,
    keys: Keys,
    *paths: Path,
    name: str = "",
    only_missing: bool = False,
    most_held: int = 20_000,
    server_of_frames: Any = None,  # noqa: ANN401 - a server that misbehaves
) -> Feeding:
    """Survey files, then feed them."""
    now_us = int((await server.call("TIME"))[0]) * US_PER_S
    sources, repeats, total = [Source.of(path) for path in paths], list[set[int]](), Surveyed()
    for source in sources:
        found, repeated, _ = await survey(source, now_us, name, lambda _: None)
        total.add(found)
        repeats.append(repeated)
    partitions = await agree_routing(server, keys)
    captured = await captured_hours(StateReader(server, keys, partitions), total.hours, now_us // US_PER_S)
    assert only_missing or not captured, "captured live"
    framer = Framer(partitions, most_held)
    feeder = Feeder(server_of_frames or server, keys, framer, Pace(None))
    holdings = await read_holdings(server, keys, total.owners) if total.owners else Holdings()
    run = Run(Rules(name, now_us, holdings, captured), framer, feeder)
    return Feeding(feeder.fed, [await run.feed(s, r) for s, r in zip(sources, repeats, strict=True)], total)


async def fold(server: AsyncServer, keys: Keys) -> None:
    """Count everything."""
    await Worker(server, keys, [FoldEffect(MetricsHandler())]).run_until_idle()
