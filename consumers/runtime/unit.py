"""A unit: one handler, one partition, one version of the state. It reads from its cursor, applies, and commits.

Keeps:
- The cursor is the commit: whatever another worker does meanwhile, a batch is applied once or not at all.
- A commit sets values that are made from what the unit remembers; it counts only while the state's token is the one
  under which that was read or written.
- After anything unclear (no answer, STALE, GONE) the unit forgets what it believed and asks Redis for its cursor.
- Where others have begun and committed nothing, it folds nothing that the quarantine has not tried.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio

from consumers.folding import Folded
from consumers.letters import WHOLE_ENTRY, DeadLetter, letter_of_event
from consumers.payload import OverflowingError
from consumers.runtime.batch import Cursor, Decoder, Outcome, Portion, outcome_of, portions_of, slices_of
from consumers.runtime.committing import Commit, Committer, Source, Standing, new_token, parse_standing
from consumers.runtime.effects import VALUE_BUDGET, Effect, Start
from consumers.runtime.quarantine import FATAL, TIMEOUT_S, Fatal, Quarantine, Tried
from consumers.runtime.remembered import Remembered, StateChangedError
from consumers.state import Delta
from consumers.versions import ALL_DAYS, Days
from pipeline.connection import Arg, AsyncServer
from pipeline.errors import PermanentError, RefusedError, WireError
from pipeline.keys import LIVE_VERSION, PartitionKeys
from pipeline.scripting import script
from pipeline.stream import read_after, wait_after
from pipeline.wire import Frame, StoredEntry

log = logging.getLogger("sidestream.worker")

READ_ENTRIES: Final = 64
"""Entries of one read: at most 32,000 events, and 64 MiB in the worst case."""

MOST_EVENTS: Final = 10_000
"""Events of one batch: some 10 MiB decoded, and of few cells too it commits within tens of milliseconds."""


class OlderRecipeError(PermanentError):
    """Another worker has replaced the recipe this one has; it must not go on with the old one."""

    code = "older_recipe"


class DroppedError(RefusedError):
    """The unit is of a version that has been dropped: it is no unit any more."""

    code = "dropped"


@dataclass(slots=True)
class UnitStatistics:
    """What a unit did in this process."""

    events: int = 0
    commits: int = 0
    stale: int = 0
    gone: int = 0
    dead: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class UnitOptions:
    """What units of one worker share: a decoder, the state's version, and whether to take over from a newer recipe.

    `owner` names the worker, as no other is or was ever named. A process that tries a batch has `trial_timeout_s`
    seconds, and one at a time has its turn. `most_events` makes batches smaller than `MOST_EVENTS`.
    """

    decoder: Decoder = field(default_factory=Decoder)
    version: int = LIVE_VERSION
    adopt_recipe: bool = False
    owner: str = field(default_factory=new_token)
    trial_timeout_s: float = TIMEOUT_S
    trial_turn: anyio.Lock = field(default_factory=anyio.Lock)
    most_events: int | None = None


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a cursor begins: at the oldest entry of the stream, at its end, or with the archive; what it counts.

    The archive's first entry is of `first_ms` (none: ""), and it was passed by `skipped` events; see `Standing` for
    `archived` and `archived_since_ms`. `born` names the version, as none ever was named. `kind` says what trimming
    makes of the unit, where that is not the effect's kind.
    """

    start: Start | Literal["archive"]
    days: Days = ALL_DAYS
    first_ms: int | Literal[""] = ""
    skipped: int = 0
    archived: str = ""
    archived_since_ms: int = 0
    born: str = ""
    kind: str = ""


@dataclass(slots=True)
class Position:
    """Where the unit stands, and what it remembers of the state there."""

    cursor: Cursor
    state: Remembered


class Unit:
    """Carries one handler through one partition, a step at a time; not for two tasks at once."""

    def __init__(self, server: AsyncServer, partition: PartitionKeys, effect: Effect, options: UnitOptions) -> None:
        self.partition = partition
        self.effect = effect
        self.keys = partition.unit(effect.name, options.version)
        self.statistics = UnitStatistics()
        self._server = server
        self._options = options
        self._position: Position | None = None
        self._days = ALL_DAYS
        self._most_events = self._usual_events
        self._committer = Committer(server, partition, self.keys, effect)
        tried = Tried(effect.factory, effect.recipe()[0], partition.number, VALUE_BUDGET)
        self._quarantine = Quarantine(tried, options.trial_timeout_s, options.trial_turn)

    @property
    def _usual_events(self) -> int:
        return min(self._options.most_events or MOST_EVENTS, MOST_EVENTS)

    @property
    def trials(self) -> int:
        """How many processes were started to try batches."""
        return self._quarantine.trials

    @property
    def group(self) -> str:
        """The consumer group that mirrors the cursor."""
        return self.keys.name

    async def declare(self) -> Cursor:
        """Make the unit's cursor where there is none, and return it.

        Raises:
            OlderRecipeError: A newer recipe is in force.
            SidestreamError: See `AsyncServer.call`.
        """
        recipe_hash, recipe = self.effect.recipe()
        beginning = await self._beginning()
        keys = [
            self.partition.stream(),
            self.keys.cursor(),
            self.keys.recipes(),
            self.partition.handlers(),
            self.partition.counters(),
        ]
        replaced = "adopt" if self._options.adopt_recipe else "leave"
        args: list[Arg] = [
            self.keys.name,
            beginning.kind or self.effect.kind,
            beginning.start,
            recipe_hash,
            recipe,
            self.group,
            replaced,
            new_token(),
            self._options.owner,
            beginning.days.from_s,
            beginning.days.until_s,
            beginning.first_ms,
            beginning.skipped,
            beginning.archived,
            beginning.archived_since_ms,
            beginning.born,
        ]
        answer, flat = await self._server.run(script("declare"), keys, args)
        if answer == b"DROPPED":
            raise DroppedError(f"{self.keys.name}, partition {self.partition.number}: this version is being dropped")
        if answer == b"OTHER":
            raise RefusedError(
                f"{self.keys.name}, partition {self.partition.number}: another version had this number before the "
                "document of versions was lost; `sidestream replay drop` takes it away"
            )
        standing = parse_standing(flat)
        if answer == b"OLDER":
            raise OlderRecipeError(
                f"{self.keys.name}, partition {self.partition.number}: a worker with a newer recipe has taken over; "
                "upgrade this worker, or roll back on purpose with `sidestream worker --adopt-recipe`"
            )
        known = self._position
        if known is None or (known.cursor, known.state.token) != (standing.cursor, standing.token):
            self._position = Position(standing.cursor, Remembered(self._server, self.keys, standing.token))
        self._begin(standing)
        return standing.cursor

    async def _beginning(self) -> Beginning:
        """Say where a cursor begins that is not there yet."""
        return Beginning(self.effect.start)

    def _begin(self, standing: Standing) -> None:
        self._days = standing.days
        watched = self._quarantine.watches
        self._quarantine.begin(standing.cursor, standing.starts, standing.days)
        if self._quarantine.watches and not watched:
            about = {**self._about(), "workers": standing.starts}
            log.warning(
                "A cursor stood still over several workers; what waits is tried before it is folded", extra=about
            )

    async def step(self, block_ms: int | None = None) -> int:
        """Read, apply and commit one batch; return how many events moved behind the cursor, 0 when there was none.

        Args:
            block_ms: How long to wait for an entry where there is none; None to return at once.

        Raises:
            SidestreamError: Redis or a sink's far side; nothing was counted, or the cursor says that it was.
        """
        if self._position is None:
            await self.declare()
        position = self._position
        assert position is not None
        try:
            return await self._advance(position, block_ms)
        except BaseException:
            self._position = None
            raise

    async def _advance(self, position: Position, block_ms: int | None) -> int:
        entries = await self._entries(position.cursor, block_ms)
        if not entries:
            return 0
        if self._quarantine.watches:
            return await self._take_carefully(position, entries)
        return await self._take(position, entries, self._most_events)

    async def _take(self, position: Position, entries: Sequence[StoredEntry], most_events: int) -> int:
        portions = self._portions(position, entries, most_events)
        folded = await self.effect.apply(slices_of(portions, self._days))
        return await self._commit(position, portions, folded)

    async def _take_carefully(self, position: Position, entries: Sequence[StoredEntry]) -> int:
        """Take what the quarantine has found to be safe, or set aside what it has found to be fatal."""
        found = await self._quarantine.examine(entries, self._most_events)
        if not isinstance(found, Fatal):
            return await self._take(position, entries, found.events)
        reason = f"whatever process folds it ends: {found.how}, twice"
        first = entries[0]
        if found.whole_entry:
            unreadable = Portion(first, WireError(reason, code=FATAL), 0, first.count)
            moved = await self._commit(position, [unreadable], Folded(Delta()))
            return self._told_fatal(moved, first, WHOLE_ENTRY, reason)
        (portion,) = self._portions(position, [first], 1)
        frame = portion.frame
        event = frame.events[portion.start] if isinstance(frame, Frame) else None
        if not isinstance(frame, Frame) or event is None:
            # It is set aside as what cannot be read, without being folded.
            return await self._take(position, [first], 1)
        letter = letter_of_event(frame, portion.start, event, FATAL, reason)
        moved = await self._set_aside(position, portion, letter)
        return self._told_fatal(moved, first, portion.start, reason)

    def _told_fatal(self, moved: int, entry: StoredEntry, index: int, reason: str) -> int:
        if moved:
            about = {**self._about(), "entry": entry.entry_id, "index": index, "reason": reason}
            log.error("An event that ends processes is set aside, as a dead letter", extra=about)
        return moved

    async def _set_aside(self, position: Position, portion: Portion, letter: DeadLetter) -> int:
        """Commit the first event of a portion alone, as a dead letter."""
        alone = Portion(portion.entry, portion.frame, portion.start, portion.start + 1)
        return await self._commit(position, [alone], Folded(Delta(), [letter], whole=1))

    def _portions(self, position: Position, entries: Sequence[StoredEntry], most_events: int) -> list[Portion]:
        return portions_of(entries, position.cursor, self._options.decoder, self.partition.number, most_events)

    async def _entries(self, cursor: Cursor, block_ms: int | None) -> Sequence[StoredEntry]:
        most = min(READ_ENTRIES, self._usual_events)
        if cursor.index or block_ms is None:
            return await read_after(
                self._server, self.partition, cursor.entry_id, inclusive=cursor.index > 0, most=most
            )
        return await wait_after(self._server, self.partition, cursor.entry_id, block_ms=block_ms, most=most)

    async def _commit(self, position: Position, portions: Sequence[Portion], folded: Folded) -> int:
        outcome = outcome_of(portions, folded, position.cursor)
        if outcome is None:
            raise RefusedError(f"{self.keys.name} took no event of a batch; a handler must take at least one")
        try:
            return await self._settle(position, outcome, folded.delta)
        except OverflowingError as error:
            return await self._narrow(position, portions, outcome, error)

    async def _settle(self, position: Position, outcome: Outcome, delta: Delta) -> int:
        """Commit an outcome; return how many events moved, 0 where somebody else was quicker.

        Raises:
            OverflowingError: A sum would pass the limit of a value; nothing was sent.
            SidestreamError: See `AsyncServer.call`; whether it happened, the cursor says.
        """
        try:
            payload = await self._committer.payload(position.state, delta)
        except StateChangedError:
            return self._refused("STALE", [])
        commit = Commit(
            self._source(outcome),
            position.cursor,
            outcome.cursor,
            outcome.events,
            outcome.dead,
            entries=outcome.entries,
            foreign=outcome.foreign,
            known=outcome.known,
            identity=outcome.last.identity(),
        )
        token = new_token()
        answer, rest = await self._committer.commit(commit, payload, position.state.token, token)
        if answer != "OK":
            return self._refused(answer, rest)
        position.state.learn(payload, token)
        self._position = Position(outcome.cursor, position.state)
        self._most_events = self._usual_events
        self._quarantine.committed(outcome.cursor, outcome.events)
        self._count(outcome, int(rest[0]))
        if int(rest[1]) > payload.created:
            log.warning("Keys of the state were deleted from outside; values are made whole again", extra=self._about())
            self._position = None
        return outcome.events

    def _source(self, outcome: Outcome) -> Source:
        del outcome
        return "stream"

    def _about(self) -> dict[str, str | int]:
        return {"unit": self.keys.name, "partition": self.partition.number}

    def _count(self, outcome: Outcome, expired: int) -> None:
        statistics = self.statistics
        statistics.events += outcome.events
        statistics.commits += 1
        statistics.dead += outcome.dead_events
        statistics.expired += expired

    def _refused(self, answer: str, rest: Sequence[Any]) -> int:
        self._position = None
        if answer == "STALE":
            self.statistics.stale += 1
        elif answer == "GONE":
            self.statistics.gone += 1
        elif answer != "RECIPE":
            # After RECIPE the next step declares again, and learns there whether to leave.
            raise RefusedError(f"{self.keys.name}: the commit script refused its arguments: {answer} {rest}")
        return 0

    async def _narrow(
        self, position: Position, portions: Sequence[Portion], outcome: Outcome, error: OverflowingError
    ) -> int:
        """Halve the batch until the event that would overflow stands alone, then set that event aside."""
        if outcome.events > 1:
            self._most_events = outcome.events // 2
            return await self.step()
        portion = portions[0]
        assert isinstance(portion.frame, Frame)
        event = portion.frame.events[portion.start]
        assert event is not None
        reason = f"adding it would pass the limit of {error.measure} in {':'.join(error.place)}"
        letter = letter_of_event(portion.frame, portion.start, event, "overflow", reason)
        return await self._set_aside(position, portion, letter)
