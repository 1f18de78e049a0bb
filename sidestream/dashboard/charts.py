"""Charts as SVG, drawn here: lines and columns over time, rings, bars. No script is needed to see them.

Keeps:
- Every text from outside is escaped, and nothing carries a style of its own: the page's policy forbids both.
- A chart is never the only place of a figure: each has a table beside or below it.
- What is not there is a gap, never 0. Series differ by dash and place as well as by colour.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import floor, log10
from typing import Final, Protocol

import msgspec
from markupsafe import Markup

from consumers.windows import DAY_S, HOUR_S, MINUTE_S
from pipeline.units import US_PER_S
from sidestream.dashboard.words import clock, day_and_clock

_WIDTH: Final = 1_000
"""Units of a chart's own coordinates; the browser stretches them to the room there is."""

_HEIGHT: Final = 100
_TOP: Final = 4
"""Units above the highest value, so that its line is not cut."""

_STEPS_S: Final = (
    MINUTE_S, 5 * MINUTE_S, 10 * MINUTE_S, 15 * MINUTE_S, 30 * MINUTE_S,
    HOUR_S, 2 * HOUR_S, 3 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S, DAY_S, 2 * DAY_S, 5 * DAY_S, 10 * DAY_S, 30 * DAY_S,
)  # fmt: skip
"""Between labels of time."""

_GAP: Final = 0.14
"""Of the room of a column, left free on each side."""

_ROUND: Final = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 4.8, 6, 8, 10, 12)
"""Ends of axes whose quarters are round as well."""

_QUARTERS: Final = (0, 0.25, 0.5, 0.75, 1)
_ROUND_TIMES_S: Final = (
    *(minutes * MINUTE_S for minutes in (2, 4, 6, 8, 10, 20, 30, 40)),
    *(hours * HOUR_S for hours in (1, 2, 4, 6, 8, 12, 24)),
)
_HAIR: Final = 1.000001
"""A sum of floats may be so far above the round number that it is."""

_MOST_LABELS: Final = 9
_HAIR_WIDE: Final = 0.006
"""Of the room of a bar: what is shorter could not be seen."""

MOST_SLICES: Final = 6
"""Slices of a ring that can still be told apart; what is beyond is one of its own."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line or row of columns; `colour` is a class of the style sheet (`c1` to `c6`, `bad`)."""

    name: str
    values: Sequence[float | None]
    colour: str = "c1"
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Values over time: where each step starts, how wide it is, how a value is said."""

    title: str
    starts: Sequence[int]
    step_s: int
    series: Sequence[Series]
    say: Callable[[float], str]
    """A value, exactly."""
    say_axis: Callable[[float], str]
    columns: bool = False
    axis_of: Callable[[float], float] | None = None
    """What the axis ends at, for a highest value; else a round number."""
    whole: tuple[float, float] | None = None
    """From when until when (seconds) it is known: a step that reaches beyond is a part, drawn faintly and called so."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(value for series in self.series for value in series.values)

    def draw(self) -> Markup:
        """Return the chart: axes, lines, and what a script needs to say what is under the pointer."""
        top = (self.axis_of or round_up)(max((v for s in self.series for v in s.values if v is not None), default=0))
        body = Markup("").join(
            _columns(series, top, self._parts) if self.columns else _line(series, top, area=place == 0)
            for place, series in enumerate(self.series)
        )
        grid = Markup("").join(
            Markup('<line x1="0" x2="1000" y1="{0}" y2="{0}" class="grid"/>').format(_y(top * part, top))
            for part in _QUARTERS
        )
        marks = Markup("").join(
            Markup('<text x="100%" y="{}%" dy="0.33em">{}</text>').format(
                _y(top * part, top), self.say_axis(top * part)
            )
            for part in _QUARTERS
        )
        return Markup(
            '<div class="plot" role="img" aria-label="{title}" tabindex="0" data-chart="{data}">'
            '<svg class="yaxis" aria-hidden="true">{marks}</svg>'
            '<svg class="lines" viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true">'
            "{parts}{grid}{body}</svg>"
            '<svg class="xaxis" aria-hidden="true">{labels}</svg></div>'
        ).format(
            title=self._summary(),
            data=self._data(),
            marks=marks,
            parts=Markup("") if self.columns else _bands(self._parts, len(self.starts)),
            grid=grid,
            body=body,
            labels=self._labels(),
        )

    def _summary(self) -> str:
        """Return what somebody hears who does not see it; the table below has the rest."""
        parts: list[str] = []
        for series in self.series:
            known = [value for value in series.values if value is not None]
            last = self.say(known[-1]) if known else "nothing"
            high = self.say(max(known)) if known else "nothing"
            parts.append(f"{series.name}: at last {last}, at most {high}")
        return f"{self.title}. {'; '.join(parts)}."

    def _data(self) -> str:
        labels = [self.label(start_s) for start_s in self.starts]
        series = [
            {"name": s.name, "colour": s.colour, "said": [None if v is None else self.say(v) for v in s.values]}
            for s in self.series
        ]
        return msgspec.json.encode({"labels": labels, "series": series}).decode()

    def label(self, start_s: int) -> str:
        """Return how a step is called, and whether it is a part of one."""
        name = clock(start_s, DAY_S) if self.step_s >= DAY_S else day_and_clock(start_s)
        if self.whole is None:
            return name
        if start_s + self.step_s > self.whole[1]:
            return f"{name}, so far"
        return f"{name}, from {clock(self.whole[0])}" if start_s < self.whole[0] else name

    @property
    def partial(self) -> bool:
        """Whether any step is a part of one."""
        return bool(self._parts)

    @property
    def _parts(self) -> AbstractSet[int]:
        """Places of steps that reach beyond what is known."""
        if self.whole is None:
            return frozenset()
        first_s, end_s = self.whole
        return {n for n, at in enumerate(self.starts) if at < first_s or at + self.step_s > end_s}

    def _labels(self) -> Markup:
        if not self.starts:
            return Markup("")
        first_s, end_s = self.starts[0], self.starts[-1] + self.step_s
        wide_s = max(end_s - first_s, 1)
        apart_s = next((step for step in _STEPS_S if wide_s / step <= _MOST_LABELS), _STEPS_S[-1])
        at_s = range(first_s - first_s % apart_s + apart_s * bool(first_s % apart_s), end_s, apart_s)
        # Of a column the label stands below its middle.
        shift_s = self.step_s / 2 if self.columns and self.step_s >= DAY_S else 0
        # At midnight the day says more than the hour.
        found = [
            (100 * (time_s + shift_s - first_s) / wide_s, clock(time_s, apart_s if time_s % DAY_S else DAY_S))
            for time_s in at_s
        ]
        return Markup("").join(
            Markup('<text x="{}%" y="11">{}</text>').format(f"{place:.2f}", text)
            for place, text in found
            if 2 <= place <= 98  # noqa: PLR2004 - at the edge it would be cut
        )


def sparkline(values: Sequence[float | None], title: str) -> Markup:
    """Return a small line without axes."""
    top = max((value for value in values if value is not None), default=0) or 1
    return Markup(
        '<svg class="spark" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(title, _line(Series(title, values), top, area=True))


class Share(Protocol):
    """One part of a whole (0-1), and the colour it is drawn in."""

    @property
    def share(self) -> float: ...  # noqa: D102 - a protocol's attribute
    @property
    def colour(self) -> str: ...  # noqa: D102


def ring(parts: Sequence[Share], title: str, total: str) -> Markup:
    """Return a ring of parts, the first from the top on, with the total in its middle."""
    gap = 0.6 if len(parts) > 1 else 0.0
    slices, begun = [Markup('<circle class="track" cx="21" cy="21" r="15.9"/>')], 0.0
    for part in parts:
        share = 100 * part.share
        drawn = max(share - gap, 0.2)
        slices.append(
            Markup(
                '<circle class="slice {}" cx="21" cy="21" r="15.9" pathLength="100" stroke-dasharray="{} {}" '
                'stroke-dashoffset="{}"/>'
            ).format(part.colour, f"{drawn:.2f}", f"{100 - drawn:.2f}", f"{25 - begun:.2f}")
        )
        begun += share
    slices.append(Markup('<text x="21" y="22.6">{}</text>').format(total))
    return Markup('<svg class="ring" viewBox="0 0 42 42" role="img" aria-label="{}">{}</svg>').format(
        title, Markup("").join(slices)
    )


def bar(ratio: float | None, colour: str = "c1", mark: float | None = None) -> Markup:
    """Return a bar of a ratio (0-1) of the room there is; `mark` draws a line across, such as a threshold."""
    share = min(max(ratio or 0, 0), 1)
    line = Markup("")
    if mark is not None:
        line = Markup('<line class="mark" x1="{0}%" x2="{0}%" y1="-30%" y2="130%"/>').format(f"{100 * mark:.2f}")
    return Markup(
        '<svg class="bar" aria-hidden="true"><rect class="track" width="100%" height="100%" rx="2"/>'
        '<rect class="{}" width="{}%" height="100%" rx="2"/>{}</svg>'
    ).format(colour, f"{100 * share:.2f}", line)


def span(first: float, last: float, colour: str = "c1") -> Markup:
    """Return a stretch of time, from one place of the room there is to another (0-1); a moment is a hair wide."""
    begin = min(max(first, 0), 1 - _HAIR_WIDE)
    wide = max(min(last, 1) - begin, _HAIR_WIDE)
    return Markup(
        '<svg class="bar" aria-hidden="true"><rect class="track" width="100%" height="100%" rx="2"/>'
        '<rect class="{}" x="{}%" width="{}%" height="100%" rx="1"/></svg>'
    ).format(colour, f"{100 * begin:.2f}", f"{100 * wide:.2f}")


def round_up(value: float) -> float:
    """Return the next number that is round, and whose quarters are round as well."""
    if value <= 0:
        return 1
    power = 10.0 ** floor(log10(value))
    # A sum of floats may be a hair above the round number that it is.
    return next(power * part for part in _ROUND if value <= power * part * _HAIR)


def round_up_time(value_us: float) -> float:
    """Return where an axis of microseconds ends: round in the unit that it is said in, and so is its half."""
    seconds = value_us / US_PER_S
    if seconds <= MINUTE_S:
        return round_up(seconds) * US_PER_S if seconds > 1 else round_up(value_us)
    return next((end for end in _ROUND_TIMES_S if seconds <= end), round_up(seconds / DAY_S) * DAY_S) * US_PER_S


def _y(value: float, top: float) -> str:
    return f"{_HEIGHT - (_HEIGHT - _TOP) * value / (top or 1):.2f}"


def _line(series: Series, top: float, *, area: bool) -> Markup:
    count = len(series.values)
    pieces: list[list[tuple[str, str]]] = [[]]
    for place, value in enumerate(series.values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((f"{(place + 0.5) * _WIDTH / count:.1f}", _y(value, top)))
    drawn = [piece for piece in pieces if piece]
    # A point by itself is a line of no length, which its round ends make a dot.
    lines = " ".join(
        "M" + " L".join(f"{x} {y}" for x, y in piece) + ("h.01" if len(piece) == 1 else "") for piece in drawn
    )
    dash = " dashed" if series.dashed else ""
    found = Markup('<path class="line {}{}" d="{}"/>').format(series.colour, dash, lines)
    if not area:
        return found
    below = " ".join(
        f"M{piece[0][0]} {_HEIGHT} L{_joined(piece)} L{piece[-1][0]} {_HEIGHT} Z" for piece in drawn if len(piece) > 1
    )
    return Markup('<path class="area {}" d="{}"/>').format(series.colour, below) + found


def _joined(points: Sequence[tuple[str, str]]) -> str:
    return " L".join(f"{x} {y}" for x, y in points)


def _bands(parts: AbstractSet[int], count: int) -> Markup:
    """Return what lies behind a line where a step is a part of one."""
    wide = _WIDTH / max(count, 1)
    return Markup("").join(
        Markup('<rect class="part" x="{}" y="0" width="{}" height="100"/>').format(f"{n * wide:.1f}", f"{wide:.1f}")
        for n in sorted(parts)
    )


def _columns(series: Series, top: float, parts: AbstractSet[int]) -> Markup:
    """Return columns; a second series stands in front of the first, at the same place: it is a part of it."""
    wide = _WIDTH / max(len(series.values), 1)
    return Markup("").join(
        Markup('<rect class="column {}{}" x="{}" y="{}" width="{}" height="{}"/>').format(
            series.colour,
            " part" if number in parts else "",
            f"{(number + _GAP) * wide:.2f}",
            _y(value, top),
            f"{wide * (1 - 2 * _GAP):.2f}",
            f"{_HEIGHT - float(_y(value, top)):.2f}",
        )
        for number, value in enumerate(series.values)
        if value
    )
