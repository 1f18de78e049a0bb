"""A table that fits: where a terminal has no room for a column, that column goes, the least important first.

Keeps: a number is never cut, and the first column, the names, never goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

GAP: Final = 2
"""Cells between two columns."""

LEAST_NAME: Final = 12
_LEAST_WORDS: Final = 10
"""Cells that names in the first column, and in others, keep before another column goes."""

SORTED: Final = "\N{DOWNWARDS ARROW}"
"""Behind the head of the column that a table is sorted by."""

_USUAL: Final[Mapping[str, int]] = {"COST": 8, "P95": 8, "TOKENS": 6, "IN STATE": 9, "SILENT": 9, "OPEN FOR": 9}
"""What figures that change often may take: a column must not come and go with a digit of theirs."""


class FittingTable(Table):
    """A table that leaves columns out where they do not fit: those of `leave`, the first of them first; then the last.

    Columns with `no_wrap` are of numbers and words of ours, all others of names.
    """

    def __init__(self, leave: Sequence[str] = (), least_name: int = LEAST_NAME) -> None:
        super().__init__(box=None, header_style="dim", pad_edge=False, show_edge=False, padding=(0, GAP, 0, 0))
        self._leave = leave
        self._least_name = least_name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the columns that fit."""
        kept = self._kept(options.max_width)
        left = options.max_width - self._width(kept)
        fitting = Table(box=None, header_style="dim", pad_edge=False, show_edge=False, padding=(0, GAP, 0, 0))
        fitting.columns = [replace(column, _index=place) for place, column in enumerate(kept)]
        for column in fitting.columns:
            # What is wider than it needs to be is so where there is room.
            column.min_width = min(column.min_width or 0, self._needs(column) + max(0, left))
        fitting.rows = self.rows
        yield fitting

    def _kept(self, width: int) -> list[Column]:
        kept = list(self.columns)
        while len(kept) > 1 and self._width(kept) > width:
            heads = [_head(column) for column in kept[1:]]
            goes = next((head for head in self._leave if head in heads), heads[-1])
            del kept[1 + heads.index(goes)]
        return kept

    def _width(self, columns: Sequence[Column]) -> int:
        return sum(self._needs(column) + GAP for column in columns) - GAP

    def _needs(self, column: Column) -> int:
        head = _head(column)
        natural = max([cell_len(str(column.header)), *map(_cells, column.cells)])
        if column.no_wrap:
            return max(natural, _USUAL.get(head, 0))
        least = self._least_name if _head(column) == _head(self.columns[0]) else _LEAST_WORDS
        return max(cell_len(head), min(natural, least))


def _head(column: Column) -> str:
    return str(column.header).rstrip(SORTED)


def _cells(cell: RenderableType) -> int:
    return cell.cell_len if isinstance(cell, Text) else cell_len(str(cell))
