"""Two versions of the application side by side: what changed, and whether it is better, worse or cannot be told. Pure.

Keeps: nothing is called better or worse that the figures cannot tell apart: percentiles of neighbouring buckets or of
overlapping intervals, shares and means within twice their standard error, or few samples.
"""

import re
from collections.abc import Callable, Sequence
from math import sqrt
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from consumers.histogram import SCALE, quantile
from consumers.state import OTHER
from consumers.views.figures import error_ratio_of, speaks_by_requests
from consumers.views.states import StateChange, StateFigures, VersionUse
from consumers.views.trend import Step
from sidestream.dashboard.words import approx, visit_cost
from sidestream.wording.human import NOTHING, amount, counted, percent

Verdict: TypeAlias = Literal["better", "worse", "same", "few", ""]

LEAST_SAMPLES: Final = 20
"""On each side, below which nothing is called better or worse."""

ONE_BUCKET: Final = 2 ** (1 / 2**SCALE) * 1.0001
"""Two percentiles further apart than this lie in different, and not neighbouring, buckets."""

_ERRORS: Final = 2
"""Standard errors of a difference: some 95 %."""

_ERRORS_EACH: Final = 1.4
"""Of each of two figures whose intervals must not overlap: together about `_ERRORS` of the difference."""

_RELEASE: Final = re.compile(r"v?(\d+(?:\.\d+)*)")


class Side(Struct, frozen=True):
    """A figure of one version: as it is said, how large it is (None: unknown), and of how many.

    Chance leaves a percentile between `least` and `most`.
    """

    said: str
    value: float | None
    samples: int
    of: str
    least: float = 0
    most: float = 0


class Compared(Struct, frozen=True):
    """One figure of a state in both versions; less is better in all of them."""

    measure: str
    before: Side
    after: Side
    change: str
    verdict: Verdict


class ComparedState(Struct, frozen=True):
    """One state in both versions."""

    name: str
    rows: Sequence[Compared]


def compared_states(changes: Sequence[StateChange], *, most: int) -> list[ComparedState]:
    """Return the most visited states that have anything to compare."""
    found = [ComparedState(change.name, _rows(change)) for change in changes if change.name != OTHER]
    return [state for state in found if state.rows][:most]


def older_first(one: str, other: str, steps: Sequence[Step], place: int) -> tuple[str, str]:
    """Return two versions in their order: by their numbers where both are numbers, else by when they were at work.

    Args:
        one: A version.
        other: Another.
        steps: The steps of the range.
        place: Where a cell has its version.
    """
    numbers = _numbers(one), _numbers(other)
    if numbers[0] and numbers[1]:
        return (one, other) if numbers[0] <= numbers[1] else (other, one)
    at = {name: _at_work_s(name, steps, place) for name in (one, other)}
    return (one, other) if at[one] <= at[other] else (other, one)


def _numbers(version: str) -> tuple[int, ...]:
    found = _RELEASE.fullmatch(version)
    return tuple(map(int, found[1].split("."))) if found else ()


def _at_work_s(version: str, steps: Sequence[Step], place: int) -> float:
    """Return the mean of the steps in which a version did something, by how many different things it did."""
    starts = [step.start_s for step in steps for cell in step.of_metrics if cell[place] == version]
    return sum(starts) / len(starts) if starts else 0.0


def _rows(change: StateChange) -> list[Compared]:
    def row(
        measure: str, side_of: Callable[[StateFigures | None], Side], judge: Callable[[Side, Side], Verdict]
    ) -> Compared:
        return _compared(measure, side_of(change.before), side_of(change.after), judge)

    rows = [
        row("Time in it, p50", lambda side: _stay(side, 0.5, side and side.p50_us), _of_buckets),
        row("Time in it, p95", lambda side: _stay(side, 0.95, side and side.figures.visit_time.p95_us), _of_buckets),
        row("Tokens per visit", _tokens, _of_means),
        row("Cost per visit", _cost, _of_means),
        row("Failed", _failed, _of_shares),
    ]
    # What has no known price is said: a row that is not there could be taken for one that did not change.
    return [row for row in rows if {row.before.said, row.after.said} != {NOTHING}]


def _compared(measure: str, before: Side, after: Side, judge: Callable[[Side, Side], Verdict]) -> Compared:
    if before.value is None or after.value is None:
        return Compared(measure, before, after, "", "")
    verdict: Verdict = judge(before, after)
    if verdict != "same" and min(before.samples, after.samples) < LEAST_SAMPLES:
        verdict = "few"
    return Compared(measure, before, after, _change(before.value, after.value), verdict)


def _change(before: float, after: float) -> str:
    if not before:
        return "0 %" if not after else ""
    ratio = after / before - 1
    return f"{ratio * 100:+.0f} %".replace("-", "\N{MINUS SIGN}") if round(ratio * 100) else "0 %"


def _direction(before: Side, after: Side) -> Verdict:
    return "better" if (after.value or 0) < (before.value or 0) else "worse"


def _of_buckets(before: Side, after: Side) -> Verdict:
    low, high = sorted((before.value or 0, after.value or 0))
    overlap = before.least <= after.most and after.least <= before.most
    return "same" if overlap or high <= low * ONE_BUCKET else _direction(before, after)


def _of_means(before: Side, after: Side) -> Verdict:
    first, second = before.value or 0, after.value or 0
    # How visits spread is not kept: taken as widely as their mean, as waiting times do.
    error = sqrt(first * first / max(before.samples, 1) + second * second / max(after.samples, 1))
    return "same" if abs(second - first) <= _ERRORS * error else _direction(before, after)


def _of_shares(before: Side, after: Side) -> Verdict:
    first, second = before.value or 0, after.value or 0
    failed = first * before.samples + second * after.samples
    total = before.samples + after.samples
    share = failed / total if total else 0
    error = sqrt(share * (1 - share) * (1 / max(before.samples, 1) + 1 / max(after.samples, 1)))
    return "same" if abs(first - second) <= _ERRORS * error else _direction(before, after)


def _stay(side: StateFigures | None, ratio: float, value: int | None) -> Side:
    samples = side.figures.visit_time.count if side else 0
    if side is None or value is None:
        return Side(NOTHING, None, samples, counted(samples, "stay"))
    wide = _ERRORS_EACH * sqrt(ratio * (1 - ratio) / max(samples, 1))
    least, most = (quantile(side.stays, min(max(at, 0.0), 1.0)) for at in (ratio - wide, ratio + wide))
    return Side(approx(value), value, samples, counted(samples, "stay"), least or 0, most or 0)


def _tokens(side: StateFigures | None) -> Side:
    value = side.tokens_a_visit if side and side.figures.requests else None
    visits = side.visits if side else 0
    return Side(NOTHING if value is None else amount(value), value, visits, counted(visits, "visit"))


def _cost(side: StateFigures | None) -> Side:
    priced = side is not None and side.figures.priced_requests
    value = side.nano_usd_a_visit if side and priced else None
    visits = side.visits if side else 0
    return Side(visit_cost(side) if side else NOTHING, value, visits, counted(visits, "visit"))


def _failed(side: StateFigures | None) -> Side:
    if side is None:
        return Side(NOTHING, None, 0, "")
    by_requests = speaks_by_requests(side.figures)
    samples = side.figures.requests if by_requests else side.figures.runs
    value = error_ratio_of(side.figures)
    return Side(percent(value), value, samples, counted(samples, "request" if by_requests else "run"))


def versions_in_order(uses: Sequence[VersionUse], steps: Sequence[Step], place: int) -> tuple[str, str] | None:
    """Return the two busiest versions, the older first; None where there are not two."""
    names = [use.version for use in uses[:2]]
    return older_first(names[0], names[1], steps, place) if len(names) == 2 else None  # noqa: PLR2004 - a pair
