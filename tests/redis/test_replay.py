"""Replay: the same handlers over archive and stream give the same state, in any split; a swap is one write."""

import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_state import state_of
from strategies import frames
from support import Appender, RealServer

from consumers.alerts.watermark import read_watermark
from consumers.archive.archive import SegmentArchive
from consumers.archive.store import ArchiveStore
from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.recipe import Recipe
from consumers.register import read_versions
from consumers.replay import inheriting
from consumers.replay.beginning import Asked, begin, check_archive, check_asked, resume
from consumers.replay.changes import read_changes
from consumers.replay.changing import rollback, swap
from consumers.replay.diff import Diff, diff
from consumers.replay.dropping import drop, plan_drop
from consumers.replay.pace import LEAST_SHARE, Pace
from consumers.replay.plan import read_plan
from consumers.replay.progress import read_progress
from consumers.replay.running import PassedError, Running, replay_until_idle
from consumers.runtime import replaying
from consumers.runtime.effects import ArchiveEffect, Effect, FoldEffect
from consumers.runtime.run import Worker, WorkerOptions
from consumers.runtime.trimming import Retention, trim
from consumers.runtime.unit import OlderRecipeError
from consumers.state import Caps
from consumers.values import pack, unpack
from consumers.versions import ALL_DAYS, Days, Replay, VersionsError
from consumers.views.accounting import read_unit_account
from consumers.views.dead_letters import read_dead_letters
from consumers.views.report import Report, read_report
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.errors import RefusedError, UnavailableError, UnreachableError
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import LIVE_VERSION, Keys, PartitionKeys
from pipeline.scripting import script

NOW_US = time.time_ns() // 1_000
PARTITIONS = 4
DAY_S = 86_400
TODAY_S = NOW_US // 1_000_000 // DAY_S * DAY_S
LATER_MS = 10**12
"""A retention that keeps all, in ms."""


def effects() -> list[Effect]:
    """Return the handlers that fold."""
    pricer = Pricer(Catalogue(), PriceBook())
    cost = CostHandler(pricer, pricer.catalogue.version, pricer.book.hash)
    return [FoldEffect(MetricsHandler()), FoldEffect(cost)]


@pytest.fixture
async def traffic(append: Appender) -> int:
    """Append a few hundred events of every kind to every partition, of two days; return how many."""
    total = 0
    for number in range(40):
        at = NOW_US - number * 7_000_000 - (number % 2) * DAY_S * 1_000_000
        events: list[Event] = [
            UsageEvent(at, f"agent-{number % 5}", "gpt-4o", 10 * number, number, 1_000 * number, f"s-{number}"),
            OperationEvent(at, f"agent-{number % 5}", "run", 2_000 * number, operation_id=f"r-{number}"),
            TransitionEvent(at, "outlining", "writing", session=f"s-{number}"),
            ErrorEvent(at, "ValueError", "no", session=f"s-{number}"),
        ]
        await append(events, partition=number % PARTITIONS)
        total += len(events)
    return total


@pytest.fixture
def archive(tmp_path: Path) -> SegmentArchive:
    """Return an archive in a folder, of small segments."""
    store = ArchiveStore(tmp_path.joinpath("archive").as_uri(), "test")
    return SegmentArchive(store, segment_bytes=1_000, segment_age_s=3600)


async def carried(server: AsyncServer, keys: Keys, archive: SegmentArchive | None = None) -> None:
    """Let everything that is there be counted, and archived where there is an archive."""
    extra: list[Effect] = [ArchiveEffect(archive)] if archive else []
    await Worker(server, keys, [*effects(), *extra], options=WorkerOptions(history=archive)).run_until_idle()


async def trim_all(server: AsyncServer, keys: Keys) -> int:
    """Trim all that nobody needs; return how many entries went."""
    return sum([(await trim(server, keys.partition(n), Retention(1, 0, 0))).entries for n in range(PARTITIONS)])


async def replayed(
    server: AsyncServer, keys: Keys, archive: SegmentArchive | None = None, days: Days = ALL_DAYS
) -> tuple[Replay, int]:
    """Compute a version, alone."""
    return await replay_until_idle(server, keys, PARTITIONS, Asked(effects(), days, archive))


async def compared(server: AsyncServer, keys: Keys, replay: Replay) -> Diff:
    """Compare a version with the base, bit by bit."""
    return await diff(server, keys, PARTITIONS, await read_versions(server, keys), replay)


async def report(server: AsyncServer, keys: Keys) -> Report:
    """Read the report of these days."""
    now_s = int(time.time())
    return await read_report(server, keys, since_s=TODAY_S - 2 * DAY_S, until_s=None, by="agent", now_s=now_s)


async def tamper(server: AsyncServer, keys: Keys, version: int, day_s: int = TODAY_S) -> None:
    """Add a million input tokens to a cell of a day, so that a reader shows which version it has read."""
    for number in range(PARTITIONS):
        unit = keys.partition(number).unit("metrics", version)
        for key in await server.call("KEYS", f"{unit.prefix}:w:*"):
            start_s = int(key.decode().rpartition(":")[2])
            if start_s // DAY_S * DAY_S == day_s:
                for name, value in _pairs(await server.call("HGETALL", key)):
                    await server.call("HSET", key, name, pack(unpack(value) | {"ti": 1_000_000}))


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


async def test_a_replay_gives_the_same_bits(server: AsyncServer, keys: Keys, traffic: int) -> None:
    """Every window, marginal and ranking of the second version equals the live one."""
    await carried(server, keys)
    replay, events = await replayed(server, keys)
    assert events == traffic * len(effects())
    result = await compared(server, keys, replay)
    assert result.equal
    assert result.fields > traffic
    assert not result.causes
    versions = await read_versions(server, keys)
    changes = await read_changes(server, keys, PARTITIONS, versions, replay)
    assert (changes.changes, changes.days) == ([], 2)


async def test_what_was_trimmed_is_read_from_the_archive(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int, archive: SegmentArchive
) -> None:
    """The join is gapless: what the stream has lost comes from segments, the rest from the stream."""
    await carried(server, keys, archive)
    assert await trim_all(server, keys) == 40
    for number in range(PARTITIONS):
        await append([UsageEvent(NOW_US, "agent-1", "gpt-4o", 7, 1)], partition=number)
    await carried(server, keys, archive)
    replay, events = await replayed(server, keys, archive)
    assert events == (traffic + PARTITIONS) * len(effects())
    result = await compared(server, keys, replay)
    assert result.equal, (result.differences, result.apart)
    assert result.left_out == 0, "everything is compared, the totals since the beginning too"
    accounts = [await read_unit_account(server, keys.partition(n), "cost", version=2) for n in range(PARTITIONS)]
    assert [account.balance() for account in accounts] == [0] * PARTITIONS
    assert [account.base for account in accounts] == [0] * PARTITIONS


async def test_a_new_server_gets_its_history_from_the_archive_alone(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int, archive: SegmentArchive
) -> None:
    """Its own archiver leaves that history alone, and what is appended afterwards is counted behind it."""
    await carried(server, keys, archive)
    before = await report(server, keys)
    await server.call("FLUSHALL")
    append.forget()
    append.producer = "cd" * 16
    await carried(server, keys, archive)
    replay, events = await replayed(server, keys, archive)
    assert events == traffic * len(effects())
    await swap(server, keys, PARTITIONS, replay.number)
    after = await report(server, keys)
    assert (after.totals, after.groups) == (before.totals, before.groups)
    await append([UsageEvent(NOW_US, "agent-1", "gpt-4o", 7, 1)])
    await carried(server, keys, archive)
    assert (await report(server, keys)).totals.input_tokens == before.totals.input_tokens + 7
    assert [len(await archive.store.aside(n)) for n in range(PARTITIONS)] == [0] * PARTITIONS


@pytest.mark.parametrize("trimmed", [True, False])
async def test_a_frame_sent_again_to_a_server_that_had_lost_it_counts_once(
    server: AsyncServer, keys: Keys, append: Appender, archive: SegmentArchive, *, trimmed: bool
) -> None:
    """It is there under two ids, in the archive or behind the join; its producer and sequence say that it is one."""
    await append([UsageEvent(NOW_US, input_tokens=5)])
    await carried(server, keys, archive)
    await server.call("FLUSHALL")
    append.forget()
    await append([UsageEvent(NOW_US, input_tokens=5)])
    await append([UsageEvent(NOW_US, input_tokens=2)])
    await carried(server, keys, archive)
    if trimmed:
        await trim_all(server, keys)
    replay, _ = await replayed(server, keys, archive)
    await swap(server, keys, PARTITIONS, replay.number)
    assert (await report(server, keys)).totals.input_tokens == 7


async def test_some_days_of_one_handler_are_computed_anew(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int, archive: SegmentArchive
) -> None:
    """Its windows hold those days alone; a reader sees them, and the others as they were."""
    await carried(server, keys, archive)
    await trim_all(server, keys)
    yesterday = Days(TODAY_S - DAY_S, TODAY_S)
    metrics = [effect for effect in effects() if effect.name == "metrics"]
    replay, _ = await replay_until_idle(server, keys, PARTITIONS, Asked(metrics, yesterday, archive))
    windows = [key.decode().split(":") for key in await server.call("KEYS", "*:v2:metrics:w:*")]
    starts = {int(parts[-1]) for parts in windows if parts[-2] != "all"}
    assert starts
    assert all(yesterday.cover(start) for start in starts)
    assert (await compared(server, keys, replay)).equal
    await tamper(server, keys, 2, yesterday.from_s)
    before = (await report(server, keys)).totals.input_tokens
    await swap(server, keys, PARTITIONS, 2)
    assert (await report(server, keys)).totals.input_tokens > before + 1_000_000
    assert (await read_versions(server, keys)).read("cost") == [1]
    await append([UsageEvent(yesterday.from_s * 1_000_000 + 5, input_tokens=3), UsageEvent(NOW_US, input_tokens=4)])
    await carried(server, keys, archive)
    counted = [await read_unit_account(server, keys.partition(0), "metrics", version=v) for v in (1, 2)]
    assert [account.outstanding for account in counted] == [0, 0], "both go on"
    _, number = await rollback(server, keys, PARTITIONS)
    assert number == 2
    assert (await report(server, keys)).totals.input_tokens == before + 7


async def test_readers_never_see_a_mixture(server: AsyncServer, keys: Keys, traffic: int) -> None:
    """Each query has the sums of one version or of the other, whatever is swapped and rolled back meanwhile."""
    await carried(server, keys)
    replay, _ = await replayed(server, keys)
    await tamper(server, keys, 2, TODAY_S - DAY_S)
    sums = {(await report(server, keys)).totals.input_tokens}
    await swap(server, keys, PARTITIONS, replay.number)
    sums.add((await report(server, keys)).totals.input_tokens)
    assert len(sums) == 2
    seen: list[int] = []

    async def look() -> None:
        seen.extend([(await report(server, keys)).totals.input_tokens for _ in range(25)])

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(look)
        while len(seen) < 60:
            await rollback(server, keys, PARTITIONS)
            await anyio.sleep(0.003)
            await swap(server, keys, PARTITIONS, replay.number)
            await anyio.sleep(0.003)
    assert set(seen) == sums


async def test_a_replay_that_lacks_events_is_never_ready(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int
) -> None:
    """While memory is short Redis lets go of what only a replay needs; appends and live counts go on."""
    await carried(server, keys)
    replay = await begin(server, keys, PARTITIONS, Asked(effects(), ALL_DAYS))
    shadow = Worker(server, keys, effects(), options=WorkerOptions(version=replay.number))
    await shadow.open()
    for unit in shadow.units:
        await unit.declare()
    assert (await trim(server, keys.partition(0), Retention(0, 0, 0))).entries == 0, "it holds the stream"
    gone = await trim(server, keys.partition(0), Retention(0, 0, 0, relief=1))
    assert gone.entries == 10
    assert gone.skipped == {"v2:metrics": 40, "v2:cost": 40}
    await shadow.run_until_idle()
    progress = await read_progress(server, keys, PARTITIONS, replay)
    assert (progress.follows, progress.passed) == (True, 80)
    with pytest.raises(PassedError, match="lacks 80 events"):
        await Running(server, keys, PARTITIONS, effects()).run(replay)
    await append([UsageEvent(NOW_US)])
    await carried(server, keys)


async def test_several_runs_share_a_replay_that_survives_their_ends(  # noqa: PLR0913, PLR0917 - fixtures
    server: AsyncServer, redis_url: str, keys: Keys, append: Appender, archive: SegmentArchive, traffic: int
) -> None:
    """Two carry it, one is cut off in the middle, live traffic goes on: the same bits in the end."""
    await carried(server, keys, archive)
    await trim_all(server, keys)
    replay = await begin(server, keys, PARTITIONS, Asked(effects(), ALL_DAYS, archive))
    others = [AsyncServer(RedisSettings(redis_url)) for _ in range(2)]
    runs = [Running(other, keys, PARTITIONS, effects(), archive=archive) for other in others]
    with anyio.move_on_after(0.3):
        await runs[0].run(replay)
    async with anyio.create_task_group() as group:
        for run in runs:
            group.start_soon(run.run, replay)
        for _ in range(10):
            await append([UsageEvent(NOW_US, "agent-1", "gpt-4o", 7, 1)])
            await anyio.sleep(0.02)
    for other in others:
        await other.aclose()
    await carried(server, keys, archive)
    ready = (await read_versions(server, keys)).replay(replay.number)
    assert ready.progress == "ready"
    assert (await compared(server, keys, ready)).equal


async def test_what_replaced_the_base_becomes_the_base(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int
) -> None:
    """Nothing of the old one is left but gravestones, and a worker with yesterday's document cannot bring it back."""
    await carried(server, keys)
    late = Worker(server, keys, effects())
    await late.open()
    before = await report(server, keys)
    replay, _ = await replayed(server, keys)
    with pytest.raises(VersionsError, match="nothing was swapped in"):
        await plan_drop(server, keys, PARTITIONS, LIVE_VERSION)
    await swap(server, keys, PARTITIONS, replay.number)
    dropping = await plan_drop(server, keys, PARTITIONS, LIVE_VERSION)
    assert (dropping.heir, len(dropping.units)) == (2, 2)
    assert await drop(server, keys, PARTITIONS, dropping) > 100
    left = sorted(await server.call("KEYS", "{test:0*}:v1:*"))
    assert all(key.endswith(b":cursor") for key in left)
    with pytest.raises(RefusedError, match="being dropped"):
        await late.units[0].step()
    versions = await read_versions(server, keys)
    assert (versions.base("metrics"), versions.replays) == (2, ())
    await append([UsageEvent(NOW_US, "agent-1", "gpt-4o", 7, 1)])
    await carried(server, keys)
    after = await report(server, keys)
    assert after.totals.requests == before.totals.requests + 1
    assert after.completeness.complete(0)
    with pytest.raises(VersionsError, match="no version 1"):
        await plan_drop(server, keys, PARTITIONS, LIVE_VERSION)


async def test_a_base_hands_the_days_over_that_it_still_answers_for(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two partitions, readers see the same sums at every step; late events count in the heir alone."""
    await carried(server, keys)
    yesterday = Days(TODAY_S - DAY_S, TODAY_S)
    replay, _ = await replayed(server, keys, days=yesterday)
    await swap(server, keys, PARTITIONS, replay.number)
    before = await report(server, keys)
    dropping = await plan_drop(server, keys, PARTITIONS, LIVE_VERSION)
    assert (dropping.heir, dropping.days) == (2, yesterday)
    seen: list[Report] = []
    inherited: list[int] = []
    original = inheriting.inherit

    async def killed_in_the_middle(server: AsyncServer, partition: PartitionKeys, *rest: Any) -> int:  # noqa: ANN401
        if partition.number == 2:
            raise UnreachableError("the network is gone")
        moved = await original(server, partition, *rest)
        inherited.append(moved)
        seen.append(await report(server, keys))
        return moved

    monkeypatch.setattr("consumers.replay.dropping.inherit", killed_in_the_middle)
    with pytest.raises(UnreachableError):
        await drop(server, keys, PARTITIONS, dropping, effects())
    with pytest.raises(VersionsError, match="is taking the place of its base"):
        await rollback(server, keys, PARTITIONS)
    monkeypatch.setattr("consumers.replay.dropping.inherit", original)
    again = await plan_drop(server, keys, PARTITIONS, LIVE_VERSION)
    await drop(server, keys, PARTITIONS, again, effects())
    seen.append(await report(server, keys))
    assert len(seen) == 5
    assert sum(inherited) > 50
    assert all(one.totals == before.totals for one in seen)
    assert all(one.groups == before.groups and one.slowest == before.slowest for one in seen)
    assert (await read_versions(server, keys)).replays == ()
    await append(
        [UsageEvent(NOW_US, "agent-1", "gpt-4o", 7, 1), UsageEvent(NOW_US - DAY_S * 1_000_000, input_tokens=9)]
    )
    await carried(server, keys)
    assert (await report(server, keys)).totals.input_tokens == before.totals.input_tokens + 16
    assert all(key.endswith(b":cursor") for key in await server.call("KEYS", "{test:0*}:v1:*"))
    fresh, _ = await replayed(server, keys)
    result = await compared(server, keys, fresh)
    assert not [one for one in result.differences if "all:0" not in one.window], "what is left is what all events give"


async def test_dead_letters_stand_in_the_way_of_a_handing_over(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int
) -> None:
    """One that is retried in both would count twice."""
    await append.raw(b"no zstd", 2)
    await carried(server, keys)
    await replayed(server, keys, days=Days(TODAY_S))
    await swap(server, keys, PARTITIONS, 2)
    dropping = await plan_drop(server, keys, PARTITIONS, LIVE_VERSION)
    with pytest.raises(VersionsError, match="version 1 has 1 dead letters and version 2 1"):
        await drop(server, keys, PARTITIONS, dropping, effects())
    letters = await read_dead_letters(server, keys, PARTITIONS)
    assert {letter.unit for letter in letters} == {"metrics", "cost", "metrics v2", "cost v2"}
    for letter in letters:
        unit = keys.partition(letter.partition).unit(letter.handler, letter.version)
        await server.run(script("discard"), [unit.cursor(), unit.dead_letters()], [letter.letter_id])
    await drop(server, keys, PARTITIONS, dropping, effects())
    assert (await read_versions(server, keys)).base("cost") == 2


async def test_a_stranger_s_entry_stops_no_replay(
    server: AsyncServer, keys: Keys, append: Appender, archive: SegmentArchive
) -> None:
    """A sequence that is no number, in the archive and behind the join."""
    stream = keys.partition(0).stream()
    for part in ("archive", "stream"):
        await append([UsageEvent(NOW_US, input_tokens=5)])
        await server.call("XADD", stream, "*", "s", "no number", "b", b"{}")
        await carried(server, keys, archive)
        if part == "archive":
            await trim_all(server, keys)
    replay, _ = await replayed(server, keys, archive)
    assert (await compared(server, keys, replay)).equal
    accounts = [await read_unit_account(server, keys.partition(0), "cost", version=v) for v in (1, 2)]
    assert [account.dead for account in accounts] == [accounts[0].dead] * 2
    assert [account.balance() for account in accounts] == [0, 0]


async def test_a_replay_that_was_passed_in_the_archive_says_so(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int, archive: SegmentArchive
) -> None:
    """Its cursor was moved over the join while memory was short: it ends with the reason, and does not wait."""
    await carried(server, keys, archive)
    await trim_all(server, keys)
    await append([UsageEvent(NOW_US)] * 3)
    await carried(server, keys, archive)
    replay = await begin(server, keys, PARTITIONS, Asked(effects(), ALL_DAYS, archive))
    shadow = Worker(server, keys, effects(), options=WorkerOptions(version=replay.number, history=archive))
    await shadow.open()
    for unit in shadow.units:
        await unit.declare()
    gone = await trim(server, keys.partition(0), Retention(0, 0, 0, relief=1))
    assert gone.skipped == {"v2:metrics": 3, "v2:cost": 3}
    with anyio.fail_after(20), pytest.raises(PassedError, match="lacks 6 events"):
        await Running(server, keys, PARTITIONS, effects(), archive=archive).run(replay)


async def test_a_replay_slows_down_for_those_who_count_live(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a worker that is alive falls behind, the share of time shrinks to its floor, and grows again behind it."""
    await carried(server, keys)
    await append([UsageEvent(NOW_US)])
    monkeypatch.setattr("consumers.replay.pace.MOST_LAG_MS", 5)
    monkeypatch.setattr("consumers.replay.pace.LOOK_S", 0.001)
    pace = Pace(server, keys, PARTITIONS, ["metrics"], rate=None, done=lambda: 0)
    with anyio.move_on_after(0.2):
        await pace.watch()
    assert (pace.share, pace.why) == (1.0, ""), "nobody is there who could be disturbed"
    await server.call("ZADD", keys.workers_of("v1:metrics"), 10**13, "w1")
    with anyio.move_on_after(0.5):
        await pace.watch()
    assert pace.share == LEAST_SHARE
    assert "the live handlers are" in pace.why
    await carried(server, keys)
    with anyio.move_on_after(0.2):
        await pace.watch()
    assert pace.share > LEAST_SHARE
    await server.call("DEL", keys.workers_of("v1:metrics"))


async def test_a_rate_is_owed_for_what_was_done(
    server: AsyncServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 events at 100 a second are five seconds, less what the step itself took."""
    done, slept = 0, list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("consumers.replay.pace.anyio.sleep", sleep)
    pace = Pace(server, keys, PARTITIONS, ["metrics"], rate=100, done=lambda: done)
    async with pace.turn():
        done = 500
    assert 4 < slept[0] <= 5


async def test_a_rate_holds_from_the_first_step_on(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Units do not begin with a batch each that is owed for minutes: a replay of few events would know no rate."""
    for partition in range(PARTITIONS):
        await append([UsageEvent(NOW_US)] * 500, partition=partition)
    replay = await begin(server, keys, PARTITIONS, Asked(effects(), ALL_DAYS))
    running = Running(server, keys, PARTITIONS, effects(), rate=320)
    began_s = time.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(running.run, replay)
        await anyio.sleep(1)
        running.stop()
    taken = (await read_progress(server, keys, PARTITIONS, replay)).taken
    assert 0 < taken <= 320 * (time.monotonic() - began_s) + 2 * 80, "and two rounds of all units at the most"


async def test_what_no_archive_has_is_lacking_and_said(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int, archive: SegmentArchive
) -> None:
    """A segment that is gone, one that is damaged, no archive at all: a swap asks for --anyway, a report says so."""
    await carried(server, keys, archive)
    await trim_all(server, keys)
    (gone,) = (await archive.store.segments(0))[0]
    (damaged,) = (await archive.store.segments(1))[0]
    data = await archive.store.read(1, damaged.name)
    await archive.store.delete(0, gone.name)
    await archive.store.delete(1, damaged.name)
    await archive.store.put(1, damaged.name, data[:40] + bytes([data[40] ^ 1]) + data[41:])
    plan = await read_plan(server, keys, PARTITIONS, effects(), ALL_DAYS, archive.store)
    replay, events = await replayed(server, keys, archive)
    progress = await read_progress(server, keys, PARTITIONS, replay)
    assert plan.missing == 40
    assert progress.lacks == 2 * (40 + 40), "what is damaged shows when it is read"
    assert progress.lacks + events == traffic * len(effects())
    with pytest.raises(VersionsError, match=f"lacks {progress.lacks:,} events"):
        await swap(server, keys, PARTITIONS, replay.number)
    await swap(server, keys, PARTITIONS, replay.number, anyway=True)
    assert not (await report(server, keys)).completeness.complete(0)
    accounts = [await read_unit_account(server, keys.partition(n), "cost", version=2) for n in range(PARTITIONS)]
    assert [account.balance() for account in accounts] == [0] * PARTITIONS
    alone, _ = await replayed(server, keys)
    assert (await read_progress(server, keys, PARTITIONS, alone)).lacks == traffic * len(effects())


async def test_a_day_of_a_whole_archive_lacks_nothing(
    server: AsyncServer, keys: Keys, traffic: int, archive: SegmentArchive
) -> None:
    """What is passed over is of other days: the report goes on saying that nothing is missing."""
    await carried(server, keys, archive)
    await trim_all(server, keys)
    replay, _ = await replayed(server, keys, archive, Days(TODAY_S - DAY_S, TODAY_S))
    assert (await read_progress(server, keys, PARTITIONS, replay)).lacks == 0
    await swap(server, keys, PARTITIONS, replay.number)
    assert (await report(server, keys)).completeness.complete(0)


async def test_an_archive_that_is_gone_is_no_end_of_it(
    server: AsyncServer, keys: Keys, traffic: int, archive: SegmentArchive, tmp_path: Path
) -> None:
    """The unit waits for it, and goes on where it stood."""
    await carried(server, keys, archive)
    await trim_all(server, keys)
    replay = await begin(server, keys, PARTITIONS, Asked(effects(), ALL_DAYS, archive))
    options = WorkerOptions(version=replay.number, history=archive)
    worker = Worker(server, keys, effects(), options=options)
    await worker.open()
    await worker.units[0].step()
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    with pytest.raises(UnavailableError, match="there is no such folder"):
        await Worker(server, keys, effects(), options=options).run_until_idle()
    (tmp_path / "elsewhere").rename(tmp_path / "archive")
    await Worker(server, keys, effects(), options=options).run_until_idle()
    assert (await compared(server, keys, replay)).equal


class Older(MetricsHandler):
    """Metrics of an earlier revision."""

    def recipe(self) -> Recipe:
        """Return a recipe that was there before."""
        return Recipe(1, self.caps)


async def test_a_recipe_that_was_replaced_stays_replaced_behind_a_drop(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int
) -> None:
    """A worker of the earlier revision that lives on must not count in what took the place of its version."""
    older = Worker(server, keys, [FoldEffect(Older())])
    await older.run_until_idle()
    metrics = [effect for effect in effects() if effect.name == "metrics"]
    await Worker(server, keys, metrics).run_until_idle()
    replay, _ = await replay_until_idle(server, keys, PARTITIONS, Asked(metrics, ALL_DAYS))
    await swap(server, keys, PARTITIONS, replay.number)
    await drop(server, keys, PARTITIONS, await plan_drop(server, keys, PARTITIONS, LIVE_VERSION))
    await append([UsageEvent(NOW_US)])
    late = Worker(server, keys, [FoldEffect(Older())])
    with pytest.raises(OlderRecipeError):
        await late.run_until_idle()
    await Worker(server, keys, metrics).run_until_idle()


async def test_a_replay_over_two_bases_takes_their_places_one_by_one(
    server: AsyncServer, keys: Keys, traffic: int
) -> None:
    """After cost was replayed by itself, both are: each base goes by its number."""
    await carried(server, keys)
    costs = [effect for effect in effects() if effect.name == "cost"]
    for asked in (Asked(costs, ALL_DAYS), Asked(effects(), ALL_DAYS)):
        replay, _ = await replay_until_idle(server, keys, PARTITIONS, asked)
        await swap(server, keys, PARTITIONS, replay.number)
        if asked.effects == costs:
            await drop(server, keys, PARTITIONS, await plan_drop(server, keys, PARTITIONS, LIVE_VERSION))
    for number, handler in ((1, "metrics"), (2, "cost")):
        dropping = await plan_drop(server, keys, PARTITIONS, number)
        assert (dropping.units, dropping.heir) == ([(number, handler)], 3)
        await drop(server, keys, PARTITIONS, dropping)
    versions = await read_versions(server, keys)
    assert (versions.bases, versions.replays) == ({"cost": 3, "metrics": 3}, ())


async def test_a_drop_that_was_killed_is_gone_on_with(server: AsyncServer, keys: Keys, traffic: int) -> None:
    """What the document has forgotten and a partition has not goes by its number."""
    await carried(server, keys)
    before = {key for key in await server.call("KEYS", "*") if b":v1:" in key}
    await replayed(server, keys)
    await server.call("DEL", keys.versions())
    await server.call("SET", f"{keys.partition(0).unit('metrics', 2).prefix}:odd".encode() + b"\xff", "not UTF-8")
    dropping = await plan_drop(server, keys, PARTITIONS, 2)
    assert await drop(server, keys, PARTITIONS, dropping) > 100
    after = set(await server.call("KEYS", "*"))
    assert before <= after
    assert all(key.endswith(b":cursor") for key in after if b":v2:" in key)
    assert len(await server.call("XINFO", "GROUPS", keys.partition(0).stream())) == 2


async def test_no_replay_is_begun_that_would_leave_a_partition_of_the_archive_unread(
    server: AsyncServer, keys: Keys, traffic: int, archive: SegmentArchive
) -> None:
    """A namespace with fewer partitions than the archive is told how many it needs; nothing is entered."""
    await carried(server, keys, archive)
    with pytest.raises(VersionsError, match="partitions up to 3, and this namespace has 2: let it have 4 first"):
        await begin(server, keys, 2, Asked(effects(), ALL_DAYS, archive))
    assert (await read_versions(server, keys)).replays == ()


async def test_what_was_begun_is_gone_on_with_and_nothing_else_in_its_name(
    server: AsyncServer, keys: Keys, traffic: int, archive: SegmentArchive
) -> None:
    """The same to do is the same version, also when it has caught up; others' days and another archive are refused."""
    asked = Asked(effects(), ALL_DAYS, archive)
    begun = await begin(server, keys, PARTITIONS, asked)
    assert await resume(server, keys, PARTITIONS, asked) == begun
    check_asked(begun, asked)
    check_archive(begun, archive.url)
    days = Days(TODAY_S, 0)
    with pytest.raises(VersionsError, match=f"version {begun.number} is being built, of metrics, cost, all days"):
        check_asked(begun, Asked(effects(), days, archive))
    with pytest.raises(VersionsError, match=r"has begun with the archive at file:.*, and here that is none"):
        check_archive(begun, "")
    await drop(server, keys, PARTITIONS, await plan_drop(server, keys, PARTITIONS, begun.number))
    done, _ = await replayed(server, keys, archive)
    assert (await resume(server, keys, PARTITIONS, asked)).number == done.number
    other = await resume(server, keys, PARTITIONS, Asked(effects(), days, archive))
    assert (other.number > done.number, other.days, other.progress) == (True, days, "building")


async def test_a_version_nobody_knows_any_more_is_not_begun_again(
    server: AsyncServer, keys: Keys, traffic: int
) -> None:
    """After FLUSHALL a worker with yesterday's document declares nothing that would hold the stream for ever."""
    replay = await begin(server, keys, PARTITIONS, Asked(effects(), ALL_DAYS))
    shadow = Worker(server, keys, effects(), options=WorkerOptions(version=replay.number))
    await shadow.open()
    await server.call("FLUSHALL")
    with pytest.raises(replaying.UnknownVersionError):
        await shadow.units[0].step()
    assert await server.call("KEYS", "*") == []
    again = await begin(server, keys, PARTITIONS, Asked(effects(), ALL_DAYS))
    assert again.number == replay.number
    with pytest.raises(replaying.UnknownVersionError):
        await shadow.units[0].step()


async def test_a_count_that_was_tampered_with_is_named(server: AsyncServer, keys: Keys, traffic: int) -> None:
    """The difference says handler, partition, window, field and both values; by day, dimension and measure too."""
    await carried(server, keys)
    replay, _ = await replayed(server, keys)
    unit = keys.partition(2).unit("metrics", LIVE_VERSION)
    for window in (unit.window("all", 0), unit.window("1d", TODAY_S)):
        stored = unpack(await server.call("HGET", window, "0"))
        await server.call("HSET", window, "0", pack(stored | {"ti": stored["ti"] + 1}))
    result = await compared(server, keys, replay)
    assert {(one.handler, one.partition, one.window) for one in result.differences} == {
        ("metrics", 2, "w:all:0"),
        ("metrics", 2, f"w:1d:{TODAY_S}"),
    }
    assert {int(one.live or 0) - int(one.replayed or 0) for one in result.differences} == {1}
    changes = await read_changes(server, keys, PARTITIONS, await read_versions(server, keys), replay)
    assert {one.measure for one in changes.changes} == {"input_tokens"}
    assert {one.replayed - one.live for one in changes.changes} == {-1}
    assert changes.changes[0].dimension == "", "a day's total comes first"
    assert {one.dimension for one in changes.changes} >= {"agent", "model"}


async def test_versions_at_different_cursors_are_not_compared_bit_by_bit(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int
) -> None:
    """Where the live side has moved on, the answer is "not comparable", not a list of differences."""
    await carried(server, keys)
    replay, _ = await replayed(server, keys)
    await append([UsageEvent(NOW_US)])
    await Worker(server, keys, effects(), options=WorkerOptions(version=LIVE_VERSION)).run_until_idle()
    result = await compared(server, keys, replay)
    assert not result.equal
    assert not result.differences
    assert len(result.apart) == 2
    await carried(server, keys)
    assert (await compared(server, keys, replay)).equal


async def test_nobody_swaps_to_what_stands_still(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures would be of an earlier hour; a rollback is refused for the same reason."""
    await carried(server, keys)
    replay, _ = await replayed(server, keys)
    monkeypatch.setattr("consumers.replay.changing.MOST_BEHIND_MS", 50)
    await append([UsageEvent(NOW_US)])
    await anyio.sleep(0.06)
    with pytest.raises(VersionsError, match="behind: its figures are of then"):
        await swap(server, keys, PARTITIONS, replay.number)
    await swap(server, keys, PARTITIONS, replay.number, anyway=True)
    with pytest.raises(VersionsError, match="behind: its figures are of then"):
        await rollback(server, keys, PARTITIONS)
    await carried(server, keys)
    await rollback(server, keys, PARTITIONS)


async def test_a_plan_says_what_would_be_read_and_what_is_gone(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int, archive: SegmentArchive
) -> None:
    """With the archive nothing is missing; without, all that was trimmed; nothing is changed by asking."""
    await carried(server, keys, archive)
    await trim_all(server, keys)
    await append([UsageEvent(NOW_US)] * 3)
    before = sorted(await server.call("KEYS", "*"))
    plan = await read_plan(server, keys, PARTITIONS, effects(), ALL_DAYS, archive.store)
    assert (plan.number, plan.events, plan.missing) == (2, traffic + 3, 0)
    assert plan.state_bytes > 10_000
    alone = await read_plan(server, keys, PARTITIONS, effects(), ALL_DAYS, None)
    assert (alone.events, alone.missing) == (3, traffic)
    future = Days(TODAY_S + 5 * DAY_S)
    assert (await read_plan(server, keys, PARTITIONS, effects(), future, archive.store)).partitions[1].segments == 0
    assert sorted(await server.call("KEYS", "*")) == before
    await carried(server, keys, archive)


async def test_the_watermark_waits_for_every_version_that_answers(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int
) -> None:
    """A rule must not be judged on a version that has not come so far."""
    await carried(server, keys)
    replay, _ = await replayed(server, keys)
    await append([UsageEvent(NOW_US)])
    await Worker(server, keys, effects(), options=WorkerOptions(version=LIVE_VERSION)).run_until_idle()
    await anyio.sleep(0.03)
    for swapped in (False, True):
        if swapped:
            await swap(server, keys, PARTITIONS, replay.number)
        mark = await read_watermark(server, keys, PARTITIONS, ["metrics"], await read_versions(server, keys))
        assert mark is not None
        assert (mark.now_ms - mark.at_ms > 20) == swapped
    await carried(server, keys)


splits = st.integers(0, 6)
cuts = st.lists(st.integers(1, 25), max_size=8)


@pytest.mark.one_server
def test_any_split_into_archive_and_stream_gives_the_same_state(
    real_server: RealServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is archived, trimmed and cut into batches, whoever goes on with it: the state of the live one."""
    numbers = count()

    @settings(max_examples=40, deadline=None)
    @given(frames, splits, cuts, st.integers(1, 3_000))
    def split(some: Sequence[Sequence[Event]], at: int, batches: Sequence[int], segment_bytes: int) -> None:
        folder = tmp_path_factory.mktemp("archive")
        anyio.run(_split, real_server.url, f"split{next(numbers)}", folder, some, (at, batches, segment_bytes))

    split()


async def _split(
    url: str,
    namespace: str,
    folder: Path,
    some: Sequence[Sequence[Event]],
    how: tuple[int, Sequence[int], int],
) -> None:
    at, batches, segment_bytes = how
    server, keys = AsyncServer(RedisSettings(url)), Keys(namespace)
    archive = SegmentArchive(ArchiveStore(folder.as_uri(), namespace), segment_bytes=segment_bytes)
    fold = FoldEffect(MetricsHandler(Caps(cells=4, names=5, slowest=3, ranked=3)))
    try:
        append = Appender(server, keys)
        live = Worker(server, keys, [fold, ArchiveEffect(archive)])
        for number, frame in enumerate(some):
            await append(frame)
            if number + 1 == at:
                await live.run_until_idle()
                await trim(server, keys.partition(0), Retention(1, 0, 0))
        replay = await begin(server, keys, PARTITIONS, Asked([fold], ALL_DAYS, archive))
        for most_events in batches:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("consumers.runtime.unit.MOST_EVENTS", most_events)
                options = WorkerOptions(version=replay.number, history=archive)
                worker = Worker(server, keys, [fold], options=options)
                await worker.open()
                await worker.units[0].step()
        options = WorkerOptions(version=replay.number, history=archive)
        await Worker(server, keys, [fold], options=options).run_until_idle()
        await live.run_until_idle()
        units = [keys.partition(0).unit("metrics", version) for version in (1, replay.number)]
        states = [await state_of(server, unit) for unit in units]
        assert states[0] == states[1]
        accounts = [await read_unit_account(server, keys.partition(0), "metrics", version=v) for v in (1, 2)]
        assert [account.balance() for account in accounts] == [0, 0]
        assert accounts[0].committed == accounts[1].committed
    finally:
        await server.call("DEL", *await server.call("KEYS", f"{{{namespace}:*"))
        await server.aclose()


async def test_a_join_that_overlaps_by_one_frame_is_caught(  # noqa: PLR0913, PLR0917 - fixtures
    server: AsyncServer,
    keys: Keys,
    append: Appender,
    traffic: int,
    archive: SegmentArchive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The negative control: who reads the entry at the cursor once more is told apart from who does not."""
    await carried(server, keys, archive)
    await trim_all(server, keys)

    async def from_the_last_one(unit: replaying.ReplayUnit, behind: tuple[int, int], join: tuple[int, int]) -> object:
        found = await original(unit, behind, join)
        return [found[0], *found] if found else found

    original = replaying.ReplayUnit._archived  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(replaying.ReplayUnit, "_archived", from_the_last_one)
    replay, _ = await replayed(server, keys, archive)
    changes = await read_changes(server, keys, PARTITIONS, await read_versions(server, keys), replay)
    assert changes.changes
    assert all(one.replayed > one.live for one in changes.changes)
    accounts = [await read_unit_account(server, keys.partition(n), "cost", version=2) for n in range(PARTITIONS)]
    await server.call("DEL", *await server.call("KEYS", "*:v2:*"), keys.versions())
    for number in range(PARTITIONS):
        await server.call("HDEL", keys.partition(number).handlers(), "v2:cost", "v2:metrics")
    assert all(account.base < 0 for account in accounts), "more events are counted than there ever were"
