"""States and sessions of the application as JSON, the same wherever they are said; null is "unknown", never 0."""

from collections.abc import Sequence
from typing import Final

import msgspec

from consumers.state import OTHER
from consumers.views.documents import (
    instant_document,
    instant_ms_document,
    money_document,
    range_document,
    timing_document,
    visit_document,
)
from consumers.views.figures import filters_of
from consumers.views.live import LiveSession, standings_of
from consumers.views.machine import Machine
from consumers.views.rankings import Edges
from consumers.views.states import StateChange, StateFigures

SCHEMA: Final = "sidestream.states/1"
"""Raised with any change that could break who reads it."""


def machine_json(machine: Machine) -> bytes:
    """Return the state machine as its JSON document (docs/json.md), in one line."""
    known = machine.metrics_known
    return msgspec.json.encode(
        {
            "schema": SCHEMA,
            "namespace": machine.namespace,
            "generated_at": instant_document(machine.now_s),
            "range": range_document(machine.covered.from_s, machine.covered.until_s),
            "names_range": range_document(machine.names.from_s, machine.names.until_s),
            "filters": filters_of(machine.where),
            "not_narrowed": machine.not_narrowed,
            "as_of": instant_ms_document(machine.completeness.as_of_ms),
            "complete": machine.completeness.complete(machine.covered.from_s),
            "states": [_priced(state_document(state), machine) for state in machine.states] if known else None,
            "transitions": edges_document(machine.edges) if known else None,
            "sessions": {
                "since": instant_ms_document(machine.since_ms),
                "standings": standings_of(machine.sessions),
                "rows": [session_document(row) for row in machine.sessions],
            },
            "versions": machine.versions if known else None,
            "comparison": comparison_document(machine.pair, machine.changes) if known else None,
        }
    )


def _priced(state: dict[str, object] | None, machine: Machine) -> dict[str, object] | None:
    return state if state is None or machine.cost_known else {**state, "cost_a_visit": None}


def edges_document(edges: Edges) -> dict[str, object]:
    """Return transitions as plain values."""
    rows = [{"from": edge.from_state, "to": edge.to_state, "count": edge.count} for edge in edges.edges]
    return {"rows": rows, "over_cap": edges.over_cap, "left_out": edges.left_out}


def comparison_document(pair: tuple[str, str] | None, changes: Sequence[StateChange]) -> dict[str, object] | None:
    """Return the states in two versions as plain values; None where none are compared."""
    if pair is None:
        return None
    rows = [
        {"name": change.name, "before": state_document(change.before), "after": state_document(change.after)}
        for change in changes
    ]
    return {"before": pair[0], "after": pair[1], "states": rows}


def session_document(row: LiveSession) -> dict[str, object]:
    """Return one session as plain values."""
    seen = row.seen
    return {
        "session": seen.session,
        "service": seen.service,
        "state": seen.state,
        "standing": row.standing,
        "in_state_us": row.in_state_us,
        "quiet_us": row.quiet_us,
        "open_ms": row.open_ms,
        "agent": seen.agent,
        "tokens": row.total_tokens,
        "cost": money_document(row.cost_nano_usd),
        "unpriced_requests": row.unpriced_requests,
        "errors": row.errors,
        "last_error": seen.last_error or None,
    }


def state_document(state: StateFigures | None) -> dict[str, object] | None:
    """Return one state as plain values; None of one that there never was."""
    if state is None:
        return None
    return {
        "name": state.name,
        "over_cap": state.name == OTHER,
        "entered": state.entered,
        "left": state.left,
        "never_left": state.never_left,
        **visit_document(state),
        "time_in_state": {**timing_document(state.figures.visit_time), "p50_us": state.p50_us},
    }
