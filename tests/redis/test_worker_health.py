"""A worker that says how it is: over HTTP, in its presence, by its exit code; and units that others must carry."""

import http.client
import json
import logging
import time
from collections.abc import Sequence

import anyio
import anyio.to_thread
import pytest
from support import Appender
from test_worker import held, until, worker_of

from consumers.catalogue import Catalogue, Pricer
from consumers.contract import Slice
from consumers.folding import Folded
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Periodic, Worker, WorkerOptions
from consumers.views.status import read_status
from pipeline.connection import AsyncServer
from pipeline.errors import NewerSchemaError, RefusedError
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from pipeline.presence import SCHEMA
from sidestream.health_endpoint import HealthEndpoint

pytestmark = pytest.mark.one_server

NOW_US = time.time_ns() // 1_000


def with_book(server: AsyncServer, keys: Keys, name: str, book: str) -> Worker:
    """Return a worker that prices by a book, which is a part of its recipe."""
    effect = FoldEffect(CostHandler(Pricer(Catalogue(), PriceBook()), "test", book))
    return Worker(server, keys, [effect], options=WorkerOptions(name, stuck_after_s=1.5))


async def test_a_worker_that_is_behind_leaves_its_units_to_one_that_is_not(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Its share would stay unread as long as it lives: it is healthy, and the other one carries all of them."""
    newer, older = with_book(server, keys, "w2", "b"), with_book(server, keys, "w1", "a")
    await with_book(server, keys, "w0", "a").run_until_idle()
    async with anyio.create_task_group() as group:
        group.start_soon(newer.run)
        await until(lambda: held(newer) == 4)
        group.start_soon(older.run)
        await until(lambda: any(unit.code == "older_recipe" for unit in older.health().units))
        await until(lambda: held(newer) == 4 and held(older) == 0)
        for number in range(4):
            await append([UsageEvent(NOW_US)], partition=number)
        await until(lambda: newer.statistics().events == 4)
        await until(lambda: all("left to w2" in unit.why for unit in older.health().units))
        assert older.health().ready
        assert {unit.state for unit in older.health().units} == {"waiting"}
        newer.stop()
        await until(lambda: not older.health().ready)
        assert "nobody holds it" in older.health().why
        older.stop()


async def test_what_is_stuck_stands_in_the_presence_and_in_status(
    server: AsyncServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """A periodic task that can never succeed: said once in the log, with its reason in status, the worker not ready."""

    async def run() -> None:
        raise RefusedError("no permission to evaluate")

    task = Periodic("alerts", 0.01, keys.alert_lease(), run)
    worker = worker_of(server, keys, "w1", task)
    told: list[tuple[object, ...]] = []
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await until(lambda: not worker.health().ready)
        with anyio.fail_after(15):
            while not told:
                [shown] = (await read_status(server, keys, 4)).workers
                told += [(t.handler, t.partition, t.state, t.code, t.why) for t in shown.troubles]
                await anyio.sleep(0.05)
        worker.stop()
    assert told == [("alerts", None, "stuck", "refused", "no permission to evaluate")]
    assert [r.__dict__["what"] for r in caplog.records if r.getMessage().startswith("It rests")] == ["alerts"]


async def test_a_fault_of_ours_is_said_once_and_is_stuck_after_a_while(
    server: AsyncServer, keys: Keys, append: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody thought of: with its traceback, once; nothing is counted, and health says so."""

    class Faulty(MetricsHandler):
        """Fails in a way that it should not."""

        def fold(self, slices: Sequence[Slice], budget: int) -> Folded:  # noqa: ARG002 - it fails before it looks
            raise ZeroDivisionError("of ours")

    worker = Worker(server, keys, [FoldEffect(Faulty())], options=WorkerOptions("w1", stuck_after_s=1.5))
    await append([UsageEvent(NOW_US)])
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await until(lambda: not worker.health().ready)
        assert "ZeroDivisionError('of ours')" in worker.health().why
        worker.stop()
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR and "It failed" in r.getMessage()]
    assert record.exc_info is not None


async def test_a_blocked_loop_is_told_while_it_is_blocked(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The endpoint answers all the same: not live, with the reason."""
    answers: list[tuple[int, str]] = []

    class Blocking(MetricsHandler):
        """Asks the endpoint from within a fold, as if a fold never ended."""

        def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
            end_s = time.monotonic() + 10
            while not answers and time.monotonic() < end_s:
                client = http.client.HTTPConnection("127.0.0.1", endpoint.port)
                client.request("GET", "/live")
                response = client.getresponse()
                if response.status != 200:
                    answers.append((response.status, response.read().decode()))
                client.close()
            return super().fold(slices, budget)

    options = WorkerOptions("w1", stuck_after_s=1.5)
    worker = Worker(server, keys, [FoldEffect(Blocking())], options=options)
    await append([UsageEvent(NOW_US)])
    with HealthEndpoint("127.0.0.1", 0, worker.health, {"worker": "w1"}) as endpoint:
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await until(lambda: worker.statistics().events == 1)
            await until(lambda: worker.health().ready)
            worker.stop()
    assert answers == [(503, "the worker's loop has not turned for 2 s\n")]


async def test_a_healthy_worker_says_so(server: AsyncServer, keys: Keys) -> None:
    """Idle units are ok, each by its name."""
    worker = worker_of(server, keys, "w1")
    answers: list[tuple[int, bytes]] = []
    with HealthEndpoint("127.0.0.1", 0, worker.health, {"worker": "w1"}) as endpoint:
        async with anyio.create_task_group() as group:
            group.start_soon(worker.run)
            await until(lambda: held(worker) == 4)

            def ask() -> None:
                client = http.client.HTTPConnection("127.0.0.1", endpoint.port)
                client.request("GET", "/health")
                response = client.getresponse()
                answers.append((response.status, response.read()))
                client.close()

            await anyio.to_thread.run_sync(ask)
            worker.stop()
    [(status, body)] = answers
    document = json.loads(body)
    assert (status, document["ready"], document["why"]) == (200, True, "")
    assert [(unit["partition"], unit["state"]) for unit in document["units"]] == [(n, "ok") for n in range(4)]


async def test_a_namespace_of_a_newer_version_ends_the_worker(
    server: AsyncServer, keys: Keys, append: Appender, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while it runs: it hands its leases back and touches nothing more."""
    worker = worker_of(server, keys, "w1")
    ended: list[Exception] = []

    async def run() -> None:
        try:
            await worker.run()
        except NewerSchemaError as error:
            ended.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: held(worker) == 4)
        await server.call("HSET", keys.meta(), "schema", SCHEMA + 1)
        await until(lambda: bool(ended))
    assert "upgrade this one" in str(ended[0])
    assert [r.levelno for r in caplog.records if "can never work" in r.getMessage()] == [logging.CRITICAL]
    await server.call("HDEL", keys.meta(), "schema")
