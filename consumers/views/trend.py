"""The cells of a range, and of each step of a line through it: what figures, breakdowns and trends are made of.

Keeps: the totals hold exactly the windows that a report of the same range holds. The steps tile that range: their sum
is the total wherever all its windows are still kept.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from consumers.alerts.rules import Where
from consumers.reader import StateReader
from consumers.state import CELL_DIMENSIONS, OTHER, Cell, Measures, merge
from consumers.views.completeness import COST, METRICS
from consumers.views.figures import Cells, Figures, cover_names, figures_of, narrow, span
from consumers.views.report import Range
from consumers.windows import DAY, DAY_S, HOUR, HOUR_S, MINUTE, MINUTE_S, Resolution, Window, cover

EVENTS_AHEAD_S: Final = HOUR_S
"""An event dated further ahead is dead-lettered, so no window beyond holds anything."""

_CROWDED: Final = 300
"""Cells above which a week is read by the day: hours of so many would take seconds to add up."""


class Step(Struct, frozen=True):
    """One step of a trend; the first and the last may be cut by the range."""

    start_s: int
    of_metrics: Cells
    of_cost: Cells


class Point(Struct, frozen=True):
    """One step of a trend: its start, and its figures."""

    start_s: int
    figures: Figures


class RangeCells(Struct, frozen=True):
    """What the two handlers counted in a range; `covered` is what the windows hold of `asked`, `names` of marginals."""

    asked: Range
    covered: Range
    names: Range
    of_metrics: Cells
    of_cost: Cells
    step_s: int
    steps: Sequence[Step]

    def since(self, from_s: int) -> tuple[Cells, Cells]:
        """Return what the two handlers counted in the steps that begin at `from_s` or later."""
        steps = [step for step in self.steps if step.start_s >= from_s]
        return _sum(step.of_metrics for step in steps), _sum(step.of_cost for step in steps)

    def narrowed(self, where: Where) -> "RangeCells":
        """Return what of it `where` matches."""
        if where == Where():
            return self
        return RangeCells(
            asked=self.asked,
            covered=self.covered,
            names=self.names,
            of_metrics=narrow(self.of_metrics, where),
            of_cost=narrow(self.of_cost, where),
            step_s=self.step_s,
            steps=[
                Step(step.start_s, narrow(step.of_metrics, where), narrow(step.of_cost, where)) for step in self.steps
            ],
        )


def point_of(step: Step) -> Point:
    """Return the figures of a step."""
    return Point(step.start_s, figures_of(step.of_metrics, step.of_cost))


def names_in(cells: RangeCells, dimension: str) -> list[str]:
    """Return the names of a dimension that occur, in order; neither what has none, nor what a cap hid."""
    place = CELL_DIMENSIONS.index(dimension)
    found = {cell[place] for cell in (*cells.of_metrics, *cells.of_cost)}
    return sorted(found - {"", OTHER})


def range_windows(asked: Range, now_s: int) -> tuple[list[Window], list[Window]]:
    """Return the windows of cells and those of marginals that a report of a range reads.

    Raises:
        ValueError: The range is empty, or older than anything that is kept.
    """
    if asked.from_s >= asked.until_s:
        raise ValueError("the range is empty: it ends before it begins")
    since_s = max(asked.from_s, DAY.start_of(now_s - DAY.kept_s))
    if asked.until_s <= since_s:
        raise ValueError("nothing of that range is kept any more")
    until_s = max(since_s + 1, min(asked.until_s, now_s + EVENTS_AHEAD_S))
    return list(cover(since_s, until_s, now_s)), list(cover_names(since_s, until_s, now_s))


async def read_range_cells(reader: StateReader, asked: Range, now_s: int) -> RangeCells:
    """Read the cells of a range and of the steps of its trend.

    Raises:
        ValueError: See `range_windows`.
        SidestreamError: See `AsyncServer.call`.
    """
    windows, names = range_windows(asked, now_s)
    covered = Range(*span(windows))
    resolution, step_s = _step_of(covered, now_s)
    if resolution is HOUR and covered.until_s - covered.from_s > 2 * DAY_S:
        of_metrics = await _by_window(reader, METRICS, windows)
        if len({cell for cells in of_metrics.values() for cell in cells}) > _CROWDED:
            resolution, step_s = DAY, DAY_S
    tiles = {start_s: _tile(start_s, step_s, covered, resolution, now_s) for start_s in _starts(covered, step_s)}
    wanted = list(dict.fromkeys([*windows, *(window for tile in tiles.values() for window in tile)]))
    of_metrics = await _by_window(reader, METRICS, wanted)
    of_cost = await _by_window(reader, COST, wanted)
    return RangeCells(
        asked=asked,
        covered=covered,
        names=Range(*span(names)),
        of_metrics=_sum(of_metrics[window] for window in windows),
        of_cost=_sum(of_cost[window] for window in windows),
        step_s=step_s,
        steps=[
            Step(start_s, _sum(of_metrics[window] for window in tile), _sum(of_cost[window] for window in tile))
            for start_s, tile in tiles.items()
        ],
    )


async def read_days(reader: StateReader, now_s: int, days: int) -> list[Step]:
    """Read the last `days` days (UTC), today among them and unfinished; of the cost alone.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    today_s = DAY.start_of(now_s)
    starts = range(today_s - (days - 1) * DAY_S, today_s + 1, DAY_S)
    found = await reader.cells_by_window(COST, [(DAY, start_s) for start_s in starts])
    return [Step(window[1], {}, cells) for window, cells in found]


def _step_of(covered: Range, now_s: int) -> tuple[Resolution, int]:
    """Return the windows that a trend is read from, and the width of its steps in seconds: 15 to 170 of them."""
    wide_s = covered.until_s - covered.from_s
    choices = ((MINUTE, MINUTE_S, 2 * HOUR_S), (MINUTE, 5 * MINUTE_S, 6 * HOUR_S), (HOUR, HOUR_S, 8 * DAY_S))
    for resolution, step_s, longest_s in choices:
        # Cut to whole windows a range may be a little longer than it was asked for.
        if wide_s <= longest_s + MINUTE_S and resolution.expires_at(covered.from_s) > now_s:
            return resolution, step_s
    return DAY, DAY_S


def _starts(covered: Range, step_s: int) -> range:
    return range(covered.from_s - covered.from_s % step_s, covered.until_s, step_s)


def _tile(start_s: int, step_s: int, covered: Range, resolution: Resolution, now_s: int) -> list[Window]:
    """Return the windows of one step, as far as the range goes."""
    first_s, end_s = max(start_s, covered.from_s), min(start_s + step_s, covered.until_s)
    if step_s == DAY_S and end_s - first_s == DAY_S:
        return [(DAY, first_s)]
    windows = list(cover(first_s, end_s, now_s))
    # Where nothing finer is kept, a window may begin before its step: it belongs to the step before.
    return [window for window in windows if window[1] >= first_s or resolution is DAY]


async def _by_window(
    reader: StateReader, handler: str, windows: Sequence[Window]
) -> dict[Window, dict[Cell, Measures]]:
    return dict(await reader.cells_by_window(handler, windows))


def _sum(parts: Iterable[Cells]) -> dict[Cell, Measures]:
    total: dict[Cell, Measures] = {}
    for cells in parts:
        for cell, measures in cells.items():
            merge(total.setdefault(cell, {}), measures)
    return total
