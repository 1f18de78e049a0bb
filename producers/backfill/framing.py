"""Framing: events of files into frames, each of one partition, one day and one resource. Decides only: no I/O.

Keeps:
- A frame is held against one ledger, so all its events are of one day.
- What is held here is bounded: beyond `MOST_HELD_EVENTS` the fullest open frame is closed, however full it is.
- Events without session and run are routed by their identity: the same event always lies in the same partition.
"""

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from pipeline import limits
from pipeline.events import Event, Resource
from pipeline.keys import partition_of
from pipeline.stream import LedgerPage
from pipeline.units import US_PER_S
from pipeline.wire import FrameEncoder

DAY_S: Final = 86_400
LIVES_S: Final = 730 * DAY_S
"""Past the end of its day: as long as the longest window that holds an event (a day's)."""

LEDGER_KEPT_S: Final = LIVES_S + 7 * DAY_S
"""Longer than any event of the day is still taken, whatever two clocks differ by."""

MOST_HELD_EVENTS: Final = 20_000
"""In open frames: some 10 MB. Files that are in the order of time fill few frames at once."""

_ENCODERS_KEPT: Final = 64
"""One for each resource that speaks in a file."""


@dataclass(slots=True)
class ReadyFrame:
    """A frame that has all but its sequences."""

    partition: int
    count: int
    body: bytes
    page: LedgerPage


@dataclass(slots=True)
class _OpenFrame:
    pieces: list[bytes] = field(default_factory=list[bytes])
    digests: list[bytes] = field(default_factory=list[bytes])
    size: int = 0


_Place = tuple[int, int, Resource]


class Framer:
    """Fills frames.

    Args:
        partitions: How many events are routed over; it must be the same in every run.
        most_held: See `MOST_HELD_EVENTS`.
    """

    def __init__(self, partitions: int, most_held: int = MOST_HELD_EVENTS) -> None:
        self.ready: dict[int, deque[ReadyFrame]] = {number: deque() for number in range(partitions)}
        """Frames to be sent, by partition, in order."""
        self.waiting = 0
        """Frames in `ready`."""
        self._partitions = partitions
        self._most_held = most_held
        self._held = 0
        self._open: dict[_Place, _OpenFrame] = {}
        self._encoders: dict[Resource, FrameEncoder] = {}
        self._route = lru_cache(maxsize=8192)(partition_of)

    def add(self, event: Event, resource: Resource, digest: bytes) -> None:
        """Take an event."""
        key = event.session or event.run_id or digest.hex()
        day = event.time_us // (DAY_S * US_PER_S)
        place = self._route(key, self._partitions), day, resource
        piece = self._encoder(resource).encode_piece([event])
        frame = self._open.get(place)
        if frame is not None and frame.size + len(piece) > limits.TARGET_EXPANDED_BYTES:
            self._close(place)
            frame = None
        if frame is None:
            frame = self._open[place] = _OpenFrame()
        frame.pieces.append(piece)
        frame.digests.append(digest)
        frame.size += len(piece)
        self._held += 1
        if len(frame.pieces) == limits.MAX_FRAME_EVENTS:
            self._close(place)
        elif self._held > self._most_held:
            self._close(max(self._open, key=lambda one: len(self._open[one].pieces)))

    def close_all(self) -> None:
        """Close every frame, however full."""
        for place in list(self._open):
            self._close(place)

    def _encoder(self, resource: Resource) -> FrameEncoder:
        encoder = self._encoders.get(resource)
        if encoder is None:
            if len(self._encoders) == _ENCODERS_KEPT:
                self._encoders.clear()
            encoder = self._encoders[resource] = FrameEncoder(resource, origin="backfill")
        return encoder

    def _close(self, place: _Place) -> None:
        partition, day, resource = place
        frame = self._open.pop(place)
        count = len(frame.pieces)
        self._held -= count
        page = LedgerPage(day_name(day), ledger_until_s(day), b"".join(frame.digests))
        body = self._encoder(resource).join(frame.pieces, count)
        self.ready[partition].append(ReadyFrame(partition, count, body, page))
        self.waiting += 1

    def take(self) -> dict[int, ReadyFrame]:
        """Take the oldest ready frame of each partition that has one."""
        taken = {number: frames.popleft() for number, frames in self.ready.items() if frames}
        self.waiting -= len(taken)
        return taken


@lru_cache(maxsize=1024)
def day_name(day: int) -> str:
    """Return a day, counted from 1970, as `YYYYMMDD`."""
    return datetime.fromtimestamp(day * DAY_S, UTC).strftime("%Y%m%d")


def ledger_until_s(day: int) -> int:
    """Return when the ledger of a day may be forgotten, in seconds since 1970."""
    return (day + 1) * DAY_S + LEDGER_KEPT_S
