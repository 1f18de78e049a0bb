"""Backfill on real servers: whatever is fed, how often, in how many runs at once, each event counts once."""

import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import anyio
import msgspec
import pytest
from feeding import Feeding, feed, fold, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_state import named_state_of
from support import Appender, RealServer

from consumers.reader import StateReader
from consumers.removal import purge
from consumers.views.captured import captured_hours
from pipeline.connection import AsyncServer, Command, RedisSettings, Reply, server_facts
from pipeline.errors import SettingsError, SidestreamError, UnknownOutcomeError, UnreachableError
from pipeline.events import ErrorEvent, Event, Resource, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.segments import Archived, build_segment
from pipeline.stream import parse_entries
from pipeline.wire import Frame, FrameDecoder
from producers.backfill.feeding import Feeder
from producers.backfill.framing import Framer
from producers.backfill.holdings import event_id
from producers.backfill.lines import fields_of
from producers.backfill.pace import Pace
from producers.backfill.sources import Source
from sidestream.cli.backfill import behind
from sidestream.cli.session import Session

NOW_US = time.time_ns() // 1_000
DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000


def usages(number: int, *, days: int = 3, sessions: int = 7) -> list[dict[str, Any]]:
    """Return lines of requests of the last days, some of them equal."""
    return [
        {
            "event": "usage",
            "time_us": NOW_US - DAY_US * (1 + n % days) - n // 3 * 1_000,
            "agent": f"agent-{n % 3}",
            "session": f"s-{n % sessions}" if n % sessions else "",
            "input_tokens": n // 2,
            "duration_us": 1_000,
        }
        for n in range(number)
    ]


def content(path: Path) -> bytes:
    """Return the bytes of a file."""
    return path.read_bytes()


async def tokens(server: AsyncServer, keys: Keys) -> int:
    """Fold, and return the input tokens since the beginning."""
    await fold(server, keys)
    partitions = int(await server.call("HGET", keys.meta(), "partitions"))
    cells = await StateReader(server, keys, partitions).lifetime("metrics")
    return sum(measures.get("ti", 0) for measures in cells.values())


async def test_events_of_the_past_are_counted_in_their_own_windows(
    server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """By days, by session; what has expired already is left out of that resolution alone."""
    lines = usages(300)
    done = await feed(server, keys, write_lines(tmp_path / "a.jsonl", lines))
    assert done.told == (300, 0, 0, 0)
    assert await tokens(server, keys) == sum(line["input_tokens"] for line in lines)
    for number in range(4):
        for key in await server.call("KEYS", f"{keys.partition(number).tag}:v1:metrics:w:10s:*"):
            pytest.fail(f"a window of ten seconds, days old: {key}")
    assert await server.call("KEYS", "*:w:1h:*")


async def test_the_same_a_part_a_copy_in_another_order_change_nothing(
    server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """Equal lines are told apart by how many there are: a file of three has the one of a part."""
    lines = usages(400)
    lines += lines[:50]
    whole = write_lines(tmp_path / "whole.jsonl", lines)
    assert (await feed(server, keys, whole)).told == (450, 0, 0, 0)
    before = await server.call("XLEN", keys.partition(1).stream())
    shuffled = list(lines)
    Random(3).shuffle(shuffled)  # noqa: S311 - repeatable on purpose
    for name, some in (("same", lines), ("part", lines[100:333]), ("sorted", shuffled)):
        done = await feed(server, keys, write_lines(tmp_path / f"{name}.jsonl", some))
        assert done.told == (0, len(some), 0, 0)
    assert await server.call("XLEN", keys.partition(1).stream()) == before, "nothing new, and yet it was stored"
    assert await tokens(server, keys) == sum(line["input_tokens"] for line in lines)


async def test_more_partitions_between_two_runs_change_nothing(server: AsyncServer, keys: Keys, tmp_path: Path) -> None:
    """Files are routed over as many as there were when the first was fed."""
    whole = write_lines(tmp_path / "a.jsonl", usages(100))
    await feed(server, keys, whole)
    await server.call("HSET", keys.meta(), "partitions", 8)
    assert (await feed(server, keys, whole)).told == (0, 100, 0, 0)


async def test_three_runs_at_once_feed_each_event_once(server: AsyncServer, keys: Keys, tmp_path: Path) -> None:
    """Whichever comes first: what one has appended is known to the others, event by event."""
    lines = usages(2_000)
    whole = write_lines(tmp_path / "a.jsonl", lines)
    runs: list[Feeding] = []

    async def run(most_held: int) -> None:
        runs.append(await feed(server, keys, whole, most_held=most_held))

    async with anyio.create_task_group() as group:
        for most_held in (100, 170, 90):
            group.start_soon(run, most_held)
    assert sum(one.fed.new for one in runs) == 2_000
    assert [one.fed.new + one.fed.known for one in runs] == [2_000] * 3
    assert await tokens(server, keys) == sum(line["input_tokens"] for line in lines)


async def test_an_id_of_the_source_is_the_event_whatever_else_is_said(
    server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """Of one source; of another, or without, it is another event."""
    line = {"id": 7, "event": "usage", "time_us": NOW_US - DAY_US, "session": "s", "input_tokens": 5}
    paths = [
        write_lines(tmp_path / f"{n}.jsonl", [line | more])
        for n, more in enumerate(({}, {"input_tokens": 6}, {"id": "7"}))
    ]
    first = await feed(server, keys, *paths)
    assert first.told == (1, 2, 0, 0)
    assert (await feed(server, keys, paths[0], name="billing")).told == (1, 0, 0, 0)
    assert await tokens(server, keys) == 10


class Flaky:
    """A server whose answers get lost: before or after it has acted, by the dice."""

    def __init__(self, server: AsyncServer, dice: Random) -> None:
        self.lost = 0
        self._server = server
        self._dice = dice

    async def batch(self, commands: Sequence[Command]) -> list[Reply | SidestreamError]:
        """Send commands, or lose them, or their answers."""
        fate = self._dice.random()
        if fate < 0.2:
            raise UnreachableError("the test has no connection")
        replies = await self._server.batch(commands)
        if fate < 0.6:
            self.lost += 1
            raise UnknownOutcomeError("the test has lost the answer")
        return replies


async def test_lost_answers_double_nothing_and_the_numbers_stay_true(
    server: AsyncServer, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence answers for a frame that is sent again, and remembers how many of its events were known."""

    async def at_once(_: Feeder, trouble: SidestreamError | None) -> None:
        del trouble

    monkeypatch.setattr(Feeder, "_pause", at_once)
    lines = usages(600)
    await feed(server, keys, write_lines(tmp_path / "part.jsonl", lines[::3]))
    flaky = Flaky(server, Random(5))  # noqa: S311 - repeatable on purpose
    whole = write_lines(tmp_path / "a.jsonl", lines)
    done = await feed(server, keys, whole, most_held=40, server_of_frames=flaky)
    assert flaky.lost > 3
    assert done.told == (400, 200, 0, 0)
    assert await tokens(server, keys) == sum(line["input_tokens"] for line in lines)


async def test_what_redis_loses_meanwhile_is_told_and_fed_by_the_next_run(
    server: AsyncServer, keys: Keys, tmp_path: Path
) -> None:
    """Ledger and stream are lost together, so nothing that is lost is taken for known."""
    lines = usages(900, sessions=1)

    class Forgetful(Flaky):
        async def batch(self, commands: Sequence[Command]) -> list[Reply | SidestreamError]:
            self.lost += 1
            if self.lost == 3:
                await server.call("FLUSHALL")
            return await server.batch(commands)

    whole = write_lines(tmp_path / "a.jsonl", lines)
    forgetful = Forgetful(server, Random(1))  # noqa: S311 - unused
    done = await feed(server, keys, whole, most_held=40, server_of_frames=forgetful)
    assert done.fed.lost > 0
    again = await feed(server, keys, whole)
    assert again.fed.new >= done.fed.lost
    assert again.fed.new + again.fed.known == 900
    assert await tokens(server, keys) == sum(line["input_tokens"] for line in lines)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_what_is_no_file_is_said(tmp_path: Path, name: str) -> None:
    """Before anything is fed."""
    with pytest.raises(SettingsError, match=r"cannot be read|is no file"):
        Source.of(tmp_path / name)


async def test_a_bad_line_is_set_aside_mended_and_fed(server: AsyncServer, keys: Keys, tmp_path: Path) -> None:
    """The rest goes in; what was set aside is never written over."""
    good = usages(3)
    path = tmp_path / "a.jsonl"
    bad = b'{"event": "usage", "time_us": 1000, "input_tokens": "many"}'
    path.write_bytes(b"\n".join([msgspec.json.encode(good[0]), bad, *map(msgspec.json.encode, good[1:])]))
    (tmp_path / "a.bad.jsonl").write_text("somebody's")
    done = await feed(server, keys, path)
    assert done.told == (3, 0, 0, 1)
    [shown] = done.files[0].shown
    assert (shown.place, shown.reason) == (2, "input_tokens: Expected `int`, got `str`")
    aside = tmp_path / "a.bad-1.jsonl"
    assert done.files[0].aside == str(aside)
    assert content(aside) == bad + b"\n"
    write_lines(aside, [{"event": "usage", "time_us": NOW_US - DAY_US, "input_tokens": 1_000}])
    assert (await feed(server, keys, aside)).told == (1, 0, 0, 0)
    assert (await feed(server, keys, path)).told == (0, 3, 0, 1)
    assert await tokens(server, keys) == 1_000 + sum(line["input_tokens"] for line in good)


async def lines_of_stream(server: AsyncServer, keys: Keys) -> list[dict[str, Any]]:
    """Return what `sidestream tail --json` says of everything."""
    found: list[dict[str, Any]] = []
    for number in range(4):
        for entry in parse_entries(await server.call("XRANGE", keys.partition(number).stream(), "-", "+")):
            frame: Frame = FrameDecoder().decode(entry.parse())
            for index, event in enumerate(frame.events):
                if event is not None:
                    found.append(fields_of(event, frame, event_id(frame, number, index)))
    return found


def live(number: int, at_us: int = NOW_US - 2 * HOUR_US) -> list[Event]:
    """Return events of several kinds, of one hour."""
    kinds: list[Event] = []
    for n in range(number):
        kinds += [
            UsageEvent(at_us, agent="w", input_tokens=n, session=f"s-{n}"),
            ErrorEvent(at_us, type="E", message="it broke"),
            TransitionEvent(at_us, from_state="a", to_state="b"),
        ]
    return kinds


@pytest.mark.parametrize("counted", [False, True])
async def test_an_hour_that_was_captured_live_is_told(
    server: AsyncServer, keys: Keys, append: Appender, tmp_path: Path, *, counted: bool
) -> None:
    """Whether metrics has counted its events already or has still to; what files have filled is not captured."""
    at_us = NOW_US - 50 * HOUR_US
    await append(live(2, at_us), partition=2)
    await feed(server, keys, write_lines(tmp_path / "a.jsonl", usages(60)))
    if counted:
        await fold(server, keys)
    reader = StateReader(server, keys, 4)
    hours = {line["time_us"] // HOUR_US for line in usages(60)} | {at_us // HOUR_US, at_us // HOUR_US - 1}
    found = await captured_hours(reader, hours - {at_us // HOUR_US}, NOW_US // 1_000_000)
    assert found == frozenset()
    assert await captured_hours(reader, hours, NOW_US // 1_000_000) == {at_us // HOUR_US}


async def test_only_what_is_missing_of_a_live_hour_is_fed(
    server: AsyncServer, keys: Keys, append: Appender, tmp_path: Path
) -> None:
    """What the stream has is passed over; what it lost goes in, once; without an id of a stream nothing does."""
    await append(live(4))
    await append(live(4), partition=3)
    whole = write_lines(tmp_path / "a.jsonl", await lines_of_stream(server, keys))
    await server.call(
        "DEL", keys.partition(3).stream(), keys.partition(3).fence("ab" * 16), keys.partition(3).counters()
    )
    assert (await feed(server, keys, whole, only_missing=True)).told == (12, 0, 12, 0)
    assert (await feed(server, keys, whole, only_missing=True)).told == (0, 12, 12, 0)
    bare = write_lines(tmp_path / "bare.jsonl", [{"event": "usage", "time_us": NOW_US - 2 * HOUR_US}])
    done = await feed(server, keys, bare, only_missing=True)
    assert done.told == (0, 0, 0, 1)
    assert done.files[0].shown[0].reason == "its hour was captured live, and it has no id of a stream"
    assert await tokens(server, keys) == 2 * sum(range(4))


async def test_what_was_trimmed_is_not_taken_for_missing(
    server: AsyncServer, keys: Keys, append: Appender, tmp_path: Path
) -> None:
    """A fence that lost nothing vouches for what it took; where it is gone, nothing tells, and nothing is fed."""
    await append(live(2))
    whole = write_lines(tmp_path / "a.jsonl", await lines_of_stream(server, keys))
    await fold(server, keys)
    stream, fence = keys.partition(0).stream(), keys.partition(0).fence("ab" * 16)
    await server.call("XTRIM", stream, "MAXLEN", 0)
    await server.call("HSET", keys.partition(0).counters(), "trimmed", 6)
    assert (await feed(server, keys, whole, only_missing=True)).told == (0, 0, 6, 0)
    await server.call("DEL", fence)
    done = await feed(server, keys, whole, only_missing=True)
    assert done.told == (0, 0, 0, 6)
    assert "nothing tells" in done.files[0].shown[0].reason


async def test_an_archive_segment_is_fed_with_the_ids_of_its_stream(
    server: AsyncServer, keys: Keys, append: Appender, tmp_path: Path
) -> None:
    """Into another namespace it goes once; into its own it is there already."""
    await append(live(4))
    await server.call(
        "XADD", keys.partition(0).stream(), "*", "b", b'{"events":[{"event":"usage","time_us":%d}]}' % NOW_US
    )
    entries = parse_entries(await server.call("XRANGE", keys.partition(0).stream(), "-", "+"))
    segment = build_segment("test", 0, [Archived(entry, NOW_US, NOW_US) for entry in entries])
    path = tmp_path / "x.seg"
    path.write_bytes(segment.data)
    assert (await feed(server, keys, path, only_missing=True)).told == (0, 0, 13, 0)
    other = Keys("test2")
    assert (await feed(server, other, path)).told == (13, 0, 0, 0)
    assert (await feed(server, other, path)).told == (0, 13, 0, 0)
    # What the other namespace says of them comes back to it as its own.
    again = write_lines(tmp_path / "again.jsonl", await lines_of_stream(server, other))
    assert (await feed(server, other, again)).told == (0, 0, 13, 0)
    await purge(server, other)


whens = st.sampled_from([NOW_US - 1_800_000_000, NOW_US - DAY_US, NOW_US - 3 * DAY_US])
names = st.sampled_from(["", "a", "b", "c"])
events = st.fixed_dictionaries(
    {"event": st.just("usage"), "time_us": whens, "agent": names, "session": names, "input_tokens": st.integers(0, 2)},
    optional={"id": st.integers(0, 4), "service": names},
) | st.fixed_dictionaries({"event": st.just("error"), "time_us": whens, "type": names})
plans = st.lists(
    st.lists(st.tuples(st.randoms(use_true_random=False), st.integers(0, 12)), min_size=1, max_size=3), max_size=3
)


@pytest.mark.one_server
def test_any_cut_order_repetition_and_number_of_runs_leaves_the_state_of_one(
    real_server: RealServer, tmp_path: Path
) -> None:
    """Parts of a file, in any order, several at once and again, then all: bit by bit the same as all of it once."""
    numbers = count()

    @settings(max_examples=40, deadline=None)
    @given(st.lists(events, min_size=1, max_size=12), plans)
    def try_it(lines: list[dict[str, Any]], plan: list[list[tuple[Random, int]]]) -> None:
        # An id is one event, so it says the same wherever it stands.
        lines = [line if "id" not in line else lines[0] | {"id": line["id"]} for line in lines]
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        anyio.run(_in_parts, real_server.url, folder, lines, plan)

    try_it()


async def _in_parts(url: str, folder: Path, lines: list[dict[str, Any]], plan: list[list[tuple[Random, int]]]) -> None:
    server = AsyncServer(RedisSettings(url))
    once, often = Keys(f"once-{folder.name}"), Keys(f"often-{folder.name}")
    try:
        whole = write_lines(folder / "whole.jsonl", lines)
        await feed(server, once, whole)
        for turn, parts in enumerate(plan):
            async with anyio.create_task_group() as group:
                for number, (dice, size) in enumerate(parts):
                    part = dice.sample(lines, min(size, len(lines)))
                    path = write_lines(folder / f"{turn}-{number}.jsonl", part)
                    group.start_soon(_feed, server, often, path, 1 + size // 3)
        await feed(server, often, whole)
        await fold(server, once)
        await fold(server, often)
        for number in range(4):
            units = [keys.partition(number).unit("metrics") for keys in (once, often)]
            assert await named_state_of(server, units[0]) == await named_state_of(server, units[1])
    finally:
        for keys in (once, often):
            await purge(server, keys)
        await server.aclose()


async def _feed(server: AsyncServer, keys: Keys, path: Path, most_held: int) -> None:
    await feed(server, keys, path, most_held=most_held)


async def test_feeding_rests_while_live_handlers_are_behind(server: AsyncServer, keys: Keys) -> None:
    """Until they are not; it looks again and again."""
    behind = [3.0, 1.5, 0.2]

    async def behind_s() -> float:
        return behind.pop(0)

    framer = Framer(4)
    feeder = Feeder(server, keys, framer, Pace(None), behind_s)
    framer.add(UsageEvent(NOW_US - DAY_US), Resource(), b"0123456789")
    framer.close_all()
    await feeder.send()
    assert (feeder.fed.new, behind) == (1, [])


async def test_only_handlers_that_somebody_runs_are_waited_for(
    redis_url: str, server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Where nobody counts, nobody is kept waiting, however much lies there."""
    await append([UsageEvent(NOW_US)])
    await fold(server, keys)
    await append([UsageEvent(NOW_US)])
    session = Session(server, keys, 4, server_facts(await server.call("INFO")), redis_url)
    behind_s = behind(session)
    assert await behind_s() == 0.0
    lease = keys.partition(2).unit("metrics").lease()
    await server.call("SET", lease, "worker", "PX", 60_000)
    assert await behind_s() > 0.0
    await server.call("DEL", lease)
    await fold(server, keys)


async def test_messages_of_errors_lose_their_secrets_as_live(server: AsyncServer, keys: Keys, tmp_path: Path) -> None:
    """Also what a cut would have left a part of; the line is the same event whatever is taken out of it."""
    secret = "sk-proj-" + "a1" * 20
    line = {"event": "error", "time_us": NOW_US - DAY_US, "type": "E", "message": "x" * 480 + f" {secret}"}
    path = write_lines(tmp_path / "a.jsonl", [line])
    assert (await feed(server, keys, path)).told == (1, 0, 0, 0)
    [told] = await lines_of_stream(server, keys)
    assert "sk-proj" not in told["message"]
    assert (await feed(server, keys, path)).told == (0, 1, 0, 0)


async def test_a_lane_that_was_idle_for_days_begins_under_a_new_id(
    server: AsyncServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fence may be forgotten, and that must not look like a loss of the server."""
    framer = Framer(1)
    feeder = Feeder(server, keys, framer, Pace(None))
    now_s = [1_000.0]
    monkeypatch.setattr("producers.clock.now_s", lambda: now_s[0])
    for number in range(2):
        framer.add(UsageEvent(NOW_US - DAY_US, input_tokens=number), Resource(), b"%010d" % number)
        framer.close_all()
        await feeder.send()
        await server.call("DEL", *await server.call("KEYS", "*:fence:*"))
        now_s[0] += 5 * 86_400
    assert (feeder.fed.new, feeder.fed.lost) == (2, 0)


async def test_an_outage_that_lasts_ends_the_run(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the server's own words; until then it is tried again and again."""
    monkeypatch.setattr("producers.backfill.feeding.OUTAGE_S", 0.2)
    away = AsyncServer(RedisSettings("unix:///tmp/no-such-socket"))
    framer = Framer(1)
    framer.add(UsageEvent(NOW_US - DAY_US), Resource(), b"0123456789")
    framer.close_all()
    with pytest.raises(UnreachableError):
        await Feeder(away, keys, framer, Pace(None)).send()
    await away.aclose()
