"""One look of `sidestream top` as JSON: versioned, documented in docs/json.md; null is "unknown", never 0."""

from typing import Final

import msgspec

from consumers.state import OTHER
from consumers.views.documents import instant_document, instant_ms_document, money_document, range_document
from consumers.views.figures import Figures, error_ratio_of, speaks_by_requests, time_of
from consumers.views.live import standings_of
from consumers.views.states_json import session_document
from consumers.views.top import Top

SCHEMA: Final = "sidestream.top/1"
"""Raised with any change that could break who reads it."""


def top_json(top: Top) -> bytes:
    """Return one look as its JSON document, in one line."""
    found = top.completeness
    return msgspec.json.encode(
        {
            "schema": SCHEMA,
            "namespace": top.namespace,
            "generated_at": instant_document(top.now_s),
            "as_of": instant_ms_document(found.as_of_ms),
            "complete": found.complete(top.covered.from_s),
            "now": {
                "seconds": top.seconds,
                "hourly_cost": money_document(top.hourly_nano_usd),
                "requests_per_second": top.now.requests / top.seconds if top.metrics_known else None,
                "tokens_per_second": top.now.total_tokens / top.seconds if top.metrics_known else None,
                **_figures(top.now, top),
            },
            "hour": {**range_document(top.covered.from_s, top.covered.until_s), **_figures(top.hour, top)},
            "agents": [
                {"name": group.name, "over_cap": group.name == OTHER, **_figures(group.figures, top)}
                for group in top.agents
            ],
            "sessions": {
                "since": instant_ms_document(top.since_ms),
                "standings": standings_of(top.sessions),
                "rows": [session_document(row) for row in top.sessions],
            },
            "open": top.status.in_flight,
            "alerts": top.alerts,
            "pipeline": _pipeline(top),
        }
    )


def _figures(figures: Figures, top: Top) -> dict[str, object]:
    """Return what people look at first; failures and times are of runs, or of requests where there are only those."""
    cost = money_document(figures.known_cost_nano_usd) if top.cost_known else None
    unpriced = figures.unpriced_requests if top.cost_known else None
    if not top.metrics_known:
        names = ("requests", "runs", "tokens", "of", "error_ratio", "mean_us", "p95_us")
        return {"cost": cost, "unpriced_requests": unpriced, **dict.fromkeys(names)}
    timing = time_of(figures)
    return {
        "cost": cost,
        "unpriced_requests": unpriced,
        "requests": figures.requests,
        "runs": figures.runs,
        "tokens": figures.total_tokens,
        "of": "requests" if speaks_by_requests(figures) else "runs",
        "error_ratio": error_ratio_of(figures),
        "mean_us": timing.mean_us,
        "p95_us": timing.p95_us,
    }


def _pipeline(top: Top) -> dict[str, object]:
    status, found = top.status, top.completeness
    return {
        "handlers": top.flows,
        "workers": len(status.workers),
        "producers": {"alive": top.alive, "silent": top.silent},
        "shed": found.losses.shed,
        "invalid": found.losses.invalid,
        "lost": found.losses.lost,
        "waiting": found.waiting,
        "at_risk": found.at_risk,
        "memory": status.memory,
        "broken": status.broken,
    }
