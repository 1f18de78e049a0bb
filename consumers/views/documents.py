"""Figures, sums and instants as plain values, the same in every JSON document; null is "unknown", never 0. Pure."""

from datetime import UTC, datetime

from consumers.views.figures import Timing, usd
from consumers.views.states import StateFigures


def visit_document(state: StateFigures) -> dict[str, object]:
    """Return what is known of the visits of a state, and of one in the mean."""
    return {
        "visits": state.visits,
        "tokens_a_visit": state.tokens_a_visit,
        "cost_a_visit": money_document(state.nano_usd_a_visit),
    }


def timing_document(timing: Timing) -> dict[str, object]:
    """Return durations as plain values."""
    return {"count": timing.count, "mean_us": timing.mean_us, "p95_us": timing.p95_us}


def money_document(nano_usd: int | None) -> dict[str, object]:
    """Return money as plain values: the same sum twice."""
    return {"nano_usd": nano_usd, "usd": None if nano_usd is None else usd(nano_usd)}


def range_document(from_s: int, until_s: int) -> dict[str, str]:
    """Return a range of time (seconds since 1970, the end exclusive) as plain values."""
    return {"from": instant_document(from_s), "until": instant_document(until_s)}


def instant_document(time_s: int) -> str:
    """Return an instant (seconds since 1970) in ISO 8601, UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def instant_ms_document(time_ms: int | None) -> str | None:
    """Return an instant (milliseconds since 1970) in ISO 8601, UTC."""
    if time_ms is None:
        return None
    return f"{datetime.fromtimestamp(time_ms // 1_000, UTC):%Y-%m-%dT%H:%M:%S}.{time_ms % 1_000:03d}Z"
