"""The `metrics` handler: requests, tokens, latencies, runs, transitions and errors, by cell and by marginal.

Measures of a cell (docs/state.md lists them all): counts and sums add; `<name>.<bucket>` are histogram buckets.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Final, assert_never

import msgspec

from consumers.contract import Slice
from consumers.folding import Folded, fold_slices
from consumers.histogram import UPPER_BOUNDS, bucket_names
from consumers.measures import (
    ERRORS,
    INPUT,
    OUTPUT,
    REQUEST_US,
    REQUESTS,
    RUN_US,
    RUNS,
    STEP_US,
    STEPS,
    TOKEN_PARTS,
    TOKENS,
    TOOL_US,
    TOOLS,
    TRANSITIONS,
    TTFT_US,
    VISIT_US,
    VISITS_UNKNOWN,
)
from consumers.recipe import Recipe
from consumers.state import Caps, Delta, Measures, add, cell_of
from consumers.windows import HOUR_S, finest_start_s
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.wire import Frame

FOLD_REVISION: Final = 2

RANKED_BY: Final = MappingProxyType(
    {"session": TOKENS, "user": TOKENS, "tag": TOKENS, "error": ERRORS, "transition": TRANSITIONS}
)

_REQUEST_BUCKETS: Final = bucket_names(REQUEST_US)
_TTFT_BUCKETS: Final = bucket_names(TTFT_US)
_BUCKETS: Final = {measure: bucket_names(measure) for measure in (RUN_US, TOOL_US, STEP_US, VISIT_US)}
_PARTS: Final = tuple(TOKEN_PARTS.values())
_parts_of: Final = attrgetter(*TOKEN_PARTS)
_OPERATION_MEASURES: Final = {"run": (RUNS, RUN_US), "tool": (TOOLS, TOOL_US), "step": (STEPS, STEP_US)}


class MetricsHandler:
    """Folds every event into counts, sums and histograms."""

    name = "metrics"
    ranked_by: Mapping[str, str] = RANKED_BY

    def __init__(self, caps: Caps | None = None) -> None:
        self.caps = caps or Caps()

    def recipe(self) -> Recipe:
        """Return what the state depends on besides the events."""
        return Recipe(FOLD_REVISION, self.caps)

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold a batch; see `FoldHandler.fold`."""
        return fold_slices(slices, budget, _fold_event)


def _fold_event(delta: Delta, frame: Frame, event: Event) -> None:
    start_s = finest_start_s(event.time_us)
    match event:
        case UsageEvent():
            _fold_usage(delta, frame, event, start_s)
        case OperationEvent():
            _fold_operation(delta, frame, event, start_s)
        case TransitionEvent():
            _fold_transition(delta, frame, event, start_s)
        case ErrorEvent():
            _fold_error(delta, frame, event, start_s)
        case _:
            assert_never(event)


def _fold_usage(delta: Delta, frame: Frame, event: UsageEvent, start_s: int) -> None:
    # Written out: this is most of what a worker does.
    model = event.model or event.response_model
    cell = delta.cell(start_s, cell_of(frame.resource, event.tenant, (event.agent, model, event.state, event.status)))
    get = cell.get
    cell[REQUESTS] = get(REQUESTS, 0) + 1
    tokens_in, tokens_out, duration_us, ttft_us = (
        event.input_tokens,
        event.output_tokens,
        event.duration_us,
        event.ttft_us,
    )
    if tokens_in:
        cell[INPUT] = get(INPUT, 0) + tokens_in
    if tokens_out:
        cell[OUTPUT] = get(OUTPUT, 0) + tokens_out
    parts = _parts_of(event)
    if any(parts):
        for measure, tokens in zip(_PARTS, parts, strict=True):
            if tokens:
                cell[measure] = get(measure, 0) + tokens
    if duration_us is not None:
        cell[REQUEST_US] = get(REQUEST_US, 0) + duration_us
        bucket = _REQUEST_BUCKETS[bisect_left(UPPER_BOUNDS, duration_us)]
        cell[bucket] = get(bucket, 0) + 1
        if not event.run_id and delta.is_slow(start_s, duration_us):
            delta.slow(start_s, _operation_name("request", model, event), duration_us)
    if ttft_us is not None:
        cell[TTFT_US] = get(TTFT_US, 0) + ttft_us
        bucket = _TTFT_BUCKETS[bisect_left(UPPER_BOUNDS, ttft_us)]
        cell[bucket] = get(bucket, 0) + 1
    tokens = tokens_in + tokens_out
    for names in _marginals(delta, event, start_s):
        names[REQUESTS] = names.get(REQUESTS, 0) + 1
        names[TOKENS] = names.get(TOKENS, 0) + tokens


def _fold_operation(delta: Delta, frame: Frame, event: OperationEvent, start_s: int) -> None:
    cell = delta.cell(start_s, cell_of(frame.resource, event.tenant, (event.agent, "", event.state, event.status)))
    count, duration = _OPERATION_MEASURES[event.kind]
    add(cell, count, 1)
    _time(cell, duration, event.duration_us)
    if delta.is_slow(start_s, event.duration_us):
        delta.slow(start_s, _operation_name(event.kind, event.name or event.agent, event), event.duration_us)
    if event.kind == "run":
        for names in _marginals(delta, event, start_s):
            add(names, RUNS, 1)


def _fold_transition(delta: Delta, frame: Frame, event: TransitionEvent, start_s: int) -> None:
    entered = delta.cell(start_s, cell_of(frame.resource, event.tenant, ("", "", event.to_state, "ok")))
    add(entered, TRANSITIONS, 1)
    left = delta.cell(start_s, cell_of(frame.resource, event.tenant, ("", "", event.from_state, "ok")))
    if event.duration_us is None:
        add(left, VISITS_UNKNOWN, 1)
    else:
        _time(left, VISIT_US, event.duration_us)
    edge = msgspec.json.encode((event.from_state, event.to_state)).decode()
    add(delta.name("transition", start_s - start_s % HOUR_S, edge), TRANSITIONS, 1)


def _fold_error(delta: Delta, frame: Frame, event: ErrorEvent, start_s: int) -> None:
    cell = delta.cell(start_s, cell_of(frame.resource, event.tenant, (event.agent, event.model, event.state, "error")))
    add(cell, ERRORS, 1)
    add(delta.name("error", start_s - start_s % HOUR_S, event.type or "unknown"), ERRORS, 1)
    for names in _marginals(delta, event, start_s):
        add(names, ERRORS, 1)


def _time(cell: Measures, measure: str, duration_us: int) -> None:
    bucket = _BUCKETS[measure][bisect_left(UPPER_BOUNDS, duration_us)]
    add(cell, measure, duration_us)
    add(cell, bucket, 1)


def _marginals(delta: Delta, event: Event, start_s: int) -> list[Measures]:
    hour_s = start_s - start_s % HOUR_S
    found = [delta.name("tag", hour_s, tag) for tag in dict.fromkeys(event.tags)] if event.tags else []
    if event.session:
        found.append(delta.name("session", hour_s, event.session))
    if event.user:
        found.append(delta.name("user", hour_s, event.user))
    return found


def _operation_name(kind: str, name: str, event: UsageEvent | OperationEvent) -> str:
    identity = event.run_id if isinstance(event, UsageEvent) else event.operation_id or event.run_id
    return msgspec.json.encode(
        (kind, name, event.agent, identity or event.span_id, event.session, event.status)
    ).decode()
