"""Names, figures and instants as the page says them, beyond what the command line says likewise.

Keeps: names come from outside. Templates escape them; here what a browser would obey besides (controls, changes of
direction) becomes a replacement character.
"""

from datetime import UTC, datetime
from typing import Final

from consumers.alerts.rules import Unit
from consumers.state import OTHER
from consumers.views.figures import Figures
from consumers.views.states import StateFigures
from consumers.windows import DAY_S
from pipeline.units import NANO_PER_USD, US_PER_S
from sidestream.wording.human import NOTHING, amount, dollars, duration, harmless, per_second

UNKNOWN: Final = "unknown"
UNPRICED: Final = "unpriced"

_THOUSAND: Final = 1_000

WORRYING_RATIO: Final = 0.05
"""Failures above it are marked: the guide's threshold."""


def name(text: str | None) -> str:
    """Return a name from outside as text of one line."""
    if text is None:
        return NOTHING
    if text == OTHER:
        return "other (over the cap)"
    return (harmless(text) or "(none)") if not text.isspace() else "(blank)"


def money(nano_usd: int | None, unpriced: int | None = 0) -> str:
    """Return a cost; a plus behind it: there is more that nobody knows the price of."""
    if nano_usd is None or (not nano_usd and unpriced):
        return UNPRICED
    return dollars(nano_usd) + ("+" if unpriced else "")


def approx(time_us: int | None) -> str:
    """Return a percentile: it is the middle of a bucket that is 9 % wide, so "about"."""
    return NOTHING if time_us is None else f"≈{duration(time_us)}"


def dollars_short(nano_usd: float) -> str:
    """Return money for an axis: $0, $0.002, $0.60, $12, $1.5k."""
    usd = nano_usd / NANO_PER_USD
    if usd >= _THOUSAND:
        return f"${amount(round(usd))}"
    if usd == int(usd):
        return f"${usd:.0f}"
    return f"${usd:.2f}" if round(usd, 2) == round(usd, 6) else f"${usd:.6f}".rstrip("0")


def dollars_of(nano_usd: float) -> str:
    """Return money of a chart, exactly."""
    return dollars(round(nano_usd))


def short(number: float) -> str:
    """Return a count of a chart or its axis."""
    return amount(round(number)) if number == round(number) else f"{number:g}"


def time_short(time_us: float) -> str:
    """Return a duration for an axis: 0, 320 ms, 20 s."""
    return duration(round(time_us)).replace(".0 ", " ").replace(" 00 s", "") if time_us else "0"


def cost_of(figures: Figures, *, known: bool) -> str:
    """Return the cost of figures."""
    if not known:
        return UNKNOWN
    if not (figures.priced_requests or figures.unpriced_requests):
        return NOTHING
    return money(figures.known_cost_nano_usd, figures.unpriced_requests)


def visit_cost(state: StateFigures) -> str:
    """Return what a visit to a state costs in the mean."""
    figures = state.figures
    if not state.visits or not (figures.priced_requests or figures.unpriced_requests):
        return NOTHING
    return money(state.nano_usd_a_visit, figures.unpriced_requests)


def change(now: int, before: int) -> str:
    """Return how a sum moved: +12 %, -40 %, "the same"; empty where there is nothing to compare with."""
    if not before:
        return ""
    ratio = now / before - 1
    if abs(ratio) < 0.005:  # noqa: PLR2004 - half a percent is rounded to none
        return "the same"
    if ratio > 9:  # noqa: PLR2004 - beyond that a percentage is hard to read
        return f"{now / before:,.0f} times"
    return f"{ratio * 100:+.0f} %"


def rule_value(value: int, unit: Unit) -> str:
    """Return the value of an alert rule."""
    if unit == "us":
        return duration(value) if value else "0 s"
    return f"{value:,} {unit}"


def clock(time_s: float, step_s: int = 0) -> str:
    """Return an instant as people read it beside a chart: 14:05, of days 27 Nov."""
    at = datetime.fromtimestamp(int(time_s), UTC)
    return f"{at.day} {at:%b}" if step_s >= DAY_S else f"{at:%H:%M}"


def local(time_s: float) -> str:
    """Return an instant as a browser's field for day and time takes it; in UTC, as the page says beside it."""
    return f"{datetime.fromtimestamp(int(time_s), UTC):%Y-%m-%dT%H:%M:%S}"


def day_and_clock(time_s: float) -> str:
    """Return day and time, UTC."""
    at = datetime.fromtimestamp(int(time_s), UTC)
    return f"{at.day} {at:%b %H:%M}"


def day_and_clock_s(time_s: float) -> str:
    """Return day and time to the second, UTC."""
    at = datetime.fromtimestamp(int(time_s), UTC)
    return f"{at.day} {at:%b %H:%M:%S}"


def rate(events: float | None) -> str:
    """Return events a second."""
    return "measuring" if events is None else per_second(events)


def ago(time_us: int) -> str:
    """Return for how long nothing happened; below two seconds that is "now"."""
    return "now" if time_us < 2 * US_PER_S else f"{duration(time_us)} ago"
