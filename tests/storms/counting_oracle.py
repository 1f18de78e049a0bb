"""The oracle of the consuming side: what was appended, counted by a naive model, against what workers counted.

It reads what was counted as `report` does, by `StateReader`; marginals, which no command shows yet, by their documented
keys (docs/state.md).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
from storms.counting_model import DAY_S, HANDLERS, SINK, Books, Cell, Model, Numbers
from storms.entries import Entry
from storms.oracle import Check

from consumers.reader import StateReader
from consumers.state import OTHER
from consumers.views.accounting import UnitAccount
from consumers.views.dead_letters import StoredLetter, read_dead_letters
from consumers.views.status import Broken, read_status
from consumers.windows import DAY
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.stream import parse_entries
from pipeline.wire import StoredEntry

KEPT_S: Final = 730 * DAY_S
COUNTS: Final = frozenset({"rq", "ru", "tl", "st", "tr", "er"})
"""One for each event, of whatever kind."""

DIMENSIONS: Final[Mapping[str, Sequence[str]]] = {
    "metrics": ("session", "user", "tag", "error", "transition"),
    "cost": ("session", "user", "tag", "run"),
}
BOOKS: Final = {"none": 1, "double": 2}
"""Price books of the storm, by the name a recipe has for each: what a price of the catalogue is multiplied by."""

_MOST_LETTERS: Final = 1_000_000


@dataclass
class Found:
    """All that the server has in the end."""

    unreadable: Sequence[str]
    cells: dict[tuple[str, int], Numbers]
    names: dict[tuple[str, str, int], Numbers]
    slow: dict[int, list[int]]
    letters: Sequence[StoredLetter]
    accounts: Sequence[UnitAccount]
    broken: Sequence[Broken]
    stored: Mapping[int, Sequence[StoredEntry]]

    @property
    def trimmed(self) -> int:
        """Events that trimming took from the streams."""
        return sum({one.partition: one.trimmed + one.trimmed_foreign for one in self.accounts}.values())


async def read_books(server: AsyncServer, keys: Keys, partitions: int) -> Books:
    """Read the recipes of `cost`."""
    rows: dict[int, list[tuple[tuple[int, int], int, int]]] = {}
    for number in range(partitions):
        stored = await server.call("LRANGE", keys.partition(number).unit("cost").recipes(), 0, -1)
        for row in stored:
            cursor, _, recipe = row.decode().split(" ", 2)
            entry_id, _, index = cursor.rpartition(":")
            milliseconds, _, sequence = entry_id.partition("-")
            factor = BOOKS[json.loads(recipe).get("book", "none")]
            rows.setdefault(number, []).append(((int(milliseconds), int(sequence)), int(index), factor))
    return Books(rows)


async def read_found(server: AsyncServer, keys: Keys, partitions: int, days: Sequence[int]) -> Found:
    """Read what there is of these days, and since the beginning."""
    reader = StateReader(server, keys, partitions)
    cells: dict[tuple[str, int], Numbers] = {}
    names: dict[tuple[str, str, int], Numbers] = {}
    slow: dict[int, list[int]] = {}
    unreadable: list[str] = []
    for handler in HANDLERS:
        for day in (0, *days):
            try:
                read = reader.cells(handler, [(DAY, day)]) if day else reader.lifetime(handler)
                cells[handler, day] = _counters(await read)
            except LookupError as error:
                # A number that no cell has: what the catalogue adds up to was added twice.
                unreadable.append(f"{handler}, {_day(day) if day else 'in all'}: {error!r}")
            for dimension in DIMENSIONS[handler] if day else ():
                names[handler, dimension, day] = await _read_names(server, keys, partitions, (handler, dimension, day))
    for day in days:
        slow[day] = [one.duration_us for one in await reader.slowest([(DAY, day)], 20)]
    status = await read_status(server, keys, partitions)
    stored = {
        number: parse_entries(await server.call("XRANGE", keys.partition(number).stream(), "-", "+"))
        for number in range(partitions)
    }
    letters = await read_dead_letters(server, keys, partitions, most=_MOST_LETTERS)
    return Found(unreadable, cells, names, slow, letters, status.accounts, status.broken, stored)


async def _read_names(server: AsyncServer, keys: Keys, partitions: int, which: tuple[str, str, int]) -> Numbers:
    handler, dimension, day = which
    found: Numbers = defaultdict(Counter[str])
    for number in range(partitions):
        flat = await server.call("HGETALL", keys.partition(number).unit(handler).marginal(dimension, "1d", day))
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            assert value[:1] == b"\x01", "docs/state.md knows one layout of a value"
            found[name.decode()].update(msgspec.msgpack.decode(value[1:], type=dict[str, int]))
    return found


def _under_the_cap(expected: Numbers, there: Numbers) -> Numbers:
    """Return what is expected of names of which a window holds so many and no more: the rest is under `__other__`.

    Which are admitted hangs on who came first; of a name in two partitions one may be.
    """
    if OTHER not in there:
        return expected
    found: Numbers = {name: Counter(there.get(name, {})) & numbers for name, numbers in expected.items()}
    rest: Counter[str] = Counter()
    for name, numbers in expected.items():
        rest += numbers - found[name]
    return {name: numbers for name, numbers in found.items() if numbers} | {OTHER: rest}


def _counters(cells: Mapping[Cell, Mapping[str, int]]) -> Numbers:
    return {cell: Counter(measures) for cell, measures in cells.items()}


class CountingVerdict:
    """Holds what was appended against what was counted.

    Args:
        record: Everything that lies on the streams, as it was appended.
        books: Which price book held where.
    """

    def __init__(self, record: Sequence[Entry], books: Books) -> None:
        self.record = sorted(record, key=lambda entry: (entry.partition, entry.place))
        self.model = Model(books)
        for entry in self.record:
            self.model.count(entry)

    def days(self, now_s: int) -> list[int]:
        """Return the days on which something happened and that are still kept, by their start in seconds."""
        return sorted(day for day in self.model.tally.days() if day + DAY_S + KEPT_S > now_s)

    def checks(self, found: Found, delivered: AbstractSet[str]) -> list[Check]:
        """Return every check; `delivered` are the spans that the far side said yes to."""
        fewer, more = self._counts(found)
        broken = [f"{one.where}: {one.what}" for one in found.broken]
        return [
            Check("lost", "nothing that was appended is not counted", fewer),
            Check("doubled", "nothing is counted twice, or is not there at all", more),
            Check("readable", "what was counted can be read", found.unreadable),
            Check("totals", "every number of every cell, since the beginning", self._cells("metrics", found, 0)),
            Check("money", "every nano-dollar, at the price of the recipe in force", self._cells("cost", found, 0)),
            Check("days", "every number of every cell and day", self._days(found)),
            Check("names", "every number of every session, user, tag, run, error and edge", self._names(found)),
            Check("slowest", "the slowest operations of every day", list(self._slowest(found))),
            Check("letters", "dead letters are what cannot be counted, each once", list(self._letters(found))),
            Check("stream", "the streams hold what was appended, unchanged", list(self._stream(found))),
            Check("identities", "every event that entered has a place", broken),
            Check("idle", "every cursor stands at the end", list(self._behind(found))),
            Check("exported", "what a sink's cursor has passed arrived", self._undelivered(found, delivered)),
        ]

    def _cells(self, handler: str, found: Found, day: int) -> list[str]:
        where = f"{handler}, {_day(day) if day else 'in all'}"
        there = found.cells.get((handler, day))
        return [] if there is None else _differences(where, self.model.tally.cells[handler, day], there)

    def _days(self, found: Found) -> list[str]:
        return [text for handler, day in sorted(found.cells) if day for text in self._cells(handler, found, day)]

    def _names(self, found: Found) -> list[str]:
        texts: list[str] = []
        for (handler, dimension, day), numbers in sorted(found.names.items()):
            expected = self.model.tally.names[handler, dimension, day]
            texts += _differences(f"{handler} by {dimension}, {_day(day)}", _under_the_cap(expected, numbers), numbers)
        return texts

    def _counts(self, found: Found) -> tuple[list[str], list[str]]:
        """Return where fewer events are counted than should be, and where more: by cell in all, by session and day.

        Sessions are counted under their own names: they can be told even where the catalogue of cells is wrong.
        """
        off: dict[str, int] = {}
        for where, expected, there in self._counted(found):
            for who in {*expected, *there}:
                off[f"{_shown(who)}, {where}"] = _events(there.get(who)) - _events(expected.get(who))
        fewer = [f"{-n} of {who}" for who, n in sorted(off.items()) if n < 0]
        return fewer, [f"{n} of {who}" for who, n in sorted(off.items()) if n > 0]

    def _counted(self, found: Found) -> Iterator[tuple[str, Numbers, Numbers]]:
        if ("metrics", 0) in found.cells:
            yield "in all", self.model.tally.cells["metrics", 0], found.cells["metrics", 0]
        for (handler, dimension, day), there in found.names.items():
            if dimension == "session":
                yield f"{handler}, {_day(day)}", self.model.tally.names[handler, dimension, day], there

    def _slowest(self, found: Found) -> Iterator[str]:
        for day, slowest in found.slow.items():
            expected = [duration_us for _, duration_us in self.model.tally.slow[day].most_common(20)]
            if expected != slowest:
                yield f"{_day(day)}: {slowest}, not {expected}"

    def _letters(self, found: Found) -> Iterator[str]:
        carried = {one.handler for one in found.accounts}
        before = {(entry.partition, entry.entry_id) for entry in self._before_sink(found)}
        for handler, places in self.model.set_aside.items():
            if handler not in carried:
                continue
            expected = {place for place in places if handler != SINK or place[:2] not in before}
            letters = [(one.partition, one.letter) for one in found.letters if one.handler == handler]
            there = Counter((partition, letter.entry_id, letter.index) for partition, letter in letters)
            codes = {(partition, letter.entry_id, letter.index): letter.code for partition, letter in letters}
            for place, times in sorted(there.items()):
                if place not in expected or times > 1:
                    yield f"{handler} has {times} of {place}: {codes[place]}"
            for place in sorted(expected - there.keys()):
                yield f"{handler} has none of {place}"

    def _stream(self, found: Found) -> Iterator[str]:
        expected = {(entry.partition, entry.entry_id): entry for entry in self.record}
        for partition, entries in found.stored.items():
            for stored in entries:
                entry = expected.pop((partition, stored.entry_id), None)
                if entry is None:
                    yield f"partition {partition} has {stored.entry_id}, which nobody appended"
                elif stored.fields.get(b"b", b"") != (entry.body or dict(_pairs(entry.fields)).get(b"b", b"")):
                    yield f"partition {partition} has another body in {stored.entry_id}"
        missing = sum(entry.count for entry in expected.values())
        if missing != found.trimmed:
            yield f"{missing} events are missing, {found.trimmed} were trimmed"

    def _behind(self, found: Found) -> Iterator[str]:
        for one in found.accounts:
            last = max((entry.place for entry in self.record if entry.partition == one.partition), default=(0, 0))
            milliseconds, _, sequence = one.cursor_id.partition("-")
            if one.outstanding or (int(milliseconds), int(sequence)) < last or one.cursor_index:
                yield f"{one.handler}, partition {one.partition}: {one.outstanding} outstanding at {one.cursor_id}"

    def _undelivered(self, found: Found, delivered: AbstractSet[str]) -> list[str]:
        """Return the spans that never arrived, of what the sink has taken."""
        before = self._before_sink(found)
        missing = [span for span, entry in self.model.spans.items() if span not in delivered and entry not in before]
        return [f"{len(missing)} spans, the first {missing[0]}"] if missing else []

    def _before_sink(self, found: Found) -> set[Entry]:
        """Return what lay on the streams when the sink was declared: it begins at the end, behind `base` events."""
        before: set[Entry] = set()
        for one in found.accounts:
            events = 0
            for entry in self.record if one.handler == SINK else ():
                if entry.partition == one.partition and events < one.base:
                    before.add(entry)
                    events += 0 if entry.fields else entry.count
        return before


def _events(numbers: Mapping[str, int] | None) -> int:
    return sum(n for measure, n in (numbers or {}).items() if measure in COUNTS)


def _pairs(fields: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(fields[::2], fields[1::2], strict=True)


def _differences(where: str, expected: Numbers, found: Numbers) -> list[str]:
    texts: list[str] = []
    for who in sorted({*expected, *found}):
        ours, theirs = expected.get(who, Counter()), found.get(who, Counter())
        texts += [
            f"{where}, {_shown(who)}: {measure} is {theirs[measure]}, not {ours[measure]}"
            for measure in sorted({*ours, *theirs})
            if ours[measure] != theirs[measure]
        ]
    return texts


def _shown(who: object) -> str:
    return "/".join(str(part) for part in who) if isinstance(who, tuple) else str(who)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _day(day_s: int) -> str:
    return datetime.fromtimestamp(day_s, UTC).strftime("%Y-%m-%d") if day_s < 2**37 else str(day_s)
