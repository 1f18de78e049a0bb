"""The archive: a prefix of the stream, whatever is killed, frozen or put back; nothing is overwritten."""

import time
from pathlib import Path

import anyio
import pytest
from support import Appender

from consumers.archive.archive import SegmentArchive
from consumers.archive.store import ArchiveStore
from consumers.archive.survey import check, shelves
from consumers.runtime.archiving import ArchivingUnit
from consumers.runtime.effects import ArchiveEffect
from consumers.runtime.trimming import Retention, trim
from consumers.runtime.unit import UnitOptions
from consumers.views.status import read_status
from pipeline.connection import AsyncServer
from pipeline.errors import UnavailableError
from pipeline.events import Event, UsageEvent
from pipeline.keys import Keys
from pipeline.segments import Archived, DamagedError, SegmentName, read_blocks
from pipeline.stream import parse_entries

NOW_US = time.time_ns() // 1_000
HOUR_MS = 3_600_000


def events(count: int, first: int = 0) -> list[Event]:
    """Return requests that can be told apart."""
    return [UsageEvent(NOW_US - n, agent="writer", input_tokens=first + n) for n in range(count)]


@pytest.fixture
def store(tmp_path: Path) -> ArchiveStore:
    """Return an archive in a folder."""
    return ArchiveStore(tmp_path.joinpath("archive").as_uri(), "test")


def unit_of(
    server: AsyncServer, keys: Keys, store: ArchiveStore, *, segment_bytes: int = 1 << 20, age_s: float = 3600
) -> ArchivingUnit:
    """Return the archive's unit of partition 0, as a worker of its own would have it."""
    archive = SegmentArchive(store, segment_bytes=segment_bytes, segment_age_s=age_s)
    return ArchivingUnit(server, keys.partition(0), ArchiveEffect(archive), UnitOptions())


async def drain(unit: ArchivingUnit) -> int:
    """Step until nothing is left to archive."""
    total = 0
    while moved := await unit.step():
        total += moved
    return total


async def archived(store: ArchiveStore) -> list[str]:
    """Return the ids of everything that is archived, segment by segment."""
    found: list[str] = []
    for segment in (await store.segments(0))[0]:
        for part in read_blocks(await store.read(0, segment.name)):
            assert not isinstance(part, DamagedError)
            found += [entry.entry_id for entry in part]
    return found


async def names(store: ArchiveStore) -> list[SegmentName]:
    """Return the names of the segments."""
    return [segment.name for segment in (await store.segments(0))[0]]


async def on_stream(server: AsyncServer, keys: Keys) -> list[str]:
    """Return the ids of everything on the stream."""
    rows = parse_entries(await server.call("XRANGE", keys.partition(0).stream(), "-", "+"))
    return [row.entry_id for row in rows]


async def found_in(store: ArchiveStore) -> list[str]:
    """Return what a check has against the archive."""
    return [finding.what async for checked in check(store) for finding in checked.findings]


async def test_what_lay_on_the_stream_lies_in_the_archive(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore
) -> None:
    """In order, foreign and unreadable entries too; the cursor stands behind it, and everything is accounted for."""
    await append(events(3))
    await server.call("XADD", keys.partition(0).stream(), "*", "b", b"\xff not json", "x", "y")
    await append.raw(b"no zstd", 2)
    await append(events(4))
    unit = unit_of(server, keys, store)
    assert await drain(unit) == 10
    assert await archived(store) == await on_stream(server, keys)
    (segment,) = (await store.segments(0))[0]
    parts = [part for part in read_blocks(await store.read(0, segment.name)) if not isinstance(part, DamagedError)]
    assert [entry for part in parts for entry in part] == parse_entries(
        await server.call("XRANGE", keys.partition(0).stream(), "-", "+")
    )
    assert await found_in(store) == []
    (shelf,) = await shelves(store)
    assert (shelf.partition, shelf.segments, shelf.aside, shelf.leftovers) == (0, 1, 0, 0)
    assert await drain(unit) == 0


async def test_segments_are_cut_by_size(server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore) -> None:
    """However much is there, no more is gathered than a segment takes and a read brings."""
    for number in range(200):
        await append(events(2, number))
    assert await drain(unit_of(server, keys, store, segment_bytes=2_000)) == 400
    assert len(await names(store)) == 4, "each read brings 64 entries, more than 2,000 bytes"
    assert await archived(store) == await on_stream(server, keys)


async def test_a_segment_waits_for_its_age(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore
) -> None:
    """A unit that waits for entries closes a segment when it is full or old, and not before."""
    unit = unit_of(server, keys, store, age_s=0.2)
    await append(events(1))
    assert await unit.step(10) == 0
    assert await names(store) == []
    await append(events(2))
    await anyio.sleep(0.2)
    assert await unit.step(10) == 3
    assert len(await names(store)) == 1
    assert await unit.step(10) == 0


async def test_a_deploy_while_a_segment_fills_blames_no_event(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The cursor stands still over several owners, as it should."""
    await append(events(1))
    for _ in range(4):
        assert await unit_of(server, keys, store).step(10) == 0
    assert await drain(unit_of(server, keys, store)) == 1
    assert not caplog.records


async def test_a_worker_that_dies_before_its_commit_loses_nothing_and_doubles_nothing(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore
) -> None:
    """Its segment is found by whoever goes on, and taken for what it is."""
    await append(events(3))
    await append(events(4))
    dying = unit_of(server, keys, store)

    async def end(*_: object) -> int:
        raise UnavailableError("killed")

    dying._settle = end  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    with pytest.raises(UnavailableError):
        await dying.step()
    left = await names(store)
    assert len(left) == 1
    await append(events(5))
    assert await drain(unit_of(server, keys, store)) == 12
    assert (await names(store))[0] == left[0]
    assert await archived(store) == await on_stream(server, keys)
    assert await found_in(store) == []


async def test_a_frozen_archiver_that_thaws_destroys_nothing(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore
) -> None:
    """What it writes late says what is there already: it is named, and read once."""
    await append(events(3))
    frozen = unit_of(server, keys, store)
    assert await frozen.step(10) == 0
    await append(events(4))
    assert await drain(unit_of(server, keys, store)) == 7
    before = {name: await store.read(0, name) for name in await names(store)}
    assert await frozen.step() == 0, "its commit is stale"
    for name, data in before.items():
        assert await store.read(0, name) == data
    await append(events(5))
    assert await drain(frozen) == 5
    assert sorted(set(await archived(store))) == sorted(await on_stream(server, keys))
    assert set(await found_in(store)) <= {"doubled"}


async def test_behind_a_rollback_what_the_stream_has_lost_is_set_aside(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore
) -> None:
    """Whoever reads the archive finds what the stream has; what it has no more is kept beside."""
    await append(events(3))
    await drain(unit_of(server, keys, store))
    saved = await _saved(server)
    await append(events(4))
    await drain(unit_of(server, keys, store))
    lost = await names(store)
    await _restored(server, saved)
    append.forget()
    append.producer = "cd" * 16
    await append(events(5))
    assert await drain(unit_of(server, keys, store)) == 5
    assert await archived(store) == await on_stream(server, keys)
    assert [one.name for one in await store.aside(0)] == lost[1:]
    assert await found_in(store) == []


async def test_behind_a_rollback_what_the_stream_still_has_is_taken_over(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore
) -> None:
    """A cursor that is put back meets its own segments; they are not written again."""
    await append(events(3))
    await drain(unit_of(server, keys, store))
    cursor = await server.call("HGETALL", keys.partition(0).unit("archive").cursor())
    await append(events(4))
    await drain(unit_of(server, keys, store))
    before = await names(store)
    await server.call("DEL", keys.partition(0).unit("archive").cursor())
    await server.call("HSET", keys.partition(0).unit("archive").cursor(), *cursor)
    assert await drain(unit_of(server, keys, store)) == 4
    assert await names(store) == before
    assert await store.aside(0) == []


async def test_a_damaged_segment_behind_the_cursor_is_archived_again(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore, tmp_path: Path
) -> None:
    """Nobody takes over what is not the stream's."""
    await append(events(3))
    archive = SegmentArchive(store)
    rows = parse_entries(await server.call("XRANGE", keys.partition(0).stream(), "-", "+"))
    await archive.put(0, [Archived(row, NOW_US, NOW_US) for row in rows])
    _damage(tmp_path / "archive" / "test" / "0000")
    assert await drain(unit_of(server, keys, store)) == 3
    assert len(await store.aside(0)) == 1
    assert await archived(store) == await on_stream(server, keys)
    assert await found_in(store) == []


async def test_the_archive_holds_the_stream_up_to_its_budget_and_then_has_a_gap_with_a_name(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore
) -> None:
    """A store that is away makes no append fail; what is passed is counted, and found."""
    await append(events(3))
    unit = unit_of(server, keys, store)
    await drain(unit)
    await append(events(4))
    held = Retention(kept_ms=0, sink_ms=0, sink_bytes=0, archive_ms=HOUR_MS, archive_bytes=1 << 30)
    assert (await trim(server, keys.partition(0), held)).entries == 1
    passed = await trim(server, keys.partition(0), Retention(0, HOUR_MS, 1 << 30))
    assert (passed.entries, passed.skipped) == (1, {"v1:archive": 4})
    await append(events(5))
    assert await unit.step() == 0, "somebody else has moved its cursor"
    assert await drain(unit) == 5
    assert await found_in(store) == ["missing"]
    (account,) = (await read_status(server, keys, 1)).accounts
    assert (account.committed, account.skipped) == (8, 4)


async def test_while_the_store_is_away_nothing_more_is_read(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment waits as it is; it is written once when the store is back, also where an answer had been lost."""
    await append(events(3))
    unit = unit_of(server, keys, store)
    put, asked = store.put, list[SegmentName]()

    async def away(partition: int, name: SegmentName, data: bytes) -> bool:
        asked.append(name)
        if len(asked) > 3:
            await put(partition, name, data)
        raise UnavailableError("no answer")

    monkeypatch.setattr(store, "put", away)
    for number in range(5):
        with pytest.raises(UnavailableError):
            await unit.step()
        await append(events(2, number))
    assert len(set(asked)) == 1, "what was appended meanwhile is not in it"
    monkeypatch.setattr(store, "put", put)
    assert await drain(unit) == 13
    assert (await names(store))[0] == asked[0]
    assert len(await names(store)) == 2
    assert await archived(store) == await on_stream(server, keys)


async def test_what_is_no_segment_is_left_alone_and_named(
    server: AsyncServer, keys: Keys, append: Appender, store: ArchiveStore, tmp_path: Path
) -> None:
    """A stranger's file; unfinished writes of obstore, which have a `#` in their names, it does not even list."""
    await append(events(3))
    folder = tmp_path / "archive" / "test" / "0000"
    folder.mkdir(parents=True)
    for name in ("1-0_2-0_00.seg#1", "1-0_2-0_00.seg", "README"):
        (folder / name).write_bytes(b"?")
    await drain(unit_of(server, keys, store))
    assert await archived(store) == await on_stream(server, keys)
    assert await found_in(store) == ["leftover", "leftover"]


async def _saved(server: AsyncServer) -> dict[bytes, tuple[int, bytes]]:
    keys = await server.call("KEYS", "*")
    return {key: (max(0, await server.call("PTTL", key)), await server.call("DUMP", key)) for key in keys}


async def _restored(server: AsyncServer, saved: dict[bytes, tuple[int, bytes]]) -> None:
    """Put the server back to what it was."""
    await server.call("FLUSHALL")
    for key, (ttl_ms, data) in saved.items():
        await server.call("RESTORE", key, ttl_ms, data)


def _damage(folder: Path) -> None:
    """Flip a bit in the one segment there."""
    (path,) = folder.glob("*.seg")
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
