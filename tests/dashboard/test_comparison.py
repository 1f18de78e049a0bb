"""Two versions side by side: in their order, and called better or worse only where the figures can tell."""

import pytest

from consumers import measures as code
from consumers.histogram import observe
from consumers.state import CELL_DIMENSIONS, Cell, Measures
from consumers.views.states import VersionUse, compared
from consumers.views.trend import Step
from sidestream.dashboard.comparison import compared_states, older_first, versions_in_order

VERSION = CELL_DIMENSIONS.index("version")


def cell(version: str, status: str = "ok") -> Cell:
    """Return a cell of a state."""
    return ("deckster", version, "", "", "writer", "gpt-4o", "drafting", status)


def visits(stay_s: float, count: int = 100, tokens: int = 1_000) -> Measures:
    """Return visits that all lasted as long, and used as much."""
    found: Measures = {code.TRANSITIONS: count, code.REQUESTS: count, code.INPUT: tokens * count}
    observe(found, code.VISIT_US, [round(stay_s * 1e6)] * count)
    return found


def verdicts(before: Measures, after: Measures) -> dict[str, str]:
    """Return what is said of each figure."""
    [state] = compared_states(compared({cell("1"): before, cell("2"): after}, {}, "1", "2"), most=8)
    return {row.measure: row.verdict for row in state.rows}


@pytest.mark.parametrize(("stay_s", "verdict"), [(60, "same"), (64, "same"), (120, "worse"), (30, "better")], ids=str)
def test_a_percentile_that_moved_by_one_bucket_has_not_changed(stay_s: float, verdict: str) -> None:
    """A bucket is 9 % wide: within that nobody can say."""
    assert verdicts(visits(60), visits(stay_s))["Time in it, p50"] == verdict


def test_few_samples_say_nothing() -> None:
    """Not even where the figures are far apart."""
    assert verdicts(visits(60), visits(600, count=19))["Time in it, p50"] == "few"


def test_a_mean_has_to_move_by_more_than_chance() -> None:
    """Of 100 visits a tenth is none, twice as much is; less is better."""
    assert verdicts(visits(60), visits(60, tokens=1_100))["Tokens per visit"] == "same"
    assert verdicts(visits(60), visits(60, tokens=2_000))["Tokens per visit"] == "worse"
    assert verdicts(visits(60), visits(60, tokens=400))["Tokens per visit"] == "better"


@pytest.mark.parametrize(("failed", "verdict"), [(6, "same"), (30, "worse")])
def test_a_share_has_to_move_by_more_than_chance(failed: int, verdict: str) -> None:
    """Five of a hundred against six is nothing."""
    cells = {
        cell("1"): {code.RUNS: 95},
        cell("1", "error"): {code.RUNS: 5},
        cell("2"): {code.RUNS: 100 - failed},
        cell("2", "error"): {code.RUNS: failed},
    }
    [state] = compared_states(compared(cells, {}, "1", "2"), most=8)
    assert {row.measure: row.verdict for row in state.rows} == {"Failed": verdict}


def test_the_older_version_stands_first() -> None:
    """By number where both are numbers, whichever is busier; else by when they were at work."""
    assert older_first("1.10.0", "1.9.2", [], VERSION) == ("1.9.2", "1.10.0")
    steps = [Step(0, {cell("fe01"): {}}, {}), Step(3_600, {cell("fe01"): {}, cell("0abc"): {}}, {})]
    assert older_first("0abc", "fe01", steps, VERSION) == ("fe01", "0abc")
    uses = [VersionUse("2.0", 9, 9), VersionUse("1.0", 1, 1)]
    assert versions_in_order(uses, steps, VERSION) == ("1.0", "2.0")
    assert versions_in_order(uses[:1], steps, VERSION) is None
