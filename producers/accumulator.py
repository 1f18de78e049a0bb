"""Open frames: encoded events by partition, each until its frame is full or has waited for long enough.

Keeps:
- Events of one partition leave in the order in which they came.
- A frame holds at most `limits.MAX_FRAME_EVENTS` events and the target of bytes, unless a single piece is larger.
- A frame waits for others no longer than the linger. The busier a partition, the sooner a frame has as many events as
  pay (`ENOUGH_EVENTS`), and the shorter it waits; it never leaves sooner than `LEAST_LINGER_S` unless it is full, so
  that a very busy application fills its frames.

Decides only: no I/O, time is an argument.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from pipeline import limits
from pipeline.events import Event
from pipeline.keys import partition_of

ENOUGH_EVENTS: Final = 200
"""An event takes 475 bytes of Redis in a frame of 1, 63 in one of 50, 54 in one of 200, 52 in one of 500."""

LEAST_LINGER_S: Final = 0.02
RATE_OVER_S: Final = 1.0
"""How far back the rate looks."""

LOOK_EVENTS: Final = 50
"""Events that are worth a look: encoding them takes about 0.1 ms, which an event loop does not feel."""

LEAST_LOOK_S: Final = 0.005

_ROUTES_REMEMBERED: Final = 8192
"""Sessions whose partition is kept at hand; hashing one again costs about a microsecond."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some events of one partition, encoded: `data` is what stands between the brackets of the list of events."""

    count: int
    data: bytes


@dataclass(slots=True)
class OpenFrame:
    """A frame that is being filled."""

    partition: int
    since_s: float
    count: int = 0
    size: int = 0
    pieces: list[bytes] = field(default_factory=list[bytes])

    def add(self, piece: Piece) -> None:
        """Take a piece that is known to fit."""
        self.count += piece.count
        self.size += len(piece.data)
        self.pieces.append(piece.data)

    def fits(self, piece: Piece) -> bool:
        """Return whether a piece may be added."""
        within = self.size + len(piece.data) <= limits.TARGET_EXPANDED_BYTES
        return within and self.count + piece.count <= limits.MAX_FRAME_EVENTS


class Accumulator:
    """The frames that are being filled, at most one a partition, and those that are full.

    Args:
        linger_s: How long a frame waits for others at most.
    """

    def __init__(self, linger_s: float) -> None:
        self.events = 0
        """Events that are held here."""
        self._linger_s = linger_s
        self._open: dict[int, OpenFrame] = {}
        self._full: deque[OpenFrame] = deque()
        self._rate = 0.0
        self._uncounted = 0
        self._counted_at_s: float | None = None

    def add(self, partition: int, piece: Piece, now_s: float) -> None:
        """Take a piece of a partition, of at most a frame's events."""
        frame = self._open.get(partition)
        if frame is not None and not frame.fits(piece):
            self._full.append(self._open.pop(partition))
            frame = None
        if frame is None:
            frame = self._open[partition] = OpenFrame(partition, now_s)
        frame.add(piece)
        self.events += piece.count
        if frame.count == limits.MAX_FRAME_EVENTS:
            self._full.append(self._open.pop(partition))

    def arrived(self, events: int, now_s: float) -> None:
        """Take note of how many events came since the last look, for the rate."""
        self._uncounted += events
        if self._counted_at_s is None:
            self._counted_at_s, self._uncounted = now_s, 0
        passed_s = now_s - self._counted_at_s
        if passed_s > 0:
            weight = 1 - math.exp(-passed_s / RATE_OVER_S)
            self._rate += weight * (self._uncounted / passed_s - self._rate)
            self._counted_at_s, self._uncounted = now_s, 0

    def due_in_s(self, now_s: float) -> float | None:
        """Return seconds until a frame is to be sealed, 0 if now, None if there is none."""
        if self._full:
            return 0.0
        if not self._open:
            return None
        since_s = min(frame.since_s for frame in self._open.values())
        return max(0.0, since_s + self.linger_s() - now_s)

    def linger_s(self) -> float:
        """Return how long a frame waits for others at the present rate."""
        if self._rate <= 0:
            return self._linger_s
        enough_s = ENOUGH_EVENTS * max(1, len(self._open)) / self._rate
        return min(self._linger_s, max(LEAST_LINGER_S, enough_s))

    def look_in_s(self) -> float:
        """Return seconds after which, at the present rate, there are events worth a look."""
        return max(LEAST_LOOK_S, LOOK_EVENTS / self._rate) if self._rate > 0 else math.inf

    def take(self, now_s: float, most: int, *, hurry: bool) -> list[OpenFrame]:
        """Take the frames that are to be sealed now, at most `most`; see `sealed`.

        Args:
            now_s: A monotonic clock.
            most: Frames wanted; the others stay.
            hurry: Take frames also that could wait for more events.
        """
        if hurry or self.due_in_s(now_s) == 0.0:
            linger_s = 0.0 if hurry else self.linger_s()
            # Those that are nearly due go too: one write, and one wake-up, for all.
            for frame in [f for f in self._open.values() if now_s - f.since_s >= linger_s / 2]:
                self._full.append(self._open.pop(frame.partition))
        return [self._full.popleft() for _ in range(min(most, len(self._full)))]

    def sealed(self, frame: OpenFrame) -> None:
        """Take note that a frame which was taken is sealed: its events are held here no longer."""
        self.events -= frame.count


class Router:
    """Says which partition an event belongs to: by its session, else its run, else its producer."""

    def __init__(self) -> None:
        self._routes: dict[str, int] = {}
        self._routed_by = 0

    def split(self, events: list[Event], partitions: int, owner: str) -> dict[int, list[Event]]:
        """Return the events by partition, in order.

        Args:
            events: Not proven: their session may be anything.
            partitions: How many there are.
            owner: The producer.
        """
        if partitions != self._routed_by or len(self._routes) > _ROUTES_REMEMBERED:
            self._routes.clear()
            self._routed_by = partitions
        known = self._routes.get
        found: dict[int, list[Event]] = {}
        for event in events:
            session = event.session
            number = known(session) if type(session) is str else None
            if number is None:
                number = self._route(event, owner)
            try:
                found[number].append(event)
            except KeyError:
                found[number] = [event]
        return found

    def _route(self, event: Event, owner: str) -> int:
        session, run_id = event.session, event.run_id
        # Not yet proven, and even asking whether it is empty may raise: the events beside it would be lost with it.
        if not (isinstance(session, str) and isinstance(run_id, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            return 0  # encoding finds the event invalid, wherever it lies
        key = session or run_id or owner
        number = self._routes.get(key)
        if number is None:
            number = self._routes[key] = partition_of(key, self._routed_by)
        return number
