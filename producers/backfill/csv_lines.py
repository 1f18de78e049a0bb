"""CSV: one event a line, by named columns (docs/backfill.md). Pure.

Keeps: a record that is refused has the bytes of all the lines it stands on; the next one is read as if it were first.
"""

import csv
import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from pipeline.errors import SettingsError
from producers.backfill.lines import BOM, FIELDS, ID, KIND, RESOURCE_FIELDS, BadLine, Read, line_of, raw_lines

COLUMNS: Final = (KIND, ID, *RESOURCE_FIELDS, *sorted(frozenset[str]().union(*FIELDS.values()) - {KIND}))
"""Every column there may be."""

REQUIRED: Final = (KIND, "time_us")
LISTS: Final = ("tags", "tools")
SEPARATOR: Final = ";"
"""Between the texts of a list."""

_TOO_LONG: Final = "x" * (csv.field_size_limit() + 1)
_WHOLE: Final = re.compile(r"-?[0-9]{1,20}")
_NUMBERS: Final = frozenset(
    name for name in COLUMNS if name.endswith(("_tokens", "_us", "_nano_usd")) or name in {"attempt", "visit"}
)


def csv_lines(file: BinaryIO) -> Iterator[Read]:
    """Read the events of a CSV file; its first line names the columns.

    Raises:
        SettingsError: The header is missing, names a column that there is not, or one twice.
    """
    taken: list[bytes] = []
    numbers: list[int] = []
    rows = csv.reader(_texts(file, taken, numbers), strict=True)
    columns: list[str] = []
    last = 0
    while True:
        taken.clear()
        numbers.clear()
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            yield BadLine(numbers[0], b"".join(taken), "" if numbers[0] == last else f"it is no CSV: {error}")
            last = numbers[0]
            continue
        if not columns:
            columns = _header(row)
        elif row:
            yield _read(numbers[0], b"".join(taken), columns, row)
    if not columns:
        raise SettingsError(f"the file is empty: its first line names the columns, {' and '.join(REQUIRED)} among them")


def _texts(file: BinaryIO, taken: list[bytes], numbers: list[int]) -> Iterator[str]:
    for number, raw, whole in raw_lines(file):
        taken.append(raw)
        numbers.append(number)
        if not whole:
            # A piece of a line that is too long might look like a line: this never does.
            yield _TOO_LONG
            continue
        # What is no UTF-8 is told of its line alone, when that is read.
        yield raw.removeprefix(BOM if number == 1 else b"").decode("utf-8", "surrogateescape")


def _header(row: list[str]) -> list[str]:
    columns = [name.strip() for name in row]
    for name in columns:
        if name not in COLUMNS:
            raise SettingsError(f"there is no column {name!r}; known are {', '.join(COLUMNS)}")
        if columns.count(name) > 1:
            raise SettingsError(f"column {name!r} stands there twice")
    for name in REQUIRED:
        if name not in columns:
            raise SettingsError(f"column {name!r} is missing")
    return columns


def _read(number: int, raw: bytes, columns: list[str], row: list[str]) -> Read:
    if len(row) != len(columns):
        return BadLine(number, raw, f"it has {len(row)} cells, the header {len(columns)}")
    if any(not cell.isprintable() and not _is_utf8(cell) for cell in row):
        return BadLine(number, raw, "it is no UTF-8")
    fields = {name: _value(name, cell) for name, cell in zip(columns, row, strict=True) if cell}
    return line_of(number, raw, fields)


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _value(name: str, cell: str) -> object:
    if name in LISTS:
        return cell.split(SEPARATOR)
    # What is no number goes on as text: the check that all events pass says so, and names the field.
    return int(cell) if name in _NUMBERS and _WHOLE.fullmatch(cell) else cell
