"""What is looked at, as the page's address says it: a view, a range of time, filters. A view is shared by its address.

Keeps: an address that is wrong is refused in a sentence that names the parameter; it never shows something else.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from consumers.alerts.rules import Where
from consumers.views.figures import filters_of
from consumers.views.live import STANDINGS
from consumers.views.report import Range
from pipeline.limits import MAX_NAME_CHARS
from pipeline.units import parse_duration_s, parse_instant_s

OfferedName: TypeAlias = Literal[
    "overview", "tokens", "performance", "cost", "sessions", "states", "alerts", "pipeline"
]
ViewName: TypeAlias = OfferedName | Literal["session"]
Theme: TypeAlias = Literal["auto", "light", "dark"]

VIEWS: Final[tuple[OfferedName, ...]] = get_args(OfferedName)
"""What the page offers at its top; one session is reached from wherever it is named."""

SESSION: Final = "session"
THEMES: Final[tuple[Theme, ...]] = get_args(Theme)
DIMENSIONS: Final = Where.__struct_fields__
"""What can be filtered by."""

RANGES: Final = ("15m", "1h", "6h", "24h", "7d", "30d")
"""What the page offers; any other duration stands in the address as well."""

DEFAULT_RANGE: Final = "24h"
LONGEST_RANGE_S: Final = 731 * 86_400

_KNOWN: Final = frozenset({"range", "from", "until", "theme", "before", "after", *DIMENSIONS})
"""Parameters of every view."""

_OWN: Final[Mapping[str, frozenset[str]]] = {SESSION: frozenset({SESSION}), "sessions": frozenset({"standing"})}
"""Those of one view alone."""


class AddressError(ValueError):
    """A parameter of the address is wrong; the message names it."""


class Span(Struct, frozen=True):
    """The time that is looked at: the last `back_s` seconds, or where that is 0 a fixed `asked`."""

    back_s: int = 0
    asked: Range = Range(0, 0)

    @property
    def live(self) -> bool:
        """Whether it moves with the time."""
        return self.back_s > 0

    def at(self, now_s: int) -> Range:
        """Return the range at an instant; the second that runs belongs to "up to now"."""
        return Range(max(0, now_s - self.back_s), now_s + 1) if self.live else self.asked


class Address(Struct, frozen=True):
    """Everything that an address says."""

    view: ViewName = "overview"
    range: str = DEFAULT_RANGE
    span: Span = Span(86_400)
    where: Where = Where()
    theme: Theme = "auto"
    before: str = ""
    after: str = ""
    """Two versions of the application whose states are compared; empty: the two busiest."""

    session: str = ""
    """Which session, where the view is of one."""

    standing: str = ""
    """Of the list of sessions those alone that stand so; empty: all."""

    @property
    def narrowed(self) -> bool:
        """Whether anything is filtered."""
        return self.where != Where()

    @property
    def filters(self) -> dict[str, str]:
        """The filters that are set, by dimension."""
        return filters_of(self.where)

    @property
    def path(self) -> str:
        """The path of its view."""
        return "/" if self.view == "overview" else f"/{self.view}"

    def link(self, **changes: str) -> str:
        """Return this address with some parameters changed, as a path; an empty parameter is left out."""
        view = changes.pop("view", self.view)
        query = {**self.parameters(), **changes}
        for other, names in _OWN.items():
            if other != view:
                query = {name: value for name, value in query.items() if name not in names}
        if "range" in changes:
            query |= {"from": "", "until": ""}
        text = urlencode({name: value for name, value in query.items() if value})
        return f"/{'' if view == 'overview' else view}{'?' if text else ''}{text}"

    def data_link(self) -> str:
        """Return where the data of this view are."""
        query = {"view": self.view, **self.parameters(), "theme": ""}
        return f"/api/view?{urlencode({name: value for name, value in query.items() if value})}"

    def parameters(self) -> dict[str, str]:
        """Return the parameters that say it; what is as usual is left out."""
        fixed = self.span.asked
        return {
            "range": self.range if self.span.live and self.range != DEFAULT_RANGE else "",
            "from": "" if self.span.live else instant(fixed.from_s),
            "until": "" if self.span.live else instant(fixed.until_s),
            **{name: self.filters.get(name, "") for name in DIMENSIONS},
            "before": self.before,
            "after": self.after,
            "theme": "" if self.theme == "auto" else self.theme,
            SESSION: self.session,
            "standing": self.standing,
        }

    def pinned(self, now_s: int) -> str:
        """Return the path of the same view with its range fixed as it is now: it shows the same to whoever opens it."""
        return msgspec.structs.replace(self, span=Span(0, self.span.at(now_s))).link()


def parse_address(view: str, query: Mapping[str, str]) -> Address:
    """Read an address.

    Args:
        view: Which view.
        query: The parameters, by name.

    Raises:
        AddressError: One of them is wrong or unknown.
    """
    if view not in VIEWS and view != SESSION:
        raise AddressError(f"there is no view {view!r}: use {', '.join(VIEWS)}, or {SESSION}")
    known = _KNOWN | _OWN.get(view, frozenset())
    if unknown := sorted(query.keys() - known):
        raise AddressError(f"there is no parameter {unknown[0]!r}: use {', '.join(sorted(known))}")
    if view == SESSION and not query.get(SESSION):
        raise AddressError("session: say which, as /session?session=deck-42")
    theme = query.get("theme") or "auto"
    if theme not in THEMES:
        raise AddressError(f"theme: {theme!r} is none of {', '.join(THEMES)}")
    standing = query.get("standing", "")
    if standing not in {"", *STANDINGS}:
        raise AddressError(f"standing: {standing!r} is none of {', '.join(STANDINGS)}")
    filters = {name: _name(name, query[name]) for name in DIMENSIONS if query.get(name)}
    text, span = _span(query)
    return Address(
        view=view,
        range=text,
        span=span,
        where=msgspec.convert(filters, Where),
        theme=theme,
        before=_name("before", query.get("before", "")),
        after=_name("after", query.get("after", "")),
        session=_name(SESSION, query.get(SESSION, "")),
        standing=standing,
    )


def instant(time_s: int) -> str:
    """Return an instant (seconds since 1970) in ISO 8601, UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(query: Mapping[str, str]) -> tuple[str, Span]:
    first, last = query.get("from"), query.get("until")
    if first or last:
        if not (first and last):
            raise AddressError("from and until: give both, or a range such as 24h")
        asked = Range(_instant_s("from", first), _instant_s("until", last))
        if not 0 < asked.until_s - asked.from_s <= LONGEST_RANGE_S:
            raise AddressError("from and until: the range is empty, or longer than two years")
        return "", Span(0, asked)
    text = query.get("range") or DEFAULT_RANGE
    try:
        back_s = parse_duration_s(text)
    except ValueError as error:
        raise AddressError(f"range: {error}") from None
    if not 0 < back_s <= LONGEST_RANGE_S:
        raise AddressError(f"range: {text!r} is no time up to two years: use 15m, 24h or 30d")
    return text, Span(back_s)


def _instant_s(name: str, text: str) -> int:
    try:
        return parse_instant_s(text)
    except ValueError as error:
        raise AddressError(f"{name}: {error}") from None


def _name(parameter: str, text: str) -> str:
    if len(text) > MAX_NAME_CHARS:
        raise AddressError(f"{parameter}: a name has {MAX_NAME_CHARS} characters at most")
    return text
