"""Housekeeping on a real server: streams are trimmed, memory and standing cursors are told of, an append fails last."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec
import pytest
from support import Appender, server_kinds, spawned

from consumers.contract import DeadLetter, Slice
from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.runtime import housekeeping
from consumers.runtime.effects import FoldEffect, SinkEffect
from consumers.runtime.housekeeping import Housekeeper, HousekeepingSettings
from consumers.runtime.run import Periodic, Worker, WorkerOptions
from consumers.views.accounting import read_unit_account, read_unit_accounts
from consumers.views.status import read_status
from pipeline.connection import AsyncServer, RedisSettings, parse_info
from pipeline.errors import CapacityError, UnknownOutcomeError, UnreachableError
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from producers.settings import PublishSettings
from producers.telemetry import Telemetry
from sidestream import compose
from sidestream.compose import AlertOptions, periodic_tasks

NOW_US = time.time_ns() // 1_000
DAY_MS = 24 * 3_600_000
PARTITIONS = 4
WAIT_S = 15


class DeadSink:
    """A sink whose far side never answers."""

    name = "dead"

    async def deliver(self, slices: Sequence[Slice]) -> Sequence[DeadLetter]:  # noqa: ARG002 - whatever it is given
        """Be away."""
        raise UnreachableError("the far side is away")

    async def aclose(self) -> None:
        """Hold nothing."""


def usages(count: int = 2) -> list[UsageEvent]:
    """Return requests with one token each."""
    return [UsageEvent(NOW_US, agent="writer", model="gpt-4o", input_tokens=1, session="s") for _ in range(count)]


def keeper_of(server: AsyncServer, keys: Keys, **settings: int) -> Housekeeper:
    """Return a housekeeper of a namespace with four partitions."""

    async def partitions() -> int:
        return PARTITIONS

    return Housekeeper(server, keys, HousekeepingSettings(**settings), partitions=partitions)


def worker_of(server: AsyncServer, keys: Keys) -> Worker:
    """Return a worker with one handler."""
    return Worker(server, keys, [FoldEffect(MetricsHandler())])


async def lengths(server: AsyncServer, keys: Keys) -> list[int]:
    """Return the entries of each partition."""
    return [int(await server.call("XLEN", keys.partition(number).stream())) for number in range(PARTITIONS)]


async def add_large(server: AsyncServer, keys: Keys) -> None:
    """Append 3,000 foreign entries of one event and 3 KB to partition 0."""
    body = msgspec.json.encode({"events": usages(1)})
    entry = ["XADD", keys.partition(0).stream(), "*", "c", "json", "b", body, "more", bytes(3_000)]
    for _ in range(30):
        await server.all([entry] * 100)


async def used_memory(server: AsyncServer) -> int:
    """Return the server's memory in bytes."""
    return int(parse_info(await server.call("INFO", "memory"))["used_memory"])


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again until something holds; a test that waits in vain fails by its deadline."""
    with anyio.fail_after(WAIT_S):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in Redis
            await anyio.sleep(0.01)


async def test_a_round_trims_every_partition(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """What is counted and older than the retention goes, whatever partition it is in."""
    for number in range(PARTITIONS):
        await append(usages(), partition=number)
    await worker_of(server, keys).run_until_idle()
    kept = keeper_of(server, keys)
    await kept.run()
    assert await lengths(server, keys) == [1] * PARTITIONS
    keeper = keeper_of(server, keys, retention_s=0)
    await keeper.run()
    assert await lengths(server, keys) == [0] * PARTITIONS
    statistics = keeper.statistics
    assert (statistics.rounds, statistics.entries, statistics.events, statistics.relieved) == (1, 4, 8, 0)


async def test_what_a_round_leaves_the_next_one_does(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backlog does not keep the worker, and is gone after some rounds."""
    monkeypatch.setattr(housekeeping, "_CALLS_A_ROUND", 4)
    for _ in range(2_100):
        await append(usages(1))
    await worker_of(server, keys).run_until_idle()
    keeper = keeper_of(server, keys, retention_s=0)
    await keeper.run()
    assert (await lengths(server, keys))[0] == 1_100
    await keeper.run()
    await keeper.run()
    assert (await lengths(server, keys))[0] == 0


async def test_a_partition_that_cannot_be_trimmed_is_told_of_once_and_keeps_no_other(
    server: AsyncServer, keys: Keys, append: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    """With the key that is wrong; when it is mended the partition is trimmed like the others."""
    for number in range(PARTITIONS):
        await append(usages(), partition=number)
    await worker_of(server, keys).run_until_idle()
    counters = keys.partition(1).counters()
    await server.call("HSET", counters, "trimmed", "many")
    keeper = keeper_of(server, keys, retention_s=0)
    await keeper.run()
    await keeper.run()
    assert await lengths(server, keys) == [0, 1, 0, 0]
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert counters in record.__dict__["reason"]
    await server.call("HDEL", counters, "trimmed")
    await keeper.run()
    assert await lengths(server, keys) == [0] * PARTITIONS


@pytest.mark.parametrize("setting", ["sink_bytes", "sink_age_s"])
async def test_a_sink_that_is_passed_is_told_of_once_for_each_gap(
    server: AsyncServer, keys: Keys, append: Appender, caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    """With the unit and how many events; its account shows them as skipped."""
    dead = Worker(server, keys, [SinkEffect(DeadSink())])
    await dead.run_until_idle()
    keeper = keeper_of(server, keys, **{"retention_s": 0, setting: 0})
    for passed in (2, 2, 0, 2):
        if passed:
            await append(usages(passed))
        await worker_of(server, keys).run_until_idle()
        await keeper.run()
    told = [record for record in caplog.records if "too far behind" in record.message]
    assert [(record.__dict__["unit"], record.__dict__["events"]) for record in told] == [("v1:dead", 2)] * 2
    assert keeper.statistics.skipped == 6
    account = await read_unit_account(server, keys.partition(0), "dead", kind="sink")
    assert (account.skipped, account.balance()) == (6, 0)


async def test_the_bytes_of_sinks_are_those_of_all_partitions(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Each partition has its part of them; a dead sink holds no more."""
    await Worker(server, keys, [SinkEffect(DeadSink())]).run_until_idle()
    for number in range(PARTITIONS):
        for _ in range(40):
            await append(usages(), partition=number)
    await worker_of(server, keys).run_until_idle()
    used = sum([int(await server.call("MEMORY", "USAGE", keys.partition(n).stream())) for n in range(PARTITIONS)])
    await keeper_of(server, keys, retention_s=0, sink_bytes=used // 2).run()
    assert all(10 <= length <= 30 for length in await lengths(server, keys))


async def test_a_dead_sink_takes_a_quarter_of_the_memory_at_most(server: AsyncServer, keys: Keys) -> None:
    """Whatever its bytes are set to."""
    await Worker(server, keys, [SinkEffect(DeadSink())]).run_until_idle()
    await add_large(server, keys)
    await worker_of(server, keys).run_until_idle()
    await keeper_of(server, keys, retention_s=0, memory_bytes=64 << 20).run()
    held = int(await server.call("MEMORY", "USAGE", keys.partition(0).stream()))
    # One of four partitions: a sixteenth of the whole.
    assert 3 << 20 < held < 5 << 20


async def test_a_server_that_fills_up_is_told_of_at_70_and_at_90_percent(
    server: AsyncServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each, against what the server may use, or what a setting says."""
    keeper = keeper_of(server, keys)
    used = await used_memory(server)
    for ratio in (0.5, 0.75, 0.76, 0.92):
        await server.call("CONFIG", "SET", "maxmemory", int(used / ratio))
        await keeper.run()
    await server.call("CONFIG", "SET", "maxmemory", "0")
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "Redis fills up",
        "Redis is nearly full: entries that all handlers have taken go early",
    ]
    caplog.clear()
    await keeper_of(server, keys, memory_bytes=int(used / 0.8)).run()
    assert [record.message for record in caplog.records] == ["Redis fills up"]


async def test_a_status_says_how_full_the_server_is(server: AsyncServer, keys: Keys) -> None:
    """Against its own limit, else against the one that the worker which keeps house was told."""
    used = await used_memory(server)
    await server.call("CONFIG", "SET", "maxmemory", int(used / 0.8))
    assert (await read_status(server, keys, PARTITIONS)).memory.level == "high"
    await server.call("CONFIG", "SET", "maxmemory", "0")
    assert (await read_status(server, keys, PARTITIONS)).memory.level == "ok"
    keeper = keeper_of(server, keys, memory_bytes=int(used / 0.95))
    worker = Worker(server, keys, [], periodic=[_periodic(keys, keeper)], options=WorkerOptions("w1"))
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)

        async def is_told() -> bool:
            return (await read_status(server, keys, PARTITIONS)).memory.level == "critical"

        await until(is_told)
        worker.stop()


def _periodic(keys: Keys, keeper: Housekeeper) -> Periodic:
    return Periodic("housekeeping", 0.01, keys.housekeeping_lease(), keeper.run, keeper.presence)


async def test_a_handler_that_stands_still_for_a_day_is_told_of_once(
    server: AsyncServer, keys: Keys, append: Appender, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only while an entry has waited for as long and the cursor has not moved; a sink holds within its budget alone."""
    monkeypatch.setattr(housekeeping, "_LOOK_AT_CURSORS_MS", 0)
    worker = worker_of(server, keys)
    await append(usages())
    await worker.run_until_idle()
    await Worker(server, keys, [SinkEffect(DeadSink())]).run_until_idle()
    cursor, sink = (keys.partition(0).unit(name).cursor() for name in ("metrics", "dead"))
    now_ms = int((await server.call("TIME"))[0]) * 1_000
    keeper = keeper_of(server, keys)
    await server.call("HSET", cursor, "at", now_ms - 2 * DAY_MS)
    await keeper.run()
    await append(usages())
    await keeper.run()
    assert not caplog.records
    assert not (await read_status(server, keys, PARTITIONS)).stalled
    # The entry has waited for two days: an id of then, in a stream that begins anew.
    await server.call("DEL", keys.partition(0).stream())
    await server.call("XADD", keys.partition(0).stream(), f"{now_ms - 2 * DAY_MS}-0", "b", b'{"events":[]}')
    await server.call("HSET", cursor, "id", "0-0", "done", "0-0", "at", now_ms)
    await keeper.run()
    assert not caplog.records
    await server.call("HSET", cursor, "at", now_ms - 2 * DAY_MS)
    await server.call("HSET", sink, "id", "0-0", "done", "0-0", "at", now_ms - 2 * DAY_MS)
    await keeper.run()
    await keeper.run()
    [record] = caplog.records
    assert (record.__dict__["unit"], record.__dict__["partition"], record.__dict__["hours"]) == ("v1:metrics", 0, 48)
    [stalled] = (await read_status(server, keys, PARTITIONS)).stalled
    assert (stalled.handler, stalled.version, stalled.partition) == ("metrics", 1, 0)
    assert stalled.still_ms >= 2 * DAY_MS
    await server.call("FLUSHALL")


async def test_one_worker_keeps_house_whatever_it_runs(
    server: AsyncServer, keys: Keys, append: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line composes it; another takes over when it leaves."""
    monkeypatch.setattr(compose, "HOUSEKEEPING_EVERY_S", 0.05)
    settings = HousekeepingSettings(retention_s=0)
    workers: dict[str, Worker] = {}
    for name in ("w1", "w2"):
        tasks = periodic_tasks(["metrics"], server, keys, AlertOptions((), 0.0), settings)
        assert [task.name for task in tasks] == ["housekeeping"]
        workers[name] = Worker(
            server, keys, [FoldEffect(MetricsHandler())], periodic=tasks, options=WorkerOptions(name)
        )

    async def owner() -> str:
        return (await server.call("GET", keys.housekeeping_lease()) or b"").decode()

    async with anyio.create_task_group() as group:
        for worker in workers.values():
            group.start_soon(worker.run)

        async def is_kept() -> bool:
            return bool(await owner())

        await until(is_kept)
        first = await owner()
        workers.pop(first).stop()
        ((second, rest),) = workers.items()

        async def is_taken_over() -> bool:
            return await owner() == second

        await until(is_taken_over)
        await append(usages())

        async def is_trimmed() -> bool:
            return int(await server.call("HGET", keys.partition(0).counters(), "trimmed") or 0) > 0

        await until(is_trimmed)
        rest.stop()


async def test_what_is_kept_for_a_replay_gives_way_where_memory_is_short(server: AsyncServer, keys: Keys) -> None:
    """The oldest first, and no more than must."""
    await add_large(server, keys)
    await worker_of(server, keys).run_until_idle()
    stream = int(await server.call("MEMORY", "USAGE", keys.partition(0).stream()))
    budget = max(1 << 20, int((await used_memory(server) - stream // 2) / 0.9))
    keeper = keeper_of(server, keys, memory_bytes=budget)
    await keeper.run()
    left = (await lengths(server, keys))[0]
    assert 500 < left < 2_500
    assert keeper.statistics.relieved == keeper.statistics.entries == 3_000 - left
    await keeper.run()
    assert (await lengths(server, keys))[0] == left


@pytest.mark.parametrize("kind", server_kinds())
async def test_a_full_server_is_emptied_by_its_consumers_and_nothing_is_lost(
    kind: str, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead sink and a producer fill it: events are shed and counted, then everything appended is counted, exactly."""

    def report(events: int) -> None:
        for _ in range(events):
            # Hardly to be compressed, and yet few cells, so that it is the stream which fills the server.
            tokens, time_us = secrets.token_bytes(5), secrets.randbits(39)
            session = f"s-{tokens[0] % 9}"
            telemetry.usage("writer", "gpt-4o", int.from_bytes(tokens[1:5]), duration_us=time_us, session=session)

    def flood() -> None:
        """Report until the server is full, and then more than the producer can keep."""
        while "Redis is full" not in caplog.text:
            report(1_000)
            telemetry.flush(0.5)
        while not telemetry.statistics().shed:
            report(1_000)

    with spawned(kind, "--maxmemory", "5mb", "--maxmemory-policy", "noeviction") as real:
        server = AsyncServer(RedisSettings(real.url))
        dead, worker, keeper = (
            Worker(server, keys, [SinkEffect(DeadSink())]),
            worker_of(server, keys),
            keeper_of(server, keys),
        )
        await dead.run_until_idle()
        telemetry = Telemetry(PublishSettings(namespace="test", linger_ms=5, buffer_events=5_000), lambda: real.url)
        with anyio.fail_after(120):
            await anyio.to_thread.run_sync(flood)
            while not await anyio.to_thread.run_sync(telemetry.flush, 0.2):
                await _tidy(worker, keeper)
            await _tidy(worker, keeper)
        with pytest.raises(UnreachableError):
            await dead.run_until_idle()
        counts = telemetry.statistics()
        assert counts.shed > 0
        assert counts.offered == counts.accounted() == counts.shed + counts.appended
        assert (keeper.statistics.relieved > 0, keeper.statistics.skipped > 0) == (True, True)
        cells = await StateReader(server, keys, PARTITIONS).lifetime("metrics")
        assert sum(measures["rq"] for measures in cells.values()) == counts.appended
        accounts = await read_unit_accounts(server, keys, PARTITIONS)
        assert [account.balance() for account in accounts] == [0] * len(accounts)
        assert sum(row.skipped + row.outstanding for row in accounts if row.handler == "dead") == counts.appended
        assert await anyio.to_thread.run_sync(telemetry.close, WAIT_S)
        assert not (await read_status(server, keys, PARTITIONS)).broken
        await server.aclose()


async def _tidy(worker: Worker, keeper: Housekeeper) -> None:
    """Do what a worker's loops do side by side, also while the server has no room for it."""
    for task in (worker.run_until_idle, keeper.run):
        try:
            await task()
        except (CapacityError, UnknownOutcomeError):
            continue
