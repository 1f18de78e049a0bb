"""The report: tokens, cost, latencies and errors of a range of event time, and how complete these numbers are.

Keeps:
- What could not be known says so: a price, a handler that never ran, an instant up to which all is counted.
- `as_of` is read before the windows, so these hold everything that it promises.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, assert_never

import msgspec
from msgspec import Struct

from consumers import measures as code
from consumers.reader import Operation, StateReader
from consumers.register import read_versions
from consumers.state import OTHER, Measures
from consumers.views.completeness import COST, METRICS, Completeness, read_completeness
from consumers.views.figures import Cells, Figures, Group, cover_names, figures_of, groups_of, known_cost, span
from consumers.views.names import measures_of, ranked_names
from consumers.windows import DAY, HOUR_S, Window, cover
from pipeline.connection import AsyncServer
from pipeline.errors import TransientError
from pipeline.keys import Keys
from pipeline.limits import MAX_TIME_US
from pipeline.presence import read_partitions
from pipeline.units import US_PER_S

ByNames: TypeAlias = Literal["session", "user", "tag"]
By: TypeAlias = Literal["agent", "model", "state", "session", "user", "tag", "error"]
"""What a report can be grouped by; all but agent, model and state are marginals: whole hours, and fewer figures."""

MOST_TOP_ERRORS: Final = 5
"""Types of errors that each report names, whatever it is grouped by."""

_EVENTS_AHEAD_S: Final = HOUR_S
"""An event dated further ahead is dead-lettered, so no window beyond holds anything."""

_READS: Final = 20
"""A report is read anew where what it reads was moved meanwhile; a swap moves nothing."""

_OF_METRICS: Final = (code.REQUESTS, code.TOKENS, code.RUNS, code.ERRORS)
_OF_COST: Final = (code.COST, code.REQUESTS, code.UNPRICED)
_RUN_NAME: Final = msgspec.json.Decoder(tuple[str, str, str])


class Range(Struct, frozen=True):
    """Event time from `from_s` to `until_s` (exclusive), seconds since 1970."""

    from_s: int
    until_s: int


class NameRow(Struct, frozen=True):
    """One session, user or tag: what a marginal holds. A handler that never ran leaves None."""

    name: str
    requests: int | None = None
    total_tokens: int | None = None
    runs: int | None = None
    errors: int | None = None
    cost_nano_usd: int | None = None
    """None: no request with a known price, or nothing known of the cost."""
    unpriced_requests: int | None = None
    cost_requests: int | None = None
    """Requests that the cost is about, priced or not."""


class ErrorRow(Struct, frozen=True):
    """One type of error (or `__other__`): how often it was reported, and its part (0-1) of all errors."""

    name: str
    errors: int
    share: float


class LeftOut(Struct, frozen=True):
    """How many names a list leaves out; `at_least`: windows may have had more to offer."""

    count: int = 0
    at_least: bool = False


class ExpensiveRun(Struct, frozen=True):
    """One run (or `__other__`, all that a cap hid): the cost of its requests, None if none had a known price."""

    agent: str
    run_id: str
    session: str
    requests: int
    cost_nano_usd: int | None
    unpriced_requests: int


class Report(Struct, frozen=True):
    """Everything a report says. `covered` is what the windows hold of `asked`; `names` likewise for marginals.

    By agent, model or state there are `groups`, by session, user or tag `rows`, by error the `errors` are all that were
    asked for. `most` is how many rows of a list that was; `left_out` is how many the list of `by` has not.
    """

    namespace: str
    now_s: int
    asked: Range
    covered: Range
    names: Range
    by: By
    totals: Figures
    groups: Sequence[Group]
    rows: Sequence[NameRow]
    errors: Sequence[ErrorRow]
    errors_left_out: LeftOut
    left_out: LeftOut
    expensive: Sequence[ExpensiveRun]
    slowest: Sequence[Operation]
    completeness: Completeness
    most: int

    @property
    def metrics_known(self) -> bool:
        """Whether requests, tokens, latencies, runs and errors are known."""
        return self.completeness.known(METRICS)

    @property
    def cost_known(self) -> bool:
        """Whether costs are known."""
        return self.completeness.known(COST)

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        figures = self.totals
        counts = (figures.requests, figures.runs, figures.tools, figures.steps, figures.transitions, figures.errors)
        return not any((*counts, figures.priced_requests, figures.unpriced_requests))


async def read_report(  # noqa: PLR0913 - a query and what it asks for, by name
    server: AsyncServer,
    keys: Keys,
    *,
    since_s: int,
    until_s: int | None,
    by: By,
    now_s: int,
    most: int = 10,
) -> Report:
    """Read the report of events from `since_s` to `until_s` (exclusive; None: up to now), in seconds since 1970.

    Args:
        server: Where the state is.
        keys: Those of the namespace.
        since_s: Nothing is kept for longer than two years; what is older is left out.
        until_s: No event is dated more than an hour ahead; a later end is cut to that.
        by: What to group by.
        now_s: The time now, which decides what windows are still kept.
        most: How many of the most expensive and slowest operations, and of sessions, users, tags or types of errors.

    Raises:
        ValueError: The range is empty, or older than anything that is kept.
        SidestreamError: See `AsyncServer.call`.
    """
    # The second that runs belongs to "up to now".
    asked = Range(max(0, since_s), now_s + 1 if until_s is None else min(until_s, MAX_TIME_US // US_PER_S))
    if asked.from_s >= asked.until_s:
        raise ValueError(f"the range is empty: it begins at {asked.from_s} and ends at {asked.until_s}")
    windows, names = _windows(asked, now_s)
    partitions = await read_partitions(server, keys)
    versions = await read_versions(server, keys)
    for _ in range(_READS):
        reader = StateReader(server, keys, partitions, versions)
        report = await _read(reader, asked, windows, names, by=by, now_s=now_s, most=most)
        before, versions = versions, await read_versions(server, keys)
        if versions.places == before.places:
            return report
    raise TransientError("the versions change all the time; try again", code="busy")


async def _read(  # noqa: PLR0913 - a query and what it asks for, by name
    reader: StateReader,
    asked: Range,
    windows: Sequence[Window],
    names: Sequence[Window],
    *,
    by: By,
    now_s: int,
    most: int,
) -> Report:
    completeness = await read_completeness(reader, span(names))
    of_metrics = await reader.cells(METRICS, windows)
    of_cost = await reader.cells(COST, windows)
    rows, left_out = await _rows(reader, names, completeness, by, most)
    errors, errors_left_out = await _Errors(reader, names, now_s).read(most if by == "error" else MOST_TOP_ERRORS)
    return Report(
        namespace=reader.keys.namespace,
        now_s=now_s,
        asked=asked,
        covered=Range(*span(windows)),
        names=Range(*span(names)),
        by=by,
        totals=figures_of(of_metrics, of_cost),
        groups=_groups(of_metrics, of_cost, by),
        rows=rows,
        errors=errors,
        errors_left_out=errors_left_out,
        left_out=errors_left_out if by == "error" else left_out,
        expensive=await _expensive(reader, names, most),
        slowest=await reader.slowest(windows, most),
        completeness=completeness,
        most=most,
    )


def _windows(asked: Range, now_s: int) -> tuple[list[Window], list[Window]]:
    since_s = max(asked.from_s, DAY.start_of(now_s - DAY.kept_s))
    if asked.until_s <= since_s:
        raise ValueError(f"nothing of that range is kept any more: the oldest windows are of {since_s}")
    until_s = max(since_s + 1, min(asked.until_s, now_s + _EVENTS_AHEAD_S))
    return list(cover(since_s, until_s, now_s)), list(cover_names(since_s, until_s, now_s))


async def _expensive(reader: StateReader, windows: Sequence[Window], most: int) -> list[ExpensiveRun]:
    names = (await ranked_names(reader, COST, "run", windows, most)).names[:most]
    runs = await measures_of(reader, COST, "run", windows, names=[*names, OTHER], measures=_OF_COST)
    over_cap = runs.pop(OTHER, None)
    ordered = sorted(runs.items(), key=lambda run: (-run[1].get(code.COST, 0), run[0]))
    found = [_expensive_run(*_RUN_NAME.decode(name), measures) for name, measures in ordered]
    return found if over_cap is None else [*found, _expensive_run("", OTHER, "", over_cap)]


def _expensive_run(agent: str, run_id: str, session: str, measures: Measures) -> ExpensiveRun:
    requests, unpriced = measures.get(code.REQUESTS, 0), measures.get(code.UNPRICED, 0)
    return ExpensiveRun(agent, run_id, session, requests, _marginal_cost(measures), unpriced)


def _marginal_cost(measures: Measures) -> int | None:
    unpriced = measures.get(code.UNPRICED, 0)
    return known_cost(measures.get(code.COST, 0), measures.get(code.REQUESTS, 0) - unpriced, unpriced)


def _groups(of_metrics: Cells, of_cost: Cells, by: By) -> list[Group]:
    match by:
        case "agent" | "model" | "state":
            return groups_of(of_metrics, of_cost, by)
        case "session" | "user" | "tag" | "error":
            return []
        case _:
            assert_never(by)


async def _rows(
    reader: StateReader, windows: Sequence[Window], completeness: Completeness, by: By, most: int
) -> tuple[Sequence[NameRow], LeftOut]:
    match by:
        case "session" | "user" | "tag":
            return await _Names(reader, windows, completeness, by).read(most)
        case "agent" | "model" | "state" | "error":
            return [], LeftOut()
        case _:
            assert_never(by)


@dataclass(slots=True)
class _Names:
    """Reads the dearest names of a dimension from what two handlers hold of them."""

    reader: StateReader
    windows: Sequence[Window]
    completeness: Completeness
    dimension: ByNames

    async def read(self, most: int) -> tuple[list[NameRow], LeftOut]:
        """Return up to `most` names, the dearest first, behind them what a cap hid; and how many there are besides."""
        # Each handler ranks by its own measure: money, and tokens for whom money says nothing.
        dearest = await ranked_names(self.reader, COST, self.dimension, self.windows, most)
        busiest = await ranked_names(self.reader, METRICS, self.dimension, self.windows, most)
        known = len({*dearest.names, *busiest.names})
        names = list(dict.fromkeys([*dearest.names[:most], *busiest.names[:most], OTHER]))
        of_metrics = await self._measures(METRICS, names, _OF_METRICS)
        of_cost = await self._measures(COST, names, _OF_COST)
        rows = [self._row(name, of_metrics.get(name, {}), of_cost.get(name, {})) for name in names[:-1]]
        rows.sort(key=lambda row: (-(row.cost_nano_usd or 0), -(row.total_tokens or 0), row.name))
        rows = rows[:most]
        left_out = LeftOut(known - len(rows), dearest.cut or busiest.cut)
        if OTHER in of_metrics or OTHER in of_cost:
            rows.append(self._row(OTHER, of_metrics.get(OTHER, {}), of_cost.get(OTHER, {})))
        return rows, left_out

    async def _measures(self, handler: str, names: Sequence[str], measures: Sequence[str]) -> dict[str, Measures]:
        return await measures_of(self.reader, handler, self.dimension, self.windows, names=names, measures=measures)

    def _row(self, name: str, of_metrics: Measures, of_cost: Measures) -> NameRow:
        counted, priced = self.completeness.known(METRICS), self.completeness.known(COST)
        return NameRow(
            name=name,
            requests=of_metrics.get(code.REQUESTS, 0) if counted else None,
            total_tokens=of_metrics.get(code.TOKENS, 0) if counted else None,
            runs=of_metrics.get(code.RUNS, 0) if counted else None,
            errors=of_metrics.get(code.ERRORS, 0) if counted else None,
            cost_nano_usd=_marginal_cost(of_cost) if priced else None,
            unpriced_requests=of_cost.get(code.UNPRICED, 0) if priced else None,
            cost_requests=of_cost.get(code.REQUESTS, 0) if priced else None,
        )


@dataclass(slots=True)
class _Errors:
    """Reads the types of errors that were reported most often."""

    reader: StateReader
    windows: Sequence[Window]
    now_s: int

    async def read(self, most: int) -> tuple[list[ErrorRow], LeftOut]:
        """Return up to `most` types, the most frequent first, behind them what a cap hid; and how many are left out."""
        ranked = await ranked_names(self.reader, METRICS, "error", self.windows, most)
        names = [*ranked.names[:most], OTHER]
        found = await measures_of(self.reader, METRICS, "error", self.windows, names=names, measures=(code.ERRORS,))
        if not found:
            return [], LeftOut()
        # Of all errors of the same hours, not only of those in the list; read last, so that no part is above the whole.
        cells = await self.reader.cells(METRICS, list(cover(*span(self.windows), self.now_s)))
        total = sum(measures.get(code.ERRORS, 0) for measures in cells.values())
        over_cap = found.pop(OTHER, None)
        counts = {name: measures.get(code.ERRORS, 0) for name, measures in found.items()}
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if over_cap is not None:
            ordered.append((OTHER, over_cap.get(code.ERRORS, 0)))
        rows = [ErrorRow(name, errors, min(1.0, errors / max(total, 1))) for name, errors in ordered]
        return rows, LeftOut(len(ranked.names) - len(counts), ranked.cut)
