"""The worker: units under leases, and periodic tasks beside them, until it is told to stop.

A few small loops, each of which survives what Redis or a handler does: one a unit (`_carry`), one for leases
(`_keep_leases`), one a periodic task (`_repeat`).
"""

import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from consumers.runtime.arbiter import Arbiter
from consumers.runtime.effects import Effect
from consumers.runtime.lease import RENEW_S
from consumers.runtime.unit import OlderRecipeError, Unit, UnitOptions
from pipeline.connection import AsyncServer
from pipeline.errors import PermanentError, SidestreamError, TransientError
from pipeline.keys import LIVE_VERSION, Keys
from pipeline.presence import read_partitions
from pipeline.retry import Backoff

log = logging.getLogger("sidestream.worker")

BLOCK_MS: Final = 500
"""How long an idle unit's read waits: well under the answer time-out, and how long SIGTERM may wait for it."""

PAUSE_S: Final = 60.0
"""How long a unit rests after an error that repeating cannot mend (a revoked token, a newer recipe)."""


@dataclass(frozen=True, slots=True)
class Periodic:
    """A task that one worker at a time repeats, under a lease of its own."""

    name: str
    every_s: float
    lease_key: str
    run: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class WorkerOptions:
    """How a worker runs.

    `presence` is what it says of itself besides its figures. `adopt_recipe` takes units over from workers with a newer
    recipe: an operator rolls a deploy back. `revive` is called, in a thread, while Redis is away: it may bring it back.
    """

    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}")
    version: int = LIVE_VERSION
    presence: dict[str, str] = field(default_factory=dict[str, str])
    adopt_recipe: bool = False
    revive: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What a worker has done in this process, and how many units it holds now."""

    events: int
    stale: int
    units_held: int


class Worker:
    """Runs effects over all partitions of a namespace."""

    def __init__(
        self,
        server: AsyncServer,
        keys: Keys,
        effects: Sequence[Effect],
        *,
        periodic: Sequence[Periodic] = (),
        options: WorkerOptions | None = None,
    ) -> None:
        self.options = options or WorkerOptions()
        self.units: list[Unit] = []
        self._server = server
        self._keys = keys
        self._effects = list(effects)
        self._periodic = list(periodic)
        self._unit_options = UnitOptions(version=self.options.version, adopt_recipe=self.options.adopt_recipe)
        self._stopping = anyio.Event()
        self._arbiter = Arbiter(server, keys, self.options.name)

    async def open(self) -> None:
        """Learn the number of partitions; every unit declares itself at its first step.

        Raises:
            SidestreamError: Redis is away or refuses.
        """
        count = await read_partitions(self._server, self._keys)
        for number in range(len(self.units) // max(1, len(self._effects)), count):
            partition = self._keys.partition(number)
            self.units += [Unit(self._server, partition, effect, self._unit_options) for effect in self._effects]

    async def run_until_idle(self) -> int:
        """Carry every unit, without leases, until none finds an event; return how many events moved.

        For tests, replays and a last look: whatever was appended before the call has been committed after it.

        Raises:
            SidestreamError: The first thing that goes wrong.
        """
        if not self.units:
            await self.open()
        total = 0
        while True:
            moved = 0
            for unit in self.units:
                moved += await unit.step()
            total += moved
            if not moved:
                return total

    def statistics(self) -> WorkerStatistics:
        """Return what the worker has done and holds."""
        return WorkerStatistics(
            events=sum(unit.statistics.events for unit in self.units),
            stale=sum(unit.statistics.stale for unit in self.units),
            units_held=sum(unit.keys.lease() in self._arbiter.held for unit in self.units),
        )

    def stop(self) -> None:
        """Ask the worker to finish what it has in hand and leave."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`: drains what is in hand, hands its leases back, says goodbye."""
        try:
            async with anyio.create_task_group() as group:
                for task in self._periodic:
                    group.start_soon(self._repeat, task)
                await self._keep_leases(group)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self._leave()

    async def _leave(self) -> None:
        try:
            await self._arbiter.leave()
        except SidestreamError as error:
            log.warning("Could not hand the leases back; they end by themselves", extra={"reason": str(error)})
        for effect in self._effects:
            await effect.aclose()

    async def _keep_leases(self, group: TaskGroup) -> None:
        outage = _Outage("leases")
        carried = 0
        while not self._stopping.is_set():
            pause_s = RENEW_S if self._arbiter.held else RENEW_S / 4
            try:
                # Partitions may have been added since the last look.
                await self.open()
                for unit in self.units[carried:]:
                    group.start_soon(self._carry, unit)
                carried = len(self.units)
                await self._arbiter.renew(self._wanted(), self._presence())
                outage.over()
            except TransientError as error:
                pause_s = outage.seen(error)
                await self._revive()
            except PermanentError as error:
                log.error("The worker rests: repeating cannot mend this", extra={"reason": str(error)})  # noqa: TRY400
                pause_s = outage.backoff.most_s
            await self._rest(pause_s)

    async def _carry(self, unit: Unit) -> None:
        key = unit.keys.lease()
        outage = _Outage(f"{unit.keys.name}, partition {unit.partition.number}")
        while not self._stopping.is_set():
            if key not in self._arbiter.held:
                await self._rest(0.1)
                continue
            try:
                await unit.step(BLOCK_MS)
                outage.over()
            except TransientError as error:
                await self._rest(outage.seen(error))
            except OlderRecipeError as error:
                log.error("A unit is left to workers with a newer recipe", extra={"reason": str(error)})  # noqa: TRY400
                await self._rest(PAUSE_S)
            except PermanentError as error:
                log.error("A unit rests: repeating cannot mend this", extra=_about(unit, error))  # noqa: TRY400
                await self._rest(PAUSE_S)
            except Exception:
                # A fault of ours must not end the other units, and must not be silent.
                log.exception("A unit failed; it goes on from its cursor", extra={"unit": unit.keys.name})
                await self._rest(outage.backoff.most_s)

    async def _repeat(self, task: Periodic) -> None:
        outage = _Outage(task.name)
        while not self._stopping.is_set():
            pause_s = task.every_s
            if task.lease_key in self._arbiter.held:
                try:
                    await task.run()
                    outage.over()
                except TransientError as error:
                    pause_s = max(pause_s, outage.seen(error))
                except Exception:
                    log.exception("A periodic task failed; it is repeated", extra={"task": task.name})
            await self._rest(pause_s)

    def _wanted(self) -> dict[str, list[str]]:
        wanted: dict[str, list[str]] = {}
        for unit in self.units:
            wanted.setdefault(unit.keys.name, []).append(unit.keys.lease())
        return wanted | {task.name: [task.lease_key] for task in self._periodic}

    async def _revive(self) -> None:
        if self.options.revive is not None:
            try:
                await anyio.to_thread.run_sync(self.options.revive, abandon_on_cancel=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, Redis is still away, which has been said
                log.warning("Redis could not be brought back", extra={"reason": str(error)})

    async def _rest(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    def _presence(self) -> dict[str, str]:
        now = self.statistics()
        figures = {"events": str(now.events), "stale": str(now.stale), "units": str(now.units_held)}
        return {**self.options.presence, **figures}


class _Outage:
    """Says once that something (a unit, the leases, a task) waits for Redis or a sink, and once that it goes on."""

    def __init__(self, what: str) -> None:
        self.backoff = Backoff()
        self._what = what
        self._failures = 0

    def seen(self, error: SidestreamError) -> float:
        """Note a failure; return how many seconds to wait: what the far side asked for, else by back-off."""
        self._failures += 1
        if self._failures == 1:
            about = {"what": self._what, "code": error.code, "reason": str(error)}
            log.warning("Waiting: no answer from Redis, or from where a sink delivers", extra=about)
        asked_s: float | None = getattr(error, "retry_after_s", None)
        return asked_s or self.backoff.pause_s(self._failures, random.random())  # noqa: S311 - jitter, no secret

    def over(self) -> None:
        """Note a success."""
        if self._failures:
            log.info("Going on", extra={"what": self._what, "failures": self._failures})
        self._failures = 0


def _about(unit: Unit, error: SidestreamError) -> dict[str, str | int]:
    return {"unit": unit.keys.name, "partition": unit.partition.number, "code": error.code, "reason": str(error)}
