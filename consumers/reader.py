"""Reads committed state: sums over partitions and windows, and where every cursor stands.

A reader sees whole commits only, for each is one script; between partitions it may see one a moment further.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from consumers.state import Cell, Measures, merge, parse_cell
from consumers.values import unpack
from consumers.versions import FIRST_VERSION, Versions
from consumers.windows import DAY, LIFETIME, Window, day_name
from pipeline.connection import AsyncServer, Command, Reply
from pipeline.keys import Keys, UnitKeys

_OPERATION: Final = msgspec.json.Decoder(list[str])
_AT_ONCE: Final = 500
"""Commands of one pipeline: bounds what a report keeps the server from doing meanwhile."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One of the slowest operations, as `consumers.handlers.metrics` names them."""

    kind: str
    name: str
    agent: str
    identity: str
    session: str
    status: str
    duration_us: int
    backfilled: bool = False


@dataclass(slots=True)
class StateReader:
    """Reads the state of one namespace: of each window the version that answers for it.

    Whoever asks several questions that belong together uses one reader: it knows one document of versions.
    """

    server: AsyncServer
    keys: Keys
    partitions: int
    versions: Versions = FIRST_VERSION
    _cells: dict[tuple[str, str, str], dict[bytes, Cell]] = field(
        default_factory=dict[tuple[str, str, str], dict[bytes, Cell]]
    )
    """(partition, handler, day) -> the cells by their numbers."""

    async def ask(
        self, handler: str, windows: Sequence[Window], command: Callable[[UnitKeys, Window], Command]
    ) -> list[tuple[Window, UnitKeys, Reply]]:
        """Ask for something of each window of a handler, in every partition; return what the unit has that answers.

        A base that hands its days over is asked before its heir: it has them, or has handed them over already.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        places = [(window, units) for window in windows for units in self._places(handler, window[1])]
        replies = iter(await self._all([command(unit, window) for window, units in places for unit in units]))
        found: list[tuple[Window, UnitKeys, Reply]] = []
        for window, units in places:
            answers = [(window, unit, next(replies)) for unit in units]
            found.append(next((answer for answer in answers if _is_there(answer[2])), answers[0]))
        return found

    def _places(self, handler: str, start_s: int) -> list[list[UnitKeys]]:
        """Return, for each partition, the units in which windows of a day may be: one, but for a handing over."""
        numbers = [self.versions.answering(handler, start_s)]
        if (heir := self.versions.heir(handler, start_s)) is not None:
            numbers.append(heir)
        partitions = [self.keys.partition(number) for number in range(self.partitions)]
        return [[partition.unit(handler, number) for number in numbers] for partition in partitions]

    async def cells(self, handler: str, windows: Sequence[Window]) -> dict[Cell, Measures]:
        """Return the measures of every cell, summed over `windows` and partitions.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        total: dict[Cell, Measures] = {}
        for _, cells in await self.cells_by_window(handler, windows):
            for cell, measures in cells.items():
                merge(total.setdefault(cell, {}), measures)
        return total

    async def cells_by_window(
        self, handler: str, windows: Sequence[Window]
    ) -> list[tuple[Window, dict[Cell, Measures]]]:
        """Return the measures of every cell of each window, summed over partitions; for lines over time.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        rows = await self.ask(handler, windows, lambda unit, w: ["HGETALL", unit.window(w[0].name, w[1])])
        rows = [row for row in rows if row[2]]
        await self._load_days(handler, {DAY.start_of(window[1]) for window, _, _ in rows})
        found: dict[Window, dict[Cell, Measures]] = {window: {} for window in windows}
        for window, unit, reply in rows:
            self._add_window(found[window], self._cells[_partition_of(unit), handler, day_name(window[1])], reply)
        return list(found.items())

    async def lifetime(self, handler: str) -> dict[Cell, Measures]:
        """Return the totals without window of every cell, summed over partitions: all that the handler's base took.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        base = self.versions.base(handler)
        units = [self.keys.partition(number).unit(handler, base) for number in range(self.partitions)]
        replies = await self._all([["HGETALL", unit.window(LIFETIME, 0)] for unit in units])
        catalogues = await self._all([["HGETALL", unit.cells(LIFETIME)] for unit in units])
        total: dict[Cell, Measures] = {}
        for reply, catalogue in zip(replies, catalogues, strict=True):
            self._add_window(total, _cells(catalogue), reply)
        return total

    async def slowest(self, windows: Sequence[Window], most: int) -> list[Operation]:
        """Return the slowest operations of `windows`, slowest first.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        rows = await self.ask(
            "metrics",
            windows,
            lambda unit, w: ["ZRANGE", unit.slowest(w[0].name, w[1]), 0, most - 1, "REV", "WITHSCORES"],
        )
        found: dict[bytes, int] = {}
        for _, _, reply in rows:
            for name, score in zip(reply[::2], reply[1::2], strict=True):
                found[name] = max(found.get(name, 0), int(float(score)))
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
        return [_operation(name, duration_us) for name, duration_us in ordered]

    async def _load_days(self, handler: str, starts: Iterable[int]) -> None:
        days: list[Window] = [(DAY, start_s) for start_s in sorted(starts)]
        for day, unit, reply in await self.ask(handler, days, lambda unit, w: ["HGETALL", unit.cells(day_name(w[1]))]):
            self._cells[_partition_of(unit), handler, day_name(day[1])] = _cells(reply)

    @staticmethod
    def _add_window(total: dict[Cell, Measures], cells: Mapping[bytes, Cell], flat: Sequence[bytes]) -> None:
        for number, value in zip(flat[::2], flat[1::2], strict=True):
            cell, measures = cells[number], unpack(value)
            if cell in total:
                merge(total[cell], measures)
            else:
                total[cell] = measures

    async def _all(self, commands: Sequence[Command]) -> list[Reply]:
        replies: list[Reply] = []
        for first in range(0, len(commands), _AT_ONCE):
            replies += await self.server.all(commands[first : first + _AT_ONCE])
        return replies


def _cells(flat: Sequence[bytes]) -> dict[bytes, Cell]:
    return {number: parse_cell(name) for name, number in zip(flat[::2], flat[1::2], strict=True)}


def _partition_of(unit: UnitKeys) -> str:
    return unit.prefix.partition("}")[0]


def _is_there(reply: Reply) -> bool:
    """Return whether a reply says that the key is there: a list of what it holds, or of what of it was asked for."""
    return any(part is not None for part in reply)


def _operation(name: bytes, duration_us: int) -> Operation:
    kind, called, agent, identity, session, status, *origin = _OPERATION.decode(name)
    return Operation(kind, called, agent, identity, session, status, duration_us, backfilled=origin == ["backfill"])
