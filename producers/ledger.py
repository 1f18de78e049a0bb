"""The account of one producer's events: where each one is.

Keeps: at each snapshot `offered = invalid + shed + buffered + spooled + in flight + unknown + appended`, every term
counted on its own where it happens; none is computed from the others.
"""

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Final

from pipeline.redact import Redactor

LOG: Final = logging.getLogger("sidestream")

MOST_SAID: Final = 40
"""Mistakes that are told apart and said in the log, in the life of a ledger: each is a line of the application's."""

STUCK_S: Final = 5.0
"""How long a difference stands before it is put down to calls that an asynchronous exception ended half-way."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Events by where they are; `spooled` ones are in the spool's file, and known not to be appended yet."""

    offered: int = 0
    invalid: int = 0
    shed: int = 0
    buffered: int = 0
    spooled: int = 0
    in_flight: int = 0
    unknown: int = 0
    appended: int = 0
    lost: int = 0
    losses: dict[str, int] = field(default_factory=dict[str, int])

    def accounted(self) -> int:
        """Return the events whose place is known."""
        return self.invalid + self.shed + self.buffered + self.spooled + self.in_flight + self.unknown + self.appended

    def since(self, base: "Counts") -> "Counts":
        """Return what was added since `base`."""
        numbers = {f.name: getattr(self, f.name) - getattr(base, f.name) for f in fields(self) if f.name != "losses"}
        losses = {name: n - base.losses.get(name, 0) for name, n in self.losses.items()}
        return Counts(**numbers, losses={name: n for name, n in losses.items() if n})


class OfferCounter:
    """Counts calls without a lock: `count()` is one atomic step under the interpreter's lock.

    Reading takes a number too, so the reader subtracts its own reads; readers share a lock, callers take none.
    """

    def __init__(self) -> None:
        self.count: Callable[[], int] = itertools.count().__next__
        self._reads = 0
        self._lock = threading.Lock()

    def read(self) -> int:
        """Return how often others called `count`."""
        with self._lock:
            value = self.count() - self._reads
            self._reads += 1
            return value


class Ledger:
    """Counts events as they move; the hot path touches `offered` only, and the rest when something goes wrong.

    `in_flight`, `unknown`, `appended` and `lost` belong to the publisher, under its own lock.

    Args:
        redactor: Takes secrets out of what is said of a refused call.
    """

    def __init__(self, redactor: Redactor = Redactor()) -> None:  # noqa: B008 - frozen
        self._redactor = redactor
        self.offered = OfferCounter()
        self.spooled = 0
        self.in_flight = 0
        self.unknown = 0
        self.appended = 0
        self.lost = 0
        self._losses: dict[tuple[str, str, str], int] = {}
        self._refused: dict[tuple[str, str, str], int] = {}
        self._lock = threading.Lock()
        self._gap = 0
        self._gap_since_s: float | None = None

    def shed(self, kind: str, reason: str, events: int = 1) -> None:
        """Count events that were refused at the buffer."""
        self._lose(("shed", kind, reason), events)

    def invalid(self, kind: str, reason: str, events: int = 1, *, why: str = "") -> None:
        """Count events that can never be stored, and say each mistake once.

        Args:
            kind: Of which kind they are.
            reason: A word of low cardinality.
            events: How many.
            why: What is wrong; its first line counts.
        """
        self._lose(("invalid", kind, reason), events)
        why = why.partition("\n")[0]
        if (kind, reason, why) not in self._refused:  # what was said before has passed the redactor
            why = self._redactor.redact(why)
        with self._lock:
            known = len(self._refused)
            if known >= MOST_SAID and (kind, reason, why) not in self._refused:
                why = ""
            mistake = kind, reason, why
            is_new = mistake not in self._refused
            self._refused[mistake] = self._refused.get(mistake, 0) + events
        if is_new and known < MOST_SAID:
            LOG.warning("telemetry refuses a call as invalid (%s, %s): %s", kind, reason, why)
        elif is_new and known == MOST_SAID:
            LOG.warning("telemetry refuses more calls as invalid than are said here; `statistics()` counts them")

    def refusals(self) -> dict[tuple[str, str, str], int]:
        """Return the events refused as invalid, by kind, reason and what is wrong; beyond `MOST_SAID` that is empty."""
        with self._lock:
            return dict(self._refused)

    def _lose(self, what: tuple[str, str, str], events: int) -> None:
        with self._lock:
            self._losses[what] = self._losses.get(what, 0) + events

    def counts(self, buffered: int) -> Counts:
        """Return the terms as they stand; they agree only when no call is under way (see `settled`)."""
        with self._lock:
            losses = dict(self._losses)
        by_fate = {"shed": 0, "invalid": 0}
        for (fate, _, _), events in losses.items():
            by_fate[fate] += events
        named = {":".join(what): events for what, events in losses.items()}
        if self.lost:
            named["lost"] = self.lost
        return Counts(
            invalid=by_fate["invalid"],
            shed=by_fate["shed"],
            buffered=buffered,
            spooled=self.spooled,
            in_flight=self.in_flight,
            unknown=self.unknown,
            appended=self.appended,
            lost=self.lost,
            losses=named,
        )

    def settled(self, buffered: Callable[[], int], now_s: float) -> Counts | None:
        """Return a snapshot whose terms add up, or None while calls are under way.

        Args:
            buffered: Counts the events in the buffer.
            now_s: A monotonic clock; only for a difference that stands still.
        """
        before = self.offered.read()
        counts = self.counts(buffered())
        after = self.offered.read()
        gap = after - counts.accounted()
        if before == after and gap == 0:
            self._gap_since_s = None
            return replace(counts, offered=after)
        self._watch(gap, now_s)
        return None

    def _watch(self, gap: int, now_s: float) -> None:
        # KeyboardInterrupt may strike between the counter and the buffer: that event is nowhere. The difference then
        # stands still, while that of calls under way comes and goes.
        if gap == 0:
            self._gap_since_s = None
        elif self._gap_since_s is None or gap != self._gap:
            self._gap, self._gap_since_s = gap, now_s
        elif now_s - self._gap_since_s >= STUCK_S:
            self.invalid("unknown", "interrupted", gap, why="an exception from outside ended the call half-way")
            self._gap_since_s = None
