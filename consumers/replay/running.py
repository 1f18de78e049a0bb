"""Run a replay: carry its units until they have caught up with the stream, with whoever else does, and tell of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio

from consumers.contract import Archive
from consumers.register import change_versions, read_versions
from consumers.replay.beginning import Asked, begin, check_recipes
from consumers.replay.pace import Pace
from consumers.replay.progress import ReplayProgress, read_progress
from consumers.runtime.effects import Effect
from consumers.runtime.run import Worker, WorkerOptions
from consumers.versions import Replay, VersionsError
from pipeline.connection import AsyncServer
from pipeline.errors import SidestreamError
from pipeline.keys import Keys

LOOK_S: Final = 1.0
_LEAVE_S: Final = 5.0


class PassedError(VersionsError):
    """Redis could not keep what a replay had still to read."""

    code = "passed"


@dataclass(frozen=True, slots=True)
class Told:
    """What a running replay tells: how far it is, events a second in this process, and what slows it down, if it is."""

    replay: Replay
    progress: ReplayProgress
    rate: float
    why: str


def _tell_nobody(told: Told) -> None:
    del told


@dataclass(slots=True)
class Running:
    """Carries one replay.

    Args:
        server: Where the namespace is.
        keys: The namespace's.
        partitions: How many it has.
        effects: The folds, as this installation has them.
        archive: What the replay began with; None: with the stream.
        rate: Most events a second; None is no limit.
        follow: Go on when it has caught up, until it is told to stop.
        tell: Is told about once a second.
    """

    server: AsyncServer
    keys: Keys
    partitions: int
    effects: list[Effect]
    archive: Archive | None = None
    rate: int | None = None
    follow: bool = False
    tell: Callable[[Told], None] = _tell_nobody
    _worker: Worker | None = field(default=None, init=False)

    async def run(self, replay: Replay) -> Replay:
        """Carry a replay until it has caught up, and return it.

        Raises:
            VersionsError: It is dropped meanwhile, or computed with other recipes than these.
            PassedError: It lacks events: drop it, and begin another.
            SidestreamError: See `AsyncServer.call`.
        """
        mine = [effect for effect in self.effects if effect.name in replay.handlers]
        check_recipes(replay, mine)
        pace = Pace(self.server, self.keys, self.partitions, replay.handlers, rate=self.rate, done=self._events)
        options = WorkerOptions(version=replay.number, history=self.archive, pace=pace.turn)
        options.most_events = pace.most_events
        options.presence = {"handlers": ",".join(f"{name} v{replay.number}" for name in replay.handlers)}
        worker = self._worker = Worker(self.server, self.keys, mine, options=options)
        failed: SidestreamError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(pace.watch)
            group.start_soon(worker.run)
            try:
                replay = await self._watch(replay, pace)
            except SidestreamError as error:
                # Raised behind the group, which would wrap it.
                failed = error
            finally:
                worker.stop()
                # It hands its leases back before it ends; the pace's watch has no end of its own.
                with anyio.CancelScope(shield=True), anyio.move_on_after(_LEAVE_S):
                    await worker.left.wait()
                group.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return replay

    def stop(self) -> None:
        """Ask it to finish what it has in hand and leave."""
        if self._worker is not None:
            self._worker.stop()

    def _events(self) -> int:
        return self._worker.statistics().events if self._worker else 0

    async def _watch(self, replay: Replay, pace: Pace) -> Replay:
        events, looked_s = self._events(), time.monotonic()
        while True:
            await anyio.sleep(LOOK_S)
            try:
                progress = await read_progress(self.server, self.keys, self.partitions, replay)
                replay = await self._look(replay, progress)
            except VersionsError:
                raise
            except SidestreamError as error:
                pace.why = f"Redis: {error.code}"
                continue
            now_s = time.monotonic()
            rate, events, looked_s = (self._events() - events) / (now_s - looked_s), self._events(), now_s
            self.tell(Told(replay, progress, rate, pace.why))
            if (replay.progress != "building" and not self.follow) or (self._worker and self._worker.stopping):
                return replay

    async def _look(self, replay: Replay, progress: ReplayProgress) -> Replay:
        versions = await read_versions(self.server, self.keys)
        if all(versions.base(handler) == replay.number for handler in replay.handlers):
            return replay
        found = versions.replay(replay.number)
        if found.born != replay.born:
            raise VersionsError(f"version {replay.number} was dropped, and another has its number")
        if found.progress == "building" and progress.passed:
            raise PassedError(
                f"version {replay.number} lacks {progress.passed:,} events, which Redis had to let go while its "
                "memory was short: drop it, and begin another"
            )
        if found.progress == "building" and progress.follows:
            await change_versions(self.server, self.keys, lambda versions: versions.caught_up(replay.number))
            found = (await read_versions(self.server, self.keys)).replay(replay.number)
        return found


async def replay_until_idle(server: AsyncServer, keys: Keys, partitions: int, asked: Asked) -> tuple[Replay, int]:
    """Begin a replay and carry it, without leases and alone, until nothing moves; return it, and the events it took.

    For tests and demonstrations.

    Raises:
        SidestreamError: The first thing that goes wrong.
    """
    begun = await begin(server, keys, partitions, asked)
    options = WorkerOptions(version=begun.number, history=asked.archive)
    events = await Worker(server, keys, asked.effects, options=options).run_until_idle()
    await change_versions(server, keys, lambda versions: versions.caught_up(begun.number))
    return (await read_versions(server, keys)).replay(begun.number), events
