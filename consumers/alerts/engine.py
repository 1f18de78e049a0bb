"""The alert engine: once a second, how far everything has been committed, what the rules' values are, what follows.

Keeps:
- The order of reading: states, then watermark, then windows. What a window holds is at least what the watermark
  promises, and a state that moved meanwhile makes this look void.
- A restart, a second engine or a lost answer tells no incident twice: the stored state is all that an engine knows.

The log is a channel without memory: a worker that dies between writing a transition and its line leaves the incident
stored and the line unwritten.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from consumers.alerts.evaluate import Facts, Transition, ended, evaluate, windows_of
from consumers.alerts.facts import read_facts
from consumers.alerts.rules import Rule
from consumers.alerts.store import Move, NewerRowError, parse_row, read_rows, swap
from consumers.alerts.watermark import Watermark, read_watermark
from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.versions import Versions
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.units import US_PER_S

log = logging.getLogger("sidestream.alerts")

GRACE_S: Final = 2.0
"""How long an event may travel from its end to the stream and still be counted when its window is first looked at:
a publisher's linger and a slow network. A later one counts as well, as long as its window is looked at."""

EVERY_S: Final = 1.0
"""Seconds between evaluations."""

_MS_PER_S: Final = 1_000


class AlertEngine:
    """Evaluates rules over the live state of one namespace.

    `partitions` says how many there are, for they may grow; `grace_s` is taken off the watermark.
    """

    def __init__(
        self,
        server: AsyncServer,
        keys: Keys,
        rules: Sequence[Rule],
        *,
        partitions: Callable[[], Awaitable[int]],
        grace_s: float = GRACE_S,
    ) -> None:
        self._server = server
        self._keys = keys
        self._rules = {rule.name: rule for rule in rules}
        self._partitions = partitions
        self._grace_ms = round(grace_s * _MS_PER_S)
        self._once = _Once()

    async def run(self) -> None:
        """Evaluate once, for a periodic task.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        await self.run_once()

    async def run_once(self) -> list[Transition]:
        """Evaluate every rule, write and log what began or ended, and return it.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        rows = await read_rows(self._server, self._keys)
        told = await self._end_removed(rows)
        partitions = await self._partitions()
        versions = await read_versions(self._server, self._keys)
        marks = await self._watermarks(partitions, versions)
        wanted = [(rule, mark) for rule in self._rules.values() if (mark := marks[rule.handlers]) is not None]
        places = [(rule, windows_of(rule, self._graced_s(mark), mark.now_ms // _MS_PER_S)) for rule, mark in wanted]
        facts = await read_facts(StateReader(self._server, self._keys, partitions, versions), places)
        for rule, mark in wanted:
            told += await self._judge(rule, facts[rule.name], rows.get(rule.name, b""), self._graced_s(mark))
        return told

    def _graced_s(self, mark: Watermark) -> int:
        return (mark.at_ms - self._grace_ms) // _MS_PER_S

    async def _watermarks(self, partitions: int, versions: Versions) -> Mapping[tuple[str, ...], Watermark | None]:
        found: dict[tuple[str, ...], Watermark | None] = {}
        for handlers in {rule.handlers for rule in self._rules.values()}:
            found[handlers] = await read_watermark(self._server, self._keys, partitions, handlers, versions)
            self._once.undeclared(handlers, known=found[handlers] is not None)
        return found

    async def _judge(self, rule: Rule, facts: Facts, row: bytes, watermark_s: int) -> list[Transition]:
        try:
            before = parse_row(row)
        except NewerRowError as error:
            self._once.newer(rule.name, str(error))
            return []
        after, transition = evaluate(rule, facts, before, watermark_s)
        if after == before:
            return []
        return await self._move(Move(rule.name, row, after, transition))

    async def _end_removed(self, rows: Mapping[str, bytes]) -> list[Transition]:
        told: list[Transition] = []
        for name in rows.keys() - self._rules.keys():
            try:
                state = parse_row(rows[name])
            except NewerRowError as error:
                self._once.newer(name, str(error))
                continue
            transition = ended(name, state, "rule removed") if state else None
            told += await self._move(Move(name, rows[name], None, transition))
        return told

    async def _move(self, move: Move) -> list[Transition]:
        moved = await swap(self._server, self._keys, move)
        if not moved or move.transition is None:
            return []
        _tell(move.transition)
        return [move.transition]


class _Once:
    """Says why a rule is not evaluated: once, until it is again."""

    def __init__(self) -> None:
        self._undeclared: set[tuple[str, ...]] = set()
        self._newer: set[str] = set()

    def undeclared(self, handlers: tuple[str, ...], *, known: bool) -> None:
        """Note whether `handlers` have a watermark."""
        if known:
            self._undeclared.discard(handlers)
        elif handlers not in self._undeclared:
            self._undeclared.add(handlers)
            extra = {"handlers": ", ".join(handlers)}
            log.warning("Alerts wait until a worker runs the handlers that they read", extra=extra)

    def newer(self, rule: str, reason: str) -> None:
        """Note that a rule's row belongs to a newer worker."""
        if rule not in self._newer:
            self._newer.add(rule)
            log.warning("An alert is left to newer workers", extra={"rule": rule, "reason": reason})


def _tell(transition: Transition) -> None:
    scale = US_PER_S if transition.unit == "us" else 1
    extra: dict[str, object] = {
        "rule": transition.rule,
        "severity": transition.severity,
        "value": transition.value / scale if scale > 1 else transition.value,
        "threshold": transition.threshold / scale if scale > 1 else transition.threshold,
        "unit": "s" if transition.unit == "us" else transition.unit,
        "window_s": transition.window_s,
        "incident": transition.incident,
        "reason": transition.reason,
    }
    extra |= {name: text for name in ("detail", "summary") if (text := getattr(transition, name))}
    if transition.to == "firing":
        log.warning("Alert fires", extra=extra)
    else:
        log.info("Alert resolved", extra=extra)
