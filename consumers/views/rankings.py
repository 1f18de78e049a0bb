"""Lists of a range that marginals hold: the dearest runs, sessions and other names, types of errors, transitions.

A marginal knows its name and nothing of service, environment, tenant, model or state: no such filter narrows it.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from consumers import measures as code
from consumers.reader import StateReader
from consumers.state import OTHER, Caps, Measures
from consumers.views.completeness import COST, METRICS, Completeness
from consumers.views.figures import known_cost, span
from consumers.views.names import measures_of, ranked_names
from consumers.windows import Window, cover

_OF_METRICS: Final = (code.REQUESTS, code.TOKENS, code.RUNS, code.ERRORS)
_OF_COST: Final = (code.COST, code.REQUESTS, code.UNPRICED)
_ALL_OFFERED: Final = Caps().ranked // 4
"""So many wanted, a window offers all that it ranks."""

_RUN_NAME: Final = msgspec.json.Decoder(tuple[str, str, str])
_EDGE_NAME: Final = msgspec.json.Decoder(tuple[str, str])


ByNames: TypeAlias = Literal["session", "user", "tag"]
"""What has names that are listed by what they cost."""


class NameRow(Struct, frozen=True):
    """One session, user or tag: what a marginal holds. A handler that never ran leaves None."""

    name: str
    requests: int | None = None
    total_tokens: int | None = None
    runs: int | None = None
    errors: int | None = None
    cost_nano_usd: int | None = None
    """None: no request with a known price, or nothing known of the cost."""
    unpriced_requests: int | None = None
    cost_requests: int | None = None
    """Requests that the cost is about, priced or not."""


class ErrorRow(Struct, frozen=True):
    """One type of error (or `__other__`): how often it was reported, and its part (0-1) of all errors."""

    name: str
    errors: int
    share: float


class LeftOut(Struct, frozen=True):
    """How many names a list leaves out; `at_least`: windows may have had more to offer."""

    count: int = 0
    at_least: bool = False


class ExpensiveRun(Struct, frozen=True):
    """One run (or `__other__`, all that a cap hid): the cost of its requests, None if none had a known price."""

    agent: str
    run_id: str
    session: str
    requests: int
    cost_nano_usd: int | None
    unpriced_requests: int


class Edge(Struct, frozen=True):
    """How often sessions went from one state into another; from none where a session began there."""

    from_state: str
    to_state: str
    count: int


class Edges(Struct, frozen=True):
    """Transitions, the most frequent first; `over_cap` of them are of states that a cap hid, or were left out."""

    edges: Sequence[Edge]
    over_cap: int = 0
    left_out: LeftOut = LeftOut()


async def read_expensive(
    reader: StateReader, windows: Sequence[Window], most: int, agent: str = ""
) -> list[ExpensiveRun]:
    """Read the most expensive runs, what a cap hid last; of an agent, those that are among the 200 of each window.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    ranked = await ranked_names(reader, COST, "run", windows, max(most, _ALL_OFFERED) if agent else most)
    names = [name for name in ranked.names if agent in {"", _RUN_NAME.decode(name)[0]}][:most]
    runs = await measures_of(reader, COST, "run", windows, names=[*names, OTHER], measures=_OF_COST)
    over_cap = runs.pop(OTHER, None)
    ordered = sorted(runs.items(), key=lambda run: (-run[1].get(code.COST, 0), run[0]))
    found = [_expensive_run(*_RUN_NAME.decode(name), measures) for name, measures in ordered]
    return found if over_cap is None else [*found, _expensive_run("", OTHER, "", over_cap)]


async def read_names(
    reader: StateReader, windows: Sequence[Window], completeness: Completeness, dimension: ByNames, most: int
) -> tuple[list[NameRow], LeftOut]:
    """Read up to `most` names, the dearest first, behind them what a cap hid; and how many there are besides.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    # Each handler ranks by its own measure: money, and tokens for whom money says nothing.
    dearest = await ranked_names(reader, COST, dimension, windows, most)
    busiest = await ranked_names(reader, METRICS, dimension, windows, most)
    known = len({*dearest.names, *busiest.names})
    names = list(dict.fromkeys([*dearest.names[:most], *busiest.names[:most]]))
    found = await read_rows(reader, windows, completeness, dimension, [*names, OTHER])
    over_cap = found.pop(OTHER, None)
    rows = sorted(found.values(), key=lambda row: (-(row.cost_nano_usd or 0), -(row.total_tokens or 0), row.name))
    rows = rows[:most]
    left_out = LeftOut(known - len(rows), dearest.cut or busiest.cut)
    return rows if over_cap is None else [*rows, over_cap], left_out


async def read_rows(
    reader: StateReader,
    windows: Sequence[Window],
    completeness: Completeness,
    dimension: ByNames,
    names: Sequence[str],
) -> dict[str, NameRow]:
    """Read what is known of names; one that is nowhere is left out.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    of_metrics = await measures_of(reader, METRICS, dimension, windows, names=names, measures=_OF_METRICS)
    of_cost = await measures_of(reader, COST, dimension, windows, names=names, measures=_OF_COST)
    counted, priced = completeness.known(METRICS), completeness.known(COST)
    return {
        name: _name_row(name, of_metrics.get(name, {}) if counted else None, of_cost.get(name, {}) if priced else None)
        for name in names
        if name in of_metrics or name in of_cost
    }


async def read_errors(
    reader: StateReader, windows: Sequence[Window], most: int, now_s: int
) -> tuple[list[ErrorRow], LeftOut]:
    """Read up to `most` types of errors, the most frequent first, behind them what a cap hid.

    Args:
        reader: Of which state.
        windows: Those of the marginals; at least one.
        most: How many types.
        now_s: The time now, which decides what windows are still kept.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    ranked = await ranked_names(reader, METRICS, "error", windows, max(most, _ALL_OFFERED))
    names = [*ranked.names, OTHER]
    found = await measures_of(reader, METRICS, "error", windows, names=names, measures=(code.ERRORS,))
    total = sum(measures.get(code.ERRORS, 0) for measures in found.values())
    if ranked.cut:
        # Not every type is known; of all errors of the same hours the cells know.
        cells = await reader.cells(METRICS, list(cover(*span(windows), now_s)))
        total = max(total, sum(measures.get(code.ERRORS, 0) for measures in cells.values()))
    over_cap = found.pop(OTHER, None)
    counts = {name: measures.get(code.ERRORS, 0) for name, measures in found.items()}
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    left_out = LeftOut(len(counts) - len(ordered), ranked.cut)
    if over_cap is not None:
        ordered.append((OTHER, over_cap.get(code.ERRORS, 0)))
    return [ErrorRow(name, errors, errors / max(total, 1)) for name, errors in ordered], left_out


async def read_edges(reader: StateReader, windows: Sequence[Window], most: int) -> Edges:
    """Read up to `most` transitions, the most frequent first.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    ranked = await ranked_names(reader, METRICS, "transition", windows, most)
    names = [*ranked.names[:most], OTHER]
    found = await measures_of(reader, METRICS, "transition", windows, names=names, measures=(code.TRANSITIONS,))
    over_cap = found.pop(OTHER, {}).get(code.TRANSITIONS, 0)
    edges = [Edge(*_EDGE_NAME.decode(name), measures.get(code.TRANSITIONS, 0)) for name, measures in found.items()]
    edges.sort(key=lambda edge: (-edge.count, edge.from_state, edge.to_state))
    return Edges(edges, over_cap, LeftOut(len(ranked.names) - len(edges), ranked.cut))


def _expensive_run(agent: str, run_id: str, session: str, measures: Measures) -> ExpensiveRun:
    requests, unpriced = measures.get(code.REQUESTS, 0), measures.get(code.UNPRICED, 0)
    return ExpensiveRun(agent, run_id, session, requests, _cost_of(measures), unpriced)


def _cost_of(measures: Measures) -> int | None:
    unpriced = measures.get(code.UNPRICED, 0)
    return known_cost(measures.get(code.COST, 0), measures.get(code.REQUESTS, 0) - unpriced, unpriced)


def _name_row(name: str, of_metrics: Measures | None, of_cost: Measures | None) -> NameRow:
    """Return what is known of a name; None of a handler is one that never ran."""
    row = NameRow(name)
    if of_metrics is not None:
        row = msgspec.structs.replace(
            row,
            requests=of_metrics.get(code.REQUESTS, 0),
            total_tokens=of_metrics.get(code.TOKENS, 0),
            runs=of_metrics.get(code.RUNS, 0),
            errors=of_metrics.get(code.ERRORS, 0),
        )
    if of_cost is not None:
        row = msgspec.structs.replace(
            row,
            cost_nano_usd=_cost_of(of_cost),
            unpriced_requests=of_cost.get(code.UNPRICED, 0),
            cost_requests=of_cost.get(code.REQUESTS, 0),
        )
    return row
