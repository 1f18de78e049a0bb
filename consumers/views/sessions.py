"""Sessions as the stream last told of them: in which state, since when, the last error.

The state counts what sessions cost; where a session stands it does not hold. That is read from the newest entries of
the stream, so it goes back only as far as these, and says so.

Keeps:
- It goes back as far as `Newest` does, and says how far; what it can no longer know it forgets.
- At most `MOST_SESSIONS` are remembered; those that were silent for longest are forgotten first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from msgspec import Struct

from consumers.views.newest import Newest
from pipeline.connection import AsyncServer
from pipeline.errors import WireError
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.wire import FrameDecoder, StoredEntry

MOST_ENTRIES: Final = 2_000
"""Entries of a partition that the first look goes back; of full frames they hold a million events."""

MOST_EVENTS: Final = 20_000
"""Events of a partition after which it goes back no further: about 50 ms of decoding."""

MOST_SESSIONS: Final = 5_000


class SessionSeen(Struct, frozen=True):
    """What the stream last told of a session; times are event times in microseconds."""

    session: str
    service: str
    first_us: int
    last_us: int
    state: str | None = None
    """None: no event that was looked at told it."""
    since_us: int | None = None
    """When it went into its state; None where that was before what was looked at."""
    agent: str = ""
    last_error: str = ""
    last_error_us: int | None = None
    errors: int = 0


@dataclass(slots=True)
class _Session:
    """A session while it is followed."""

    service: str
    first_us: int
    last_us: int
    state: str | None = None
    state_us: int = 0
    since_us: int | None = None
    agent: str = ""
    last_error: str = ""
    last_error_us: int | None = None
    errors: int = 0

    def take(self, event: Event) -> None:
        """Learn from one event, whatever the order they come in."""
        self.first_us = min(self.first_us, event.time_us)
        self.last_us = max(event.time_us, self.last_us)
        match event:
            case TransitionEvent():
                if event.time_us >= self.state_us or self.since_us is None:
                    self.state, self.state_us, self.since_us = event.to_state, event.time_us, event.time_us
            case ErrorEvent():
                self.errors += 1
                if event.time_us >= (self.last_error_us or 0):
                    self.last_error, self.last_error_us = event.type or "unknown", event.time_us
            case UsageEvent() | OperationEvent():
                self.agent = event.agent or self.agent
                # A run that began before a transition may end after it: where there was one, only another counts.
                if self.since_us is None and event.state and event.time_us >= self.state_us:
                    self.state, self.state_us = event.state, event.time_us
            case _:
                assert_never(event)


@dataclass(slots=True)
class SessionFollower:
    """Follows the sessions of one namespace from look to look."""

    server: AsyncServer
    keys: Keys
    _newest: Newest = field(init=False)
    _decoder: FrameDecoder = field(default_factory=FrameDecoder)
    _sessions: OrderedDict[str, _Session] = field(default_factory=OrderedDict[str, _Session])

    def __post_init__(self) -> None:
        self._newest = Newest(self.server, self.keys, MOST_ENTRIES, MOST_EVENTS)

    @property
    def since_ms(self) -> int | None:
        """The broker's time from which on every entry that is kept has been looked at; None where there was none."""
        return self._newest.since_ms

    async def look(self, partitions: int) -> list[SessionSeen]:
        """Read what has come since the last look; return the sessions, the last to be heard of first.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        await self._newest.look(range(partitions), self)
        seen = [_seen(name, session) for name, session in self._sessions.items()]
        return sorted(seen, key=lambda session: -session.last_us)

    def forget(self) -> None:
        """Know no session."""
        self._sessions.clear()

    def take(self, entries: Sequence[StoredEntry]) -> None:
        """Learn from entries."""
        for entry in entries:
            try:
                frame = self._decoder.decode(entry.parse())
            except WireError:
                # A dead letter of the handlers': they say so.
                continue
            for event in frame.events:
                if event is not None and event.session:
                    self._learn(frame.resource.service, event)

    def _learn(self, service: str, event: Event) -> None:
        session = self._sessions.get(event.session)
        if session is None:
            session = self._sessions[event.session] = _Session(service, event.time_us, event.time_us)
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(event.session)
        session.take(event)


def seen_of(name: str, service: str, events: Sequence[Event]) -> SessionSeen | None:
    """Return what events of one session tell of it; None of none."""
    if not events:
        return None
    session = _Session(service, events[0].time_us, events[0].time_us)
    for event in events:
        session.take(event)
    return _seen(name, session)


def _seen(name: str, session: _Session) -> SessionSeen:
    return SessionSeen(
        session=name,
        service=session.service,
        first_us=session.first_us,
        last_us=session.last_us,
        state=session.state,
        since_us=session.since_us,
        agent=session.agent,
        last_error=session.last_error,
        last_error_us=session.last_error_us,
        errors=session.errors,
    )
