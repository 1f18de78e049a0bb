"""Begin a replay: see that it can be right, and enter it into the document of versions.

Keeps: nothing is entered that could not be read to the join, of all partitions, in the order of the entries' ids.
"""

import os
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from consumers.contract import Archive
from consumers.register import change_versions, read_versions
from consumers.runtime.effects import Effect
from consumers.versions import Days, Replay, Versions, VersionsError
from pipeline.connection import AsyncServer
from pipeline.keys import Keys, PartitionKeys
from pipeline.segments import parse_id
from pipeline.units import US_PER_MS, US_PER_S


class Asked(Struct, frozen=True):
    """What is to be replayed: folds, the days of event time, and the archive to begin with (None: the stream alone)."""

    effects: Sequence[Effect]
    days: Days
    archive: Archive | None = None

    @property
    def handlers(self) -> tuple[str, ...]:
        """The names of the folds."""
        return tuple(effect.name for effect in self.effects)

    @property
    def recipes(self) -> dict[str, str]:
        """What the folds compute, by hash."""
        return {effect.name: effect.recipe()[0] for effect in self.effects}

    @property
    def archive_url(self) -> str:
        """Where the archive is; empty: the stream alone."""
        return self.archive.url if self.archive else ""


async def begin(server: AsyncServer, keys: Keys, partitions: int, asked: Asked) -> Replay:
    """Enter a replay, and return it.

    Raises:
        VersionsError: As many are there as may be, another is being built, or the archive does not fit this server
            or has partitions that the namespace lacks.
        SidestreamError: See `AsyncServer.call`, and `Archive.beyond`.
    """
    if asked.archive is not None:
        await _check_partitions(asked.archive, partitions)
        for number in range(partitions):
            await _check_order(server, keys.partition(number), asked.archive)
    seconds, microseconds = await server.call("TIME")
    new = Replay(
        number=0,
        born=os.urandom(8).hex(),
        handlers=asked.handlers,
        days=asked.days,
        recipes=asked.recipes,
        archive=asked.archive_url,
        began_ms=(int(seconds) * US_PER_S + int(microseconds)) // US_PER_MS,
    )

    def change(versions: Versions) -> Versions:
        if found := building(versions):
            raise VersionsError(f"version {found.number} is being built: go on with it, or drop it first")
        return versions.begin(new)

    replaces = {effect.name: await _replaced(server, keys, partitions, effect) for effect in asked.effects}
    new = msgspec.structs.replace(new, replaces=replaces)
    await change_versions(server, keys, change)
    begun = building(await read_versions(server, keys))
    if begun is None or begun.born != new.born:
        raise VersionsError("the replay that was begun has been dropped already")
    return begun


async def resume(server: AsyncServer, keys: Keys, partitions: int, asked: Asked) -> Replay:
    """Return the replay that is being built, or has caught up with the very same to do; else begin one.

    Whether what is being built is what was asked for, `check_asked` says.

    Raises:
        VersionsError: See `begin`.
        SidestreamError: See `begin`.
    """
    versions = await read_versions(server, keys)
    found = building(versions) or next((one for one in versions.replays if _has_caught_up(one, asked)), None)
    if found is not None:
        return found
    try:
        return await begin(server, keys, partitions, asked)
    except VersionsError:
        # Who was started at the same moment has begun it: then this is one more that carries it.
        found = building(await read_versions(server, keys))
        if found is None:
            raise
        return found


def building(versions: Versions) -> Replay | None:
    """Return the replay that has not caught up yet; there is one at most."""
    return next((one for one in versions.replays if one.progress == "building"), None)


def check_recipes(replay: Replay, effects: Sequence[Effect]) -> None:
    """See that effects compute what a replay is computed with.

    Raises:
        VersionsError: One of its handlers is missing, or has another recipe here.
    """
    found = {effect.name: effect.recipe()[0] for effect in effects}
    for handler in replay.handlers:
        if found.get(handler) != replay.recipes.get(handler):
            raise VersionsError(
                f"version {replay.number} is computed with recipe {replay.recipes.get(handler)} of {handler}, and this "
                f"installation has {found.get(handler, 'no such handler')}: run it where it was begun, or drop it"
            )


def check_archive(replay: Replay, url: str) -> None:
    """See that what is still being built begins with the archive that it has begun with; `url`: empty is none.

    Raises:
        VersionsError: It is another.
    """
    if replay.progress != "building" or replay.archive == url:
        return
    began = f"with the archive at {replay.archive}" if replay.archive else "with the stream alone (--no-archive)"
    raise VersionsError(
        f"version {replay.number} has begun {began}, and here that is {url or 'none'}: set "
        "SIDESTREAM_ARCHIVE_URL as there, or drop it"
    )


def check_asked(replay: Replay, asked: Asked) -> None:
    """See that a replay is of the folds and days that were asked for.

    Raises:
        VersionsError: It is of others.
    """
    if (replay.handlers, replay.days) != (asked.handlers, asked.days):
        raise VersionsError(
            f"version {replay.number} is being built, of {', '.join(replay.handlers)}, {replay.days}: go on with it by "
            f"`sidestream replay run` alone, or `sidestream replay drop {replay.number}` first"
        )


def _has_caught_up(replay: Replay, asked: Asked) -> bool:
    """Return whether a replay that has caught up, and answers for nothing, is what is asked for."""
    same = (replay.handlers, replay.days, dict(replay.recipes)) == (asked.handlers, asked.days, asked.recipes)
    return replay.progress == "ready" and same and replay.archive == asked.archive_url


async def _check_partitions(archive: Archive, partitions: int) -> None:
    if beyond := [number for number in await archive.partitions() if number >= partitions]:
        raise VersionsError(
            f"the archive has partitions up to {beyond[-1]}, and this namespace has {partitions}: let it have "
            f"{beyond[-1] + 1} first (SIDESTREAM_PARTITIONS of a producer), or their events would not be read"
        )


async def _replaced(server: AsyncServer, keys: Keys, partitions: int, effect: Effect) -> tuple[str, ...]:
    """Return the recipes, by hash, that the base of a handler was computed with, but for the one that it has now."""
    base = (await read_versions(server, keys)).base(effect.name)
    units = [keys.partition(number).unit(effect.name, base) for number in range(partitions)]
    rows = [row for found in await server.all([["LRANGE", u.recipes(), 0, -1] for u in units]) for row in found]
    return tuple(sorted({row.split(b" ", 2)[1].decode() for row in rows} - {effect.recipe()[0]}))


async def _check_order(server: AsyncServer, partition: PartitionKeys, archive: Archive) -> None:
    """See that what was archived before this stream's archive began also stands before its first entry.

    Raises:
        VersionsError: It does not: this server's clock was behind that of the one before.
    """
    flat = await server.call("HMGET", partition.unit(archive.name).cursor(), "declared", "done")
    declared_ms, done = int(flat[0] or 0), (flat[1] or b"0-0").decode()
    oldest = await server.call("XRANGE", partition.stream(), "-", "+", "COUNT", 1)
    if not oldest:
        return
    join = parse_id(oldest[0][0].decode())
    for segment in await archive.beyond(partition.number, f"{join[0]}-{join[1]}"):
        history = not declared_ms or segment.name.last[0] < declared_ms
        if history and segment.name.last > parse_id(done):
            raise VersionsError(
                f"partition {partition.number}: the archive has {segment.name} of an earlier server, which ends behind "
                f"this stream's first entry {join[0]}-{join[1]}: the clock of this server was behind; replay into a "
                "namespace whose first entry is younger"
            )
