"""Workers: they share the units, hand them over, and survive what Redis does."""

import time
from collections.abc import Callable

import anyio
import pytest
from support import Appender

from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
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
    return Worker(server, keys, [FoldEffect(MetricsHandler())], periodic=periodic, options=WorkerOptions(name))


async def until(holds: Callable[[], bool]) -> None:
    """Look again and again until something holds; a test that waits in vain fails by its deadline."""
    with anyio.fail_after(WAIT_S):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in Redis
            await anyio.sleep(0.01)


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


async def test_a_periodic_task_runs_in_one_worker_and_moves_when_that_one_leaves(
    server: AsyncServer, keys: Keys
) -> None:
    """It stands under a lease like a unit."""
    runs: dict[str, int] = {"w1": 0, "w2": 0}

    def task(name: str) -> Periodic:
        async def run() -> None:
            runs[name] += 1

        return Periodic("alerts", 0.01, keys.alert_lease(), run)

    workers = {name: worker_of(server, keys, name, task(name)) for name in runs}
    async with anyio.create_task_group() as group:
        group.start_soon(workers["w1"].run)
        await until(lambda: runs["w1"] > 0)
        group.start_soon(workers["w2"].run)
        await until(lambda: held(workers["w2"]) == 2)
        holder = (await server.call("GET", keys.alert_lease())).decode()
        other = "w2" if holder == "w1" else "w1"
        workers[holder].stop()
        before = runs[other]
        await until(lambda: runs[other] > before)
        workers[other].stop()


async def test_workers_that_run_different_handlers_leave_no_unit_unread(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A share is of those who run the same: one worker for metrics and one for cost each read every partition."""
    pricer = Pricer(Catalogue(), PriceBook())
    metrics = worker_of(server, keys, "w1")
    cost = Worker(server, keys, [FoldEffect(CostHandler(pricer, "test", "none"))], options=WorkerOptions("w2"))
    for number in range(4):
        await append([UsageEvent(NOW_US)], partition=number)
    async with anyio.create_task_group() as group:
        for worker in (metrics, cost):
            group.start_soon(worker.run)
        await until(lambda: metrics.statistics().events == cost.statistics().events == 4)
        for worker in (metrics, cost):
            worker.stop()


async def test_a_worker_with_one_older_recipe_carries_its_other_units(
    server: AsyncServer, keys: Keys, append: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    """It leaves that handler, says so, and goes on with the rest; told to, it takes over again."""
    pricer = Pricer(Catalogue(), PriceBook())

    def with_book(name: str, book: str, *, adopt: bool = False) -> Worker:
        effects = [FoldEffect(MetricsHandler()), FoldEffect(CostHandler(pricer, "test", book))]
        return Worker(server, keys, effects, options=WorkerOptions(name, adopt_recipe=adopt))

    await with_book("old", "a").run_until_idle()
    await with_book("new", "b").run_until_idle()
    await append([UsageEvent(NOW_US)])
    back = with_book("back", "a")
    async with anyio.create_task_group() as group:
        group.start_soon(back.run)
        await until(lambda: back.statistics().events == 1 and "newer recipe" in caplog.text)
        back.stop()
    adopting = with_book("adopting", "a", adopt=True)
    assert await adopting.run_until_idle() == 1


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
