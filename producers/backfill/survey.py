"""Survey: what files hold, before anything of them is fed: how much, of when, and what cannot be taken."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import anyio.lowlevel

from pipeline.units import US_PER_S
from producers.backfill.framing import DAY_S, LIVES_S, ledger_until_s
from producers.backfill.holdings import MAX_AHEAD_US, parse_id
from producers.backfill.identity import Repeats, content_of
from producers.backfill.lines import BadLine, Line
from producers.backfill.sources import Source

HOUR_US: Final = 3600 * US_PER_S
_DAY_US: Final = DAY_S * US_PER_S

MOST_SHOWN: Final = 20
"""Bad lines that are said one by one; the others are counted."""

BREATH_LINES: Final = 1_000
"""Lines between two moments in which whoever waits is told, and Ctrl-C is heard."""

_LEDGER_FIELDS: Final = 65_536
_FIELD_BYTES: Final = 60
_DIGEST_BYTES: Final = 8
"""A ledger of Redis: measured, at most 60 bytes a field and 8 a digest (docs/backfill.md); Valkey takes less."""


@dataclass(slots=True)
class Surveyed:
    """What one file, or all of them, hold; `days` and `hours` are counted from 1970 in UTC."""

    read: int = 0
    events: int = 0
    bad: int = 0
    days: Counter[int] = field(default_factory=Counter[int])
    hours: Counter[int] = field(default_factory=Counter[int])
    owners: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    """Who appended events that say where on a stream they were: (producer or entry, partition)."""

    def add(self, other: "Surveyed") -> None:
        """Add what another file holds."""
        self.read += other.read
        self.events += other.events
        self.bad += other.bad
        self.days += other.days
        self.hours += other.hours
        self.owners |= other.owners

    def ledger_bytes(self, partitions: int) -> int:
        """Return about how much memory the ledgers of all these events take, at most."""
        return sum(partitions * _ledger_bytes(events / partitions) for events in self.days.values())

    def ledger_until_s(self) -> int:
        """Return when the last of them is forgotten, in seconds since 1970."""
        return ledger_until_s(max(self.days))


def _ledger_bytes(events: float) -> int:
    fields = _LEDGER_FIELDS * -math.expm1(-events / _LEDGER_FIELDS)
    return round(_FIELD_BYTES * fields + _DIGEST_BYTES * events)


@dataclass(frozen=True, slots=True)
class Known:
    """A line and its content's digest."""

    line: Line
    content: bytes


def known_lines(source: Source, now_us: int, name: str) -> Iterator[Known | BadLine]:
    """Read a file; what is dated too early or too late is refused too.

    Args:
        source: The file.
        now_us: The broker's time.
        name: Of the source, for identities.

    Raises:
        SettingsError: See `Source.read`.
    """
    for found in source.read():
        yield found if isinstance(found, BadLine) else _known(found, now_us, name)


def _known(line: Line, now_us: int, name: str) -> Known | BadLine:
    time_us = line.event.time_us
    if time_us > now_us + MAX_AHEAD_US:
        return BadLine(line.place, line.raw, "time_us: it is more than an hour ahead")
    if (time_us // _DAY_US + 1) * _DAY_US + LIVES_S * US_PER_S <= now_us:
        return BadLine(line.place, line.raw, f"time_us: it is older than {LIVES_S // DAY_S} days: no window holds it")
    try:
        return Known(line, content_of(line.event, line.resource, name))
    except UnicodeEncodeError:
        return BadLine(line.place, line.raw, "a text of it holds half a character")


async def survey(
    source: Source, now_us: int, name: str, progress: Callable[[int], None]
) -> tuple[Surveyed, set[int], list[BadLine]]:
    """Read a file once; return what it holds, the contents that may stand there more than once, and some bad lines.

    Raises:
        SettingsError: See `Source.read`.
    """
    found, repeats, bad = Surveyed(), Repeats(), list[BadLine]()
    for known in known_lines(source, now_us, name):
        if found.read % BREATH_LINES == 0:
            progress(found.read)
            await anyio.lowlevel.checkpoint()
        if isinstance(known, BadLine):
            if known.reason:
                found.read += 1
                found.bad += 1
                bad += [known] if len(bad) < MOST_SHOWN else []
            continue
        found.read += 1
        found.events += 1
        event = known.line.event
        found.days[event.time_us // _DAY_US] += 1
        found.hours[event.time_us // HOUR_US] += 1
        if not known.line.own_id:
            repeats.note(known.content)
        elif at := parse_id(known.line.own_id):
            found.owners.add((at.owner, at.partition))
    return found, repeats.found(), bad
