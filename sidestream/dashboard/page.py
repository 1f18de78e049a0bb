"""A view as HTML: the whole page, or its parts, of which a page that is open replaces those that have changed.

Keeps: every name is escaped, by the templates' autoescape and by `charts`.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Final, cast

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from consumers.views.figures import Timing, error_ratio_of, time_of
from consumers.views.live import STUCK_MS
from consumers.views.pace import NOW_MINUTES
from pipeline.units import US_PER_MS, format_duration_s
from sidestream.dashboard import charts, words
from sidestream.dashboard.address import DIMENSIONS, RANGES, VIEWS, Address, parse_address
from sidestream.dashboard.alerting import Alerting
from sidestream.dashboard.comparison import LEAST_SAMPLES
from sidestream.dashboard.graph import MOST_STATES, never_left, state_graph
from sidestream.dashboard.panels import Panels
from sidestream.dashboard.sessions import Sessions
from sidestream.dashboard.trends import Trends
from sidestream.dashboard.trust import trust_of
from sidestream.dashboard.view import View
from sidestream.version import VERSION
from sidestream.wording.human import NOTHING, amount, clock, counted, dollars, duration, instant, percent, size

_MARK: Final = "<!--part:"
_KEPT: Final = 32
"""Rendered views that are kept: who looks at the same gets the same text."""


@dataclass(slots=True)
class Rendered:
    """The parts of a page by their ids, in order."""

    parts: dict[str, Markup]

    def plain(self) -> dict[str, str]:
        """Return them as plain texts."""
        return {name: str(html) for name, html in self.parts.items()}


@dataclass(slots=True)
class Pages:
    """Renders views; what has not changed since is not rendered again."""

    _kept: OrderedDict[Address, tuple[tuple[int, ...], Rendered]] = field(
        default_factory=OrderedDict[Address, tuple[tuple[int, ...], Rendered]]
    )

    def page(self, view: View) -> str:
        """Return the whole page."""
        return _template("page.html").render(**_context(view), parts=self.parts(view).parts)

    def parts(self, view: View) -> Rendered:
        """Return the parts of a page that change with what is read."""
        kept = self._kept.get(view.address)
        if kept is None or kept[0] != view.stamps:
            kept = self._kept[view.address] = view.stamps, _rendered(view)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(view.address)
        # How old the figures are is said of now: they may have been read, and drawn, some time ago.
        return Rendered({**kept[1].parts, **_parts_of("trust.html", view)}) if view.held.age_s >= 1 else kept[1]


def failure_page(title: str, sentence: str, *, again: bool = False) -> str:
    """Return a page that says what is wrong; `again`: and loads anew after a while, for it may pass."""
    address = parse_address("overview", {})
    return _template("failure.html").render(title=title, sentence=sentence, again=again, address=address, **_COMMON)


def login_page(*, refused: bool, then: str) -> str:
    """Return the page that asks for the token, and goes on to the path `then`."""
    address = parse_address("overview", {})
    return _template("login.html").render(refused=refused, then=then, address=address, **_COMMON)


def _rendered(view: View) -> Rendered:
    return Rendered(_parts_of(f"{view.address.view}.html", view))


def _parts_of(template: str, view: View) -> dict[str, Markup]:
    text = _template(template).render(**_context(view))
    pieces = (piece.split("-->", 1) for piece in text.split(_MARK)[1:])
    # The template has escaped what is in them.
    return {name: Markup(html.strip()) for name, html in pieces}  # noqa: S704


def _context(view: View) -> dict[str, object]:
    return {
        **_COMMON,
        "view": view,
        "address": view.address,
        "trust": trust_of(view),
        "panels": Panels(view),
        "trends": Trends(view),
        "alerting": Alerting(view),
        "told": Sessions(view),
        "firing": [row for row in view.alerts.rules if row.status == "firing"],
    }


def _timing_words(timing: Timing) -> str:
    return f"mean {duration(timing.mean_us)}, p95 {words.approx(timing.p95_us)}" if timing.count else NOTHING


def duration_ms(time_ms: float | None) -> str:
    """Return a duration in milliseconds as people read it."""
    return duration(None if time_ms is None else round(time_ms * US_PER_MS))


@cache
def asset(name: str) -> tuple[bytes, str]:
    """Return a file of the page, and the hash that its address carries."""
    content = (resources.files("sidestream.dashboard") / "assets" / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:12]


def asset_address(name: str) -> str:
    """Return the address of a file: another one as soon as its content is."""
    return f"/assets/{name}?v={asset(name)[1]}"


_EVERYTHING: Final = frozenset({"range", *DIMENSIONS})
_INERT: Final[dict[str, tuple[frozenset[str], str]]] = {
    "alerts": (
        _EVERYTHING,
        "Range and filters do not apply here: each rule has its own window, and looks at what it says.",
    ),
    "pipeline": (_EVERYTHING, "Range and filters do not apply here: this is the pipeline as a whole, as it is now."),
    "session": (
        _EVERYTHING,
        "Range and filters do not apply here: this is one session, as far back as the stream goes.",
    ),
    "sessions": (
        frozenset({"environment", "tenant", "agent", "model"}),
        "Of the filters only service and state apply here: sessions are counted with no other dimension.",
    ),
}
"""What of range and filters says nothing on a view, and why."""

_ABOUT: Final = "≈: percentiles come from histograms, within 4.4 % of the truth; 95 % were faster than the p95"
_MORE: Final = "+: at least so much, for the price of some requests is unknown"
_BARS: Final = "a bar is its value against the largest of its table; a mark on it, a threshold or a p95"
_LEGEND: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(VIEWS, ()),
    "overview": (_ABOUT, _MORE, _BARS),
    "tokens": (_MORE,),
    "performance": (_ABOUT, _BARS),
    "cost": (_ABOUT, _MORE),
    "sessions": (_MORE,),
    "session": (_MORE,),
    "states": (_ABOUT, _MORE),
}
"""What the signs of a view mean."""

_COMMANDS: Final = {
    **dict.fromkeys(("overview", "tokens", "performance", "cost"), "report --since"),
    **dict.fromkeys(("sessions", "states"), "states --since"),
    "alerts": "alerts ls",
    "pipeline": "status",
}


def _same_figures(address: Address) -> str:
    """Return the command that says the same in a terminal; empty where a range or filters make it another."""
    command = _COMMANDS.get(address.view, "")
    if not command.endswith("--since"):
        return f"sidestream {command}" if command else ""
    return f"sidestream {command} {address.range}" if address.span.live and not address.narrowed else ""


_COMMON: Final[dict[str, object]] = {
    "asset": asset_address,
    "version": VERSION,
    "views": VIEWS,
    "ranges": RANGES,
    "dimensions": DIMENSIONS,
    "charts": charts,
    "state_graph": state_graph,
    "never_left": never_left,
    "inert": _INERT,
    "legend": _LEGEND,
    "same_figures": _same_figures,
    "least_samples": LEAST_SAMPLES,
    "most_states": MOST_STATES,
    "now_minutes": NOW_MINUTES,
    "cost_of": words.cost_of,
    "time_of": time_of,
    "visit_cost": words.visit_cost,
    "error_ratio_of": error_ratio_of,
    "stuck_ms": STUCK_MS,
    "worrying": words.WORRYING_RATIO,
    "NOTHING": NOTHING,
    "UNKNOWN": words.UNKNOWN,
}

_FILTERS: Final = {
    "name": words.name,
    "money": words.money,
    "dollars": dollars,
    "amount": amount,
    "duration": duration,
    "duration_ms": duration_ms,
    "seconds": format_duration_s,
    "percent": percent,
    "size": size,
    "counted": counted,
    "instant": instant,
    "clock": words.clock,
    "local": words.local,
    "clock_s": clock,
    "day_and_clock": words.day_and_clock,
    "day_and_clock_s": words.day_and_clock_s,
    "ago": words.ago,
    "rate": words.rate,
    "timing": _timing_words,
    "approx": words.approx,
    "rule_value": words.rule_value,
}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sidestream.dashboard"),
        autoescape=True,
        # An upgrade in place must not mix new templates with the code that runs.
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Typed there as the filters that it comes with.
    cast("dict[str, object]", environment.filters).update(_FILTERS)
    return environment


def _template(name: str) -> Template:
    return _environment().get_template(name)
