"""The graph of an application's states, drawn as SVG: in layers from where sessions begin, ways back below.

Keeps: nothing is hidden without a word: what has no room stands in the table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

from markupsafe import Markup

from consumers.state import OTHER
from consumers.views.rankings import Edge
from consumers.views.states import StateFigures
from sidestream.cli.human import amount, duration
from sidestream.dashboard.words import name as shown

MOST_STATES: Final = 14
"""States that a graph can show and still be read."""

_WIDE, _HIGH = 128, 46
_APART_X, _APART_Y = 74, 34
_EDGE: Final = 16
_LIFT, _LIFT_MORE, _MOST_LIFTS = 40, 13, 3
"""How far above the states a way over two layers swings, and one over more."""
_MOST_CHARS: Final = 16


@dataclass(frozen=True, slots=True)
class _Place:
    x: float
    y: float


def state_graph(states: Sequence[StateFigures], edges: Sequence[Edge]) -> Markup:
    """Return the graph of the most visited states; nothing where there is no transition."""
    known = {state.name: state for state in states[:MOST_STATES] if state.name != OTHER}
    drawn = [edge for edge in edges if edge.from_state in known and edge.to_state in known]
    if not drawn:
        return Markup("")
    layers = _layers(list(known), drawn)
    places = _places(layers)
    backs = sum(1 for edge in drawn if places[edge.to_state].x <= places[edge.from_state].x)
    wide = max(place.x for place in places.values()) + _WIDE + _EDGE
    high = max(place.y for place in places.values()) + _HIGH + _EDGE + min(backs, 5) * 18
    most = max(edge.count for edge in drawn)
    ways = [
        _drawn(edge, _way(places[edge.from_state], places[edge.to_state], number, high), sqrt(edge.count / most))
        for number, edge in enumerate(sorted(drawn, key=lambda edge: edge.count))
    ]
    nodes = [_node(known[state], place) for state, place in places.items()]
    return Markup(
        '<svg class="graph" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
        'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 Z"/></marker></defs>{3}</svg>'
    ).format(
        f"{wide:.0f}",
        f"{high:.0f}",
        f"{len(known)} states and {len(drawn)} transitions between them; the table below says the same",
        Markup("").join([*(path for path, _ in ways), *nodes, *(count for _, count in ways)]),
    )


def _drawn(edge: Edge, way: tuple[str, float, float], share: float) -> tuple[Markup, Markup]:
    """Return a transition's line, the heavier the larger its `share` (0-1) of the most frequent, and its count."""
    path, x, y = way
    line = Markup(
        '<path class="edge" d="{}" stroke-width="{}" marker-end="url(#arrow)"><title>{}</title></path>'
    ).format(path, f"{1 + 3.5 * share:.1f}", f"{shown(edge.from_state)} to {shown(edge.to_state)}: {edge.count:,}")
    count = Markup('<text class="count" x="{}" y="{}">{}</text>').format(f"{x:.0f}", f"{y:.0f}", amount(edge.count))
    return line, count


def _node(state: StateFigures, place: _Place) -> Markup:
    text = shown(state.name)
    short = text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…"
    stay = "end" if state.is_last else f"p50 {duration(state.p50_us)}"
    return Markup(
        '<g class="node{}" transform="translate({} {})"><title>{}</title><rect width="{}" height="{}" rx="7"/>'
        '<text x="{}" y="19" class="name">{}</text><text x="{}" y="35" class="about">{} · {}</text></g>'
    ).format(
        " last" if state.is_last else "",
        f"{place.x:.0f}",
        f"{place.y:.0f}",
        f"{text}: {state.visits:,} visits",
        _WIDE,
        _HIGH,
        _WIDE // 2,
        short,
        _WIDE // 2,
        amount(state.visits),
        stay,
    )


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> list[list[str]]:
    """Return states by how far they are from where sessions begin; the heaviest ways decide, those back do not."""
    ahead = _without_ways_back(names, edges)
    depth = dict.fromkeys(names, 0)
    for _ in names:
        for first, second in ahead:
            depth[second] = max(depth[second], depth[first] + 1)
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
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


def _places(layers: Sequence[Sequence[str]]) -> Mapping[str, _Place]:
    tallest = max(len(layer) for layer in layers)
    # Room for ways that swing above the first row.
    top = _EDGE + (_LIFT + _LIFT_MORE * min(len(layers) - 3, _MOST_LIFTS) - _HIGH / 2 + 8 if len(layers) > 2 else 14)  # noqa: PLR2004
    found: dict[str, _Place] = {}
    for column, layer in enumerate(layers):
        above = (tallest - len(layer)) * (_HIGH + _APART_Y) / 2
        for row, name in enumerate(layer):
            found[name] = _Place(_EDGE + column * (_WIDE + _APART_X), top + above + row * (_HIGH + _APART_Y))
    return found


def _way(first: _Place, second: _Place, number: int, high: float) -> tuple[str, float, float]:
    """Return the path from one state to another, and where its count stands."""
    if first == second:
        x, y = first.x + _WIDE / 2, first.y
        return f"M{x - 16} {y} C{x - 24} {y - 26} {x + 24} {y - 26} {x + 16} {y - 2}", x, y - 20
    if second.x > first.x:
        start, end = (first.x + _WIDE, first.y + _HIGH / 2), (second.x - 1, second.y + _HIGH / 2)
        layers = round((second.x - first.x) / (_WIDE + _APART_X))
        # Over more than one layer it swings above, so as not to run through a state.
        lift = -(_LIFT + _LIFT_MORE * min(layers - 2, _MOST_LIFTS)) if layers > 1 and first.y == second.y else 0
        bend = (end[0] - start[0]) * (0.5 if layers == 1 else 0.25)
        path = (
            f"M{start[0]:.0f} {start[1]:.0f} C{start[0] + bend:.0f} {start[1] + lift * 1.33:.0f} "
            f"{end[0] - bend:.0f} {end[1] + lift * 1.33:.0f} {end[0]:.0f} {end[1]:.0f}"
        )
        return path, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + lift - 5
    if second.x == first.x:
        down = second.y > first.y
        x = first.x + _WIDE * (0.62 if down else 0.38)
        start_y, end_y = (first.y + _HIGH, second.y - 1) if down else (first.y, second.y + _HIGH + 1)
        return f"M{x:.0f} {start_y:.0f} L{x:.0f} {end_y:.0f}", x + 12, (start_y + end_y) / 2 + 4
    x, y = first.x + _WIDE * 0.42, first.y + _HIGH
    end_x, end_y = second.x + _WIDE * 0.58, second.y + _HIGH + 1
    low = max(y, end_y) + 26 + (number % 5) * 15
    low = min(low, high + 14)
    path = f"M{x:.0f} {y:.0f} C{x:.0f} {low:.0f} {end_x:.0f} {low:.0f} {end_x:.0f} {end_y:.0f}"
    return path, (x + end_x) / 2, (max(y, end_y) + 3 * low) / 4 + 3
