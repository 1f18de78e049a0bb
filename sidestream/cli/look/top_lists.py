"""The lists of `sidestream top`: how they share the lines that a terminal has left, and what each says it leaves out.

Keeps:
- A list that is cut says by how much, in its title; what asks for somebody has its lines before what does not.
- Nothing jumps: a list that comes and goes keeps its lines for a while, and what is drawn fills its room exactly.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sidestream.cli.tables import INDENT, Cell, one_line

MOST_ROWS: Final = 20
"""Rows of a list where the terminal's height is unknown."""

_HEADING: Final = 2
"""Lines that a list takes besides its rows: its title, its heads."""

_KEPT_S: Final = 60
"""So long a list keeps the lines that it has had."""


@dataclass(frozen=True, slots=True)
class TopList:
    """A list before it is cut to what there is room for."""

    name: str
    empty: Table
    """The table without its rows."""
    rows: Sequence[Sequence[Cell]]
    urgent: int = 1
    """How many of the first rows ask for somebody: these have their lines before those of other lists do not."""
    about: Text = field(default_factory=Text)
    """What the title says besides."""

    def drawn(self, most: int) -> RenderableType:
        """Return it with its first rows and blank lines up to `most`; with its title alone where that is 0."""
        shown_rows = self.rows[:most]
        hidden = len(self.rows) - len(shown_rows)
        more = f", and {hidden:,} more" if hidden and shown_rows else f", {hidden:,}" if hidden else ""
        title = one_line(
            (self.name, "bold"), (more, "yellow" if hidden else ""), "  " if self.about else "", self.about
        )
        if not most:
            return title
        if not self.rows:
            return Lines(one_line((self.name, "bold"), ("  nothing now", "dim")), *_blank(most + 1))
        for row in shown_rows:
            self.empty.add_row(*row)
        return Lines(title, Padding(self.empty, INDENT), *_blank(most - len(shown_rows)))


class _Wants(NamedTuple):
    rows: int
    urgent: int


class Steady:
    """What each list has wanted lately, so that one that comes and goes from look to look moves no other."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[int, int, int]]] = {}

    def wants(self, found: TopList, now_s: int) -> _Wants:
        """Return the most rows that a list has wanted in the last minute, and the most that were urgent."""
        seen = self._seen.setdefault(found.name, deque())
        seen.append((now_s, len(found.rows), min(found.urgent, len(found.rows))))
        while seen[0][0] <= now_s - _KEPT_S:
            seen.popleft()
        return _Wants(max(rows for _, rows, _ in seen), max(urgent for _, _, urgent in seen))


def shared(wants: Sequence[tuple[int, int]], room: int, gap: int) -> list[int]:
    """Return how many rows each list gets: what is urgent first, one each in turn, the first list first.

    Args:
        wants: Rows of each list, and how many of them are urgent.
        room: Lines that there are.
        gap: Empty lines before each list.
    """
    given = [0] * len(wants)
    for goals in ([urgent for _, urgent in wants], [rows for rows, _ in wants]):
        took = True
        while took:
            took = False
            for place, goal in enumerate(goals):
                price = 1 if given[place] else 1 + _HEADING + gap
                if given[place] < goal and price <= room:
                    given[place], room, took = given[place] + 1, room - price, True
    return given


def stacked(lists: Sequence[TopList]) -> RenderableType:
    """Return lists one below another, each whole up to `MOST_ROWS`."""
    found = [part for part in lists if part.rows]
    return Lines(*(line for part in found for line in (Text(), part.drawn(min(len(part.rows), MOST_ROWS)))))


def fitted(lists: Sequence[TopList], now_s: int, room: int, gap: int, steady: Steady) -> RenderableType:
    """Return lists one below another in exactly `room` lines."""
    wants = [steady.wants(part, now_s) for part in lists]
    given = shared(wants, room, gap)
    left = room - sum(rows + _HEADING + gap for rows in given if rows)
    parts: list[RenderableType] = []
    for part, rows in zip(lists, given, strict=True):
        # One that has no line of its own is at least named, if there is a line for that.
        if rows:
            parts += [*_blank(gap), part.drawn(rows)]
        elif part.rows and left > 0:
            parts.append(part.drawn(0))
            left -= 1
    return Lines(*parts, *_blank(left))


def _blank(lines: int) -> list[Text]:
    return [Text() for _ in range(lines)]
