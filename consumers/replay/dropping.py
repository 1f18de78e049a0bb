"""Let go of versions that answer for nothing.

Keeps:
- The document goes first: from then on nobody reads or carries it. Who is killed behind that leaves what no document
  knows; dropped again, it goes.
- A gravestone stays where its cursor was, so that a worker with yesterday's document cannot begin it anew.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from consumers.register import change_versions, read_versions
from consumers.removal import Survey, survey_unit
from consumers.replay.inheriting import GRAVESTONE_MS, inherit
from consumers.replay.keyspace import read_declared, scan
from consumers.runtime.effects import Effect
from consumers.versions import ALL_DAYS, Days, Versions, VersionsError
from pipeline.connection import AsyncServer
from pipeline.keys import Keys, PartitionKeys
from pipeline.scripting import script

_DELETED_AT_ONCE: Final = 500


class Dropping(Struct, frozen=True):
    """What a drop takes away: (version, handler), and which replay becomes the base of its handlers (0: none does).

    Where that has some `days` only, what goes hands the others over to it.
    """

    number: int
    units: Sequence[tuple[int, str]]
    heir: int = 0
    days: Days | None = None


async def plan_drop(server: AsyncServer, keys: Keys, partitions: int, number: int) -> Dropping:
    """Return what dropping a version would take away.

    Raises:
        VersionsError: Some day is answered from it and nothing takes its place, or there is nothing of it.
        SidestreamError: See `AsyncServer.call`.
    """
    versions = await read_versions(server, keys)
    if any(one.number == number for one in versions.replays):
        versions.dropped(number)
        return Dropping(number, [(number, handler) for handler in versions.replay(number).handlers])
    swapped = [one for one in versions.replays if one.progress == "swapped"]
    heir = next((one for one in swapped if all(versions.base(name) == number for name in one.handlers)), None)
    if heir is not None:
        versions.taken_over(heir.number)
        units = [(number, handler) for handler in heir.handlers]
        return Dropping(number, units, heir.number, None if heir.days == ALL_DAYS else heir.days)
    there = [unit for unit in await read_declared(server, keys, partitions) if unit[0] == number]
    left = [unit for unit in there if number not in versions.all(unit[1])]
    if left:
        return Dropping(number, left)
    if there:
        raise VersionsError(f"version {number} answers: nothing was swapped in instead of it")
    raise VersionsError(f"there is no version {number}")


async def survey_drop(server: AsyncServer, keys: Keys, partitions: int, dropping: Dropping) -> Survey:
    """Look at everything that a drop takes away.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    total = Survey()
    for version, handler in dropping.units:
        found = await survey_unit(server, keys, partitions, f"v{version}:{handler}")
        for name, kind in found.kinds.items():
            mine = total.kinds.setdefault(name, type(kind)())
            mine.keys += kind.keys
            mine.bytes += kind.bytes
    return total


async def drop(
    server: AsyncServer, keys: Keys, partitions: int, dropping: Dropping, effects: Sequence[Effect] = ()
) -> int:
    """Take away what was planned; return how many keys went. Called again after a crash, it goes on.

    Args:
        server: Where the namespace is.
        keys: The namespace's.
        partitions: How many it has.
        dropping: What was planned.
        effects: The folds: they say what marginals their state has, where days are handed over.

    Raises:
        VersionsError: Somebody has changed the versions since it was planned, or dead letters are in the way.
        SidestreamError: See `AsyncServer.call`.
    """
    if dropping.heir and dropping.days is not None:
        await _hand_over(server, keys, partitions, dropping, dropping.days, effects)

    def change(versions: Versions) -> Versions:
        if dropping.heir:
            return versions.taken_over(dropping.heir)
        known = any(one.number == dropping.number for one in versions.replays)
        return versions.dropped(dropping.number) if known else versions

    await change_versions(server, keys, change)
    gone = 0
    for partition in map(keys.partition, range(partitions)):
        for version, handler in dropping.units:
            gone += await _bury(server, partition, handler, version)
    return gone


async def _hand_over(  # noqa: PLR0913, PLR0917 - what goes to whom, where
    server: AsyncServer, keys: Keys, partitions: int, dropping: Dropping, days: Days, effects: Sequence[Effect]
) -> None:
    folds = {effect.name: effect for effect in effects}
    if missing := sorted({handler for _, handler in dropping.units} - folds.keys()):
        raise VersionsError(f"this installation has no handler {', '.join(missing)}: it cannot say what to hand over")
    await change_versions(server, keys, lambda versions: versions.inheriting(dropping.heir))
    for partition in map(keys.partition, range(partitions)):
        for version, handler in dropping.units:
            await inherit(server, partition, folds[handler], (version, dropping.heir), days)


async def _bury(server: AsyncServer, partition: PartitionKeys, handler: str, version: int) -> int:
    unit = partition.unit(handler, version)
    wanted = [partition.stream(), partition.handlers(), unit.cursor()]
    gone = int(await server.run(script("bury"), wanted, [unit.name, GRAVESTONE_MS]))
    found = [key for key in await scan(server, f"{unit.prefix}:*") if unit.owns(key) and key != unit.cursor()]
    for first in range(0, len(found), _DELETED_AT_ONCE):
        gone += int(await server.call("UNLINK", *found[first : first + _DELETED_AT_ONCE]))
    return gone
