"""The graph of an application's states, drawn as SVG: states in a row, ways on above it, ways back below.

Keeps:
- Nothing is hidden without a word: what has no room stands in the table.
- No two ways share a lane where they overlap, and none an end: each can be followed, and its count stands on a free
  stretch of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Final

from markupsafe import Markup

from consumers.state import OTHER
from consumers.views.rankings import Edge
from consumers.views.states import StateFigures
from sidestream.dashboard.words import approx
from sidestream.dashboard.words import name as shown
from sidestream.wording.human import amount, counted, percent

MOST_STATES: Final = 14
"""States that a graph can show and still be read."""

_WIDE, _HIGH = 140, 74
_EDGE: Final = 12
_LANE: Final = 20
"""Between two lanes."""

_ROUND: Final = 8
"""Radius of a corner."""

_LETTER: Final = 7
"""Width of a digit of a count, and the room beside it."""

_MOST_CHARS: Final = 17


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the row runs: along it a state is `long`, the next one `gap` further; across it is `deep`."""

    upright: bool
    long: int
    deep: int
    gap: int


_LYING: Final = _Shape(upright=False, long=_WIDE, deep=_HIGH, gap=62)
_UPRIGHT: Final = _Shape(upright=True, long=_HIGH, deep=_WIDE, gap=34)


@dataclass(slots=True)
class _Way:
    """One transition: from which place in the row to which, on which lane, and where its ends stand on their states."""

    edge: Edge
    first: int
    last: int
    lane: int = 0
    ends: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def on(self) -> bool:
        """Whether it runs above, with the row; a way back runs below."""
        return self.last >= self.first

    @property
    def span(self) -> tuple[int, int]:
        """The places between which it runs."""
        return min(self.first, self.last), max(self.first, self.last)


def state_graph(states: Sequence[StateFigures], edges: Sequence[Edge], *, upright: bool = False) -> Markup:
    """Return the graph of the most visited states; nothing where there is no transition.

    Args:
        states: The most visited first.
        edges: Transitions between them.
        upright: From top to bottom, for a narrow screen.
    """
    known = {state.name: state for state in states[:MOST_STATES] if state.name != OTHER}
    drawn = [edge for edge in edges if edge.from_state in known and edge.to_state in known]
    if not drawn:
        return Markup("")
    begun = {edge.to_state: edge.count for edge in edges if not edge.from_state}
    shape = _UPRIGHT if upright else _LYING
    order = in_order(list(known), drawn)
    ways = [_Way(edge, order.index(edge.from_state), order.index(edge.to_state)) for edge in drawn]
    above, below = _lanes([way for way in ways if not _is_next(way) and way.on]), _lanes([w for w in ways if not w.on])
    _set_ends(ways, shape)
    top = _EDGE + (above + 1) * _LANE if above else _EDGE
    long = 2 * _EDGE + len(order) * shape.long + (len(order) - 1) * shape.gap
    deep = top + shape.deep + ((below + 1) * _LANE if below else 0) + _EDGE
    wide, high = (deep, long) if upright else (long, deep)
    most = max(edge.count for edge in drawn)
    lines = [_drawn(way, shape, top, ways, sqrt(way.edge.count / most)) for way in ways]
    nodes = [
        _node(known[name], begun.get(name, 0), _EDGE + place * (shape.long + shape.gap), top, shape)
        for place, name in enumerate(order)
    ]
    mark = "upright" if upright else "lying"
    return Markup(
        '<svg class="graph {4}" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">'
        '<defs><marker id="arrow-{4}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
        'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 Z"/></marker></defs>{3}</svg>'
    ).format(
        f"{wide:.0f}",
        f"{high:.0f}",
        f"{len(known)} states and {len(drawn)} transitions between them; the table below says the same",
        Markup("").join([*(line for line, _ in lines), *nodes, *(count for _, count in lines)]),
        mark,
    )


def in_order(names: Sequence[str], edges: Sequence[Edge]) -> list[str]:
    """Return states in the order in which sessions go through them; what no transition touches comes last."""
    touched = {state for edge in edges for state in (edge.from_state, edge.to_state)}
    layers = _layers(
        [name for name in names if name in touched], [e for e in edges if {e.from_state, e.to_state} <= {*names}]
    )
    return [*(name for layer in layers for name in layer), *(name for name in names if name not in touched)]


def _is_next(way: _Way) -> bool:
    return way.last == way.first + 1


def _lanes(ways: Sequence[_Way]) -> int:
    """Give each way a lane, the short ones nearest to the row; return how many there are."""
    taken: list[list[tuple[int, int]]] = []
    for way in sorted(ways, key=lambda way: (way.span[1] - way.span[0], way.span)):
        low, high = way.span
        lane = next(
            (n for n, spans in enumerate(taken) if all(high <= one or low >= other for one, other in spans)),
            len(taken),
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        way.lane = lane
    return len(taken)


def _set_ends(ways: Sequence[_Way], shape: _Shape) -> None:
    """Spread the ends of ways over the side of each state: those that come from before it stand before the others."""
    for on in (True, False):
        ends: dict[int, list[tuple[tuple[int, int, int], _Way, int]]] = {}
        for way in ways:
            if way.on is not on or _is_next(way):
                continue
            wide = way.span[1] - way.span[0]
            for end, place, other in ((0, way.first, way.last), (1, way.last, way.first)):
                # Of ways to the same side the longer runs outside the shorter, and must not cross it.
                side = (other > place) - (other < place)
                ends.setdefault(place, []).append(((side, -side * wide, end), way, end))
        for place, found in ends.items():
            found.sort(key=lambda one: one[0])
            begin = _EDGE + place * (shape.long + shape.gap)
            for number, (_, way, end) in enumerate(found):
                way.ends[end] = begin + shape.long * (number + 1) / (len(found) + 1)


def _drawn(way: _Way, shape: _Shape, top: float, ways: Sequence[_Way], share: float) -> tuple[Markup, Markup]:
    """Return a transition's line, the heavier the larger its `share` (0-1) of the most frequent, and its count."""
    points, label = _points(way, shape, top, ways)
    if shape.upright:
        points, label = [(across, along) for along, across in points], (label[1], label[0])
    edge = way.edge
    line = Markup(
        '<path class="edge" d="{}" stroke-width="{}" marker-end="url(#arrow-{})"><title>{}</title></path>'
    ).format(
        _rounded(points),
        f"{1.2 + 2.8 * share:.1f}",
        "upright" if shape.upright else "lying",
        f"{shown(edge.from_state)} to {shown(edge.to_state)}: {edge.count:,}",
    )
    x, y = label
    count = Markup('<text class="count" x="{}" y="{}">{}</text>').format(f"{x:.0f}", f"{y + 4:.0f}", amount(edge.count))
    return line, count


def _points(
    way: _Way, shape: _Shape, top: float, ways: Sequence[_Way]
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Return where a way bends, and where its count stands, along and across the row."""
    if _is_next(way):
        begin = _EDGE + way.first * (shape.long + shape.gap) + shape.long
        middle = top + shape.deep / 2
        # Of a lying row the count stands over the line, of an upright one beside it.
        label = (begin + shape.gap / 2 - 3, middle + (20 if shape.upright else -11))
        return [(begin, middle), (begin + shape.gap - 1, middle)], label
    first, last = way.ends
    edge = top if way.on else top + shape.deep
    lane = edge + (-1 if way.on else 1) * (way.lane + 1) * _LANE
    arrow = edge + (-1 if way.on else 1)
    label = (_free_stretch(way, ways), lane)
    return [(first, edge), (first, lane), (last, lane), (last, arrow)], label


def _free_stretch(way: _Way, ways: Sequence[_Way]) -> float:
    """Return where on its lane a way is furthest from those that cross it, of a few places."""
    low, high = sorted(way.ends)
    room = _LETTER * len(amount(way.edge.count))
    crossing = [
        end for other in ways if other.on is way.on and other is not way for end in other.ends if other.lane >= way.lane
    ]
    places = [low + (high - low) * part for part in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)]
    return max(places, key=lambda place: min([room, *(abs(place - end) for end in crossing)]))


def _rounded(points: Sequence[tuple[float, float]]) -> str:
    """Return a path through points whose corners are round."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(_ROUND, _apart(before, corner) / 2, _apart(corner, after) / 2)
        start, end = _towards(corner, before, radius), _towards(corner, after, radius)
        parts.append(f"L{start[0]:.1f} {start[1]:.1f} Q{corner[0]:.1f} {corner[1]:.1f} {end[0]:.1f} {end[1]:.1f}")
    parts.append(f"L{points[-1][0]:.1f} {points[-1][1]:.1f}")
    return " ".join(parts)


def _apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _towards(point: tuple[float, float], other: tuple[float, float], by: float) -> tuple[float, float]:
    far = _apart(point, other) or 1
    return point[0] + (other[0] - point[0]) * by / far, point[1] + (other[1] - point[1]) * by / far


def _node(state: StateFigures, begun: int, along: float, across: float, shape: _Shape) -> Markup:
    text = shown(state.name)
    short = text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…"
    x, y = (across, along) if shape.upright else (along, across)
    last = "end here" if state.is_last else never_left(state)
    stay = "sessions" if state.is_last else f"p50 {approx(state.p50_us)}"
    visits = f"{amount(state.visits)} visits" if state.visits != 1 else "1 visit"
    first = f"{visits}, {amount(begun)} begin" if begun else visits
    return _node_text(state, (short, text), (x, y), (first, stay, last))


def _node_text(
    state: StateFigures, names: tuple[str, str], at: tuple[float, float], words: tuple[str, str, str]
) -> Markup:
    return Markup(
        '<g class="node{0}" transform="translate({1} {2})"><title>{3}</title><rect width="{4}" height="{5}" rx="7"/>'
        '<text x="{6}" y="19" class="name">{7}</text><text x="{6}" y="35" class="about">{8}</text>'
        '<text x="{6}" y="50" class="about">{9}</text><text x="{6}" y="65" class="about">{10}</text></g>'
    ).format(
        " last" if state.is_last else "",
        f"{at[0]:.0f}",
        f"{at[1]:.0f}",
        f"{names[1]}: {counted(state.visits, 'visit')}",
        _WIDE,
        _HIGH,
        _WIDE // 2,
        names[0],
        *words,
    )


def never_left(state: StateFigures) -> str:
    """Return how many visits were never left, in words."""
    if not state.never_left:
        return "all left"
    return f"not left {amount(state.never_left)} ({percent(state.never_left / state.visits)})"


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> list[list[str]]:
    """Return states by how far they are from where sessions begin; the heaviest ways decide, those back do not."""
    ahead = _without_ways_back(names, edges)
    depth = dict.fromkeys(names, 0)
    for _ in names:
        for first, second in ahead:
            depth[second] = max(depth[second], depth[first] + 1)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in names:
        layers[depth[name]].append(name)
    return [layer for layer in layers if layer]


def _without_ways_back(names: Sequence[str], edges: Sequence[Edge]) -> list[tuple[str, str]]:
    """Return transitions, the most frequent first, without those that would close a circle."""
    kept: list[tuple[str, str]] = []
    for edge in sorted(edges, key=lambda edge: -edge.count):
        pair = edge.from_state, edge.to_state
        if pair[0] != pair[1] and not _reaches(kept, pair[1], pair[0], len(names)):
            kept.append(pair)
    return kept


def _reaches(pairs: Iterable[tuple[str, str]], first: str, last: str, most: int) -> bool:
    found = {first}
    for _ in range(most):
        more = {second for one, second in pairs if one in found} - found
        if not more:
            break
        found |= more
    return last in found
