"""The report as a JSON document: versioned, documented in docs/report-json.md; null is "unknown", never 0."""

from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from consumers.reader import Operation
from consumers.state import OTHER
from consumers.views.documents import (
    instant_document,
    instant_ms_document,
    money_document,
    range_document,
    timing_document,
    visit_document,
)
from consumers.views.figures import Figures, Group, filters_of
from consumers.views.report import ErrorRow, ExpensiveRun, NameRow, Report

SCHEMA: Final = "sidestream.report/1"
"""Raised with any change that could break who reads it."""


def report_json(report: Report) -> bytes:
    """Return the report as its JSON document (docs/report-json.md), in one line."""
    return msgspec.json.encode(_Document(report).build())


@dataclass(slots=True)
class _Document:
    """Writes a report down; null is "unknown", never 0."""

    report: Report

    def build(self) -> dict[str, object]:
        """Return the whole document as plain values."""
        report = self.report
        return {
            "schema": SCHEMA,
            "namespace": report.namespace,
            "generated_at": instant_document(report.now_s),
            "range": {
                "asked": range_document(report.asked.from_s, report.asked.until_s),
                "covered": range_document(report.covered.from_s, report.covered.until_s),
                "names_covered": range_document(report.names.from_s, report.names.until_s),
            },
            "as_of": instant_ms_document(report.completeness.as_of_ms),
            "filters": filters_of(report.where),
            "not_narrowed": report.not_narrowed,
            "totals": self._figures(report.totals),
            "by": report.by,
            "groups": self._groups(),
            "groups_left_out": {"count": report.left_out.count, "at_least": report.left_out.at_least},
            "top_errors": [_error(row) for row in report.errors] if report.metrics_known else None,
            "expensive_operations": [self._expensive(run) for run in report.expensive] if report.cost_known else None,
            "slowest_operations": [_operation(operation) for operation in report.slowest]
            if report.metrics_known
            else None,
            "completeness": self._completeness(),
        }

    def _figures(self, figures: Figures) -> dict[str, object]:
        priced = self._cost(figures) if self.report.cost_known else None
        if not self.report.metrics_known:
            unknown = ("requests", "tokens", "runs", "tools", "steps", "transitions", "time_in_state", "errors")
            return {**dict.fromkeys(unknown), "cost": priced}
        return {
            "requests": {
                "count": figures.requests,
                "by_status": figures.requests_by_status,
                "error_ratio": figures.request_error_ratio,
                "duration": timing_document(figures.request_time),
                "time_to_first_token": timing_document(figures.first_token),
            },
            "tokens": {
                "total": figures.total_tokens,
                "input": figures.input_tokens,
                "output": figures.output_tokens,
                "parts": figures.token_parts,
            },
            "cost": priced,
            "runs": {
                "count": figures.runs,
                "by_status": figures.runs_by_status,
                "error_ratio": figures.run_error_ratio,
                "response_time": timing_document(figures.run_time),
            },
            "tools": figures.tools,
            "steps": figures.steps,
            "transitions": figures.transitions,
            "time_in_state": {**timing_document(figures.visit_time), "unknown": figures.visits_unknown},
            "errors": figures.errors,
        }

    @staticmethod
    def _cost(figures: Figures) -> dict[str, object]:
        return {
            **money_document(figures.known_cost_nano_usd),
            "provider_nano_usd": figures.provider_nano_usd,
            "priced_requests": figures.priced_requests,
            "unpriced_requests": figures.unpriced_requests,
            "unpriced_tokens": figures.unpriced_tokens,
        }

    def _groups(self) -> list[dict[str, object]]:
        report = self.report
        match report.by:
            case "session" | "user" | "tag":
                return [self._row(row) for row in report.rows]
            case "error":
                return [_error(row) for row in report.errors]
            case "agent" | "model" | "tenant" | "service":
                return [self._group(group) for group in report.groups]
            case "state":
                return [self._state(group) for group in report.groups]
            case _:
                assert_never(report.by)

    def _group(self, group: Group) -> dict[str, object]:
        return {**_named(group.name), **self._figures(group.figures)}

    def _state(self, group: Group) -> dict[str, object]:
        """Return a state; what belongs to none, and all where `metrics` never ran, has no known visits."""
        found = self._group(group)
        states = self.report.states if self.report.metrics_known else ()
        state = next((state for state in states if state.name == group.name), None)
        if state is None:
            return {**found, **dict.fromkeys(("visits", "tokens_a_visit", "cost_a_visit"))}
        visit_time = timing_document(group.figures.visit_time)
        unknown = group.figures.visits_unknown
        times = {"time_in_state": {**visit_time, "p50_us": state.p50_us, "unknown": unknown}}
        return {**found, **visit_document(state), **times} | ({} if self.report.cost_known else {"cost_a_visit": None})

    def _row(self, row: NameRow) -> dict[str, object]:
        return {
            **_named(row.name),
            "requests": row.requests,
            "tokens": row.total_tokens,
            "runs": row.runs,
            "errors": row.errors,
            "cost": {**money_document(row.cost_nano_usd), "unpriced_requests": row.unpriced_requests}
            if self.report.cost_known
            else None,
        }

    @staticmethod
    def _expensive(run: ExpensiveRun) -> dict[str, object]:
        return {
            "run_id": run.run_id,
            "over_cap": run.run_id == OTHER,
            "agent": run.agent,
            "session": run.session,
            "requests": run.requests,
            "cost": {**money_document(run.cost_nano_usd), "unpriced_requests": run.unpriced_requests},
        }

    def _completeness(self) -> dict[str, object]:
        found = self.report.completeness
        return {
            "complete": found.complete(self.report.covered.from_s),
            "handlers": [
                {
                    "handler": handler.handler,
                    "partitions": handler.partitions,
                    "declared": handler.declared,
                    "as_of": instant_ms_document(handler.as_of_ms) if handler.everywhere else None,
                    "complete_since": instant_ms_document(handler.since_ms) if handler.since_ms else None,
                    "outstanding": handler.outstanding,
                    "outstanding_at_least": handler.outstanding_at_least,
                    "dead_letters": handler.dead_letters,
                    "skipped": handler.skipped,
                    "expired": handler.expired,
                    "foreign": handler.foreign,
                }
                for handler in found.handlers
            ],
            "producers": {
                "shed": found.losses.shed,
                "invalid": found.losses.invalid,
                "lost": found.losses.lost,
                "lost_at_least": found.losses.lost_at_least,
                "waiting": found.waiting,
                "at_risk": found.at_risk,
            },
        }


def _named(name: str) -> dict[str, object]:
    return {"name": name, "over_cap": name == OTHER}


def _error(row: ErrorRow) -> dict[str, object]:
    return {**_named(row.name), "errors": row.errors, "share": row.share}


def _operation(operation: Operation) -> dict[str, object]:
    return {
        "kind": operation.kind,
        "name": operation.name,
        "agent": operation.agent,
        "id": operation.identity,
        "session": operation.session,
        "status": operation.status,
        "duration_us": operation.duration_us,
    }
