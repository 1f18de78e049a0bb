"""Let a replay of some days take the place of its base: the base hands the other days over, and ends.

Keeps:
- In each partition it is one script, at an instant in which both stand at the same place: no event is counted in
  neither, and none in both.
- While partitions differ, the document says so, and readers look in both: they find every window in exactly one.
- Who is killed leaves a document that says so; whoever asks for it again goes on.
"""

from collections.abc import Collection, Iterator
from typing import Final

import anyio

from consumers.runtime.committing import new_token
from consumers.runtime.effects import Effect
from consumers.versions import Days, VersionsError
from consumers.windows import (
    DAY,
    DAY_S,
    HOUR_S,
    MARGINAL_RESOLUTIONS,
    RESOLUTIONS,
    Resolution,
    day_name,
)
from pipeline.connection import Arg, AsyncServer
from pipeline.errors import RefusedError, TransientError
from pipeline.keys import PartitionKeys, UnitKeys
from pipeline.scripting import script

GRAVESTONE_MS: Final = 30 * 24 * 3_600_000
PATIENCE_S: Final = 30.0
"""How long two units are waited for to stand at the same place."""

_LOOK_S: Final = 0.005


async def inherit(
    server: AsyncServer, partition: PartitionKeys, effect: Effect, versions: tuple[int, int], days: Days
) -> int:
    """Hand over, in one partition, what a base (the first of `versions`) has of other days than its heir's.

    Returns:
        How many keys were handed over.

    Raises:
        VersionsError: One has dead letters.
        TransientError: They never stood at the same place.
        SidestreamError: See `AsyncServer.call`; called again, it goes on.
    """
    base, heir = (partition.unit(effect.name, version) for version in versions)
    answer: list[bytes] = []
    with anyio.move_on_after(PATIENCE_S):
        while True:
            answer = await _try(server, partition, (base, heir), effect.ranked_by, days)
            if answer[0] != b"APART":
                break
            await anyio.sleep(_LOOK_S)
    where = f"{effect.name}, partition {partition.number}"
    match answer:
        case [b"OK", moved]:
            return int(moved)
        case [b"DONE"]:
            return 0
        case [b"LETTERS", of_base, of_heir]:
            raise VersionsError(
                f"{where}: version {versions[0]} has {int(of_base):,} dead letters and version {versions[1]} "
                f"{int(of_heir):,}: retry or purge them first (`sidestream dlq`), the same in both"
            )
        case [b"APART"] | []:
            raise TransientError(
                f"{where}: in {PATIENCE_S:.0f} s both never stood at the same place: do workers carry them? Asked "
                "for again, it goes on",
                code="apart",
            )
        case _:
            raise RefusedError(f"{where}: the script refused its arguments: {answer}")


async def _try(
    server: AsyncServer,
    partition: PartitionKeys,
    units: tuple[UnitKeys, UnitKeys],
    dimensions: Collection[str],
    days: Days,
) -> list[bytes]:
    base, heir = units
    asked = [["HMGET", unit.cursor(), "id", "index", "token"] for unit in units]
    (of_base, of_heir), (seconds, _) = await server.all([*asked]), await server.call("TIME")
    if of_base[:2] != of_heir[:2] and of_base[2] != b"dropped":
        return [b"APART"]
    keys = [partition.handlers(), partition.stream()]
    for both in ((unit.cursor(), unit.dead_letters(), unit.recipes()) for unit in units):
        keys += both
    # By kind, the base's first.
    keys = [*keys[:2], keys[2], keys[5], keys[3], keys[6], keys[4], keys[7]]
    for mine in _names(base, dimensions, days, int(seconds)):
        keys += [mine, f"{heir.prefix}{mine.removeprefix(base.prefix)}"]
    tokens = [(flat[2] or b"") for flat in (of_base, of_heir)]
    args: list[Arg] = [*tokens, base.name, heir.name, new_token(), GRAVESTONE_MS]
    return list(await server.run(script("inherit"), keys, args))


def _names(unit: UnitKeys, dimensions: Collection[str], days: Days, now_s: int) -> Iterator[str]:
    """Iterate over every key of a unit that may hold something of other days than these."""
    for resolution in RESOLUTIONS:
        for start_s in _starts(resolution, days, now_s):
            yield unit.window(resolution.name, start_s)
            yield unit.slowest(resolution.name, start_s)
    for start_s in _starts(DAY, days, now_s):
        yield unit.cells(day_name(start_s))
    for resolution in MARGINAL_RESOLUTIONS:
        for start_s in _starts(resolution, days, now_s):
            for dimension in dimensions:
                yield unit.marginal(dimension, resolution.name, start_s)
                yield unit.ranking(dimension, resolution.name, start_s)


def _starts(resolution: Resolution, days: Days, now_s: int) -> Iterator[int]:
    """Iterate over the windows of a width that may be there: not forgotten yet, and begun within an hour."""
    first_s = resolution.start_of(now_s - resolution.kept_s - resolution.width_s)
    for start_s in range(max(0, first_s), now_s + HOUR_S + DAY_S, resolution.width_s):
        if not days.cover(start_s):
            yield start_s
