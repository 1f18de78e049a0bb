"""Any number of workers, racing without leases, in any cut into batches: the state of one alone, bit by bit."""

from collections.abc import Sequence
from itertools import count

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_state import state_of
from strategies import frames
from support import Appender, RealServer

from consumers.handlers.metrics import MetricsHandler
from consumers.runtime import unit as unit_module
from consumers.runtime.effects import FoldEffect
from consumers.runtime.unit import Unit, UnitOptions
from consumers.state import Caps
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.events import Event
from pipeline.keys import Keys

pytestmark = pytest.mark.one_server

CAPS = Caps(cells=4, names=5, slowest=3, ranked=3)
RACERS = 4

racers = st.sets(st.integers(0, RACERS - 1), min_size=1)
rounds = st.lists(st.tuples(st.integers(1, 20), racers, st.booleans()), max_size=12)


def test_racing_workers_leave_the_state_of_one_alone(real_server: RealServer) -> None:
    """Between two looks each takes a batch of another size, and some are replaced by one that remembers nothing."""
    numbers, stale = count(), 0

    @settings(max_examples=40, deadline=None)
    @given(frames, rounds)
    def race(some: Sequence[Sequence[Event]], plan: Sequence[tuple[int, set[int], bool]]) -> None:
        nonlocal stale
        stale += anyio.run(_race, real_server.url, next(numbers), some, plan)

    most_events = unit_module.MOST_EVENTS
    try:
        race()
    finally:
        setattr(unit_module, "MOST_EVENTS", most_events)  # noqa: B010 - final to everybody else
    assert stale > 0, "nobody was ever too late: nothing raced"


async def _race(
    url: str, number: int, some: Sequence[Sequence[Event]], plan: Sequence[tuple[int, set[int], bool]]
) -> int:
    """Let one worker count some frames, and several the same; return how often one was too late."""
    server = AsyncServer(RedisSettings(url))
    alone, together = Keys(f"alone{number}"), Keys(f"together{number}")
    try:
        for keys in (alone, together):
            append = Appender(server, keys)
            for frame in some:
                await append(frame)
        lone, units = _unit(server, alone), [_unit(server, together) for _ in range(RACERS)]
        while await lone.step():
            pass
        retired: list[Unit] = []
        for most_events, who, replaced in plan:
            setattr(unit_module, "MOST_EVENTS", most_events)  # noqa: B010
            if replaced:
                one = min(who)
                retired.append(units[one])
                units[one] = _unit(server, together)
            await _step(units, who)
        for _ in range(2):
            while await _step(units, range(RACERS)):
                pass
        assert await state_of(server, lone.keys) == await state_of(server, units[0].keys)
        counted = [await server.call("HMGET", one.keys.cursor(), "committed", "dead") for one in (lone, units[0])]
        assert counted[0] == counted[1]
        return sum(one.statistics.stale for one in (*units, *retired))
    finally:
        for keys in (alone, together):
            await server.call("DEL", *await server.call("KEYS", f"{{{keys.namespace}:*"))
        await server.aclose()


def _unit(server: AsyncServer, keys: Keys) -> Unit:
    return Unit(server, keys.partition(0), FoldEffect(MetricsHandler(CAPS)), UnitOptions())


async def _step(units: Sequence[Unit], who: "set[int] | range") -> int:
    """Let some take a step at once; return how many events moved."""
    moved = 0

    async def step(one: Unit) -> None:
        nonlocal moved
        events = await one.step()
        moved += events

    async with anyio.create_task_group() as racing:
        for number in who:
            racing.start_soon(step, units[number])
    return moved
