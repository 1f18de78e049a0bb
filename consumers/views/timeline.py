"""One session, event by event, as the stream still tells it: what happened, through which states it went.

Keeps:
- It reads the one partition where the session's events come, back from the newest entry as far as `MOST_ENTRIES` and
  `MOST_EVENTS` go; where the namespace has got more partitions since, what came before may lie in another.
- Entries that say nothing of the session are passed over without being decoded, where their codec allows it.
- At most `MOST_KEPT` events are kept, the newest; how many were left out is said.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from consumers.reader import StateReader
from consumers.views.inflight import InFlight
from consumers.views.live import LiveLook, LiveSession, live_sessions, read_counted
from consumers.views.newest import Newest
from consumers.views.rankings import NameRow
from consumers.views.report import Range
from consumers.views.sessions import SessionSeen, seen_of
from consumers.views.states import StateFigures
from pipeline.connection import AsyncServer
from pipeline.errors import WireError
from pipeline.events import Event, Resource, TransitionEvent
from pipeline.keys import Keys, partition_of
from pipeline.wire import FrameDecoder, StoredEntry

MOST_ENTRIES: Final = 5_000
"""Entries that are looked through."""

MOST_EVENTS: Final = 500_000
"""Events after which it goes back no further."""

MOST_KEPT: Final = 2_000


class Stay(Struct, frozen=True):
    """A stay in a state; times are event times in microseconds, None where nobody told.

    `going_on` is true of the one it is in.
    """

    state: str
    from_us: int | None
    until_us: int | None
    going_on: bool = False


class OneSession(Struct, frozen=True):
    """What is known of one session.

    `events` are ordered by when they ended, `left_out` is how many older ones there were. `since_ms` is from which
    broker time on the stream was looked at, `whole` whether that is all that it holds. `counted` is what the state
    counted in `counted_range`; None where it knows nothing of the session.
    """

    session: str
    now_us: int
    since_ms: int | None
    whole: bool
    resource: Resource
    events: Sequence[Event]
    left_out: int
    seen: SessionSeen | None
    stays: Sequence[Stay]
    counted: NameRow | None
    counted_range: Range


@dataclass(slots=True)
class TimelineFollower:
    """Follows one session from look to look."""

    server: AsyncServer
    keys: Keys
    session: str
    resource: Resource = field(default_factory=Resource)
    """Of the application that spoke of it last."""
    _newest: Newest = field(init=False)
    _decoder: FrameDecoder = field(default_factory=FrameDecoder)
    _kept: deque[Event] = field(default_factory=lambda: deque[Event](maxlen=MOST_KEPT))
    _found: int = 0

    def __post_init__(self) -> None:
        self._newest = Newest(self.server, self.keys, MOST_ENTRIES, MOST_EVENTS)

    @property
    def since_ms(self) -> int | None:
        """The broker's time from which on every entry that is kept has been looked at; None where there was none."""
        return self._newest.since_ms

    @property
    def whole(self) -> bool:
        """Whether everything that the stream holds has been looked at."""
        return self._newest.whole

    @property
    def left_out(self) -> int:
        """How many events were found and not kept."""
        return self._found - len(self._kept)

    async def look(self, partitions: int) -> list[Event]:
        """Read what has come since the last look; return the events by when they ended.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        await self._newest.look([partition_of(self.session, partitions)], self)
        return sorted(self._kept, key=lambda event: event.time_us)

    def forget(self) -> None:
        """Know no event."""
        self._kept.clear()
        self._found = 0

    def take(self, entries: Sequence[StoredEntry]) -> None:
        """Keep what entries tell of the session."""
        for stored in entries:
            try:
                entry = stored.parse()
                frame = self._decoder.decode(entry) if self._decoder.may_hold(entry, self.session) else None
            except WireError:
                # A dead letter of the handlers': they say so.
                continue
            found = [event for event in frame.events if event and event.session == self.session] if frame else []
            if found and frame:
                self.resource = frame.resource
                self._kept.extend(found)
                self._found += len(found)


async def read_session(reader: StateReader, follower: TimelineFollower) -> OneSession:
    """Read one session: what the stream tells, and what the state counted.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    events = await follower.look(reader.partitions)
    seen = seen_of(follower.session, follower.resource.service, events)
    # Where the stream does not go back to its beginning, it may have begun at any time.
    first_us = seen.first_us if seen and follower.whole else 0
    counted, counted_range = await read_counted(reader, [follower.session], first_us)
    return OneSession(
        session=follower.session,
        now_us=time.time_ns() // 1_000,
        since_ms=follower.since_ms,
        whole=follower.whole,
        resource=follower.resource,
        events=events,
        left_out=follower.left_out,
        seen=seen,
        stays=stays_of(events),
        counted=counted.get(follower.session),
        counted_range=counted_range,
    )


def stands(look: OneSession, states: Sequence[StateFigures], open_now: Sequence[InFlight]) -> LiveSession | None:
    """Return where a session stands; None where neither the stream nor anything that is open tells of it.

    Args:
        look: The session.
        states: What is known of the states.
        open_now: What it has begun and not ended.
    """
    counted = {look.session: look.counted} if look.counted else {}
    seen = [look.seen] if look.seen else []
    alone = LiveLook(look.now_us, look.since_ms, seen, counted, look.counted_range)
    return next(iter(live_sessions(alone, states, open_now)), None)


def stays_of(events: Sequence[Event]) -> list[Stay]:
    """Return the stays that transitions tell, in their order.

    Args:
        events: Of one session, by when they ended.
    """
    stays: list[Stay] = []
    here: Stay | None = None
    for event in events:
        if not isinstance(event, TransitionEvent):
            continue
        if here is not None and here.state == event.from_state:
            stays.append(Stay(here.state, here.from_us, event.time_us))
        else:
            # It went from there to `from_state` and nobody told when; or the stream begins in between.
            if here is not None:
                stays.append(Stay(here.state, here.from_us, None))
            if event.from_state:
                began_us = None if event.duration_us is None else event.time_us - event.duration_us
                stays.append(Stay(event.from_state, began_us, event.time_us))
        here = Stay(event.to_state, event.time_us, None, going_on=True)
    return [*stays, here] if here is not None and here.state else stays
