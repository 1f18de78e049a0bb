"""What a batch adds, in terms of names: cells, marginals, the slowest operations of each window. Pure.

Keeps:
- Everything here is added or maximised, so the order within a batch, and the cut into batches, change nothing.
- Names are kept in the order of their first event, so a cap admits the same names whatever the batches were.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from consumers.windows import MARGINAL_RESOLUTIONS, RESOLUTIONS
from pipeline.events import Resource

OTHER: Final = "__other__"
"""Where everything over a cap goes: counted and shown, never dropped."""

Cell: TypeAlias = tuple[str, str, str, str, str, str, str, str]
"""One combination of the joint dimensions, in the order of `CELL_DIMENSIONS`."""

CELL_DIMENSIONS: Final = ("service", "version", "environment", "tenant", "agent", "model", "state", "status")
OTHER_CELL: Final[Cell] = (OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER)

Measures: TypeAlias = dict[str, int]
Numbers: TypeAlias = dict[str, int]
"""Cell (as its stored name) -> its number within a day."""

MOST_SLOWEST: Final = 200
"""What a batch offers of the slowest operations of a window at most: a cap may not be larger."""


class Caps(msgspec.Struct, frozen=True):
    """How many names a window holds before the rest goes to `__other__`; a part of the recipe.

    `slowest` operations and the `ranked` highest names of a window are kept apart, to be found at once.
    """

    cells: int = 2_000
    names: int = 50_000
    slowest: int = 20
    ranked: int = 200


@dataclass(slots=True)
class Delta:
    """The pure result of folding some events; `weight` is how many values it changes."""

    cells: dict[tuple[int, Cell], Measures] = field(default_factory=dict[tuple[int, Cell], Measures])
    """(start of the finest window, cell) -> measures, in order of first appearance."""
    marginals: dict[tuple[str, int, str], Measures] = field(default_factory=dict[tuple[str, int, str], Measures])
    """(dimension, start of the hour, name) -> measures, in order of first appearance."""
    slowest: dict[int, dict[str, int]] = field(default_factory=dict[int, dict[str, int]])
    """Start of the finest window -> operation (as a stored name) -> duration in microseconds."""
    weight: int = 0
    _known: set[Cell] = field(default_factory=set[Cell])
    _slow_from: dict[int, int] = field(default_factory=dict[int, int])

    def cell(self, start_s: int, cell: Cell) -> Measures:
        """Return the measures of a cell in a window, to be added to."""
        found = self.cells.get((start_s, cell))
        if found is None:
            found = self.cells[start_s, cell] = {}
            self.weight += 1
            if cell not in self._known:
                # Its windows of a minute and longer: mostly the same ones for all of a batch.
                self._known.add(cell)
                self.weight += _WIDER_WINDOWS
        return found

    def name(self, dimension: str, hour_s: int, name: str) -> Measures:
        """Return the measures of one name of a marginal, to be added to."""
        place = dimension, hour_s, name
        found = self.marginals.get(place)
        if found is None:
            found = self.marginals[place] = {}
            self.weight += _VALUES_OF_A_NAME
        return found

    def is_slow(self, start_s: int, duration_us: int) -> bool:
        """Tell whether an operation may be among the slowest of its window, before anybody gives it a name."""
        return duration_us >= self._slow_from.get(start_s, 0)

    def slow(self, start_s: int, operation: str, duration_us: int) -> None:
        """Offer an operation as one of the slowest of its window."""
        window = self.slowest.get(start_s)
        if window is None:
            window = self.slowest[start_s] = {}
        if duration_us > window.get(operation, -1):
            window[operation] = duration_us
        if len(window) > 2 * MOST_SLOWEST:
            kept = self.slowest[start_s] = largest(window, MOST_SLOWEST)
            self._slow_from[start_s] = min(kept.values())


_WIDER_WINDOWS: Final = len(RESOLUTIONS)
_VALUES_OF_A_NAME: Final = len(MARGINAL_RESOLUTIONS)


def cell_of(resource: Resource, tenant: str, rest: tuple[str, str, str, str]) -> Cell:
    """Return the cell of an event; `rest` is agent, model, state and status."""
    return (resource.service, resource.version, resource.environment, tenant, *rest)


def add(measures: Measures, measure: str, value: int) -> None:
    """Add to one measure."""
    measures[measure] = measures.get(measure, 0) + value


def merge(into: Measures, measures: Mapping[str, int]) -> None:
    """Add measures to measures."""
    for measure, value in measures.items():
        into[measure] = into.get(measure, 0) + value


def stored_cell(cell: Cell) -> str:
    """Return a cell as its name in the catalogue: a JSON array."""
    return msgspec.json.encode(cell).decode()


def parse_cell(name: bytes | str) -> Cell:
    """Return the cell of a stored name."""
    return msgspec.json.decode(name, type=Cell)


def largest(operations: Mapping[str, int], keep: int) -> dict[str, int]:
    """Return the `keep` largest, ties by name: the same ones Redis keeps of a sorted set."""
    if len(operations) <= keep:
        return dict(operations)
    ordered = sorted(operations.items(), key=lambda item: (item[1], item[0].encode()), reverse=True)
    return dict(ordered[:keep])
