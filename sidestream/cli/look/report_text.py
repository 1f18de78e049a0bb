"""The report as a person reads it in a terminal: what was spent, how fast it answered, what failed, what is missing.

Keeps:
- Names come from users: what is in them is shown as text, never as markup, colour or a terminal's command.
- An unknown price is "unpriced" and an unknown figure "unknown"; neither is ever $0 or 0.
- What is of requests, for want of agent runs, says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from consumers.state import OTHER
from consumers.views.figures import Figures, Group, Timing, error_ratio_of, filters_of, speaks_by_requests, time_of
from consumers.views.report import MARGINALS, By, ErrorRow, ExpensiveRun, LeftOut, NameRow, Report
from consumers.windows import HOUR_S, MINUTE_S
from pipeline.keys import DEFAULT_NAMESPACE
from pipeline.units import US_PER_S
from sidestream.cli.look.filters import said_filters
from sidestream.cli.look.foot import foot_of
from sidestream.cli.look.ranges import said_range
from sidestream.cli.tables import (
    INDENT,
    MEDIUM,
    UNKNOWN,
    WIDE,
    Cell,
    has_cost,
    is_unpriced,
    money,
    new_table,
    ratio,
    some,
    spaced,
    titled,
    visits_table,
)
from sidestream.wording.human import NOTHING, amount, counted, dollars, duration, instant, percent, shown

MOST_GROUPS: Final = 40
"""Rows of a breakdown by agent, model or state on a screen, unless more are asked for; `--json` has all of them."""

MOST_ROWS: Final = 200
"""What `--most` may say, and as many names as a window ranks."""

_MOST_NAMED: Final = 3
_NAMED_CHARS: Final = 24

_BAR_CELLS: Final = 10

_LEAVE: Final = ("", "1ST TOKEN", "RUNS", "P95", "REQUESTS", "RESPONSE", "LATENCY", "FAILED", "TOKENS")
"""Columns of the breakdown that go on a narrow terminal, the first to go first."""

_OF_NAMES: Final = ("#COST", "#TOKENS", "#REQUESTS", "#RUNS", "#ERRORS")

_HOW_SAID: Final[Mapping[By, str]] = {
    "agent": 'A PydanticAI agent has its name=; else: sidestream.model_request("writer", "gpt-4o").',
    "model": 'A request says it: sidestream.model_request("writer", "gpt-4o").',
    "state": 'An application says it: sidestream.session_context("session-1", state="outlining").',
    "session": 'An application says it: sidestream.session_context("session-1").',
    "user": 'An application says it: sidestream.session_context("session-1", "user-1").',
    "tag": 'An application says it: sidestream.session_context("session-1", tags=["beta"]).',
    "tenant": 'An application says it: sidestream.session_context("session-1", tenant="acme").',
    "service": 'An application says it: sidestream.configure(service="my-app").',
}
"""How events come to carry what a report can be by."""


def report_text(report: Report, width: int, why_nothing: str = "") -> RenderableType:
    """Return the report.

    Args:
        report: What it says.
        width: Columns of the terminal; 80 are enough, more show more.
        why_nothing: Why nothing fits its filters, where that is known.
    """
    view = _View(report, width, why_nothing)
    if report.empty:
        return Lines(view.head(), Text(), view.nothing_yet(), Text(), view.foot())
    parts = [
        view.head(),
        view.tiles(),
        view.details(),
        view.breakdown(),
        view.visits(),
        view.errors(),
        view.expensive(),
        view.slowest(),
        view.foot(),
    ]
    return Lines(*spaced(part for part in parts if part is not None))


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the breakdown: its head, and what a row shows in it."""

    head: str
    cell: Callable[[Group], Cell]
    of_runs: bool = False
    """Whether it is about agent runs, and about requests where there are none."""


@dataclass(frozen=True, slots=True)
class _View:
    """Draws one report."""

    report: Report
    width: int
    why_nothing: str = ""

    def head(self) -> RenderableType:
        """Return what is reported, of when, and up to when it is counted."""
        report = self.report
        covered, asked = report.covered, report.asked
        line = Text.assemble(
            ("Sidestream report", "bold"),
            f"  {said_range(covered, report.now_s)}",
        )
        if report.namespace != DEFAULT_NAMESPACE:
            line.append(f", {report.namespace}", "dim")
        if filters := filters_of(report.where):
            line.append(f"\nOnly {said_filters(filters)}.", "yellow")
        if covered.from_s < asked.from_s - MINUTE_S:
            early = duration((asked.from_s - covered.from_s) * US_PER_S)
            line.append(f"\nIt begins {early} early: no finer windows are kept of that age.", "dim")
        elif covered.from_s > asked.from_s:
            line.append("\nIt begins later than asked: nothing older is kept.", "dim")
        return line

    def tiles(self) -> RenderableType:
        """Return the four figures that people look for first: side by side, on a narrow terminal one below another."""
        tiles = [("COST", self._total_cost(), self._unpriced()), *self._counted_tiles()]
        if self.width < MEDIUM:
            grid = Table.grid(padding=(0, 2, 0, 0))
            for name, first, second in tiles:
                grid.add_row(Text(name, style="dim"), first, second)
            return grid
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        grid.add_row(*(Text(name, style="dim") for name, _, _ in tiles))
        grid.add_row(*(first for _, first, _ in tiles))
        grid.add_row(*(second for _, _, second in tiles))
        return grid

    def _counted_tiles(self) -> list[tuple[str, Text, Cell]]:
        figures = self.report.totals
        if not self.report.metrics_known:
            return [(name, Text(UNKNOWN, style="bold"), "") for name in ("TOKENS", "REQUESTS", "RESPONSE TIME")]
        parts = f"{amount(figures.input_tokens)} in, {amount(figures.output_tokens)} out"
        of_requests = speaks_by_requests(figures) and figures.request_time.count
        timing = time_of(figures)
        p95 = f"p95 {duration(timing.p95_us)}" if timing.count else Text("no agent run", style="dim")
        return [
            ("TOKENS", Text(amount(figures.total_tokens), style="bold"), parts),
            ("REQUESTS", Text(f"{figures.requests:,}", style="bold"), self._failed_requests()),
            ("REQUEST TIME" if of_requests else "RESPONSE TIME", Text(duration(timing.mean_us), style="bold"), p95),
        ]

    def _total_cost(self) -> Text:
        if not self.report.cost_known:
            return Text(UNKNOWN, style="bold")
        figures = self.report.totals
        if not has_cost(figures):
            return Text(NOTHING, style="bold")
        if is_unpriced(figures.known_cost_nano_usd, figures.unpriced_requests):
            return Text("unpriced", style="bold yellow")
        return Text(dollars(figures.cost_nano_usd), style="bold green")

    def _unpriced(self) -> Cell:
        figures = self.report.totals
        if not has_cost(figures):
            return ""
        if not figures.unpriced_requests:
            return Text("every request priced", style="dim")
        if is_unpriced(figures.known_cost_nano_usd, figures.unpriced_requests):
            return Text(counted(figures.unpriced_requests, "request"), style="yellow")
        return Text(f"+ {amount(figures.unpriced_requests)} unpriced", style="yellow")

    def _failed_requests(self) -> Cell:
        if not self.report.totals.requests:
            return ""
        ratio = self.report.totals.request_error_ratio
        return Text(f"{percent(ratio)} failed", style="red") if ratio else Text("none failed", style="dim")

    def details(self) -> RenderableType | None:
        """Return what stands behind the first figures, a line for each kind."""
        figures = self.report.totals
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        if self.report.metrics_known:
            if figures.token_parts:
                parts = (f"{amount(tokens)} {_PART_NAMES[part]}" for part, tokens in figures.token_parts.items())
                grid.add_row("Tokens", "of them " + ", ".join(parts))
            if figures.requests:
                grid.add_row("Requests", _by_status(figures.requests_by_status) + _timed(figures.request_time))
            if figures.first_token.count:
                grid.add_row("First token", _timed(figures.first_token).removeprefix("; "))
            if figures.runs:
                failed = f"; {percent(figures.run_error_ratio)} failed"
                grid.add_row("Agent runs", _by_status(figures.runs_by_status) + failed)
            others = [
                counted(number, name)
                for number, name in (
                    (figures.tools, "tool call"),
                    (figures.steps, "step"),
                    (figures.transitions, "state transition"),
                    (figures.errors, "error"),
                )
                if number
            ]
            if others:
                grid.add_row("Besides", ", ".join(others))
        if figures.unpriced_requests:
            of_tokens = f"{counted(figures.unpriced_requests, 'request')} with {amount(figures.unpriced_tokens)} tokens"
            grid.add_row("Unpriced", Text(f"{of_tokens}: their cost is not in the sums (+)", style="yellow"))
        return grid if grid.row_count else None

    def breakdown(self) -> RenderableType | None:
        """Return the figures by what was asked for."""
        report = self.report
        match report.by:
            case "session" | "user" | "tag":
                return self._rows(report.rows) if report.rows else self._none_carries()
            case "error":
                more = _more(report.left_out, len(report.errors))
                return self._errors(report.errors, "By error", more) or self._none_carries()
            case "agent" | "model" | "state" | "tenant" | "service":
                groups = [group for group in report.groups if group.name or self._has_row(group.figures)]
                return self._groups(groups) if any(group.name for group in groups) else self._none_carries()
            case _:
                assert_never(report.by)

    def _none_carries(self) -> RenderableType | None:
        """Return that nothing carries what was asked for, and how an application says it."""
        by = self.report.by
        if not (self.report.metrics_known or self.report.cost_known):
            return None
        if by == "error":
            said = "No error was reported in this time."
        elif by == "model" and not self.report.totals.requests:
            said = "No request was made in this time."
        else:
            which = "No request" if by == "model" else "No event"
            of = " that fits the filters" if filters_of(self.report.where) and by not in MARGINALS else ""
            said = f"{which}{of} carries {_article(by)} {by} in this time. {_HOW_SAID[by]}"
        return Lines(Text(f"By {by}", style="bold"), Padding(Text(said), INDENT))

    def _has_row(self, figures: Figures) -> bool:
        """Tell whether there is anything to show of what has no name; runs and tools never have a model."""
        operations = figures.runs or figures.tools if self.report.by != "model" else 0
        return bool(figures.requests or operations or has_cost(figures))

    def _groups(self, groups: Sequence[Group]) -> RenderableType:
        # The bars stand between figures: they need a wide terminal not to be in the way.
        columns = [column for column in self._columns() if column.head or self.width >= WIDE]
        heads = (f"#{column.head}" if column.head else "" for column in columns)
        table = new_table(self.report.by.upper(), *heads, leave=_LEAVE)
        most = max(MOST_GROUPS, self.report.most)
        for group in groups[:most]:
            table.add_row(shown(group.name), *(column.cell(group) for column in columns))
        left_out = LeftOut(max(0, len(groups) - most))
        notes = [_more(left_out, min(most, len(groups))), self._of_requests(groups[:most], columns)]
        return titled(f"By {self.report.by}", table, notes=notes)

    def _of_requests(self, groups: Sequence[Group], columns: Sequence[_Column]) -> str:
        """Return which rows have the figures of requests where others have those of agent runs."""
        heads = [column.head for column in columns if column.of_runs]
        names = [group.name for group in groups if speaks_by_requests(group.figures)]
        if not heads or not names:
            return ""
        figures = _listed(heads)
        if len(names) == len(groups):
            return f"{figures} are of requests: there was no agent run."
        named = [shown(name).plain[:_NAMED_CHARS] for name in names[:_MOST_NAMED]]
        more = [f"{len(names) - _MOST_NAMED:,} more"] if len(names) > _MOST_NAMED else []
        return f"{figures} of {_listed([*named, *more])} are of requests: no agent run there."

    def _columns(self) -> Sequence[_Column]:
        cost = [
            _Column("COST", lambda group: self._cost_of(group.figures)),
            _Column("", lambda group: self._bar(group.figures)),
        ]
        if not self.report.metrics_known:
            return cost
        requests = [
            _Column("TOKENS", lambda group: amount(group.figures.total_tokens)),
            _Column("REQUESTS", lambda group: amount(group.figures.requests)),
        ]
        failed_requests = _Column("FAILED", lambda group: ratio(group.figures.request_error_ratio))
        runs = [
            _Column("RUNS", lambda group: some(group.figures.runs)),
            _Column("FAILED", lambda group: ratio(error_ratio_of(group.figures)), of_runs=True),
            _Column("RESPONSE", lambda group: duration(time_of(group.figures).mean_us), of_runs=True),
            _Column("P95", lambda group: duration(time_of(group.figures).p95_us), of_runs=True),
        ]
        match self.report.by:
            case "model":
                return [
                    *cost,
                    *requests,
                    failed_requests,
                    _Column("LATENCY", lambda group: duration(group.figures.request_time.mean_us)),
                    _Column("P95", lambda group: duration(group.figures.request_time.p95_us)),
                    _Column("1ST TOKEN", lambda group: duration(group.figures.first_token.mean_us)),
                ]
            case _:
                first = _Column("1ST TOKEN", lambda group: duration(group.figures.first_token.mean_us))
                return [*cost, *requests, *runs, first]

    def _cost_of(self, figures: Figures) -> Cell:
        if not self.report.cost_known:
            return UNKNOWN
        if not has_cost(figures):
            return NOTHING
        return money(figures.known_cost_nano_usd, figures.unpriced_requests)

    def _bar(self, figures: Figures) -> Cell:
        dearest = max(group.figures.cost_nano_usd for group in self.report.groups)
        return Text("━" * -(-figures.cost_nano_usd * _BAR_CELLS // dearest) if dearest else "", style="green")

    def _rows(self, rows: Sequence[NameRow]) -> RenderableType:
        table = new_table(self.report.by.upper(), *_OF_NAMES, leave=("RUNS", "REQUESTS", "ERRORS", "TOKENS"))
        for row in rows:
            counts = (row.total_tokens, row.requests, row.runs, row.errors)
            table.add_row(
                shown(row.name),
                self._cost_of_row(row),
                *(UNKNOWN if count is None else amount(count) for count in counts),
            )
        more = _more(self.report.left_out, sum(row.name != OTHER for row in rows))
        return titled(f"By {self.report.by}", table, self._names_covered(), [more, self._not_narrowed("groups")])

    def _cost_of_row(self, row: NameRow) -> Cell:
        if not self.report.cost_known:
            return UNKNOWN
        return money(row.cost_nano_usd, row.unpriced_requests) if row.cost_requests else NOTHING

    def visits(self) -> RenderableType | None:
        """Return how long sessions stay in each state, and what a visit takes, where it is asked for by state."""
        # Narrowed to an agent or a model there is none: visits carry neither.
        if not (self.report.metrics_known and any(state.visits for state in self.report.states)):
            return None
        return visits_table(self.report.states, self.width, cost_known=self.report.cost_known)

    def _not_narrowed(self, name: str) -> str:
        """Return how far the filters narrow a list, named as in the JSON document; empty where they do."""
        if name not in self.report.not_narrowed:
            return ""
        if self.report.where.agent and name.endswith("_operations"):
            return "Narrowed by agent alone: this list is kept with no other dimension."
        return "Not narrowed by the filters: this list is kept with no other dimension."

    def errors(self) -> RenderableType | None:
        """Return the types of errors that were reported most often, where they are not the breakdown."""
        if self.report.by == "error":
            return None
        left_out = self.report.errors_left_out
        more = f"and {_number_of(left_out)} more; --by error" if left_out.count else ""
        return self._errors(self.report.errors, "Errors", more)

    def _errors(self, rows: Sequence[ErrorRow], title: str, more: str) -> RenderableType | None:
        if not rows:
            return None
        table = new_table("ERROR", "#COUNT", "#SHARE")
        for row in rows:
            table.add_row(shown(row.name), f"{row.errors:,}", percent(row.share))
        return titled(title, table, self._names_covered(), [more, self._not_narrowed("top_errors")])

    def _names_covered(self) -> str:
        names, covered = self.report.names, self.report.covered
        if names == covered:
            return ""
        width = "hours" if names.from_s > covered.from_s - HOUR_S else "days"
        if names.until_s > self.report.now_s:
            return f"  in whole {width}, since {instant(names.from_s)}"
        return f"  in whole {width}, {instant(names.from_s)} to {instant(names.until_s)}"

    def expensive(self) -> RenderableType | None:
        """Return the most expensive runs."""
        if not self.report.expensive:
            return None
        table = new_table("#COST", "#REQUESTS", "AGENT", "RUN", "SESSION", leave=("REQUESTS", "RUN", "AGENT"))
        for run in self.report.expensive:
            table.add_row(money(run.cost_nano_usd, run.unpriced_requests), str(run.requests), *_run_cells(run))
        note = self._not_narrowed("expensive_operations")
        return titled("Most expensive operations", table, self._names_covered(), [note])

    def slowest(self) -> RenderableType | None:
        """Return the slowest operations."""
        if not self.report.slowest:
            return None
        # Of a run the name says the agent already.
        agents = self.width >= WIDE and any(operation.agent != operation.name for operation in self.report.slowest)
        heads = ("#TIME", "=KIND", "NAME", "=ENDED", *(["AGENT"] if agents else []), "SESSION")
        table = new_table(*heads, leave=("AGENT", "KIND", "SESSION", "ENDED"))
        for operation in self.report.slowest:
            table.add_row(
                duration(operation.duration_us),
                operation.kind,
                shown(operation.name),
                Text(operation.status, style="red" if operation.status == "error" else ""),
                *([shown(operation.agent)] if agents else []),
                shown(operation.session),
            )
        return titled("Slowest operations", table, notes=[self._not_narrowed("slowest_operations")])

    def nothing_yet(self) -> RenderableType:
        """Return what to do where nothing was counted."""
        if not (self.report.metrics_known or self.report.cost_known):
            first = "No worker has run here yet, so nothing is counted. Start one:\n\n  sidestream worker\n"
        elif self.why_nothing:
            return Text(self.why_nothing)
        elif any(handler.outstanding for handler in self.report.completeness.handlers):
            first = "Events are waiting to be counted. Is a worker alive? Look:\n\n  sidestream status\n"
        else:
            first = "Nothing happened in this time. A longer one may show more:\n\n  sidestream report --since 7d\n"
        return Text(
            f"{first}\nAn application reports what its agents do after two lines:\n\n"
            '  sidestream.configure(service="my-app")\n  sidestream.instrument_pydantic_ai()\n\n'
            "It and this command must use the same Redis and namespace: --redis-url, --namespace."
        )

    def foot(self) -> RenderableType:
        """Return up to when everything is counted, and what is known to be missing."""
        return foot_of(self.report.completeness, self.report.covered.from_s)


_PART_NAMES: Final = {
    "cache_read": "read from cache",
    "cache_write": "written to cache",
    "cache_write_1h": "written to cache for 1 h",
    "reasoning": "reasoning",
    "input_audio": "audio in",
    "cache_audio_read": "audio from cache",
    "output_audio": "audio out",
}


def _more(left_out: LeftOut, rows: int) -> str:
    """Return how many names a list leaves out, and how to see them; empty where it has all."""
    if not left_out.count:
        return ""
    if rows >= MOST_ROWS:
        return f"and {_number_of(left_out)} more"
    whole = rows + left_out.count
    return f"and {_number_of(left_out)} more; --most {MOST_ROWS if left_out.at_least else min(whole, MOST_ROWS)}"


def _number_of(left_out: LeftOut) -> str:
    return f"{'at least ' if left_out.at_least else ''}{left_out.count:,}"


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeio" else "a"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _run_cells(run: ExpensiveRun) -> list[Cell]:
    if run.run_id == OTHER:
        return [shown(OTHER)]
    return [shown(run.agent), shown(run.run_id), shown(run.session)]


def _by_status(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (item[0] != "ok", item[0] == OTHER, -item[1]))
    words = {"error": "failed", OTHER: "of unknown end (over the cap)"}
    return ", ".join(f"{number:,} {words.get(status, status)}" for status, number in ordered)


def _timed(timing: Timing) -> str:
    return f"; mean {duration(timing.mean_us)}, p95 {duration(timing.p95_us)}" if timing.count else ""
