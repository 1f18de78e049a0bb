"""Handlers and namespaces on a real server: what each holds, how one is retired, how all keys of a namespace go."""

import time

import pytest
from support import Appender

from consumers import keyspace
from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.removal import HeldError, holders, purge, retire, survey_namespace, survey_unit
from consumers.replay.beginning import Asked
from consumers.replay.running import replay_until_idle
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.runtime.trimming import Retention, trim
from consumers.versions import ALL_DAYS
from consumers.views import accounting
from consumers.views.handlers import HandlerHold, read_handlers
from pipeline.connection import AsyncServer
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from pipeline.scripting import script

NOW_US = time.time_ns() // 1_000
PARTITIONS = 4
METRICS = "v1:metrics"


def usages(count: int = 2) -> list[UsageEvent]:
    """Return requests with one token each."""
    return [UsageEvent(NOW_US, agent="writer", model="gpt-4o", input_tokens=1, session="s") for _ in range(count)]


def worker_of(server: AsyncServer, keys: Keys) -> Worker:
    """Return a worker with one handler."""
    return Worker(server, keys, [FoldEffect(MetricsHandler())])


async def replay(server: AsyncServer, keys: Keys) -> None:
    """Compute a second version of one handler's state."""
    await replay_until_idle(server, keys, PARTITIONS, Asked([FoldEffect(MetricsHandler())], ALL_DAYS))


async def hold_of(server: AsyncServer, keys: Keys, version: int = 1) -> HandlerHold:
    """Return what metrics holds."""
    [found] = [row for row in await read_handlers(server, keys, PARTITIONS) if row.version == version]
    return found


async def keys_of(server: AsyncServer, pattern: str = "*") -> set[str]:
    """Return the keys of the server."""
    return {key.decode() for key in await server.call("KEYS", pattern)}


async def test_a_handler_holds_what_it_has_not_taken(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Entries, their bytes by the mean, and since when the oldest waits, over all partitions."""
    await worker_of(server, keys).run_until_idle()
    free = await hold_of(server, keys)
    assert (free.partitions, free.kind, free.since_ms, free.lag, free.entries, free.bytes) == (4, "fold", 0, 0, 0, 0)
    assert free.oldest_ms is None
    first = await append(usages(), partition=1)
    await append(usages(), partition=2)
    await append(usages(), partition=2)
    held = await hold_of(server, keys)
    used = sum([int(await server.call("MEMORY", "USAGE", keys.partition(n).stream())) for n in (1, 2)])
    assert (held.lag, held.entries, held.bytes) == (3, 3, used)
    assert held.oldest_ms == int(first.partition("-")[0])
    await worker_of(server, keys).run_until_idle()
    assert (await hold_of(server, keys)).entries == 0


async def test_a_hold_that_is_too_long_to_count_is_reckoned(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what was ever added, less what was taken: also behind a part that was trimmed."""
    monkeypatch.setattr(accounting, "MOST_ENTRIES", 3)
    worker = worker_of(server, keys)
    for _ in range(5):
        await append(usages())
    await worker.run_until_idle()
    await trim(server, keys.partition(0), Retention(0, 0, 0))
    for _ in range(7):
        await append(usages())
    assert (await hold_of(server, keys)).entries == 7


async def test_versions_and_what_each_is_complete_from_are_listed_apart(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A version that was begun after trimming says from when on it is complete."""
    await append(usages())
    await worker_of(server, keys).run_until_idle()
    await trim(server, keys.partition(0), Retention(0, 0, 0))
    second = await append(usages())
    await replay(server, keys)
    found = await read_handlers(server, keys, PARTITIONS)
    assert [(row.handler, row.version) for row in found] == [("metrics", 1), ("metrics", 2)]
    assert [row.since_ms for row in found] == [0, int(second.partition("-")[0])]
    assert [row.entries for row in found] == [1, 0]


async def test_a_retired_handler_holds_nothing_and_leaves_nothing(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version alone: the other one, and a handler whose name begins alike, stay as they are."""
    monkeypatch.setattr(keyspace, "_SCANNED_AT_ONCE", 3)
    monkeypatch.setattr(keyspace, "_DELETED_AT_ONCE", 2)
    for number in range(PARTITIONS):
        await append(usages(), partition=number)
    await worker_of(server, keys).run_until_idle()
    await replay(server, keys)
    await server.call("DEL", keys.versions())
    await append(usages())
    alike = keys.partition(0).unit("metrics2").cells("all")
    await server.call("HSET", alike, "a", 1)
    mine = await keys_of(server, "{test:*}:v2:metrics:*")
    survey = await survey_unit(server, keys, PARTITIONS, "v2:metrics")
    assert survey.keys == len(mine)
    assert survey.kinds["cursors"].keys == PARTITIONS
    assert survey.bytes > 0
    others = await keys_of(server) - mine
    assert await retire(server, keys, PARTITIONS, "v2:metrics") == len(mine)
    assert await keys_of(server) == others
    assert [row.version for row in await read_handlers(server, keys, PARTITIONS)] == [1]
    for number in range(PARTITIONS):
        groups = await server.call("XINFO", "GROUPS", keys.partition(number).stream())
        assert [dict(zip(group[::2], group[1::2], strict=True))[b"name"] for group in groups] == [b"v1:metrics"]
    await worker_of(server, keys).run_until_idle()
    assert (await trim(server, keys.partition(0), Retention(0, 0, 0))).entries == 2
    await server.call("DEL", alike)


async def test_a_handler_that_a_worker_holds_is_not_retired(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Nothing is changed, and the message says which worker; a worker that is alive without a lease counts too."""
    await append(usages())
    await worker_of(server, keys).run_until_idle()
    before = await keys_of(server)
    lease = keys.partition(3).unit("metrics").lease()
    await server.run(script("lease"), [lease], ["w1", 10_000])
    with pytest.raises(HeldError, match="held by w1"):
        await retire(server, keys, PARTITIONS, METRICS)
    await server.run(script("lease"), [lease], ["w1", 0])
    future_ms = int((await server.call("TIME"))[0]) * 1_000 + 10_000
    await server.call("ZADD", keys.workers_of(METRICS), future_ms, "w2")
    assert await holders(server, keys, PARTITIONS, METRICS) == ["w2"]
    with pytest.raises(HeldError, match="held by w2"):
        await retire(server, keys, PARTITIONS, METRICS)
    await server.call("DEL", keys.workers_of(METRICS))
    assert await keys_of(server) == before


async def test_state_is_not_deleted_under_a_cursor(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Who begins a unit anew, without asking for its lease, keeps all that it has counted since."""
    await append(usages())
    worker = worker_of(server, keys)
    await worker.run_until_idle()
    unit = keys.partition(0).unit("metrics")
    reply = await server.run(script("sweep"), [unit.cursor(), unit.cells("all")], [])
    assert reply == [b"DECLARED"]
    assert await server.call("EXISTS", unit.cells("all")) == 1


async def test_a_unit_whose_lease_was_lost_is_not_retired(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The script asks for the lease itself, in the slot of the unit."""
    await append(usages())
    await worker_of(server, keys).run_until_idle()
    partition = keys.partition(0)
    unit = partition.unit("metrics")
    wanted = [partition.stream(), partition.handlers(), unit.cursor(), unit.recipes(), unit.lease()]
    assert await server.run(script("retire"), wanted, [unit.name, "me"]) == [b"HELD", b""]
    await server.run(script("lease"), [unit.lease()], ["w1", 10_000])
    assert await server.run(script("retire"), wanted, [unit.name, "me"]) == [b"HELD", b"w1"]
    assert await server.call("EXISTS", unit.cursor()) == 1
    await server.run(script("lease"), [unit.lease()], ["w1", 0])


async def test_a_retirement_that_was_cut_short_is_gone_on_with(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """What has no declaration any more is found by its keys."""
    await append(usages())
    await worker_of(server, keys).run_until_idle()
    for number in range(PARTITIONS):
        await server.call("DEL", keys.partition(number).unit("metrics").cursor())
        await server.call("HDEL", keys.partition(number).handlers(), METRICS)
    left = (await survey_unit(server, keys, PARTITIONS, METRICS)).keys
    assert left > 0
    assert await retire(server, keys, PARTITIONS, METRICS) == left
    assert not await keys_of(server, "*:v1:metrics:*")


async def test_a_retired_handler_begins_anew_with_what_is_retained(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A worker that held it in memory counts nothing on top of what is gone."""
    await append(usages(3))
    worker = worker_of(server, keys)
    await worker.run_until_idle()
    await trim(server, keys.partition(0), Retention(0, 0, 0))
    await append(usages(4))
    await worker.run_until_idle()
    await retire(server, keys, PARTITIONS, METRICS)
    await append(usages(5))
    for _ in range(2):
        await worker.run_until_idle()
    cells = await StateReader(server, keys, PARTITIONS).lifetime("metrics")
    assert sum(measures["ti"] for measures in cells.values()) == 9
    assert (await hold_of(server, keys)).since_ms > 0


@pytest.mark.parametrize("name", ["test-2", "test2", "test.x", "tes"])
async def test_a_purge_takes_the_keys_of_its_namespace_and_no_other_ones(
    server: AsyncServer, keys: Keys, append: Appender, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the name of one is the beginning of the other's."""
    monkeypatch.setattr(keyspace, "_SCANNED_AT_ONCE", 3)
    monkeypatch.setattr(keyspace, "_DELETED_AT_ONCE", 2)
    other = Keys(name)
    for place in (keys, other):
        await Appender(server, place)(usages())
        await worker_of(server, place).run_until_idle()
        await server.call("HSET", place.meta(), "partitions", PARTITIONS)
    theirs = await keys_of(server, f"{{{name}:*")
    survey = await survey_namespace(server, keys)
    assert survey.keys == len(await keys_of(server)) - len(theirs)
    assert survey.kinds["streams"].keys == PARTITIONS
    assert await purge(server, keys) == survey.keys
    assert await keys_of(server) == theirs
    assert await purge(server, other) == len(theirs)
    assert await keys_of(server) == set()


async def test_a_key_with_an_odd_name_is_purged_too(server: AsyncServer, keys: Keys) -> None:
    """Whatever bytes somebody wrote into the namespace."""
    await server.call("SET", b"{test:\xff\xfe}:odd", "1")
    survey = await survey_namespace(server, keys)
    assert (survey.keys, list(survey.kinds)) == (1, ["other"])
    assert await purge(server, keys) == 1
