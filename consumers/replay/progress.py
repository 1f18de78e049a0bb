"""How far replays are: read from their cursors, the archive's footers and the streams."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from consumers.archive.store import ArchiveStore, StoredSegment
from consumers.versions import Days, Replay
from consumers.views.accounting import UnitAccount, read_unit_account
from pipeline.connection import AsyncServer
from pipeline.keys import Keys, PartitionKeys
from pipeline.segments import Block, DamagedError, parse_id, without_covered

FOLLOWS_MS: Final = 2_000
"""A version that is behind by no more than this follows the stream."""


class UnitProgress(Struct, frozen=True):
    """How far one handler of a replay has come in one partition.

    `join` is where the stream takes over from the archive, "" behind it. `lacks` are events that it could not read:
    trimmed, and in no archive or in a damaged part of it. `passed` are those that Redis could not keep for it.
    """

    handler: str
    partition: int
    declared: bool
    join: str
    taken: int
    outstanding: int
    outstanding_at_least: bool
    dead_letters: int
    lacks: int
    passed: int
    behind_ms: int
    cursor_id: str

    @property
    def follows(self) -> bool:
        """Whether it has caught up with the stream."""
        return self.declared and not self.join and self.behind_ms <= FOLLOWS_MS


class ReplayProgress(Struct, frozen=True):
    """How far a replay is, over all its units."""

    units: Sequence[UnitProgress]

    @property
    def follows(self) -> bool:
        """Whether every unit has caught up with the stream."""
        return bool(self.units) and all(unit.follows for unit in self.units)

    @property
    def taken(self) -> int:
        """Events behind the cursors, summed over handlers."""
        return sum(unit.taken for unit in self.units)

    @property
    def lacks(self) -> int:
        """Events that it could not read, for nothing has them."""
        return sum(unit.lacks for unit in self.units)

    @property
    def passed(self) -> int:
        """Events that it lacks, for memory was short: what is built on it is wrong."""
        return sum(unit.passed for unit in self.units)

    @property
    def behind_ms(self) -> int:
        """By how much the unit that is furthest behind is behind, in the stream."""
        return max((unit.behind_ms for unit in self.units), default=0)

    @property
    def dead_letters(self) -> int:
        """Dead letters of it."""
        return sum(unit.dead_letters for unit in self.units)


async def read_progress(server: AsyncServer, keys: Keys, partitions: int, replay: Replay) -> ReplayProgress:
    """Read how far a replay is.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    found = [
        await _unit(server, keys.partition(number), handler, replay.number)
        for number in range(partitions)
        for handler in replay.handlers
    ]
    return ReplayProgress(found)


async def _unit(server: AsyncServer, partition: PartitionKeys, handler: str, version: int) -> UnitProgress:
    account = await read_unit_account(server, partition, handler, version=version)
    cursor = partition.unit(handler, version).cursor()
    join, lacks, born = await server.call("HMGET", cursor, "join", "lacks", "token")
    return UnitProgress(
        handler=handler,
        partition=partition.number,
        declared=born is not None,
        join=(join or b"").decode(),
        taken=_taken(account),
        outstanding=account.outstanding,
        outstanding_at_least=account.outstanding_at_least,
        dead_letters=account.dead_letters,
        lacks=int(lacks or 0),
        passed=account.skipped - int(lacks or 0),
        behind_ms=account.now_ms - account.committed_to_ms,
        cursor_id=account.cursor_id,
    )


def _taken(account: UnitAccount) -> int:
    return account.committed + account.known + account.dead


class Shelf(Struct, frozen=True):
    """What of an archive a replay reads in one partition: the blocks that may have events of its days."""

    partition: int
    segments: int
    bytes: int
    blocks: Sequence[Block]
    damaged: Mapping[str, str]
    """Segments whose footer cannot be read, and why."""
    first_ms: int | None
    """When the first entry of all was appended."""
    all_blocks: Sequence[Block]
    """Also those of other days."""

    def below(self, join: str) -> int:
        """Return about how many events of all its segments stand below the join."""
        end = parse_id(join)
        return sum(block.events for block in self.all_blocks if block.first < end)

    def ahead(self, cursor_id: str, join: str) -> int:
        """Return about how many events of it a cursor has still to take, below the join."""
        at, end = parse_id(cursor_id), parse_id(join)
        return sum(block.events for block in self.blocks if block.last > at and block.first < end)


async def read_shelf(store: ArchiveStore, partition: int, days: Days) -> Shelf:
    """Read what an archive has of one partition; only the footers of its segments are fetched.

    Raises:
        UnavailableError: The store is away.
        StoreRefusedError: It refuses.
    """
    segments, _ = await store.segments(partition)
    wanted: list[Block] = []
    read: list[StoredSegment] = []
    damaged: dict[str, str] = {}
    every: list[Block] = []
    for segment in segments:
        try:
            footer = await store.footer(partition, segment)
        except DamagedError as error:
            damaged[str(segment.name)] = str(error)
            continue
        every += footer.blocks
        some = [block for block in footer.blocks if block.concerns(*days.as_us())]
        wanted += some
        if some:
            read.append(segment)
    return Shelf(
        partition=partition,
        segments=len(read),
        bytes=sum(segment.size for segment in read),
        blocks=without_covered(wanted),
        damaged=damaged,
        first_ms=segments[0].name.first[0] if segments else None,
        all_blocks=without_covered(every),
    )
