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

STUCK_MS: Final = 30_000
"""An operation that has been open for longer is worth a look, and its session hangs."""

LEAST_LONG_US: Final = MINUTE_S * US_PER_S
"""Below a minute no stay counts as long, whatever others took, and no silence as an end."""

_SETTLES_US: Final = 10 * US_PER_S
"""A run that takes its session into the last state ends a little later."""

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
    half an hour; `ended` where it is in a state that no session leaves, and does nothing there.
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
    first_us = min((seen.first_us for seen in sessions), default=None)
    counted, counted_range = await read_counted(reader, [seen.session for seen in sessions], first_us)
    return LiveLook(time.time_ns() // 1_000, follower.since_ms, everyone, counted, counted_range)


async def read_counted(
    reader: StateReader, sessions: Sequence[str], first_us: int | None
) -> tuple[dict[str, NameRow], Range]:
    """Read what the state counted of sessions, and of which hours.

    Args:
        reader: Of which state.
        sessions: Their names; one that is nowhere is left out.
        first_us: When the first of them began, as events have it; None: now. Hours of names are kept for two days.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    now_s = int((await reader.server.call("TIME"))[0])
    since_s = now_s if first_us is None else min(first_us // US_PER_S, now_s)
    _, names = range_windows(Range(max(now_s - MARGINAL_HOUR.kept_s, since_s), now_s + 1), now_s)
    completeness = await read_completeness(reader, (now_s, now_s))
    counted = await read_rows(reader, names, completeness, "session", sessions)
    return counted, Range(names[0][1], names[-1][1] + names[-1][0].width_s)


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
    told = [*look.sessions, *_untold(look, open_now)]
    rows = [_live(seen, look, by_name, open_ms.get(seen.session)) for seen in told]
    return sorted(rows, key=_urgency)


def _urgency(row: LiveSession) -> tuple[int, bool, int]:
    """Return the order: who asks for somebody for longest comes first; of the others, whose figures are known."""
    place = STANDINGS.index(row.standing)
    if row.standing == "stuck":
        return place, False, -(row.open_ms or 0)
    if row.standing == "long":
        return place, False, -(row.in_state_us or 0)
    return place, row.total_tokens is None, row.quiet_us


def standings_of(rows: Sequence[LiveSession]) -> dict[str, int]:
    """Return how many sessions stand where."""
    return {standing: sum(row.standing == standing for row in rows) for standing in STANDINGS}


def _untold(look: LiveLook, open_now: Sequence[InFlight]) -> list[SessionSeen]:
    """Return sessions of which nothing has been told but that something is open: they hang in their first request."""
    told = {seen.session for seen in look.sessions}
    found: dict[str, SessionSeen] = {}
    for row in open_now:
        session, began_us = row.operation.session, look.now_us - row.open_ms * US_PER_MS
        if session and session not in told and (session not in found or began_us < found[session].first_us):
            found[session] = SessionSeen(session, row.service, began_us, began_us, agent=row.operation.agent)
    return list(found.values())


def _live(seen: SessionSeen, look: LiveLook, states: Mapping[str, StateFigures], open_ms: int | None) -> LiveSession:
    counted = look.counted.get(seen.session)
    quiet_us = max(0, look.now_us - seen.last_us)
    in_state_us = None if seen.since_us is None else max(0, look.now_us - seen.since_us)
    return LiveSession(
        seen=seen,
        standing=_standing(seen, states.get(seen.state or ""), in_state_us, quiet_us, open_ms),
        in_state_us=in_state_us,
        quiet_us=quiet_us,
        open_ms=open_ms,
        total_tokens=counted and counted.total_tokens,
        cost_nano_usd=counted and counted.cost_nano_usd,
        unpriced_requests=counted and counted.unpriced_requests,
        errors=counted and counted.errors,
    )


def _settled_us(seen: SessionSeen) -> int:
    """Return until when a session that went into its last state may still tell of what took it there."""
    return (seen.since_us or 0) + _SETTLES_US


def _standing(
    seen: SessionSeen, state: StateFigures | None, in_state_us: int | None, quiet_us: int, open_ms: int | None
) -> str:
    if open_ms is not None and open_ms > STUCK_MS:
        return "stuck"
    if state is not None and state.is_last and (quiet_us > LEAST_LONG_US or seen.last_us <= _settled_us(seen)):
        return "ended"
    if quiet_us > QUIET_US:
        return "quiet"
    if state is None or in_state_us is None or state.figures.visit_time.count < _LEAST_VISITS:
        return "active"
    usual_us = max(state.figures.visit_time.p95_us or 0, LEAST_LONG_US)
    return "long" if in_state_us > usual_us else "active"
