"""Sessions that are going on: what the stream last told of them, what the state counted, and where they stand.

Keeps: what nobody told is None; a state that the part of the stream that was looked at says nothing of is not guessed.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from consumers.reader import StateReader
from consumers.views.completeness import read_completeness
from consumers.views.inflight import InFlight
from consumers.views.rankings import NameRow, read_rows
from consumers.views.report import Range
from consumers.views.sessions import SessionFollower, SessionSeen
from consumers.views.states import StateFigures
from consumers.views.trend import range_windows
from consumers.windows import MARGINAL_HOUR, MINUTE_S
from pipeline.units import US_PER_MS, US_PER_S

QUIET_US: Final = 30 * MINUTE_S * US_PER_S
"""A session that nothing was heard of for so long, and that has not reached a last state, counts as abandoned."""

STANDINGS: Final = ("stuck", "long", "active", "quiet", "ended")
"""Where a session can stand, what asks for somebody first."""

LEAST_LONG_US: Final = MINUTE_S * US_PER_S
"""Below a minute no stay counts as long, whatever others took."""

_LEAST_VISITS: Final = 20
"""Visits from which on "95 % of them" means something."""


class LiveLook(Struct, frozen=True):
    """Sessions as the stream last told of them, and what the state counted of those heard of last.

    `since_ms`: from which broker time on the stream was looked at, None where it was empty.
    """

    now_us: int
    since_ms: int | None
    sessions: Sequence[SessionSeen]
    counted: dict[str, NameRow]
    counted_range: Range


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


async def read_live(reader: StateReader, follower: SessionFollower, most: int, hung: Collection[str] = ()) -> LiveLook:
    """Read sessions, the last to be heard of first, and what was counted of `most` of them, of `hung` ones first.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    everyone = await follower.look(reader.partitions)
    sessions = sorted(everyone, key=lambda seen: seen.session not in hung)[:most]
    now_s = int((await reader.server.call("TIME"))[0])
    # The hours that the shown sessions can have begun in, as far as hours of names are kept.
    first_s = min((seen.first_us // US_PER_S for seen in sessions), default=now_s)
    since_s = max(now_s - MARGINAL_HOUR.kept_s, min(first_s, now_s))
    _, names = range_windows(Range(since_s, now_s + 1), now_s)
    counted_range = Range(names[0][1], names[-1][1] + names[-1][0].width_s)
    completeness = await read_completeness(reader, (now_s, now_s))
    counted = await read_rows(reader, names, completeness, "session", [seen.session for seen in sessions])
    return LiveLook(time.time_ns() // 1_000, follower.since_ms, everyone, counted, counted_range)


def live_sessions(look: LiveLook, states: Sequence[StateFigures], open_now: Sequence[InFlight]) -> list[LiveSession]:
    """Return where sessions stand: those that ask for somebody first, the ended last.

    Args:
        look: The sessions.
        states: What is known of the states: how long sessions usually stay there, and which of them are the last.
        open_now: Operations that have begun and not ended.
    """
    by_name = {state.name: state for state in states}
    open_ms: dict[str, int] = {}
    for row in open_now:
        session = row.operation.session
        open_ms[session] = max(row.open_ms, open_ms.get(session, 0))
    rows = [_live(seen, look, by_name, open_ms.get(seen.session)) for seen in look.sessions]
    # Of those that stand alike, the ones whose figures were read.
    return sorted(rows, key=lambda row: (STANDINGS.index(row.standing), row.total_tokens is None))


def standings_of(rows: Sequence[LiveSession]) -> dict[str, int]:
    """Return how many sessions stand where."""
    return {standing: sum(row.standing == standing for row in rows) for standing in STANDINGS}


def _live(seen: SessionSeen, look: LiveLook, states: Mapping[str, StateFigures], open_ms: int | None) -> LiveSession:
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
    if open_ms is not None and open_ms * US_PER_MS > LEAST_LONG_US // 2:
        return "stuck"
    if state is not None and state.is_last:
        return "ended"
    if quiet_us > QUIET_US:
        return "quiet"
    if state is None or in_state_us is None or state.figures.visit_time.count < _LEAST_VISITS:
        return "active"
    usual_us = max(state.figures.visit_time.p95_us or 0, LEAST_LONG_US)
    return "long" if in_state_us > usual_us else "active"
