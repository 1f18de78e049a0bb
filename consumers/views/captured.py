"""Which hours hold events that were captured live: what metrics has counted of them, and what it has still to read.

Keeps: what was backfilled is told apart, so an hour that only files have filled was not captured. Events that are still
with their producers (spooled, in flight) are seen by nobody here.
"""

from collections.abc import AsyncIterator, Collection, Iterable
from typing import Final

from consumers.measures import BACKFILLED, ERRORS, REQUESTS, RUNS, STEPS, TOOLS, TRANSITIONS
from consumers.reader import StateReader
from consumers.state import Measures
from consumers.windows import DAY, DAY_S, HOUR, HOUR_S, Window
from pipeline.errors import WireError
from pipeline.keys import PartitionKeys
from pipeline.stream import read_after
from pipeline.units import US_PER_S
from pipeline.wire import Frame, FrameDecoder, StoredEntry

_METRICS: Final = "metrics"
_COUNTED: Final = (REQUESTS, RUNS, TOOLS, STEPS, TRANSITIONS, ERRORS)
"""Every event is counted by one of them, in one cell."""

_WINDOWS_AT_ONCE: Final = 8
_ENTRIES_AT_ONCE: Final = 64


async def captured_hours(reader: StateReader, hours: Collection[int], now_s: int) -> frozenset[int]:
    """Return which of these hours hold live events; where hours are kept no more, all of a day that does.

    Args:
        reader: Of the live state.
        hours: Counted from 1970, in UTC.
        now_s: The broker's time.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    hours_a_day = DAY_S // HOUR_S
    days = await _live(reader, [(DAY, day * DAY_S) for day in sorted({hour // hours_a_day for hour in hours})])
    asked = [hour for hour in sorted(hours) if hour // hours_a_day * DAY_S in days]
    kept = [(HOUR, hour * HOUR_S) for hour in asked if HOUR.expires_at(hour * HOUR_S) > now_s]
    found = {start_s // HOUR_S for start_s in await _live(reader, kept)}
    found |= {hour for hour in asked if HOUR.expires_at(hour * HOUR_S) <= now_s}
    if len(found) < len(hours):
        found |= set(hours) & await _unread_hours(reader)
    return frozenset(found)


async def _live(reader: StateReader, windows: list[Window]) -> set[int]:
    """Return the starts of the windows that hold live events."""
    found: set[int] = set()
    for first in range(0, len(windows), _WINDOWS_AT_ONCE):
        some = await reader.cells_by_window(_METRICS, windows[first : first + _WINDOWS_AT_ONCE])
        found |= {start_s for (_, start_s), cells in some if live_events(cells.values())}
    return found


def live_events(cells: Iterable[Measures]) -> int:
    """Return the events of cells that were not backfilled."""
    return sum(sum(map(cell.get, _COUNTED, [0] * len(_COUNTED))) - cell.get(BACKFILLED, 0) for cell in cells)


async def _unread_hours(reader: StateReader) -> set[int]:
    """Return the hours of live events that metrics has not taken yet."""
    decoder, found = FrameDecoder(), set[int]()
    for number in range(reader.partitions):
        async for entry, start in _unread(reader, reader.keys.partition(number)):
            frame = _decoded(decoder, entry)
            if frame is not None and frame.origin != "backfill":
                events = [event for event in frame.events[start:] if event is not None]
                found |= {event.time_us // US_PER_S // HOUR_S for event in events}
    return found


async def _unread(reader: StateReader, partition: PartitionKeys) -> AsyncIterator[tuple[StoredEntry, int]]:
    """Iterate over the entries behind the cursor, each with the index of its first event that was not taken."""
    cursor = partition.unit(_METRICS, reader.versions.base(_METRICS)).cursor()
    at, index = await reader.server.call("HMGET", cursor, "id", "index")
    after, start = (at.decode(), int(index)) if at else ("0-0", 0)
    while True:
        entries = await read_after(reader.server, partition, after, inclusive=start > 0, most=_ENTRIES_AT_ONCE)
        for entry in entries:
            yield entry, start if entry.entry_id == after else 0
        if len(entries) < _ENTRIES_AT_ONCE:
            return
        after, start = entries[-1].entry_id, 0


def _decoded(decoder: FrameDecoder, entry: StoredEntry) -> Frame | None:
    try:
        return decoder.decode(entry.parse())
    except WireError:
        return None
