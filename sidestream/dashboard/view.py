"""One view: the figures of an address, put together from what was read. Nothing here reads, or knows HTML.

Keeps:
- Totals and breakdowns are reports (`consumers.views.report`), so the page cannot say anything else than `report` does.
- A list that a filter cannot narrow stays whole and says so; it is never narrowed by guessing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from msgspec import structs

from consumers.alerts.rules import Where
from consumers.reader import Operation
from consumers.state import CELL_DIMENSIONS, OTHER
from consumers.views.figures import Figures, Group, figures_of, groups_of, narrow
from consumers.views.inflight import InFlight
from consumers.views.live import LiveLook, LiveSession, live_sessions
from consumers.views.machine import is_of
from consumers.views.pace import Pace, pace_of
from consumers.views.report import By, ExpensiveRun, LeftOut, NameRow, Report
from consumers.views.sessions import SessionSeen
from consumers.views.states import StateChange, StateFigures, VersionUse, compared, states_of, versions_of
from consumers.views.timeline import OneSession, stands
from consumers.views.trend import Point, RangeCells, names_in, point_of
from pipeline.errors import SidestreamError
from pipeline.units import US_PER_S
from sidestream.dashboard.address import DIMENSIONS, SESSION, Address, AddressError
from sidestream.dashboard.comparison import versions_in_order
from sidestream.dashboard.shared import Held
from sidestream.dashboard.sources import (
    MOST_OPERATIONS,
    MOST_SESSIONS,
    AlertsLook,
    DaysLook,
    PaceLook,
    PipelineLook,
    RangeLook,
    Sources,
)

_VERSION: Final = CELL_DIMENSIONS.index("version")
_OF_PIPELINE: Final = frozenset({"overview", "sessions", "alerts", "pipeline", SESSION})
"""Views that show something of the pipeline's state, such as what is open."""


@dataclass(frozen=True)
class View:
    """What a page shows of an address."""

    address: Address
    held: Held[RangeLook]
    alerts: AlertsLook
    agent_runs: Sequence[ExpensiveRun] | None = None
    """The dearest runs of the agent that is filtered, if one is."""
    pace_look: PaceLook | None = None
    days_look: DaysLook | None = None
    live_look: LiveLook | None = None
    more_counted: Mapping[str, NameRow] = field(default_factory=dict[str, NameRow])
    """Of sessions that are listed and were not heard of last."""

    session_look: OneSession | None = None
    pipeline: PipelineLook | None = None
    stamps: tuple[int, ...] = ()
    """Of everything that was read: a view of the same address and stamps shows the same."""
    error: SidestreamError | None = None
    """Why something could not be read anew; then what is shown is the last that was read."""

    @property
    def look(self) -> RangeLook:
        """What was read of the range."""
        return self.held.value

    @property
    def now_s(self) -> int:
        """The broker's time when the range was read."""
        return self.look.now_s

    @property
    def where(self) -> Where:
        """What is filtered."""
        return self.address.where

    @cached_property
    def cells(self) -> RangeCells:
        """The cells of the range that the filters leave."""
        return self.look.cells.narrowed(self.where)

    @cached_property
    def choices(self) -> dict[str, list[str]]:
        """What each filter can be set to: the names that occur in the range."""
        found = {name: names_in(self.look.cells, name) for name in DIMENSIONS}
        # What is set stays to be seen, also where nothing of it is left.
        for name, value in self.address.filters.items():
            if value not in found[name]:
                found[name].append(value)
        return found

    @cached_property
    def by_agent(self) -> Report:
        """The report by agent."""
        return self._report("agent")

    @cached_property
    def by_model(self) -> Report:
        """The report by model."""
        return self._report("model")

    @cached_property
    def by_state(self) -> Report:
        """The report by state."""
        return self._report("state")

    @cached_property
    def by_session(self) -> Report:
        """The report by session; no filter narrows its rows."""
        return self._report("session")

    @cached_property
    def totals(self) -> Figures:
        """The figures of everything that the filters leave."""
        return figures_of(self.cells.of_metrics, self.cells.of_cost)

    @cached_property
    def trend(self) -> list[Point]:
        """The figures of each step of the range."""
        return [point_of(step) for step in self.cells.steps]

    @cached_property
    def pace(self) -> Pace | None:
        """What is spent now."""
        if self.pace_look is None:
            return None
        look = self.pace_look
        hour, before = look.hour.narrowed(self.where), look.before.narrowed(self.where)
        return pace_of(hour, before, look.now_s, cost_known=self.by_agent.cost_known)

    @cached_property
    def days(self) -> list[Point]:
        """The cost of each of the last thirty days."""
        days = self.days_look.days if self.days_look else ()
        return [Point(day.start_s, figures_of({}, narrow(day.of_cost, self.where))) for day in days]

    @cached_property
    def states(self) -> list[StateFigures]:
        """What is known of every state of the application."""
        return states_of(self.cells.of_metrics, self.cells.of_cost)

    @cached_property
    def versions(self) -> list[VersionUse]:
        """The versions of the application that did anything."""
        return versions_of(self.cells.of_metrics)

    @cached_property
    def compared_versions(self) -> tuple[str, str] | None:
        """The two versions that are compared, the older first: those of the address, else the two busiest.

        None where there is one.
        """
        if not (self.address.before or self.address.after):
            return versions_in_order(self.versions, self.cells.steps, _VERSION)
        names = [use.version for use in self.versions]
        after = self.address.after or next((name for name in names if name != self.address.before), "")
        before = self.address.before or next((name for name in names if name != after), "")
        return (before, after) if before and after else None

    @cached_property
    def changes(self) -> list[StateChange]:
        """The states in both versions."""
        if self.compared_versions is None:
            return []
        return compared(self.cells.of_metrics, self.cells.of_cost, *self.compared_versions)

    @cached_property
    def live_sessions(self) -> list[LiveSession]:
        """The sessions of the range that the stream tells of: stuck ones and those long in a state first."""
        if self.live_look is None:
            return []
        states = states_of(self.look.cells.of_metrics, self.look.cells.of_cost)
        in_flight = self.pipeline.status.in_flight if self.pipeline else ()
        look = structs.replace(self.live_look, counted={**self.live_look.counted, **self.more_counted})
        return [row for row in live_sessions(look, states, in_flight) if self._matches(row.seen)]

    @cached_property
    def sessions_listed(self) -> list[LiveSession]:
        """Those of them that stand as the address asks."""
        wanted = self.address.standing
        return [row for row in self.live_sessions if wanted in {"", row.standing}]

    @cached_property
    def one_session(self) -> LiveSession | None:
        """Where the session that is looked at stands; None where the stream does not tell of it."""
        if self.session_look is None:
            return None
        states = states_of(self.look.cells.of_metrics, self.look.cells.of_cost)
        return stands(self.session_look, states, self.open_of_session)

    @cached_property
    def open_of_session(self) -> list[InFlight]:
        """Return what the session that is looked at has begun and not ended."""
        rows = self.pipeline.status.in_flight if self.pipeline else ()
        return [row for row in rows if row.operation.session == self.address.session]

    @property
    def sessions_of_range(self) -> tuple[int, bool]:
        """How many sessions did anything in the hours of the range, and whether there may be more; of all of them."""
        rows = sum(row.name != OTHER for row in self.look.sessions)
        left_out = self.look.sessions_left_out
        return rows + left_out.count, left_out.at_least or rows < len(self.look.sessions)

    def _matches(self, seen: SessionSeen) -> bool:
        covered = self.cells.covered
        in_range = seen.last_us >= covered.from_s * US_PER_S and seen.first_us < covered.until_s * US_PER_S
        return in_range and is_of(seen, self.where)

    def _report(self, by: By) -> Report:
        look, cells = self.look, self.cells
        is_session = by == "session"
        return Report(
            namespace=look.namespace,
            now_s=look.now_s,
            asked=cells.asked,
            covered=cells.covered,
            names=cells.names,
            by=by,
            totals=self.totals,
            groups=[] if is_session else self._groups(by),
            rows=look.sessions if is_session else [],
            errors=look.errors,
            errors_left_out=look.errors_left_out,
            left_out=look.sessions_left_out if is_session else LeftOut(),
            expensive=look.expensive if self.agent_runs is None else self.agent_runs,
            slowest=self._slowest(),
            completeness=look.completeness,
            most=MOST_OPERATIONS,
            where=self.where,
            states=self.states if by == "state" else [],
        )

    def _groups(self, by: By) -> list[Group]:
        match by:
            case "agent" | "model" | "state" | "tenant" | "service":
                return groups_of(self.cells.of_metrics, self.cells.of_cost, by)
            case _:
                return []

    def _slowest(self) -> list[Operation]:
        return [found for found in self.look.slowest if self.where.agent in {"", found.agent}][:MOST_OPERATIONS]


async def read_view(sources: Sources, address: Address) -> View:
    """Read what an address shows.

    Raises:
        AddressError: Its range is older than anything that is kept.
        SidestreamError: It cannot be read, and never was.
    """
    try:
        held = await sources.range(address.span)
    except ValueError as error:
        raise AddressError(str(error)) from error
    alerts = await sources.alerts()
    agent = address.where.agent
    runs = await sources.runs(address.span, agent) if agent else None
    pace = await sources.pace() if address.view == "overview" else None
    days = await sources.days() if address.view == "cost" else None
    live = await sources.live() if address.view == "sessions" else None
    session = await sources.session(address.session) if address.view == SESSION else None
    pipeline = await sources.pipeline() if address.view in _OF_PIPELINE else None
    parts = [part for part in (held, alerts, runs, pace, days, live, session, pipeline) if part is not None]
    view = View(
        address=address,
        held=held,
        alerts=alerts.value,
        agent_runs=runs and runs.value,
        pace_look=pace and pace.value,
        days_look=days and days.value,
        live_look=live and live.value,
        session_look=session and session.value,
        pipeline=pipeline and pipeline.value,
        stamps=tuple(part.stamp for part in parts),
        error=next((part.error for part in parts if part.error), None),
    )
    return await _with_counted(sources, view) if address.view == "sessions" else view


async def _with_counted(sources: Sources, view: View) -> View:
    """Return a view with what was counted of the sessions that it lists, whenever they were heard of."""
    held = view.live_look.counted if view.live_look else {}
    lacking = [row.seen for row in view.sessions_listed[:MOST_SESSIONS] if row.seen.session not in held]
    if not lacking:
        return view
    names, first_us = tuple(seen.session for seen in lacking), min(seen.first_us for seen in lacking)
    more = await sources.counted(names, first_us)
    return replace(view, more_counted=more.value, stamps=(*view.stamps, more.stamp))
