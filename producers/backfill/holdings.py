"""Holdings: which events a namespace has already, by the ids that they have on its streams. Pure.

An event's id is `<producer>:<partition>:<sequence>`, that of a foreign entry `<entry id>:<partition>:<index>`;
`sidestream tail --json` writes it, and an archive segment has it.

Keeps: "missing" is only said where it is certain. What was trimmed and stands in no archive may have been counted.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from pipeline.units import US_PER_MS
from pipeline.wire import Frame, StoredEntry, entry_producer

Verdict: TypeAlias = Literal["held", "missing", "unclear"]

MAX_AHEAD_US: Final = 3600 * 1_000_000
"""An event is dated at most an hour after its entry was appended; a later one is set aside by every handler."""

_ID: Final = re.compile(
    r"(?P<owner>[0-9a-f]{32}|[0-9]{1,20}-[0-9]{1,20}):(?P<partition>[0-9]{1,4}):(?P<number>[0-9]{1,16})"
)


class StreamId(Struct, frozen=True, gc=False):
    """An event's place on its stream; `owner` is a producer, or the id of a foreign entry."""

    owner: str
    partition: int
    number: int

    @property
    def foreign(self) -> bool:
        """Whether no fence knows of it."""
        return "-" in self.owner


def parse_id(own_id: str) -> StreamId | None:
    """Read an id, None where it is not one that a stream gives."""
    found = _ID.fullmatch(own_id)
    return StreamId(found["owner"], int(found["partition"]), int(found["number"])) if found else None


def event_id(frame: Frame, partition: int, index: int) -> str:
    """Return the id of an event of a frame."""
    if not frame.producer:
        return f"{frame.entry_id}:{partition}:{index}"
    return f"{frame.producer}:{partition}:{frame.first_seq + index}"


class Fence(Struct, frozen=True):
    """What the server knows of one producer in one partition."""

    next: int
    lost: int


@dataclass(slots=True)
class Holdings:
    """What the fences, the streams and an archive say about some producers.

    `oldest_us` says, by partition, from when on nothing was trimmed (the broker's time, microseconds; 0: ever).
    """

    fences: dict[tuple[str, int], Fence] = field(default_factory=dict[tuple[str, int], Fence])
    oldest_us: dict[int, int] = field(default_factory=dict[int, int])
    _runs: dict[tuple[str, int], list[tuple[int, int]]] = field(
        default_factory=dict[tuple[str, int], list[tuple[int, int]]]
    )
    _starts: dict[tuple[str, int], list[int]] = field(default_factory=dict[tuple[str, int], list[int]])

    def needs_streams(self, owners: Iterable[tuple[str, int]]) -> bool:
        """Return whether fences alone do not tell of each of these (owner, partition)."""
        return any(owner not in self.fences or self.fences[owner].lost for owner in owners)

    def add(self, partition: int, entry: StoredEntry) -> None:
        """Take note of an entry that is on a stream, or in the archive."""
        producer, said = entry_producer(entry.fields), entry.fields.get(b"s", b"0")
        first = int(said) if producer and said.isdigit() else 0
        owner = producer or entry.entry_id, partition
        self._runs.setdefault(owner, []).append((first, first + entry.count))
        self._starts.clear()

    def verdict(self, at: StreamId, time_us: int) -> Verdict:
        """Tell whether an event is there.

        Args:
            at: Its id.
            time_us: Its own time.
        """
        owner = at.owner, at.partition
        fence = self.fences.get(owner)
        if fence is not None and (at.number >= fence.next or not fence.lost):
            return "missing" if at.number >= fence.next else "held"
        if self._stands(owner, at.number):
            return "held"
        oldest_us = self.oldest_us.get(at.partition, 0)
        return "missing" if not oldest_us or time_us - MAX_AHEAD_US > oldest_us else "unclear"

    def _stands(self, owner: tuple[str, int], number: int) -> bool:
        runs = self._runs.get(owner)
        if not runs:
            return False
        starts = self._starts.get(owner)
        if starts is None:
            runs.sort()
            starts = self._starts[owner] = [first for first, _ in runs]
        at = bisect_right(starts, number) - 1
        return at >= 0 and number < runs[at][1]


def oldest_us(entry_id: str) -> int:
    """Return the broker's time of an entry, in microseconds since 1970."""
    return int(entry_id.partition("-")[0]) * US_PER_MS
