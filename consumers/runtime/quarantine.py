"""The quarantine: where a cursor stood still over two owners, batches are folded in another process first.

A worker's own death proves nothing: it serves several units, and may be killed from outside. So whoever begins where
others have ended without a commit looks for an event that ends a process, before it folds anything itself.

Keeps:
- An event is blamed only if it alone ended two processes that this living worker has watched, while processes that only
  decoded its entry survived, before and after. Then it becomes a dead letter, and its neighbours count.
- What could not be tried proves nothing: `TrialError`, and nothing moves.
- No process is started for a unit that commits.
- Each process is new: what one event leaves behind in memory is not another's fault.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from subprocess import PIPE
from typing import Final, TypeAlias

import anyio
import msgspec
from anyio.abc import Process

from consumers.runtime.batch import Cursor
from consumers.runtime.trial import Answer, Request
from consumers.versions import ALL_DAYS, Days
from pipeline.errors import PermanentError
from pipeline.wire import StoredEntry

log = logging.getLogger("sidestream.worker")

OWNERS: Final = 2
"""From so many owners on that began at one cursor, the last does not trust what waits there."""

TIMEOUT_S: Final = 30.0
"""A process that does not answer within it counts as dead: a batch takes about a second, its start less."""

FATAL: Final = "fatal"
"""The code of a dead letter whose event, or entry, ends the process that folds it."""


class TrialError(PermanentError):
    """Batches cannot be tried in another process, so nothing is known of them."""

    code = "trial"


@dataclass(frozen=True, slots=True)
class Safe:
    """So many events from the cursor on can be folded."""

    events: int


@dataclass(frozen=True, slots=True)
class Fatal:
    """The event at the cursor, or its whole entry, ends whatever process folds it; `how` in words."""

    how: str
    whole_entry: bool = False


Verdict: TypeAlias = Safe | Fatal


@dataclass(frozen=True, slots=True)
class _Died:
    how: str


@dataclass(frozen=True, slots=True)
class Tried:
    """What is tried: the handler by the name of its factory, and what its folds depend on."""

    factory: str
    recipe: str
    partition: int
    budget: int


@dataclass(slots=True)
class _Watch:
    """What is known of the events from `cursor` on, in their order.

    `left` of them are tried first; the first `deadly` of them ended a process, the first `safe` did not.
    """

    cursor: Cursor
    left: int = 0
    deadly: int = 0
    safe: int = 0


class Quarantine:
    """Of one unit: tells which events are safe, by trying them; not for two tasks at once.

    Args:
        tried: What is tried; without a factory nothing is ever watched.
        timeout_s: Seconds until a process counts as dead.
        turn: Held by whoever of a worker tries something: after an outage many units may have to, and cores are few.
    """

    def __init__(self, tried: Tried, timeout_s: float, turn: anyio.Lock) -> None:
        self.trials = 0
        """Processes started."""
        self._tried = tried
        self._timeout_s = timeout_s
        self._turn = turn
        self._watch: _Watch | None = None
        self._days = ALL_DAYS

    @property
    def watches(self) -> bool:
        """Whether the next batch must be examined."""
        return self._watch is not None

    def begin(self, cursor: Cursor, starts: int, days: Days = ALL_DAYS) -> None:
        """Note that the unit begins at a cursor from which so many owners have begun, this one included.

        It folds events of `days` alone: others are not tried either.
        """
        self._days = days
        watch = self._watch
        if watch and watch.cursor == cursor and (watch.left or watch.safe):
            return
        is_watched = starts >= OWNERS and bool(self._tried.factory)
        self._watch = _Watch(cursor) if is_watched else None

    def committed(self, cursor: Cursor, events: int) -> None:
        """Note that the cursor moved over so many events."""
        watch = self._watch
        if watch is None:
            return
        left = watch.left - events
        self._watch = _Watch(cursor, left, max(0, watch.deadly - events)) if left > 0 else None

    async def examine(self, entries: Sequence[StoredEntry], most_events: int) -> Verdict:
        """Try events from the cursor on, fewer and fewer until some are safe or the first alone is fatal.

        Args:
            entries: From the cursor on, at least one.
            most_events: Of a batch; at least 1.

        Raises:
            TrialError: A process that folds nothing ends too, or none can be started.
        """
        watch = self._watch
        assert watch is not None
        if watch.safe:
            return Safe(min(watch.safe, most_events))
        events = min(most_events, _waiting(entries, watch.cursor), watch.left or most_events)
        if watch.deadly:
            events = min(events, max(1, watch.deadly // 2))
        while True:
            found = await self._trial(entries, events)
            if isinstance(found, Safe):
                return found
            if not watch.left:
                await self._control([])
            watch.left = max(watch.left, events)
            watch.deadly = events
            if events == 1:
                return await self._convict(entries[:1])
            events //= 2

    async def _convict(self, entry: Sequence[StoredEntry]) -> Verdict:
        """Tell whether the first event, which has ended one process, is to be blamed, or its entry."""
        watch = self._watch
        assert watch is not None
        if isinstance(await self._trial(entry, 0), Safe):
            again = await self._trial(entry, 1)
            if isinstance(again, Safe):
                return again
            await self._control(entry)
            return Fatal(again.how)
        await self._control([])
        again = await self._trial(entry, 0)
        if isinstance(again, Safe):
            raise self._in_doubt("a process that only decodes an entry ended once, and once it did not")
        await self._control([])
        if watch.cursor.index:
            raise self._in_doubt("an entry that was decoded before ends processes that decode it")
        return Fatal(again.how, whole_entry=True)

    async def _control(self, entries: Sequence[StoredEntry]) -> None:
        """Make sure that a process which folds nothing survives."""
        found = await self._trial(entries, 0)
        if isinstance(found, _Died):
            raise self._in_doubt(f"a process that folds nothing ends too ({found.how})")

    def _in_doubt(self, why: str) -> TrialError:
        """Forget what deaths seemed to prove."""
        if self._watch:
            self._watch = _Watch(self._watch.cursor)
        return TrialError(
            f"its cursor stood still over several workers, and what waits cannot be tried in another process: {why}; "
            "nothing is blamed, nothing moves. To go on without trials, set `starts` of its cursor to 0 (docs/state.md)"
        )

    async def _trial(self, entries: Sequence[StoredEntry], events: int) -> Safe | _Died:
        watch, tried = self._watch, self._tried
        assert watch is not None
        sent = entries[: _entries_of(entries, watch.cursor, events)] if events else entries
        request = Request(
            tried.partition,
            sent,
            watch.cursor,
            events,
            tried.budget,
            tried.recipe,
            ceil(2 * self._timeout_s),
            self._days,
        )
        async with self._turn:
            found = await self._run(msgspec.msgpack.encode(request))
        if isinstance(found, _Died):
            return found
        if found.unfit:
            raise self._in_doubt(found.unfit)
        if not events:
            return Safe(0)
        # A fold that takes nothing is a fault of the handler; the unit says so when it folds the batch itself.
        watch.safe = found.events or events
        return Safe(watch.safe)

    async def _run(self, request: bytes) -> Answer | _Died:
        """Let a fresh interpreter answer, within the time."""
        # `-P`: the path is the worker's own, as it is here, and not the folder that it was started in.
        command = [sys.executable, "-P", "-m", "consumers.runtime.trial", self._tried.factory]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        self.trials += 1
        with anyio.move_on_after(self._timeout_s):
            try:
                process = await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=None, env=environ)
            except OSError as error:
                raise self._in_doubt(f"no process can be started ({error})") from error
            async with process:
                return await _outcome(process, request)
        return _Died(f"no answer within {self._timeout_s:g} s")


async def _outcome(process: Process, request: bytes) -> Answer | _Died:
    assert process.stdin is not None
    assert process.stdout is not None
    # It may end before it has read everything; its exit code says so.
    with suppress(OSError, anyio.BrokenResourceError):
        await process.stdin.send(request)
        await process.stdin.aclose()
    said = b"".join([chunk async for chunk in process.stdout])
    code = await process.wait()
    if code < 0:
        return _Died(_signal_name(-code))
    if code or not said:
        return _Died(f"exit code {code}")
    return msgspec.msgpack.decode(said, type=Answer)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _waiting(entries: Sequence[StoredEntry], cursor: Cursor) -> int:
    """Return how many events these entries hold behind the cursor."""
    return sum(_count(entry, cursor) for entry in entries)


def _entries_of(entries: Sequence[StoredEntry], cursor: Cursor, events: int) -> int:
    """Return how many entries hold the first `events` of them."""
    held = 0
    for number, entry in enumerate(entries, 1):
        held += _count(entry, cursor)
        if held >= events:
            return number
    return len(entries)


def _count(entry: StoredEntry, cursor: Cursor) -> int:
    return entry.count - (cursor.index if entry.entry_id == cursor.entry_id else 0)
