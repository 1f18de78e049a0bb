"""Units on a real server: one batch from one cursor, whatever happens in between."""

import logging
import time
from collections.abc import Sequence

import anyio
import msgspec
import pytest
from support import Appender

from consumers.catalogue import Catalogue, Pricer
from consumers.contract import Slice
from consumers.folding import Folded, fold_slices
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.payload import Place
from consumers.pricing import PriceBook
from consumers.reader import StateReader
from consumers.recipe import Recipe
from consumers.runtime import remembered
from consumers.runtime.effects import UNLIMITED, FoldEffect
from consumers.runtime.run import Worker
from consumers.runtime.unit import OlderRecipeError, Unit, UnitOptions
from consumers.state import Caps, Delta
from consumers.values import MOST, pack, unpack
from consumers.views.dead_letters import read_dead_letters
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.events import Event, UsageEvent
from pipeline.keys import Keys
from pipeline.wire import Frame

NOW_US = time.time_ns() // 1_000


def usage(tokens: int = 1, *, agent: str = "writer", session: str = "s", time_us: int = NOW_US) -> UsageEvent:
    """Return a request with `tokens` input tokens."""
    return UsageEvent(time_us, agent=agent, model="gpt-4o", input_tokens=tokens, duration_us=1_000, session=session)


def unit_of(server: AsyncServer, keys: Keys, handler: object | None = None) -> Unit:
    """Return a unit of partition 0, as a worker of its own would have it."""
    effect = FoldEffect(handler or MetricsHandler())  # pyright: ignore[reportArgumentType] - a test's own handler
    return Unit(server, keys.partition(0), effect, UnitOptions())


async def tokens_of(server: AsyncServer, keys: Keys) -> int:
    """Return the input tokens of all cells, since the beginning."""
    cells = await StateReader(server, keys, 1).lifetime("metrics")
    return sum(measures.get("ti", 0) for measures in cells.values())


async def drain(unit: Unit) -> int:
    """Step until nothing is left."""
    total = 0
    while moved := await unit.step():
        total += moved
    return total


async def test_a_frame_is_counted_once_and_the_cursor_stands_behind_it(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A second look finds nothing."""
    unit = unit_of(server, keys)
    entry_id = await append([usage(3), usage(4)])
    assert await drain(unit) == 2
    assert await drain(unit) == 0
    assert await tokens_of(server, keys) == 7
    cursor = await unit.declare()
    assert (cursor.entry_id, cursor.index, cursor.done) == (entry_id, 0, entry_id)


async def test_two_workers_from_one_cursor_count_once(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The second commit is STALE: it changes nothing, and its worker goes on from the new cursor."""
    first, second = unit_of(server, keys), unit_of(server, keys)
    await append([usage(5)])
    await first.declare()
    await second.declare()
    assert await first.step() == 1
    assert await second.step() == 0
    assert second.statistics.stale == 1
    assert await drain(second) == 0
    assert await tokens_of(server, keys) == 5


async def test_a_frozen_worker_that_thaws_counts_nothing_twice(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """It has read and folded before another worker committed the same events."""

    class Frozen(MetricsHandler):
        """Lets another worker finish between its fold and its commit."""

        thawed = False

    handler = Frozen()
    frozen, other = unit_of(server, keys, handler), unit_of(server, keys)
    await append([usage(5), usage(6)])
    effect = frozen.effect
    apply = effect.apply

    async def freeze(slices: Sequence[Slice], budget: int = UNLIMITED) -> Folded:
        folded = await apply(slices, budget)
        await drain(other)
        return folded

    effect.apply = freeze
    assert await frozen.step() == 0
    assert frozen.statistics.stale == 1
    assert await tokens_of(server, keys) == 11


async def test_a_rollback_between_read_and_commit_is_noticed(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """If the last entry of the batch is no longer the one that was read, nothing is counted."""
    unit = unit_of(server, keys)
    entry_id = await append([usage(5)])
    apply = unit.effect.apply

    async def roll_back(slices: Sequence[Slice], budget: int = UNLIMITED) -> Folded:
        folded = await apply(slices, budget)
        await server.call("XDEL", keys.partition(0).stream(), entry_id)
        return folded

    unit.effect.apply = roll_back
    assert await unit.step() == 0
    assert unit.statistics.gone == 1
    assert await tokens_of(server, keys) == 0
    await server.call("FLUSHALL")


async def test_values_of_another_state_are_never_used(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A worker that stands at an older state reads nothing of a newer one, whatever a rollback does to both."""
    await append([usage(1)])
    await drain(unit_of(server, keys))
    await append([usage(5)])
    names = await server.call("KEYS", f"{{{keys.namespace}:00}}:v1:*")
    before = [(key, *await server.all([["PEXPIRETIME", key], ["DUMP", key]])) for key in names]
    behind = unit_of(server, keys)
    await behind.declare()
    await drain(unit_of(server, keys))
    assert await behind.step() == 0
    assert behind.statistics.stale == 1
    for key, expires_ms, dump in before:
        await server.call("RESTORE", key, max(0, expires_ms), dump, "REPLACE", "ABSTTL")
    assert await drain(behind) == 1
    assert await tokens_of(server, keys) == 6


async def test_a_state_that_was_written_from_outside_is_read_anew(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Whoever changes values changes the token: what the worker remembers is then no more believed."""
    unit = unit_of(server, keys)
    await append([usage(1)])
    await drain(unit)
    window = unit.keys.window("all", 0)
    await server.call("HSET", window, "0", pack({"rq": 1, "ti": 100}))
    await server.call("HSET", unit.keys.cursor(), "token", "0" * 32)
    await append([usage(5)])
    assert await unit.step() == 0
    assert await drain(unit) == 1
    assert await tokens_of(server, keys) == 105


async def test_a_window_that_was_deleted_by_hand_comes_back_and_is_told(
    server: AsyncServer, keys: Keys, append: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    """What the worker remembers of it is written with the next event, and the log says that somebody deletes keys."""
    unit = unit_of(server, keys)
    await append([usage(1)])
    await drain(unit)
    await server.call("DEL", unit.keys.window("all", 0))
    await append([usage(5)])
    with caplog.at_level(logging.WARNING):
        assert await drain(unit) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert await tokens_of(server, keys) == 6


async def test_what_is_remembered_outlives_a_look_at_a_cursor_that_stands(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle unit asks for its cursor now and then: where nobody has written, nothing is read again."""
    unit = unit_of(server, keys)
    await append([usage(1)])
    await drain(unit)
    asked: list[int] = []
    load = remembered.Remembered.load

    async def counted(self: remembered.Remembered, places: Sequence[Place], sizes: Sequence[str]) -> None:
        asked.append(len(places) + len(sizes))
        await load(self, places, sizes)

    monkeypatch.setattr(remembered.Remembered, "load", counted)
    await unit.declare()
    await append([usage(1)])
    await drain(unit)
    assert asked == [0]


async def test_what_is_remembered_is_bounded(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for nothing at all each value is read again, and the sums are the same."""
    monkeypatch.setattr(remembered, "MOST_BYTES", 0)
    unit = unit_of(server, keys)
    for number in range(6):
        await append([usage(number, agent=f"agent-{number % 3}", session=f"s-{number}")])
        await drain(unit)
    assert await tokens_of(server, keys) == 15


async def test_a_commit_may_end_inside_an_entry(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A budget cuts a frame; the next batch begins at the event behind the cut, also in another worker."""

    class Frugal(MetricsHandler):
        """Takes about two events a commit."""

        def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
            return super().fold(slices, min(budget, 8))

    await append([usage(1 << n, agent=f"agent-{n}") for n in range(10)])
    first = unit_of(server, keys, Frugal())
    moved = await first.step()
    assert 0 < moved < 10
    assert (await first.declare()).index == moved
    second = unit_of(server, keys, Frugal())
    assert moved + await drain(second) == 10
    assert await tokens_of(server, keys) == 1023


async def test_bad_events_become_dead_letters_and_their_neighbours_count(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Each with its place and its reason: a malformed event, an unreadable frame, a clock far ahead."""
    events = [{"event": "usage", "time_us": NOW_US, "input_tokens": 2}, {"event": "telepathy", "time_us": 1}]
    await append.raw(msgspec.json.encode({"events": events}), 2, codec="json")
    await append.raw(b"\x00nonsense", 7)
    await append([usage(3), usage(4, time_us=NOW_US + 2 * 3_600_000_000)])
    unit = unit_of(server, keys)
    assert await drain(unit) == 11
    assert await tokens_of(server, keys) == 5
    letters = [stored.letter for stored in await read_dead_letters(server, keys, 1)]
    assert sorted((letter.code, letter.index, letter.events) for letter in letters) == [
        ("bad_compression", -1, 7),
        ("clock", 1, 1),
        ("unknown_kind", 1, 1),
    ]


async def test_an_event_that_breaks_the_fold_is_set_aside_alone(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Whatever an event does to a handler, its neighbours are counted, once."""

    class Exploding:
        """Adds, and then fails, on one number."""

        def __init__(self) -> None:
            self.delta = Delta()

        def add(self, frame: Frame, event: Event) -> None:
            assert isinstance(event, UsageEvent)
            service = frame.resource.service
            cell = self.delta.cell(NOW_US // 1_000_000 // 10 * 10, (service, "", "", "", event.agent, "", "", "ok"))
            cell["ti"] = cell.get("ti", 0) + event.input_tokens
            if event.input_tokens == 13:
                raise ZeroDivisionError("thirteen")

        def close(self) -> None:
            """Have nothing gathered."""

    class Fragile(MetricsHandler):
        """A handler that folds so."""

        def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
            return fold_slices(slices, budget, Exploding)

    await append([usage(1), usage(13), usage(2)])
    assert await drain(unit_of(server, keys, Fragile())) == 3
    assert await tokens_of(server, keys) == 3
    (letter,) = [stored.letter for stored in await read_dead_letters(server, keys, 1)]
    assert (letter.code, letter.index, letter.reason) == ("poison", 1, "ZeroDivisionError: thirteen")


async def test_an_overflow_costs_the_event_that_causes_it(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A stored integer near its limit refuses one event, with nothing written before the refusal."""
    unit = unit_of(server, keys)
    await append([usage(1)])
    await drain(unit)
    window = keys.partition(0).unit("metrics").window("all", 0)
    await server.call("HSET", window, "0", pack({"rq": 1, "ti": MOST}))
    unit = unit_of(server, keys)  # the other remembers what it wrote
    await append([usage(1), UsageEvent(NOW_US, agent="writer", model="gpt-4o", session="s", duration_us=1_000)])
    assert await drain(unit) == 2
    (letter,) = [stored.letter for stored in await read_dead_letters(server, keys, 1)]
    assert (letter.code, letter.index) == ("overflow", 0)
    assert unpack(await server.call("HGET", window, "0"))["rq"] == 2


async def test_sums_of_a_batch_that_pass_the_limit_are_cut_into_smaller_batches(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Two events at the limit of a number are each fine: their sum in one commit is not, and stops nothing."""
    most = UsageEvent(NOW_US, session="s", cost_nano_usd=2**53, input_tokens=2**40)
    await append([most, most, most])
    pricer = Pricer(Catalogue(), PriceBook())
    unit = unit_of(server, keys, CostHandler(pricer, "test", "none"))
    assert await drain(unit) == 3
    cells = await StateReader(server, keys, 1).lifetime("cost")
    assert sum(measures["c"] for measures in cells.values()) == 3 * 2**53


async def test_a_worker_with_an_older_recipe_leaves_the_unit(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Once a newer recipe is in force, the old one never writes again: two prices are never mixed."""

    class Newer(MetricsHandler):
        """A later revision of the fold."""

        def recipe(self) -> Recipe:
            return Recipe(99, Caps())

    old, new = unit_of(server, keys), unit_of(server, keys, Newer())
    await append([usage(1)])
    await drain(old)
    await append([usage(2)])
    await drain(new)
    await append([usage(4)])
    assert await old.step() == 0
    with pytest.raises(OlderRecipeError, match="upgrade this worker"):
        await old.step()
    await drain(new)
    assert await tokens_of(server, keys) == 7


async def test_the_group_shows_the_lag_that_everyones_tools_read(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """XINFO GROUPS follows the cursor, and a destroyed group comes back."""
    unit = unit_of(server, keys)
    stream = keys.partition(0).stream()
    await append([usage(1)])
    await append([usage(1)])
    await drain(unit)
    await server.call("XGROUP", "DESTROY", stream, unit.group)
    await append([usage(1)])
    await drain(unit)
    (group,) = await server.call("XINFO", "GROUPS", stream)
    assert dict(zip(group[::2], group[1::2], strict=True))[b"lag"] == 0


async def test_workers_that_race_without_leases_count_once(
    redis_url: str, server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Leases save work; being right does not hang on them."""
    for number in range(40):
        await append([usage(number, agent=f"agent-{number % 7}") for _ in range(25)])
    others = [AsyncServer(RedisSettings(redis_url)) for _ in range(3)]
    workers = [Worker(other, keys, [FoldEffect(MetricsHandler())]) for other in others]
    async with anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(worker.run_until_idle)
    await workers[0].run_until_idle()
    assert await tokens_of(server, keys) == 25 * sum(range(40))
    for other in others:
        await other.aclose()
