"""A running worker heals from what happens to Redis, or says loudly what it cannot carry; and then counts exactly."""

import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from storms.world import OwnServer
from support import Appender, server_kinds

from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.reader import StateReader
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker, WorkerOptions
from consumers.views.status import Status, read_status
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.errors import CapacityError, SidestreamError
from pipeline.events import Resource, UsageEvent
from pipeline.keys import Keys, partition_of
from pipeline.wire import FrameEncoder
from producers.settings import PublishSettings
from producers.telemetry import Telemetry

KEYS = Keys("test")
WAIT_S = 30
STUCK_AFTER_S = 1.5
PASSWORD = "let me in"

SESSION = "s"
PARTITION = partition_of(SESSION, 4)


@dataclass
class Scene:
    """A server of its own, a producer and a worker that runs; what was sent, in events, since the state began."""

    own: OwnServer
    control: Server
    client: AsyncServer
    telemetry: Telemetry
    worker: Worker
    logged: pytest.LogCaptureFixture
    sent: int = 0

    def offer(self, events: int) -> None:
        """Report requests of one session, and so for one partition."""
        for _ in range(events):
            assert self.telemetry.usage("writer", "gpt-4o", 3, 1, session=SESSION)
        self.sent += events

    async def send(self, events: int) -> None:
        """Report requests and wait until they are appended."""
        self.offer(events)
        assert await self.telemetry.aflush(WAIT_S)

    async def counted(self) -> list[int]:
        """Return the requests that metrics has counted, and those that cost has."""
        reader = StateReader(self.client, KEYS, 4)
        metrics, cost = await reader.lifetime("metrics"), await reader.lifetime("cost")
        return [
            sum(measures.get("rq", 0) for measures in metrics.values()),
            sum(measures.get("cn", 0) + measures.get("un", 0) for measures in cost.values()),
        ]

    async def all_counted(self) -> None:
        """Wait until both handlers have counted what was sent, and see that they count no more than that."""
        await until(self._has_all)
        assert await self.counted() == [self.sent, self.sent]

    async def _has_all(self) -> bool:
        with contextlib.suppress(SidestreamError):
            return min(await self.counted()) >= self.sent
        return False

    async def status(self) -> Status:
        """Return the state of the pipeline."""
        return await read_status(self.client, KEYS, 4)

    async def well(self) -> None:
        """Wait until the worker is healthy again and holds all; then every identity must hold."""

        async def is_well() -> bool:
            health = self.worker.health()
            return health.ready and len(health.units) == 8 and not health.troubles

        await until(is_well)
        await self.all_counted()
        assert not (await self.status()).broken

    async def unhealthy(self, code: str, why: str) -> None:
        """Wait until the worker says that it does not progress and why: that, and what the units say; it stays live."""

        async def is_said() -> bool:
            health = self.worker.health()
            codes = {health.redis_error, *(unit.code for unit in health.units if unit.state == "stuck")}
            return not health.ready and code in codes and why in str(health)

        await until(is_said)
        assert self.worker.health().live

    def said(self, level: int, begins: str) -> list[logging.LogRecord]:
        """Return what the worker logged with such a beginning."""
        return [r for r in self.logged.records if r.levelno == level and r.getMessage().startswith(begins)]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again until something holds; a test that waits in vain fails by its deadline."""
    with anyio.fail_after(WAIT_S):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in Redis
            await anyio.sleep(0.02)


@dataclass
class Site:
    """A server of its own, and what the worker there logs."""

    own: OwnServer
    logged: pytest.LogCaptureFixture

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Scene]:
        """Run a worker over metrics and cost, with twenty events counted; in the end all must be well again."""
        settings = RedisSettings(f"unix://{self.own.socket}")
        client, workers = AsyncServer(settings), AsyncServer(settings)
        pricer = Pricer(Catalogue(), PriceBook())
        effects = [FoldEffect(MetricsHandler()), FoldEffect(CostHandler(pricer, "test", "none"))]
        options = WorkerOptions("w1", stuck_after_s=STUCK_AFTER_S, recheck_s=0.5)
        telemetry = Telemetry(PublishSettings(namespace="test", linger_ms=5), lambda: settings.url)
        worker = Worker(workers, KEYS, effects, options=options)
        scene = Scene(self.own, Server(settings), client, telemetry, worker, self.logged)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(worker.run)
                await scene.send(20)
                await scene.well()
                yield scene
                await scene.well()
                worker.stop()
            assert await client.call("ZCARD", KEYS.workers()) == 0
        finally:
            scene.control.close()
            await telemetry.aclose(WAIT_S)
            await client.aclose()
            await workers.aclose()


@pytest.fixture(params=server_kinds())
def site(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Generator[Site]:
    """Start a server that a test may do anything to."""
    caplog.set_level(logging.INFO, "sidestream")
    own = OwnServer(tmp_path, request.param)
    yield Site(own, caplog)
    own.kill()


async def test_a_flushed_server_begins_anew_and_what_is_known_to_be_lost_is_counted(site: Site) -> None:
    """The state is gone with its events; the producer that speaks again states them as lost, and new ones count."""
    async with site.running() as scene:
        scene.control.call("FLUSHALL")
        scene.sent = 0
        await scene.send(10)
        await scene.all_counted()
        status = await scene.status()
        assert {account.lost for account in status.accounts if account.partition == PARTITION} == {20}
        assert scene.telemetry.statistics().lost == 20


async def test_units_are_declared_again_after_a_flush_though_nobody_publishes(site: Site) -> None:
    """What trimming reads, and what `status` shows, does not wait for the next event."""
    async with site.running() as scene:
        scene.control.call("FLUSHALL")
        scene.sent = 0

        async def declared() -> bool:
            return len((await scene.status()).accounts) == 8

        await until(declared)


async def test_a_deleted_stream_costs_what_was_not_read_and_nothing_else(site: Site) -> None:
    """All had been counted: the cursors go on in the new stream, and every event has a place."""
    async with site.running() as scene:
        scene.control.call("DEL", KEYS.partition(PARTITION).stream())
        await scene.send(10)


async def test_a_script_flush_at_any_moment_changes_nothing(site: Site) -> None:
    """A script that the server does not know is sent as text."""
    async with site.running() as scene:
        for _ in range(20):
            scene.control.call("SCRIPT", "FLUSH")
            await scene.send(5)


async def test_a_demoted_server_is_waited_for(site: Site) -> None:
    """While it is the replica of nobody the worker says that it does not progress; then it goes on by itself."""
    async with site.running() as scene:
        scene.control.call("REPLICAOF", "127.0.0.1", "1")
        scene.offer(10)
        await scene.unhealthy("unavailable", "read only replica")
        scene.control.call("REPLICAOF", "NO", "ONE")
        await scene.well()
        [said] = [record for record in scene.said(logging.WARNING, "Waiting") if record.__dict__["what"] == "leases"]
        assert said.__dict__["code"] == "unavailable"


async def test_a_server_that_loads_its_file_is_waited_for(site: Site) -> None:
    """A restart with a large file: LOADING for seconds, and the count goes on where the file stands."""
    async with site.running() as scene:
        scene.control.batch([["SET", f"{{test}}:padding:{n}", "x", "EX", 3_600] for n in range(12_000)])
        codes: set[str] = set()

        async def watch() -> None:
            while True:
                codes.add(scene.worker.health().redis_error)
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            slowly = ("--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024")
            await anyio.to_thread.run_sync(lambda: scene.own.restart(*slowly))
            await scene.well()
            group.cancel_scope.cancel()
        assert "unavailable" in codes, codes
        await scene.send(10)


async def test_a_server_that_cannot_save_is_waited_for(site: Site, tmp_path: Path) -> None:
    """MISCONF: it answers, and takes no write; nothing is lost or doubled meanwhile."""
    async with site.running() as scene:
        (tmp_path / "data" / "dump.rdb" / "full").mkdir(parents=True)
        scene.control.call("CONFIG", "SET", "save", "3600 1")
        scene.control.call("BGSAVE")

        async def has_failed() -> bool:
            return b"rdb_last_bgsave_status:err" in scene.control.call("INFO", "persistence")

        await until(has_failed)
        scene.offer(10)
        await scene.unhealthy("unavailable", "MISCONF")
        scene.control.call("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")


async def test_a_full_server_is_counted_to_the_end(site: Site) -> None:
    """At its memory limit it takes no event, and every commit: the backlog goes, health stays good."""
    async with site.running() as scene:
        scene.control.call("CLIENT", "PAUSE", "300", "WRITE")
        scene.offer(2_000)
        scene.control.call("CONFIG", "SET", "maxmemory", "100kb")
        [refused] = scene.control.batch([["SET", "{test}:x", "x"]])
        assert isinstance(refused, CapacityError)
        appended = await taken(scene)
        scene.sent, offered = appended, scene.sent
        await scene.all_counted()
        assert scene.worker.health().ready
        scene.control.call("CONFIG", "SET", "maxmemory", "0")
        scene.sent = offered
        assert await scene.telemetry.aflush(WAIT_S)


async def taken(scene: Scene) -> int:
    """Return the events that the stream has."""
    return int(await scene.client.call("HGET", KEYS.partition(PARTITION).counters(), "appended"))


async def test_a_password_set_at_run_time_stops_the_worker_loudly_and_its_end_heals_it(site: Site) -> None:
    """NOAUTH: stuck at once and said once, by each unit; when the password is gone again, all goes on by itself."""
    async with site.running() as scene:
        scene.control.batch([["CONFIG", "SET", "requirepass", PASSWORD], ["CLIENT", "KILL", "TYPE", "normal"]])
        scene.offer(10)
        await scene.unhealthy("refused", "Authentication required")
        operator = Server(RedisSettings(f"unix://:{PASSWORD.replace(' ', '%20')}@{scene.own.socket}"))
        try:
            operator.call("CONFIG", "SET", "requirepass", "")
        finally:
            operator.close()
        await scene.well()
        said = Counter(record.__dict__.get("what") for record in scene.said(logging.ERROR, "It rests"))
        assert set(said.values()) == {1}


async def test_a_user_without_a_right_is_stuck_and_says_which(site: Site) -> None:
    """NOPERM for scripts: stuck at once; with the right given back, it goes on."""
    async with site.running() as scene:
        scene.control.call("ACL", "SETUSER", "default", "-evalsha", "-eval")
        scene.offer(10)
        await scene.unhealthy("refused", "permission")
        scene.control.call("ACL", "SETUSER", "default", "+@all")


async def test_a_key_of_another_type_stops_one_unit_and_no_other(site: Site) -> None:
    """WRONGTYPE at one cursor: that unit is stuck, in health, in status and in the log; the other handler counts on."""
    async with site.running() as scene:
        cursor = KEYS.partition(PARTITION).unit("metrics").cursor()
        kept = scene.control.call("DUMP", cursor)
        scene.control.batch([["DEL", cursor], ["SET", cursor, "no cursor"]])
        await scene.unhealthy("refused", "WRONGTYPE")
        assert scene.worker.health().why.startswith(f"metrics, partition {PARTITION}: stuck for ")
        await scene.send(10)

        async def cost_goes_on() -> bool:
            return (await scene.counted())[1] == scene.sent

        await until(cost_goes_on)

        async def is_told() -> bool:
            status = await scene.status()
            [worker] = status.workers
            told = [(unit.handler, unit.partition) for unit in worker.troubles if unit.state == "stuck"]
            return told == [("metrics", PARTITION)] and len(status.accounts) == 7 and len(status.broken) == 1

        await until(is_told)
        [said] = scene.said(logging.ERROR, "It rests")
        assert said.__dict__["what"] == f"v1:metrics, partition {PARTITION}"
        scene.control.call("RESTORE", cursor, 0, kept, "REPLACE")


async def test_connections_that_are_cut_again_and_again_cost_nothing(site: Site) -> None:
    """Whatever was under way is found out from the cursor."""
    async with site.running() as scene:
        for _ in range(30):
            scene.offer(5)
            scene.control.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await anyio.sleep(0.02)
        assert await scene.telemetry.aflush(WAIT_S)


async def test_a_server_that_is_killed_and_restarted_counts_on(site: Site) -> None:
    """Its file has all that it answered for."""
    async with site.running() as scene:
        for _ in range(3):
            scene.offer(20)
            await anyio.to_thread.run_sync(scene.own.restart)
        assert await scene.telemetry.aflush(WAIT_S)


async def test_a_server_that_is_rolled_back_counts_from_there_and_says_what_is_lost(site: Site) -> None:
    """State and stream go back together: what was counted and is gone is lost, by number, and nothing is doubled."""
    async with site.running() as scene:
        scene.own.remember()
        await scene.send(15)
        await scene.all_counted()
        await anyio.to_thread.run_sync(scene.own.roll_back)
        scene.sent -= 15
        await scene.send(5)
        await scene.all_counted()
        status = await scene.status()
        assert {account.lost for account in status.accounts if account.partition == PARTITION} == {15}
        assert scene.telemetry.statistics().lost == 15


async def test_entries_below_a_remembered_cursor_are_read(site: Site) -> None:
    """A server that was put back, and whose clock is behind, gives lower ids: they must not wait for the next event."""
    async with site.running() as scene:
        scene.control.call("FLUSHALL")
        stream = KEYS.partition(PARTITION).stream()
        event = UsageEvent(time.time_ns() // 1_000, agent="writer", model="gpt-4o", input_tokens=3, session=SESSION)
        body = FrameEncoder(Resource()).encode([event])
        scene.control.call("XADD", stream, f"{time.time_ns() // 1_000_000 - 60_000}-1", "c", "mz", "n", 1, "b", body)
        scene.sent = 1
        await scene.all_counted()


async def test_entries_that_are_deleted_unread_are_said_to_be_nowhere(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Somebody deletes the stream: nobody can count what was in it, and `status` says how many events that were."""
    event = UsageEvent(time.time_ns() // 1_000, agent="writer", session=SESSION)
    worker = Worker(server, keys, [FoldEffect(MetricsHandler())])
    await append([event] * 3)
    await worker.run_until_idle()
    await append([event] * 5)
    await server.call("DEL", keys.partition(0).stream())
    await append([event] * 2)
    await worker.run_until_idle()
    status = await read_status(server, keys, 4)
    assert [broken.what for broken in status.broken] == ["5 events entered and are nowhere"]
    [account] = [account for account in status.accounts if account.partition == 0]
    assert (account.committed, account.lag or 0) == (5, 0)
    await server.call("FLUSHALL")
