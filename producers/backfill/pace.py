"""Pace: how fast files are fed, beside what is live.

Keeps: live events are not kept waiting: while workers are behind, nothing is fed. Decides by arguments: no clock here.
"""

from typing import Final

MOST_BEHIND_S: Final = 1.0
"""Seconds that handlers may be behind the newest entry before feeding rests."""

LOOK_EVERY_S: Final = 0.25
BURST_S: Final = 0.1
"""Of a rate: so much may be fed at once."""


class Pace:
    """Says how long to rest.

    Args:
        rate: Events a second at most; None for as many as there are.
    """

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._due_s: float | None = None

    def rest_s(self, events: int, now_s: float) -> float:
        """Return seconds to rest after so many events more.

        Args:
            events: Fed just now.
            now_s: A monotonic clock.
        """
        if self._rate is None:
            return 0.0
        due_s = max(self._due_s if self._due_s is not None else now_s, now_s - BURST_S)
        self._due_s = due_s + events / self._rate
        return max(0.0, self._due_s - now_s)
