"""The archive as Parquet: a file for each segment, for whoever asks it questions that no report answers.

Keeps:
- An entry is a row in one file, however many segments it stands in.
- A file that says it has what is asked for is left alone; one that lacks something is written again, and never
  replaced by one that has less of the same.
- Nothing of the archive is changed, and what of it cannot be read keeps nobody from the rest.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final

import anyio.to_thread

from consumers.archive.parquet import EventFile, Held, Row, Source, frame_rows, new_file, read_held
from consumers.archive.store import ArchiveStore, StoredSegment
from consumers.archive.survey import Finding, What
from consumers.versions import ALL_DAYS, Days
from pipeline.errors import WireError
from pipeline.segments import DamagedError, EntryId, SegmentName, parse_id, read_blocks, show_id, verify
from pipeline.wire import FrameDecoder, StoredEntry

MOST_NAMED: Final = 100
"""Findings of a partition that are named; all are counted."""

_BEFORE_ALL: Final[EntryId] = (-1, 0)


@dataclass(slots=True)
class Exported:
    """What became of a partition: of its segments, and of what this run has written."""

    partition: int
    segments: int = 0
    written: int = 0
    """Files, now."""
    there: int = 0
    """Files that had it all already, or all that can be read."""
    passed: int = 0
    """Segments of which there is nothing to write: they have no event of these days, or none that can be read."""
    events: int = 0
    known: int = 0
    """Rows of events that were here before, which say nothing but that."""
    bytes: int = 0
    unreadable: int = 0
    """Events, of entries or by themselves."""
    damaged: int = 0
    """Blocks, or segments as a whole."""
    withdrawn: int = 0
    """Files whose segment was set aside since: their events were lost by the stream, or stand in other files too."""
    findings: list[Finding] = field(default_factory=list[Finding])
    unnamed: int = 0
    """Findings beyond the first `MOST_NAMED`."""

    def find(self, what: What, where: str, why: str) -> None:
        """Name a finding, of the first ones."""
        if len(self.findings) < MOST_NAMED:
            self.findings.append(Finding(self.partition, what, where, why))
        else:
            self.unnamed += 1


async def export(
    store: ArchiveStore,
    folder: Path,
    partitions: Sequence[int],
    days: Days = ALL_DAYS,
    tell: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Exported]:
    """Write what a folder does not have yet of some partitions.

    Args:
        store: Where the segments are.
        folder: Files are `<namespace>/partition=NN/<first entry>_<last entry>.parquet` in it.
        partitions: Which.
        days: Only events of these days.
        tell: Is told how many events have been written.

    Raises:
        SettingsError: The folder cannot be written to.
        SidestreamError: See `ArchiveStore.put`.
    """
    before = 0
    for partition in partitions:
        exporter = _Exporter(store, folder / store.namespace / f"partition={partition:02d}", Exported(partition), days)
        segments, _ = await store.segments(partition)
        for _, twins in groupby(segments, key=lambda one: (one.name.first, one.name.last)):
            await exporter.take(list(twins))
            tell(before + exporter.exported.events)
        exporter.look_for(await store.aside(partition))
        before += exporter.exported.events
        yield exporter.exported


class _Exporter:
    """Goes from segment to segment of one partition, and knows behind which entry it goes on."""

    def __init__(self, store: ArchiveStore, shelf: Path, exported: Exported, days: Days) -> None:
        self.exported = exported
        self._store = store
        self._shelf = shelf
        self._days = days
        self._last = _BEFORE_ALL

    async def take(self, twins: Sequence[StoredSegment]) -> None:
        """Write a segment's file where it has to be; twins have the same entries in other bytes."""
        name = twins[0].name
        path = self._path(name)
        held = await anyio.to_thread.run_sync(read_held, path)
        after = show_id(self._last) if self._last >= name.first else ""
        self.exported.segments += 1
        # A file of other bytes, or that begins elsewhere, has what stands in another file too: it is written anew.
        right = held and held.source.after == after and held.source.segment in {str(one.name) for one in twins}
        if held and right and not held.source.lacks and held.source.days.include(self._days):
            self.exported.there += 1
            self._last = max(self._last, name.last)
        elif (right or not held) and not await self._concerns(twins[0]):
            self.exported.passed += 1
            self._last = max(self._last, name.last)
        else:
            segment, data = await self._read(twins)
            days = _hull(held.source.days, self._days) if held else self._days
            writing = _Writing(self.exported, Source(str(segment.name), days, after), self._last)
            await anyio.to_thread.run_sync(writing.write, data, path, held)
            self._last = max(self._last, name.last) if not writing.damaged else writing.last

    def look_for(self, aside: Sequence[StoredSegment]) -> None:
        """Name files of segments that were set aside after they were exported."""
        for one in aside:
            path = self._path(one.name)
            held = read_held(path)
            if held and held.source.segment == str(one.name):
                self.exported.withdrawn += 1
                why = f"it was set aside after it was exported: delete {path}"
                self.exported.find("withdrawn", str(one.name), why)

    def _path(self, name: SegmentName) -> Path:
        return self._shelf / f"{show_id(name.first)}_{show_id(name.last)}.parquet"

    async def _concerns(self, segment: StoredSegment) -> bool:
        if self._days == ALL_DAYS:
            return True
        try:
            footer = await self._store.footer(segment.partition, segment)
        except DamagedError:
            return True
        return any(block.concerns(*self._days.as_us()) for block in footer.blocks)

    async def _read(self, twins: Sequence[StoredSegment]) -> tuple[StoredSegment, bytes | DamagedError]:
        """Return the first of several that is undamaged, else the last."""
        found: bytes | DamagedError = b""
        for one in twins:
            try:
                found = await self._store.read(one.partition, one.name)
            except DamagedError as error:
                found = error
                continue
            if len(twins) == 1 or not verify(found, one.name):
                return one, found
        return twins[-1], found


class _Writing:
    """Writes one segment's file, block by block."""

    def __init__(self, exported: Exported, source: Source, last: EntryId) -> None:
        self.exported = exported
        self.damaged = 0
        self.last = last
        self._source = source
        self._unreadable = 0
        self._decoder = FrameDecoder()

    def write(self, data: bytes | DamagedError, path: Path, held: Held | None) -> None:
        """Write the file, unless there is nothing to write, or less of the same than is there."""
        with new_file(path) as (file, keep):
            if isinstance(data, DamagedError):
                self._damaged(data)
            else:
                self._fill(file, data)
            source = Source(
                self._source.segment, self._source.days, self._source.after, self._unreadable + self.damaged
            )
            if held and _no_better(held, source, file.rows):
                self.exported.there += 1
            elif held or file.rows:
                self.exported.bytes += keep(source)
                self.exported.written += 1
                self.exported.events += file.rows - file.known
                self.exported.known += file.known
            else:
                self.exported.passed += 1

    def _fill(self, file: EventFile, data: bytes) -> None:
        try:
            for part in read_blocks(data, *self._source.days.as_us()):
                if isinstance(part, DamagedError):
                    self._damaged(part)
                else:
                    file.add([row for entry in part for row in self._rows(entry)])
        except DamagedError as error:
            self._damaged(error)

    def _rows(self, entry: StoredEntry) -> Sequence[Row]:
        entry_id = parse_id(entry.entry_id)
        if entry_id <= self.last:
            return ()
        self.last = entry_id
        try:
            frame = self._decoder.decode(entry.parse())
        except WireError as error:
            self._cannot_read(entry.count, f"entry {entry.entry_id}, {entry.count:,} events: {error}")
            return ()
        for index, bad in frame.bad.items():
            self._cannot_read(1, f"entry {entry.entry_id}, event {index}: {bad.reason}")
        return list(frame_rows(frame, self._source.days))

    def _cannot_read(self, events: int, why: str) -> None:
        self._unreadable += events
        self.exported.unreadable += events
        self.exported.find("unreadable", self._source.segment, why)

    def _damaged(self, error: DamagedError) -> None:
        self.damaged += 1
        self.exported.damaged += 1
        self.exported.find("damaged", self._source.segment, str(error))


def _no_better(held: Held, source: Source, rows: int) -> bool:
    """Return whether a file would have nothing over the one that is there, of the same entries."""
    if (held.source.segment, held.source.after) != (source.segment, source.after):
        return False
    return rows < held.rows or (rows == held.rows and source == held.source)


def _hull(left: Days, right: Days) -> Days:
    """Return the days of both, and those between."""
    until_s = max(left.until_s, right.until_s) if left.until_s and right.until_s else 0
    return Days(min(left.from_s, right.from_s), until_s)
