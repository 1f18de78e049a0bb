"""How long a unit stays unread when workers come and go: at most a lease and a renewal, and no time after SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
import pytest
from support import Appender
from test_worker import held, until, worker_of

from consumers.runtime.lease import LEASE_TTL_MS, RENEW_S
from consumers.views.status import read_status
from pipeline.connection import AsyncServer
from pipeline.events import UsageEvent
from pipeline.keys import Keys

pytestmark = pytest.mark.one_server

NOW_US = time.time_ns() // 1_000

BLOCKED_S = 0.5
"""A read that waits, and what else lies between a lease and a commit."""

SIGTERM_S = 2.0


@contextmanager
def other_worker(url: str, keys: Keys) -> Generator[subprocess.Popen[str]]:
    """Run a worker as an operator does, in a process of its own."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "sidestream", "worker", "--handlers", "metrics"],
        env={**bare, "SIDESTREAM_REDIS_URL": url, "SIDESTREAM_NAMESPACE": keys.namespace},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float) -> None:
    """Look again and again until something holds."""
    with anyio.fail_after(within_s):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in Redis
            await anyio.sleep(0.01)


async def taken_over_s(url: str, server: AsyncServer, keys: Keys, append: Appender, number: signal.Signals) -> float:
    """Let a worker share with one in a process, end that by a signal, and return when all it had is committed."""
    stays = worker_of(server, keys, "stays")
    took: list[float] = []
    with other_worker(url, keys) as process:
        async with anyio.create_task_group() as group:

            async def has_all() -> bool:
                owners = {await server.call("GET", lease) for lease in leases(keys)}
                return None not in owners

            await eventually(has_all, 30)
            group.start_soon(stays.run)
            await until(lambda: held(stays) == 2)
            for partition in range(4):
                await append([UsageEvent(NOW_US)], partition=partition)
            await eventually(lambda: counted(server, keys, 4), 10)
            began_s = time.monotonic()
            process.send_signal(number)
            for partition in range(4):
                await append([UsageEvent(NOW_US)], partition=partition)
            await eventually(lambda: counted(server, keys, 8), 30)
            await until(lambda: held(stays) == 4)
            took.append(time.monotonic() - began_s)
            stays.stop()
    assert not (await read_status(server, keys, 4)).broken
    return took[0]


def leases(keys: Keys) -> list[str]:
    """Return the leases of the handler that these workers run."""
    return [keys.partition(number).unit("metrics").lease() for number in range(4)]


async def counted(server: AsyncServer, keys: Keys, events: int) -> bool:
    """Return whether so many events are committed."""
    accounts = (await read_status(server, keys, 4)).accounts
    return sum(account.committed for account in accounts if account.handler == "metrics") == events


async def test_what_a_killed_worker_held_is_committed_within_a_lease_and_a_renewal(
    redis_url: str, server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Nobody said goodbye: the leases end by themselves."""
    took_s = await taken_over_s(redis_url, server, keys, append, signal.SIGKILL)
    assert took_s <= LEASE_TTL_MS / 1_000 + RENEW_S + BLOCKED_S, took_s


async def test_what_a_worker_held_that_is_told_to_end_is_committed_at_once(
    redis_url: str, server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """It finishes what it has in hand and hands its leases back; the other sees that it left."""
    took_s = await taken_over_s(redis_url, server, keys, append, signal.SIGTERM)
    assert took_s <= SIGTERM_S, took_s


async def test_a_worker_that_joins_moves_only_its_share(server: AsyncServer, keys: Keys) -> None:
    """Twelve partitions, two workers and a third: four units move, all of them to it, within a second or two."""
    await server.call("HSET", keys.meta(), "partitions", 12)
    first, second, third = (worker_of(server, keys, name) for name in ("w1", "w2", "w3"))
    units = [keys.partition(number).unit("metrics").lease() for number in range(12)]

    async def owners() -> list[str]:
        return [(await server.call("GET", key) or b"").decode() for key in units]

    seen: list[list[str]] = []
    took: list[float] = []
    async with anyio.create_task_group() as group:
        group.start_soon(first.run)
        group.start_soon(second.run)
        await until(lambda: held(first) == held(second) == 6)
        seen.append(await owners())
        began_s = time.monotonic()
        group.start_soon(third.run)
        await until(lambda: held(first) == held(second) == held(third) == 4)
        took.append(time.monotonic() - began_s)
        seen.append(await owners())
        for worker in (first, second, third):
            worker.stop()
    before, after = seen
    moved = [number for number in range(12) if before[number] != after[number]]
    assert (len(moved), {after[number] for number in moved}) == (4, {"w3"})
    assert took[0] <= 2 * RENEW_S, took
