"""What this process remembers of sessions: their state, since when, and how often each state was visited.

Keeps: memory is bounded; the sessions not heard of for longest are forgotten first, and their next transition says
that nobody knows how long the state lasted.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from pipeline import limits

MAX_SESSIONS: Final = 10_000
MAX_STATES: Final = 64
"""States of one session whose visits are counted; a state machine has a dozen."""


@dataclass(slots=True)
class _Session:
    """The state a session is in, and since when (microseconds)."""

    state: str
    since_us: int
    visits: dict[str, int] = field(default_factory=dict[str, int])


class SessionMemory:
    """Times and counts the visits to states; held for a moment by whoever reports a transition."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._lock = threading.RLock()

    def state(self, session: str) -> str:
        """Return the state a session is in; empty when that is not known."""
        known = self._sessions.get(session)
        return known.state if known is not None else ""

    def begin(self, session: str, state: str, now_us: int) -> None:
        """Note the state in which a session begins, unless it is known already."""
        with self._lock:
            if session not in self._sessions:
                self._remember(session, _Session(state, now_us, {state: 1}))

    def move(self, session: str, from_state: str, to_state: str, now_us: int) -> tuple[int | None, int]:
        """Note a transition; return the time spent in `from_state` (None if unknown) and the n of the visit."""
        with self._lock:
            known = self._sessions.get(session)
            if known is None:
                known = _Session(from_state, -1)
            lasted_us = now_us - known.since_us if known.since_us >= 0 and known.state == from_state else None
            if lasted_us is not None and not 0 <= lasted_us <= limits.MAX_DURATION_US:
                lasted_us = None
            visit = min(known.visits.get(to_state, 0) + 1, limits.MAX_COUNT)
            if to_state in known.visits or len(known.visits) < MAX_STATES:
                known.visits[to_state] = visit
            known.state, known.since_us = to_state, now_us
            self._remember(session, known)
        return lasted_us, visit

    def _remember(self, session: str, known: _Session) -> None:
        self._sessions[session] = known
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
