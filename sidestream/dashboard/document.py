"""The page's own data as JSON: versioned, documented in docs/dashboard.md; null is "unknown", never 0."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from consumers.views.documents import instant_ms_document, money_document, timing_document
from consumers.views.pace import Pace
from consumers.views.report import Report
from consumers.views.report_json import report_json
from consumers.views.states_json import comparison_document, edges_document, session_document, state_document
from consumers.views.timeline_json import one_session_document
from consumers.views.trend import Point
from sidestream.dashboard.address import ViewName, instant
from sidestream.dashboard.sources import MOST_SESSIONS, DaysLook
from sidestream.dashboard.trust import trust_of
from sidestream.dashboard.view import View

SCHEMA: Final = "sidestream.view/1"
"""Raised with any change that could break who reads it."""


def view_json(view: View) -> bytes:
    """Return a view as its JSON document; a part that the view does not show is null."""
    parts = _parts(view)
    return msgspec.json.encode(
        {
            "schema": SCHEMA,
            "view": view.address.view,
            "namespace": view.look.namespace,
            "generated_at": instant(view.now_s),
            "range": view.address.range or None,
            "filters": view.address.filters,
            "not_narrowed": _not_narrowed(view),
            "choices": view.choices,
            "trust": _trust(view),
            **{name: parts.get(name) for name in _PARTS},
        }
    )


_PARTS: Final = (
    "reports",
    "trend",
    "pace",
    "days",
    "states",
    "transitions",
    "versions",
    "comparison",
    "sessions",
    "session",
    "alerts",
    "incidents",
    "pipeline",
)


def _parts(view: View) -> dict[str, object]:
    reports = _REPORTS.get(view.address.view)
    found: dict[str, object] = {"reports": _reports(*reports(view))} if reports else {}
    match view.address.view:
        case "overview":
            found |= {"trend": _trend(view), "pace": _pace(view.pace), **_alerts(view)}
        case "tokens" | "performance":
            found |= {"trend": _trend(view)}
        case "cost":
            found |= {"trend": _trend(view), "days": _days(view, view.days_look)}
        case "sessions":
            found |= {"sessions": _sessions(view)}
        case "session":
            found |= {"session": _one_session(view)}
        case "states":
            found |= _machine(view)
        case "alerts":
            found |= _alerts(view)
        case "pipeline":
            found |= {"pipeline": _pipeline(view)}
    return found


_REPORTS: Final[Mapping[ViewName, Callable[[View], Sequence[Report]]]] = {
    "overview": lambda view: [view.by_agent],
    "tokens": lambda view: [view.by_agent],
    "performance": lambda view: [view.by_agent, view.by_state],
    "cost": lambda view: [view.by_agent, view.by_model, view.by_session],
    "sessions": lambda view: [view.by_session],
    "states": lambda view: [view.by_state],
}


def _alerts(view: View) -> dict[str, object]:
    return {"alerts": view.alerts.rules, "incidents": view.alerts.incidents}


def _reports(*reports: Report) -> dict[str, object]:
    """Return reports as `report --json` says them, by what they are grouped by."""
    return {report.by: msgspec.Raw(report_json(report)) for report in reports}


def _not_narrowed(view: View) -> list[str]:
    """Return what the filters do not narrow: marginals know nothing of the other dimensions."""
    if not view.address.narrowed:
        return []
    of_runs = [] if view.address.filters.keys() == {"agent"} else ["expensive_operations", "slowest_operations"]
    return ["groups by session", "top_errors", "transitions", *of_runs]


def _trust(view: View) -> dict[str, object]:
    trust = trust_of(view)
    return {
        "verdict": trust.verdict,
        "as_of": instant_ms_document(trust.as_of_ms),
        "missing": trust.missing,
        "pending": trust.pending,
        "read_every_s": view.held.every_s,
        "error": view.error.code if view.error else None,
    }


def _trend(view: View) -> dict[str, object]:
    return {"step_s": view.cells.step_s, "points": [_point(point) for point in view.trend]}


def _point(point: Point) -> dict[str, object]:
    figures = point.figures
    return {
        "at": instant(point.start_s),
        "cost": money_document(figures.known_cost_nano_usd),
        "unpriced_requests": figures.unpriced_requests,
        "tokens": figures.total_tokens,
        "requests": figures.requests,
        "request_errors": figures.requests_by_status.get("error", 0),
        "runs": figures.runs,
        "run_errors": figures.runs_by_status.get("error", 0),
        "response_time": timing_document(figures.run_time),
        "request_time": timing_document(figures.request_time),
    }


def _pace(pace: Pace | None) -> dict[str, object] | None:
    if pace is None:
        return None
    return {
        "hourly_now": money_document(pace.now_nano_usd),
        "hour": money_document(pace.hour.known_cost_nano_usd),
        "hour_before": money_document(pace.before.known_cost_nano_usd),
        "minutes": [
            {"at": instant(p.start_s), "cost": money_document(p.figures.known_cost_nano_usd)} for p in pace.minutes
        ],
    }


def _days(view: View, look: DaysLook | None) -> list[object] | None:
    if look is None:
        return None
    return [{"at": instant(day.start_s), "cost": money_document(day.figures.known_cost_nano_usd)} for day in view.days]


def _machine(view: View) -> dict[str, object]:
    return {
        "states": [state_document(state) for state in view.states],
        "transitions": edges_document(view.look.edges),
        "versions": view.versions,
        "comparison": comparison_document(view.compared_versions, view.changes),
    }


def _sessions(view: View) -> dict[str, object] | None:
    look = view.live_look
    if look is None:
        return None
    return {
        "since": instant_ms_document(look.since_ms),
        "counted": {"from": instant(look.counted_range.from_s), "until": instant(look.counted_range.until_s)},
        "of_stream": len(view.live_sessions),
        "rows": [session_document(row) for row in view.sessions_listed[:MOST_SESSIONS]],
    }


def _one_session(view: View) -> dict[str, object] | None:
    look = view.session_look
    return look and one_session_document(look, view.one_session, view.open_of_session)


def _pipeline(view: View) -> dict[str, object] | None:
    if view.pipeline is None:
        return None
    letters = [
        {"handler": stored.handler, "partition": stored.partition, "letter_id": stored.letter_id,
         "events": stored.letter.events, "code": stored.letter.code, "reason": stored.letter.reason}
        for stored in view.pipeline.letters
    ]  # fmt: skip
    return {
        "status": view.pipeline.status,
        "events_per_second": view.pipeline.rates,
        "measured_s": view.pipeline.measured_s,
        "dead_letters": letters,
    }
