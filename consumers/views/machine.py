"""The application's state machine in a range: its states, the ways between them, who is stuck, two versions compared.

Keeps: a list that a filter cannot narrow stays whole and says so.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from consumers.alerts.rules import Where
from consumers.reader import StateReader
from consumers.register import read_versions
from consumers.views.completeness import COST, METRICS, Completeness, read_completeness
from consumers.views.figures import filters_of, narrow, span
from consumers.views.live import LiveSession, live_sessions, read_live
from consumers.views.rankings import Edges, read_edges
from consumers.views.report import EVERYTHING, Range
from consumers.views.sessions import SessionFollower, SessionSeen
from consumers.views.states import StateChange, StateFigures, VersionUse, compared, states_of, versions_of
from consumers.views.status import read_status
from consumers.views.trend import range_windows
from pipeline.connection import AsyncServer
from pipeline.keys import Keys
from pipeline.presence import read_partitions

MOST_EDGES: Final = 100
MOST_SESSIONS: Final = 50
"""Of the sessions that were heard of last."""


class Machine(Struct, frozen=True):
    """Everything that `sidestream states` says.

    `sessions` are those that the stream told of since `since_ms` (broker time; None where it was empty), as far back as
    it was looked at; `pair` the two versions that are compared, if any are.
    """

    namespace: str
    now_s: int
    covered: Range
    names: Range
    where: Where
    states: Sequence[StateFigures]
    edges: Edges
    sessions: Sequence[LiveSession]
    since_ms: int | None
    versions: Sequence[VersionUse]
    pair: tuple[str, str] | None
    changes: Sequence[StateChange]
    completeness: Completeness

    @property
    def metrics_known(self) -> bool:
        """Whether visits and times are known."""
        return self.completeness.known(METRICS)

    @property
    def cost_known(self) -> bool:
        """Whether costs are known."""
        return self.completeness.known(COST)

    @property
    def not_narrowed(self) -> list[str]:
        """What the filters do not narrow, or not by all of them, named as in the JSON document."""
        filters = filters_of(self.where)
        sessions = ["sessions"] if filters.keys() - {"service", "state"} else []
        return ["transitions", *sessions] if filters else []


async def read_machine(  # noqa: PLR0913 - a query and what it asks for, by name
    server: AsyncServer,
    keys: Keys,
    *,
    since_s: int,
    now_s: int,
    until_s: int | None = None,
    where: Where = EVERYTHING,
    pair: tuple[str, str] | None = None,
) -> Machine:
    """Read the state machine from `since_s` (seconds since 1970) up to now, or up to `until_s`.

    Args:
        server: Where the state is.
        keys: Those of the namespace.
        since_s: Nothing is kept for longer than two years.
        now_s: The broker's time.
        until_s: Where the range has ended; then there are no sessions, for these are of now.
        where: What to narrow it to, as far as that is kept: see `Machine.not_narrowed`.
        pair: Two versions of the application to compare.

    Raises:
        ValueError: The range is empty, or older than anything that is kept.
        SidestreamError: See `AsyncServer.call`.
    """
    windows, names = range_windows(Range(max(0, since_s), now_s + 1 if until_s is None else until_s), now_s)
    partitions = await read_partitions(server, keys)
    reader = StateReader(server, keys, partitions, await read_versions(server, keys))
    # Before the windows, so that these hold everything that it promises.
    completeness = await read_completeness(reader, span(names))
    of_metrics = await reader.cells(METRICS, windows)
    of_cost = await reader.cells(COST, windows)
    usual = states_of(of_metrics, of_cost)
    of_metrics, of_cost = narrow(of_metrics, where), narrow(of_cost, where)
    sessions, since_ms = await _sessions(reader, usual, where) if until_s is None else ([], None)
    return Machine(
        namespace=keys.namespace,
        now_s=now_s,
        covered=Range(*span(windows)),
        names=Range(*span(names)),
        where=where,
        states=states_of(of_metrics, of_cost),
        edges=await read_edges(reader, names, MOST_EDGES),
        sessions=sessions,
        since_ms=since_ms,
        versions=versions_of(of_metrics),
        pair=pair,
        changes=compared(of_metrics, of_cost, *pair) if pair else [],
        completeness=completeness,
    )


async def _sessions(
    reader: StateReader, usual: Sequence[StateFigures], where: Where
) -> tuple[list[LiveSession], int | None]:
    """Return the sessions that go on, and from which broker time on they are known."""
    live = await read_live(reader, SessionFollower(reader.server, reader.keys), MOST_SESSIONS)
    in_flight = (await read_status(reader.server, reader.keys, reader.partitions)).in_flight
    return [row for row in live_sessions(live, usual, in_flight) if is_of(row.seen, where)], live.since_ms


def is_of(seen: SessionSeen, where: Where) -> bool:
    """Tell whether a session is of the service and state that are filtered; it is known by no other dimension."""
    wanted = ((where.service, seen.service), (where.state, seen.state))
    return all(not value or value == found for value, found in wanted)
