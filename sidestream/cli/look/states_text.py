"""The state machine as a person reads it in a terminal: states, the ways between them, who is stuck, two versions.

Keeps: names come from users: what is in them is shown as text, never as markup, colour or a terminal's command.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from consumers.views.figures import filters_of
from consumers.views.live import LiveSession, standings_of
from consumers.views.machine import Machine
from consumers.views.rankings import Edge
from consumers.views.states import StateFigures
from pipeline.keys import DEFAULT_NAMESPACE
from sidestream.cli.look.filters import said_filters
from sidestream.cli.look.foot import foot_of
from sidestream.cli.look.ranges import said_range
from sidestream.cli.tables import (
    UNKNOWN,
    Cell,
    money,
    new_table,
    spaced,
    titled,
    visit_cost,
    visits_table,
)
from sidestream.wording.human import NOTHING, amount, counted, duration, harmless, instant, percent, shown

STANDING_WORDS: Final = {
    "stuck": "stuck",
    "long": "long in their state",
    "active": "active",
    "quiet": "abandoned",
    "ended": "ended",
}

_MOST_ROWS: Final = 20

_LEAST_SESSION: Final = 16
"""Cells of a session's name: names that were made in a row differ at their end."""

_SESSION_LEAVE: Final = ("TOKENS", "COST", "SILENT", "STATE", "IN STATE")
_WORRYING: Final = frozenset({"stuck", "long", "quiet"})
_SAME: Final = 0.005
"""A change below half a percent is none."""


def states_text(machine: Machine, width: int, why_nothing: str = "") -> RenderableType:
    """Return the state machine.

    Args:
        machine: What it says.
        width: Columns of the terminal; 60 are enough, more show more.
        why_nothing: Why nothing fits its filters, where that is known.
    """
    view = _View(machine, width)
    if why_nothing and machine.metrics_known:
        return Lines(*spaced([view.head(), Text(why_nothing), view.foot()]))
    parts = (view.head(), view.states(), view.transitions(), view.sessions(), view.versions(), view.foot())
    return Lines(*spaced(part for part in parts if part is not None))


def standings_line(rows: Sequence[LiveSession], *, short: bool = False) -> Text:
    """Return how many sessions stand where, those that ask for somebody first; a word each where it is to be short."""
    counts = {standing: number for standing, number in standings_of(rows).items() if number}
    parts = [
        (
            f"{number:,} {_word(standing) if short else STANDING_WORDS[standing]}",
            "yellow" if standing in _WORRYING else "",
        )
        for standing, number in counts.items()
    ]
    return Text(", ").join(Text(text, style) for text, style in parts) if parts else Text("none", style="dim")


@dataclass(frozen=True, slots=True)
class _View:
    """Draws one state machine."""

    machine: Machine
    width: int

    def head(self) -> RenderableType:
        """Return what is reported, of when."""
        machine = self.machine
        line = Text.assemble(("Sidestream states", "bold"), f"  {said_range(machine.covered, machine.now_s)}")
        if machine.namespace != DEFAULT_NAMESPACE:
            line.append(f", {machine.namespace}", "dim")
        if filters := filters_of(machine.where):
            line.append(f"\nOnly {said_filters(filters)}.", "yellow")
        return line

    def states(self) -> RenderableType:
        """Return the states, or what to do where there is none."""
        machine = self.machine
        if not machine.metrics_known:
            return Text("No worker has run here yet, so nothing is counted. Start one:\n\n  sidestream worker")
        if not machine.states:
            return Text(
                "No event of this time belongs to a state. An application says where its sessions are:\n\n"
                '  with sidestream.session_context("session-1", state="outlining"):\n'
                '      sidestream.track_state_transition("outlining", "writing")'
            )
        return visits_table(machine.states, self.width, cost_known=machine.cost_known)

    def transitions(self) -> RenderableType | None:
        """Return how often sessions went from one state into another."""
        edges = self.machine.edges
        if not edges.edges:
            return None
        out_of: dict[str, int] = {}
        for edge in edges.edges:
            out_of[edge.from_state] = out_of.get(edge.from_state, 0) + edge.count
        table = new_table("FROM", "TO", "#COUNT", "#SHARE", leave=("SHARE",))
        for edge in edges.edges[:_MOST_ROWS]:
            share = percent(edge.count / out_of[edge.from_state])
            table.add_row(_origin(edge), shown(edge.to_state), f"{edge.count:,}", share)
        hidden = len(edges.edges) - _MOST_ROWS
        notes = [
            f"and {hidden:,} more; --json has them" if hidden > 0 else "",
            f"{counted(edges.over_cap, 'transition')} besides, of states over the cap." if edges.over_cap else "",
            "Not narrowed by the filters: they are kept with no other dimension."
            if "transitions" in self.machine.not_narrowed
            else "",
        ]
        return titled("Transitions", table, "  in whole hours; the share is of what left FROM", notes)

    def sessions(self) -> RenderableType | None:
        """Return where sessions stand, one by one those that somebody should look at."""
        machine = self.machine
        if not machine.sessions:
            return None
        rows = [row for row in machine.sessions if row.standing in _WORRYING]
        errors = any(row.seen.last_error for row in rows[:_MOST_ROWS])
        table = new_session_table(*(["LAST ERROR"] if errors else []))
        for row in rows[:_MOST_ROWS]:
            more = [shown(row.seen.last_error) if row.seen.last_error else ""] if errors else []
            table.add_row(*session_cells(row), *more)
        since_s = (machine.since_ms or 0) / 1_000
        since = f"; as the stream tells since {instant(since_s)} UTC" if since_s else ""
        notes = [
            f"and {len(rows) - _MOST_ROWS:,} more; --json has them" if len(rows) > _MOST_ROWS else "",
            "Narrowed by service and state alone." if "sessions" in machine.not_narrowed else "",
        ]
        title = Text.assemble(("Sessions  ", "bold"), standings_line(machine.sessions), (since, "dim"))
        if not rows:
            return title
        return titled(title, table, notes=notes)

    def versions(self) -> RenderableType | None:
        """Return the comparison of two versions, or which there are."""
        machine = self.machine
        if machine.pair is not None:
            return self._comparison(*machine.pair)
        if len(machine.versions) < 2:  # noqa: PLR2004 - one has nothing to be compared with
            return None
        names = [harmless(use.version) for use in machine.versions[:_MOST_ROWS]]
        return Text.assemble(
            ("Versions  ", "bold"), ", ".join(names), (f"; --compare {names[1]} {names[0]} shows both", "dim")
        )

    def _comparison(self, before: str, after: str) -> RenderableType:
        heads = ("STATE", "=VERSION", "#VISITS", "#P50", "#P95", "#TOKENS", "#COST")
        table = new_table(*heads, leave=("P50", "VISITS", "TOKENS", "COST", "P95"))
        for change in self.machine.changes:
            table.add_row(shown(change.name), shown(before), *self._figures(change.before))
            table.add_row("", shown(after), *self._figures(change.after))
            if change.before and change.after:
                table.add_row("", Text("change", style="dim"), "", *self._changes(change.before, change.after))
        return titled("Versions", table, "  time in the state, tokens and cost of one visit")

    def _figures(self, state: StateFigures | None) -> list[Cell]:
        if state is None:
            return [Text("never", style="dim")]
        cost = visit_cost(state, cost_known=self.machine.cost_known)
        p50, p95, tokens, _ = _compared(state)
        said = NOTHING if tokens is None else amount(tokens)
        return [amount(state.visits), duration(p50), duration(p95), said, cost]

    def _changes(self, before: StateFigures, after: StateFigures) -> list[Cell]:
        pairs = zip(_compared(before), _compared(after), strict=True)
        return [_change(*pair) for pair in list(pairs)[: 4 if self.machine.cost_known else 3]]

    def foot(self) -> RenderableType:
        """Return up to when everything is counted, and what is known to be missing."""
        return foot_of(self.machine.completeness, self.machine.covered.from_s)


def new_session_table(*more: str) -> Table:
    """Return an empty table of sessions; what is `more` goes first where it does not fit."""
    heads = ("SESSION", "STATE", "=IS", "#IN STATE", "#SILENT", "#TOKENS", "#COST", *more)
    return new_table(*heads, leave=(*more, *_SESSION_LEAVE), least_name=_LEAST_SESSION)


def session_cells(row: LiveSession) -> list[Cell]:
    """Return one session: its name, its state, where it stands, how long it is there and silent, what it took."""
    return [
        shown(row.seen.session),
        UNKNOWN if row.seen.state is None else shown(row.seen.state),
        Text(_word(row.standing), style="yellow" if row.standing in _WORRYING else ""),
        UNKNOWN if row.in_state_us is None else duration(row.in_state_us),
        duration(row.quiet_us),
        UNKNOWN if row.total_tokens is None else amount(row.total_tokens),
        money(row.cost_nano_usd, row.unpriced_requests) if row.cost_nano_usd or row.unpriced_requests else NOTHING,
    ]


def _word(standing: str) -> str:
    return STANDING_WORDS[standing].partition(" ")[0]


def _origin(edge: Edge) -> Text:
    return shown(edge.from_state) if edge.from_state else Text("(begins)", style="dim")


def _compared(state: StateFigures) -> tuple[int | None, int | None, int | None, int | None]:
    """Return what two versions are compared by."""
    return state.p50_us, state.figures.visit_time.p95_us, state.tokens_a_visit, state.nano_usd_a_visit


def _change(before: int | None, after: int | None) -> Cell:
    """Return how a figure moved."""
    if after is None or not before:
        return ""
    ratio = after / before - 1
    if abs(ratio) < _SAME:
        return Text("same", style="dim")
    return Text(f"{ratio * 100:+.0f} %", style="yellow" if ratio > 0 else "green")
