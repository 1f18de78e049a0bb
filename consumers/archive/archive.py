"""What a worker archives into: segments of one namespace, in a store (`consumers.contract.Archive`)."""

import logging
from collections.abc import Sequence
from typing import Final

import anyio.to_thread

from consumers.archive.store import ArchiveStore, StoredSegment
from pipeline.segments import (
    Archived,
    Block,
    DamagedError,
    SegmentName,
    build_segment,
    parse_id,
    read_blocks,
    without_covered,
)
from pipeline.wire import StoredEntry

log = logging.getLogger("sidestream.archive")

SEGMENT_BYTES: Final = 8 << 20
"""What a worker holds of each partition at most, and a little more; some 150,000 events."""

SEGMENT_AGE_S: Final = 300.0
"""How far the archive is behind at most while it works; a quiet partition has 288 segments a day."""


class SegmentArchive:
    """Writes closed segments.

    Args:
        store: Where.
        segment_bytes: See `Archive.segment_bytes`.
        segment_age_s: See `Archive.segment_age_s`.
    """

    name = "archive"

    def __init__(
        self, store: ArchiveStore, *, segment_bytes: int = SEGMENT_BYTES, segment_age_s: float = SEGMENT_AGE_S
    ) -> None:
        self.store = store
        self.segment_bytes = segment_bytes
        self.segment_age_s = segment_age_s

    @property
    def url(self) -> str:
        """Where it is; see `Archive.url`."""
        return self.store.url

    async def partitions(self) -> Sequence[int]:
        """Return the partitions that have segments; see `Archive.partitions`."""
        return await self.store.partitions()

    async def put(self, partition: int, archived: Sequence[Archived]) -> None:
        """Write entries as a segment; see `Archive.put`."""
        segment = await anyio.to_thread.run_sync(build_segment, self.store.namespace, partition, archived)
        await self.store.put(partition, segment.name, segment.data)

    async def beyond(self, partition: int, entry_id: str) -> Sequence[StoredSegment]:
        """Return the segments that reach beyond an entry; see `Archive.beyond`."""
        found, _ = await self.store.segments(partition)
        return [one for one in found if one.name.last > parse_id(entry_id)]

    async def entries(
        self, partition: int, name: SegmentName, since_us: int = 0, until_us: int = 0
    ) -> Sequence[StoredEntry]:
        """Return what a segment holds; see `Archive.entries`."""
        found: list[StoredEntry] = []
        try:
            for part in read_blocks(await self.store.read(partition, name), since_us, until_us):
                if isinstance(part, DamagedError):
                    _tell_damage(partition, name, part)
                else:
                    found += part
        except DamagedError as error:
            _tell_damage(partition, name, error)
        return found

    async def others(self, partition: int, below: str, since_us: int, until_us: int) -> int:
        """Count events of other days; see `Archive.others`."""
        if not since_us and not until_us:
            return 0
        blocks: list[Block] = []
        for segment in (await self.store.segments(partition))[0]:
            try:
                blocks += (await self.store.footer(partition, segment)).blocks
            except DamagedError as error:
                _tell_damage(partition, segment.name, error)
        end = parse_id(below)
        apart = [block for block in without_covered(blocks) if block.first < end]
        return sum(block.events for block in apart if not block.concerns(since_us, until_us))

    async def set_aside(self, partition: int, name: SegmentName) -> None:
        """Take a segment out of the archive; see `Archive.set_aside`."""
        await self.store.set_aside(partition, name)

    async def aclose(self) -> None:
        """Hold nothing, let go of nothing."""


def _tell_damage(partition: int, name: SegmentName, error: DamagedError) -> None:
    about = {"partition": partition, "segment": str(name), "why": str(error)}
    log.error("A segment is damaged; what is damaged is left out", extra=about)
