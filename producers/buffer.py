"""The buffer between the application's threads and the publisher: bounded, without I/O, its usual way without a lock.

Keeps:
- `offer` never waits: for a small event it is one comparison and one `deque.append`, for a large one also a sum under a
  lock that nobody holds for longer than a sum.
- Memory is bounded twice, whatever the application passes: at most `capacity` events, and at most `capacity_bytes` as
  estimated here. A small event (`SMALL_EVENT_CHARS` characters, context included) counts as `SLOT_BYTES`; a larger one
  as what its strings take by `sys.getsizeof`; none has more than `MAX_EVENT_CHARS` characters. A string that several
  events share counts for each, so the estimate is above what is really taken. Threads that offer at the same instant
  may each pass the comparison: the bounds are exact but for one event a thread.
- Usage and operations are refused when nine tenths are full, so that errors and transitions still get in.
- Events leave in the order in which they came.

One thread reads. Modelled on the RecordAccumulator of Kafka's producer, of which the other half is
`producers.accumulator`.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent, check_event
from producers.ledger import Ledger
from producers.refusals import what_is_wrong

MAX_EVENT_CHARS: Final = 4096
"""Characters of one event's strings that the buffer takes as they are; more is cut first."""

SMALL_EVENT_CHARS: Final = 320
"""Characters of an event that is not weighed: a request of an agent's run with all its ids has about 250."""

EVENT_BYTES: Final = 384
"""An event's object with its numbers; `benchmarks.call` finds 324 bytes."""

SLOT_BYTES: Final = EVENT_BYTES + 4 * SMALL_EVENT_CHARS
"""What a small event counts as: a character of a Python string takes at most four bytes."""

NEVER: Final = sys.maxsize
"""`ring_at` of a reader that is awake."""

KINDS: Final[dict[type[Event], str]] = {
    UsageEvent: "usage",
    OperationEvent: "operation",
    TransitionEvent: "transition",
    ErrorEvent: "error",
}

_LAST_SHED: Final = frozenset({"error", "transition"})


def _no_reader() -> None:
    """Wake nobody."""


class Buffer:
    """Holds events until the publisher takes them.

    `incoming`, `usage_room`, `ring_at`, `wake` and `ledger.offered.count` are public because the fastest call
    (`Telemetry.usage`) does in line what `offer` does.

    Args:
        capacity: Events at most.
        capacity_bytes: Bytes at most, as estimated here; None: as many as `capacity` small events take.
        wake: Wakes the reader, from any thread.
        ledger: Where events are counted; a new one by default.
    """

    def __init__(
        self,
        capacity: int,
        capacity_bytes: int | None = None,
        wake: Callable[[], None] = _no_reader,
        ledger: Ledger | None = None,
    ) -> None:
        self.incoming: deque[Event] = deque()
        self.usage_room = 0
        """Events in `incoming` from which on usage and operations are refused."""
        self.ring_at = 0
        """Events in `incoming` from which on the reader wants to be woken."""
        self.wake = wake
        self.ledger = ledger or Ledger()
        self._capacity = capacity
        self._capacity_bytes = capacity * SLOT_BYTES if capacity_bytes is None else capacity_bytes
        self._reserve = min(capacity, self._capacity_bytes // SLOT_BYTES) // 10
        self._room = 0
        self.elsewhere = 0
        """Events that the reader has taken and not sealed yet."""
        self._excess_bytes = 0
        self._excess: dict[int, int] = {}
        self._weighing = threading.Lock()
        self._make_room()

    def offer(self, event: Event) -> bool:
        """Take an event that has been counted as offered; return whether it is in.

        Its strings are measured, and cut if there is too much of them.
        """
        kind = KINDS.get(type(event))
        if kind is None:
            self.ledger.invalid("unknown", "type", why=f"an event is wanted, not {type(event).__name__}")
            return False
        try:
            chars = event_chars(event)
            if chars > MAX_EVENT_CHARS:
                event = _shortened(event)
                chars = event_chars(event)
            excess = 0 if chars <= SMALL_EVENT_CHARS else max(0, _event_bytes(event) - SLOT_BYTES)
        except Exception as error:  # noqa: BLE001 - whatever an application passes, its call must not raise
            self.ledger.invalid(kind, "arguments", why=what_is_wrong(error, {}))
            return False
        return self._put(event, kind, excess)

    def _put(self, event: Event, kind: str, excess: int) -> bool:
        if excess and not self._weigh(event, kind, excess):
            return False
        waiting = len(self.incoming)
        if waiting >= (self._room if kind in _LAST_SHED else self.usage_room):
            if excess:
                self._forget([event])
            self.refuse(kind)
            return False
        self.incoming.append(event)
        if waiting >= self.ring_at:
            self.wake()
        return True

    def refuse(self, kind: str) -> None:
        """Count an event that found no room: `full` says too many events, `bytes` too large ones."""
        by_bytes = (self._capacity_bytes - self._excess_bytes) // SLOT_BYTES < self._capacity
        self.ledger.shed(kind, "bytes" if by_bytes else "full")

    def _weigh(self, event: Event, kind: str, excess: int) -> bool:
        """Make room for what a large event has beyond its slot; return whether there is any."""
        with self._weighing:
            room = (self._capacity_bytes - self._excess_bytes - excess) // SLOT_BYTES - self.elsewhere
            fits = len(self.incoming) < room - (0 if kind in _LAST_SHED else self._reserve)
            if fits:
                self._excess[id(event)] = excess
                self._excess_bytes += excess
                self._make_room()
        if not fits:
            self.ledger.shed(kind, "bytes")
        return fits

    def _forget(self, events: list[Event]) -> None:
        """Give back what large events took beyond their slots."""
        with self._weighing:
            self._excess_bytes -= sum(self._excess.pop(id(event), 0) for event in events)
            self._make_room()

    def _make_room(self) -> None:
        slots = max(0, (self._capacity_bytes - self._excess_bytes) // SLOT_BYTES)
        self._room = max(0, min(self._capacity, slots) - self.elsewhere)
        self.usage_room = max(0, self._room - self._reserve)

    # The reader

    def take(self, most: int) -> list[Event]:
        """Take the oldest events, as many as there are up to `most`."""
        incoming = self.incoming
        events = [incoming.popleft() for _ in range(min(most, len(incoming)))]
        if self._excess:
            self._forget(events)
        return events

    def held(self) -> int:
        """Return the events that are buffered, here or with the reader."""
        return len(self.incoming) + self.elsewhere

    def held_elsewhere(self, events: int) -> None:
        """Count events that the reader has taken and still has to buffer: they take their slots."""
        if events != self.elsewhere:
            with self._weighing:
                self.elsewhere = events
                self._make_room()


def event_chars(event: Event) -> int:
    """Return the characters of an event's strings; what is no string where one should be counts as far too many."""
    total = 0
    for name in event.__struct_fields__:
        value: object = getattr(event, name)
        if isinstance(value, str):
            total += len(value)
        elif value is not None and not isinstance(value, int):
            # Tags, tools, or something that has no business here: measured as written, whatever it is.
            total += sum(map(len, value)) if isinstance(value, tuple) else MAX_EVENT_CHARS + 1  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return total


def _event_bytes(event: Event) -> int:
    """Return about how many bytes an event keeps alive."""
    total = EVENT_BYTES
    for name in event.__struct_fields__:
        value: object = getattr(event, name)
        if isinstance(value, tuple):
            total += sys.getsizeof(value) + sum(sys.getsizeof(one) for one in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        elif isinstance(value, str) and value:
            total += sys.getsizeof(value)
    return total


def _shortened(event: Event) -> Event:
    """Return the event as the wire has it; if it is still too long, without its tags and the tools it asked for."""
    checked = check_event(event)
    if event_chars(checked) <= MAX_EVENT_CHARS:
        return checked
    return check_event(_without_lists(checked))


def _without_lists(event: Event) -> Event:
    kept = {name: getattr(event, name) for name in event.__struct_fields__ if name not in {"tags", "tools"}}
    return type(event)(**kept)
