"""Let go of versions that answer for nothing.

Keeps:
- The document goes first: from then on nobody reads or carries it. Who is killed behind that leaves what no document
  knows; dropped again, it goes.
- A gravestone stays where its cursor was, so that a worker with yesterday's document cannot begin it anew.
"""

from collections.abc import Sequence

from msgspec import Struct

from consumers.keyspace import scan, unlink
from consumers.register import change_versions, read_versions
from consumers.removal import Survey, survey_unit
from consumers.replay.changing import check_follows
from consumers.replay.diff import NOT_OURS
from consumers.replay.inheriting import GRAVESTONE_MS, inherit
from consumers.runtime.effects import Effect
from consumers.versions import ALL_DAYS, Days, Versions, VersionsError
from pipeline.connection import AsyncServer
from pipeline.keys import Keys, PartitionKeys
from pipeline.scripting import script


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
    heir = next((one for one in swapped if any(versions.base(name) == number for name in one.handlers)), None)
    if heir is not None:
        handlers = [name for name in heir.handlers if versions.base(name) == number]
        versions.taken_over(heir.number, handlers)
        units = [(number, handler) for handler in handlers]
        return Dropping(number, units, heir.number, None if heir.days == ALL_DAYS else heir.days)
    there = [unit for unit in await _declared(server, keys, partitions) if unit[0] == number]
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


async def drop(  # noqa: PLR0913 - what goes, where, and what may stand in the way
    server: AsyncServer,
    keys: Keys,
    partitions: int,
    dropping: Dropping,
    effects: Sequence[Effect] = (),
    *,
    anyway: bool = False,
) -> int:
    """Take away what was planned; return how many keys went. Called again after a crash, it goes on.

    Args:
        server: Where the namespace is.
        keys: The namespace's.
        partitions: How many it has.
        dropping: What was planned.
        effects: The folds: they say what marginals their state has, where days are handed over.
        anyway: Also where what takes the place is behind.

    Raises:
        VersionsError: Somebody has changed the versions since it was planned, or dead letters are in the way.
        SidestreamError: See `AsyncServer.call`.
    """
    if dropping.heir and not anyway:
        for _, handler in dropping.units:
            await check_follows(server, keys, partitions, handler, dropping.heir)
    if dropping.heir and dropping.days is not None:
        await _hand_over(server, keys, partitions, dropping, dropping.days, effects)
    elif dropping.heir:
        await _pass_recipes_on(server, keys, partitions, dropping)

    def change(versions: Versions) -> Versions:
        if dropping.heir:
            return versions.taken_over(dropping.heir, [handler for _, handler in dropping.units])
        known = any(one.number == dropping.number for one in versions.replays)
        return versions.dropped(dropping.number) if known else versions

    await change_versions(server, keys, change)
    gone = 0
    for partition in map(keys.partition, range(partitions)):
        for version, handler in dropping.units:
            gone += await _bury(server, partition, handler, version)
    return gone


async def _pass_recipes_on(server: AsyncServer, keys: Keys, partitions: int, dropping: Dropping) -> None:
    """Let the heir know what its base was computed with: a worker that still has such a recipe must not carry it."""
    for partition in map(keys.partition, range(partitions)):
        for version, handler in dropping.units:
            base, heir = partition.unit(handler, version), partition.unit(handler, dropping.heir)
            older, mine = await server.all([["LRANGE", unit.recipes(), 0, -1] for unit in (base, heir)])
            known = {row.split(b" ", 2)[1] for row in mine}
            for row in older:
                _, recipe_hash, recipe = row.split(b" ", 2)
                if recipe_hash not in known:
                    known.add(recipe_hash)
                    await server.call("LPUSH", heir.recipes(), b" ".join([NOT_OURS, recipe_hash, recipe]))


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
    async for some in scan(server, unit.pattern(), unit.owns):
        gone += await unlink(server, [key for key in some if key != unit.cursor()])
    return gone


async def _declared(server: AsyncServer, keys: Keys, partitions: int) -> list[tuple[int, str]]:
    """Return the (version, handler) that are declared in some partition and keep a state."""
    found: set[tuple[int, str]] = set()
    for number in range(partitions):
        flat = await server.call("HGETALL", keys.partition(number).handlers())
        for name, kind in zip(flat[::2], flat[1::2], strict=True):
            version, _, handler = name.decode().partition(":")
            if kind in {b"fold", b"replay"}:
                found.add((int(version.removeprefix("v")), handler))
    return sorted(found)
