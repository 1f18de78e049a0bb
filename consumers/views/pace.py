"""What is being spent now: the rate of the last minutes, the last hour, the hour before. Pure."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from consumers.views.figures import Figures, figures_of
from consumers.views.trend import Point, RangeCells, point_of
from consumers.windows import HOUR_S, MINUTE_S

NOW_MINUTES: Final = 5
"""Minutes that "now" is: fewer would jump with every single run."""


class Pace(Struct, frozen=True):
    """What is spent now, by the hour; the last hour and the one before. None of a cost is unknown.

    `now_nano_usd` is what an hour costs at the rate of the last `NOW_MINUTES` minutes, of which the last runs.
    """

    now_nano_usd: int | None
    hour: Figures
    before: Figures
    minutes: Sequence[Point]


def pace_of(hour: RangeCells, before: RangeCells, now_s: int, *, cost_known: bool) -> Pace:
    """Return what is spent now."""
    minutes = [point_of(step) for step in hour.steps]
    return Pace(
        now_nano_usd=_rate_now(minutes, now_s) if cost_known else None,
        hour=figures_of(hour.of_metrics, hour.of_cost),
        before=figures_of(before.of_metrics, before.of_cost),
        minutes=minutes,
    )


def now_from_s(now_s: int) -> int:
    """Return when "now" begins: the minute that runs is one of its minutes, as far as it has come."""
    return now_s - now_s % MINUTE_S - (NOW_MINUTES - 1) * MINUTE_S


def _rate_now(minutes: Sequence[Point], now_s: int) -> int:
    first_s = now_from_s(now_s)
    spent = sum(point.figures.cost_nano_usd for point in minutes if point.start_s >= first_s)
    return spent * HOUR_S // (now_s + 1 - first_s)
