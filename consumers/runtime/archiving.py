"""A unit that archives: it gathers entries until there are enough for a segment, writes it, and commits behind it.

Keeps:
- The cursor stands behind entries that are in the archive, and only behind them: the archive is a prefix of the stream.
- A segment is written before the cursor moves. Who dies between the two leaves it; whoever goes on finds it, and takes
  it for what it is if the stream still holds the same entries.
- Behind a server that was put back the archive may hold what the stream has lost, and nobody counts any more. Such a
  segment is set aside, whole, and what of it the stream still has is archived again.
- What ended before the unit was declared is history, of another server or of one that was emptied: it is left alone.
- Nothing is overwritten or deleted: a frozen worker that thaws writes at most a segment that says what others say.
"""

import logging
import time
from collections.abc import Sequence
from typing import Final

from consumers.contract import ArchivedRange
from consumers.folding import entry_time_us
from consumers.runtime.batch import Cursor, Outcome
from consumers.runtime.committing import Standing
from consumers.runtime.effects import ArchiveEffect
from consumers.runtime.unit import READ_ENTRIES, Position, Unit, UnitOptions
from consumers.state import Delta
from pipeline.connection import AsyncServer
from pipeline.errors import WireError
from pipeline.keys import PartitionKeys
from pipeline.segments import Archived, SegmentName, parse_id, show_id
from pipeline.stream import parse_entries, read_after, wait_after
from pipeline.wire import StoredEntry

log = logging.getLogger("sidestream.worker")

_AT_ONCE: Final = 256
"""Entries of one look at what the stream still has."""


class ArchivingUnit(Unit):
    """Carries the archive through one partition; see `Unit`."""

    def __init__(
        self, server: AsyncServer, partition: PartitionKeys, effect: ArchiveEffect, options: UnitOptions
    ) -> None:
        super().__init__(server, partition, effect, options)
        self._archive = effect.archive
        self._decoder = options.decoder
        self._gathered: list[Archived] = []
        self._bytes = 0
        self._began_s = 0.0
        self._closing = False
        """What is gathered is a segment: while its store is away it waits, and nothing is added to it."""
        self._begun_at: Cursor | None = None
        """The cursor behind which entries are gathered; None where the archive is still to be looked at."""
        self._declared_ms = 0

    def _begin(self, standing: Standing) -> None:
        super()._begin(standing)
        self._declared_ms = standing.declared_ms

    async def _advance(self, position: Position, block_ms: int | None) -> int:
        if self._begun_at != position.cursor:
            self._forget()
            found = await self._found(position)
            if found is not None:
                return await self._settle(position, found, Delta())
            self._begun_at = position.cursor
        while not self._closing:
            entries = await self._read_on(position.cursor, block_ms)
            for entry in entries:
                self._gather(entry)
            self._closing = self._is_due(caught_up=len(entries) < READ_ENTRIES, waits=block_ms is not None)
            if not self._closing and (block_ms is not None or not entries):
                return 0
        await self._archive.put(self.partition.number, self._gathered)
        outcome = _outcome_of([one.entry for one in self._gathered], position.cursor)
        moved = await self._settle(position, outcome, Delta())
        self._forget()
        if moved:
            self._begun_at = outcome.cursor
        return moved

    def _forget(self) -> None:
        self._gathered, self._bytes, self._closing, self._begun_at = [], 0, False, None

    async def _read_on(self, cursor: Cursor, block_ms: int | None) -> Sequence[StoredEntry]:
        last = self._gathered[-1].entry.entry_id if self._gathered else cursor.entry_id
        if block_ms is None:
            return await read_after(self._server, self.partition, last, inclusive=False, most=READ_ENTRIES)
        return await wait_after(self._server, self.partition, last, block_ms=block_ms, most=READ_ENTRIES)

    def _gather(self, entry: StoredEntry) -> None:
        if not self._gathered:
            self._began_s = time.monotonic()
        self._gathered.append(Archived(entry, *self._times_of(entry)))
        self._bytes += sum(len(name) + len(value) for name, value in entry.fields.items())

    def _times_of(self, entry: StoredEntry) -> tuple[int, int]:
        """Return the times of an entry's earliest and latest event; of one that cannot be read, its own."""
        frame = self._decoder.decode(self.partition.number, entry)
        times = [] if isinstance(frame, WireError) else [event.time_us for event in frame.events if event]
        own_us = entry_time_us(entry.entry_id)
        return (min(times), max(times)) if times else (own_us, own_us)

    def _is_due(self, *, caught_up: bool, waits: bool) -> bool:
        if not self._gathered:
            return False
        if self._bytes >= self._archive.segment_bytes:
            return True
        # Who does not wait wants all that is there behind the cursor, now.
        old = time.monotonic() - self._began_s >= self._archive.segment_age_s
        return caught_up and (old or not waits)

    async def _found(self, position: Position) -> Outcome | None:
        """Look at what the archive holds beyond the cursor; return what of it is the stream's next entries."""
        number, cursor = self.partition.number, position.cursor
        for segment in await self._archive.beyond(number, cursor.entry_id):
            is_history = segment.name.last[0] < self._declared_ms
            there = await self._still_there(cursor, segment)
            if is_history and not there:
                continue
            archived = list(await self._archive.entries(number, segment.name))
            beyond = [entry for entry in archived if parse_id(entry.entry_id) > parse_id(cursor.entry_id)]
            same = beyond == there
            # What the stream has no more cannot be archived again: with the rest of it, it stays.
            is_history = is_history and all(entry in beyond for entry in there)
            if same and beyond and len(beyond) == len(archived):
                about = {**self._about(), "segment": str(segment.name)}
                log.info("The archive holds a segment that nobody has committed; it is taken over", extra=about)
                return _outcome_of(archived, cursor)
            if not same and not is_history:
                await self._lay_aside(segment.name)
        return None

    async def _still_there(self, cursor: Cursor, segment: ArchivedRange) -> list[StoredEntry]:
        """Return the stream's entries from the cursor to a segment's end."""
        found: list[StoredEntry] = []
        after, last = cursor.entry_id, show_id(segment.name.last)
        while True:
            reply = await self._server.call("XRANGE", self.partition.stream(), f"({after}", last, "COUNT", _AT_ONCE)
            entries = parse_entries(reply)
            found += entries
            if len(entries) < _AT_ONCE:
                return found
            after = entries[-1].entry_id

    async def _lay_aside(self, name: SegmentName) -> None:
        await self._archive.set_aside(self.partition.number, name)
        about = {**self._about(), "segment": str(name)}
        log.warning("A segment holds what the stream has lost; it is set aside, and counted by nobody", extra=about)


def _outcome_of(entries: Sequence[StoredEntry], before: Cursor) -> Outcome:
    """Return the commit of whole entries, each as it is."""
    last = entries[-1]
    outcome = Outcome(before, last, entries=len(entries))
    outcome.cursor = Cursor(last.entry_id, 0, last.entry_id)
    outcome.events = sum(entry.count for entry in entries)
    outcome.foreign = sum(entry.count for entry in entries if entry.foreign)
    return outcome
