"""Windows of event time: their resolutions, how long each is kept, and which of them cover a range.

Keeps: a window is found from an event's own time alone, so the same events fill the same windows in any order and at
any later date; it expires at its end plus its retention, whenever it was written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias

from pipeline.units import US_PER_S

MINUTE_S: Final = 60
HOUR_S: Final = 3600
_HOUR_US: Final = HOUR_S * US_PER_S
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Resolution:
    """One width of window, in seconds, and how many seconds past its end a window is kept."""

    name: str
    width_s: int
    kept_s: int

    def start_of(self, time_s: int) -> int:
        """Return the start of the window that holds `time_s` (seconds since 1970)."""
        return time_s - time_s % self.width_s

    def expires_at(self, start_s: int) -> int:
        """Return when the window that starts at `start_s` is forgotten (seconds since 1970)."""
        return start_s + self.width_s + self.kept_s


Window: TypeAlias = tuple[Resolution, int]
"""A resolution and the start of one of its windows (seconds since 1970)."""

TEN_SECONDS: Final = Resolution("10s", 10, 2 * HOUR_S)
MINUTE: Final = Resolution("1m", MINUTE_S, 48 * HOUR_S)
HOUR: Final = Resolution("1h", HOUR_S, 90 * DAY_S)
DAY: Final = Resolution("1d", DAY_S, 730 * DAY_S)
RESOLUTIONS: Final = (TEN_SECONDS, MINUTE, HOUR, DAY)
"""Written together, for every cell."""

MARGINAL_HOUR: Final = Resolution("1h", HOUR_S, 48 * HOUR_S)
MARGINAL_RESOLUTIONS: Final = (MARGINAL_HOUR, DAY)
"""Written for every marginal (session, user, tag, error type, run, transition)."""

LIFETIME: Final = "all"
"""The name of the totals that have no window and no expiry."""


def day_name(time_s: int) -> str:
    """Return the UTC day of an instant as YYYYMMDD."""
    return _name_of_day(time_s // DAY_S)


def day_shown(time_s: int) -> str:
    """Return the UTC day of an instant as YYYY-MM-DD."""
    name = day_name(time_s)
    return f"{name[:4]}-{name[4:6]}-{name[6:]}"


@lru_cache(maxsize=64)
def _name_of_day(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).strftime("%Y%m%d")


def finest_start_s(time_us: int) -> int:
    """Return the start, in seconds, of the finest window that holds `time_us`."""
    time_s = time_us // US_PER_S
    return time_s - time_s % TEN_SECONDS.width_s


def hour_start_s(time_us: int) -> int:
    """Return the start, in seconds, of the hour that holds `time_us`."""
    return time_us // _HOUR_US * HOUR_S


def cover(since_s: int, until_s: int, now_s: int) -> Iterator[Window]:
    """Cover [since, until) with as few windows as are still kept, as (resolution, start) in order of time.

    The first window may begin up to one window before `since_s` where nothing finer is kept any more.
    """
    at = since_s
    while at < until_s:
        resolution = _widest_fit(at, until_s, now_s)
        start = resolution.start_of(at)
        yield resolution, start
        at = start + resolution.width_s


def _widest_fit(at: int, until_s: int, now_s: int) -> Resolution:
    for resolution in reversed(RESOLUTIONS):
        whole = at % resolution.width_s == 0 and at + resolution.width_s <= until_s
        if whole and resolution.expires_at(at) > now_s:
            return resolution
    # The ragged ends: the finest that is still kept.
    for resolution in RESOLUTIONS:
        if resolution.expires_at(resolution.start_of(at)) > now_s:
            return resolution
    return DAY
