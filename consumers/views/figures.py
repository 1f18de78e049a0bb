"""Figures: what cells and their measures say in words, for all of them or group by group. Pure.

Keeps:
- A ratio of nothing and a mean of nothing are None, never 0; a cost without any known price likewise.
- Every rate has its own denominator: failed requests of all requests, failed runs of all runs that ended. A cancelled
  or interrupted one ended and did not fail. What a cap hid has no status, so it stands on neither side.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal, TypeAlias, cast

from msgspec import Struct

from consumers import measures as code
from consumers.alerts.rules import Where
from consumers.histogram import buckets_of, quantile
from consumers.state import CELL_DIMENSIONS, OTHER, Cell, Measures, merge
from consumers.windows import DAY, MARGINAL_HOUR, MARGINAL_RESOLUTIONS, Window
from pipeline.units import nano_to_usd

Dimension: TypeAlias = Literal["agent", "model", "state", "tenant", "service"]
"""What figures can be grouped by, of a cell's dimensions."""

Cells: TypeAlias = Mapping[Cell, Measures]

_STATUS: Final = CELL_DIMENSIONS.index("status")
_P95: Final = 0.95

TOKEN_PARTS: Final = {field.removesuffix("_tokens"): measure for field, measure in code.TOKEN_PARTS.items()}
"""Parts of input and output tokens, never to be added to them -> the measure of `metrics`."""


class Timing(Struct, frozen=True):
    """Durations of one kind, in microseconds: how many, their sum, and where 95 % of them end.

    `p95_us` comes from a histogram: within 4.4 % of the truth.
    """

    count: int = 0
    sum_us: int = 0
    p95_us: int | None = None

    @property
    def mean_us(self) -> int | None:
        """The mean, rounded to the nearest microsecond."""
        return round(self.sum_us / self.count) if self.count else None


class Figures(Struct, frozen=True):
    """What happened in some cells.

    `input_tokens` includes cached and audio tokens, `output_tokens` reasoning. `cost_nano_usd` is the sum over the
    priced requests; the unpriced ones stand beside it. `run_time` is what users wait for: the response time.
    """

    requests: int = 0
    requests_by_status: Mapping[str, int] = {}
    input_tokens: int = 0
    output_tokens: int = 0
    token_parts: Mapping[str, int] = {}
    request_time: Timing = Timing()
    first_token: Timing = Timing()
    runs: int = 0
    runs_by_status: Mapping[str, int] = {}
    run_time: Timing = Timing()
    tools: int = 0
    steps: int = 0
    transitions: int = 0
    visit_time: Timing = Timing()
    visits_unknown: int = 0
    errors: int = 0
    cost_nano_usd: int = 0
    provider_nano_usd: int = 0
    priced_requests: int = 0
    unpriced_requests: int = 0
    unpriced_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output, once."""
        return self.input_tokens + self.output_tokens

    @property
    def known_cost_nano_usd(self) -> int | None:
        """The cost, or None where there were requests and none of them had a known price."""
        return known_cost(self.cost_nano_usd, self.priced_requests, self.unpriced_requests)

    @property
    def request_error_ratio(self) -> float | None:
        """Failed requests of all requests (0-1)."""
        return _error_ratio(self.requests_by_status)

    @property
    def run_error_ratio(self) -> float | None:
        """Runs that ended in error of all runs that ended (0-1)."""
        return _error_ratio(self.runs_by_status)


class Group(Struct, frozen=True):
    """The figures of one name of a dimension; `name` is empty for what has none, `__other__` for what a cap hid."""

    name: str
    figures: Figures


def figures_of(of_metrics: Cells, of_cost: Cells) -> Figures:
    """Return the figures of cells, as the two handlers counted them."""
    total = _sum(of_metrics.values())
    money = _sum(of_cost.values())
    return Figures(
        requests=total.get(code.REQUESTS, 0),
        requests_by_status=_by_status(of_metrics, code.REQUESTS),
        input_tokens=total.get(code.INPUT, 0),
        output_tokens=total.get(code.OUTPUT, 0),
        token_parts={name: total[measure] for name, measure in TOKEN_PARTS.items() if measure in total},
        request_time=_timing(total, code.REQUEST_US),
        first_token=_timing(total, code.TTFT_US),
        runs=total.get(code.RUNS, 0),
        runs_by_status=_by_status(of_metrics, code.RUNS),
        run_time=_timing(total, code.RUN_US),
        tools=total.get(code.TOOLS, 0),
        steps=total.get(code.STEPS, 0),
        transitions=total.get(code.TRANSITIONS, 0),
        visit_time=_timing(total, code.VISIT_US),
        visits_unknown=total.get(code.VISITS_UNKNOWN, 0),
        errors=total.get(code.ERRORS, 0),
        cost_nano_usd=money.get(code.COST, 0),
        provider_nano_usd=money.get(code.PROVIDER_COST, 0),
        priced_requests=money.get(code.PRICED, 0),
        unpriced_requests=money.get(code.UNPRICED, 0),
        unpriced_tokens=money.get(code.UNPRICED_TOKENS, 0),
    )


def groups_of(of_metrics: Cells, of_cost: Cells, dimension: Dimension) -> list[Group]:
    """Return the figures by name of a dimension, the most expensive first.

    A name that nothing of the dimension happened to is left out: transitions have no agent, runs no model.
    """
    place = CELL_DIMENSIONS.index(dimension)
    split = [_split(of_metrics, place), _split(of_cost, place)]
    names = dict.fromkeys([*split[0], *split[1]])
    groups = [Group(name, figures_of(split[0].get(name, {}), split[1].get(name, {}))) for name in names]
    return sorted((group for group in groups if _belongs(group, dimension)), key=_dearest_first)


def narrow(cells: Cells, where: Where) -> Cells:
    """Return the cells that `where` matches."""
    return {cell: measures for cell, measures in cells.items() if where.matches(cell)}


def filters_of(where: Where) -> dict[str, str]:
    """Return the dimensions that `where` narrows, each with its name."""
    values = {name: cast("str", getattr(where, name)) for name in Where.__struct_fields__}
    return {name: value for name, value in values.items() if value}


def speaks_by_requests(figures: Figures) -> bool:
    """Tell whether there are requests and no agent runs: then failures and times are those of requests."""
    return bool(figures.requests and not figures.runs)


def time_of(figures: Figures) -> Timing:
    """Return what users wait for: agent runs, or requests where there are only those."""
    return figures.request_time if speaks_by_requests(figures) else figures.run_time


def error_ratio_of(figures: Figures) -> float | None:
    """Return the part (0-1) that failed: of agent runs, or of requests where there are only those."""
    return figures.request_error_ratio if speaks_by_requests(figures) else figures.run_error_ratio


def known_cost(nano_usd: int, priced: int, unpriced: int) -> int | None:
    """Return a cost, or None where there were requests and not one had a known price."""
    return None if unpriced and not priced else nano_usd


def usd(nano_usd: int) -> str:
    """Return nano-dollars as dollars: a decimal number with all nine places, exact."""
    return f"{nano_to_usd(nano_usd).quantize(Decimal('0.000000001')):f}"


def cover_names(since_s: int, until_s: int, now_s: int) -> Iterator[Window]:
    """Cover [since, until) with windows of marginals, in order of time: hours where they are kept, else days.

    The first window may begin, and the last end, outside the range: nothing finer is stored.
    """
    at = MARGINAL_HOUR.start_of(since_s)
    while at < until_s:
        window = _widest_of_names(at, until_s, now_s)
        yield window
        at = window[1] + window[0].width_s


def _widest_of_names(at: int, until_s: int, now_s: int) -> Window:
    for resolution in reversed(MARGINAL_RESOLUTIONS):
        whole = at % resolution.width_s == 0 and at + resolution.width_s <= until_s
        if whole and resolution.expires_at(at) > now_s:
            return resolution, at
    for resolution in MARGINAL_RESOLUTIONS:
        start = resolution.start_of(at)
        if resolution.expires_at(start) > now_s:
            return resolution, start
    return DAY, DAY.start_of(at)


def span(windows: Sequence[Window]) -> tuple[int, int]:
    """Return the first and the last instant (exclusive, seconds) of windows in order of time; at least one."""
    resolution, start_s = windows[-1]
    return windows[0][1], start_s + resolution.width_s


def _sum(parts: Iterable[Measures]) -> Measures:
    total: Measures = {}
    for measures in parts:
        merge(total, measures)
    return total


def _by_status(cells: Cells, measure: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for cell, measures in cells.items():
        if measure in measures:
            found[cell[_STATUS]] = found.get(cell[_STATUS], 0) + measures[measure]
    return dict(sorted(found.items()))


def _error_ratio(by_status: Mapping[str, int]) -> float | None:
    known = sum(count for status, count in by_status.items() if status != OTHER)
    return by_status.get("error", 0) / known if known else None


def _timing(measures: Measures, measure: str) -> Timing:
    buckets = buckets_of(measures, measure)
    p95 = quantile(buckets, _P95)
    return Timing(sum(buckets.values()), measures.get(measure, 0), None if p95 is None else round(p95))


def _split(cells: Cells, place: int) -> dict[str, dict[Cell, Measures]]:
    found: dict[str, dict[Cell, Measures]] = {}
    for cell, measures in cells.items():
        found.setdefault(cell[place], {})[cell] = measures
    return found


def _belongs(group: Group, dimension: Dimension) -> bool:
    figures = group.figures
    of_requests = figures.requests or figures.errors or figures.priced_requests or figures.unpriced_requests
    match dimension:
        case "model":
            return bool(of_requests)
        case "agent":
            return bool(of_requests or figures.runs or figures.tools or figures.steps)
        case "state" | "tenant" | "service":
            operations = figures.runs or figures.tools or figures.steps
            moves = figures.transitions or figures.visit_time.count or figures.visits_unknown
            return bool(of_requests or operations or moves)


def _dearest_first(group: Group) -> tuple[bool, int, int, int, str]:
    figures = group.figures
    # What a cap hid is no name among names: it stands last, however much it is.
    return group.name == OTHER, -figures.cost_nano_usd, -figures.total_tokens, -figures.runs, group.name
