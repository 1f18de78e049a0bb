"""One look of `sidestream top` as a person reads it, drawn for the terminal's width, and its height if it has one.

Keeps:
- Names come from users: what is in them is shown as text, never as markup, colour or a terminal's command.
- What may be wrong stands at the top: a stale, late or incomplete figure is never shown without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Final

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from consumers.alerts.store import AlertRow
from consumers.views.figures import Figures, Group, error_ratio_of, speaks_by_requests, time_of
from consumers.views.flow import HandlerFlow
from consumers.views.inflight import InFlight
from consumers.views.pace import NOW_MINUTES
from consumers.views.top import Top
from pipeline.keys import DEFAULT_NAMESPACE
from pipeline.units import US_PER_MS
from sidestream.cli.alerts import amount as rule_value
from sidestream.cli.human import (
    NOTHING,
    amount,
    counted,
    dollars,
    duration,
    harmless,
    instant,
    per_second,
    percent,
    shown,
    size,
)
from sidestream.cli.states_text import session_cells, standings_line
from sidestream.cli.tables import INDENT, MEDIUM, UNKNOWN, Cell, has_cost, is_unpriced, money, new_table, ratio, titled
from sidestream.cli.trust import judged

_MOST_ROWS: Final = 20
_MOST_MISSING: Final = 2
"""Lines that may say what is missing where the terminal's height is known; `report` says all of it."""

_TWO_COLUMNS: Final = 120
_TITLE_LINES: Final = 3
"""What a list takes besides its rows: an empty line, its title, its heads."""

_STYLES: Final = {"complete": "green", "stale": "bold red"}


def top_text(top: Top, width: int, height: int | None = None, *, stale: bool = False, foot: str = "") -> RenderableType:
    """Return one look.

    Args:
        top: The look.
        width: Columns of the terminal; 60 are enough, more show more.
        height: Its lines, where it has some: lists are cut to them.
        stale: Whether Redis has not answered since.
        foot: The last line; empty for none.
    """
    two = width >= _TWO_COLUMNS
    view = _View(top, width // 2 - 1 if two else width, stale)
    above = Lines(*view.head(short=height is not None), Text(), _tiles(top, width), Text(), *view.alerts())
    below = Lines(Text(), view.pipeline(), *([Text(), Text(foot, style="dim")] if foot else []))
    columns = [[view.agents(), view.open_for_long()], [view.sessions()]]
    if not two:
        columns = [[view.agents(), view.sessions(), view.open_for_long()]]
    if height is not None:
        room = height - _lines_of(above, width) - _lines_of(below, width)
        columns = [_cut(lists, room) for lists in columns]
    drawn = [Lines(*(part for found in lists if found.rows for part in (Text(), found.drawn()))) for lists in columns]
    if not two:
        return Lines(above, *drawn, below)
    side_by_side = Table.grid(expand=True, padding=(0, 1))
    for _ in drawn:
        side_by_side.add_column(ratio=1)
    side_by_side.add_row(*drawn)
    return Lines(above, side_by_side, below)


def _lines_of(part: RenderableType, width: int) -> int:
    return len(Console(width=width, file=StringIO(), highlight=False).render_lines(part))


@dataclass(frozen=True, slots=True)
class _List:
    """A list before it is cut to what there is room for."""

    title: str | Text
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def cut(self, most: int) -> "_List":
        """Return its first rows."""
        return _List(self.title, self.heads, self.rows[:most])

    def drawn(self) -> RenderableType:
        """Return it as a table under its title."""
        table = new_table(*self.heads)
        for row in self.rows:
            table.add_row(*row)
        return titled(self.title, table)


def _cut(lists: Sequence[_List], room: int) -> list[_List]:
    """Share lines among lists: one each in turn, the first first; one that gets no row needs no title either."""
    given = [0] * len(lists)
    while True:
        before = list(given)
        for place, found in enumerate(lists):
            price = 1 if given[place] else 1 + _TITLE_LINES
            if given[place] < len(found.rows) and price <= room:
                given[place] += 1
                room -= price
        if given == before:
            return [found.cut(most) for found, most in zip(lists, given, strict=True)]


def _tiles(top: Top, width: int) -> RenderableType:
    """Return the figures that people look for first: of the last minutes, below them those of the last hour."""
    tiles = [
        ("COST NOW", *_cost_tile(top)),
        ("LAST HOUR", _cost_of(top.hour, top), _unpriced(top)),
        *_counted_tiles(top),
    ]
    grid = Table.grid(expand=width >= MEDIUM, padding=(0, 2, 0, 0))
    if width < MEDIUM:
        for name, first, second in tiles:
            grid.add_row(Text(name, style="dim"), first, second)
        return grid
    for texts in zip(*tiles, strict=True):
        grid.add_row(*(Text(text, style="dim") if isinstance(text, str) else text for text in texts))
    return grid


def _cost_tile(top: Top) -> tuple[Text, Text]:
    below = Text(f"last {NOW_MINUTES} min", style="dim")
    if top.hourly_nano_usd is None:
        return Text(UNKNOWN if not top.cost_known else "unpriced", style="bold yellow"), below
    if is_unpriced(top.hourly_nano_usd, top.now.unpriced_requests):
        return Text("unpriced", style="bold yellow"), below
    more = "+" if top.now.unpriced_requests else ""
    return Text.assemble((f"{dollars(top.hourly_nano_usd)}{more}/h", "bold green")), below


def _cost_of(figures: Figures, top: Top) -> Text:
    if not top.cost_known:
        return Text(UNKNOWN, style="bold")
    if not has_cost(figures):
        return Text("$0", style="bold")
    return Text.assemble(money(figures.known_cost_nano_usd, figures.unpriced_requests), style="bold")


def _unpriced(top: Top) -> Text:
    unpriced = top.hour.unpriced_requests
    return Text(f"+ {amount(unpriced)} unpriced", style="yellow") if unpriced else Text("spent", style="dim")


def _counted_tiles(top: Top) -> list[tuple[str, Text, Text]]:
    names = ("REQUESTS", "TOKENS", "FAILED", "P95")
    if not top.metrics_known:
        return [(name, Text(UNKNOWN, style="bold"), Text()) for name in names]
    now, hour = top.now, top.hour
    # Of one kind in both, or the two could not be compared.
    by_requests = speaks_by_requests(hour)
    failed = now.request_error_ratio if by_requests else now.run_error_ratio
    time = now.request_time if by_requests else now.run_time
    of = "REQUESTS" if by_requests else "RUNS"
    return [
        ("REQUESTS", _bold(per_second(now.requests / top.seconds)), _dim(f"{amount(hour.requests)}/h")),
        ("TOKENS", _bold(per_second(now.total_tokens / top.seconds)), _dim(f"{amount(hour.total_tokens)}/h")),
        ("FAILED", Text(percent(failed), "bold red" if failed else "bold"), _hour(percent(error_ratio_of(hour)))),
        (f"P95 OF {of}", _bold(duration(time.p95_us)), _hour(duration(time_of(hour).p95_us))),
    ]


def _hour(text: str) -> Text:
    return _dim(f"hour {text}")


def _bold(text: str) -> Text:
    return Text(text, style="bold")


def _dim(text: str) -> Text:
    return Text(text, style="dim")


@dataclass(frozen=True, slots=True)
class _View:
    """Draws one look; `width` is that of its lists."""

    top: Top
    width: int
    stale: bool

    def head(self, *, short: bool) -> list[RenderableType]:
        """Return what this is, of when, whether it can be trusted, and what is missing."""
        top = self.top
        trust = judged(top.completeness, top.covered.from_s, top.now_s, is_stale=self.stale)
        line = Text.assemble(("Sidestream top", "bold"), f"  {instant(top.now_s)} UTC")
        if top.namespace != DEFAULT_NAMESPACE:
            line.append(f", {top.namespace}", "dim")
        line.append(f"  {trust.verdict}", _STYLES.get(trust.verdict, "yellow")).append(f": {trust.sentence}.")
        said = [*trust.missing, *trust.pending]
        shown_lines = said[:_MOST_MISSING] if short else said
        hidden = len(said) - len(shown_lines)
        more = f" (and {hidden} more: `sidestream report`)" if hidden else ""
        return [
            line,
            *(
                Text(f"! {text}{more if place == len(shown_lines) - 1 else ''}", style="yellow")
                for place, text in enumerate(shown_lines)
            ),
        ]

    def alerts(self) -> list[RenderableType]:
        """Return the rules that fire or are about to, and how many there are."""
        firing = self.top.firing
        if not self.top.alerts:
            return [Text.assemble(("Alerts  ", "bold"), ("no rule has been evaluated yet", "dim"))]
        if not firing:
            none = f"none of {counted(len(self.top.alerts), 'rule')} fires"
            return [Text.assemble(("Alerts  ", "bold"), (none, "dim"))]
        return [Text.assemble(("Alerts  ", "bold"), *_rule(row)) for row in firing]

    def agents(self) -> _List:
        """Return who spends, the dearest first."""
        heads = ["AGENT", "#COST", "#TOKENS", "#REQUESTS", "#FAILED", "#P95"]
        rows = [self._agent(group) for group in self.top.agents[:_MOST_ROWS]]
        return _List("Agents, last hour", heads, rows)

    def _agent(self, group: Group) -> Sequence[Cell]:
        figures, top = group.figures, self.top
        cost: Cell = UNKNOWN if not top.cost_known else NOTHING
        if top.cost_known and has_cost(figures):
            cost = money(figures.known_cost_nano_usd, figures.unpriced_requests)
        if not top.metrics_known:
            return [shown(group.name), cost, *[UNKNOWN] * 4]
        return [
            shown(group.name),
            cost,
            amount(figures.total_tokens),
            amount(figures.requests),
            ratio(error_ratio_of(figures)),
            duration(time_of(figures).p95_us),
        ]

    def sessions(self) -> _List:
        """Return the sessions that go on, those that somebody should look at first."""
        rows = [row for row in self.top.sessions if row.standing not in {"ended", "quiet"}][:_MOST_ROWS]
        medium = self.width >= MEDIUM
        heads = ["SESSION", "STATE", "=IS", "#IN STATE", "#SILENT", *(["#TOKENS", "#COST"] if medium else [])]
        title = Text.assemble(("Sessions  ", "bold"), standings_line(self.top.sessions))
        title.no_wrap, title.overflow = True, "ellipsis"
        return _List(title, heads, [session_cells(row, medium=medium, wide=False) for row in rows])

    def open_for_long(self) -> _List:
        """Return operations that have begun and of whose end nobody has heard, the oldest first."""
        rows = [_open(row) for row in self.top.status.in_flight[:_MOST_ROWS]]
        return _List("Open for long", ["WHAT", "AGENT", "SESSION", "#OPEN FOR", "=IS"], rows)

    def pipeline(self) -> RenderableType:
        """Return whether the pipeline keeps up: each handler, who works, what was shed, how full Redis is."""
        lines = [Text.assemble(("Pipeline  ", "bold"), *_parts(self.top))]
        if self.top.status.broken:
            broken = counted(len(self.top.status.broken), "place")
            lines.append(Text(f"! Events are unaccounted for in {broken}: see `sidestream status`.", style="bold red"))
        if not self.top.flows:
            return Lines(*lines, Text("  No handler is declared yet: start one with `sidestream worker`.", style="dim"))
        table = new_table("HANDLER", "#BEHIND", "#OUTSTANDING", "#LAG", "#RATE", "#DEAD")
        for flow in self.top.flows:
            table.add_row(*_flow(flow))
        return Lines(*lines, Padding(table, INDENT))


def _rule(row: AlertRow) -> list[tuple[str, str]]:
    style = "bold red" if row.status == "firing" else "yellow"
    value, threshold = rule_value(row.value, row.unit), rule_value(row.threshold, row.unit)
    words = "fires" if row.status == "firing" else "is about to fire"
    about = f": {value} over {threshold}, since {instant(row.since_s)} UTC"
    return [(f"{harmless(row.rule)} {words}", style), (about, "")]


def _open(row: InFlight) -> Sequence[Cell]:
    operation = row.operation
    return [
        shown(f"{operation.kind} {operation.model or operation.name}".strip()),
        shown(operation.agent),
        shown(operation.session),
        duration(row.open_ms * US_PER_MS),
        Text("open", style="yellow") if row.state == "open" else Text("unknown", style="dim"),
    ]


def _flow(flow: HandlerFlow) -> Sequence[Cell]:
    behind = duration(flow.behind_ms * US_PER_MS) if flow.outstanding else NOTHING
    return [
        shown(flow.name),
        behind,
        f"{flow.outstanding:,}{'+' if flow.at_least else ''}",
        UNKNOWN if flow.lag is None else f"{flow.lag:,}",
        NOTHING if flow.rate is None else per_second(flow.rate),
        Text(f"{flow.dead_letters:,}", style="red" if flow.dead_letters else ""),
    ]


def _parts(top: Top) -> list[tuple[str, str]]:
    memory, losses = top.status.memory, top.completeness.losses
    shed = sum(losses.shed.values())
    workers = len(top.status.workers)
    limit = f" of {size(memory.limit)} ({percent(memory.used / memory.limit)})" if memory.limit else ""
    left = f", full in {memory.hours_left:.0f} h" if memory.hours_left is not None else ""
    silent = f", {top.silent} silent" if top.silent else ""
    return [
        (counted(workers, "worker"), "" if workers else "bold red"),
        (f"; {counted(top.alive, 'producer')}", ""),
        (silent, "yellow"),
        (f"; {shed:,} shed", "yellow" if shed else ""),
        (f"; memory {size(memory.used)}{limit}{left}", "" if memory.level == "ok" else "bold red"),
    ]
