"""What people keep open: what is spent, how fast, what fails, who is stuck, and whether the pipeline can be trusted.

Keeps: each look reads the same bounded amount: the windows of an hour, what has come since the last look, the accounts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from consumers.alerts.store import AlertRow, read_alerts
from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.views.completeness import COST, METRICS, Completeness, read_completeness
from consumers.views.figures import Figures, Group, figures_of, groups_of
from consumers.views.flow import HandlerFlow, flows_of, rates_between
from consumers.views.live import LiveSession, live_sessions, read_live
from consumers.views.pace import now_from_s
from consumers.views.report import Range
from consumers.views.sessions import SessionFollower
from consumers.views.states import states_of
from consumers.views.status import Status, read_status
from consumers.views.trend import read_range_cells
from consumers.windows import HOUR_S
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.presence import read_partitions

MOST_SESSIONS: Final = 50
"""Of the sessions that were heard of last."""


class Top(Struct, frozen=True):
    """One look: the last minutes (`now`, of `now_s - from_s + 1` seconds), the last hour, and the pipeline.

    `flows` have no rates at the first look. `since_ms` is from which broker time on sessions are known.
    """

    namespace: str
    now_s: int
    from_s: int
    covered: Range
    now: Figures
    hour: Figures
    agents: Sequence[Group]
    sessions: Sequence[LiveSession]
    since_ms: int | None
    alerts: Sequence[AlertRow]
    status: Status
    flows: Sequence[HandlerFlow]
    completeness: Completeness

    @property
    def seconds(self) -> int:
        """How long the last minutes are."""
        return self.now_s + 1 - self.from_s

    @property
    def metrics_known(self) -> bool:
        """Whether requests, tokens, times and failures are known."""
        return self.completeness.known(METRICS)

    @property
    def cost_known(self) -> bool:
        """Whether costs are known."""
        return self.completeness.known(COST)

    @property
    def hourly_nano_usd(self) -> int | None:
        """What an hour costs at the rate of the last minutes; None where nobody knows."""
        cost = self.now.known_cost_nano_usd if self.cost_known else None
        return None if cost is None else cost * HOUR_S // self.seconds

    @property
    def alive(self) -> int:
        """Producers that are alive."""
        return sum(producer.life == "alive" for producer in self.status.producers)

    @property
    def silent(self) -> int:
        """Producers that died, or cannot reach Redis."""
        return sum(producer.life == "silent" for producer in self.status.producers)

    @property
    def firing(self) -> list[AlertRow]:
        """The rules that fire, or are about to."""
        return [row for row in self.alerts if row.status != "inactive"]


@dataclass(slots=True)
class TopReader:
    """Looks again and again; sessions and rates are known from look to look."""

    server: AsyncServer
    keys: Keys
    _follower: SessionFollower = field(init=False)
    _before: Status | None = None

    def __post_init__(self) -> None:
        self._follower = SessionFollower(self.server, self.keys)

    async def read(self) -> Top:
        """Look once.

        Raises:
            SidestreamError: See `AsyncServer.call`.
        """
        partitions = await read_partitions(self.server, self.keys)
        reader = StateReader(self.server, self.keys, partitions, await read_versions(self.server, self.keys))
        now_s = int((await self.server.call("TIME"))[0])
        # Before the windows, so that these hold everything that it promises.
        completeness = await read_completeness(reader, (now_s - HOUR_S, now_s))
        cells = await read_range_cells(reader, Range(now_s - HOUR_S, now_s + 1), now_s)
        status = await read_status(self.server, self.keys, partitions)
        rates, _ = rates_between(self._before, status)
        self._before = status
        live = await read_live(reader, self._follower, MOST_SESSIONS)
        from_s = now_from_s(now_s)
        return Top(
            namespace=self.keys.namespace,
            now_s=now_s,
            from_s=from_s,
            covered=cells.covered,
            now=figures_of(*cells.since(from_s)),
            hour=figures_of(cells.of_metrics, cells.of_cost),
            agents=groups_of(cells.of_metrics, cells.of_cost, "agent"),
            sessions=live_sessions(live, states_of(cells.of_metrics, cells.of_cost), status.in_flight),
            since_ms=live.since_ms,
            alerts=await read_alerts(self.server, self.keys),
            status=status,
            flows=flows_of(status, rates),
            completeness=completeness,
        )
