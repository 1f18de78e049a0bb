"""What a replay would change: per day, dimension and measure, and where the difference may come from.

Daily windows are compared, as reports read them: summed over partitions, cells under their names.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from consumers.measures import NAMES
from consumers.reader import StateReader
from consumers.state import CELL_DIMENSIONS, OTHER, Cell, Measures, merge
from consumers.versions import Replay, Versions
from consumers.views.accounting import read_unit_account
from consumers.windows import DAY, Window, day_shown
from pipeline.connection import AsyncServer
from pipeline.keys import Keys

ALL: Final = ""
"""The dimension of a day's total."""

_DIMENSIONS: Final = ("agent", "model", "state", "service", "tenant", "status")
_MS_PER_S: Final = 1_000


class Change(Struct, frozen=True):
    """One number of a day (`YYYY-MM-DD`) that differs: of all (`dimension` is ""), or of one name of a dimension.

    `measure` is what it is called, the unit in the name (`consumers.measures.NAMES`).
    """

    handler: str
    day: str
    dimension: str
    name: str
    measure: str
    live: int
    replayed: int


class Changes(Struct, frozen=True):
    """All of them, the days in order, a day's totals first; `days` were compared.

    `capped` are days on which a version has counted cells under `__other__`: there names may differ without a cause in
    the events. `incomplete` are days from before the replay's beginning, of which it has not everything.
    """

    days: int
    changes: Sequence[Change]
    capped: Sequence[str]
    incomplete: Sequence[str]


async def read_changes(server: AsyncServer, keys: Keys, partitions: int, versions: Versions, replay: Replay) -> Changes:
    """Compare what answers for a replay's days, without it, with what it would answer.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    live = StateReader(server, keys, partitions, versions.without(replay.number))
    shadow = StateReader(server, keys, partitions, versions.only(replay.number))
    seconds, _ = await server.call("TIME")
    windows = await _windows(server, keys, partitions, versions, replay, int(seconds))
    changes: list[Change] = []
    capped: set[str] = set()
    for handler in replay.handlers:
        for window in windows:
            of_live, of_shadow = [(await reader.cells_by_window(handler, [window]))[0][1] for reader in (live, shadow)]
            changes += _changes(handler, window, of_live, of_shadow)
            if any(OTHER in cell for cells in (of_live, of_shadow) for cell in cells):
                capped.add(day_shown(window[1]))
    since_s = await _complete_since_s(server, keys, partitions, replay)
    incomplete = [day_shown(start_s) for _, start_s in windows if start_s < since_s]
    return Changes(len(windows), changes, sorted(capped), incomplete)


async def _windows(  # noqa: PLR0913, PLR0917 - where, of what, as of when
    server: AsyncServer, keys: Keys, partitions: int, versions: Versions, replay: Replay, now_s: int
) -> list[Window]:
    """Return the daily windows of a replay's days in which one of the two has anything."""
    first_s = DAY.start_of(max(replay.days.from_s, now_s - DAY.kept_s))
    last_s = min(replay.days.until_s or now_s + DAY.width_s, now_s + DAY.width_s)
    days = range(first_s, last_s, DAY.width_s)
    units = [
        keys.partition(number).unit(handler, version)
        for number in range(partitions)
        for handler in replay.handlers
        for version in {replay.number, versions.base(handler)}
    ]
    found: list[Window] = []
    for day_s in days:
        there = await server.all([["EXISTS", unit.window(DAY.name, day_s)] for unit in units])
        if any(int(one) for one in there):
            found.append((DAY, day_s))
    return found


def _changes(
    handler: str, window: Window, live: Mapping[Cell, Measures], replayed: Mapping[Cell, Measures]
) -> Iterator[Change]:
    for dimension in (ALL, *_DIMENSIONS):
        ours, theirs = _grouped(live, dimension), _grouped(replayed, dimension)
        for name in sorted(ours.keys() | theirs.keys()):
            left, right = ours.get(name, {}), theirs.get(name, {})
            for measure in sorted(left.keys() | right.keys()):
                before, after = left.get(measure, 0), right.get(measure, 0)
                if before != after:
                    yield Change(
                        handler, day_shown(window[1]), dimension, name, NAMES.get(measure, measure), before, after
                    )


def _grouped(cells: Mapping[Cell, Measures], dimension: str) -> dict[str, Measures]:
    """Sum the measures of cells, without the buckets of histograms, by a dimension."""
    found: dict[str, Measures] = {}
    for cell, measures in cells.items():
        name = cell[CELL_DIMENSIONS.index(dimension)] if dimension else ""
        merge(found.setdefault(name, {}), {code: value for code, value in measures.items() if "." not in code})
    return found


async def _complete_since_s(server: AsyncServer, keys: Keys, partitions: int, replay: Replay) -> int:
    accounts = [
        await read_unit_account(server, keys.partition(number), handler, version=replay.number)
        for number in range(partitions)
        for handler in replay.handlers
    ]
    return max((account.since_ms for account in accounts), default=0) // _MS_PER_S
