"""The worker: units under leases, and periodic tasks beside them, until it is told to stop.

A few small loops, each of which survives what Redis or a handler does: one a unit (`_carry`), one for leases
(`_keep_leases`), one a periodic task (`_repeat`). Each tells `health` how it fares; one more (`_beat`) that they turn.

Keeps: trouble is said once, and once that it is over; a worker that can never work ends with an error.
"""

import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from consumers.contract import Archive
from consumers.runtime.arbiter import Arbiter
from consumers.runtime.effects import Effect
from consumers.runtime.health import STUCK_AFTER_S, Health, HealthWatch, Place
from consumers.runtime.lease import LOOK_S, RENEW_S
from consumers.runtime.outage import PAUSE_S, Outage
from consumers.runtime.quarantine import TIMEOUT_S
from consumers.runtime.roster import Roster
from consumers.runtime.unit import DroppedError, OlderRecipeError, Unit, UnitOptions
from pipeline.connection import AsyncServer
from pipeline.errors import NewerSchemaError, PermanentError, SidestreamError, TransientError
from pipeline.keys import Keys

log = logging.getLogger("sidestream.worker")

BLOCK_MS: Final = 500
"""How long an idle unit's read waits: well under the answer time-out, and how long SIGTERM may wait for it."""

RECHECK_S: Final = 10.0
"""An idle unit asks for its cursor so often: a server that was put back, with a clock that is behind, appends entries
below the cursor that the unit remembers, and nobody would ever read them."""

BEAT_S: Final = 1.0
"""Seconds between signs that the loop turns."""

STOOD_STILL_S: Final = 5.0
"""Half of a lease: a loop that stands still for so long is about to lose what it holds."""

_TOLD: Final = 20
"""Units in trouble that a worker tells of in its presence."""


@dataclass(frozen=True, slots=True)
class Periodic:
    """A task that one worker at a time repeats, under a lease of its own.

    `presence` is what the worker says of the task while it is the one; another says the same names without a value.
    """

    name: str
    every_s: float
    lease_key: str
    run: Callable[[], Awaitable[None]]
    presence: Callable[[], Mapping[str, str]] = dict[str, str]


@dataclass(slots=True)
class WorkerOptions:
    """How a worker runs.

    `presence` is what it says of itself besides its figures. `adopt_recipe` takes units over from workers with a newer
    recipe: an operator rolls a deploy back. `revive` is called, in a thread, while Redis is away: it may bring it back.
    A unit that does not progress for `stuck_after_s` seconds makes the worker unhealthy. A process that folds what may
    have ended other workers has `trial_timeout_s` seconds (`quarantine`).

    A worker carries the base of each handler, and what has been replayed beside it; with a `version` it carries that
    replay alone, from its beginning on. Each step of a unit is taken within `pace`, which may wait, and is of
    `most_events` at most. `history` is the archive that replays begin with.
    """

    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}")
    version: int | None = None
    history: Archive | None = None
    pace: Callable[[], AbstractAsyncContextManager[None]] = nullcontext[None]
    most_events: int | None = None
    presence: dict[str, str] = field(default_factory=dict[str, str])
    adopt_recipe: bool = False
    revive: Callable[[], None] | None = None
    stuck_after_s: float = STUCK_AFTER_S
    recheck_s: float = RECHECK_S
    trial_timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What a worker has done in this process, and how many units it holds now; `trials` is 0 unless workers died."""

    events: int
    stale: int
    units_held: int
    trials: int


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
        self.left = anyio.Event()
        """Set when it has handed its leases back, or given up to."""
        self._server = server
        self._keys = keys
        self._effects = list(effects)
        self._periodic = list(periodic)
        shared = UnitOptions(
            adopt_recipe=self.options.adopt_recipe,
            owner=self.options.name,
            trial_timeout_s=self.options.trial_timeout_s,
            most_events=self.options.most_events,
        )
        self._roster = Roster(
            server, keys, self._effects, shared, only=self.options.version, history=self.options.history
        )
        self._stopping = anyio.Event()
        self._arbiter = Arbiter(server, keys, self.options.name)
        self._health = HealthWatch(time.monotonic(), self.options.stuck_after_s)
        self._fatal: SidestreamError | None = None

    @property
    def units(self) -> list[Unit]:
        """The units that it carries, or would where others did not."""
        return list(self._roster.units.values())

    async def open(self) -> list[Unit]:
        """Learn the partitions and versions, and return the units that are new; each declares itself at its first step.

        Raises:
            SidestreamError: Redis is away or refuses.
        """
        new, gone = await self._roster.refresh()
        for key in sorted(gone & self._arbiter.held):
            await self._arbiter.hand_back(key)
        return new

    async def run_until_idle(self) -> int:
        """Carry every unit, without leases, until none finds an event; return how many events moved.

        For tests, replays and a last look: whatever was appended before the call has been committed after it.

        Raises:
            SidestreamError: The first thing that goes wrong.
        """
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
            trials=sum(unit.trials for unit in self.units),
        )

    def health(self) -> Health:
        """Return whether it does its work; from any thread."""
        return self._health.look(time.monotonic())

    @property
    def stopping(self) -> bool:
        """Whether it was asked to leave."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Ask the worker to finish what it has in hand and leave."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`: drains what is in hand, hands its leases back, says goodbye.

        Raises:
            NewerSchemaError: A newer Sidestream has taken over the namespace; this one must not touch it.
        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._beat)
                for task in self._periodic:
                    group.start_soon(self._repeat, task)
                await self._keep_leases(group)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self._leave()
            self.left.set()
        if self._fatal is not None:
            raise self._fatal

    async def _beat(self) -> None:
        was_ready, turned_s = True, time.monotonic()
        while not self._stopping.is_set():
            still_s, turned_s = time.monotonic() - turned_s, time.monotonic()
            if still_s > STOOD_STILL_S:
                log.warning("The loop stood still: something blocked it", extra={"seconds": round(still_s, 1)})
            self._health.turned(turned_s)
            health = self.health()
            if was_ready and not health.ready:
                log.error("The worker does not progress", extra={"why": health.why})
            elif health.ready and not was_ready:
                log.info("The worker progresses again")
            was_ready = health.ready
            await self._rest(BEAT_S)

    async def _leave(self) -> None:
        try:
            await self._arbiter.leave()
        except SidestreamError as error:
            log.warning("Could not hand the leases back; they end by themselves", extra={"reason": str(error)})
        for effect in self._effects:
            await effect.aclose()

    async def _keep_leases(self, group: TaskGroup) -> None:
        outage = Outage("leases")
        due_s = 0.0
        while not self._stopping.is_set():
            pause_s = LOOK_S
            try:
                due = not self._arbiter.held or time.monotonic() >= due_s
                if due:
                    # Partitions and versions may have been added since the last look, or taken away.
                    for unit in await self.open():
                        group.start_soon(self._carry, unit)
                if await self._arbiter.renew(self._wanted(), self._presence(), due=due):
                    due_s = time.monotonic() + RENEW_S
                outage.over()
                self._holds()
            except NewerSchemaError as error:
                log.critical("The worker ends: it can never work here", extra={"reason": str(error)})
                self._fatal = error
                self.stop()
            except SidestreamError as error:
                pause_s = min(outage.seen(error), outage.backoff.most_s)
                self._health.unanswered(error, time.monotonic(), permanent=isinstance(error, PermanentError))
                await self._revive(error)
            await self._rest(pause_s)

    def _holds(self) -> None:
        """Tell what this worker carries, and who carries the rest."""
        places = {unit.keys.lease(): _place(unit) for unit in self.units}
        places |= {task.lease_key: (task.name, None) for task in self._periodic}
        owners = {places[key]: owner for key, owner in self._arbiter.owners.items() if key in places}
        now_s = time.monotonic()
        self._health.answered(now_s)
        self._health.holds({places[key] for key in self._arbiter.held}, owners, now_s)

    async def _carry(self, unit: Unit) -> None:
        key, place = unit.keys.lease(), _place(unit)
        outage = Outage(f"{unit.keys.name}, partition {unit.partition.number}")
        checked_s = time.monotonic()
        while not self._stopping.is_set() and self._roster.units.get(key) is unit:
            if key in self._arbiter.left:
                await self._rest(PAUSE_S)
                await self._try_again(unit)
                continue
            if key not in self._arbiter.held:
                await self._rest(0.1)
                continue
            try:
                gone = unit.statistics.gone
                async with self.options.pace():
                    moved = await unit.step(BLOCK_MS)
                if moved:
                    checked_s = time.monotonic()
                elif time.monotonic() - checked_s >= self.options.recheck_s:
                    await unit.declare()
                    checked_s = time.monotonic()
                if unit.statistics.gone == gone:
                    self._health.progressed(place, time.monotonic())
                outage.over()
            except (OlderRecipeError, DroppedError) as error:
                await self._leave_to_others(unit, error)
            except SidestreamError as error:
                self._health.failed(
                    place, error.code, str(error), time.monotonic(), permanent=isinstance(error, PermanentError)
                )
                await self._rest(outage.seen(error))
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end the other units; said by `fault`
                self._health.failed(place, "fault", repr(error), time.monotonic())
                await self._rest(outage.fault(error))

    async def _leave_to_others(self, unit: Unit, error: OlderRecipeError | DroppedError) -> None:
        if isinstance(error, DroppedError):
            # The next look at the document takes it off the roster.
            log.info("A version is dropped; the worker lets go of it", extra=_about(unit, error))
            await self._rest(RENEW_S)
            return
        log.error("A unit is left to workers with a newer recipe", extra=_about(unit, error))
        self._arbiter.leave_to_others(unit.keys.lease())
        self._health.left(_place(unit), error, time.monotonic())

    async def _try_again(self, unit: Unit) -> None:
        """Ask whether this worker may carry a unit again that it left; without a lease, for asking moves nothing."""
        try:
            await unit.declare()
        except SidestreamError:
            # It is left all the same; if Redis is away, the loop of the leases says so.
            return
        self._arbiter.may_carry(unit.keys.lease())
        self._health.may_carry(_place(unit))
        log.info("Going on", extra={"what": f"{unit.keys.name}, partition {unit.partition.number}"})

    async def _repeat(self, task: Periodic) -> None:
        outage = Outage(task.name)
        place = (task.name, None)
        while not self._stopping.is_set():
            pause_s = task.every_s
            if task.lease_key in self._arbiter.held:
                try:
                    await task.run()
                    outage.over()
                    # Until its next turn it has nothing to do.
                    self._health.progressed(place, time.monotonic() + task.every_s)
                except SidestreamError as error:
                    pause_s = max(pause_s, outage.seen(error))
                    self._health.failed(
                        place, error.code, str(error), time.monotonic(), permanent=isinstance(error, PermanentError)
                    )
                except Exception as error:  # noqa: BLE001 - as in `_carry`
                    pause_s = max(pause_s, outage.fault(error))
                    self._health.failed(place, "fault", repr(error), time.monotonic())
            await self._rest(pause_s)

    def _wanted(self) -> dict[str, list[str]]:
        wanted: dict[str, list[str]] = {}
        for unit in self.units:
            wanted.setdefault(unit.keys.name, []).append(unit.keys.lease())
        return wanted | {task.name: [task.lease_key] for task in self._periodic}

    async def _revive(self, error: SidestreamError) -> None:
        if self.options.revive is not None and isinstance(error, TransientError):
            try:
                await anyio.to_thread.run_sync(self.options.revive, abandon_on_cancel=True)
            except Exception as reason:  # noqa: BLE001 - whatever it is, Redis is still away, which has been said
                log.warning("Redis could not be brought back", extra={"reason": str(reason)})

    async def _rest(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._stopping.wait()

    def _presence(self) -> dict[str, str]:
        now = self.statistics()
        figures = {"events": str(now.events), "stale": str(now.stale), "units": str(now.units_held)}
        tasks = {
            name: value if task.lease_key in self._arbiter.held else ""
            for task in self._periodic
            for name, value in task.presence().items()
        }
        troubles = msgspec.json.encode(self.health().troubles[:_TOLD]).decode()
        return {**self.options.presence, **figures, **tasks, "troubles": troubles}


def _place(unit: Unit) -> Place:
    return unit.effect.name, unit.partition.number


def _about(unit: Unit, error: SidestreamError) -> dict[str, str | int]:
    return {"unit": unit.keys.name, "partition": unit.partition.number, "code": error.code, "reason": str(error)}
