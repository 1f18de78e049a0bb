"""The `metrics` handler: requests, tokens, latencies, runs, transitions and errors, by cell and by marginal.

Measures of a cell (docs/state.md lists them all): counts and sums add; `<name>.<bucket>` are histogram buckets.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Final, assert_never

import msgspec

from consumers.contract import Slice
from consumers.folding import Folded, fold_slices
from consumers.gathering import ByCell, ByName
from consumers.histogram import observe
from consumers.measures import (
    BACKFILLED,
    BACKFILLED_TOKENS,
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
from consumers.state import Caps, Cell, Delta, Measures, add, cell_of
from consumers.windows import HOUR_S, finest_start_s
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.wire import Frame

FOLD_REVISION: Final = 3
"""3: what was backfilled is told apart in each cell; and workers before it do not know what a frame says is known."""

RANKED_BY: Final = MappingProxyType(
    {"session": TOKENS, "user": TOKENS, "tag": TOKENS, "error": ERRORS, "transition": TRANSITIONS}
)

_SUMMED: Final = (INPUT, OUTPUT, *TOKEN_PARTS.values())
_summed_of: Final = attrgetter("input_tokens", "output_tokens", *TOKEN_PARTS)
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
        return fold_slices(slices, budget, _MetricsFold)


class _MetricsFold:
    """The fold of one batch; see `consumers.folding.Fold`. Requests are most of it: they are summed by column."""

    def __init__(self) -> None:
        self.delta = Delta()
        self._requests: ByCell[UsageEvent] = ByCell(self.delta)
        self._tokens: ByName[int] = ByName(self.delta)

    def add(self, frame: Frame, event: Event) -> None:
        if frame.origin == "backfill":
            _tell_apart(self.delta, frame, event)
        match event:
            case UsageEvent():
                self._add_request(frame, event)
            case OperationEvent():
                _fold_operation(self.delta, frame, event, finest_start_s(event.time_us))
            case TransitionEvent():
                _fold_transition(self.delta, frame, event, finest_start_s(event.time_us))
            case ErrorEvent():
                _fold_error(self.delta, frame, event, finest_start_s(event.time_us))
            case _:
                assert_never(event)

    def _add_request(self, frame: Frame, event: UsageEvent) -> None:
        self._requests.of(frame.resource, event).append(event)
        self._tokens.note(event, event.input_tokens + event.output_tokens)
        if event.duration_us is not None and not event.run_id:
            start_s = finest_start_s(event.time_us)
            if self.delta.is_slow(start_s, event.duration_us):
                name = _operation_name(frame, "request", event.model or event.response_model, event)
                self.delta.slow(start_s, name, event.duration_us)

    def close(self) -> None:
        for cell, events in self._requests:
            _sum_up(cell, events)
        for names, tokens in self._tokens:
            add(names, REQUESTS, len(tokens))
            add(names, TOKENS, sum(tokens))


def _sum_up(cell: Measures, events: Sequence[UsageEvent]) -> None:
    add(cell, REQUESTS, len(events))
    for measure, total in zip(_SUMMED, map(sum, zip(*map(_summed_of, events), strict=True)), strict=True):
        if total:
            add(cell, measure, total)
    for measure, times in (
        (REQUEST_US, [event.duration_us for event in events if event.duration_us is not None]),
        (TTFT_US, [event.ttft_us for event in events if event.ttft_us is not None]),
    ):
        if times:
            observe(cell, measure, times)


def _fold_operation(delta: Delta, frame: Frame, event: OperationEvent, start_s: int) -> None:
    cell = delta.cell(start_s, _counted_in(frame, event))
    count, duration = _OPERATION_MEASURES[event.kind]
    add(cell, count, 1)
    observe(cell, duration, (event.duration_us,))
    if delta.is_slow(start_s, event.duration_us):
        delta.slow(start_s, _operation_name(frame, event.kind, event.name or event.agent, event), event.duration_us)
    if event.kind == "run":
        for names in _marginals(delta, event, start_s):
            add(names, RUNS, 1)


def _fold_transition(delta: Delta, frame: Frame, event: TransitionEvent, start_s: int) -> None:
    entered = delta.cell(start_s, _counted_in(frame, event))
    add(entered, TRANSITIONS, 1)
    left = delta.cell(start_s, cell_of(frame.resource, event.tenant, ("", "", event.from_state, "ok")))
    if event.duration_us is None:
        add(left, VISITS_UNKNOWN, 1)
    else:
        observe(left, VISIT_US, (event.duration_us,))
    edge = msgspec.json.encode((event.from_state, event.to_state)).decode()
    add(delta.name("transition", start_s - start_s % HOUR_S, edge), TRANSITIONS, 1)


def _fold_error(delta: Delta, frame: Frame, event: ErrorEvent, start_s: int) -> None:
    cell = delta.cell(start_s, _counted_in(frame, event))
    add(cell, ERRORS, 1)
    add(delta.name("error", start_s - start_s % HOUR_S, event.type or "unknown"), ERRORS, 1)
    for names in _marginals(delta, event, start_s):
        add(names, ERRORS, 1)


def _marginals(delta: Delta, event: Event, start_s: int) -> list[Measures]:
    hour_s = start_s - start_s % HOUR_S
    found = [delta.name("tag", hour_s, tag) for tag in dict.fromkeys(event.tags)] if event.tags else []
    if event.session:
        found.append(delta.name("session", hour_s, event.session))
    if event.user:
        found.append(delta.name("user", hour_s, event.user))
    return found


def _operation_name(frame: Frame, kind: str, name: str, event: UsageEvent | OperationEvent) -> str:
    identity = event.run_id if isinstance(event, UsageEvent) else event.operation_id or event.run_id
    parts = kind, name, event.agent, identity or event.span_id, event.session, event.status
    return msgspec.json.encode((*parts, frame.origin) if frame.origin == "backfill" else parts).decode()


def _tell_apart(delta: Delta, frame: Frame, event: Event) -> None:
    """Count a backfilled event once more, beside: nobody is woken by it, and a period that was captured live shows."""
    cell = delta.cell(finest_start_s(event.time_us), _counted_in(frame, event))
    add(cell, BACKFILLED, 1)
    if isinstance(event, UsageEvent) and (tokens := event.input_tokens + event.output_tokens):
        add(cell, BACKFILLED_TOKENS, tokens)


def _counted_in(frame: Frame, event: Event) -> Cell:
    """Return the cell that an event is counted in; a transition in that of the state it enters."""
    match event:
        case UsageEvent():
            own = event.agent, event.model, event.state, event.status
        case OperationEvent():
            own = event.agent, "", event.state, event.status
        case TransitionEvent():
            own = "", "", event.to_state, "ok"
        case ErrorEvent():
            own = event.agent, event.model, event.state, "error"
        case _:
            assert_never(event)
    return cell_of(frame.resource, event.tenant, own)
