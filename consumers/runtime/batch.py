"""A batch: entries read from a cursor, what of them can be folded, and the cursor behind what was taken.

Pure: the same entries and outcome give the same commit.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from consumers.contract import Slice
from consumers.folding import Folded
from consumers.letters import DeadLetter, letter_of_bad_event, letter_of_entry
from consumers.versions import Days
from pipeline.errors import WireError
from pipeline.wire import Frame, FrameDecoder, StoredEntry

CACHED_FRAMES: Final = 96
"""Decoded frames kept at most for the handlers that have not seen them: of full ones some 50 MiB."""


class Cursor(Struct, frozen=True):
    """Where a unit stands: `entry_id` was read up to event `index`, or to its end where `index` is 0.

    `done` is the last entry that was taken whole.
    """

    entry_id: str
    index: int
    done: str


class Decoder:
    """Decodes entries; a frame is kept until each of the handlers that read it has had it, or others need the room.

    Args:
        readers: How many handlers read each partition through this decoder.
    """

    def __init__(self, readers: int = 1) -> None:
        self._decoder = FrameDecoder()
        self._others = readers - 1
        self._kept: OrderedDict[tuple[int, str, tuple[bytes, bytes]], tuple[Frame | WireError, int]] = OrderedDict()
        """(partition, entry id, identity) -> what the entry is, and how many are still to have it."""

    def decode(self, partition: int, entry: StoredEntry) -> Frame | WireError:
        """Return the entry's frame, or why there is none."""
        key = (partition, entry.entry_id, entry.identity())
        found, others = self._kept.pop(key, (None, self._others + 1))
        if found is None:
            found = self._decode(entry)
        if others > 1:
            self._kept[key] = found, others - 1
            if len(self._kept) > CACHED_FRAMES:
                self._kept.popitem(last=False)
        return found

    def _decode(self, entry: StoredEntry) -> Frame | WireError:
        try:
            return self._decoder.decode(entry.parse())
        except WireError as error:
            return error


@dataclass(frozen=True, slots=True)
class Portion:
    """One entry of a batch: its frame from event `start` on, or why it cannot be read."""

    entry: StoredEntry
    frame: Frame | WireError
    start: int
    stop: int

    def known_before(self, stop: int) -> int:
        """Return how many events from `start` to `stop` were counted when they were first here (backfill)."""
        if isinstance(self.frame, WireError) or not self.frame.known:
            return 0
        return sum(self.start <= index < stop for index in self.frame.known)


@dataclass(slots=True)
class Outcome:
    """What a commit is told besides the values."""

    cursor: Cursor
    last: StoredEntry
    entries: int = 0
    events: int = 0
    foreign: int = 0
    known: int = 0
    dead: list[DeadLetter] = field(default_factory=list[DeadLetter])

    @property
    def dead_events(self) -> int:
        """Events that the dead letters stand for."""
        return sum(letter.events for letter in self.dead)


def portions_of(
    entries: Sequence[StoredEntry], cursor: Cursor, decoder: Decoder, partition: int, most_events: int
) -> list[Portion]:
    """Decode entries from the cursor on, up to `most_events` events (at least one entry)."""
    found: list[Portion] = []
    room = most_events
    for entry in entries:
        if room <= 0:
            break
        frame = decoder.decode(partition, entry)
        start = cursor.index if entry.entry_id == cursor.entry_id else 0
        end = entry.count if isinstance(frame, WireError) else frame.count
        stop = end if isinstance(frame, WireError) else min(end, start + room)
        found.append(Portion(entry, frame, start, stop))
        room -= stop - start
    return found


def slices_of(portions: Sequence[Portion], days: Days) -> list[Slice]:
    """Return what of a batch a handler can look at, and is to."""
    since_us, until_us = days.as_us()
    return [Slice(p.frame, p.start, p.stop, since_us, until_us) for p in portions if isinstance(p.frame, Frame)]


def outcome_of(portions: Sequence[Portion], folded: Folded, before: Cursor) -> Outcome | None:
    """Return what to commit after a handler took `folded` of a batch; None if it took nothing."""
    outcome: Outcome | None = None
    done, taken = before.done, 0
    for portion in portions:
        entry_id = portion.entry.entry_id
        if isinstance(portion.frame, WireError):
            stop, whole = portion.stop, True
            dead = [_unreadable(portion, portion.frame)]
        else:
            stop = portion.stop if taken < folded.whole else max(folded.stop, portion.start)
            whole = stop == portion.frame.count
            dead = [
                letter_of_bad_event(portion.frame, index)
                for index in range(portion.start, stop)
                if index in portion.frame.bad
            ]
            taken += 1
        if stop == portion.start and not whole:
            break
        done = entry_id if whole else done
        outcome = outcome or Outcome(before, portion.entry, dead=list(folded.dead))
        outcome.cursor = Cursor(entry_id, 0 if whole else stop, done)
        outcome.last = portion.entry
        outcome.entries += whole
        outcome.events += stop - portion.start
        outcome.foreign += (stop - portion.start) * portion.entry.foreign
        outcome.known += portion.known_before(stop)
        outcome.dead += dead
        if taken > folded.whole:
            break
    return outcome


def _unreadable(portion: Portion, error: WireError) -> DeadLetter:
    try:
        entry = portion.entry.parse()
    except WireError:
        entry = None
    return letter_of_entry(portion.entry.entry_id, portion.stop - portion.start, error, entry)
