"""The application's state machine, from cells: visits, stays, what a visit costs, two versions."""

from consumers.histogram import observe
from consumers.state import Cell, Measures
from consumers.views.states import compared, states_of, versions_of

S = 1_000_000


def cell(state: str, *, version: str = "1", agent: str = "", model: str = "") -> Cell:
    """Return a cell."""
    return ("deckster", version, "test", "", agent, model, state, "ok")


def visits(entered: int, stays_s: list[int], unknown: int = 0) -> Measures:
    """Return the measures of a state that was entered so often, and left after these times."""
    measures: Measures = {"tr": entered, "vu": unknown}
    observe(measures, "vd", [stay * S for stay in stays_s])
    return measures


def test_visits_are_what_was_entered_or_left_whichever_is_more() -> None:
    """A session may begin in a state that nothing led into, and never leaves its last one."""
    first, draft, done = states_of(
        {
            cell("first"): visits(0, [10] * 4, unknown=1),
            cell("draft"): visits(4, [20] * 3),
            cell("done"): visits(3, []),
        },
        {},
    )
    assert (first.name, first.entered, first.left, first.visits, first.is_last) == ("first", 0, 5, 5, False)
    assert (draft.name, draft.visits, draft.is_last) == ("draft", 4, False)
    assert (done.name, done.visits, done.is_last, done.p50_us) == ("done", 3, True, None)


def test_what_was_entered_and_not_left_is_never_left() -> None:
    """Still going on or abandoned; of what was left more often than entered nothing is known to be."""
    draft, first = states_of({cell("first"): visits(0, [10] * 4), cell("draft"): visits(4, [20] * 3)}, {})
    assert (first.never_left, draft.never_left) == (0, 1)


def test_the_median_is_of_the_stays_and_within_its_promise() -> None:
    """4.4 %, as every figure of a histogram."""
    [state] = states_of({cell("draft"): visits(5, [1, 2, 30, 40, 500])}, {})
    assert state.p50_us is not None
    assert abs(state.p50_us / (30 * S) - 1) < 0.045


def test_a_visit_costs_what_was_spent_in_its_state() -> None:
    """By all visits; unpriced where nothing had a price, and nothing where there were no visits."""
    requests = {"rq": 2, "ti": 300, "to": 100}
    of_metrics = {
        cell("draft"): visits(4, [20]),
        cell("draft", agent="writer", model="gpt-4o"): requests,
        cell("review"): visits(2, [20]),
        cell("review", agent="reviewer", model="own"): requests,
        cell("aside", agent="writer", model="gpt-4o"): requests,
    }
    of_cost = {
        cell("draft", agent="writer", model="gpt-4o"): {"c": 8_000, "cn": 2},
        cell("review", agent="reviewer", model="own"): {"un": 2, "ut": 400},
        cell("aside", agent="writer", model="gpt-4o"): {"c": 8_000, "cn": 2},
    }
    found = {state.name: state for state in states_of(of_metrics, of_cost)}
    assert (found["draft"].tokens_a_visit, found["draft"].nano_usd_a_visit) == (100, 2_000)
    assert (found["review"].tokens_a_visit, found["review"].nano_usd_a_visit) == (200, None)
    assert (found["aside"].visits, found["aside"].tokens_a_visit, found["aside"].nano_usd_a_visit) == (0, None, None)


def test_versions_are_compared_state_by_state() -> None:
    """One that a version never had is none there, not one of zeros."""
    cells = {
        cell("draft", version="1"): visits(5, [20]),
        cell("draft", version="2"): visits(9, [10]),
        cell("proof", version="2"): visits(1, [10]),
    }
    assert [use.version for use in versions_of(cells)] == ["2", "1"]
    draft, proof = compared(cells, {}, "1", "2")
    assert draft.before is not None
    assert draft.after is not None
    assert (draft.before.visits, draft.after.visits) == (5, 9)
    assert proof.before is None
