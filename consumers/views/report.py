"""The report: tokens, cost, latencies and errors of a range of event time, and how complete these numbers are.

Keeps:
- What could not be known says so: a price, a handler that never ran, an instant up to which all is counted.
- `as_of` is read before the windows, so these hold everything that it promises.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, assert_never

from msgspec import Struct

from consumers.alerts.rules import Where
from consumers.reader import Operation, StateReader
from consumers.register import read_versions
from consumers.views.completeness import COST, METRICS, Completeness, read_completeness
from consumers.views.figures import (
    Cells,
    Figures,
    Group,
    cover_names,
    figures_of,
    filters_of,
    groups_of,
    narrow,
    span,
)
from consumers.views.rankings import (
    ErrorRow,
    ExpensiveRun,
    LeftOut,
    NameRow,
    read_errors,
    read_expensive,
    read_names,
)
from consumers.views.states import StateFigures, states_of
from consumers.windows import DAY, HOUR_S, Window, cover
from pipeline.connection import AsyncServer
from pipeline.errors import TransientError
from pipeline.keys import Keys
from pipeline.limits import MAX_TIME_US
from pipeline.presence import read_partitions
from pipeline.units import US_PER_S

By: TypeAlias = Literal["agent", "model", "state", "session", "user", "tag", "tenant", "service", "error"]
"""What a report can be grouped by; session, user, tag and error are marginals: whole hours, and fewer figures."""

MARGINALS: Final = frozenset[By]({"session", "user", "tag", "error"})

EVERYTHING: Final = Where()
"""No filter."""

MOST_TOP_ERRORS: Final = 5
"""Types of errors that each report names, whatever it is grouped by."""

MOST_SLOWEST: Final = 1_000
"""Slowest operations that are read of a window, so that some are left where they are narrowed to an agent."""

_EVENTS_AHEAD_S: Final = HOUR_S
"""An event dated further ahead is dead-lettered, so no window beyond holds anything."""

_READS: Final = 20
"""A report is read anew where what it reads was moved meanwhile; a swap moves nothing."""


class Range(Struct, frozen=True):
    """Event time from `from_s` to `until_s` (exclusive), seconds since 1970."""

    from_s: int
    until_s: int


class Report(Struct, frozen=True):
    """Everything a report says. `covered` is what the windows hold of `asked`; `names` likewise for marginals.

    By agent, model, state, tenant or service there are `groups` (by state `states` besides), by session, user or tag
    `rows`, by error the `errors` are all that were asked for. `most` is how many rows of a list that was; `left_out` is
    how many the list of `by` has not. `where` narrows what the joint cells hold, and no list of `not_narrowed`.
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
    where: Where = EVERYTHING
    states: Sequence[StateFigures] = ()

    @property
    def metrics_known(self) -> bool:
        """Whether requests, tokens, latencies, runs and errors are known."""
        return self.completeness.known(METRICS)

    @property
    def cost_known(self) -> bool:
        """Whether costs are known."""
        return self.completeness.known(COST)

    @property
    def not_narrowed(self) -> list[str]:
        """What the filters do not narrow, or not by all of them: marginals know no other dimension, runs their agent.

        Named as in the JSON document.
        """
        filters = filters_of(self.where)
        if not filters:
            return []
        groups = ["groups"] if self.by in MARGINALS else []
        of_runs = [] if filters.keys() == {"agent"} else ["expensive_operations", "slowest_operations"]
        return [*groups, "top_errors", *of_runs]

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
    where: Where = EVERYTHING,
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
        where: What to narrow it to, as far as the state keeps lists by it: see `Report.not_narrowed`.

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
        report = await _read(reader, asked, windows, names, by=by, now_s=now_s, most=most, where=where)
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
    where: Where,
) -> Report:
    completeness = await read_completeness(reader, span(names))
    of_metrics = narrow(await reader.cells(METRICS, windows), where)
    of_cost = narrow(await reader.cells(COST, windows), where)
    rows, left_out = await _rows(reader, names, completeness, by, most)
    most_errors = most if by == "error" else MOST_TOP_ERRORS
    errors, errors_left_out = await read_errors(reader, names, most_errors, now_s)
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
        expensive=await read_expensive(reader, names, most, where.agent),
        slowest=await _slowest(reader, windows, most, where.agent),
        completeness=completeness,
        most=most,
        where=where,
        states=states_of(of_metrics, of_cost) if by == "state" else [],
    )


def _windows(asked: Range, now_s: int) -> tuple[list[Window], list[Window]]:
    since_s = max(asked.from_s, DAY.start_of(now_s - DAY.kept_s))
    if asked.until_s <= since_s:
        raise ValueError(f"nothing of that range is kept any more: the oldest windows are of {since_s}")
    until_s = max(since_s + 1, min(asked.until_s, now_s + _EVENTS_AHEAD_S))
    return list(cover(since_s, until_s, now_s)), list(cover_names(since_s, until_s, now_s))


def _groups(of_metrics: Cells, of_cost: Cells, by: By) -> list[Group]:
    match by:
        case "agent" | "model" | "state" | "tenant" | "service":
            return groups_of(of_metrics, of_cost, by)
        case "session" | "user" | "tag" | "error":
            return []
        case _:
            assert_never(by)


async def _slowest(reader: StateReader, windows: Sequence[Window], most: int, agent: str) -> list[Operation]:
    found = await reader.slowest(windows, max(most, MOST_SLOWEST) if agent else most)
    return [operation for operation in found if agent in {"", operation.agent}][:most]


async def _rows(
    reader: StateReader, windows: Sequence[Window], completeness: Completeness, by: By, most: int
) -> tuple[Sequence[NameRow], LeftOut]:
    match by:
        case "session" | "user" | "tag":
            return await read_names(reader, windows, completeness, by, most)
        case "agent" | "model" | "state" | "tenant" | "service" | "error":
            return [], LeftOut()
        case _:
            assert_never(by)
