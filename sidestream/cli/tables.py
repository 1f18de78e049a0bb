"""Tables, sums and ratios as every report of the command line draws them.

Keeps:
- An unknown price is "unpriced" and an unknown figure "unknown"; neither is ever $0 or 0.
- Where a terminal has no room for a column it goes, and never the name: see `fitting`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from consumers.views.figures import Figures
from consumers.views.states import StateFigures
from sidestream.cli.fitting import GAP, LEAST_NAME, FittingTable
from sidestream.wording.human import NOTHING, amount, dollars, duration, percent, shown

UNKNOWN: Final = "unknown"

MEDIUM: Final = 70
WIDE: Final = 100
"""Columns of a terminal from which more is shown."""

LEAST_WIDTH: Final = 30
"""Columns that everything is drawn for at least; a narrower terminal cuts or wraps it."""

INDENT: Final = (0, 0, 0, GAP)

Cell: TypeAlias = str | Text


def spaced(parts: Iterable[RenderableType]) -> Iterator[RenderableType]:
    """Put an empty line between parts."""
    for number, part in enumerate(parts):
        if number:
            yield Text()
        yield part


def new_table(*columns: str, leave: Sequence[str] = (), least_name: int = LEAST_NAME) -> Table:
    """Return a table; `#` before a head makes a column of numbers, `=` one of words of ours: these are never cut.

    Args:
        columns: The heads; the first column is of names, and stays.
        leave: Heads of the columns that go where they do not fit, the first to go first; then the last ones go.
        least_name: Cells that names in the first column have before others go.
    """
    table = FittingTable(leave, least_name)
    for place, name in enumerate(columns):
        head = name.lstrip("#=")
        justify = "right" if name.startswith("#") else "left"
        least = LEAST_NAME if place == 0 and head == name else None
        table.add_column(head, justify=justify, no_wrap=head != name, min_width=least)
    return table


def titled(title: str | Text, table: RenderableType, when: str = "", notes: Sequence[str] = ()) -> RenderableType:
    """Return a table under its title, with notes below it; an empty note is left out."""
    below = [Padding(Text(note, style="dim"), INDENT) for note in notes if note]
    head = Text(title, style="bold") if isinstance(title, str) else title
    line = Text.assemble(head, (when, "dim"))
    # A title that must stay one line stays one.
    line.no_wrap, line.overflow = head.no_wrap, head.overflow
    return Lines(line, Padding(table, INDENT), *below)


def one_line(*parts: str | Text | tuple[str, str]) -> Text:
    """Return a line that is cut where the terminal ends, never wrapped."""
    line = Text.assemble(*parts)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def wide_enough(out: Console) -> Console:
    """Return a console with the least width that anything is drawn for."""
    out.width = max(out.width, LEAST_WIDTH)
    return out


def has_cost(figures: Figures) -> bool:
    """Tell whether there was any request that could have cost something."""
    return bool(figures.priced_requests or figures.unpriced_requests)


def is_unpriced(nano_usd: int | None, unpriced: int | None) -> bool:
    """Tell whether nothing with a price cost anything: what failed and used no token is priced, at $0."""
    return nano_usd is None or (not nano_usd and bool(unpriced))


def money(nano_usd: int | None, unpriced: int | None) -> Cell:
    """Return a cost; a plus behind it: there is more that nobody knows the price of."""
    if nano_usd is None or is_unpriced(nano_usd, unpriced):
        return Text("unpriced", style="yellow")
    # A plus: it costs this, and what nobody knows.
    return Text.assemble(dollars(nano_usd), ("+", "yellow") if unpriced else "")


def ratio(failed: float | None) -> Cell:
    """Return the part (0-1) that failed."""
    return Text(percent(failed), style="red" if failed else "")


def some(number: int) -> str:
    """Return a count, and a dash for none."""
    return amount(number) if number else NOTHING


def visits_table(states: Sequence[StateFigures], width: int, *, cost_known: bool) -> RenderableType:
    """Return how long sessions stay in each state, and what a visit there takes, for a terminal of `width` columns."""
    wide = width >= WIDE
    more = ["#ENTERED", "#MEAN"] if wide else []
    heads = ("STATE", "#VISITS", *more[:1], "#P50", "#P95", *more[1:], "#TOKENS", "#COST")
    found = new_table(*heads, leave=("ENTERED", "MEAN", "P50", "TOKENS", "COST"))
    for state in states:
        visit_time = state.figures.visit_time
        found.add_row(
            shown(state.name),
            amount(state.visits),
            *([some(state.entered)] if wide else []),
            duration(state.p50_us),
            duration(visit_time.p95_us),
            *([duration(visit_time.mean_us)] if wide else []),
            NOTHING if state.tokens_a_visit is None else amount(state.tokens_a_visit),
            visit_cost(state, cost_known=cost_known),
        )
    return titled("Visits", found, "  time in the state, tokens and cost of one visit")


def visit_cost(state: StateFigures, *, cost_known: bool) -> Cell:
    """Return what a visit to a state costs in the mean."""
    if not cost_known:
        return UNKNOWN
    if not state.visits or not has_cost(state.figures):
        return NOTHING
    return money(state.nano_usd_a_visit, state.figures.unpriced_requests)
