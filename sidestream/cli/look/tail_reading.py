"""Entries of all partitions as `sidestream tail` reads them: what is there, forwards or backwards, then what comes.

Keeps:
- Streams are read without a group and without a cursor of any handler: no lag, no count and no trimming hangs on who
  looks.
- An entry is handed over once, entries in the order in which they came. While Redis is away nothing is; then it goes
  on where it was.
- What was lost meanwhile, trimmed or flushed, is said.
"""

import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, cast

import anyio.to_thread
from msgspec import Struct

from pipeline.connection import AsyncServer, Command, Reply
from pipeline.errors import RefusedError, SidestreamError, TransientError
from pipeline.keys import Keys
from pipeline.presence import read_partitions
from pipeline.retry import Backoff
from pipeline.segments import EntryId, parse_id, show_id
from pipeline.stream import parse_entries
from pipeline.units import US_PER_MS, US_PER_S
from pipeline.wire import StoredEntry
from sidestream.embedded import EmbeddedError
from sidestream.wording.human import counted, duration, harmless

T = TypeVar("T")
Placed: TypeAlias = tuple[int, StoredEntry]
"""An entry and the number of its partition."""

_Read: TypeAlias = tuple[EntryId, StoredEntry]

_AT_ONCE: Final = 128
"""Entries of a partition that a read takes: of full frames a megabyte or so."""

_BLOCK_MS: Final = 1_000
_SAID_AT: Final = 2
"""Failures in a row after which Redis is said to be away: one may be a process that was stopped, and goes on."""

_LATE_S: Final = 10.0
"""So long without a read (the process was stopped, or nobody took its lines), and entries may have been trimmed."""


class Patience:
    """Asks Redis again where it does not answer, with growing pauses, and says that it is away and back.

    Args:
        say: Takes a sentence for the reader.
        revive: Brings the embedded server back, where this is one.
        endless: Whether it asks again at all.
    """

    def __init__(self, say: Callable[[str], object], revive: Callable[[], None] | None, *, endless: bool) -> None:
        self.say = say
        self.failed = False
        """Whether something has failed since somebody last took note of it."""
        self._revive = revive
        self._endless = endless
        self._backoff = Backoff(first_s=0.1, most_s=5.0)

    async def ask(self, read: Callable[[], Awaitable[T]]) -> T:
        """Return what `read` returns, in the end.

        Raises:
            SidestreamError: From `read`; where it may be asked again, only what cannot be better the next time.
        """
        failures, began_s = 0, time.monotonic()
        while True:
            try:
                found = await read()
            except TransientError as error:
                if not self._endless:
                    raise
                failures += 1
                await self._wait(failures, error)
            else:
                break
        if failures:
            self.failed = True
        if failures >= _SAID_AT:
            away = duration(round((time.monotonic() - began_s) * US_PER_S))
            self.say(f"Redis is back after {away}; going on where it was.")
        return found

    async def _wait(self, failures: int, error: TransientError) -> None:
        if failures == _SAID_AT:
            self.say(f"Redis is away ({harmless(str(error))}); trying again.")
        if failures >= _SAID_AT and self._revive is not None:
            with suppress(EmbeddedError):
                await anyio.to_thread.run_sync(self._revive, abandon_on_cancel=True)
        await anyio.sleep(self._backoff.pause_s(failures, random.random()))  # noqa: S311 - jitter, no secret


class _Facts(Struct, frozen=True):
    """What a stream says of itself: entries that were ever added, those that are there, the first and last id."""

    added: int = 0
    length: int = 0
    first: EntryId = (0, 0)
    last: EntryId = (0, 0)

    @property
    def removed(self) -> int:
        """Entries that were there and are no more: the oldest ones, for nothing else is ever deleted."""
        return self.added - self.length


@dataclass(slots=True)
class _Place:
    """How far a partition has been read.

    `after` is the last entry that was taken. Up to `end`, the last one when somebody looked, `passed` entries had been
    added; each that is taken behind it is one more. So before `end` it is unknown how many have been passed.
    """

    after: EntryId
    end: EntryId
    passed: int
    took: bool = False

    def take(self, entry_id: EntryId) -> None:
        """Take note of an entry that was handed over."""
        self.after, self.took = entry_id, True
        self.passed += entry_id > self.end

    def gap(self, facts: _Facts) -> int | None:
        """Return how many entries went unread: -1 where it is unknown how many, None where it is another stream."""
        if self.after < self.end:
            return -1 if self.took and facts.first > self.after else 0
        anew = facts.removed < self.passed and facts.first > self.after
        if facts.added < self.passed or facts.last < self.after or anew:
            return None
        return max(0, facts.removed - self.passed)

    def anchor(self, facts: _Facts) -> None:
        """Begin to count anew, from what is there now."""
        self.end, self.passed = facts.last, facts.added
        self.after = min(self.after, self.end)


class Passing:
    """Entries of all partitions, in the order in which they came."""

    def __init__(self, server: AsyncServer, keys: Keys, patience: Patience) -> None:
        self.now_ms = 0
        """The broker's time when it began."""
        self.ever = False
        """Whether any entry was ever added."""
        self.newest_ms = 0
        """When the newest entry was added; 0 where there never was one."""
        self._server = server
        self._keys = keys
        self._patience = patience
        self._places: dict[int, _Place] = {}
        self._from: EntryId = (0, 0)
        self._read_s = time.monotonic()

    async def begin(self, since_s: int | None = None) -> None:
        """Begin: what was added in the last so many seconds of the broker's clock, or at all, is the history."""
        seconds, microseconds = await self._patience.ask(lambda: self._server.call("TIME"))
        self.now_ms = int(seconds) * 1_000 + int(microseconds) // US_PER_MS
        if since_s is not None:
            self._from = max(0, self.now_ms - since_s * 1_000 - 1), 2**64 - 1
        numbers = range(await self._patience.ask(lambda: read_partitions(self._server, self._keys)))
        for number, facts in (await self._facts(numbers)).items():
            self._places[number] = _Place(facts.last, facts.last, facts.added)
            self.ever = self.ever or facts.added > 0
            self.newest_ms = max(self.newest_ms, facts.last[0])

    async def history(self) -> AsyncIterator[Placed]:
        """Iterate over what was there when it began, the oldest first."""
        pages: dict[int, deque[_Read]] = {number: deque() for number in self._places}
        for place in self._places.values():
            place.after = min(self._from, place.end)
        while True:
            for number, page in pages.items():
                if not page and self._places[number].after < self._places[number].end:
                    page.extend(await self._page(number))
            waiting = [number for number, page in pages.items() if page]
            if not waiting:
                return
            number = min(waiting, key=lambda one: pages[one][0][0])
            entry_id, entry = pages[number].popleft()
            self._places[number].take(entry_id)
            yield number, entry

    async def _page(self, number: int) -> Sequence[_Read]:
        place, stream = self._places[number], self._keys.partition(number).stream()
        if self._patience.failed:
            await self._look_for_gaps()
        span = f"({show_id(place.after)}", show_id(place.end)
        page = await self._entries("XRANGE", stream, *span, "COUNT", _AT_ONCE)
        if not page:
            place.after = place.end
        return page

    async def backwards(self) -> AsyncIterator[Placed]:
        """Iterate over what was there when it began, the newest first."""
        pages = {number: self._pages_back(number, place.end) for number, place in self._places.items()}
        heads = {number: read for number, page in pages.items() if (read := await anext(page, None)) is not None}
        while heads:
            number = max(heads, key=lambda one: heads[one][0])
            yield number, heads.pop(number)[1]
            if (before := await anext(pages[number], None)) is not None:
                heads[number] = before

    async def _pages_back(self, number: int, end: EntryId) -> AsyncIterator[_Read]:
        stream, upto = self._keys.partition(number).stream(), show_id(end)
        least = "-" if self._from == (0, 0) else f"({show_id(self._from)}"
        while end > self._from:
            page = await self._entries("XREVRANGE", stream, upto, least, "COUNT", _AT_ONCE)
            for entry in page:
                yield entry
            if len(page) < _AT_ONCE:
                return
            upto = f"({show_id(page[-1][0])}"

    async def coming(self) -> AsyncIterator[list[Placed]]:
        """Iterate over what comes, for ever, read by read; partitions that are added too."""
        while True:
            for number in range(await self._patience.ask(lambda: read_partitions(self._server, self._keys))):
                self._places.setdefault(number, _Place((0, 0), (0, 0), 0))
            found = sorted(await self._patience.ask(self._wait), key=lambda one: parse_id(one[1].entry_id))
            late, self._read_s = time.monotonic() - self._read_s > _LATE_S, time.monotonic()
            if self._patience.failed or late:
                await self._look_for_gaps()
            for number, entry in found:
                self._places[number].take(parse_id(entry.entry_id))
            yield found

    async def _wait(self) -> list[Placed]:
        by_stream = {self._keys.partition(number).stream(): number for number in self._places}
        after = [show_id(place.after) for place in self._places.values()]
        command: Command = ["XREAD", "COUNT", _AT_ONCE, "BLOCK", _BLOCK_MS, "STREAMS", *by_stream, *after]
        reply = cast("Sequence[tuple[bytes, Reply]]", await self._server.call(*command) or [])
        return [(by_stream[name.decode()], entry) for name, rows in reply for entry in parse_entries(rows)]

    async def _entries(self, *command: str | int) -> list[_Read]:
        entries = parse_entries(await self._patience.ask(lambda: self._server.call(*command)))
        return [(parse_id(entry.entry_id), entry) for entry in entries]

    async def _facts(self, numbers: Sequence[int]) -> dict[int, _Facts]:
        commands: list[Command] = [["XINFO", "STREAM", self._keys.partition(number).stream()] for number in numbers]

        async def read() -> list[_Facts]:
            return [_parse_facts(reply) for reply in await self._server.batch(commands)]

        return dict(zip(numbers, await self._patience.ask(read), strict=True))

    async def _look_for_gaps(self) -> None:
        """Say what went unread while nobody read."""
        self._patience.failed = False
        anew: list[int] = []
        for number, facts in (await self._facts(list(self._places))).items():
            place = self._places[number]
            gap = place.gap(facts)
            if gap is None:
                anew.append(number)
            elif gap:
                lost = counted(gap, "entry", "entries") if gap > 0 else "entries"
                self._patience.say(f"A gap: {lost} of partition {number} went before they were read.")
            if gap != 0:
                place.anchor(facts)
        if anew:
            self._patience.say(
                f"A gap: partition{'s' if anew[1:] else ''} {', '.join(map(str, anew))} began anew (flushed, or Redis "
                "came back without all of its data); what of it went before it was read is unknown."
            )


def _parse_facts(reply: Reply) -> _Facts:
    if isinstance(reply, RefusedError) and "no such key" in str(reply):
        return _Facts()
    if isinstance(reply, SidestreamError):
        raise reply
    flat = cast("list[Reply]", reply)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    first = fields[b"first-entry"]
    return _Facts(
        int(fields[b"entries-added"]),
        int(fields[b"length"]),
        parse_id(first[0].decode()) if first else (0, 0),
        parse_id(fields[b"last-generated-id"].decode()),
    )
