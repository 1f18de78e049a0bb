"""What every fold does alike: walk a batch within its budget, and set aside what it cannot take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from consumers.contract import Slice
from consumers.letters import DeadLetter, letter_of_event
from consumers.recipe import Recipe
from consumers.state import Caps, Delta
from pipeline.events import Event
from pipeline.units import US_PER_MS
from pipeline.wire import Frame

MAX_AHEAD_US: Final = 3600 * 1_000_000
"""An event dated more than an hour after it was appended has a wrong clock: it would open windows in the future."""


class Fold(Protocol):
    """The fold of one batch, under way."""

    delta: Delta

    def add(self, frame: Frame, event: Event) -> None:
        """Take one event; whatever it raises is held against that event."""
        ...

    def close(self) -> None:
        """Add up what was only gathered. It must not raise: nobody would know for which event."""
        ...


@dataclass(slots=True)
class Folded:
    """The result of folding a batch: what it adds, what it could not take, and where it stopped.

    All events of `slices[:whole]` and, of the next slice, those before index `stop` were taken.
    """

    delta: Delta
    dead: list[DeadLetter] = field(default_factory=list[DeadLetter])
    whole: int = 0
    stop: int = 0


class FoldHandler(Protocol):
    """A handler whose effect is state in Redis: a pure fold."""

    name: str
    caps: Caps
    ranked_by: Mapping[str, str]
    """Dimension of a marginal -> the measure that its names are ranked by."""

    def recipe(self) -> Recipe:
        """Return what this fold's result depends on besides the events."""
        ...

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold events until the delta weighs `budget` values; at least one event is always taken."""
        ...


class _PoisonError(Exception):
    """One event made its fold raise: which one, and how."""

    def __init__(self, letter: DeadLetter) -> None:
        super().__init__(letter.reason)
        self.letter = letter


def fold_slices(slices: Sequence[Slice], budget: int, begin: Callable[[], Fold]) -> Folded:
    """Fold a batch, event by event; an event that makes the fold raise is set aside as `poison`.

    The failing event may have added something before it raised, so the batch is folded anew without it.

    Args:
        slices: The batch.
        budget: The weight at which the fold stops, behind at least one event.
        begin: Begins a fold.
    """
    poison: dict[tuple[str, int], DeadLetter] = {}
    while True:
        try:
            return _fold_once(slices, budget, begin(), poison)
        except _PoisonError as error:
            poison[error.letter.entry_id, error.letter.index] = error.letter


def _fold_once(
    slices: Sequence[Slice], budget: int, fold: Fold, poison: Mapping[tuple[str, int], DeadLetter]
) -> Folded:
    result = _walk(slices, budget, fold, poison)
    fold.close()
    return result


def _walk(slices: Sequence[Slice], budget: int, fold: Fold, poison: Mapping[tuple[str, int], DeadLetter]) -> Folded:
    delta, take = fold.delta, fold.add
    result = Folded(delta)
    for piece in slices:
        frame = piece.frame
        latest_us = entry_time_us(frame.entry_id) + MAX_AHEAD_US
        for index, event in piece.events():
            if delta.weight >= budget:
                result.stop = index
                return result
            if poison and (letter := poison.get((frame.entry_id, index))):
                result.dead.append(letter)
            elif event.time_us > latest_us:
                result.dead.append(_wrong_clock(frame, index, event))
            else:
                try:
                    take(frame, event)
                except Exception as error:
                    raise _PoisonError(_poison(frame, index, event, error)) from error
        result.whole += 1
    return result


def _poison(frame: Frame, index: int, event: Event, error: Exception) -> DeadLetter:
    return letter_of_event(frame, index, event, "poison", f"{type(error).__name__}: {error}")


def entry_time_us(entry_id: str) -> int:
    """Return the broker's time (microseconds since 1970) at which an entry was appended, from its id."""
    return int(entry_id.partition("-")[0]) * US_PER_MS


def _wrong_clock(frame: Frame, index: int, event: Event) -> DeadLetter:
    ahead_s = (event.time_us - entry_time_us(frame.entry_id)) // 1_000_000
    reason = f"the event is dated {ahead_s} s after it was appended: check that host's clock"
    return letter_of_event(frame, index, event, "clock", reason)
