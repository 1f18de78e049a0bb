"""What a commit writes: new values, from what a batch adds and what the state holds. Pure.

Keeps:
- A value is written whole. It is right because the commit fails unless the state's token is the one under which the
  values that it was made from were read.
- Who is admitted by a cap follows from the order of first events and from what is stored, so it is the same however
  the stream was cut into batches.
- A window's expiry is absolute: its end and its retention, whenever it was written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from consumers.state import OTHER, OTHER_CELL, Caps, Delta, Measures, Numbers, largest, merge, stored_cell
from consumers.values import TooLargeError, added
from consumers.windows import DAY, LIFETIME, MARGINAL_RESOLUTIONS, RESOLUTIONS, Resolution, day_name
from pipeline.keys import UnitKeys

if TYPE_CHECKING:
    from pipeline.connection import Arg

Place: TypeAlias = tuple[str, str]
"""A key and a field of its hash."""


class OverflowingError(Exception):
    """A sum would pass the limit of a value; `place` says which."""

    def __init__(self, place: Place, measure: str) -> None:
        super().__init__(f"{measure} in {place[0]}")
        self.place = place
        self.measure = measure


@dataclass(slots=True)
class Known:
    """What a worker knows of a unit's state, at one token.

    `values` has None for what is known not to be there. `sizes` are the names that a marginal has admitted.
    """

    numbers: dict[str, Numbers] = field(default_factory=dict[str, Numbers])
    values: dict[Place, bytes | None] = field(default_factory=dict[Place, bytes | None])
    sizes: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Payload:
    """What goes to the commit script: keys behind the fixed ones, arguments, and what is known once it is committed."""

    keys: list[str]
    arguments: "list[Arg]"
    values: dict[Place, bytes]
    numbers: dict[str, Numbers]
    sizes: dict[str, int]
    created: int
    """Fields of hashes that were not there before: no more than these may be new."""


@dataclass(frozen=True, slots=True)
class _Window:
    """One marginal's window: its hash, its ranking, and when both are forgotten (seconds since 1970)."""

    key: str
    ranking: str
    expires_at: int


class PayloadBuilder:
    """Turns a `Delta` into the commit script's operations for one unit.

    First `days` must be known, then what `missing` names; then `build`.

    Args:
        unit: Whose state it is.
        delta: What the batch adds; it is not changed.
        known: What is known of the state; it is not changed.
        caps: How many names a window holds.
        ranked_by: Dimension -> the measure that its names are ranked by.
    """

    def __init__(self, unit: UnitKeys, delta: Delta, known: Known, caps: Caps, ranked_by: Mapping[str, str]) -> None:
        self._unit = unit
        self._delta = delta
        self._known = known
        self._caps = caps
        self._ranked_by = ranked_by
        self._new_numbers: dict[str, Numbers] = {}
        self._expiry: dict[str, int] = {}
        self._cells: dict[Place, Measures] = {}
        self._shared: set[Place] = set()
        self._new_places: set[Place] = set()
        """Cells that this batch gives their numbers: their values cannot be there."""
        self._names: dict[_Window, tuple[str, dict[str, Measures]]] = {}

    def days(self) -> set[str]:
        """Return the catalogues of cells that are needed and not known."""
        days = {day_name(start_s) for start_s, _ in self._delta.cells} | {LIFETIME} if self._delta.cells else set[str]()
        return days - self._known.numbers.keys()

    def missing(self) -> tuple[list[Place], list[str]]:
        """Place what the batch adds; return the values, and the marginals' sizes, that are needed and not known."""
        self._place_cells()
        self._place_names()
        values = self._known.values
        places = [place for place in self._cells if place not in values and place not in self._new_places]
        sizes: list[str] = []
        for window, (_, names) in self._names.items():
            places += [(window.key, name) for name in (*names, OTHER) if (window.key, name) not in values]
            if window.key not in self._known.sizes:
                sizes.append(window.key)
        return places, sizes

    def build(self, first_key: int) -> Payload:
        """Build the payload.

        Args:
            first_key: The position of the first state key among the script's KEYS (Lua counts from 1).

        Raises:
            OverflowingError: A sum would pass the limit of a value.
            UnreadableValueError: A stored value is of a later version.
        """
        writer = _Writer(self._known.values, first_key)
        for day, cells in self._new_numbers.items():
            if cells:
                numbers = {cell: str(number).encode() for cell, number in cells.items()}
                writer.set(self._unit.cells(day), _catalogue_expiry(day), numbers)
        for (key, number), measures in self._cells.items():
            writer.add(key, self._expiry[key], number, measures)
        sizes = dict(self._write_names(writer))
        self._write_slowest(writer)
        arguments = writer.arguments()
        created = sum(not self._known.values.get(place) for place in writer.values)
        created += sum(map(len, self._new_numbers.values()))
        return Payload(list(writer.keys), arguments, writer.values, self._new_numbers, sizes, created)

    # Cells

    def _place_cells(self) -> None:
        unit = self._unit
        lifetime = unit.window(LIFETIME, 0)
        self._expiry[lifetime] = 0
        for (start_s, cell), measures in self._delta.cells.items():
            name, day = stored_cell(cell), day_name(start_s)
            number = self._number(day, name)
            for resolution in RESOLUTIONS:
                start = resolution.start_of(start_s)
                key = unit.window(resolution.name, start)
                self._expiry[key] = resolution.expires_at(start)
                self._place_cell(key, day, number, measures)
            self._place_cell(lifetime, LIFETIME, self._number(LIFETIME, name), measures)

    def _place_cell(self, key: str, day: str, number: int, measures: Measures) -> None:
        place = key, str(number)
        found = self._cells.get(place)
        if found is None:
            # Mostly all of a cell's windows gain the same: then they share it, until one of them gains more.
            self._cells[place] = measures
            self._shared.add(place)
            if number >= len(self._known.numbers[day]):
                self._new_places.add(place)
            return
        if place in self._shared:
            self._shared.remove(place)
            self._cells[place] = _sum(found, measures)
        else:
            merge(found, measures)

    def _number(self, day: str, name: str) -> int:
        known = self._known.numbers[day]
        new = self._new_numbers.get(day)
        if new is None:
            new = self._new_numbers[day] = {}
        number = known.get(name, new.get(name))
        if number is not None:
            return number
        size = len(known) + len(new)
        if size >= self._caps.cells and name != _OTHER_CELL:
            return self._number(day, _OTHER_CELL)
        new[name] = size
        return size

    # Marginals

    def _place_names(self) -> None:
        found: dict[tuple[str, Resolution, int], dict[str, Measures]] = {}
        for (dimension, hour_s, name), measures in self._delta.marginals.items():
            for resolution in MARGINAL_RESOLUTIONS:
                window = found.setdefault((dimension, resolution, resolution.start_of(hour_s)), {})
                window[name] = _sum(window[name], measures) if name in window else measures
        for (dimension, resolution, start), names in found.items():
            window = _Window(
                self._unit.marginal(dimension, resolution.name, start),
                self._unit.ranking(dimension, resolution.name, start),
                resolution.expires_at(start),
            )
            self._names[window] = dimension, names

    def _write_names(self, writer: "_Writer") -> Iterable[tuple[str, int]]:
        for window, (dimension, names) in self._names.items():
            admitted, size = self._admit(window.key, names)
            rank_by = self._ranked_by.get(dimension, "")
            ranks: dict[str, int] = {}
            for name, measures in admitted.items():
                total = writer.add(window.key, window.expires_at, name, measures)
                if name != OTHER:
                    ranks[name] = total.get(rank_by, 0)
            writer.maximise(window.ranking, window.expires_at, self._caps.ranked, ranks)
            yield window.key, size

    def _admit(self, key: str, names: Mapping[str, Measures]) -> tuple[dict[str, Measures], int]:
        """Return what is added under which name, and how many names the marginal has admitted then."""
        size, values = self._known.sizes[key], self._known.values
        admitted: dict[str, Measures] = {}
        for name, measures in names.items():
            under = name
            if name != OTHER and values[key, name] is None:
                if size < self._caps.names:
                    size += 1
                else:
                    under = OTHER
            admitted[under] = _sum(admitted[under], measures) if under in admitted else measures
        return admitted, size

    # The slowest

    def _write_slowest(self, writer: "_Writer") -> None:
        windows: dict[tuple[Resolution, int], dict[str, int]] = {}
        for start_s, operations in self._delta.slowest.items():
            for resolution in RESOLUTIONS:
                window = windows.setdefault((resolution, resolution.start_of(start_s)), {})
                for operation, duration_us in operations.items():
                    window[operation] = max(duration_us, window.get(operation, 0))
        for (resolution, start), operations in windows.items():
            key = self._unit.slowest(resolution.name, start)
            writer.maximise(key, resolution.expires_at(start), self._caps.slowest, operations)


class _Writer:
    """Collects keys and arguments as the script reads them."""

    def __init__(self, known: Mapping[Place, bytes | None], first_key: int) -> None:
        self.keys: dict[str, int] = {}
        self.values: dict[Place, bytes] = {}
        self._known = known
        self._first_key = first_key
        self._hashes: dict[str, tuple[int, dict[str, bytes]]] = {}
        self._largest: list[Arg] = []
        self._largest_count = 0

    def set(self, key: str, expires_at: int, fields: Mapping[str, bytes]) -> None:
        """Write fields of a hash as they are."""
        self._hashes.setdefault(key, (expires_at, {}))[1].update(fields)

    def add(self, key: str, expires_at: int, name: str, measures: Measures) -> Mapping[str, int]:
        """Add to a value, and return what it holds then."""
        try:
            value, total = added(self._known.get((key, name)), measures)
        except TooLargeError as error:
            raise OverflowingError((key, name), error.measure) from error
        self.values[key, name] = value
        self._hashes.setdefault(key, (expires_at, {}))[1][name] = value
        return total

    def maximise(self, key: str, expires_at: int, keep: int, scores: Mapping[str, int]) -> None:
        """Offer members to a sorted set that keeps the largest."""
        some = largest(scores, keep)
        if some:
            self._largest_count += 1
            self._largest += (self._position(key), expires_at, keep, len(some))
            for member, score in some.items():
                self._largest += (member, score)

    def arguments(self) -> "list[Arg]":
        """Return everything, in the script's order."""
        flat: list[Arg] = [len(self._hashes)]
        for key, (expires_at, fields) in self._hashes.items():
            flat += (self._position(key), expires_at, len(fields))
            for name, value in fields.items():
                flat += (name, value)
        return [*flat, self._largest_count, *self._largest]

    def _position(self, key: str) -> int:
        return self.keys.setdefault(key, len(self.keys) + self._first_key)


_OTHER_CELL: Final = stored_cell(OTHER_CELL)


def _sum(some: Measures, others: Measures) -> Measures:
    found = dict(some)
    merge(found, others)
    return found


def _catalogue_expiry(day: str) -> int:
    if day == LIFETIME:
        return 0
    start = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    return DAY.expires_at(int(start.timestamp()))


__all__ = ["Known", "OverflowingError", "Payload", "PayloadBuilder", "Place"]
