"""What the runtime and a handler or sink know of each other."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from msgspec import Struct

from consumers.letters import DeadLetter
from pipeline.events import Event
from pipeline.segments import Archived, SegmentName
from pipeline.wire import Frame, StoredEntry

_FOR_EVER_US: Final = 1 << 62


class Slice(Struct, frozen=True):
    """The events `start` to `stop` (exclusive) of a frame: a batch may begin and end inside one.

    Only those of some days are looked at: from `since_us` until `until_us` (microseconds since 1970; 0 is an open end).
    """

    frame: Frame
    start: int
    stop: int
    since_us: int = 0
    until_us: int = 0

    def events(self) -> Iterator[tuple[int, Event]]:
        """Iterate over (index, event), passing over what could not be decoded and what is of other days."""
        events = enumerate(self.frame.events[self.start : self.stop], self.start)
        if not self.since_us and not self.until_us:
            # Of all days, as all but some replays are: nothing is compared.
            for index, event in events:
                if event is not None:
                    yield index, event
            return
        since_us, until_us = self.since_us, self.until_us or _FOR_EVER_US
        for index, event in events:
            if event is not None and since_us <= event.time_us < until_us:
                yield index, event


class Sink(Protocol):
    """Has effects outside Redis; its cursor moves after the far side said yes."""

    name: str

    async def deliver(self, slices: Sequence[Slice]) -> Sequence[DeadLetter]:
        """Send a batch; return the events that the far side refused for good.

        Raises:
            TransientError: Nothing is known to have arrived; the same batch comes again.
            PermanentError: The far side refuses us, not these events (401, 403): the sink pauses.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class ArchivedRange(Protocol):
    """A segment that is there: which entries it holds."""

    @property
    def name(self) -> SegmentName:
        """Its name."""
        ...


class Archive(Protocol):
    """Keeps what lay on the streams; its cursor moves when a segment is there."""

    name: str
    segment_bytes: int
    """A segment is closed when the fields of its entries have so many bytes."""
    segment_age_s: float
    """Or when the first of them was gathered so long ago, in seconds."""

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    async def partitions(self) -> Sequence[int]:
        """Return the partitions that have segments.

        Raises:
            TransientError: The store is away.
            PermanentError: It refuses.
        """
        ...

    async def put(self, partition: int, archived: Sequence[Archived]) -> None:
        """Write entries as a segment, once.

        Raises:
            TransientError: It is there, or it is not; the same entries come again.
            PermanentError: The store refuses: the archive pauses.
        """
        ...

    async def beyond(self, partition: int, entry_id: str) -> Sequence[ArchivedRange]:
        """Return the segments that reach beyond an entry, in their order.

        Raises:
            TransientError: The store is away.
            PermanentError: It refuses.
        """
        ...

    async def entries(
        self, partition: int, name: SegmentName, since_us: int = 0, until_us: int = 0
    ) -> Sequence[StoredEntry]:
        """Return what a segment holds, as far as it can be read; without parts that have no event of that time.

        Raises:
            TransientError: The store is away.
            PermanentError: It refuses.
        """
        ...

    async def others(self, partition: int, below: str, since_us: int, until_us: int) -> int:
        """Return how many events of before an entry stand in parts that have no event of that time, by the footers.

        Raises:
            TransientError: The store is away.
            PermanentError: It refuses.
        """
        ...

    async def set_aside(self, partition: int, name: SegmentName) -> None:
        """Take a segment out of the archive, and keep it beside.

        Raises:
            TransientError: The store is away.
            PermanentError: It refuses.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
