"""Values that cost something to read, read once for everybody who looks.

Keeps:
- A value is read at most once in `every_s`, and while others ask for it meanwhile they get the same.
- All values together are read for at most a tenth of the time, however many pages are open and whatever they show: what
  takes longer is read more rarely. Nothing is read while nobody looks.
- One value is read at a time; at most `most` are kept, and none that nobody has asked for lately.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar, cast

import anyio

from pipeline.errors import SidestreamError

EVERY_S: Final = 1.0
"""People do not read faster, and the metrics of a second ago are not committed much earlier."""

SHARE: Final = 10
"""Reading takes at most one part in so many of the time."""

_ASKED_LATELY_S: Final = 30.0
"""What nobody has asked for in this time does not count among what is read."""

_FORGOTTEN_S: Final = 120.0
"""A value that nobody has asked for in this time is let go: those of a day with 1,000 cells take 100 MB."""

_MOST: Final = 16

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Held(Generic[_Value]):
    """A value that was read, and how old it is.

    Where it could not be read anew, `error` says why and `value` is the last one, read `age_s` ago.
    """

    value: _Value
    age_s: float
    every_s: float
    error: SidestreamError | None = None
    stamp: int = 0
    """Another one as soon as it was read anew, or could not be."""


@dataclass(slots=True)
class _Slot:
    value: object = None
    read_at_s: float = 0.0
    tried_at_s: float | None = None
    asked_at_s: float = 0.0
    took_s: float = 0.0
    error: SidestreamError | None = None
    stamp: int = 0
    has_value: bool = False


@dataclass(slots=True)
class Shared:
    """Values by key, each read by whoever asks first."""

    clock: Callable[[], float] = time.monotonic
    every_s: float = EVERY_S
    share: int = SHARE
    most: int = _MOST
    _slots: OrderedDict[Hashable, _Slot] = field(default_factory=OrderedDict[Hashable, _Slot])
    _stamps: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def get(self, key: Hashable, read: Callable[[], Awaitable[_Value]]) -> Held[_Value]:
        """Return the value of a key, read now if it is due.

        Raises:
            SidestreamError: It cannot be read, and never was.
        """
        slot = self._slots.setdefault(key, _Slot())
        self._slots.move_to_end(key)
        slot.asked_at_s = self.clock()
        self._forget(slot.asked_at_s)
        if self._is_due(slot):
            async with self._lock:
                # Whoever had the lock may have read it meanwhile.
                if self._is_due(slot):
                    await self._read(slot, read)
        if not slot.has_value:
            assert slot.error is not None
            raise slot.error
        return Held(
            cast("_Value", slot.value), self.clock() - slot.read_at_s, self.interval_s(), slot.error, slot.stamp
        )

    def _forget(self, now_s: float) -> None:
        """Let go of what was asked for longest ago: it stands first."""
        while True:
            oldest = next(iter(self._slots.values()))
            if len(self._slots) <= self.most and now_s - oldest.asked_at_s <= _FORGOTTEN_S:
                return
            self._slots.popitem(last=False)

    def _is_due(self, slot: _Slot) -> bool:
        return slot.tried_at_s is None or self.clock() - slot.tried_at_s >= self.interval_s()

    def interval_s(self) -> float:
        """Return the time between two reads of a value: `every_s`, or longer where reading is slow."""
        now_s = self.clock()
        lately = [slot.took_s for slot in self._slots.values() if now_s - slot.asked_at_s <= _ASKED_LATELY_S]
        return max(self.every_s, self.share * sum(lately))

    async def _read(self, slot: _Slot, read: Callable[[], Awaitable[_Value]]) -> None:
        started_s = self.clock()
        try:
            value = await read()
        except SidestreamError as error:
            # How long it took to fail says nothing about the next time.
            if slot.error is None:
                slot.stamp = next(self._stamps)
            slot.error = error
        else:
            slot.value, slot.read_at_s, slot.error, slot.has_value = value, self.clock(), None, True
            slot.stamp = next(self._stamps)
            slot.took_s = self.clock() - started_s
        slot.tried_at_s = self.clock()
