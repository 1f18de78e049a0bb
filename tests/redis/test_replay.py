"""Replay: the same handlers over the same stream give the same state, and a difference is found."""

import time

import pytest
from support import Appender

from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.replay.diff import diff
from consumers.replay.shadow import SHADOW_VERSION, drop, replay
from consumers.runtime.effects import Effect, FoldEffect
from consumers.runtime.run import Worker, WorkerOptions
from consumers.values import pack, unpack
from pipeline.connection import AsyncServer
from pipeline.errors import RefusedError
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import LIVE_VERSION, Keys

NOW_US = time.time_ns() // 1_000
PARTITIONS = 4


def effects() -> list[Effect]:
    """Return the handlers that fold."""
    pricer = Pricer(Catalogue(), PriceBook())
    cost = CostHandler(pricer, pricer.catalogue.version, pricer.book.hash)
    return [FoldEffect(MetricsHandler()), FoldEffect(cost)]


@pytest.fixture
async def traffic(append: Appender) -> int:
    """Append a few hundred events of every kind to every partition; return how many."""
    total = 0
    for number in range(40):
        at = NOW_US - number * 7_000_000
        events: list[Event] = [
            UsageEvent(at, f"agent-{number % 5}", "gpt-4o", 10 * number, number, 1_000 * number, f"s-{number}"),
            OperationEvent(at, f"agent-{number % 5}", "run", 2_000 * number, operation_id=f"r-{number}"),
            TransitionEvent(at, "outlining", "writing", session=f"s-{number}"),
            ErrorEvent(at, "ValueError", "no", session=f"s-{number}"),
        ]
        await append(events, partition=number % PARTITIONS)
        total += len(events)
    return total


async def test_a_replay_gives_the_same_bits(server: AsyncServer, keys: Keys, traffic: int) -> None:
    """Every window, marginal and ranking of the second version equals the live one."""
    await Worker(server, keys, effects()).run_until_idle()
    done = await replay(server, keys, effects())
    assert done.events == traffic * len(effects())
    result = await diff(server, keys, PARTITIONS)
    assert result.equal
    assert result.fields > traffic
    assert not result.causes


async def test_a_replay_that_is_repeated_moves_nothing(server: AsyncServer, keys: Keys, traffic: int) -> None:
    """Its cursors stand at the end, so a second run finds no event."""
    await Worker(server, keys, effects()).run_until_idle()
    await replay(server, keys, effects())
    assert (await replay(server, keys, effects())).events == 0
    assert (await diff(server, keys, PARTITIONS)).equal


async def test_a_count_that_was_tampered_with_is_named(server: AsyncServer, keys: Keys, traffic: int) -> None:
    """The difference says handler, partition, window, field and both values."""
    await Worker(server, keys, effects()).run_until_idle()
    await replay(server, keys, effects())
    window = keys.partition(2).unit("metrics", LIVE_VERSION).window("all", 0)
    stored = unpack(await server.call("HGET", window, "0"))
    await server.call("HSET", window, "0", pack(stored | {"ti": stored["ti"] + 1}))
    result = await diff(server, keys, PARTITIONS)
    assert not result.equal
    (found,) = result.differences
    assert (found.handler, found.partition, found.window) == ("metrics", 2, "w:all:0")
    assert int(found.live or 0) == int(found.replayed or 0) + 1


async def test_versions_at_different_cursors_are_not_compared(
    server: AsyncServer, keys: Keys, append: Appender, traffic: int
) -> None:
    """Where the live side has moved on, the answer is "not comparable", not a list of differences."""
    await Worker(server, keys, effects()).run_until_idle()
    await replay(server, keys, effects())
    await append([UsageEvent(NOW_US)])
    await Worker(server, keys, effects()).run_until_idle()
    result = await diff(server, keys, PARTITIONS)
    assert not result.equal
    assert not result.differences
    assert len(result.apart) == 2


async def test_a_dropped_replay_leaves_the_live_state_alone(server: AsyncServer, keys: Keys, traffic: int) -> None:
    """Every key of the second version goes, its groups and declarations too."""
    await Worker(server, keys, effects()).run_until_idle()
    before = {key for key in await server.call("KEYS", "*") if f":v{LIVE_VERSION}:".encode() in key}
    await replay(server, keys, effects())
    assert await drop(server, keys, PARTITIONS) > 0
    after = set(await server.call("KEYS", "*"))
    assert before <= after
    assert not [key for key in after if f":v{SHADOW_VERSION}:".encode() in key]
    groups = await server.call("XINFO", "GROUPS", keys.partition(0).stream())
    assert len(groups) == 2


async def test_the_live_version_cannot_be_dropped(server: AsyncServer, keys: Keys) -> None:
    """There is no way to lose it by a number."""
    with pytest.raises(ValueError, match="never dropped"):
        await drop(server, keys, PARTITIONS, LIVE_VERSION)


async def test_a_version_that_is_being_dropped_is_not_declared_again(
    server: AsyncServer, keys: Keys, traffic: int
) -> None:
    """A worker that still carries it is refused, and leaves nothing that would hold the stream."""
    await replay(server, keys, effects())
    partition = keys.partition(0)
    unit = partition.unit("metrics", SHADOW_VERSION)
    await server.call("HSET", unit.cursor(), "recipe", "dropped", "token", "dropped")
    await server.call("HDEL", partition.handlers(), unit.name)
    with pytest.raises(RefusedError, match="being dropped"):
        await Worker(server, keys, effects(), options=WorkerOptions(version=SHADOW_VERSION)).run_until_idle()
    assert await server.call("HEXISTS", partition.handlers(), unit.name) == 0
    await drop(server, keys, PARTITIONS)
    assert await server.call("KEYS", f"{unit.prefix}:*") == []
