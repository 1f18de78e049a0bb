"""How tables and lists fit a terminal: which columns go, who gets the lines, and that nothing jumps."""

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from sidestream.cli.look.top_lists import Steady, TopList, fitted, shared, stacked
from sidestream.cli.tables import new_table
from sidestream.wording.human import shown


def printed(part: RenderableType, width: int) -> list[str]:
    """Return the lines that a terminal of `width` columns shows."""
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(part)
    return [line.rstrip() for line in capture.get().splitlines()]


def rows_of(name: str, number: int, urgent: int = 1) -> TopList:
    """Return a list with some rows."""
    return TopList(name, new_table("NAME", "#COST"), [[f"{name}-{place}", "$1"] for place in range(number)], urgent)


@pytest.mark.parametrize(
    ("width", "heads"),
    [(60, "NAME COST TOKENS P95"), (36, "NAME COST TOKENS"), (26, "NAME COST"), (16, "NAME"), (8, "NAME")],
)
def test_the_least_important_column_goes_and_the_name_stays(width: int, heads: str) -> None:
    """In the order that is said; no number is cut."""
    table = new_table("NAME", "#COST", "#TOKENS", "#P95", leave=("P95", "TOKENS"))
    table.add_row(shown("a-name-that-is-long"), "$0.4956+", "12.5k", "16.1 s")
    lines = printed(table, width)
    assert lines[0].split() == heads.split()
    assert lines[1].startswith("a-name"), "the name keeps its place"
    assert all(len(line) <= width for line in lines)


def test_a_column_does_not_come_and_go_with_a_digit() -> None:
    """What a cost may take is kept free for it."""
    heads: set[str] = set()
    for cost in ("$1", "$12.34", "$0.4956"):
        table = new_table("NAME", "#COST", "#FAILED")
        table.add_row("writer", cost, "0 %")
        heads.add(printed(table, 29)[0].replace(" ", ""))
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("room", "given"),
    [(2, [0, 0, 0]), (3, [1, 0, 0]), (9, [1, 1, 1]), (14, [1, 3, 4]), (16, [1, 4, 5]), (50, [1, 9, 5])],
)
def test_lines_go_to_what_asks_for_somebody_first(room: int, given: list[int]) -> None:
    """One each in turn, the first list first; what is left goes to the rest."""
    assert shared([(1, 1), (9, 3), (5, 5)], room, gap=0) == given


def test_a_list_that_is_cut_says_by_how_much() -> None:
    """In its title; one that has no line of its own is named with its number."""
    lists = [rows_of("few", 2), rows_of("many", 1_200)]
    lines = printed(fitted(lists, 0, 8, 0, Steady()), 40)
    assert [lines[0], lines[4]] == ["few", "many, and 1,198 more"]
    assert len(lines) == 8
    assert printed(fitted([rows_of("few", 2), rows_of("many", 9)], 0, 5, 0, Steady()), 40)[-1] == "many, 9"
    assert "many, and 5 more" in printed(stacked([rows_of("many", 25)]), 40)


def test_what_comes_and_goes_moves_nothing_for_a_minute() -> None:
    """Its lines are kept, then given to others; the room is filled exactly."""
    steady = Steady()
    looks = [(0, 0), (2, 1), (4, 0), (6, 2), (30, 0), (60, 0), (67, 0)]
    places: list[int] = []
    for now_s, opened in looks:
        lines = printed(fitted([rows_of("open", opened), rows_of("agents", 5, 5)], now_s, 14, 0, steady), 40)
        assert len(lines) == 14
        places.append(lines.index("agents"))
    assert places == [0, 3, 3, 4, 4, 4, 0]


def test_a_title_stays_one_line() -> None:
    """However much it says."""
    about = Text("one, two, three, four, five, six, seven, eight, nine, ten, eleven")
    found = TopList("Sessions", new_table("NAME", "#COST"), [["a", "$1"]], about=about)
    lines = printed(found.drawn(1), 40)
    assert len(lines) == 3
    assert lines[0].endswith("…")
