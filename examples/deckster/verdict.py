"""What the clients counted, held against what every handler committed: to the event, or the demo fails."""

from collections.abc import Mapping
from dataclasses import dataclass

from consumers.reader import StateReader
from consumers.state import CELL_DIMENSIONS, Cell, Measures
from examples.deckster.ledger import ClientLedger

Totals = dict[str, int]
"""What is compared, in words -> a number."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the comparison."""

    what: str
    clients: int
    committed: int

    @property
    def equal(self) -> bool:
        """Whether not one is missing or doubled."""
        return self.clients == self.committed


def counted_by_clients(ledger: ClientLedger) -> dict[str, Totals]:
    """Return what each handler must have committed, by handler."""
    metrics: Totals = {
        "requests": ledger["requests"],
        "input tokens": ledger["input_tokens"],
        "output tokens": ledger["output_tokens"],
        "agent runs": ledger["runs"],
        "agent runs that failed": ledger["run_errors"],
        "tool calls": ledger["tools"],
        "state transitions": ledger["transitions"],
        "errors": ledger["errors"],
    }
    for model, totals in sorted(ledger["by_model"].items()):
        metrics[f"tokens of {model}"] = totals["input_tokens"] + totals["output_tokens"]
    return {"metrics": metrics, "cost": {"requests priced or unpriced": ledger["requests"]}}


async def committed(reader: StateReader) -> dict[str, Totals]:
    """Return what the handlers have committed, in the same words."""
    metrics = await reader.lifetime("metrics")
    cost = await reader.lifetime("cost")
    totals: Totals = {
        "requests": _sum(metrics, "rq"),
        "input tokens": _sum(metrics, "ti"),
        "output tokens": _sum(metrics, "to"),
        "agent runs": _sum(metrics, "ru"),
        "agent runs that failed": _sum(metrics, "ru", status="error"),
        "tool calls": _sum(metrics, "tl"),
        "state transitions": _sum(metrics, "tr"),
        "errors": _sum(metrics, "er"),
    }
    for model in sorted({_dimension(cell, "model") for cell in metrics if _dimension(cell, "model")}):
        totals[f"tokens of {model}"] = _sum(metrics, "ti", model=model) + _sum(metrics, "to", model=model)
    return {"metrics": totals, "cost": {"requests priced or unpriced": _sum(cost, "cn") + _sum(cost, "un")}}


def compare(clients: Mapping[str, Totals], state: Mapping[str, Totals]) -> list[Line]:
    """Return one line for everything that either side knows."""
    lines: list[Line] = []
    for handler in clients.keys() | state.keys():
        left, right = clients.get(handler, {}), state.get(handler, {})
        lines += [
            Line(f"{handler}: {what}", left.get(what, 0), right.get(what, 0)) for what in dict.fromkeys([*left, *right])
        ]
    return sorted(lines, key=lambda line: line.what.partition(":")[0], reverse=True)


def _dimension(cell: Cell, name: str) -> str:
    return cell[CELL_DIMENSIONS.index(name)]


def _sum(cells: Mapping[Cell, Measures], measure: str, **where: str) -> int:
    return sum(
        measures.get(measure, 0)
        for cell, measures in cells.items()
        if all(_dimension(cell, name) == value for name, value in where.items())
    )
