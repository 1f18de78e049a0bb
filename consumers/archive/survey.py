"""What an archive holds, and whether that is what was written.

Keeps: nothing is changed here, and what is damaged keeps nobody from looking at the rest.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from msgspec import Struct

from consumers.archive.store import ArchiveStore, Leftover, StoredSegment
from pipeline import limits
from pipeline.segments import DamagedError, EntryId, parse_id, read_blocks, verify
from pipeline.wire import StoredEntry

What: TypeAlias = Literal["damaged", "doubled", "missing", "leftover", "unreadable", "withdrawn"]


class PartitionShelf(Struct, frozen=True):
    """The segments of one partition; times are of the broker, in ms since 1970, None where there is no segment."""

    partition: int
    segments: int
    bytes: int
    first_ms: int | None
    last_ms: int | None
    aside: int
    """Segments that were set aside: they hold what the stream had lost."""
    leftovers: int
    """Files among them that are none."""


class Finding(Struct, frozen=True):
    """Something that speaks against an archive: where, what, and in a sentence why."""

    partition: int
    what: What
    where: str
    why: str


@dataclass(slots=True)
class Checked:
    """What a check of one partition has read, and found; entries that stand in two segments count once."""

    partition: int
    segments: int = 0
    entries: int = 0
    events: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])


async def shelves(store: ArchiveStore) -> list[PartitionShelf]:
    """Return what each partition has, from the names of its segments alone.

    Raises:
        SidestreamError: See `ArchiveStore.put`.
    """
    found: list[PartitionShelf] = []
    for partition in await store.partitions():
        segments, leftovers = await store.segments(partition)
        found.append(
            PartitionShelf(
                partition=partition,
                segments=len(segments),
                bytes=sum(one.size for one in segments),
                first_ms=segments[0].name.first[0] if segments else None,
                last_ms=max(one.name.last for one in segments)[0] if segments else None,
                aside=len(await store.aside(partition)),
                leftovers=len(leftovers),
            )
        )
    return found


async def check(store: ArchiveStore) -> AsyncIterator[Checked]:
    """Read every segment of every partition, and say what of it is not as it was written.

    Raises:
        SidestreamError: See `ArchiveStore.put`.
    """
    for partition in await store.partitions():
        segments, leftovers = await store.segments(partition)
        checked = Checked(partition)
        checked.findings += [_leftover(partition, one) for one in leftovers]
        follower = _Follower(checked)
        for segment in segments:
            await _check_segment(store, segment, follower)
        yield checked


async def _check_segment(store: ArchiveStore, segment: StoredSegment, follower: "_Follower") -> None:
    checked, name = follower.checked, str(segment.name)
    checked.segments += 1
    checked.bytes += segment.size
    try:
        data = await store.read(segment.partition, segment.name)
    except DamagedError as error:
        checked.findings.append(Finding(segment.partition, "damaged", name, str(error)))
        return
    checked.findings += [
        Finding(segment.partition, "damaged", name, str(error)) for error in verify(data, segment.name)
    ]
    doubled = 0
    try:
        for part in read_blocks(data):
            if not isinstance(part, DamagedError):
                doubled += sum(not follower.follow(entry, name) for entry in part)
    except DamagedError:
        # No segment at all: `verify` has said so.
        return
    if doubled:
        why = f"{doubled:,} entries of it stand in a segment before it too; they are read once"
        checked.findings.append(Finding(segment.partition, "doubled", name, why))


class _Follower:
    """Goes from entry to entry, and knows which sequence each producer must go on with."""

    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self._last: EntryId = (-1, 0)
        self._next: dict[bytes, int] = {}

    def follow(self, entry: StoredEntry, where: str) -> bool:
        """Take an entry; return False where it was there before."""
        entry_id = parse_id(entry.entry_id)
        if entry_id <= self._last:
            return False
        self._last = entry_id
        self.checked.entries += 1
        self.checked.events += entry.count
        if entry.next_seq:
            self._follow_producer(entry, where)
        return True

    def _follow_producer(self, entry: StoredEntry, where: str) -> None:
        producer, _ = entry.identity()
        first_seq, lost = entry.next_seq - entry.count, _number(entry.fields.get(b"l", b"0"))
        expected = self._next.get(producer)
        if expected is not None and first_seq - lost > expected:
            hole = first_seq - lost - expected
            why = f"{hole:,} events of producer {producer.decode()} are not there, before entry {entry.entry_id}"
            self.checked.findings.append(Finding(self.checked.partition, "missing", where, why))
        self._next[producer] = entry.next_seq


def _leftover(partition: int, one: Leftover) -> Finding:
    return Finding(partition, "leftover", one.path, f"{one.size:,} bytes that are no segment")


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) <= len(str(limits.MAX_SEQUENCE)) else 0


def older_than(segments: Sequence[StoredSegment], time_ms: int) -> list[StoredSegment]:
    """Return the segments whose last entry was appended before an instant (ms since 1970)."""
    return [one for one in segments if one.name.last[0] < time_ms]
