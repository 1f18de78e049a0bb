"""A unit: one handler, one partition, one version of the state. It reads from its cursor, applies, and commits.

Keeps:
- The cursor is the commit: whatever another worker does meanwhile, a batch is applied once or not at all.
- A commit sets values that are made from what the unit remembers; it counts only while the state's token is the one
  under which that was read or written.
- After anything unclear (no answer, STALE, GONE) the unit forgets what it believed and asks Redis for its cursor.
- Where others have begun and committed nothing, it folds nothing that the quarantine has not tried.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import anyio

from consumers.folding import Folded
from consumers.letters import BUDGET_BYTES, WHOLE_ENTRY, DeadLetter, letter_of_event
from consumers.payload import OverflowingError, Payload, PayloadBuilder
from consumers.runtime.batch import Cursor, Decoder, Outcome, Portion, outcome_of, portions_of, slices_of
from consumers.runtime.effects import VALUE_BUDGET, Effect
from consumers.runtime.quarantine import FATAL, TIMEOUT_S, Fatal, Quarantine, Tried
from consumers.runtime.remembered import Remembered, StateChangedError
from consumers.state import Delta
from pipeline.connection import Arg, AsyncServer
from pipeline.errors import PermanentError, RefusedError, WireError
from pipeline.keys import LIVE_VERSION, PartitionKeys
from pipeline.scripting import script
from pipeline.stream import StoredEntry, read_after, wait_after
from pipeline.wire import Frame

log = logging.getLogger("sidestream.worker")

READ_ENTRIES: Final = 64
"""Entries of one read: at most 32,000 events, and 64 MiB in the worst case."""

MOST_EVENTS: Final = 20_000
"""Events of one batch, so that a batch of few cells still commits within tens of milliseconds."""

MAX_REASON_BYTES: Final = 1_000
"""Bytes of the sentence that a dead letter keeps."""

_FIXED_KEYS: Final = 3


class OlderRecipeError(PermanentError):
    """Another worker has replaced the recipe this one has; it must not go on with the old one."""

    code = "older_recipe"


def new_token() -> str:
    """Return a name for a state that there was never before."""
    return os.urandom(16).hex()


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
    seconds, and one at a time has its turn.
    """

    decoder: Decoder = field(default_factory=Decoder)
    version: int = LIVE_VERSION
    adopt_recipe: bool = False
    owner: str = field(default_factory=new_token)
    trial_timeout_s: float = TIMEOUT_S
    trial_turn: anyio.Lock = field(default_factory=anyio.Lock)


@dataclass(slots=True)
class _Position:
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
        self._position: _Position | None = None
        self._most_events = MOST_EVENTS
        tried = Tried(effect.factory, effect.recipe()[0], partition.number, VALUE_BUDGET)
        self._quarantine = Quarantine(tried, options.trial_timeout_s, options.trial_turn)

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
            self.effect.kind,
            self.effect.start,
            recipe_hash,
            recipe,
            self.group,
            replaced,
            new_token(),
            self._options.owner,
        ]
        answer, flat = await self._server.run(script("declare"), keys, args)
        if answer == b"DROPPED":
            raise RefusedError(f"{self.keys.name}, partition {self.partition.number}: this version is being dropped")
        stored, token = cursor_from(flat), token_from(flat)
        if answer == b"OLDER":
            raise OlderRecipeError(
                f"{self.keys.name}, partition {self.partition.number}: a worker with a newer recipe has taken over; "
                "upgrade this worker, or roll back on purpose with `sidestream worker --adopt-recipe`"
            )
        self._position = _Position(stored, Remembered(self._server, self.keys, token))
        self._begin(stored, starts_from(flat))
        return stored

    def _begin(self, cursor: Cursor, starts: int) -> None:
        watched = self._quarantine.watches
        self._quarantine.begin(cursor, starts)
        if self._quarantine.watches and not watched:
            about = {**self._about(), "workers": starts}
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
            entries = await self._entries(position.cursor, block_ms)
            if not entries:
                return 0
            if self._quarantine.watches:
                return await self._take_carefully(position, entries)
            return await self._take(position, entries, self._most_events)
        except BaseException:
            self._position = None
            raise

    async def _take(self, position: _Position, entries: Sequence[StoredEntry], most_events: int) -> int:
        portions = self._portions(position, entries, most_events)
        folded = await self.effect.apply(slices_of(portions))
        return await self._commit(position, portions, folded)

    async def _take_carefully(self, position: _Position, entries: Sequence[StoredEntry]) -> int:
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

    async def _set_aside(self, position: _Position, portion: Portion, letter: DeadLetter) -> int:
        """Commit the first event of a portion alone, as a dead letter."""
        alone = Portion(portion.entry, portion.frame, portion.start, portion.start + 1)
        return await self._commit(position, [alone], Folded(Delta(), [letter], whole=1))

    def _portions(self, position: _Position, entries: Sequence[StoredEntry], most_events: int) -> list[Portion]:
        return portions_of(entries, position.cursor, self._options.decoder, self.partition.number, most_events)

    async def _entries(self, cursor: Cursor, block_ms: int | None) -> Sequence[StoredEntry]:
        if cursor.index or block_ms is None:
            inclusive = cursor.index > 0
            return await read_after(
                self._server, self.partition, cursor.entry_id, inclusive=inclusive, most=READ_ENTRIES
            )
        return await wait_after(self._server, self.partition, cursor.entry_id, block_ms=block_ms, most=READ_ENTRIES)

    async def _commit(self, position: _Position, portions: Sequence[Portion], folded: Folded) -> int:
        outcome = outcome_of(portions, folded, position.cursor)
        if outcome is None:
            raise RefusedError(f"{self.keys.name} took no event of a batch; a handler must take at least one")
        token = new_token()
        try:
            payload = await self._payload(position.state, folded.delta)
        except OverflowingError as error:
            return await self._narrow(position, portions, outcome, error)
        except StateChangedError:
            return self._refused("STALE", [])
        keys = [self.partition.stream(), self.keys.cursor(), self.keys.dead_letters(), *payload.keys]
        args = self._commit_args(position, token, outcome)
        answer, *rest = cast("list[Any]", await self._server.run(script("commit"), keys, [*args, *payload.arguments]))
        if answer != b"OK":
            return self._refused(answer.decode(), rest)
        position.state.learn(payload, token)
        self._position = _Position(outcome.cursor, position.state)
        self._most_events = MOST_EVENTS
        self._quarantine.committed(outcome.cursor, outcome.events)
        self._count(outcome, int(rest[0]))
        if int(rest[1]) > payload.created:
            log.warning("Keys of the state were deleted from outside; values are made whole again", extra=self._about())
            self._position = None
        return outcome.events

    def _about(self) -> dict[str, str | int]:
        return {"unit": self.keys.name, "partition": self.partition.number}

    async def _payload(self, state: Remembered, delta: Delta) -> Payload:
        effect = self.effect
        builder = PayloadBuilder(self.keys, delta, state.known, effect.caps, effect.ranked_by)
        await state.load_days(builder.days())
        await state.load(*builder.missing())
        return builder.build(_FIXED_KEYS + 1)

    def _commit_args(self, position: _Position, token: str, outcome: Outcome) -> list[Arg]:
        before = position.cursor
        producer, first_seq = outcome.last.identity()
        dead = outcome.dead_events
        return [
            before.entry_id,
            before.index,
            outcome.cursor.entry_id,
            outcome.cursor.index,
            outcome.cursor.done,
            outcome.entries,
            producer,
            first_seq,
            "stream",
            self.effect.recipe()[0],
            self.group,
            outcome.events - dead,
            0,
            outcome.foreign,
            dead,
            position.state.token,
            token,
            BUDGET_BYTES,
            len(outcome.dead),
            *(part for letter in outcome.dead for part in letter_args(letter)),
            0,
            0,
        ]

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
        self, position: _Position, portions: Sequence[Portion], outcome: Outcome, error: OverflowingError
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


def cursor_from(flat: Sequence[bytes]) -> Cursor:
    """Read a cursor from its hash as a flat list."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Cursor(fields[b"id"].decode(), int(fields[b"index"]), fields[b"done"].decode())


def token_from(flat: Sequence[bytes]) -> str:
    """Read the token of the state from a cursor's hash as a flat list.

    Raises:
        RefusedError: There is none: what has written this cursor knows no tokens.
    """
    token = dict(zip(flat[::2], flat[1::2], strict=True)).get(b"token")
    if token is None:
        raise RefusedError(
            "the cursor has no token: an earlier Sidestream wrote this state in another layout; "
            "`sidestream handler retire` removes it, and a worker then counts anew what the stream retains"
        )
    return token.decode()


def starts_from(flat: Sequence[bytes]) -> int:
    """Read how many owners have begun from a cursor, one after another, from its hash as a flat list."""
    return int(dict(zip(flat[::2], flat[1::2], strict=True)).get(b"starts", b"0"))


def letter_args(letter: DeadLetter) -> list[Arg]:
    """Return a dead letter as the commit script takes it."""
    reason = letter.reason.encode("utf-8", "replace")[:MAX_REASON_BYTES]
    return [
        letter.entry_id,
        letter.index,
        letter.events,
        letter.code,
        reason,
        letter.producer,
        letter.first_seq,
        letter.codec,
        letter.body,
    ]
