"""How full the server is, and how long it will last: said long before it refuses an append.

Pure: readings come in with their time.
"""

from collections import deque
from typing import Final, Literal, TypeAlias

from msgspec import Struct

Level: TypeAlias = Literal["ok", "high", "critical"]

HIGH_RATIO: Final = 0.7
"""Of the limit: time for an operator to act."""

CRITICAL_RATIO: Final = 0.9
"""Of the limit: from here on what is only kept for a replay goes, before an append fails."""

_EASED_RATIO: Final = 0.05
"""A level ends this far below its beginning, so that a server that wavers about it is told of once."""

_SAMPLE_MS: Final = 60_000
_SAMPLES: Final = 60
_LEAST_SPAN_MS: Final = 5 * 60_000
"""A rate from less would be that of one batch."""

_MS_PER_HOUR: Final = 3_600_000
_ORDER: Final[tuple[Level, ...]] = ("ok", "high", "critical")


class MemoryReading(Struct, frozen=True):
    """The server's memory in bytes at one instant; `limit` is 0 where there is none."""

    used: int
    limit: int

    @property
    def ratio(self) -> float:
        """Used of the limit, 0 where there is none."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def level(self) -> Level:
        """How worrying it is."""
        return _level(self.ratio)


class Rate(Struct, frozen=True):
    """How memory grows: None where it has not been watched for long enough."""

    bytes_per_hour: float | None = None
    hours_left: float | None = None
    """Until the limit at this rate; None also where it does not grow or there is no limit."""


class MemoryWatch:
    """Remembers an hour of readings, and which level was told."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)
        self._told: Level = "ok"

    def look(self, now_ms: int, reading: MemoryReading) -> tuple[Rate, Level | None]:
        """Take one reading; return the rate of the last hour, and the level if it is one to tell of now.

        A level is told when it is first reached, and "ok" when a told one is well over.
        """
        if not self._samples or now_ms - self._samples[-1][0] >= _SAMPLE_MS:
            self._samples.append((now_ms, reading.used))
        level = self._with_easing(reading)
        news = level if level != self._told and (level == "ok" or _worse(level, self._told)) else None
        self._told = level
        return self._rate(now_ms, reading), news

    def _with_easing(self, reading: MemoryReading) -> Level:
        level = reading.level
        return _level(reading.ratio + _EASED_RATIO) if _worse(self._told, level) else level

    def _rate(self, now_ms: int, reading: MemoryReading) -> Rate:
        since_ms, used = self._samples[0]
        if now_ms - since_ms < _LEAST_SPAN_MS:
            return Rate()
        per_hour = (reading.used - used) * _MS_PER_HOUR / (now_ms - since_ms)
        left = max(0, reading.limit - reading.used) / per_hour if reading.limit and per_hour > 0 else None
        return Rate(per_hour, left)


def _level(ratio: float) -> Level:
    if ratio >= CRITICAL_RATIO:
        return "critical"
    return "high" if ratio >= HIGH_RATIO else "ok"


def _worse(level: Level, than: Level) -> bool:
    return _ORDER.index(level) > _ORDER.index(than)
