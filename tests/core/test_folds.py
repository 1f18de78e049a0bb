"""Folds: pure functions of their events, and nothing depends on order or on where a batch is cut."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consumers.catalogue import Catalogue, Pricer
from consumers.contract import Slice
from consumers.folding import FoldHandler
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.payload import Known, PayloadBuilder
from consumers.pricing import PriceBook
from consumers.state import OTHER_CELL, Caps, Delta, Measures, largest
from consumers.windows import LIFETIME
from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.wire import Frame

START_US = 1_790_000_000_000_000
UNIT = Keys("test").partition(0).unit("metrics")
PRICER = Pricer(Catalogue(), PriceBook())
HANDLERS: list[FoldHandler] = [MetricsHandler(), CostHandler(PRICER, "test", "none")]

times = st.integers(START_US, START_US + 200_000_000)
agents = st.sampled_from(["writer", "outliner", "reviewer"])
models = st.sampled_from(["gpt-4o", "acme-1"])
sessions = st.sampled_from(["", "s-1", "s-2"])
usages = st.builds(
    UsageEvent,
    time_us=times,
    agent=agents,
    model=models,
    input_tokens=st.integers(0, 5_000),
    output_tokens=st.integers(0, 5_000),
    duration_us=st.none() | st.integers(0, 40_000_000),
    session=sessions,
    tags=st.sampled_from([(), ("eu",), ("eu", "eu", "beta")]),
    run_id=st.sampled_from(["", "r-1"]),
    status=st.sampled_from(["ok", "error"]),
)
others = st.one_of(
    st.builds(OperationEvent, time_us=times, kind=st.sampled_from(["run", "tool"]), duration_us=st.integers(0, 10**8)),
    st.builds(TransitionEvent, time_us=times, from_state=agents, to_state=agents, duration_us=st.none() | st.just(5)),
    st.builds(ErrorEvent, time_us=times, type=agents, session=sessions),
)
event_lists = st.lists(usages | others, min_size=1, max_size=30)


def frame_of(events: Sequence[Event]) -> Frame:
    """Return events as one frame."""
    return Frame("1790000300000-0", "ab" * 16, 0, Resource(service="deckster"), "live", events)


def fold(handler: FoldHandler, events: Sequence[Event], budget: int = 10**9) -> Delta:
    """Return what a whole batch adds."""
    folded = handler.fold([Slice(frame_of(events), 0, len(events))], budget)
    assert not folded.dead
    return folded.delta


def merged(deltas: Sequence[Delta]) -> tuple[dict[object, Measures], dict[object, Measures]]:
    """Return the sums of several deltas: cells, and marginals."""
    cells: dict[object, Measures] = {}
    names: dict[object, Measures] = {}
    for delta in deltas:
        for place, measures in delta.cells.items():
            _add(cells.setdefault(place, {}), measures)
        for place, measures in delta.marginals.items():
            _add(names.setdefault(place, {}), measures)
    return cells, names


def _add(into: Measures, measures: Measures) -> None:
    for measure, value in measures.items():
        into[measure] = into.get(measure, 0) + value


@given(event_lists, st.randoms(use_true_random=False))
def test_the_order_of_events_changes_no_sum(events: list[Event], random: object) -> None:
    """Updates commute: a shuffled batch adds the same."""
    shuffled = list(events)
    random.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - hypothesis' Random
    for handler in HANDLERS:
        assert merged([fold(handler, events)]) == merged([fold(handler, shuffled)])


@given(event_lists, st.integers(1, 30))
def test_a_batch_may_be_cut_anywhere(events: list[Event], cut: int) -> None:
    """Two batches add what one adds."""
    for handler in HANDLERS:
        parts = [fold(handler, part) for part in (events[:cut], events[cut:]) if part]
        assert merged(parts) == merged([fold(handler, events)])


@given(event_lists, st.integers(1, 200))
def test_a_budget_cuts_a_batch_without_losing_an_event(events: list[Event], budget: int) -> None:
    """Going on from where the budget stopped a fold adds what one fold adds, an event at a time at the least."""
    handler = HANDLERS[0]
    parts: list[Delta] = []
    start = 0
    while start < len(events):
        folded = handler.fold([Slice(frame_of(events), start, len(events))], budget)
        parts.append(folded.delta)
        stop = len(events) if folded.whole else folded.stop
        assert stop > start
        start = stop
    assert merged(parts) == merged([fold(handler, events)])


def test_an_unknown_model_is_unpriced_and_never_zero() -> None:
    """Its tokens are counted beside the money that is known."""
    known = UsageEvent(START_US, agent="a", model="gpt-4o", input_tokens=1_000_000, provider="openai")
    unknown = UsageEvent(START_US, agent="a", model="deck-llm-1", input_tokens=70, output_tokens=7, provider="acme")
    (priced,), (unpriced,) = (tuple(fold(HANDLERS[1], [event]).cells.values()) for event in (known, unknown))
    assert priced["c"] == 2_500_000_000
    assert priced["cn"] == 1
    assert unpriced == {"un": 1, "ut": 77}


def test_a_session_tagged_twice_with_one_tag_counts_once() -> None:
    """A tag is a property of an event, not of how often it was said."""
    event = UsageEvent(START_US, model="gpt-4o", input_tokens=5, tags=("eu", "eu"))
    (((dimension, _, name), measures),) = fold(HANDLERS[0], [event]).marginals.items()
    assert (dimension, name, measures) == ("tag", "eu", {"rq": 1, "tk": 5})


def test_cells_over_the_cap_are_counted_under_other() -> None:
    """A cap never drops an event: it hides its name."""
    events = [UsageEvent(START_US, agent=f"agent-{n}", input_tokens=1) for n in range(5)]
    delta = fold(MetricsHandler(), events)
    known = Known()
    builder = PayloadBuilder(UNIT, delta, known, Caps(cells=3), {})
    known.numbers.update({day: {} for day in builder.days()})
    builder.missing()
    named = builder.build(4).numbers[LIFETIME]
    assert len(named) == 4
    assert any(OTHER_CELL[0] in name for name in named)


def test_the_largest_are_the_same_whatever_was_dropped_before() -> None:
    """Keeping the top of two halves and then of both is keeping the top of all."""
    operations = {f"operation-{n}": n * 7 % 13 for n in range(26)}
    names = list(operations)
    halves = [largest({name: operations[name] for name in half}, 5) for half in (names[:13], names[13:])]
    assert largest(halves[0] | halves[1], 5) == largest(operations, 5)
