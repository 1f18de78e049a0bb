"""Reads committed state: sums over partitions and windows, and where every cursor stands.

A reader sees whole commits only, for each is one script; between partitions it may see one a moment further.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from consumers.state import Cell, Measures, merge, parse_cell
from consumers.values import unpack
from consumers.windows import LIFETIME, Window, day_name
from pipeline.connection import AsyncServer, Command, Reply
from pipeline.keys import LIVE_VERSION, Keys, UnitKeys

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
    """Reads one version of the state of one namespace."""

    server: AsyncServer
    keys: Keys
    partitions: int
    version: int = LIVE_VERSION
    _cells: dict[tuple[str, str], dict[bytes, Cell]] = field(default_factory=dict[tuple[str, str], dict[bytes, Cell]])

    def _units(self, handler: str) -> list[UnitKeys]:
        return [self.keys.partition(number).unit(handler, self.version) for number in range(self.partitions)]

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
        units = self._units(handler)
        places = [(window, unit) for window in windows for unit in units]
        replies = await self._all([["HGETALL", unit.window(w[0].name, w[1])] for w, unit in places])
        await self._load_cells(
            (unit, day_name(window[1])) for (window, unit), reply in zip(places, replies, strict=True) if reply
        )
        found: dict[Window, dict[Cell, Measures]] = {window: {} for window in windows}
        for (window, unit), reply in zip(places, replies, strict=True):
            if reply:
                self._add_window(found[window], self._cells[unit.prefix, day_name(window[1])], reply)
        return list(found.items())

    async def lifetime(self, handler: str) -> dict[Cell, Measures]:
        """Return the totals without window of every cell, summed over partitions.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        units = self._units(handler)
        replies = await self._all([["HGETALL", unit.window(LIFETIME, 0)] for unit in units])
        await self._load_cells((unit, LIFETIME) for unit in units)
        total: dict[Cell, Measures] = {}
        for unit, reply in zip(units, replies, strict=True):
            self._add_window(total, self._cells[unit.prefix, LIFETIME], reply)
        return total

    async def slowest(self, windows: Sequence[Window], most: int) -> list[Operation]:
        """Return the slowest operations of `windows`, slowest first.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        commands: list[Command] = [
            ["ZRANGE", unit.slowest(w[0].name, w[1]), 0, most - 1, "REV", "WITHSCORES"]
            for unit in self._units("metrics")
            for w in windows
        ]
        found: dict[bytes, int] = {}
        for reply in await self._all(commands):
            for name, score in zip(reply[::2], reply[1::2], strict=True):
                found[name] = max(found.get(name, 0), int(float(score)))
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
        return [_operation(name, duration_us) for name, duration_us in ordered]

    async def _load_cells(self, wanted: Iterable[tuple[UnitKeys, str]]) -> None:
        places = list(dict.fromkeys(wanted))
        replies = await self._all([["HGETALL", unit.cells(day)] for unit, day in places])
        for (unit, day), reply in zip(places, replies, strict=True):
            self._cells[unit.prefix, day] = {
                number: parse_cell(name) for name, number in zip(reply[::2], reply[1::2], strict=True)
            }

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


def _operation(name: bytes, duration_us: int) -> Operation:
    kind, called, agent, identity, session, status, *origin = _OPERATION.decode(name)
    return Operation(kind, called, agent, identity, session, status, duration_us, backfilled=origin == ["backfill"])
