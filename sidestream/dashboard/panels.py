"""What panels need besides the figures: shares, breakdowns by time, what a sum says. Pure.

What is drawn over time stands in `trends`, what is said of rules in `alerting`, of sessions in `sessions`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from msgspec import Struct

from consumers import measures as code
from consumers.state import CELL_DIMENSIONS, OTHER
from consumers.views.completeness import COST, METRICS
from consumers.views.figures import Figures, Group, Timing, error_ratio_of, speaks_by_requests, time_of
from consumers.views.flow import HandlerFlow, flows_of
from consumers.views.inflight import InFlight
from consumers.views.live import STUCK_MS
from consumers.views.pace import NOW_MINUTES
from consumers.views.report import Report
from consumers.views.states import StateFigures
from consumers.windows import HOUR_S, MINUTE_S
from sidestream.dashboard.charts import MOST_SLICES
from sidestream.dashboard.comparison import ComparedState, compared_states
from sidestream.dashboard.graph import in_order
from sidestream.dashboard.pipeline_rows import (
    BalanceRow,
    ProducerRow,
    balance_of,
    memory_words,
    producers_of,
)
from sidestream.dashboard.view import View
from sidestream.dashboard.words import change, dollars_of, name, short
from sidestream.wording.human import NOTHING, counted, dollars, size

_COLOURS: Final = ("c1", "c2", "c3", "c4", "c6", "c5")
_REST: Final = "rest"
_MOST_NAMED: Final = 3
_MOST_COMPARED: Final = 8
_MILLION: Final = 1_000_000
_LEAST_USUAL_S: Final = 3 * HOUR_S
_LEAST_USUAL_NANO_USD: Final = 100_000_000
"""Without three hours in which something happened nothing is usual; and ten cents an hour are no news."""

_TWO_DAYS_H: Final = 48
_FAR_ABOVE: Final = 3
"""Times the mean of the range, from which on what is spent now is said loudly."""


class Slice(Struct, frozen=True):
    """One part of a whole: its name, its value as it is said, its share (0-1) of all, the colour it is drawn in."""

    name: str
    value: int
    said: str
    share: float
    colour: str
    group: Group | None
    """None: several names together."""


class TimedRow(Struct, frozen=True):
    """One name of a breakdown by time and failures; bars are parts (0-1) of the largest of all rows."""

    name: str
    figures: Figures
    of_requests: bool
    """Whether it is about requests, for there was no agent run."""
    mean_bar: float
    p95_bar: float | None
    failed_bar: float

    @property
    def time(self) -> Timing:
        """What users wait for."""
        return time_of(self.figures)

    @property
    def error_ratio(self) -> float | None:
        """The part that failed."""
        return error_ratio_of(self.figures)


@dataclass
class Panels:
    """Charts and parts of one view."""

    view: View

    @cached_property
    def metrics_known(self) -> bool:
        """Whether anything but cost is known."""
        return self.view.look.completeness.known(METRICS)

    @cached_property
    def cost_known(self) -> bool:
        """Whether costs are known."""
        return self.view.look.completeness.known(COST)

    @cached_property
    def empty(self) -> bool:
        """Whether nothing happened in the range, whatever the filters."""
        return not (self.view.look.cells.of_metrics or self.view.look.cells.of_cost)

    @property
    def filled(self) -> bool:
        """Whether something happened in the range that the filters leave."""
        return not (self.empty or self.unmatched)

    @property
    def by_requests(self) -> bool:
        """Whether response times and failures are those of requests, for there was no agent run."""
        return speaks_by_requests(self.view.totals)

    def tokens_by(self, report: Report) -> list[Slice]:
        """Return the tokens of a breakdown as parts of all."""
        return _slices(report.groups, lambda figures: figures.total_tokens, short, self._colours(report.by))

    def cost_by(self, report: Report) -> list[Slice]:
        """Return the cost of a breakdown as parts of all that is known."""
        return _slices(report.groups, lambda figures: figures.cost_nano_usd, dollars_of, self._colours(report.by))

    def _colours(self, by: str) -> dict[str, str]:
        """Return the colour of the busiest names of a dimension: the same on every chart, whatever is filtered."""
        place = CELL_DIMENSIONS.index(by)
        tokens: dict[str, int] = {}
        for cell, measures in self.view.look.cells.of_metrics.items():
            found = cell[place]
            tokens[found] = tokens.get(found, 0) + measures.get(code.INPUT, 0) + measures.get(code.OUTPUT, 0)
        busiest = sorted((found for found in tokens if found != OTHER), key=lambda found: (-tokens[found], found))
        return dict(zip(busiest, _COLOURS, strict=False))

    def unpriced_row(self) -> str:
        """Return the requests that are in no sum of money, in words; empty where there are none."""
        totals = self.view.totals
        if not totals.unpriced_requests:
            return ""
        return counted(totals.unpriced_requests, "request")

    def now_is_more(self) -> bool:
        """Whether requests of the last minutes had no known price, so that "now" is at least so much."""
        minutes = self.view.pace.minutes[-NOW_MINUTES:] if self.view.pace else ()
        return any(point.figures.unpriced_requests for point in minutes)

    def by_name_of_model(self) -> list[Group]:
        """Return the models, the dearest first."""
        return [group for group in self.view.by_model.groups if group.figures.requests]

    @staticmethod
    def usd_a_million(figures: Figures) -> str:
        """Return what a million tokens of the priced requests cost."""
        tokens = figures.total_tokens - figures.unpriced_tokens
        return (
            dollars(figures.cost_nano_usd * _MILLION // tokens) if figures.priced_requests and tokens > 0 else NOTHING
        )

    def prices(self) -> str:
        """Return where the costs come from, in a sentence."""
        look, totals = self.view.days_look, self.view.totals
        of = f"the price list {look.catalogue}" if look and look.catalogue else "the price list of the workers"
        told = totals.provider_nano_usd
        if not told:
            return f"Costs are estimated from {of} and your own prices; no provider told one."
        return (
            f"{dollars(told)} of the cost was told by providers; the rest is estimated from {of} and your own prices."
        )

    def usual_pace(self) -> tuple[int, float] | None:
        """Return the mean cost of an hour in which anything was spent, and how many times as much is spent now.

        In nano-dollars; the last minutes are not part of it. None where it is not `_FAR_ABOVE` times as much, where too
        little has happened for anything to be usual, or where nobody knows.
        """
        pace, step_s = self.view.pace, self.view.cells.step_s
        if pace is None or not pace.now_nano_usd or not self.view.address.span.live:
            return None
        ended_s = self.view.now_s - NOW_MINUTES * MINUTE_S
        spent = [
            point.figures.cost_nano_usd
            for point in self.view.trend
            if point.start_s + step_s <= ended_s and point.figures.cost_nano_usd
        ]
        if len(spent) * step_s < _LEAST_USUAL_S or pace.now_nano_usd < _LEAST_USUAL_NANO_USD:
            return None
        usual = sum(spent) * HOUR_S // (len(spent) * step_s)
        times = pace.now_nano_usd / max(usual, 1)
        return (usual, times) if times >= _FAR_ABOVE else None

    @cached_property
    def unmatched(self) -> bool:
        """Whether something happened in the range, and nothing of it fits the filters."""
        cells = self.view.cells
        return self.view.address.narrowed and not self.empty and not (cells.of_metrics or cells.of_cost)

    def unknown_versions(self) -> list[str]:
        """Return the versions that are asked for and did nothing in the range."""
        known = {use.version for use in self.view.versions}
        return [version for version in self.view.compared_versions or () if version not in known]

    def open_for_long(self) -> list[InFlight]:
        """Return the operations that have been open for longer than half a minute, the oldest first."""
        rows = self.view.pipeline.status.in_flight if self.view.pipeline else ()
        return [row for row in rows if row.open_ms > STUCK_MS]

    def balance(self) -> list[BalanceRow]:
        """Return the sums that must be equal, in words."""
        return balance_of(self.view.pipeline.status) if self.view.pipeline else []

    def memory(self) -> str:
        """Return how long Redis's memory lasts and what happens then, in words."""
        return memory_words(self.view.pipeline.status.memory) if self.view.pipeline else ""

    def compared(self) -> list[ComparedState]:
        """Return the states in both versions."""
        place = {state.name: number for number, state in enumerate(self.states_in_order())}
        found = compared_states(self.view.changes, most=_MOST_COMPARED)
        return sorted(found, key=lambda state: place.get(state.name, len(place)))

    def verdicts(self) -> Counter[str]:
        """Return how many of the compared figures are better, worse, or cannot be told apart."""
        return Counter(row.verdict for state in self.compared() for row in state.rows)

    def states_in_order(self) -> list[StateFigures]:
        """Return the states in the order in which sessions go through them."""
        known = {state.name: state for state in self.view.states}
        edges = [e for e in self.view.look.edges.edges if e.from_state in known and e.to_state in known]
        # What a cap hid has no place in a way.
        return sorted((known[name] for name in in_order(list(known), edges)), key=lambda state: state.name == OTHER)

    @staticmethod
    def unpriced(report: Report) -> list[Group]:
        """Return the names of a breakdown that had requests without a known price, those with most first."""
        found = [group for group in report.groups if group.figures.unpriced_requests]
        return sorted(found, key=lambda group: -group.figures.unpriced_requests)

    @staticmethod
    def timed(report: Report) -> list[TimedRow]:
        """Return a breakdown by time and failures, the slowest first; nothing of what has no name."""
        groups = [group for group in report.groups if group.name and time_of(group.figures).count]
        longest = max((time_of(group.figures).p95_us or 0 for group in groups), default=0) or 1
        worst = max((error_ratio_of(group.figures) or 0 for group in groups), default=0) or 1
        rows = [_timed(group, longest, worst) for group in groups]
        return sorted(rows, key=lambda row: (row.name == OTHER, -(row.time.mean_us or 0), row.name))

    @staticmethod
    def of_requests(rows: Sequence[TimedRow]) -> str:
        """Return which rows are about requests, in words; empty where none is."""
        names = [name(row.name) for row in rows if row.of_requests]
        if not names:
            return ""
        if len(names) == len(rows):
            return "All are of requests: there was no agent run."
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return f"Of {', '.join(names[:_MOST_NAMED])}{more} they are those of requests: no agent run there."

    def hour_before(self) -> str:
        """Return how the last hour's cost moved, and from where."""
        pace = self.view.pace
        if pace is None or not pace.before.cost_nano_usd:
            return "nothing in the hour before" if self.cost_known else ""
        return f"{change(pace.hour.cost_nano_usd, pace.before.cost_nano_usd)}, was {dollars(pace.before.cost_nano_usd)}"

    def memory_left(self) -> str:
        """Return of how much of Redis's memory a part is used, and for how long the rest lasts, in a few words."""
        memory = self.view.pipeline.status.memory if self.view.pipeline else None
        if memory is None or not memory.limit:
            return "no limit is set"
        hours = memory.hours_left
        days = hours is not None and hours > _TWO_DAYS_H
        left = "" if hours is None else f"; full in {hours / 24:,.0f} d" if days else f"; full in {hours:.0f} h"
        return f"of {size(memory.limit).replace('.0 ', ' ')}{left}"

    def mean_hour(self) -> int | None:
        """Return the mean cost of the hours of the range, in nano-dollars; None of nothing."""
        cells = self.view.cells
        seconds = min(cells.covered.until_s, self.view.now_s + 1) - cells.covered.from_s
        cost = self.view.totals.known_cost_nano_usd
        return None if cost is None or not self.cost_known else cost * HOUR_S // max(seconds, 1)

    def handlers(self) -> list[HandlerFlow]:
        """Return the handlers, over partitions."""
        return flows_of(self.view.pipeline.status, self.view.pipeline.rates) if self.view.pipeline else []

    def producers(self) -> list[ProducerRow]:
        """Return the producers: those that live or died one by one, those that said goodbye together."""
        return producers_of(self.view.pipeline.status) if self.view.pipeline else []

    def stream_words(self) -> str:
        """Return how much lies on the stream, in words."""
        accounts = self.view.pipeline.status.accounts if self.view.pipeline else ()
        held = {account.partition: account.appended - account.trimmed for account in accounts}
        return counted(sum(held.values()), "event")


def _timed(group: Group, longest_us: int, worst: float) -> TimedRow:
    time = time_of(group.figures)
    return TimedRow(
        name=group.name,
        figures=group.figures,
        of_requests=speaks_by_requests(group.figures),
        mean_bar=(time.mean_us or 0) / longest_us,
        p95_bar=None if time.p95_us is None else time.p95_us / longest_us,
        failed_bar=(error_ratio_of(group.figures) or 0) / worst,
    )


def _slices(
    groups: Sequence[Group],
    value_of: Callable[[Figures], int],
    say: Callable[[float], str],
    colours: Mapping[str, str],
) -> list[Slice]:
    """Return groups as parts of a whole, the largest first; those that could not be told apart as one."""
    valued = [(group, value_of(group.figures)) for group in groups if value_of(group.figures) > 0]
    # What a cap hid is no name among names: it stands last, however much it is.
    valued.sort(key=lambda pair: (pair[0].name == OTHER, -pair[1], pair[0].name))
    total = sum(value for _, value in valued)
    if not total:
        return []
    alone = valued if len(valued) <= MOST_SLICES else valued[: MOST_SLICES - 1]
    free = iter([colour for colour in _COLOURS if colour not in {colours.get(group.name) for group, _ in alone}])
    found = [
        Slice(name(group.name), value, say(value), value / total, colours.get(group.name) or next(free, _REST), group)
        for group, value in alone
    ]
    rest = valued[len(alone) :]
    if rest:
        value = sum(value for _, value in rest)
        found.append(Slice(counted(len(rest), "other"), value, say(value), value / total, _REST, None))
    return found
