"""The one place where the page reads Redis: what it shows, read for all who look at the same.

Keeps: it only reads. Everything comes from `consumers.views`, from which the report and `status` come too.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

import msgspec
from msgspec import Struct

from consumers.alerts.store import AlertRow, Incident, read_alerts, read_incidents
from consumers.reader import Operation, StateReader
from consumers.register import read_versions
from consumers.views.completeness import COST, Completeness, read_completeness
from consumers.views.dead_letters import StoredLetter, read_dead_letters
from consumers.views.flow import rates_between
from consumers.views.live import LiveLook, read_counted, read_live
from consumers.views.machine import MOST_EDGES, MOST_SESSIONS
from consumers.views.rankings import Edges, read_edges, read_errors, read_expensive, read_names
from consumers.views.report import MOST_SLOWEST, MOST_TOP_ERRORS, ErrorRow, ExpensiveRun, LeftOut, NameRow, Range
from consumers.views.sessions import SessionFollower
from consumers.views.status import Status, read_status
from consumers.views.timeline import OneSession, TimelineFollower, read_session
from consumers.views.trend import RangeCells, Step, range_windows, read_days, read_range_cells
from consumers.windows import HOUR_S
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.presence import read_partitions
from sidestream.dashboard.address import Span
from sidestream.dashboard.shared import Held, Shared

DAYS: Final = 30
MOST_OPERATIONS: Final = 10
"""The guide's "top 10"."""

MOST_INCIDENTS: Final = 20
MOST_LETTERS: Final = 10
_MOST_FOLLOWED: Final = 8
"""Sessions that are followed one by one at a time: each holds up to 2,000 events."""


class RangeLook(Struct, frozen=True):
    """Everything of a range, read together."""

    now_s: int
    namespace: str
    cells: RangeCells
    completeness: Completeness
    sessions: Sequence[NameRow]
    sessions_left_out: LeftOut
    expensive: Sequence[ExpensiveRun]
    slowest: Sequence[Operation]
    errors: Sequence[ErrorRow]
    errors_left_out: LeftOut
    edges: Edges


class PaceLook(Struct, frozen=True):
    """The last hour by the minute, and the hour before it."""

    now_s: int
    hour: RangeCells
    before: RangeCells


class DaysLook(Struct, frozen=True):
    """The cost of the last days; `catalogue` is the price list that estimates are made with, empty where unknown."""

    now_s: int
    days: Sequence[Step]
    catalogue: str = ""


class AlertsLook(Struct, frozen=True):
    """Where every rule stands, and the last incidents; `now_s` is the broker's time."""

    now_s: int
    rules: Sequence[AlertRow]
    incidents: Sequence[Incident]


class PipelineLook(Struct, frozen=True):
    """The state of the pipeline; `rates` are events a second by handler, None where nobody has looked for long enough.

    `measured_s` is the time that the rates are of.
    """

    status: Status
    letters: Sequence[StoredLetter]
    rates: dict[str, float] | None
    measured_s: float


@dataclass(slots=True)
class Sources:
    """Reads one namespace for the page."""

    server: AsyncServer
    keys: Keys
    shared: Shared = field(default_factory=Shared)
    _follower: SessionFollower = field(init=False)
    _timelines: OrderedDict[str, TimelineFollower] = field(default_factory=OrderedDict[str, TimelineFollower])
    _before: Status | None = None

    def __post_init__(self) -> None:
        self._follower = SessionFollower(self.server, self.keys)

    async def range(self, span: Span) -> Held[RangeLook]:
        """Return everything of a range.

        Raises:
            ValueError: The range is older than anything that is kept.
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get(("range", span), partial(self._read_range, span))

    async def runs(self, span: Span, agent: str) -> Held[list[ExpensiveRun]]:
        """Return the most expensive runs of an agent.

        Raises:
            ValueError: The range is older than anything that is kept.
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get(("runs", span, agent), partial(self._read_runs, span, agent))

    async def pace(self) -> Held[PaceLook]:
        """Return the last hour and the one before.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get("pace", self._read_pace)

    async def days(self) -> Held[DaysLook]:
        """Return the last thirty days.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get("days", self._read_days)

    async def live(self) -> Held[LiveLook]:
        """Return the sessions that are going on.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get("live", self._read_live)

    async def counted(self, sessions: tuple[str, ...], first_us: int) -> Held[dict[str, NameRow]]:
        """Return what was counted of some sessions, the first of which began at `first_us`.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get(("counted", sessions), partial(self._read_counted, sessions, first_us))

    async def session(self, name: str) -> Held[OneSession]:
        """Return one session.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get(("session", name), partial(self._read_session, name))

    async def alerts(self) -> Held[AlertsLook]:
        """Return the alerts.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get("alerts", self._read_alerts)

    async def pipeline(self) -> Held[PipelineLook]:
        """Return the state of the pipeline.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        return await self.shared.get("pipeline", self._read_pipeline)

    async def _reader(self) -> StateReader:
        partitions = await read_partitions(self.server, self.keys)
        return StateReader(self.server, self.keys, partitions, await read_versions(self.server, self.keys))

    async def _now_s(self) -> int:
        return int((await self.server.call("TIME"))[0])

    async def _read_range(self, span: Span) -> RangeLook:
        now_s = await self._now_s()
        asked = span.at(now_s)
        windows, names = range_windows(asked, now_s)
        reader = await self._reader()
        # Before the windows, so that these hold everything that it promises.
        covered_s = names[0][1], names[-1][1] + names[-1][0].width_s
        completeness = await read_completeness(reader, covered_s)
        cells = await read_range_cells(reader, asked, now_s)
        sessions, sessions_left_out = await read_names(reader, names, completeness, "session", MOST_OPERATIONS)
        errors, errors_left_out = await read_errors(reader, names, MOST_TOP_ERRORS, now_s)
        return RangeLook(
            now_s=now_s,
            namespace=self.keys.namespace,
            cells=cells,
            completeness=completeness,
            sessions=sessions,
            sessions_left_out=sessions_left_out,
            expensive=await read_expensive(reader, names, MOST_OPERATIONS),
            slowest=await reader.slowest(windows, MOST_SLOWEST),
            errors=errors,
            errors_left_out=errors_left_out,
            edges=await read_edges(reader, names, MOST_EDGES),
        )

    async def _read_runs(self, span: Span, agent: str) -> list[ExpensiveRun]:
        now_s = await self._now_s()
        _, names = range_windows(span.at(now_s), now_s)
        return await read_expensive(await self._reader(), names, MOST_OPERATIONS, agent)

    async def _read_pace(self) -> PaceLook:
        now_s, reader = await self._now_s(), await self._reader()
        hour = await read_range_cells(reader, Range(now_s - HOUR_S, now_s + 1), now_s)
        before = await read_range_cells(reader, Range(now_s - 2 * HOUR_S, now_s - HOUR_S), now_s)
        return PaceLook(now_s, hour, before)

    async def _read_days(self) -> DaysLook:
        now_s = await self._now_s()
        days = await read_days(await self._reader(), now_s, DAYS)
        recipes = await self.server.call("LRANGE", self.keys.partition(0).unit(COST).recipes(), -1, -1)
        return DaysLook(now_s, days, _catalogue_of(recipes))

    async def _read_live(self) -> LiveLook:
        hung = {row.operation.session for row in self._before.in_flight} if self._before else set[str]()
        return await read_live(await self._reader(), self._follower, MOST_SESSIONS, hung)

    async def _read_counted(self, sessions: tuple[str, ...], first_us: int) -> dict[str, NameRow]:
        return (await read_counted(await self._reader(), sessions, first_us))[0]

    async def _read_session(self, name: str) -> OneSession:
        follower = self._timelines.setdefault(name, TimelineFollower(self.server, self.keys, name))
        self._timelines.move_to_end(name)
        if len(self._timelines) > _MOST_FOLLOWED:
            self._timelines.popitem(last=False)
        return await read_session(await self._reader(), follower)

    async def _read_alerts(self) -> AlertsLook:
        rules = await read_alerts(self.server, self.keys)
        incidents = await read_incidents(self.server, self.keys, MOST_INCIDENTS)
        return AlertsLook(await self._now_s(), rules, incidents)

    async def _read_pipeline(self) -> PipelineLook:
        partitions = await read_partitions(self.server, self.keys)
        status = await read_status(self.server, self.keys, partitions)
        letters = await read_dead_letters(self.server, self.keys, partitions, most=MOST_LETTERS)
        rates, measured_s = rates_between(self._before, status)
        self._before = status
        return PipelineLook(status, letters[:MOST_LETTERS], rates, measured_s)


def _catalogue_of(recipes: Sequence[bytes]) -> str:
    """Return the catalogue of the newest recipe of a unit, as stored: cursor, hash and the recipe as JSON."""
    found: object = None
    if recipes:
        with suppress(msgspec.DecodeError, IndexError):
            found = msgspec.json.decode(recipes[-1].split(b" ", 2)[2])
    known = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    name = known.get("catalogue", "")
    return name if isinstance(name, str) else ""
