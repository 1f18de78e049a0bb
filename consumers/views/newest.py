"""The newest entries of streams, from look to look: read back once, as far as a bound; later what has come since.

Keeps: it only reads, and each look takes a bounded number of entries and events of a partition. Where more has come
since the last look it begins again from the newest, and whoever learns from them forgets what it can no longer know.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio.lowlevel

from pipeline.connection import AsyncServer
from pipeline.keys import Keys, PartitionKeys
from pipeline.stream import parse_entries, read_after
from pipeline.wire import StoredEntry

_PAGE: Final = 200
_AT_ONCE: Final = 25


class Learner(Protocol):
    """Who learns from entries."""

    def take(self, entries: Sequence[StoredEntry]) -> None:
        """Learn from entries of one partition, the oldest first."""
        ...

    def forget(self) -> None:
        """Begin again: what was learnt has a gap behind it."""
        ...


@dataclass(slots=True)
class Newest:
    """Follows partitions of one namespace.

    Args:
        server: Where to read.
        keys: Of which namespace.
        most_entries: Entries of a partition that a look takes; of full frames 2,000 hold a million events.
        most_events: Events after which it takes no more.
    """

    server: AsyncServer
    keys: Keys
    most_entries: int
    most_events: int
    _after: dict[int, str] = field(default_factory=dict[int, str])
    _since_ms: dict[int, int] = field(default_factory=dict[int, int])
    _cut_ms: dict[int, int] = field(default_factory=dict[int, int])
    """Of the partitions whose stream was not read from its beginning."""

    @property
    def since_ms(self) -> int | None:
        """The broker's time from which on every entry that is kept has been looked at; None where there was none."""
        return max(self._cut_ms.values(), default=min(self._since_ms.values(), default=None))

    @property
    def whole(self) -> bool:
        """Whether everything that is kept has been looked at."""
        return not self._cut_ms

    async def look(self, partitions: Collection[int], learner: Learner) -> None:
        """Hand over what has come since the last look, partition after partition.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        fresh = [number for number in partitions if not await self._follow(number, learner)]
        if fresh and self._after:
            learner.forget()
            self._after.clear()
            self._since_ms.clear()
            self._cut_ms.clear()
            fresh = list(partitions)
        for number in fresh:
            await self._begin(number, learner)

    async def _follow(self, number: int, learner: Learner) -> bool:
        """Take what has come since the last look; False where there was none, or where it would be too much."""
        if number not in self._after:
            return False
        entries = events = 0
        while True:
            page = await read_after(
                self.server, self.keys.partition(number), self._after[number], inclusive=False, most=_PAGE
            )
            self._take(number, page, learner)
            entries, events = entries + len(page), events + sum(entry.count for entry in page)
            if len(page) < _PAGE:
                return True
            if entries >= self.most_entries or events >= self.most_events:
                return False

    async def _begin(self, number: int, learner: Learner) -> None:
        """Go back from the newest entry, as far as it goes."""
        pages, whole = await self._newest(self.keys.partition(number))
        entries = [entry for page in reversed(pages) for entry in reversed(page)]
        self._after[number] = "0-0"
        if not whole:
            self._cut_ms[number] = _time_ms(entries[0])
        for first in range(0, len(entries), _AT_ONCE):
            self._take(number, entries[first : first + _AT_ONCE], learner)
            # Others have their turn: half a million events take a second.
            await anyio.lowlevel.checkpoint()

    async def _newest(self, partition: PartitionKeys) -> tuple[list[list[StoredEntry]], bool]:
        """Return pages of entries, the newest first, and whether the stream begins with the last of them."""
        pages: list[list[StoredEntry]] = []
        end, events = "+", 0
        while events < self.most_events and len(pages) * _PAGE < self.most_entries:
            reply = await self.server.call("XREVRANGE", partition.stream(), end, "-", "COUNT", _PAGE)
            page = parse_entries(reply)
            if page:
                pages.append(page)
            if len(page) < _PAGE:
                return pages, True
            end, events = f"({page[-1].entry_id}", events + sum(entry.count for entry in page)
        return pages, False

    def _take(self, number: int, entries: Sequence[StoredEntry], learner: Learner) -> None:
        if entries:
            self._since_ms.setdefault(number, _time_ms(entries[0]))
            self._after[number] = entries[-1].entry_id
            learner.take(entries)


def _time_ms(entry: StoredEntry) -> int:
    return int(entry.entry_id.partition("-")[0])
