"""Charts: what is drawn, and what is not."""

import re

import pytest
from markupsafe import Markup

from consumers.views.figures import Figures
from consumers.views.rankings import Edge
from consumers.views.states import StateFigures
from sidestream.dashboard.charts import Chart, Series, bar, round_up, round_up_time, sparkline
from sidestream.dashboard.graph import MOST_STATES, in_order, state_graph


def chart(*values: float | None, columns: bool = False) -> Chart:
    """Return a chart of one line by the hour."""
    starts = [hour * 3_600 for hour in range(len(values))]
    return Chart(
        "Cost", starts, 3_600, [Series("cost", values)], lambda v: f"${v:g}", lambda v: f"{v:g}", columns=columns
    )


def test_what_is_not_there_is_a_gap() -> None:
    """Two lines, not one through zero; a point by itself is a dot."""
    line = re.findall(r'class="line c1" d="([^"]*)"', chart(1, 2, None, 3, None, 4, 5).draw())[0]
    assert line.count("M") == 3
    assert line.count("h.01") == 1
    assert chart(None, None).empty
    assert chart(0, 0).empty


def test_columns_have_the_height_of_their_values() -> None:
    """The highest reaches below the axis's end; nothing is drawn of nothing."""
    columns = re.findall(r'<rect class="column c1" [^>]*height="([\d.]+)"', chart(0, 5, 10, columns=True).draw())
    assert [float(height) for height in columns] == [48.0, 96.0]


def test_a_chart_can_be_heard_and_pointed_at() -> None:
    """What it is, the last and the highest value; and every value, for the pointer."""
    drawn = chart(1, 7, 3).draw()
    assert 'aria-label="Cost. cost: at last $3, at most $7."' in drawn
    assert drawn.count("$7") == 2


def test_names_of_series_are_escaped() -> None:
    """In the picture and in what the script reads."""
    evil = Chart("<b>", [0], 60, [Series('"><script>', [1])], str, str)
    assert "<script>" not in evil.draw()
    assert "<b>" not in evil.draw()
    assert "<b>" not in sparkline([1, 2], '<b>"')


@pytest.mark.parametrize(
    ("value", "end"), [(0, 1), (0.0011, 0.0012), (1, 1), (1.01, 1.2), (7.1, 8), (101, 120), (9.9e8, 1e9)]
)
def test_an_axis_ends_at_a_round_number(value: float, end: float) -> None:
    """Never below the highest value."""
    assert round_up(value) == pytest.approx(end)
    assert round_up(value) >= value


@pytest.mark.parametrize(
    ("seconds", "end"), [(0.3, 0.32), (19, 20), (100, 120), (130, 240), (7_300, 14_400), (8e6, 8_640_000)]
)
def test_an_axis_of_time_ends_at_a_round_time(seconds: float, end: float) -> None:
    """Round in the unit that it is said in."""
    assert round_up_time(seconds * 1e6) == pytest.approx(end * 1e6)


@pytest.mark.parametrize("ratio", [None, -1, 0, 0.5, 1, 7])
def test_a_bar_stays_within_its_room(ratio: float | None) -> None:
    """Whatever it is given."""
    width = float(re.findall(r'class="c1" width="([\d.]+)%"', bar(ratio))[0])
    assert width == 100 * min(max(ratio or 0, 0), 1)


def state(name: str, entered: int = 5) -> StateFigures:
    """Return a state."""
    return StateFigures(name, Figures(transitions=entered), None)


def test_a_graph_has_every_state_and_transition_once() -> None:
    """Circles, ways back, loops and all; names are text."""
    states = [state(name) for name in ("a", "b", "<c>", "d")]
    pairs = [("a", "b"), ("b", "<c>"), ("<c>", "a"), ("b", "b"), ("a", "d"), ("<c>", "d"), ("d", "<c>")]
    graph = state_graph(states, [Edge(first, last, 3) for first, last in pairs])
    assert isinstance(graph, Markup)
    assert graph.count('<g class="node') == 4
    assert graph.count('class="edge"') == len(pairs)
    assert "<c>" not in graph
    assert "nan" not in graph


def test_of_one_state_there_is_no_graph_and_an_order_all_the_same() -> None:
    """Nor where the only transition is a beginning, or a filter leaves none."""
    assert state_graph([state("draft")], []) == ""
    assert state_graph([state("draft")], [Edge("", "draft", 3)]) == ""
    assert in_order(["draft", "review"], []) == ["draft", "review"]
    assert in_order([], []) == []


@pytest.mark.parametrize("upright", [False, True])
def test_no_two_ways_of_a_graph_share_an_end(upright: bool) -> None:
    """Each can be followed from its beginning to its end."""
    states = [state(name) for name in "abcde"]
    pairs = [("a", "c"), ("a", "d"), ("b", "d"), ("a", "e"), ("c", "e"), ("b", "b"), ("e", "a"), ("d", "a"), ("e", "b")]
    pairs += [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]
    graph = state_graph(states, [Edge(first, last, 30 - n) for n, (first, last) in enumerate(pairs)], upright=upright)
    paths = re.findall(r'class="edge" d="M([\d.]+ [\d.]+) .*?L([\d.]+ [\d.]+)"', graph)
    ends = [end for path in paths for end in path]
    assert len(paths) == len(pairs)
    assert len(ends) == len(set(ends))


def test_a_step_that_is_not_over_is_called_so() -> None:
    """Drawn faintly, and named in the table and under the pointer."""
    drawn = Chart("Cost", [0, 3_600], 3_600, [Series("cost", [5, 5])], str, str, columns=True, whole=(0, 4_000))
    assert drawn.partial
    assert [drawn.label(start) for start in drawn.starts] == ["1 Jan 00:00", "1 Jan 01:00, so far"]
    assert drawn.draw().count("column c1 part") == 1
    assert not Chart("Cost", [0], 3_600, [Series("cost", [5])], str, str, whole=(0, 3_600)).partial


def test_a_graph_of_nothing_is_none_and_one_of_very_many_states_is_cut() -> None:
    """The page says so beside it."""
    assert not state_graph([state("a")], [])
    assert not state_graph([], [Edge("a", "b", 1)])
    states = [state(f"s{number}", 100 - number) for number in range(40)]
    edges = [Edge(f"s{number}", f"s{number + 1}", 1) for number in range(39)]
    assert state_graph(states, edges).count('<g class="node') == MOST_STATES
