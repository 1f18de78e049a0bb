"""What `sidestream backfill` says: of what it found, of what became of it, as text and as JSON."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from producers.backfill.feeding import Fed
from producers.backfill.framing import DAY_S
from producers.backfill.lines import BadLine
from producers.backfill.running import FileDone
from producers.backfill.sources import Source
from producers.backfill.survey import MOST_SHOWN, Surveyed
from sidestream.cli.session import console
from sidestream.wording.human import counted, harmless, instant, size

SCHEMA: Final = "sidestream.backfill/1"

_HOUR_S: Final = 3600
_RANGES_SHOWN: Final = 10


@dataclass(slots=True)
class Found:
    """What the files hold, before anything of it is fed."""

    sources: list[Source] = field(default_factory=list[Source])
    repeated: list[set[int]] = field(default_factory=list[set[int]])
    bad: list[tuple[Source, BadLine]] = field(default_factory=list[tuple[Source, BadLine]])
    total: Surveyed = field(default_factory=Surveyed)
    captured: frozenset[int] = frozenset()


def say_found(found: Found, partitions: int) -> None:
    """Say what the files hold, and what remembering it takes."""
    out, total = console(), found.total
    for source in found.sources:
        out.print(f"{harmless(str(source.path))}: {source.kind}, {size(source.size)}", markup=False)
    out.print(_sentence(total), markup=False)
    if total.events:
        memory, until = size(total.ledger_bytes(partitions)), instant(total.ledger_until_s())[:10]
        out.print(f"Their ledger takes at most {memory} of Redis, until {until}.", markup=False)


def _sentence(total: Surveyed) -> str:
    bad = f", and {counted(total.bad, 'line')} that cannot be taken" if total.bad else ""
    if not total.days:
        return f"No event{bad}."
    first, last = (instant(day * DAY_S)[:10] for day in (min(total.days), max(total.days)))
    span = f"of {first}" if first == last else f"of {counted(len(total.days), 'day')} from {first} to {last}"
    return f"{counted(total.events, 'event')} {span}{bad}."


def say_bad(bad: Sequence[tuple[str, BadLine]], total: int) -> None:
    """Say what could not be taken, the first lines one by one; `total` is how many there are."""
    for path, line in bad[:MOST_SHOWN]:
        at = f"{path}:{line.place}" if isinstance(line.place, int) else f"{path}: {line.place}"
        sys.stderr.write(f"{harmless(at)}: {harmless(line.reason)}\n")
    if more := total - len(bad[:MOST_SHOWN]):
        sys.stderr.write(f"and {counted(more, 'line')} more that cannot be taken\n")


def say_refused(found: Found) -> None:
    """Say which periods were captured live."""
    ranges = _ranges(found.captured)
    events = sum(found.total.hours[hour] for hour in found.captured)
    more = f" and {counted(len(ranges) - _RANGES_SHOWN, 'more period')}" if len(ranges) > _RANGES_SHOWN else ""
    shown = ", ".join(f"{instant(a * _HOUR_S)} to {instant(b * _HOUR_S)}" for a, b in ranges[:_RANGES_SHOWN])
    sys.stderr.write(
        f"sidestream: {counted(events, 'event')} of these are of hours that were captured live: {shown}{more}. "
        "Nothing has been fed; --only-missing feeds of them what ids show to be missing.\n"
    )


def say_fed(fed: Fed, files: Sequence[FileDone]) -> None:
    """Say what became of the events."""
    out, held = console(), sum(one.held for one in files)
    parts = [f"{fed.new:,} new", f"{fed.known:,} known", *([f"{held:,} here already"] if held else [])]
    out.print(f"Fed {counted(fed.new + fed.known + held, 'event')}: {', '.join(parts)}.", markup=False)
    if fed.lost:
        lost = counted(fed.lost, "event")
        out.print(f"Redis has lost {lost} that it had taken: run the same command again.", markup=False)
    for one in files:
        if one.aside:
            out.print(f"Set aside, to be mended and fed: {harmless(one.aside)}", markup=False)
        if one.trouble:
            out.print(f"{harmless(one.path)}: not all could be set aside beside it: {one.trouble}", markup=False)


def found_json(found: Found, *, refused: bool) -> bytes:
    """Return the document of a run that has fed nothing."""
    bad = [(str(source.path), line) for source, line in found.bad]
    return _document(found, Fed(), [], bad, done=False, refused=refused)


def fed_json(found: Found, fed: Fed, files: Sequence[FileDone]) -> bytes:
    """Return the document of a run that has fed."""
    bad = [(one.path, line) for one in files for line in one.shown]
    return _document(found, fed, files, bad, done=True, refused=False)


def _document(
    found: Found,
    fed: Fed,
    files: Sequence[FileDone],
    bad: Sequence[tuple[str, BadLine]],
    *,
    done: bool,
    refused: bool,
) -> bytes:
    total = found.total
    return msgspec.json.encode(
        {
            "schema": SCHEMA,
            "done": done,
            "refused": refused,
            "events": total.events,
            "days": {instant(day * DAY_S)[:10]: events for day, events in sorted(total.days.items())},
            "captured": [[since * _HOUR_S, until * _HOUR_S] for since, until in _ranges(found.captured)],
            "new": fed.new,
            "known": fed.known,
            "held": sum(one.held for one in files),
            "lost": fed.lost,
            "bad": sum(one.bad for one in files) if done else total.bad,
            "bad_lines": [{"file": path, "place": line.place, "reason": line.reason} for path, line in bad],
            "set_aside": [one.aside for one in files if one.aside],
        }
    )


def _ranges(hours: frozenset[int]) -> list[tuple[int, int]]:
    """Return hours as ranges, the end exclusive."""
    found: list[tuple[int, int]] = []
    for hour in sorted(hours):
        if found and found[-1][1] == hour:
            found[-1] = found[-1][0], hour + 1
        else:
            found.append((hour, hour + 1))
    return found
