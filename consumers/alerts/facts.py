"""Reads the values that rules look at from committed windows of the live state.

Only the live version is read, so a replay pages nobody. Nor does a backfill: what its frames added to a window is told
apart there (`consumers.handlers.metrics`), and taken off here, before a rule sees a value.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, assert_never

from consumers.alerts.evaluate import Facts
from consumers.alerts.rules import Rule
from consumers.measures import BACKFILLED_TOKENS, INPUT, OUTPUT
from consumers.reader import Operation, StateReader
from consumers.state import CELL_DIMENSIONS, Cell, Measures
from consumers.windows import Window

_METRICS: Final = "metrics"
_AGENT: Final = CELL_DIMENSIONS.index("agent")
_ALL: Final = 10_000
"""More operations than a window lists; the state keeps the slowest 20 of each by default."""

_Cells: TypeAlias = Mapping[Cell, Measures]


async def read_facts(reader: StateReader, wanted: Sequence[tuple[Rule, Sequence[Window]]]) -> dict[str, Facts]:
    """Return each rule's value over its windows, by rule name; a window that several rules share is read once.

    Raises:
        SidestreamError: See `AsyncServer.call`.
    """
    shared = {window: None for rule, windows in wanted if rule.kind == "tokens" for window in windows}
    cells = dict(await reader.cells_by_window(_METRICS, list(shared)))
    found: dict[str, Facts] = {}
    for rule, windows in wanted:
        match rule.kind:
            case "tokens":
                found[rule.name] = token_facts(rule, [cells[window] for window in windows])
            case "slow_operation":
                found[rule.name] = slow_facts(rule, await reader.slowest(windows, _ALL))
            case _:
                assert_never(rule.kind)
    return found


def token_facts(rule: Rule, windows: Sequence[_Cells]) -> Facts:
    """Return the tokens (input and output) of the cells that a rule looks at, and the agent that used most of them."""
    by_agent: dict[str, int] = {}
    for cells in windows:
        for cell, measures in cells.items():
            if rule.where.matches(cell):
                tokens = measures.get(INPUT, 0) + measures.get(OUTPUT, 0) - measures.get(BACKFILLED_TOKENS, 0)
                by_agent[cell[_AGENT]] = by_agent.get(cell[_AGENT], 0) + tokens
    if not by_agent:
        return Facts(0)
    most = max(by_agent, key=lambda agent: (by_agent[agent], agent))
    return Facts(sum(by_agent.values()), f"most by agent {most!r}: {by_agent[most]:,} tokens")


def slow_facts(rule: Rule, operations: Sequence[Operation]) -> Facts:
    """Return the duration of the slowest operation that a rule looks at, and which it was; `operations` come sorted.

    A window lists its slowest operations only: an agent's is not seen where it is below all that are listed, nor a live
    one below as many backfilled.
    """
    wanted = rule.where.agent
    for one in operations:
        if not one.backfilled and (not wanted or one.agent == wanted):
            return Facts(one.duration_us, _named(one))
    return Facts(0)


def _named(one: Operation) -> str:
    known = (("agent", one.agent), ("session", one.session), ("id", one.identity), ("status", one.status))
    return ", ".join([f"{one.kind} {one.name!r}", *(f"{label} {text}" for label, text in known if text)])
