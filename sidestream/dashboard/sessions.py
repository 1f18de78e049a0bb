"""What is said of sessions: which are listed and why, how they stand, what happened in one. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Final

from consumers.views.live import LiveSession
from sidestream.dashboard.view import View
from sidestream.dashboard.words import name
from sidestream.wording.human import counted, instant
from sidestream.wording.timeline_rows import MOST_ROWS, StayRow, TimelineRow, stays_of, timeline_of

_MOST_SHOWN: Final = 25
_WORRYING: Final = frozenset({"long", "stuck"})
_STANDINGS: Final = (
    ("active", "Active", "in the last 30 minutes"),
    ("long", "Long in a state", "past 95 % of visits"),
    ("stuck", "Stuck", "open for over 30 s"),
    ("quiet", "Abandoned", "silent for 30 minutes"),
    ("ended", "Ended", "in a last state"),
)


@dataclass
class Sessions:
    """What is said of sessions of one view."""

    view: View

    def standings(self) -> Sequence[tuple[str, str, str, int, str]]:
        """Return how sessions stand: its word, its title, what it means, how many, the tone."""
        rows = self.view.live_sessions
        counts = {standing: sum(row.standing == standing for row in rows) for standing, _, _ in _STANDINGS}
        return [
            (standing, title, about, counts[standing], "warn" if counts[standing] and standing in _WORRYING else "")
            for standing, title, about in _STANDINGS
        ]

    def heard_of(self) -> int:
        """Return how many sessions of the range and filters the stream tells of."""
        return len(self.view.live_sessions)

    def scope(self) -> str:
        """Return which sessions are listed, of how many, and why."""
        shown, found = len(self.sessions_shown()), len(self.view.sessions_listed)
        total, at_least = self.view.sessions_of_range
        least = "at least " if at_least else ""
        since = self.view.live_look.since_ms if self.view.live_look else None
        arrived = f"what has arrived on the stream since {instant(since / 1_000)} UTC" if since else "an empty stream"
        narrowed = " with these filters" if self.view.address.narrowed else ""
        return (
            f"{shown:,} of {found:,} sessions{narrowed}, as known from {arrived}. In the whole hours of this range "
            f"{least}{counted(total, 'session')} had requests, runs or errors."
        )

    def sessions_shown(self) -> Sequence[LiveSession]:
        """Return the sessions that the page has room for; `/api/view` has all that were read."""
        return self.view.sessions_listed[:_MOST_SHOWN]

    def stays(self) -> list[StayRow]:
        """Return the states that one session went through."""
        look, row = self.view.session_look, self.view.one_session
        return stays_of(look, ended=row is not None and row.standing == "ended") if look else []

    def timeline(self) -> list[TimelineRow]:
        """Return what happened in one session."""
        look = self.view.session_look
        return timeline_of(look, self.view.open_of_session) if look else []

    def earlier(self) -> int:
        """Return how many events of one session are known and not listed."""
        look = self.view.session_look
        return look.left_out + max(0, len(look.events) - MOST_ROWS) if look else 0

    def looked_back(self) -> str:
        """Return how far back the stream was looked at for one session, in a sentence."""
        look = self.view.session_look
        if look is None or look.since_ms is None:
            return "The stream is empty."
        whole = "all that it holds" if look.whole else "the newest of it"
        return f"Looked at was what has arrived since {instant(look.since_ms / 1_000)} UTC, {whole}."

    def tail_command(self) -> str:
        """Return the command that shows the same session in a terminal."""
        return f"sidestream tail --session {name(quote(self.view.address.session))} --since 24h"
