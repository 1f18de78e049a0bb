"""One look of `sidestream top` as a person reads it, drawn for the terminal's width, and its height if it has one.

Keeps:
- Names come from users: what is in them is shown as text, never as markup, colour or a terminal's command.
- What may be wrong stands at the top: a stale, late or incomplete figure is never shown without it.
- Where there is a height, exactly so many lines are drawn, and the pipeline and the foot are among them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Final, Literal, TypeAlias, get_args

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from consumers.alerts.store import AlertRow
from consumers.state import OTHER
from consumers.views.figures import Figures, Group, error_ratio_of, time_of
from consumers.views.flow import HandlerFlow
from consumers.views.inflight import InFlight
from consumers.views.live import STUCK_MS
from consumers.views.top import Top
from pipeline.keys import DEFAULT_NAMESPACE
from pipeline.units import US_PER_MS
from sidestream.cli.alerts import ordered, window
from sidestream.cli.fitting import SORTED
from sidestream.cli.look.states_text import new_session_table, session_cells, standings_line
from sidestream.cli.look.top_lists import Steady, TopList, fitted, stacked
from sidestream.cli.look.top_tiles import tiles_of
from sidestream.cli.tables import (
    INDENT,
    LEAST_WIDTH,
    UNKNOWN,
    Cell,
    has_cost,
    money,
    new_table,
    one_line,
    ratio,
)
from sidestream.wording.human import (
    NOTHING,
    amount,
    clock,
    counted,
    duration,
    harmless,
    instant,
    per_second,
    percent,
    shown,
    size,
)
from sidestream.wording.trust import BEHIND_MS, Trust, judged

Order: TypeAlias = Literal["cost", "tokens", "requests", "failed", "p95"]
"""What agents can be ordered by."""

ORDERS: Final[tuple[Order, ...]] = get_args(Order)

_ROOMY: Final = 34
"""Lines of a terminal from which on there are empty lines between parts, and each handler has its own."""

_TWO_COLUMNS: Final = 120
_LEAST_LISTS: Final = 4
"""Lines of lists that are worth having; where there are fewer, the pipeline goes."""

_MOST_MISSING: Final = 2
"""Lines that may say what is missing where the terminal's height is known; `report` says all of it."""

_MOST_RULES: Final = 3
_RULE_CHARS: Final = 40
_NAMESPACE_CHARS: Final = 24
_ALERTS: Final = "Alerts  "

_MOST_URGENT_AGENTS: Final = 5

_AGENT_LEAVE: Final = ("REQUESTS", "P95", "FAILED", "TOKENS")
_STYLES: Final = {"complete": "green", "stale": "bold red"}


def top_text(
    top: Top,
    width: int,
    height: int | None = None,
    *,
    stale: bool = False,
    foot: str | Text = "",
    order: Order = "cost",
    steady: Steady | None = None,
) -> RenderableType:
    """Return one look.

    Args:
        top: The look.
        width: Columns of the terminal; 60 are enough, more show more.
        height: Its lines, where it has some: exactly these are filled.
        stale: Whether Redis has not answered since.
        foot: The last line; empty for none.
        order: What the agents are ordered by.
        steady: What the lists wanted in the looks before.
    """
    width = max(width, LEAST_WIDTH)
    two = width >= _TWO_COLUMNS
    view = _View(top, width, stale, order, is_low=height is not None and height < _ROOMY, is_cut=height is not None)
    columns = [[view.open_for_long(), view.sessions(), view.agents()]]
    if two:
        columns = [[view.open_for_long(), view.agents()], [view.sessions()]]
    above, below = view.above(), view.below(foot)
    if height is None:
        return Lines(above, _side_by_side([stacked(lists) for lists in columns]), below)
    room = height - _lines_of(above, width) - _lines_of(below, width)
    if room < _LEAST_LISTS:
        below = _last_line(foot)
        room = height - _lines_of(above, width) - _lines_of(below, width)
    steady = steady or Steady()
    drawn = [fitted(lists, top.now_s, max(0, room), view.gap, steady) for lists in columns]
    return Lines(above, _side_by_side(drawn), below)


def _side_by_side(parts: Sequence[RenderableType]) -> RenderableType:
    if len(parts) == 1:
        return parts[0]
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in parts:
        grid.add_column(ratio=1)
    grid.add_row(*parts)
    return grid


def _last_line(foot: str | Text) -> RenderableType:
    return Lines(*([one_line(foot if isinstance(foot, Text) else (foot, "dim"))] if foot else []))


def _lines_of(part: RenderableType, width: int) -> int:
    # Of no renderables there is one empty line.
    console = Console(width=width, file=StringIO(), highlight=False)
    return sum(1 for line in console.render_lines(part, pad=False, new_lines=True) if line)


@dataclass(frozen=True, slots=True)
class _View:
    """Draws one look for a terminal of `width` columns; `is_low` if it has few lines, `is_cut` if it has a height."""

    top: Top
    width: int
    stale: bool
    order: Order
    is_low: bool
    is_cut: bool

    @property
    def gap(self) -> int:
        """How many empty lines stand between parts."""
        return 0 if self.is_low else 1

    def above(self) -> RenderableType:
        """Return what stands above the lists."""
        gap = [Text()] * self.gap
        tiles = tiles_of(self.top, self.width, is_low=self.is_low)
        return Lines(*self.head(), *gap, tiles, Text(), *self.alerts())

    def below(self, foot: str | Text) -> RenderableType:
        """Return what stands below them."""
        gap = [Text()] * self.gap
        pipeline = self.pipeline_in_short() if self.is_low else self.pipeline()
        return Lines(*gap, pipeline, *(gap if foot else []), _last_line(foot)) if foot else Lines(*gap, pipeline)

    def head(self) -> list[RenderableType]:
        """Return what this is, of when, whether it can be trusted, and what is missing."""
        top = self.top
        trust = judged(top.completeness, top.covered.from_s, top.now_s, is_stale=self.stale)
        verdict = Text.assemble((trust.verdict, _STYLES.get(trust.verdict, "yellow")), f": {trust.sentence}.")
        line = Text.assemble(("Sidestream top", "bold"), *self._when(trust), "  ", verdict)
        return [one_line(line) if self.is_cut else line, *self._missing(trust)]

    def _when(self, trust: Trust) -> list[tuple[str, str]]:
        """Return when and where, as far as the verdict has its place beside it."""
        top = self.top
        where = "" if top.namespace == DEFAULT_NAMESPACE else f", {top.namespace[:_NAMESPACE_CHARS]}"
        taken = len(f"Sidestream top    {trust.verdict}:")
        sentence = len(f" {trust.sentence}.")
        at, day = f"  {clock(top.now_s)} UTC", f"  {instant(top.now_s)} UTC"
        if not self.is_cut or taken + sentence + len(day + where) <= self.width:
            return [(day, ""), (where, "dim")]
        if taken + len(at + where) <= self.width:
            return [(at, ""), (where, "dim")]
        return [(at, "")] if taken + len(at) <= self.width else []

    def _missing(self, trust: Trust) -> list[RenderableType]:
        # What is still to be counted is no news, unless it is for long: then it says why.
        said = trust.missing if trust.verdict in {"complete", "incomplete"} else [*trust.missing, *trust.pending]
        if not self.is_cut:
            return [Text(f"! {text}", style="yellow") for text in said]
        most = 1 if self.is_low else _MOST_MISSING
        of = f"{most} of {len(said)} in `sidestream report`: " if len(said) > most else ""
        return [one_line((f"! {of if not place else ''}{text}", "yellow")) for place, text in enumerate(said[:most])]

    def alerts(self) -> list[RenderableType]:
        """Return the rules that fire or are about to, the worst first, a line each."""
        firing = ordered(self.top.firing)
        if not self.top.alerts:
            return [one_line((_ALERTS, "bold"), ("no rule has been evaluated yet", "dim"))]
        if not firing:
            none = f"none of {counted(len(self.top.alerts), 'rule')} fires"
            return [one_line((_ALERTS, "bold"), (none, "dim"))]
        indents = [_ALERTS, *[" " * len(_ALERTS)] * _MOST_RULES]
        lines: list[RenderableType] = [
            one_line((indent, "bold"), *self._rule(row))
            for indent, row in zip(indents, firing[:_MOST_RULES], strict=False)
        ]
        hidden = len(firing) - _MOST_RULES
        if hidden > 0:
            lines.append(one_line(indents[-1], (f"and {hidden:,} more: `sidestream alerts ls`", "yellow")))
        return lines

    def _rule(self, row: AlertRow) -> list[tuple[str, str]]:
        style = "bold red" if row.status == "firing" else "yellow"
        value, threshold = _compared(row)
        words = "fires" if row.status == "firing" else "is about to fire"
        name = harmless(row.rule)
        name = name if len(name) <= _RULE_CHARS else f"{name[: _RULE_CHARS - 1]}…"
        # The head says that times are UTC.
        at = instant(row.since_s)[:16]
        since = at.removeprefix(instant(self.top.now_s)[:11])
        about = f" ({row.severity}): {value} over {threshold} in {window(row.window_s)}, since {since}"
        return [(f"{name} {words}", style), (about, "")]

    def agents(self) -> TopList:
        """Return who spends, in the order that is asked for."""
        heads = [f"#{name.upper()}{SORTED if name == self.order else ''}" for name in ORDERS]
        leave = [head for head in _AGENT_LEAVE if head != self.order.upper()]
        groups = _ordered(self.top.agents, self.order)
        rows = [self._agent(group) for group in groups]
        table = new_table("AGENT", *heads, leave=leave)
        return TopList("Agents, last hour", table, rows, urgent=_MOST_URGENT_AGENTS)

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

    def sessions(self) -> TopList:
        """Return the sessions that go on, those that somebody should look at first."""
        rows = [row for row in self.top.sessions if row.standing not in {"ended", "quiet"}]
        urgent = max(1, sum(row.standing in {"stuck", "long"} for row in rows))
        about = standings_line(self.top.sessions, short=True)
        return TopList("Sessions", new_session_table(), [session_cells(row) for row in rows], urgent, about)

    def open_for_long(self) -> TopList:
        """Return operations that have begun and of whose end nobody has heard, the oldest first."""
        found = self.top.status.in_flight
        hanging = sum(row.state != "open" or row.open_ms > STUCK_MS for row in found)
        table = new_table("WHAT", "AGENT", "SESSION", "#OPEN FOR", "=IS", leave=("IS", "AGENT"))
        return TopList("Open for long", table, [_open(row) for row in found], max(1, hanging))

    def pipeline(self) -> RenderableType:
        """Return whether the pipeline keeps up: each handler, who works, what was shed, how full Redis is."""
        lines = [Text.assemble(("Pipeline  ", "bold"), *_parts(self.top)), *self._broken()]
        if self.is_cut:
            lines = [one_line(line) for line in lines]
        if not self.top.flows:
            return Lines(*lines, Text("  No handler is declared yet: start one with `sidestream worker`.", style="dim"))
        heads = ("HANDLER", "#BEHIND", "#OUTSTANDING", "#LAG", "#RATE", "#DEAD")
        table = new_table(*heads, leave=("RATE", "LAG", "OUTSTANDING"))
        for flow in self.top.flows:
            table.add_row(*_flow(flow))
        return Lines(*lines, Padding(table, INDENT))

    def pipeline_in_short(self) -> RenderableType:
        """Return the same in two lines, and one more where events are unaccounted for."""
        line = one_line(("Pipeline  ", "bold"), *_parts(self.top, is_short=True))
        if not self.top.flows:
            handlers = Text("No handler is declared yet: start one with `sidestream worker`.", style="dim")
        else:
            handlers = _handlers_in_short(self.top.flows)
        return Lines(line, *map(one_line, self._broken()), one_line("  ", handlers))

    def _broken(self) -> list[Text]:
        if not self.top.status.broken:
            return []
        broken = counted(len(self.top.status.broken), "place")
        return [Text(f"! Events are unaccounted for in {broken}: see `sidestream status`.", style="bold red")]


_MEASURES: Final[Mapping[Order, Callable[[Figures], float | None]]] = {
    "tokens": lambda figures: figures.total_tokens,
    "requests": lambda figures: figures.requests,
    "failed": error_ratio_of,
    "p95": lambda figures: time_of(figures).p95_us,
}


def _ordered(groups: Sequence[Group], order: Order) -> Sequence[Group]:
    """Return groups, which come by what they cost, by something else; what a cap hid stays last."""
    measure = _MEASURES.get(order)
    if measure is None:
        return groups
    return sorted(groups, key=lambda group: (group.name == OTHER, -(measure(group.figures) or 0)))


def _handlers_in_short(flows: Sequence[HandlerFlow]) -> Text:
    """Return the handlers that are behind or have dead letters, then the others' names."""
    late = [flow for flow in flows if flow.dead_letters or (flow.outstanding and flow.behind_ms >= BEHIND_MS)]
    parts = [_late(flow) for flow in late]
    if names := [shown(flow.name).plain for flow in flows if flow not in late]:
        parts.append(Text(f"{', '.join(names)} {'keeps' if len(names) == 1 else 'keep'} up", style="dim"))
    return Text("; ").join(parts)


def _late(flow: HandlerFlow) -> Text:
    line = shown(flow.name)
    if flow.outstanding and flow.behind_ms >= BEHIND_MS:
        events = f"{flow.outstanding:,}{'+' if flow.at_least else ''}"
        line.append(f" {duration(flow.behind_ms * US_PER_MS)} behind ({events})", "yellow")
    if flow.dead_letters:
        line.append(f" {counted(flow.dead_letters, 'dead letter')}", "red")
    return line


def _compared(row: AlertRow) -> tuple[str, str]:
    """Return value and threshold in short, in full where they would look the same."""
    if row.unit == "us":
        value, threshold = duration(row.value), duration(row.threshold)
    else:
        value, threshold = amount(row.value), f"{amount(row.threshold)} {row.unit}"
    if value != threshold.removesuffix(f" {row.unit}"):
        return value, threshold
    return f"{row.value:,}", f"{row.threshold:,} {row.unit}"


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


def _parts(top: Top, *, is_short: bool = False) -> list[tuple[str, str]]:
    losses = top.completeness.losses
    shed = sum(losses.shed.values())
    workers = len(top.status.workers)
    silent = f", {top.silent} silent" if top.silent else ""
    return [
        (counted(workers, "worker"), "" if workers else "bold red"),
        (f"; {counted(top.alive, 'producer')}", ""),
        (silent, "yellow"),
        (f"; {shed:,} shed", "yellow" if shed else ""),
        (f"; memory {_memory(top, is_short=is_short)}", "" if top.status.memory.level == "ok" else "bold red"),
    ]


def _memory(top: Top, *, is_short: bool) -> str:
    memory = top.status.memory
    left = f", full in {memory.hours_left:.0f} h" if memory.hours_left is not None else ""
    if not memory.limit:
        return f"{size(memory.used)}{left}"
    part = percent(memory.used / memory.limit)
    return f"{part}{left}" if is_short else f"{size(memory.used)} of {size(memory.limit)} ({part}){left}"
