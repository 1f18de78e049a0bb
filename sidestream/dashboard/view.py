"""One view: the figures of an address, put together from what was read. Nothing here reads, or knows HTML.

Keeps:
- Totals and breakdowns are reports (`consumers.views.report`), so the page cannot say anything else than `report` does.
- A list that a filter cannot narrow stays whole and says so; it is never narrowed by guessing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from msgspec import Struct

from consumers.alerts.rules import Where
from consumers.reader import Operation
from consumers.state import CELL_DIMENSIONS, OTHER
from consumers.views.figures import Figures, Group, figures_of, groups_of
from consumers.views.report import By, ExpensiveRun, LeftOut, Report
from consumers.views.sessions import SessionSeen
from consumers.views.states import StateChange, StateFigures, VersionUse, compared, states_of, versions_of
from consumers.views.trend import RangeCells, Step, names_in, narrow
from consumers.windows import HOUR_S, MINUTE_S
from pipeline.errors import SidestreamError
from pipeline.units import US_PER_S
from sidestream.dashboard.address import DIMENSIONS, Address
from sidestream.dashboard.comparison import versions_in_order
from sidestream.dashboard.shared import Held
from sidestream.dashboard.sources import (
    MOST_OPERATIONS,
    AlertsLook,
    DaysLook,
    LiveLook,
    PaceLook,
    PipelineLook,
    RangeLook,
    Sources,
)

NOW_MINUTES: Final = 5
"""Minutes that "now" is: fewer would jump with every single run."""

QUIET_US: Final = 30 * MINUTE_S * US_PER_S
"""A session that nothing was heard of for so long, and that has not reached a last state, counts as abandoned."""

_VERSION: Final = CELL_DIMENSIONS.index("version")
_ORDER: Final = ("stuck", "long", "active", "quiet", "ended")

LEAST_LONG_US: Final = MINUTE_S * US_PER_S
"""Below a minute no stay counts as long, whatever others took."""

_LEAST_VISITS: Final = 20
"""Visits from which on "95 % of them" means something."""


class Point(Struct, frozen=True):
    """One step of a trend: its start, and its figures."""

    start_s: int
    figures: Figures


class Pace(Struct, frozen=True):
    """What is spent now, by the hour; the last hour and the one before. None of a cost is unknown.

    `now_nano_usd` is what an hour costs at the rate of the last `NOW_MINUTES` minutes, of which the last runs.
    """

    now_nano_usd: int | None
    hour: Figures
    before: Figures
    minutes: Sequence[Point]


class LiveSession(Struct, frozen=True):
    """One session that was heard of lately.

    `standing` is `active`; `long` where it has stayed in its state longer than 95 % of visits there; `stuck` where an
    operation of it has been open for long, or its producer fell silent over it; `quiet` where nothing was heard for
    half an hour; `ended` where it is in a state that no session leaves.
    """

    seen: SessionSeen
    standing: str
    in_state_us: int | None
    quiet_us: int
    open_ms: int | None
    total_tokens: int | None
    cost_nano_usd: int | None
    unpriced_requests: int | None
    errors: int | None


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
        return [_point(step) for step in self.cells.steps]

    @cached_property
    def pace(self) -> Pace | None:
        """What is spent now."""
        if self.pace_look is None:
            return None
        hour, before = self.pace_look.hour.narrowed(self.where), self.pace_look.before.narrowed(self.where)
        minutes = [_point(step) for step in hour.steps]
        return Pace(
            now_nano_usd=_rate_now(minutes, self.pace_look.now_s) if self.by_agent.cost_known else None,
            hour=figures_of(hour.of_metrics, hour.of_cost),
            before=figures_of(before.of_metrics, before.of_cost),
            minutes=minutes,
        )

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
        states = {state.name: state for state in states_of(self.look.cells.of_metrics, self.look.cells.of_cost)}
        wanted = [seen for seen in self.live_look.sessions if self._matches(seen)]
        rows = [_live(seen, self.live_look, states, self._open_ms.get(seen.session)) for seen in wanted]
        # Of those that stand alike, the ones whose figures were read.
        return sorted(rows, key=lambda row: (_ORDER.index(row.standing), row.total_tokens is None))

    @cached_property
    def _open_ms(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in self.pipeline.status.in_flight if self.pipeline else ():
            found[row.operation.session] = max(row.open_ms, found.get(row.operation.session, 0))
        return found

    @property
    def sessions_of_range(self) -> tuple[int, bool]:
        """How many sessions did anything in the hours of the range, and whether there may be more; of all of them."""
        rows = sum(row.name != OTHER for row in self.look.sessions)
        left_out = self.look.sessions_left_out
        return rows + left_out.count, left_out.at_least or rows < len(self.look.sessions)

    def _matches(self, seen: SessionSeen) -> bool:
        covered = self.cells.covered
        if seen.last_us < covered.from_s * US_PER_S or seen.first_us >= covered.until_s * US_PER_S:
            return False
        wanted = ((self.where.service, seen.service), (self.where.state, seen.state))
        return all(not value or value == found for value, found in wanted)

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
            groups=[] if by not in {"agent", "model", "state"} else self._groups(by),
            rows=look.sessions if is_session else [],
            errors=look.errors,
            errors_left_out=look.errors_left_out,
            left_out=look.sessions_left_out if is_session else LeftOut(),
            expensive=look.expensive if self.agent_runs is None else self.agent_runs,
            slowest=self._slowest(),
            completeness=look.completeness,
            most=MOST_OPERATIONS,
        )

    def _groups(self, by: By) -> list[Group]:
        match by:
            case "agent" | "model" | "state":
                return groups_of(self.cells.of_metrics, self.cells.of_cost, by)
            case _:
                return []

    def _slowest(self) -> list[Operation]:
        return [found for found in self.look.slowest if self.where.agent in {"", found.agent}][:MOST_OPERATIONS]


async def read_view(sources: Sources, address: Address) -> View:
    """Read what an address shows.

    Raises:
        ValueError: Its range is older than anything that is kept.
        SidestreamError: It cannot be read, and never was.
    """
    held, alerts = await sources.range(address.span), await sources.alerts()
    agent = address.where.agent
    runs = await sources.runs(address.span, agent) if agent else None
    pace = await sources.pace() if address.view == "overview" else None
    days = await sources.days() if address.view == "cost" else None
    live = await sources.live() if address.view == "sessions" else None
    pipeline = await sources.pipeline() if address.view in {"overview", "sessions", "alerts", "pipeline"} else None
    parts = [part for part in (held, alerts, runs, pace, days, live, pipeline) if part is not None]
    return View(
        address=address,
        held=held,
        alerts=alerts.value,
        agent_runs=runs and runs.value,
        pace_look=pace and pace.value,
        days_look=days and days.value,
        live_look=live and live.value,
        pipeline=pipeline and pipeline.value,
        stamps=tuple(part.stamp for part in parts),
        error=next((part.error for part in parts if part.error), None),
    )


def _point(step: Step) -> Point:
    return Point(step.start_s, figures_of(step.of_metrics, step.of_cost))


def _rate_now(minutes: Sequence[Point], now_s: int) -> int:
    # The minute that runs is one of them, as far as it has come.
    first_s = now_s - now_s % MINUTE_S - (NOW_MINUTES - 1) * MINUTE_S
    spent = sum(point.figures.cost_nano_usd for point in minutes if point.start_s >= first_s)
    return spent * HOUR_S // (now_s + 1 - first_s)


def _live(seen: SessionSeen, look: LiveLook, states: dict[str, StateFigures], open_ms: int | None) -> LiveSession:
    counted = look.counted.get(seen.session)
    quiet_us = max(0, look.now_us - seen.last_us)
    in_state_us = None if seen.since_us is None else max(0, look.now_us - seen.since_us)
    return LiveSession(
        seen=seen,
        standing=_standing(states.get(seen.state or ""), in_state_us, quiet_us, open_ms),
        in_state_us=in_state_us,
        quiet_us=quiet_us,
        open_ms=open_ms,
        total_tokens=counted and counted.total_tokens,
        cost_nano_usd=counted and counted.cost_nano_usd,
        unpriced_requests=counted and counted.unpriced_requests,
        errors=counted and counted.errors,
    )


def _standing(state: StateFigures | None, in_state_us: int | None, quiet_us: int, open_ms: int | None) -> str:
    if open_ms is not None and open_ms * 1_000 > LEAST_LONG_US // 2:
        return "stuck"
    if state is not None and state.is_last:
        return "ended"
    if quiet_us > QUIET_US:
        return "quiet"
    if state is None or in_state_us is None or state.figures.visit_time.count < _LEAST_VISITS:
        return "active"
    usual_us = max(state.figures.visit_time.p95_us or 0, LEAST_LONG_US)
    return "long" if in_state_us > usual_us else "active"
