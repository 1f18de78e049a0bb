"""Dead letters, tried again in place: a handler takes their events as it takes those of the stream.

Keeps:
- Each letter goes in the script that counts its events, or stays: whoever comes second finds it taken (XDEL is the
  token). Nothing is ever added to the stream again.
- The cursor does not move. The state's token does, so a worker at work on the unit reads anew once a batch.
- A sink delivers again before its letter goes: at least once, under the same identity.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio

from consumers.contract import Slice
from consumers.folding import Folded
from consumers.letters import WHOLE_ENTRY, DeadLetter, frame_of, letter_of_bad_event
from consumers.payload import OverflowingError
from consumers.runtime.committing import Commit, Committer, Standing, new_token, parse_standing
from consumers.runtime.effects import UNLIMITED, Effect
from consumers.runtime.remembered import Remembered, StateChangedError
from consumers.runtime.unit import OlderRecipeError
from consumers.versions import Days
from pipeline.connection import AsyncServer
from pipeline.errors import RefusedError, TransientError, WireError
from pipeline.keys import LIVE_VERSION, PartitionKeys
from pipeline.stream import parse_entries
from pipeline.wire import Frame, FrameDecoder, StoredEntry

AT_ONCE: Final = 100
"""Letters of one commit: each commit makes the unit's worker read its values anew."""

_TRIES: Final = 100
"""How often a batch is begun again because a worker has committed meanwhile: for about ten seconds."""

_PAUSE_S: Final = 0.1
"""Between two tries at the longest, by the dice: two who retry at once would meet again and again."""


@dataclass(slots=True)
class Retried:
    """What became of letters: taken (their events count now), or why not, by letter id."""

    taken: list[str] = field(default_factory=list[str])
    events: int = 0
    still: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class _Candidate:
    """A letter that can be read: its events, as a slice of a frame of its own."""

    letter_id: str
    letter: DeadLetter
    piece: Slice


class Retrier:
    """Retries dead letters of one unit.

    Args:
        server: Where they are.
        partition: The unit's partition.
        effect: The handler, as a worker would have it.
        version: Of the state.
    """

    def __init__(
        self, server: AsyncServer, partition: PartitionKeys, effect: Effect, version: int = LIVE_VERSION
    ) -> None:
        self._server = server
        self._partition = partition
        self._effect = effect
        self._keys = partition.unit(effect.name, version)
        self._committer = Committer(server, partition, self._keys, effect)
        self._decoder = FrameDecoder()

    async def retry(self, letters: Sequence[tuple[str, DeadLetter]], result: Retried | None = None) -> Retried:
        """Retry letters, given with their ids; return what became of them, added to `result`.

        Raises:
            RefusedError: The state is computed by another recipe than this program's.
            SidestreamError: See `AsyncServer.call`; what was committed before stays.
        """
        result = Retried() if result is None else result
        candidates = await self._candidates(letters, result)
        single = [candidate for candidate in candidates if candidate.letter.index != WHOLE_ENTRY]
        for first in range(0, len(single), AT_ONCE):
            await self._batch(single[first : first + AT_ONCE], result)
        for candidate in candidates:
            if candidate.letter.index == WHOLE_ENTRY:
                await self._batch([candidate], result)
        return result

    async def _batch(self, waiting: Sequence[_Candidate], result: Retried) -> None:
        for tries in range(_TRIES):
            if tries:
                await anyio.sleep(random.uniform(0, min(_PAUSE_S, 0.002 * tries)))  # noqa: S311 - jitter, no secret
            standing = await self._standing()
            folded = await self._effect.apply([_of_days(one.piece, standing.days) for one in waiting], UNLIMITED)
            failed = {(letter.entry_id, letter.index): letter for letter in folded.dead}
            good = [c for c in waiting if (c.letter.entry_id, c.letter.index) not in failed]
            try:
                answer = await self._commit(standing, good, folded) if good else "OK"
            except OverflowingError as error:
                await self._one_by_one(waiting, error, result)
                return
            if answer == "OK":
                _note(waiting, good, failed, result)
                return
            if answer != "STALE":
                result.still[answer] = "taken: somebody else has retried or purged it"
                waiting = [candidate for candidate in waiting if candidate.letter_id != answer]
        raise TransientError(f"{self._keys.name}: a worker commits without pause; try again later", code="busy")

    async def _one_by_one(self, waiting: Sequence[_Candidate], error: OverflowingError, result: Retried) -> None:
        if len(waiting) == 1:
            result.still[waiting[0].letter_id] = f"overflow: adding it would pass the limit of {error}"
            return
        for candidate in waiting:
            await self._batch([candidate], result)

    async def _candidates(self, letters: Sequence[tuple[str, DeadLetter]], result: Retried) -> list[_Candidate]:
        found: list[_Candidate] = []
        for letter_id, letter in letters:
            try:
                frame = await self._frame(letter)
            except WireError as error:
                result.still[letter_id] = f"{error.code}: {error}"
                continue
            if letter.index == WHOLE_ENTRY:
                found.append(_Candidate(letter_id, letter, Slice(frame, 0, frame.count)))
            elif bad := frame.bad.get(letter.index):
                result.still[letter_id] = f"{bad.code}: {bad.reason}"
            else:
                found.append(_Candidate(letter_id, letter, Slice(frame, letter.index, letter.index + 1)))
        return found

    async def _frame(self, letter: DeadLetter) -> Frame:
        """Decode what a letter carries, or where that was too large to keep, what the stream still has.

        Raises:
            WireError: Neither can be read.
        """
        if letter.body or not (stored := await self._stored(letter)):
            return frame_of(letter, self._decoder)
        return self._decoder.decode(stored.parse())

    async def _stored(self, letter: DeadLetter) -> StoredEntry | None:
        reply = await self._server.call("XRANGE", self._partition.stream(), letter.entry_id, letter.entry_id)
        entries = parse_entries(reply)
        return entries[0] if entries else None

    async def _standing(self) -> Standing:
        flat = await self._server.call("HGETALL", self._keys.cursor())
        if not flat:
            raise RefusedError(f"{self._keys.name}, partition {self._partition.number}: the handler has never run here")
        return parse_standing(flat)

    async def _commit(self, standing: Standing, good: Sequence[_Candidate], folded: Folded) -> str:
        """Count what was folded, and take the letters away; return OK, STALE, or the id of one that is gone."""
        state = Remembered(self._server, self._keys, standing.token)
        try:
            payload = await self._committer.payload(state, folded.delta)
        except StateChangedError:
            return "STALE"
        events = sum(candidate.letter.events for candidate in good)
        commit = Commit(
            "letters",
            standing.cursor,
            standing.cursor,
            events,
            _new_letters(good, folded),
            known=sum(len(c.piece.frame.known) for c in good if c.letter.index == WHOLE_ENTRY),
            taken=[candidate.letter_id for candidate in good],
            taken_events=events,
        )
        answer, rest = await self._committer.commit(commit, payload, standing.token, new_token())
        match answer:
            case "OK" | "STALE":
                return answer
            case "TAKEN":
                return rest[0].decode()
            case "RECIPE":
                raise OlderRecipeError(
                    f"{self._keys.name}: the state is computed by another recipe than this program's; "
                    "retry from the version that its workers run"
                )
            case _:
                raise RefusedError(f"{self._keys.name}: the commit script refused its arguments: {answer} {rest}")


def _of_days(piece: Slice, days: Days) -> Slice:
    return Slice(piece.frame, piece.start, piece.stop, *days.as_us())


def _note(
    waiting: Sequence[_Candidate],
    good: Sequence[_Candidate],
    failed: Mapping[tuple[str, int], DeadLetter],
    result: Retried,
) -> None:
    for candidate in good:
        result.taken.append(candidate.letter_id)
        result.events += candidate.letter.events
    for candidate in waiting:
        again = failed.get((candidate.letter.entry_id, candidate.letter.index))
        if again is not None:
            result.still[candidate.letter_id] = f"{again.code}: {again.reason}"


def _new_letters(good: Sequence[_Candidate], folded: Folded) -> list[DeadLetter]:
    """Return letters for what of whole entries, that can be read now, still cannot be taken."""
    whole = {c.letter.entry_id: c.piece.frame for c in good if c.letter.index == WHOLE_ENTRY}
    bad = [letter_of_bad_event(frame, index) for frame in whole.values() for index in sorted(frame.bad)]
    return bad + [letter for letter in folded.dead if letter.entry_id in whole]
