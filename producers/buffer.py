"""The buffer between the application's threads and the publisher: bounded, without a lock, without I/O.

Keeps:
- `offer` never waits: it is one comparison and one `deque.append`.
- At most `capacity` events are held, each of at most `MAX_EVENT_CHARS` characters: that is the bound on memory,
  whatever the application passes. Threads that offer at the same instant may each pass the comparison: the bound is
  exact but for one event a thread.
- Usage and operations are refused when nine tenths are full, so that errors and transitions still get in.
- Events of one partition leave in the order in which they came.

Time is an argument; one thread reads. Modelled on the RecordAccumulator of Kafka's producer.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline import limits
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent, check_event
from pipeline.keys import partition_of
from producers.ledger import Ledger

MAX_EVENT_CHARS: Final = 4096
"""Characters of one event's strings that the buffer takes as they are; more is cut first, off the fast way."""

_ROUTES_REMEMBERED: Final = 8192
"""Sessions whose partition is kept at hand; hashing one again costs about a microsecond."""

KINDS: Final[dict[type[Event], str]] = {
    UsageEvent: "usage",
    OperationEvent: "operation",
    TransitionEvent: "transition",
    ErrorEvent: "error",
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one partition, in order, not yet sealed."""

    partition: int
    events: list[Event]


def _no_reader() -> None:
    """Wake nobody."""


class Buffer:
    """Holds events until the publisher takes them.

    `incoming`, `usage_room`, `reader_sleeps`, `wake` and `ledger.offered.count` are public because the fastest call
    (`Telemetry.usage`) does in line what `offer` does.
    """

    def __init__(self, capacity: int, linger_s: float, wake: Callable[[], None] = _no_reader) -> None:
        self.incoming: deque[Event] = deque()
        self.capacity = capacity
        self.usage_room = capacity - capacity // 10
        self.linger_s = linger_s
        self.ledger = Ledger()
        self.reader_sleeps = True
        self.wake = wake
        self._seen_at_s: float | None = None
        self._routes: dict[str, int] = {}
        self._routed_by = 0

    def offer(self, event: Event) -> bool:
        """Take an event that has been counted as offered; return whether it is in.

        Its strings are measured, and cut if there is too much of them.
        """
        kind = KINDS.get(type(event))
        if kind is None:
            self.ledger.invalid("unknown", "type")
            return False
        try:
            fitting = event if _chars(event) <= MAX_EVENT_CHARS else _shortened(event)
        except Exception:  # noqa: BLE001 - whatever an application passes, its call must not raise
            self.ledger.invalid(kind, "arguments")
            return False
        return self.put(fitting, kind)

    def put(self, event: Event, kind: str) -> bool:
        """Take an event whose size is known to be fine, if there is room."""
        room = self.usage_room if kind in {"usage", "operation"} else self.capacity
        if len(self.incoming) >= room:
            self.ledger.shed(kind, "full")
            return False
        self.incoming.append(event)
        if self.reader_sleeps:
            self.wake()
        return True

    def due_in_s(self, now_s: float) -> float | None:
        """Return seconds until the events waiting here are to be taken, 0 if now, None if there are none.

        They are to be taken when a frame is full, or when the reader first saw them a linger ago.
        """
        if not self.incoming:
            self._seen_at_s = None
            return None
        if len(self.incoming) >= limits.MAX_FRAME_EVENTS:
            return 0.0
        if self._seen_at_s is None:
            self._seen_at_s = now_s
        return max(0.0, self._seen_at_s + self.linger_s - now_s)

    def ready(self, now_s: float) -> bool:
        """Return whether the events waiting here are to be taken now."""
        return self.due_in_s(now_s) == 0.0

    def drain(self, partitions: int, owner: str, most: int) -> list[Batch]:
        """Take events, as at most `most` batches of at most a frame's events each.

        Args:
            partitions: How many there are.
            owner: The producer, which routes events that have neither session nor run.
            most: Batches wanted; what would begin one more stays.
        """
        done: list[Batch] = []
        filling: dict[int, Batch] = {}
        self._seen_at_s = None
        for _ in range(len(self.incoming)):
            event = self.incoming.popleft()
            partition = self._partition(event, partitions, owner)
            batch = filling.get(partition)
            if batch is None:
                if len(done) + len(filling) >= most:
                    self.incoming.appendleft(event)
                    break
                batch = filling[partition] = Batch(partition, [])
            batch.events.append(event)
            if len(batch.events) >= limits.MAX_FRAME_EVENTS:
                done.append(filling.pop(partition))
        return done + list(filling.values())

    def _partition(self, event: Event, partitions: int, owner: str) -> int:
        if partitions != self._routed_by or len(self._routes) > _ROUTES_REMEMBERED:
            self._routes.clear()
            self._routed_by = partitions
        session, run_id = event.session, event.run_id
        # Not yet proven, and even asking whether it is empty may raise: the events taken so far would be lost with it.
        if not (isinstance(session, str) and isinstance(run_id, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            return 0  # sealing finds the event invalid, wherever it lies
        key = session or run_id or owner
        number = self._routes.get(key)
        if number is None:
            number = self._routes[key] = partition_of(key, partitions)
        return number


def _chars(event: Event) -> int:
    total = 0
    for name in event.__struct_fields__:
        value: object = getattr(event, name)
        if isinstance(value, str):
            total += len(value)
        elif value is not None and not isinstance(value, int):
            # Tags, tools, or something that has no business here: measured as written, whatever it is.
            total += sum(map(len, value)) if isinstance(value, tuple) else MAX_EVENT_CHARS + 1  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return total


def _shortened(event: Event) -> Event:
    """Return the event as the wire has it; if it is still too long, without its tags and the tools it asked for."""
    checked = check_event(event)
    if _chars(checked) <= MAX_EVENT_CHARS:
        return checked
    return check_event(_without_lists(checked))


def _without_lists(event: Event) -> Event:
    kept = {name: getattr(event, name) for name in event.__struct_fields__ if name not in {"tags", "tools"}}
    return type(event)(**kept)
