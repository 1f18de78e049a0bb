"""A state of the application as JSON, the same wherever it is said; null is "unknown", never 0."""

from consumers.state import OTHER
from consumers.views.figures import Timing, usd
from consumers.views.states import StateFigures


def state_document(state: StateFigures | None) -> dict[str, object] | None:
    """Return one state as plain values; None of one that there never was."""
    if state is None:
        return None
    return {
        "name": state.name,
        "over_cap": state.name == OTHER,
        "entered": state.entered,
        "left": state.left,
        **visit_document(state),
        "time_in_state": {**timing_document(state.figures.visit_time), "p50_us": state.p50_us},
    }


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
