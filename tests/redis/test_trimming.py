"""Trimming on a real server: what nobody needs goes, exactly, and every event keeps its place in the accounts."""

import time
from collections.abc import Sequence

import anyio
import msgspec
import pytest
from support import Appender

from consumers.contract import DeadLetter, Slice
from consumers.folding import Folded
from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.replay.beginning import Asked
from consumers.replay.diff import diff
from consumers.replay.dropping import drop, plan_drop
from consumers.replay.running import replay_until_idle
from consumers.runtime.effects import UNLIMITED, FoldEffect, SinkEffect
from consumers.runtime.run import Worker, WorkerOptions
from consumers.runtime.trimming import MOST_BYTES, MOST_ENTRIES, Retention, Trimmed, trim
from consumers.runtime.unit import Unit, UnitOptions
from consumers.versions import ALL_DAYS
from consumers.views.accounting import UnitAccount, read_unit_account
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.errors import CapacityError, RefusedError, TransientError
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from pipeline.scripting import script

NOW_US = time.time_ns() // 1_000
HOUR_MS = 3_600_000
AT_ONCE_GONE = Retention(kept_ms=0, sink_ms=HOUR_MS, sink_bytes=1 << 30)


class Frugal(MetricsHandler):
    """Takes about two events a commit."""

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold within a small budget."""
        return super().fold(slices, min(budget, 40))


class Collector:
    """A sink that remembers what it was given, and can be dead."""

    name = "collector"

    def __init__(self) -> None:
        self.dead = False
        self.events = 0

    async def deliver(self, slices: Sequence[Slice]) -> Sequence[DeadLetter]:
        """Take a batch, or be away."""
        if self.dead:
            raise TransientError("the far side is away")
        self.events += sum(len(list(part.events())) for part in slices)
        return []

    async def aclose(self) -> None:
        """Hold nothing."""


def usages(count: int = 2) -> list[UsageEvent]:
    """Return requests of different agents, so that a budget cuts between them."""
    return [UsageEvent(NOW_US, agent=f"agent-{n}", model="gpt-4o", input_tokens=1, session="s") for n in range(count)]


async def add_foreign(server: AsyncServer, keys: Keys, events: int, entry_id: str = "*", partition: int = 0) -> str:
    """Append a frame by a bare XADD, at any id; return its id."""
    body = msgspec.json.encode({"events": usages(events)})
    stream = keys.partition(partition).stream()
    return (await server.call("XADD", stream, entry_id, "n", events, "c", "json", "b", body)).decode()


def fold_unit(server: AsyncServer, keys: Keys, handler: MetricsHandler | None = None, version: int = 1) -> Unit:
    """Return a unit of metrics in partition 0."""
    effect = FoldEffect(handler or MetricsHandler())
    return Unit(server, keys.partition(0), effect, UnitOptions(version=version))


async def drain(unit: Unit) -> None:
    """Step until nothing is left; a step from a cursor that was moved only learns where it stands."""
    while await unit.step() or await unit.step():
        pass


async def sink_unit(server: AsyncServer, keys: Keys, sink: Collector) -> Unit:
    """Return a declared unit of a sink in partition 0."""
    unit = Unit(server, keys.partition(0), SinkEffect(sink), UnitOptions())
    await unit.declare()
    return unit


async def trimmed(
    server: AsyncServer,
    keys: Keys,
    retention: Retention = AT_ONCE_GONE,
    *,
    most_entries: int = MOST_ENTRIES,
    most_bytes: int = MOST_BYTES,
) -> Trimmed:
    """Call the trim script once in partition 0."""
    return await trim(server, keys.partition(0), retention, most_entries=most_entries, most_bytes=most_bytes)


async def length(server: AsyncServer, keys: Keys) -> int:
    """Return how many entries partition 0 has."""
    return int(await server.call("XLEN", keys.partition(0).stream()))


async def account(server: AsyncServer, keys: Keys, handler: str = "metrics", version: int = 1) -> UnitAccount:
    """Return the account of a unit of partition 0."""
    return await read_unit_account(server, keys.partition(0), handler, version=version)


async def tokens_of(server: AsyncServer, keys: Keys) -> int:
    """Return the input tokens of all cells, since the beginning."""
    cells = await StateReader(server, keys, 4).lifetime("metrics")
    return sum(measures.get("ti", 0) for measures in cells.values())


async def test_what_every_fold_handler_has_taken_goes_and_is_counted(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Appended and foreign events apart; what came since stays."""
    unit = fold_unit(server, keys)
    await append(usages(3))
    await add_foreign(server, keys, 4)
    await append(usages(5))
    await drain(unit)
    await append(usages(6))
    assert await trimmed(server, keys) == Trimmed(entries=3, events=12, foreign=4)
    assert await trimmed(server, keys) == Trimmed()
    found = await account(server, keys)
    assert (found.trimmed, found.trimmed_foreign, found.outstanding, found.balance()) == (8, 4, 6, 0)
    await drain(unit)
    assert await tokens_of(server, keys) == 18


async def test_an_entry_that_a_cursor_stands_in_stays(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """It goes when its last event is taken; the rest of it was counted from the stream."""
    unit = fold_unit(server, keys, Frugal())
    await append(usages(1))
    await append(usages(10))
    while (await unit.declare()).index == 0:
        await unit.step()
    assert (await trimmed(server, keys)).entries == 1
    assert await length(server, keys) == 1
    await drain(unit)
    assert (await trimmed(server, keys)).entries == 1
    assert (await length(server, keys), await tokens_of(server, keys)) == (0, 11)


async def test_a_second_version_of_a_handler_holds_the_stream_until_it_is_dropped(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A replay that stands still loses nothing; when it is dropped its hold ends."""
    await append(usages(2))
    unit, shadow = fold_unit(server, keys), fold_unit(server, keys, version=2)
    await drain(unit)
    await shadow.declare()
    assert (await trimmed(server, keys)).entries == 0
    await drain(shadow)
    await append(usages(3))
    await drain(unit)
    assert (await trimmed(server, keys)).entries == 1
    assert (await account(server, keys, version=2)).balance() == 0
    await drop(server, keys, 4, await plan_drop(server, keys, 4, 2))
    assert (await trimmed(server, keys)).entries == 1


async def test_nothing_goes_where_nobody_reads_or_a_cursor_is_gone(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A handler that was never declared, and one that must begin anew, still find everything."""
    await append(usages(2))
    assert await trimmed(server, keys) == Trimmed()
    unit = fold_unit(server, keys)
    await drain(unit)
    await server.call("DEL", unit.keys.cursor())
    assert await trimmed(server, keys) == Trimmed()
    await server.call("FLUSHALL")


async def test_entries_stay_for_their_retention_by_the_brokers_time(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Older ones go, though all are counted alike."""
    now_ms = int((await server.call("TIME"))[0]) * 1_000
    for hours in (3, 2):
        await add_foreign(server, keys, 2, f"{now_ms - hours * HOUR_MS}-0")
    await append(usages(2))
    await drain(fold_unit(server, keys))
    kept_for = Retention(150 * 60_000, 0, 0)
    assert (await trimmed(server, keys, kept_for)).entries == 1
    assert (await trimmed(server, keys, msgspec.structs.replace(kept_for, kept_ms=HOUR_MS))).entries == 1
    assert (await trimmed(server, keys, msgspec.structs.replace(kept_for, kept_ms=HOUR_MS))).entries == 0
    assert await length(server, keys) == 1


@pytest.mark.parametrize(("entries", "most_bytes"), [(7, 10**6), (10**4, 600)])
async def test_a_call_is_bounded_and_says_that_there_is_more(
    server: AsyncServer, keys: Keys, append: Appender, entries: int, most_bytes: int
) -> None:
    """By entries and by bytes; repeated, the calls trim everything, each event counted once."""
    for _ in range(30):
        await append(usages(2))
    await drain(fold_unit(server, keys))
    calls = [await trimmed(server, keys, most_entries=entries, most_bytes=most_bytes)]
    while calls[-1].more:
        calls.append(await trimmed(server, keys, most_entries=entries, most_bytes=most_bytes))
    assert len(calls) > 3
    assert max(call.entries for call in calls) <= 7
    assert sum(call.entries for call in calls) == 30
    found = await account(server, keys)
    assert (found.trimmed, found.balance()) == (60, 0)


async def test_the_groups_lag_stays_true(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """What everybody's tools show does not change when the taken part goes."""
    unit = fold_unit(server, keys)
    for _ in range(4):
        await append(usages(1))
    await drain(unit)
    await append(usages(1))
    await trimmed(server, keys)
    assert (await account(server, keys)).lag == 1
    await drain(unit)
    await trimmed(server, keys)
    assert (await account(server, keys)).lag == 0


async def test_a_sink_within_its_budget_holds_the_stream(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """However old its entries are beside the retention; it skips nothing."""
    sink = Collector()
    unit = await sink_unit(server, keys, sink)
    await append(usages(2))
    await drain(fold_unit(server, keys))
    assert await trimmed(server, keys) == Trimmed()
    await drain(unit)
    assert (await trimmed(server, keys)).entries == 1
    assert (sink.events, (await account(server, keys, "collector")).skipped) == (2, 0)


async def test_a_sink_beyond_its_age_is_passed_and_every_event_has_its_place(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """What it is passed by is skipped, foreign events too; it goes on behind, and its group shows it."""
    unit = await sink_unit(server, keys, Collector())
    now_ms = int((await server.call("TIME"))[0]) * 1_000
    await server.call("XGROUP", "DESTROY", keys.partition(0).stream(), unit.group)
    await server.call("DEL", keys.partition(0).stream())
    await server.call("HSET", unit.keys.cursor(), "id", "0-0", "done", "0-0")
    await add_foreign(server, keys, 3, f"{now_ms - 2 * HOUR_MS}-0")
    await append(usages(4))
    await drain(fold_unit(server, keys))
    done = await trimmed(server, keys)
    assert done == Trimmed(entries=1, events=3, foreign=3, skipped={"v1:collector": 3})
    found = await account(server, keys, "collector")
    assert (found.skipped, found.foreign, found.outstanding, found.lag, found.balance()) == (3, 3, 4, 1, 0)
    await drain(unit)
    found = await account(server, keys, "collector")
    assert (found.committed, found.entries, found.lag, found.balance()) == (4, 2, 0, 0)


async def test_a_sink_beyond_its_bytes_is_passed_by_as_much_as_that(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Oldest first, until what it has not taken is within its bytes."""
    unit = await sink_unit(server, keys, Collector())
    for _ in range(40):
        await append(usages(2))
    await drain(fold_unit(server, keys))
    used = int(await server.call("MEMORY", "USAGE", keys.partition(0).stream()))
    half = Retention(0, HOUR_MS, used // 2)
    done = await trimmed(server, keys, half)
    assert 10 <= done.entries <= 30
    assert done.skipped == {"v1:collector": 2 * done.entries}
    assert (await trimmed(server, keys, Retention(0, HOUR_MS, 2 * used))).entries == 0
    assert (await account(server, keys, "collector")).balance() == 0
    await drain(unit)
    assert (await account(server, keys, "collector")).committed == 80 - 2 * done.entries


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_sink_inside_an_entry_is_passed_by_the_rest_of_it(
    server: AsyncServer, keys: Keys, append: Appender, *, foreign: bool
) -> None:
    """The events that it took of the entry are not skipped."""
    unit = await sink_unit(server, keys, Collector())
    entry_id = await (add_foreign(server, keys, 10) if foreign else append(usages(10)))
    await append(usages(1))
    await drain(fold_unit(server, keys))
    took: dict[str, str | int] = {"id": entry_id, "index": 4, "committed": 4, "foreign": 4 * foreign}
    await server.call("HSET", unit.keys.cursor(), *(part for pair in took.items() for part in pair))
    done = await trimmed(server, keys, Retention(0, HOUR_MS, 0), most_entries=1)
    assert (done.entries, done.skipped, done.more) == (1, {"v1:collector": 6}, True)
    found = await account(server, keys, "collector")
    assert (found.cursor_id, found.cursor_index, found.done, found.entries) == (entry_id, 0, entry_id, 1)
    assert (found.skipped, found.foreign, found.outstanding, found.balance()) == (6, 10 * foreign, 1, 0)
    assert found.lag == 1


async def test_a_sink_never_passes_what_a_fold_handler_needs(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """However far beyond its budget it is."""
    await sink_unit(server, keys, Collector())
    await fold_unit(server, keys).declare()
    await append(usages(2))
    assert await trimmed(server, keys, Retention(0, 0, 0)) == Trimmed()


async def test_only_the_sink_that_has_not_taken_an_entry_is_passed(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Of two, the one further behind, by as much as is beyond its budget."""
    other = Collector()
    other.name = "other"
    await sink_unit(server, keys, Collector())
    unit = await sink_unit(server, keys, other)
    first = await append(usages(1))
    for _ in range(3):
        await append(usages(1))
    await drain(fold_unit(server, keys))
    await server.call("HSET", unit.keys.cursor(), "id", first, "done", first, "entries", 1, "committed", 1)
    used = int(await server.call("MEMORY", "USAGE", keys.partition(0).stream()))
    done = await trimmed(server, keys, Retention(0, HOUR_MS, used * 3 // 4 + 1))
    assert (done.entries, done.skipped) == (1, {"v1:collector": 1})
    accounts = [await account(server, keys, name) for name in ("collector", "other")]
    assert [(row.skipped, row.balance()) for row in accounts] == [(1, 0), (0, 0)]


async def test_a_sink_alone_lets_go_of_what_it_has_taken(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A worker that only exports does not fill the server."""
    sink = Collector()
    unit = await sink_unit(server, keys, sink)
    await append(usages(2))
    await drain(unit)
    assert (await trimmed(server, keys)).entries == 1


@pytest.mark.parametrize("all_of_it", [False, True])
async def test_a_handler_that_is_declared_later_knows_from_when_on_it_is_complete(
    server: AsyncServer, keys: Keys, append: Appender, *, all_of_it: bool
) -> None:
    """Its base are the appended events that were trimmed, foreign ones not among them; the balance holds."""
    first = fold_unit(server, keys)
    await append(usages(3))
    await add_foreign(server, keys, 4)
    await drain(first)
    before_ms = int((await server.call("TIME"))[0]) * 1_000
    assert (await trimmed(server, keys)).events == 7
    oldest = "" if all_of_it else await append(usages(5))
    late = Unit(server, keys.partition(0), FoldEffect(_named("late")), UnitOptions())
    await late.declare()
    found = await account(server, keys, "late")
    assert (found.base, found.entries, found.balance()) == (3, 2, 0)
    assert found.since_ms == int(oldest.partition("-")[0]) if oldest else found.since_ms >= before_ms
    await add_foreign(server, keys, 2)
    await append(usages(1))
    await drain(late)
    await drain(first)
    found = await account(server, keys, "late")
    assert (found.committed, found.lag, found.balance()) == (3 if all_of_it else 8, 0, 0)
    assert (await trimmed(server, keys)).foreign == 2
    assert (await account(server, keys, "late")).balance() == 0


def _named(name: str) -> MetricsHandler:
    handler = MetricsHandler()
    handler.name = name  # pyright: ignore[reportAttributeAccessIssue] - another handler with the same fold
    return handler


async def test_a_handler_is_complete_from_the_beginning_where_nothing_was_trimmed(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A look that trims nothing is no gap."""
    await append(usages(1))
    await fold_unit(server, keys).declare()
    assert (await trimmed(server, keys)).entries == 0
    late = Unit(server, keys.partition(0), FoldEffect(_named("late")), UnitOptions())
    await late.declare()
    assert (await account(server, keys, "late")).since_ms == 0


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_replay_of_what_is_left_is_compared_where_it_can_be_equal(
    server: AsyncServer, keys: Keys, append: Appender, *, foreign: bool
) -> None:
    """Windows that trimmed entries reach into are left out, also when all of them were foreign, or nothing is left."""
    worker = Worker(server, keys, [FoldEffect(MetricsHandler())])
    await (add_foreign(server, keys, 2) if foreign else append(usages(2)))
    await worker.run_until_idle()
    await trimmed(server, keys)
    asked = Asked([FoldEffect(MetricsHandler())], ALL_DAYS)
    begun, _ = await replay_until_idle(server, keys, 4, asked)
    shadow = Worker(server, keys, asked.effects, options=WorkerOptions(version=begun.number))
    for events in (1, 3):
        result = await diff(server, keys, 1, await read_versions(server, keys), begun)
        assert (result.differences, result.apart, result.windows) == ([], [], 0)
        assert result.left_out > 0
        await append(usages(events))
        await worker.run_until_idle()
        await shadow.run_until_idle()


class Race:
    """A producer, and whoever runs until it has ended."""

    def __init__(self, server: AsyncServer, keys: Keys, append: Appender) -> None:
        self.events = 0
        self._server = server
        self._keys = keys
        self._append = append
        self._over = False

    async def produce(self) -> None:
        """Append frames of all sizes, foreign ones among them."""
        for number in range(120):
            await self._append(usages(1 + number % 9))
            self.events += 1 + number % 9
            if number % 10 == 0:
                await add_foreign(self._server, self._keys, 2)
                self.events += 2
        self._over = True

    async def consume(self, worker: Worker) -> None:
        """Count what comes."""
        while not self._over:
            await worker.run_until_idle()

    async def clean(self, server: AsyncServer, retention: Retention) -> None:
        """Trim, a few entries at once."""
        while not self._over:
            await trim(server, self._keys.partition(0), retention, most_entries=5)


async def test_trimming_races_with_appends_and_commits_and_loses_nothing(
    redis_url: str, server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Two workers, a slow one among them, a sink, two trimmers and a producer at once: every event is counted once."""
    others = [AsyncServer(RedisSettings(redis_url)) for _ in range(4)]
    workers = [
        Worker(others[0], keys, [FoldEffect(MetricsHandler()), SinkEffect(Collector())]),
        Worker(others[1], keys, [FoldEffect(Frugal())]),
    ]
    await workers[0].run_until_idle()
    race = Race(server, keys, append)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(race.produce)
            for worker in workers:
                group.start_soon(race.consume, worker)
            group.start_soon(race.clean, others[2], AT_ONCE_GONE)
            group.start_soon(race.clean, others[3], Retention(0, 0, 0))
    for _ in range(2):  # the first look of a unit that was passed, or was slower, only learns where it stands
        await workers[0].run_until_idle()
    while (await trimmed(server, keys)).entries:
        pass
    assert await tokens_of(server, keys) == race.events
    assert await length(server, keys) == 0
    metrics, collector = [await account(server, keys, name) for name in ("metrics", "collector")]
    assert (metrics.balance(), collector.balance()) == (0, 0)
    assert metrics.trimmed + metrics.trimmed_foreign == race.events
    assert collector.committed + collector.skipped == race.events
    for other in others:
        await other.aclose()


async def test_a_batch_in_hand_of_a_sink_that_is_passed_is_not_counted_twice(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Its commit is stale: what was skipped stays skipped, and it goes on behind."""
    sink = Collector()
    unit = await sink_unit(server, keys, sink)
    await append(usages(3))
    await drain(fold_unit(server, keys))
    apply = unit.effect.apply

    async def be_passed(slices: Sequence[Slice], budget: int = UNLIMITED) -> Folded:
        folded = await apply(slices, budget)
        await trimmed(server, keys, Retention(0, 0, 0))
        return folded

    unit.effect.apply = be_passed
    assert await unit.step() == 0
    assert unit.statistics.stale == 1
    unit.effect.apply = apply
    await append(usages(2))
    await drain(unit)
    found = await account(server, keys, "collector")
    assert (found.skipped, found.committed, found.balance()) == (3, 2, 0)


async def test_a_flushed_database_is_survived(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """There is nothing to trim, then there is again."""
    unit = fold_unit(server, keys)
    await append(usages(2))
    await drain(unit)
    await trimmed(server, keys)
    await server.call("FLUSHALL")
    append.forget()
    assert await trimmed(server, keys) == Trimmed()
    await append(usages(2))
    await drain(unit)
    assert (await trimmed(server, keys)).events == 2
    found = await account(server, keys)
    assert (found.trimmed, found.committed, found.balance()) == (2, 2, 0)


async def test_units_that_are_declared_meanwhile_are_asked(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A list of units that is no longer true trims nothing: the script reads the declarations itself."""
    unit = fold_unit(server, keys)
    await append(usages(2))
    await drain(unit)
    await fold_unit(server, keys, version=2).declare()
    partition = keys.partition(0)
    fixed = [partition.stream(), partition.counters(), partition.handlers()]
    for names in (["v1:metrics"], [], ["v1:metrics", "v3:metrics"]):
        cursors = [partition.named_unit(name).cursor() for name in names]
        reply = await server.run(script("trim"), [*fixed, *cursors], [0, 0, 0, 0, 0, 0, 100, 100_000, *names])
        assert reply == [b"CHANGED"]
    assert await length(server, keys) == 1


async def dump(server: AsyncServer) -> dict[bytes, bytes]:
    """Return everything that the server holds."""
    return {key: await server.call("DUMP", key) for key in await server.call("KEYS", "*")}


PLACES = {
    "stream": "{test:00}:stream",
    "counters": "{test:00}:counters",
    "cursor of a fold": "{test:00}:v1:metrics:cursor",
    "cursor of a sink": "{test:00}:v1:collector:cursor",
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_key_of_another_type_is_refused_without_any_write(
    server: AsyncServer, keys: Keys, append: Appender, place: str
) -> None:
    """The message names the key."""
    unit = await sink_unit(server, keys, Collector())
    await append(usages(2))
    await drain(fold_unit(server, keys))
    await append(usages(2))
    await drain(unit)
    await server.call("DEL", PLACES[place])
    await server.call("SET", PLACES[place], "no such thing")
    before = await dump(server)
    with pytest.raises(RefusedError, match=PLACES[place].replace("{", r"\{")):
        await trimmed(server, keys, Retention(0, 0, 0))
    assert await dump(server) == before
    await server.call("FLUSHALL")


@pytest.mark.parametrize(
    "wrong",
    [
        ("counters", "trimmed", "many"),
        ("counters", "trimmed_foreign", "1e3"),
        ("cursor of a fold", "done", "yesterday"),
        ("cursor of a fold", "id", "5"),
        ("cursor of a sink", "skipped", "-1"),
        ("cursor of a sink", "foreign", "1" * 19),
        ("cursor of a sink", "entries", ""),
        ("cursor of a sink", "index", "x"),
    ],
)
async def test_a_field_that_is_no_number_is_refused_without_any_write(
    server: AsyncServer, keys: Keys, append: Appender, wrong: tuple[str, str, str]
) -> None:
    """Nothing is trimmed that could not be counted."""
    await sink_unit(server, keys, Collector())
    await append(usages(2))
    await drain(fold_unit(server, keys))
    place, field, value = wrong
    await server.call("HSET", PLACES[place], field, value)
    before = await dump(server)
    with pytest.raises(RefusedError, match="not as it should be"):
        await trimmed(server, keys, Retention(0, 0, 0))
    assert await dump(server) == before
    await server.call("FLUSHALL")


async def test_a_command_that_the_server_refuses_is_met_before_anything_goes(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """An access list without one of the commands leaves stream and counters as they were."""
    await sink_unit(server, keys, Collector())
    await append(usages(2))
    await drain(fold_unit(server, keys))
    for name in ("xtrim", "hset", "hincrby"):
        await server.call("ACL", "SETUSER", "default", f"-{name}")
        with pytest.raises(RefusedError):
            await trimmed(server, keys, Retention(0, 0, 0))
        await server.call("ACL", "SETUSER", "default", "+@all")
        assert await length(server, keys) == 1
        found = await account(server, keys, "collector")
        assert (found.trimmed, found.skipped, found.balance()) == (0, 0, 0)
    assert (await trimmed(server, keys, Retention(0, 0, 0))).skipped == {"v1:collector": 2}


async def test_a_full_server_is_trimmed(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Where every other write is refused for want of memory, the script still frees some."""
    await append(usages(2))
    await drain(fold_unit(server, keys))
    await server.call("CONFIG", "SET", "maxmemory", "100kb")
    with pytest.raises(CapacityError):
        await append(usages(2))
    assert (await trimmed(server, keys)).events == 2
    await server.call("CONFIG", "SET", "maxmemory", "0")
