"""How fast a replay goes: as fast as it can while the live handlers keep up, slower where they do not.

Keeps: it never stands still for good, also where nobody carries the live handlers, or where they are stuck.
"""

import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

import anyio

from consumers.alerts.watermark import read_watermark
from consumers.register import read_versions
from consumers.runtime.memory_watch import MemoryReading
from pipeline.connection import AsyncServer, parse_info
from pipeline.errors import SidestreamError
from pipeline.keys import Keys

LOOK_S: Final = 0.25
MOST_LAG_MS: Final = 300
"""What waits for the live handlers so long is late: a report promises half a second, a replay leaves it a second."""

LEAST_SHARE: Final = 0.05
"""Of the time, at the least: a live handler that is stuck may be what the replay is to mend."""

_SLOWER: Final = 0.6
_FASTER: Final = 0.05
_MOST_PAUSE_S: Final = 1.0
_ROUNDS_A_SECOND: Final = 4
_MOST_MEMORY_RATIO: Final = 0.8


class Pace:
    """Spreads the steps of a replay.

    Args:
        server: Where the live handlers commit.
        keys: The namespace's.
        partitions: How many it has.
        handlers: The folds whose live versions must not fall behind.
        rate: Most events a second; None is no limit.
        done: Tells how many events have moved so far.
    """

    def __init__(  # noqa: PLR0913 - where, whose, how fast
        self,
        server: AsyncServer,
        keys: Keys,
        partitions: int,
        handlers: Collection[str],
        *,
        rate: int | None,
        done: Callable[[], int],
    ) -> None:
        self.share = 1.0
        """Of the time that it may work, 0 to 1."""
        self.why = ""
        """What slows it down now."""
        self._server = server
        self._keys = keys
        self._partitions = partitions
        self._handlers = handlers
        self._rate = rate
        self._done = done
        self._began_s = time.monotonic()
        self._begun_with = done()

    @property
    def most_events(self) -> int | None:
        """Of one step: so few that all units together take what a rate gives in a quarter of a second; None: any."""
        if self._rate is None:
            return None
        return max(1, self._rate // (_ROUNDS_A_SECOND * self._partitions * len(self._handlers)))

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Take one step within; what is owed for it is waited for behind it."""
        began_s = time.monotonic()
        yield
        owed_s = (time.monotonic() - began_s) * (1 / self.share - 1)
        if self._rate:
            due_s = self._began_s + (self._done() - self._begun_with) / self._rate
            owed_s = max(owed_s, due_s - time.monotonic())
        if owed_s > 0:
            await anyio.sleep(min(owed_s, _MOST_PAUSE_S) if not self._rate else owed_s)

    async def watch(self) -> None:
        """Look at the live handlers, again and again, until it is cancelled."""
        while True:
            try:
                self.why = await self._look()
            except SidestreamError as error:
                self.why = f"Redis: {error.code}"
            self.share = max(LEAST_SHARE, self.share * _SLOWER) if self.why else min(1.0, self.share + _FASTER)
            await anyio.sleep(LOOK_S)

    async def _look(self) -> str:
        fields = parse_info(await self._server.call("INFO", "memory"))
        memory = MemoryReading(int(fields.get("used_memory", 0)), int(fields.get("maxmemory", 0)))
        if memory.ratio >= _MOST_MEMORY_RATIO:
            return f"Redis has {memory.ratio:.0%} of its memory in use"
        versions = await read_versions(self._server, self._keys)
        live = [name for name in self._handlers if await self._is_carried(name, versions.base(name))]
        mark = await read_watermark(self._server, self._keys, self._partitions, live, versions) if live else None
        behind_ms = mark.now_ms - mark.at_ms if mark else 0
        return f"the live handlers are {behind_ms / 1_000:.1f} s behind" if behind_ms > MOST_LAG_MS else ""

    async def _is_carried(self, handler: str, version: int) -> bool:
        """Return whether a worker carries a handler: who is not there cannot be disturbed."""
        seconds, _ = await self._server.call("TIME")
        index = self._keys.workers_of(f"v{version}:{handler}")
        return bool(await self._server.call("ZCOUNT", index, int(seconds) * 1_000, "+inf"))
