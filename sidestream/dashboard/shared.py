"""Values that cost something to read, read once for everybody who looks.

Keeps:
- A value is read at most once in `every_s`, and while others ask for it meanwhile they get the same.
- Values that are held are read for at most a tenth of the time together, however many pages are open: what takes longer
  is read more rarely. What is asked for anew has another tenth, of which `BURST_S` may be used at once. Nothing is read
  while nobody looks.
- One value is read at a time; at most `most` are kept, and none that nobody has asked for lately.
- While Redis is away it is tried once in `AWAY_S`, by one of those who ask; the others get what is held at once.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar, cast

import anyio
import anyio.to_thread

from pipeline.errors import SidestreamError, TransientError, UnavailableError
from sidestream.embedded import EmbeddedError

EVERY_S: Final = 1.0
"""People do not read faster, and the metrics of a second ago are not committed much earlier."""

SHARE: Final = 10
"""Reading takes at most one part in so many of the time."""

BURST_S: Final = 3.0
"""Reading of what nobody has asked for lately that may be done at once."""

AWAY_S: Final = 2.0
"""After a read that Redis did not answer."""

_PATIENCE_S: Final = 10.0
"""How long somebody waits for room to read something new."""

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
    revive: Callable[[], None] | None = None
    """Brings an embedded server back, where this is one."""

    _slots: OrderedDict[Hashable, _Slot] = field(default_factory=OrderedDict[Hashable, _Slot])
    _room_s: float = BURST_S
    _room_at_s: float | None = None
    _away: SidestreamError | None = None
    _away_at_s: float = 0.0
    _stamps: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def get(self, key: Hashable, read: Callable[[], Awaitable[_Value]]) -> Held[_Value]:
        """Return the value of a key, read now if it is due.

        Raises:
            UnavailableError: Too much that nobody had asked for lately is asked for at once.
            SidestreamError: It cannot be read, and never was.
        """
        slot = self._slots.setdefault(key, _Slot())
        self._slots.move_to_end(key)
        slot.asked_at_s = self.clock()
        self._forget(slot.asked_at_s)
        # Somebody may be trying just now whether Redis is back.
        if self._is_due(slot) and not (self._away and self._lock.locked()):
            if slot.tried_at_s is None:
                await self._wait_for_room()
            async with self._lock:
                # Whoever had the lock may have read it meanwhile, or found that nobody answers.
                if self._is_due(slot):
                    await self._read(slot, read)
        error = slot.error or self._away
        if not slot.has_value:
            assert error is not None
            raise error
        # What is held and looks fine may be older than it says: whoever draws it must draw it anew.
        stamp = slot.stamp if slot.error is error else -slot.stamp
        return Held(cast("_Value", slot.value), self.clock() - slot.read_at_s, self.interval_s(), error, stamp)

    async def _wait_for_room(self) -> None:
        """Wait until something new may be read."""
        until_s = self.clock() + _PATIENCE_S
        while self.share and self._room() <= 0:
            if self.clock() > until_s:
                raise UnavailableError("too many different views are asked for at once", code="busy")
            await anyio.sleep(min(1.0, -self._room_s * self.share + 0.05))

    def _room(self) -> float:
        """Return how many seconds something new may be read."""
        now_s = self.clock()
        if self._room_at_s is not None and self.share:
            self._room_s = min(BURST_S, self._room_s + (now_s - self._room_at_s) / self.share)
        self._room_at_s = now_s
        return self._room_s

    def _forget(self, now_s: float) -> None:
        """Let go of what was asked for longest ago: it stands first."""
        while True:
            oldest = next(iter(self._slots.values()))
            if len(self._slots) <= self.most and now_s - oldest.asked_at_s <= _FORGOTTEN_S:
                return
            self._slots.popitem(last=False)

    def _is_due(self, slot: _Slot) -> bool:
        if self._away is not None and self.clock() - self._away_at_s < AWAY_S:
            return False
        return slot.tried_at_s is None or self.clock() - slot.tried_at_s >= self.interval_s()

    async def _bring_back(self) -> None:
        if self.revive is not None:
            with suppress(EmbeddedError):
                await anyio.to_thread.run_sync(self.revive, abandon_on_cancel=True)

    def interval_s(self) -> float:
        """Return the time between two reads of a value: `every_s`, or longer where reading is slow."""
        now_s = self.clock()
        lately = [slot.took_s for slot in self._slots.values() if now_s - slot.asked_at_s <= _ASKED_LATELY_S]
        return max(self.every_s, self.share * sum(lately))

    async def _read(self, slot: _Slot, read: Callable[[], Awaitable[_Value]]) -> None:
        started_s, is_new = self.clock(), slot.tried_at_s is None
        try:
            value = await read()
        except SidestreamError as error:
            if isinstance(error, TransientError):
                self._away, self._away_at_s = error, self.clock()
                await self._bring_back()
            # How long it took to fail says nothing about the next time.
            if slot.error is None:
                slot.stamp = next(self._stamps)
            slot.error = error
        else:
            self._away = None
            slot.value, slot.read_at_s, slot.error, slot.has_value = value, self.clock(), None, True
            slot.stamp = next(self._stamps)
            slot.took_s = self.clock() - started_s
        if is_new:
            self._room()
            self._room_s -= self.clock() - started_s
        slot.tried_at_s = self.clock()
