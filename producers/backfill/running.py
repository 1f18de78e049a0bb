"""Running: the lines of a file, decided one by one: fed, here already, or set aside.

Keeps: every line that is read has one place: fed, held, or bad; what is bad is in a file of its own, or stays where it
is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio.lowlevel
from msgspec.structs import replace

from pipeline.events import ErrorEvent, Event
from pipeline.redact import Redactor
from producers.backfill.asides import Aside
from producers.backfill.feeding import Feeder
from producers.backfill.framing import Framer
from producers.backfill.holdings import Holdings, parse_id
from producers.backfill.identity import Occurrences, digest_of_content, digest_of_id
from producers.backfill.lines import BadLine, Line
from producers.backfill.sources import Source
from producers.backfill.survey import BREATH_LINES, HOUR_US, MOST_SHOWN, Known, known_lines
from producers.pseudonyms import Pseudonyms

_READY_FRAMES: Final = 8
"""Frames filled before some are sent: each write has one for most partitions."""


@dataclass(slots=True)
class FileDone:
    """What became of the lines of one file; `shown` are the first of those that are bad."""

    path: str
    read: int = 0
    fed: int = 0
    held: int = 0
    bad: int = 0
    shown: list[BadLine] = field(default_factory=list[BadLine])
    aside: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """How lines are decided.

    Args:
        name: Of the source, for identities.
        now_us: The broker's time.
        holdings: What is on the streams.
        captured: Hours that hold live events, counted from 1970.
        redactor: Takes secrets out of errors' messages.
        pseudonyms: Stands in for users' ids.
    """

    name: str
    now_us: int
    holdings: Holdings
    captured: frozenset[int] = frozenset()
    redactor: Redactor = field(default_factory=Redactor)
    pseudonyms: Pseudonyms | None = None


class Run:
    """Feeds files, one after another.

    Args:
        rules: See there.
        framer: Fills frames.
        feeder: Sends them.
    """

    def __init__(self, rules: Rules, framer: Framer, feeder: Feeder) -> None:
        self._rules = rules
        self._framer = framer
        self._feeder = feeder

    async def feed(
        self, source: Source, repeated: set[int], progress: Callable[[FileDone], None] = lambda _: None
    ) -> FileDone:
        """Feed a file to its end.

        Args:
            source: The file.
            repeated: Contents that stand there more than once, as a survey found.
            progress: Told again and again.

        Raises:
            SettingsError: It has changed since it was looked at.
            SidestreamError: See `Feeder.send`.
        """
        source.check_unchanged()
        done, aside, occurrences = FileDone(str(source.path)), Aside(source), Occurrences(repeated)
        try:
            for known in known_lines(source, self._rules.now_us, self._rules.name):
                await self._take(known, occurrences, done, aside)
                if done.read % BREATH_LINES == 0:
                    progress(done)
                    await anyio.lowlevel.checkpoint()
            self._framer.close_all()
            await self._feeder.send()
        finally:
            aside.close()
            done.aside, done.trouble = str(aside.path or ""), aside.trouble
        source.check_unchanged()
        return done

    async def _take(self, known: Known | BadLine, occurrences: Occurrences, done: FileDone, aside: Aside) -> None:
        decided = known if isinstance(known, BadLine) else self._decided(known.line)
        done.read += not isinstance(decided, BadLine) or bool(decided.reason)
        if isinstance(decided, BadLine):
            aside.keep(decided)
            if decided.reason:
                done.bad += 1
                done.shown += [decided] if len(done.shown) < MOST_SHOWN else []
        elif decided is None:
            done.held += 1
        else:
            assert isinstance(known, Known)
            self._framer.add(decided, known.line.resource, self._digest(known, occurrences))
            done.fed += 1
            if self._framer.waiting >= _READY_FRAMES:
                await self._feeder.send()

    def _decided(self, line: Line) -> Event | BadLine | None:
        """Return the event as it is to be stored, why it is not, or None where it is there already."""
        rules, at = self._rules, parse_id(line.own_id)
        verdict = rules.holdings.verdict(at, line.event.time_us) if at else None
        if verdict == "held":
            return None
        captured = line.event.time_us // HOUR_US in rules.captured
        if verdict is None and captured:
            return BadLine(line.place, line.raw, "its hour was captured live, and it has no id of a stream")
        if verdict == "unclear" and (captured or line.backfilled):
            how = "captured live" if captured else "backfilled"
            return BadLine(
                line.place, line.raw, f"it was {how}, and what it was is trimmed: nothing tells if it is there"
            )
        return line.event if at else self._as_stored(line)

    def _as_stored(self, line: Line) -> Event:
        event, rules = line.event, self._rules
        if isinstance(event, ErrorEvent) and event.message:
            event = replace(event, message=rules.redactor.redact(line.message or event.message))
        if rules.pseudonyms is not None:
            [event] = rules.pseudonyms.replaced([event])
        return event

    def _digest(self, known: Known, occurrences: Occurrences) -> bytes:
        if own_id := known.line.own_id:
            # An id of a stream is the same whatever the file is called.
            return digest_of_id(own_id, "" if parse_id(own_id) else self._rules.name)
        return digest_of_content(known.content, occurrences.next_of(known.content))
