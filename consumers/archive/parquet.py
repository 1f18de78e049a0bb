"""Events as rows of Parquet: one schema for all files; the one door to pyarrow.

Keeps:
- A file has its name when it is whole and on the disk; until then it has another, which no reader of Parquet looks at.
- Columns follow from `pipeline.events`: one for each field of any kind of event, null where a kind has no such field.
- A column is added under the same schema; none is removed, renamed or given another type.
"""

import os
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

import msgspec
import pyarrow  # noqa: ICN001 - `pa` is what it is cast to
import pyarrow.parquet
from msgspec import Struct, inspect

from consumers.versions import ALL_DAYS, Days
from pipeline.errors import SettingsError
from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.wire import Frame

# They ship no types.
pa = cast("Any", pyarrow)
pq = cast("Any", pyarrow.parquet)

EXPORT_SCHEMA: Final = "sidestream.export/1"

ROW_GROUP: Final = 1 << 17
"""Rows that are held before they are written: as DuckDB and polars share work out among cores."""

_SCHEMA_KEY: Final = b"schema"
_SOURCE_KEY: Final = b"sidestream.source"
_ZSTD_LEVEL: Final = 3

Row: TypeAlias = tuple[object, ...]
"""One event, in the order of `COLUMNS`."""

_KINDS: Final = (UsageEvent, OperationEvent, TransitionEvent, ErrorEvent)
_TIME: Final = "time_us"


class Source(Struct, frozen=True):
    """What a file says of where it comes from."""

    segment: str
    """The segment's name; its hash is in it."""
    days: Days = ALL_DAYS
    """It has the segment's events of these days."""
    after: str = ""
    """The entry behind which it begins, where those before stand in another file already."""
    lacks: int = 0
    """Events and blocks that could not be read."""


class Held(Struct, frozen=True):
    """A file that was exported: where from, and how many rows it has."""

    source: Source
    rows: int


def _arrow_type(of: inspect.Type) -> object:
    match of:
        case inspect.UnionType(types=types):
            (one,) = (each for each in types if not isinstance(each, inspect.NoneType))
            return _arrow_type(one)
        case inspect.VarTupleType(item_type=item):
            return pa.list_(_arrow_type(item))
        case inspect.IntType():
            return pa.int64()
        case inspect.StrType() | inspect.LiteralType():
            return pa.string()
        case _:
            raise TypeError(f"an event has a field of {of}, for which Parquet has no column here")


def _event_columns() -> dict[str, object]:
    """Return a column for each field of any kind of event; the same name has the same type in all."""
    columns: dict[str, object] = {}
    for kind in _KINDS:
        info = cast("inspect.StructType", inspect.type_info(kind))
        for field in info.fields:
            found = _arrow_type(field.type)
            if columns.setdefault(field.name, found) != found:
                raise TypeError(f"{field.name} has another type in {kind.__name__}")
    return columns


_EVENT_COLUMNS: Final = _event_columns()
_FIELDS: Final = tuple(name for name in _EVENT_COLUMNS if name != _TIME)

COLUMNS: Final[dict[str, Any]] = {
    "entry_id": pa.string(),
    "index": pa.int32(),
    "producer": pa.string(),
    "sequence": pa.int64(),
    "origin": pa.string(),
    "known": pa.bool_(),
    **dict.fromkeys(Resource.__struct_fields__, pa.string()),
    "event": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    **{name: _EVENT_COLUMNS[name] for name in _FIELDS},
}
"""Every column and its type; all may be null."""

_SCHEMA: Final = pa.schema(list(COLUMNS.items()), metadata={_SCHEMA_KEY: EXPORT_SCHEMA})


def _picker(kind: type[Event]) -> Callable[[Row], Row]:
    """Return what takes an event's fields, and None behind them, to the values of the columns."""
    own = kind.__struct_fields__
    return itemgetter(*(own.index(name) if name in own else -1 for name in _FIELDS))


_PICKERS: Final = {kind: _picker(kind) for kind in _KINDS}
_TAGS: Final = {kind: kind.__struct_config__.tag for kind in _KINDS}
_NO_EVENT: Final[Row] = (None,) * (2 + len(_FIELDS))


def frame_rows(frame: Frame, days: Days = ALL_DAYS) -> Iterator[Row]:
    """Iterate over a frame's events of some days, without those that could not be read.

    A known event has its identity and nothing that it says, no time either: it is of no day, and left out of some days.
    """
    since_us, until_us = days.as_us()
    producer, resource = frame.producer or None, msgspec.structs.astuple(frame.resource)
    for index, event in enumerate(frame.events):
        sequence = frame.first_seq + index if producer else None
        if event is not None:
            if since_us <= event.time_us and (not until_us or event.time_us < until_us):
                kind = type(event)
                said = _PICKERS[kind]((*msgspec.structs.astuple(event), None))
                about = frame.entry_id, index, producer, sequence, frame.origin, False
                yield (*about, *resource, _TAGS[kind], event.time_us, *said)
        elif index in frame.known and days == ALL_DAYS:
            yield (frame.entry_id, index, producer, sequence, frame.origin, True, *resource, *_NO_EVENT)


class EventFile:
    """A file that is being written; it is made with its first rows."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self.known = 0
        self._path = path
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._batches: list[Any] = []
        self._waiting = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Take rows; those of a group are held until it is full."""
        if not rows:
            return
        arrays = [pa.array(values, of) for values, of in zip(zip(*rows, strict=True), COLUMNS.values(), strict=True)]
        batch = pa.record_batch(arrays, schema=_SCHEMA)
        self._batches.append(batch)
        self.rows += len(rows)
        self.known += batch.column("known").true_count
        self._waiting += len(rows)
        if self._waiting >= ROW_GROUP:
            self._write_group()

    def finish(self, source: Source) -> int:
        """Write what is held, and where it comes from; return the bytes that are on the disk then."""
        file = self._write_group()
        self._writer.add_key_value_metadata({_SOURCE_KEY: msgspec.json.encode(source)})
        self._writer.close()
        file.flush()
        os.fsync(file.fileno())
        return file.tell()

    def close(self) -> None:
        """Let go of the file, finished or not."""
        if self._file is not None:
            # What is not finished is thrown away: its end, which the writer would add, may have no place on the disk.
            with suppress(OSError):
                self._writer.close()
            self._file.close()

    def _write_group(self) -> BinaryIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
            self._writer = pq.ParquetWriter(
                self._file, _SCHEMA, compression="zstd", compression_level=_ZSTD_LEVEL, store_schema=True
            )
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches, _SCHEMA), row_group_size=self._waiting)
        self._batches, self._waiting = [], 0
        return self._file


@contextmanager
def new_file(path: Path) -> Generator[tuple[EventFile, Callable[[Source], int]]]:
    """Write a file under another name; what is yielded beside it gives it its own, and returns its size in bytes.

    Raises:
        SettingsError: The folder cannot be written to.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    file = EventFile(part)

    def keep(source: Source) -> int:
        size = file.finish(source)
        part.replace(path)
        return size

    try:
        yield file, keep
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        file.close()
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_held(path: Path) -> Held | None:
    """Return what a file says of itself; None where there is none of this schema, with these columns."""
    try:
        with path.open("rb") as file:
            metadata = pq.read_metadata(file)
        said: dict[bytes, bytes] = metadata.metadata or {}
        if said.get(_SCHEMA_KEY) != EXPORT_SCHEMA.encode() or not metadata.schema.to_arrow_schema().equals(_SCHEMA):
            return None
        return Held(msgspec.json.decode(said[_SOURCE_KEY], type=Source), metadata.num_rows)
    except (OSError, KeyError, pa.ArrowException, msgspec.DecodeError):
        return None


__all__ = ["COLUMNS", "EXPORT_SCHEMA", "EventFile", "Held", "Row", "Source", "frame_rows", "new_file", "read_held"]
