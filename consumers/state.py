"""What a batch changes: increments of cells and marginals, the largest of a window; and the payload that carries them.

Keeps:
- Everything here is added or maximised, so the order within a batch, and the cut into batches, change nothing.
- Names are admitted in the order of their first event, so a cap admits the same names whatever the batches were.
- A cell's number is given by the worker; it is right because the commit that uses it fails unless the cursor, and with
  it the catalogue of cells, is the one the worker has read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias

import msgspec

from consumers.windows import DAY, LIFETIME, MARGINAL_RESOLUTIONS, RESOLUTIONS, Resolution, day_name
from pipeline.events import Resource
from pipeline.keys import UnitKeys

OTHER: Final = "__other__"
"""Where everything over a cap goes: counted and shown, never dropped."""

Cell: TypeAlias = tuple[str, str, str, str, str, str, str, str]
"""One combination of the joint dimensions, in the order of `CELL_DIMENSIONS`."""

CELL_DIMENSIONS: Final = ("service", "version", "environment", "tenant", "agent", "model", "state", "status")
OTHER_CELL: Final[Cell] = (OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER)

Measures: TypeAlias = dict[str, int]
Numbers: TypeAlias = dict[str, int]
"""Cell (as its stored name) -> its number within a day."""

FIELD_SEPARATOR: Final = "\x1f"


class Caps(msgspec.Struct, frozen=True):
    """How many names a window holds before the rest goes to `__other__`; a part of the recipe."""

    cells: int = 2_000
    names: int = 50_000
    slowest: int = 20


@dataclass(slots=True)
class Delta:
    """The pure result of folding some events, in terms of names; `weight` estimates the increments it costs."""

    cells: dict[tuple[int, Cell], Measures] = field(default_factory=dict[tuple[int, Cell], Measures])
    """(start of the finest window, cell) -> measures, in order of first appearance."""
    marginals: dict[tuple[str, int], dict[str, Measures]] = field(
        default_factory=dict[tuple[str, int], dict[str, Measures]]
    )
    """(dimension, start of the hour) -> name -> measures; the dimension's rank measure is `RANK`."""
    slowest: dict[int, dict[str, int]] = field(default_factory=dict[int, dict[str, int]])
    """Start of the finest window -> operation (as a stored name) -> duration in microseconds."""
    weight: int = 0

    def cell(self, start_s: int, cell: Cell) -> Measures:
        """Return the measures of a cell in a window, to be added to by `add`."""
        found = self.cells.get((start_s, cell))
        if found is None:
            found = self.cells[start_s, cell] = {}
        return found

    def add(self, measures: Measures, measure: str, value: int) -> None:
        """Add to one measure of a cell."""
        if measure in measures:
            measures[measure] += value
        else:
            measures[measure] = value
            self.weight += len(RESOLUTIONS) + 1

    def name(self, dimension: str, hour_s: int, name: str) -> Measures:
        """Return the measures of one name of a marginal, to be added to directly."""
        names = self.marginals.setdefault((dimension, hour_s), {})
        found = names.get(name)
        if found is None:
            found = names[name] = {}
            self.weight += _WEIGHT_OF_A_NAME
        return found

    def slow(self, start_s: int, operation: str, duration_us: int) -> None:
        """Offer an operation as one of the slowest of its window."""
        window = self.slowest.setdefault(start_s, {})
        if duration_us > window.get(operation, -1):
            window[operation] = duration_us


_WEIGHT_OF_A_NAME: Final = 10
RANK: Final = "rank"
"""The measure by which a marginal's names are ranked; stored as the score, not as a field."""


def cell_of(resource: Resource, tenant: str, rest: tuple[str, str, str, str]) -> Cell:
    """Return the cell of an event; `rest` is agent, model, state and status."""
    return (resource.service, resource.version, resource.environment, tenant, *rest)


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


@dataclass(slots=True)
class Payload:
    """What goes to the commit script: the keys behind the fixed ones, and the packed operations."""

    keys: list[str]
    packed: bytes
    new_cells: dict[str, Numbers]
    """Day -> the cells that this payload numbers; to be remembered once it is committed."""


class PayloadBuilder:
    """Turns a `Delta` into the commit script's operations for one unit.

    `numbers` are the catalogues of cells of every day the delta touches and of `all` (`Delta` days: `days_of`).
    `first_key` is the position of the first state key among the script's KEYS (Lua counts from 1).
    """

    def __init__(self, unit: UnitKeys, numbers: Mapping[str, Numbers], caps: Caps, *, first_key: int) -> None:
        self._unit = unit
        self._numbers = numbers
        self._caps = caps
        self._first_key = first_key
        self._keys: dict[str, int] = {}
        self._hashes: dict[tuple[str, int], Measures] = {}
        self._new: dict[str, Numbers] = {}

    def build(self, delta: Delta) -> Payload:
        """Build the payload; the delta is not changed."""
        for (start_s, cell), measures in delta.cells.items():
            self._add_cell(start_s, cell, measures)
        self._catalogue_new_cells()
        operations = [self._hash_ops(), self._marginal_ops(delta), self._slowest_ops(delta)]
        return Payload(list(self._keys), msgspec.msgpack.encode(operations), self._new)

    def _position(self, key: str) -> str:
        return str(self._keys.setdefault(key, len(self._keys) + self._first_key))

    def _add_cell(self, start_s: int, cell: Cell, measures: Measures) -> None:
        number = self._number(day_name(start_s), cell)
        for resolution in RESOLUTIONS:
            start = resolution.start_of(start_s)
            self._add_fields(self._unit.window(resolution.name, start), resolution.expires_at(start), number, measures)
        self._add_fields(self._unit.window(LIFETIME, 0), 0, self._number(LIFETIME, cell), measures)

    def _add_fields(self, key: str, expires_at: int, number: int, measures: Measures) -> None:
        fields = self._hashes.setdefault((key, expires_at), {})
        for measure, value in measures.items():
            name = f"{number}.{measure}"
            fields[name] = fields.get(name, 0) + value

    def _number(self, day: str, cell: Cell) -> int:
        name = stored_cell(cell)
        known, new = self._numbers[day], self._new.setdefault(day, {})
        number = known.get(name, new.get(name))
        if number is not None:
            return number
        size = len(known) + len(new)
        if size >= self._caps.cells and cell != OTHER_CELL:
            return self._number(day, OTHER_CELL)
        new[name] = size
        return size

    def _catalogue_new_cells(self) -> None:
        for day, cells in self._new.items():
            if cells:
                # A field that is not there yet becomes its number by being incremented by it.
                self._hashes[self._unit.cells(day), _catalogue_expiry(day)] = cells

    def _hash_ops(self) -> list[object]:
        return [[self._position(key), str(at), _flat(fields)] for (key, at), fields in self._hashes.items()]

    def _marginal_ops(self, delta: Delta) -> list[object]:
        windows: dict[tuple[str, Resolution, int], dict[str, Measures]] = {}
        for (dimension, hour_s), names in delta.marginals.items():
            for resolution in MARGINAL_RESOLUTIONS:
                window = windows.setdefault((dimension, resolution, resolution.start_of(hour_s)), {})
                for name, measures in names.items():
                    merge(window.setdefault(name, {}), measures)
        return [
            [
                self._position(self._unit.marginal(dimension, resolution.name, start)),
                self._position(self._unit.ranking(dimension, resolution.name, start)),
                str(resolution.expires_at(start)),
                str(self._caps.names),
                [_marginal_row(name, measures) for name, measures in names.items()],
            ]
            for (dimension, resolution, start), names in windows.items()
        ]

    def _slowest_ops(self, delta: Delta) -> list[object]:
        windows: dict[tuple[Resolution, int], dict[str, int]] = {}
        for start_s, operations in delta.slowest.items():
            for resolution in RESOLUTIONS:
                window = windows.setdefault((resolution, resolution.start_of(start_s)), {})
                for operation, duration_us in operations.items():
                    window[operation] = max(duration_us, window.get(operation, 0))
        return [
            [
                self._position(self._unit.slowest(resolution.name, start)),
                str(resolution.expires_at(start)),
                str(self._caps.slowest),
                _flat(largest(operations, self._caps.slowest)),
            ]
            for (resolution, start), operations in windows.items()
        ]


def days_of(delta: Delta) -> set[str]:
    """Return the catalogues of cells that a payload for `delta` needs."""
    return {day_name(start_s) for start_s, _ in delta.cells} | {LIFETIME}


def largest(operations: Mapping[str, int], keep: int) -> dict[str, int]:
    """Return the `keep` largest, ties by name: the same ones Redis keeps of a sorted set."""
    if len(operations) <= keep:
        return dict(operations)
    ordered = sorted(operations.items(), key=lambda item: (item[1], item[0].encode()), reverse=True)
    return dict(ordered[:keep])


def _catalogue_expiry(day: str) -> int:
    if day == LIFETIME:
        return 0
    start = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    return DAY.expires_at(int(start.timestamp()))


def _flat(fields: Mapping[str, int]) -> list[str]:
    flat: list[str] = []
    for name, value in fields.items():
        flat += (name, str(value))
    return flat


def _marginal_row(name: str, measures: Measures) -> list[object]:
    fields = [part for measure, value in measures.items() if measure != RANK for part in (measure, str(value))]
    return [name, str(measures.get(RANK, 0)), fields]
