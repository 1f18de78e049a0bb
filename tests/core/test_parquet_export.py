"""The archive as Parquet: every event is a row once, whatever was there before, is damaged or cannot be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pyarrow.dataset
import pyarrow.parquet
import pytest

from consumers.archive.archive import SegmentArchive
from consumers.archive.exporting import MOST_NAMED, Exported, export
from consumers.archive.parquet import COLUMNS, EXPORT_SCHEMA
from consumers.archive.store import ArchiveStore
from consumers.versions import ALL_DAYS, Days
from pipeline import segments
from pipeline.errors import SettingsError
from pipeline.events import ErrorEvent, Event, OperationEvent, Origin, Resource, TransitionEvent, UsageEvent
from pipeline.segments import Archived, build_segment, parse_id
from pipeline.wire import FrameEncoder, StoredEntry

ds = cast("Any", pyarrow.dataset)
pq = cast("Any", pyarrow.parquet)

DAY_S = 86_400
NOON_S = 20_000 * DAY_S + DAY_S // 2
NOON_US = NOON_S * 1_000_000
DAY_US = DAY_S * 1_000_000
PRODUCER = "ab" * 16
RESOURCE = Resource("../deck", "1.4", "prod\n", "web-🐙")
EVERY_KIND: Sequence[Event] = [
    UsageEvent(NOON_US, "Schreiberin", "gpt-4o", 1200, 340, tags=("a", "ß"), tools=("search",), cost_nano_usd=2**53),
    UsageEvent(0),
    OperationEvent(NOON_US + 1, "調べる", "tool", 2**40, "cancelled", session="'; DROP TABLE events; --"),
    TransitionEvent(NOON_US + 2, "a", "b", None, 3),
    ErrorEvent(2**53, "ModelHTTPError", "status 503\x00\u202e", "503"),
]


def entry(number: int, events: Sequence[Event], *, origin: Origin = "live", **fields: bytes) -> Archived:
    """Return an entry of some events; `fields` as the stream has them replace its own."""
    body = FrameEncoder(RESOURCE, origin=origin).encode(list(events))
    first, count = b"%d" % (number * 500), b"%d" % len(events)
    own = {b"p": PRODUCER.encode(), b"s": first, b"n": count, b"c": b"mz", b"b": body}
    replaced = own | {name.encode(): value for name, value in fields.items()}
    times = [event.time_us for event in events]
    return Archived(StoredEntry(f"{NOON_S * 1_000 + number}-0", replaced), min(times), max(times))


def usage(*days: int) -> list[Event]:
    """Return a request at noon of each of some days."""
    return [UsageEvent(NOON_US + day * DAY_US, agent=f"day {day}") for day in days]


class Place:
    """An archive, and a folder it is exported to."""

    def __init__(self, folder: Path) -> None:
        self.store = ArchiveStore((folder / "archive").as_uri(), "test")
        self.out = folder / "out 100%41 #ü"
        self.shelf = self.out / "test" / "partition=00"

    async def put(self, *archived: Archived, partition: int = 0) -> Path:
        """Archive a segment; return its file."""
        segment = build_segment("test", partition, archived)
        await SegmentArchive(self.store).put(partition, archived)
        return self.out.parent / "archive" / "test" / f"{partition:04d}" / str(segment.name)

    async def export(self, days: Days = ALL_DAYS) -> Exported:
        """Export partition 0; return what became of it."""
        (found,) = [one async for one in export(self.store, self.out, [0], days)]
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Read everything that was exported, as anyone would."""
        table = ds.dataset(str(self.out / "test"), format="parquet", partitioning="hive").to_table()
        found: list[dict[str, Any]] = table.to_pylist()
        return sorted(found, key=lambda row: (parse_id(row["entry_id"]), row["index"]))

    def agents(self) -> list[str]:
        """Return the agents of everything that was exported."""
        return [row["agent"] for row in self.rows()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an empty archive."""
    return Place(tmp_path)


def flip(path: Path, at: int) -> None:
    """Change a byte of a file, or change it back."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


async def test_every_kind_of_event_comes_back_as_it_was(place: Place) -> None:
    """Field by field; what a kind does not have is null; who spoke and which it is stand beside it."""
    await place.put(entry(0, EVERY_KIND, origin="spooled"))
    found = await place.export()
    assert (found.written, found.events, found.known, found.findings) == (1, len(EVERY_KIND), 0, [])
    for index, (row, event) in enumerate(zip(place.rows(), EVERY_KIND, strict=True)):
        assert row.pop("entry_id") == f"{NOON_S * 1_000}-0"
        assert [row.pop(name) for name in ("index", "producer", "sequence")] == [index, PRODUCER, index]
        assert [row.pop(name) for name in ("origin", "known", "partition")] == ["spooled", False, 0]
        assert Resource(**{name: row.pop(name) for name in Resource.__struct_fields__}) == RESOURCE
        assert row.pop("event") == type(event).__struct_config__.tag
        time = row.pop("time")
        assert time.tzinfo is not None
        assert round(time.timestamp() * 1_000_000) == event.time_us
        own = msgspec.structs.asdict(event) | {"time_us": None}
        said = {
            name: tuple(cast("list[str]", value)) if isinstance(value, list) else value for name, value in row.items()
        }
        assert said == {name: own.get(name) for name in row}
        assert own.keys() - row.keys() == {"time_us"}


async def test_a_foreign_entry_has_no_producer(place: Place) -> None:
    """Nor a sequence: no fence vouches for it."""
    await place.put(entry(0, usage(0), p=b"somebody", s=b"7"))
    await place.export()
    assert [(row["producer"], row["sequence"], row["agent"]) for row in place.rows()] == [(None, None, "day 0")]


async def test_a_known_event_says_only_that_it_was_here(place: Place) -> None:
    """It is a row without content, so that no sum counts it twice; it is of no day."""
    await place.put(entry(0, usage(0, 0, 0), k=b"0,2"))
    found = await place.export()
    assert (found.events, found.known) == (1, 2)
    assert [(row["known"], row["event"], row["time"] is None, row["sequence"]) for row in place.rows()] == [
        (True, None, True, 0),
        (False, "usage", False, 1),
        (True, None, True, 2),
    ]
    other = Place(place.out.parent)
    other.out = place.out / "days"
    await other.export(Days(NOON_S - DAY_S // 2))
    assert [row["index"] for row in other.rows()] == [1]


async def test_what_cannot_be_read_is_named_and_the_rest_is_there(place: Place) -> None:
    """An event, an entry; again each time, for a later version may read them, and nothing is written for it."""
    events = b'{"events": [{"event": "usage", "time_us": 1}, {"event": "later", "time_us": 2}]}'
    await place.put(
        entry(0, usage(0)),
        entry(1, usage(0, 0), c=b"json", b=events),
        entry(2, usage(0, 0), b=b"?"),
        entry(3, usage(3)),
    )
    found = await place.export()
    assert (found.written, found.events, found.unreadable, found.damaged) == (1, 3, 3, 0)
    assert [(one.what, one.why.split(":")[0]) for one in found.findings] == [
        ("unreadable", f"entry {NOON_S * 1_000 + 1}-0, event 1"),
        ("unreadable", f"entry {NOON_S * 1_000 + 2}-0, 2 events"),
    ]
    again = await place.export()
    assert (again.written, again.there, again.findings) == (0, 1, found.findings)
    assert place.agents() == ["day 0", "", "day 3"]


async def test_only_the_first_findings_are_named(place: Place) -> None:
    """All are counted."""
    await place.put(*(entry(number, usage(0), b=b"?") for number in range(MOST_NAMED + 5)))
    found = await place.export()
    assert (len(found.findings), found.unnamed, found.unreadable) == (MOST_NAMED, 5, MOST_NAMED + 5)
    assert (found.written, found.passed, place.shelf.exists()) == (0, 1, False)


async def test_what_is_there_is_left_alone(place: Place) -> None:
    """A second run writes what has come since, and what was broken off, and nothing else."""
    await place.put(entry(0, usage(0)))
    await place.export()
    (first,) = place.shelf.iterdir()
    written_ns = first.stat().st_mtime_ns
    await place.put(entry(1, usage(1)))
    found = await place.export()
    assert (found.segments, found.there, found.written) == (2, 1, 1)
    assert first.stat().st_mtime_ns == written_ns
    first.write_bytes(first.read_bytes()[:-10])
    first.with_name(f".{first.name}.killed.tmp").write_bytes(b"PAR1")
    assert (await place.export()).written == 1
    assert place.agents() == ["day 0", "day 1"]


async def test_a_write_that_fails_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file that is not whole, nor one under another name."""
    await place.put(entry(0, usage(0)))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(SettingsError, match="cannot be written: No space left"):
            await place.export()
    assert list(place.shelf.iterdir()) == []
    assert (await place.export()).written == 1


async def test_days_are_of_events(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and segments that have none of them are not read: here they are damaged, and nobody minds."""
    monkeypatch.setattr(segments, "BLOCK_BYTES", 1)
    flip(await place.put(entry(0, usage(0)), entry(1, usage(-1, 0)), entry(2, usage(-2, -1))), 40)
    flip(await place.put(entry(3, usage(0))), 40)
    found = await place.export(Days(NOON_S - DAY_S - DAY_S // 2, NOON_S - DAY_S // 2))
    assert (found.segments, found.written, found.passed, found.findings) == (2, 1, 1, [])
    assert place.agents() == ["day -1", "day -1"]
    found = await place.export(Days(NOON_S + DAY_S))
    assert (found.passed, found.findings) == (2, [])
    assert [one.what for one in (await place.export()).findings] == ["damaged", "damaged"]
    assert place.agents() == ["day -1", "day 0", "day -2", "day -1"]


async def test_more_days_are_added_to_a_file(place: Place) -> None:
    """What was exported stays: a file has the days of both, and those between."""
    await place.put(entry(0, usage(0, 1, 2, 3)))
    await place.export(Days(NOON_S + DAY_S // 2, NOON_S + DAY_S // 2 + DAY_S))
    assert place.agents() == ["day 1"]
    assert (await place.export(Days(NOON_S + DAY_S, NOON_S + DAY_S // 2 + DAY_S))).there == 1
    await place.export(Days(NOON_S + DAY_S // 2 + 2 * DAY_S))
    assert place.agents() == ["day 1", "day 2", "day 3"]
    assert (await place.export()).written == 1
    assert len(place.rows()) == 4


async def test_damage_costs_a_block_until_it_is_repaired(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named; a file is never replaced by one with less; what was put back is exported."""
    monkeypatch.setattr(segments, "BLOCK_BYTES", 1)
    path = await place.put(entry(0, usage(0)), entry(1, usage(1)))
    await place.put(entry(2, usage(2)))
    flip(path, 40)
    found = await place.export()
    assert (found.damaged, found.findings[0].where, found.events) == (1, path.name, 2)
    assert found.findings[0].why.startswith("block 1 of 2: ")
    assert place.agents() == ["day 1", "day 2"]
    data = path.read_bytes()
    path.write_bytes(b"no segment")
    found = await place.export()
    assert (found.damaged, found.written, found.there) == (1, 0, 2)
    assert place.agents() == ["day 1", "day 2"]
    path.write_bytes(data)
    flip(path, 40)
    assert ((await place.export()).findings, place.agents()) == ([], ["day 0", "day 1", "day 2"])


async def test_an_entry_of_two_segments_is_a_row_once(place: Place) -> None:
    """Also where the one before was written late, when the other was exported already."""
    await place.put(entry(2, usage(2)), entry(3, usage(3)))
    await place.export()
    await place.put(entry(0, usage(0)), entry(1, usage(1)), entry(2, usage(2)))
    assert (await place.export()).written == 2
    assert place.agents() == ["day 0", "day 1", "day 2", "day 3"]
    assert (await place.export()).there == 2


async def test_of_two_segments_of_the_same_entries_the_undamaged_one_is_read(place: Place) -> None:
    """Their file would have the same name."""
    paths = [await place.put(entry(0, usage(0), x=x), entry(1, usage(1))) for x in (b"1", b"2")]
    for damaged in paths:
        flip(damaged, 40)
        found = await place.export()
        assert (found.segments, found.findings, place.agents()) == (1, [], ["day 0", "day 1"])
        flip(damaged, 40)


async def test_a_file_whose_segment_was_set_aside_is_named(place: Place) -> None:
    """The stream had lost its events: whoever sums over it would count them."""
    path = await place.put(entry(0, usage(0)))
    await place.export()
    (segment,) = (await place.store.segments(0))[0]
    await place.store.set_aside(0, segment.name)
    found = await place.export()
    assert (found.withdrawn, [one.what for one in found.findings]) == (1, ["withdrawn"])
    (file,) = place.shelf.iterdir()
    assert (found.findings[0].where, str(file) in found.findings[0].why) == (path.name, True)


async def test_a_strangers_files_are_left_out(place: Place) -> None:
    """In the archive; in the folder what has a name of ours and is none is written anew."""
    path = await place.put(entry(0, usage(0)))
    for name in ("..%2f..%2fetc.seg", "007-0_8-0_" + "0" * 32 + ".seg", "1-0_2-0_x.seg", "$(touch hacked).seg"):
        path.with_name(name).write_bytes(path.read_bytes())
    assert (await place.export()).segments == 1
    (file,) = place.shelf.iterdir()
    pq.write_table(pq.ParquetFile(file).read().rename_columns([f"{n}_" for n in COLUMNS]), file)
    assert (await place.export()).written == 1
    assert place.agents() == ["day 0"]


async def test_all_files_have_one_schema(place: Place) -> None:
    """Its name stands in each, with where it comes from; a column is never taken away, nor another type given."""
    await place.put(entry(0, usage(0)))
    await place.put(entry(1, [TransitionEvent(1)]))
    await place.put(entry(2, usage(0), k=b"0"))
    await place.export()
    schemas = [pq.read_schema(path) for path in sorted(place.shelf.iterdir())]
    assert len(schemas) == 3
    assert all(schema.equals(schemas[0]) for schema in schemas)
    said = pq.read_metadata(next(iter(place.shelf.iterdir()))).metadata
    assert said[b"schema"].decode() == EXPORT_SCHEMA == "sidestream.export/1"
    assert {f"{column.name} {column.type}" for column in schemas[0]} >= {*PUBLISHED.strip().splitlines()}


PUBLISHED = """
entry_id string
index int32
producer string
sequence int64
origin string
known bool
service string
version string
environment string
instance string
event string
time timestamp[us, tz=UTC]
agent string
model string
input_tokens int64
output_tokens int64
duration_us int64
session string
user string
tenant string
state string
tags list<element: string>
run_id string
parent_id string
trace_id string
span_id string
provider string
response_model string
operation string
status string
error_type string
finish_reason string
ttft_us int64
cache_read_tokens int64
cache_write_tokens int64
cache_write_1h_tokens int64
reasoning_tokens int64
input_audio_tokens int64
cache_audio_read_tokens int64
output_audio_tokens int64
attempt int64
service_tier string
cost_nano_usd int64
tools list<element: string>
name string
kind string
operation_id string
from_state string
to_state string
visit int64
type string
message string
code string
"""
