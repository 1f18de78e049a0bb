"""Workers: they share the units, hand them over, and survive what Redis does."""

import time
from collections.abc import Callable

import anyio
from support import Appender

from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Periodic, Worker, WorkerOptions
from pipeline.connection import AsyncServer
from pipeline.events import UsageEvent
from pipeline.keys import Keys

NOW_US = time.time_ns() // 1_000
WAIT_S = 15


def worker_of(server: AsyncServer, keys: Keys, name: str, *periodic: Periodic) -> Worker:
    """Return a worker with one handler."""
    return Worker(
        server, keys, [FoldEffect(MetricsHandler())], periodic=periodic, options=WorkerOptions(name, record={})
    )


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; a test that waits in vain fails by its deadline."""
    with anyio.fail_after(WAIT_S):
        while not holds():
            await anyio.lowlevel.checkpoint()


def held(worker: Worker) -> int:
    """Return how many units a worker holds."""
    return worker.statistics().units_held


async def test_a_running_worker_commits_what_is_appended(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Without being told, soon after it was appended, and it leaves no lease behind."""
    worker = worker_of(server, keys, "w1")
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await until(lambda: held(worker) == 4)
        await append([UsageEvent(NOW_US, input_tokens=3)], partition=2)
        await until(lambda: worker.statistics().events == 1)
        worker.stop()
    cells = await StateReader(server, keys, 4).lifetime("metrics")
    assert sum(measures["ti"] for measures in cells.values()) == 3
    assert await server.call("ZCARD", keys.workers()) == 0


async def test_two_workers_share_the_units_and_the_one_that_stays_takes_over_at_once(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A worker that is stopped hands its leases back: nobody waits for them to end."""
    first, second = worker_of(server, keys, "w1"), worker_of(server, keys, "w2")
    async with anyio.create_task_group() as group:
        group.start_soon(first.run)
        await until(lambda: held(first) == 4)
        group.start_soon(second.run)
        await until(lambda: held(first) == 2 and held(second) == 2)
        first.stop()
        await until(lambda: held(second) == 4)
        for number in range(4):
            await append([UsageEvent(NOW_US)], partition=number)
        await until(lambda: second.statistics().events == 4)
        second.stop()


async def test_partitions_that_are_added_are_found(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A producer may make the namespace wider while workers run."""
    worker = worker_of(server, keys, "w1")
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await until(lambda: held(worker) == 4)
        await server.call("HSET", keys.meta(), "partitions", 6)
        await append([UsageEvent(NOW_US)], partition=5)
        await until(lambda: worker.statistics().events == 1)
        worker.stop()


async def test_a_periodic_task_runs_in_one_worker_at_a_time(server: AsyncServer, keys: Keys) -> None:
    """It stands under a lease like a unit, and moves when its worker leaves."""
    runs: list[str] = []

    def task(name: str) -> Periodic:
        async def run() -> None:
            runs.append(name)

        return Periodic("alerts", 0.01, keys.alert_lease(), run)

    first, second = worker_of(server, keys, "w1", task("w1")), worker_of(server, keys, "w2", task("w2"))
    async with anyio.create_task_group() as group:
        group.start_soon(first.run)
        await until(lambda: "w1" in runs)
        group.start_soon(second.run)
        await until(lambda: held(second) > 0)
        assert set(runs) == {"w1"} or held(second) == 2
        first.stop()
        await until(lambda: "w2" in runs)
        second.stop()


async def test_a_script_flush_and_a_flushed_database_are_survived(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """The worker loads what is missing, declares anew, and goes on."""
    worker = worker_of(server, keys, "w1")
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await append([UsageEvent(NOW_US)])
        await until(lambda: worker.statistics().events == 1)
        await server.call("SCRIPT", "FLUSH")
        await server.call("FLUSHALL")
        append.forget()
        await append([UsageEvent(NOW_US, input_tokens=7)])
        await until(lambda: worker.statistics().events == 2)
        worker.stop()
    cells = await StateReader(server, keys, 4).lifetime("metrics")
    assert sum(measures.get("ti", 0) for measures in cells.values()) == 7
