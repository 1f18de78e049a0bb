"""The application's state machine: how long sessions stay in each state, and what a visit there costs. Pure.

Keeps:
- A mean of nothing is None. Where nothing of a state's requests had a known price its cost is None, never 0.
- Visits are what was entered or what was left, whichever is more: a session may begin in a state that nothing led into,
  and its last state is never left.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from consumers import measures as code
from consumers.histogram import buckets_of, quantile
from consumers.state import CELL_DIMENSIONS, OTHER, Measures, merge
from consumers.views.figures import Cells, Figures, Group, figures_of, groups_of

_STATE: Final = CELL_DIMENSIONS.index("state")
_VERSION: Final = CELL_DIMENSIONS.index("version")
_MEDIAN: Final = 0.5


class StateFigures(Struct, frozen=True):
    """What is known of one state: its figures, and the median of how long it lasted (within 4.4 %).

    `stays` is the histogram of how long visits lasted, bucket -> count. `is_last` says that sessions end here: it was
    entered and never left, while others were; before anything has moved no state is the last.
    """

    name: str
    figures: Figures
    p50_us: int | None
    stays: Mapping[int, int] = {}
    is_last: bool = False

    @property
    def entered(self) -> int:
        """Transitions into it."""
        return self.figures.transitions

    @property
    def left(self) -> int:
        """Visits that have ended, those of unknown length among them."""
        return self.figures.visit_time.count + self.figures.visits_unknown

    @property
    def visits(self) -> int:
        """How many visits there were at least."""
        return max(self.entered, self.left)

    @property
    def never_left(self) -> int:
        """Visits that have begun and not ended, as far as both were told: still going on, abandoned, or at an end."""
        return max(0, self.entered - self.left)

    @property
    def tokens_a_visit(self) -> int | None:
        """Tokens of all requests made in it, by the visits that are known: at most so many in the mean.

        Requests of sessions whose way into it nobody told, or told before the range, are in it without a visit.
        """
        return _mean(self.figures.total_tokens, self.visits)

    @property
    def nano_usd_a_visit(self) -> int | None:
        """Cost of all requests made in it, by the visits that are known: as `tokens_a_visit`."""
        cost = self.figures.known_cost_nano_usd
        return None if cost is None else _mean(cost, self.visits)


class VersionUse(Struct, frozen=True):
    """One version of the application: how much it did in the range."""

    version: str
    requests: int
    transitions: int


class StateChange(Struct, frozen=True):
    """One state in two versions of the application; None where one of them never had it."""

    name: str
    before: StateFigures | None
    after: StateFigures | None


def states_of(of_metrics: Cells, of_cost: Cells) -> list[StateFigures]:
    """Return what is known of every state, the most visited first, what a cap hid last."""
    visits = _visit_measures(of_metrics)
    found = [
        _state(group, buckets_of(visits.get(group.name, {}), code.VISIT_US))
        for group in groups_of(of_metrics, of_cost, "state")
    ]
    moved = any(state.left for state in found)
    # What belongs to no state is none.
    named = [replace(state, is_last=moved and state.entered > 0 and not state.left) for state in found if state.name]
    return sorted(named, key=lambda state: (state.name == OTHER, -state.visits, -state.figures.requests, state.name))


def versions_of(of_metrics: Cells) -> list[VersionUse]:
    """Return the versions that did anything, the busiest first."""
    names = dict.fromkeys(cell[_VERSION] for cell in of_metrics)
    found = [(name, figures_of(_of_version(of_metrics, name), {})) for name in names if name not in {"", OTHER}]
    uses = [VersionUse(name, figures.requests, figures.transitions) for name, figures in found]
    return sorted(uses, key=lambda use: (-(use.requests + use.transitions), use.version))


def compared(of_metrics: Cells, of_cost: Cells, before: str, after: str) -> list[StateChange]:
    """Return every state that either of two versions had, the most visited first."""
    first = {state.name: state for state in _states_of_version(of_metrics, of_cost, before)}
    second = {state.name: state for state in _states_of_version(of_metrics, of_cost, after)}
    names = sorted(dict.fromkeys([*first, *second]), key=lambda name: (-_visits(first, second, name), name))
    return [StateChange(name, first.get(name), second.get(name)) for name in names]


def _states_of_version(of_metrics: Cells, of_cost: Cells, version: str) -> Sequence[StateFigures]:
    return states_of(_of_version(of_metrics, version), _of_version(of_cost, version))


def _of_version(cells: Cells, version: str) -> Cells:
    return {cell: measures for cell, measures in cells.items() if cell[_VERSION] == version}


def _visits(first: dict[str, StateFigures], second: dict[str, StateFigures], name: str) -> int:
    return sum(side[name].visits for side in (first, second) if name in side)


def _visit_measures(of_metrics: Cells) -> dict[str, Measures]:
    found: dict[str, Measures] = {}
    for cell, measures in of_metrics.items():
        if code.VISIT_US in measures:
            merge(found.setdefault(cell[_STATE], {}), measures)
    return found


def _state(group: Group, stays: Mapping[int, int]) -> StateFigures:
    median = quantile(stays, _MEDIAN)
    return StateFigures(group.name, group.figures, None if median is None else round(median), stays)


def _mean(total: int, count: int) -> int | None:
    return round(total / count) if count else None
