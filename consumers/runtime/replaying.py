"""A unit of a replayed version: it begins with the archive, and goes on with the stream where the two are joined.

Keeps:
- Entries below the join come from the archive, from the join on from the stream. The join is the oldest entry that the
  stream had when the unit was declared, and from that instant the declaration holds the stream: there is no gap.
- Ids only grow along the cursor: whatever segments hold twice, and wherever they overlap the stream, counts once.
- A frame that a producer sent again, to a server that had lost it, is in the archive under two ids, and counts once.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from consumers.contract import Archive, ArchivedRange
from consumers.runtime.batch import Cursor, Outcome
from consumers.runtime.committing import Source, Standing
from consumers.runtime.effects import Effect
from consumers.runtime.unit import READ_ENTRIES, Beginning, Position, Unit, UnitOptions
from consumers.state import Delta
from consumers.versions import Days
from pipeline.connection import AsyncServer
from pipeline.errors import PermanentError
from pipeline.keys import LIVE_VERSION, PartitionKeys
from pipeline.segments import EntryId, parse_id, show_id
from pipeline.wire import StoredEntry

ARCHIVE: Final = "archive"
"""The unit whose skipped events no archive has."""


_MOST_PRODUCERS: Final = 100_000
"""Remembered at most, the latest: some 10 MiB."""

_LAST_SEQUENCE: Final = 2**64 - 1


class UnknownVersionError(PermanentError):
    """The document of versions does not have it any more."""

    code = "unknown_version"


class NoArchiveError(PermanentError):
    """A replay has begun with the archive, and this process knows none."""

    code = "no_archive"


@dataclass(frozen=True, slots=True)
class Version:
    """What a unit knows of its version: the days, its name among all versions, and what trimming makes of it.

    `known` tells whether the document of versions still has it. `history` is the archive; None: it begins with
    the stream.
    """

    days: Days
    born: str
    kind: str
    known: Callable[[], Awaitable[bool]]
    history: Archive | None


class ReplayUnit(Unit):
    """Carries a handler of a replayed version through one partition; see `Unit`."""

    def __init__(
        self, server: AsyncServer, partition: PartitionKeys, effect: Effect, options: UnitOptions, version: Version
    ) -> None:
        super().__init__(server, partition, effect, options)
        self.version = version
        self._standing: Standing | None = None
        self._join: EntryId | None = None
        """Where the stream takes over; None where it has."""
        self._read: deque[StoredEntry] = deque()
        """Entries of the archive that come next, behind `_behind`."""
        self._behind: EntryId = (0, 0)
        self._had: dict[bytes, int] = {}
        """Producer -> the sequence behind its last event that the archive has given."""
        self._seeded = False

    async def _beginning(self) -> Beginning:
        about = Beginning("oldest", self.version.days, born=self.version.born, kind=self.version.kind)
        if await self._server.call("EXISTS", self.keys.cursor()):
            return about
        if not await self.version.known():
            # A server that was emptied or put back: what nobody knows of would hold the stream for ever.
            raise UnknownVersionError(f"{self.keys.name}, partition {self.partition.number}: there is no such version")
        if self.version.history is None:
            return about
        segments = await self.version.history.beyond(self.partition.number, "0-0")
        if not segments:
            return about
        archive = self.partition.unit(ARCHIVE, LIVE_VERSION).cursor()
        done, declared, skipped = await self._server.call("HMGET", archive, "done", "declared", "skipped")
        return replace(
            about,
            start="archive",
            first_ms=segments[0].name.first[0],
            skipped=int(skipped or 0),
            archived=(done or b"").decode(),
            archived_since_ms=int(declared or 0),
        )

    def _begin(self, standing: Standing) -> None:
        super()._begin(standing)
        self._standing = standing
        self._join = parse_id(standing.join) if standing.join else None

    async def _advance(self, position: Position, block_ms: int | None) -> int:
        moved = await super()._advance(position, block_ms)
        if moved or self._join is None or self._position is not position:
            return moved
        # The archive has no more: the cursor goes to the join, and what follows comes from the stream.
        before = show_id(_before(self._join))
        outcome = Outcome(Cursor(before, 0, before), StoredEntry(before, {}))
        outcome.entries = await self._archive().others(self.partition.number, show_id(self._join), *self._days.as_us())
        await self._settle(position, outcome, Delta())
        self._position = None
        return await self.step()

    async def _entries(self, cursor: Cursor, block_ms: int | None) -> Sequence[StoredEntry]:
        at = parse_id(cursor.entry_id)
        if self._join is None or at >= self._join:
            return [self._known_again(entry) for entry in await super()._entries(cursor, block_ms)]
        return await self._archived(_before(at) if cursor.index else at, self._join)

    def _known_again(self, entry: StoredEntry) -> StoredEntry:
        """Return an entry of the stream, all its events known where the archive had them under another id."""
        producer, _ = entry.identity()
        if not 0 < entry.next_seq <= self._had.get(producer, 0):
            return entry
        return StoredEntry(entry.entry_id, {**entry.fields, b"k": f"0-{entry.count - 1}".encode()})

    def _source(self, outcome: Outcome) -> Source:
        return "archive" if self._join and parse_id(outcome.last.entry_id) < self._join else "stream"

    async def _archived(self, behind: EntryId, join: EntryId) -> list[StoredEntry]:
        """Return the archive's next entries behind an entry and below the join; none where it has no more."""
        read = self._read
        if behind < self._behind or not self._seeded:
            # It begins here, or the server was put back: what was read behind this place is to be read again.
            read.clear()
            await self._seed(behind)
        while read and parse_id(read[0].entry_id) <= behind:
            read.popleft()
        self._behind = behind
        if not read:
            await self._load(behind, join)
        return [read[n] for n in range(min(READ_ENTRIES, len(read)))]

    async def _load(self, behind: EntryId, join: EntryId) -> None:
        history = self._archive()
        number, (since_us, until_us) = self.partition.number, self._days.as_us()
        segments = [one for one in await history.beyond(number, show_id(behind)) if self._is_committed(one)]
        while segments and not self._read:
            found: dict[EntryId, StoredEntry] = {}
            for segment in _together(segments):
                for entry in await history.entries(number, segment.name, since_us, until_us):
                    found.setdefault(parse_id(entry.entry_id), entry)
            ordered = [found[entry_id] for entry_id in sorted(found) if behind < entry_id < join]
            self._read.extend(entry for entry in ordered if self._is_new(entry))

    def _archive(self) -> Archive:
        if self.version.history is None:
            raise NoArchiveError(
                f"{self.keys.name}, partition {self.partition.number}: it has begun with an archive, and no archive "
                "is set: SIDESTREAM_ARCHIVE_URL"
            )
        return self.version.history

    async def _seed(self, behind: EntryId) -> None:
        """Learn what producers have had, from the segment before an entry: who goes on here has not read it."""
        self._had.clear()
        self._seeded = True
        history, number = self._archive(), self.partition.number
        before = [one for one in await history.beyond(number, "0-0") if one.name.first <= behind]
        if before:
            for entry in await history.entries(number, before[-1].name):
                if parse_id(entry.entry_id) <= behind:
                    self._is_new(entry)

    def _is_new(self, entry: StoredEntry) -> bool:
        """Take note of an entry; return False where its producer had sent it before, to a server that lost it."""
        producer, _ = entry.identity()
        behind = entry.next_seq
        if not behind:
            return True
        if behind <= self._had.get(producer, 0):
            return False
        # The one that was heard of last comes last: the first to be forgotten has been silent for longest.
        self._had.pop(producer, None)
        self._had[producer] = behind
        if len(self._had) > _MOST_PRODUCERS:
            del self._had[next(iter(self._had))]
        return True

    def _is_committed(self, segment: ArchivedRange) -> bool:
        """Return whether a segment is of what was counted: what the archive wrote, and did not commit, may be lost."""
        standing = self._standing
        assert standing is not None
        history = not standing.archived or segment.name.last[0] < standing.archived_since_ms
        return history or segment.name.last <= parse_id(standing.archived)


def _before(entry_id: EntryId) -> EntryId:
    """Return the id that stands right before another."""
    milliseconds, sequence = entry_id
    return (milliseconds, sequence - 1) if sequence else (milliseconds - 1, _LAST_SEQUENCE)


def _together(segments: list[ArchivedRange]) -> list[ArchivedRange]:
    """Take the first of some segments off them, with those that overlap it: what one has lost another may have."""
    taken = [segments.pop(0)]
    last = taken[0].name.last
    while segments and segments[0].name.first <= last:
        last = max(last, segments[0].name.last)
        taken.append(segments.pop(0))
    return taken
