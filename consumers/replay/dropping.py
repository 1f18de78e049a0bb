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
from consumers.replay.keyspace import orphans, scan
from consumers.versions import ALL_DAYS, Versions, VersionsError
from pipeline.connection import AsyncServer
from pipeline.keys import Keys, PartitionKeys
from pipeline.scripting import script

GRAVESTONE_MS: Final = 30 * 24 * 3_600_000
_DELETED_AT_ONCE: Final = 500


class Dropping(Struct, frozen=True):
    """What a drop takes away: (version, handler), and which replay becomes the base of its handlers (0: none does)."""

    number: int
    units: Sequence[tuple[int, str]]
    heir: int = 0


async def plan_drop(server: AsyncServer, keys: Keys, partitions: int, number: int) -> Dropping:
    """Return what dropping a version would take away.

    Raises:
        VersionsError: Some day is answered from it, or there is nothing of it.
        SidestreamError: See `AsyncServer.call`.
    """
    versions = await read_versions(server, keys)
    left = [unit for unit in await orphans(server, keys, partitions, versions) if unit[0] == number]
    if any(one.number == number for one in versions.replays):
        versions.dropped(number)
        return Dropping(number, [(number, handler) for handler in versions.replay(number).handlers])
    heir = next(
        (one for one in versions.replays if one.progress == "swapped" and _succeeds(versions, one.number, number)), None
    )
    if heir is not None:
        if heir.days != ALL_DAYS:
            raise VersionsError(
                f"version {number} answers for the days that version {heir.number} has not ({heir.days}): both stay, "
                f"or replay all days and swap that in"
            )
        versions.taken_over(heir.number)
        return Dropping(number, [(number, handler) for handler in heir.handlers], heir.number)
    if left:
        return Dropping(number, left)
    bases = sorted({versions.base(handler) for handler in ("metrics", "cost")})
    if number in bases:
        raise VersionsError(f"version {number} answers: nothing was swapped in instead of it")
    raise VersionsError(f"there is no version {number}")


def _succeeds(versions: Versions, heir: int, number: int) -> bool:
    return all(versions.base(handler) == number for handler in versions.replay(heir).handlers)


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


async def drop(server: AsyncServer, keys: Keys, partitions: int, dropping: Dropping) -> int:
    """Take away what was planned; return how many keys went. Called again after a crash, it goes on.

    Raises:
        VersionsError: Somebody has changed the versions since it was planned.
        SidestreamError: See `AsyncServer.call`.
    """

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


async def _bury(server: AsyncServer, partition: PartitionKeys, handler: str, version: int) -> int:
    unit = partition.unit(handler, version)
    wanted = [partition.stream(), partition.handlers(), unit.cursor()]
    gone = int(await server.run(script("bury"), wanted, [unit.name, GRAVESTONE_MS]))
    found = [key for key in await scan(server, f"{unit.prefix}:*") if unit.owns(key) and key != unit.cursor()]
    for first in range(0, len(found), _DELETED_AT_ONCE):
        gone += int(await server.call("UNLINK", *found[first : first + _DELETED_AT_ONCE]))
    return gone
