"""2. Counting: workers fold what the stream carries, each event once.

`run_until_idle` does what a worker does, until nothing is left: no test has to sleep.
"""

import time

from support import Appender

from consumers.handlers.metrics import MetricsHandler
from consumers.reader import StateReader
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.state import CELL_DIMENSIONS
from consumers.views.dead_letters import read_dead_letters
from pipeline.connection import AsyncServer
from pipeline.events import UsageEvent
from pipeline.keys import Keys

NOW_US = time.time_ns() // 1_000


def worker(server: AsyncServer, keys: Keys) -> Worker:
    """Return a worker that counts requests, tokens and times."""
    return Worker(server, keys, [FoldEffect(MetricsHandler())])


async def test_a_request_is_counted_in_the_cell_of_its_agent_and_model(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A cell is one combination of service, version, environment, tenant, agent, model, state and status."""
    await append([UsageEvent(NOW_US, "writer", "gpt-4o", 1200, 340, duration_us=2_000_000)])
    await worker(server, keys).run_until_idle()
    [(cell, measures)] = (await StateReader(server, keys, 4).lifetime("metrics")).items()
    named = dict(zip(CELL_DIMENSIONS, cell, strict=True))
    assert (named["service"], named["agent"], named["model"], named["status"]) == ("deckster", "writer", "gpt-4o", "ok")
    assert (measures["rq"], measures["ti"], measures["to"], measures["rd"]) == (1, 1200, 340, 2_000_000)


async def test_any_number_of_workers_count_an_event_once(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The cursor is the commit: who comes second finds that it has moved."""
    await append([UsageEvent(NOW_US, input_tokens=7)])
    workers = [worker(server, keys) for _ in range(3)]
    moved = [await each.run_until_idle() for each in workers]
    assert moved == [1, 0, 0]


async def test_an_event_that_cannot_be_read_is_set_aside_and_its_neighbours_count(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A dead letter says where it lay and why; nothing vanishes, for the accounting has a place for it."""
    await append.raw(b'{"events":[{"event":"usage","time_us":1},{"event":"telepathy","time_us":1}]}', 2, codec="json")
    await worker(server, keys).run_until_idle()
    [stored] = await read_dead_letters(server, keys, 4)
    assert (stored.letter.index, stored.letter.code) == (1, "unknown_kind")
    cells = await StateReader(server, keys, 4).lifetime("metrics")
    assert sum(measures["rq"] for measures in cells.values()) == 1


async def test_an_event_counts_at_its_own_time(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Not at the time it arrived: an hour after an outage the windows are as they would have been."""
    early, late = NOW_US - 600_000_000, NOW_US
    await append([UsageEvent(late, input_tokens=1), UsageEvent(early, input_tokens=2)])
    await worker(server, keys).run_until_idle()
    found = [key.decode() for key in await server.call("KEYS", "*:w:10s:*")]
    starts = sorted(int(key.rpartition(":")[2]) for key in found)
    assert starts == sorted(time_us // 10_000_000 * 10 for time_us in (early, late))
