"""What is drawn over time: each figure of a view by the steps of its range. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consumers.views.figures import Figures, speaks_by_requests, time_of
from consumers.windows import DAY_S, HOUR_S, MINUTE_S
from sidestream.dashboard.charts import Chart, Series, round_up_time
from sidestream.dashboard.view import View
from sidestream.dashboard.words import clock, dollars_of, dollars_short, short, time_short
from sidestream.wording.human import duration, percent


@dataclass
class Trends:
    """What is drawn over time of one view."""

    view: View

    @property
    def step(self) -> str:
        """How wide a step of the trend is, in words."""
        step_s = self.view.cells.step_s
        if step_s >= DAY_S:
            return "by the day"
        return {HOUR_S: "by the hour", MINUTE_S: "by the minute"}.get(step_s, f"by {step_s // MINUTE_S} minutes")

    def cost_trend(self) -> Chart:
        """Return the cost of each step."""
        return self._chart("Cost", [Series("cost", self._values(_cost))], dollars_of, dollars_short, columns=True)

    def token_trend(self) -> Chart:
        """Return the tokens of each step."""
        series = [
            Series("input", self._values(lambda figures: figures.input_tokens), "c1"),
            Series("output", self._values(lambda figures: figures.output_tokens), "c2", dashed=True),
        ]
        return self._chart("Tokens", series, _count, short)

    def request_trend(self) -> Chart:
        """Return requests of each step, and those of them that failed."""
        series = [
            Series("requests", self._values(lambda figures: figures.requests), "c1"),
            Series("failed", self._values(lambda figures: figures.requests_by_status.get("error", 0)), "bad"),
        ]
        return self._chart("Requests", series, _count, short, columns=True)

    def time_trend(self) -> Chart:
        """Return mean and p95 of what users wait for, of each step."""
        by_requests = speaks_by_requests(self.view.totals)

        def timing(figures: Figures) -> tuple[int | None, int | None]:
            found = time_of(figures) if by_requests else figures.run_time
            return found.mean_us, found.p95_us

        series = [
            Series("p95", self._values(lambda figures: timing(figures)[1]), "c1"),
            Series("mean", self._values(lambda figures: timing(figures)[0]), "c2", dashed=True),
        ]
        title = "Request time" if by_requests else "Response time"
        return self._chart(title, series, _time, time_short, axis_of=round_up_time)

    def error_trend(self) -> Chart:
        """Return the part that failed, of each step: of agent runs, or of requests where there was no run."""
        by_requests = speaks_by_requests(self.view.totals)

        def ratio(figures: Figures) -> float | None:
            return figures.request_error_ratio if by_requests else figures.run_error_ratio

        title = "Failed requests" if by_requests else "Failed runs"
        return self._chart(title, [Series("failed", self._values(ratio), "bad")], percent, _percent_short)

    def hourly_trend(self) -> Chart:
        """Return what each step costs by the hour; a step that is not over counts as far as it has come."""
        cells, now_s = self.view.cells, self.view.now_s
        values: list[float | None] = []
        for point in self.view.trend:
            first_s, end_s = max(point.start_s, cells.covered.from_s), min(point.start_s + cells.step_s, now_s + 1)
            seconds = max(end_s - first_s, 1)
            values.append(None if self._unknown(point.figures) else point.figures.cost_nano_usd * HOUR_S / seconds)
        return self._chart("Cost per hour, extrapolated", [Series("per hour", values)], dollars_of, dollars_short)

    def day_trend(self) -> Chart:
        """Return the cost of each of the last days."""
        days = self.view.days
        values = [None if self._unknown(day.figures) else day.figures.cost_nano_usd for day in days]
        starts = [day.start_s for day in days]
        return Chart(
            "Cost per day",
            starts,
            DAY_S,
            [Series("cost", values)],
            dollars_of,
            dollars_short,
            columns=True,
            whole=(0, self.days_now_s + 1),
        )

    def days_note(self) -> str:
        """Return from which day on anything was counted, in words; empty where that is all of them."""
        first = next((day for day in self.view.days if day.figures.known_cost_nano_usd), None)
        if first is None or first is self.view.days[0]:
            return "the last 30 days, whatever the range"
        return f"the last 30 days, whatever the range; nothing was counted before {clock(first.start_s, DAY_S)}"

    @property
    def days_now_s(self) -> int:
        """The time when the days were read."""
        return self.view.days_look.now_s if self.view.days_look else self.view.now_s

    def minutes(self) -> Sequence[float | None]:
        """Return what each minute of the last hour cost."""
        return [point.figures.cost_nano_usd for point in self.view.pace.minutes] if self.view.pace else []

    def _values(self, of: Callable[[Figures], float | None]) -> list[float | None]:
        return [of(point.figures) for point in self.view.trend]

    def _chart(  # noqa: PLR0913 - a chart has a name, its lines, and how its values are said in two places
        self,
        title: str,
        series: Sequence[Series],
        say: Callable[[float], str],
        say_axis: Callable[[float], str],
        *,
        columns: bool = False,
        axis_of: Callable[[float], float] | None = None,
    ) -> Chart:
        starts = [point.start_s for point in self.view.trend]
        covered = self.view.cells.covered
        whole = covered.from_s, min(covered.until_s, self.view.now_s + 1)
        return Chart(title, starts, self.view.cells.step_s, series, say, say_axis, columns, axis_of, whole)

    @staticmethod
    def _unknown(figures: Figures) -> bool:
        return figures.known_cost_nano_usd is None


def _cost(figures: Figures) -> float | None:
    return figures.known_cost_nano_usd


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _percent_short(ratio: float) -> str:
    return f"{ratio * 100:.3g} %"


def _time(time_us: float) -> str:
    return duration(round(time_us))
