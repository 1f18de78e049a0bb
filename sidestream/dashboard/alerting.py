"""What is said of alert rules: what they measure, what is open for longer, whether anybody evaluates them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from consumers.alerts.rules import Where
from consumers.alerts.store import AlertRow
from consumers.views.inflight import InFlight
from pipeline.units import US_PER_MS, format_duration_s
from sidestream.dashboard.address import DIMENSIONS
from sidestream.dashboard.view import View
from sidestream.dashboard.words import name, rule_value

EVALUATED_LATE_S: Final = 60
"""Rules are evaluated every few seconds, up to where everything is counted."""


@dataclass
class Alerting:
    """What is said of alert rules of one view."""

    view: View

    def rules(self) -> Sequence[AlertRow]:
        """Return the alert rules, those that fire first."""
        order = {"firing": 0, "pending": 1}
        return sorted(self.view.alerts.rules, key=lambda row: (order.get(row.status, 2), row.rule))

    def unevaluated_s(self) -> int | None:
        """Return for how many seconds no rule has been evaluated, where that is worth a word."""
        if not self.view.alerts.rules:
            return None
        late_s = self.view.alerts.now_s - max(row.watermark_s for row in self.view.alerts.rules)
        return late_s if late_s > EVALUATED_LATE_S else None

    def summary_of(self, row: AlertRow) -> str:
        """Return what a rule that fires says to do, as its incident told it."""
        told = (incident.transition for incident in self.view.alerts.incidents)
        return next((moved.summary for moved in told if moved.rule == row.rule and moved.to == "firing"), "")

    def longer_than(self, row: AlertRow) -> list[InFlight]:
        """Return what is open for longer than the threshold of a rule that sees ended operations alone."""
        if row.unit != "us" or self.view.pipeline is None:
            return []
        agent = row.where.agent if row.where else ""
        return [
            one
            for one in self.view.pipeline.status.in_flight
            if one.open_ms * US_PER_MS > row.threshold and agent in {"", one.operation.agent}
        ]

    @staticmethod
    def measures(row: AlertRow) -> str:
        """Return what a rule measures, in a sentence."""
        what = (
            "Input and output tokens, summed" if row.unit == "tokens" else "The slowest operation that ended, its time"
        )
        kept = f", for {format_duration_s(row.for_s)} on end" if row.for_s else ""
        return (
            f"{what} over the last {format_duration_s(row.window_s)}, {_where(row.where)}; "
            f"fires above {rule_value(row.threshold, row.unit)}{kept}."
        )


def _where(where: Where | None) -> str:
    if where is None:
        return "of what the rules file says (told as soon as a worker of this version evaluates it)"
    named = [(dimension, getattr(where, dimension)) for dimension in DIMENSIONS]
    found = [f"{dimension} {name(value)}" for dimension, value in named if value]
    return f"of {', '.join(found)} alone" if found else "of everything"
