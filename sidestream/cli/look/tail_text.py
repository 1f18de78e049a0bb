"""`sidestream tail` as a person reads it: an event a line, in columns cut to a terminal's width, or in full for a pipe.

Keeps:
- An event is one line, and on a terminal never wider than it.
- Names come from users: what is in them is shown as text, never as markup, colour or a terminal's command.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, assert_never

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.units import US_PER_MS, US_PER_S
from sidestream.wording.human import amount, duration, harmless

_WITH_NUMBERS: Final = 56
_WITH_GAPS: Final = 66
_WITH_MODEL: Final = 80
_WITH_MILLISECONDS: Final = 100
_WITH_STATE: Final = 140
"""Columns of a terminal from which more is shown."""

_EVENT: Final = 7
_TOKENS: Final = 5
_TOOK: Final = 8
"""What the widest of these takes: `request`, `34.5k`, `2 m 05 s`; ten minutes and more, a rare thing, take one more."""

_SECONDS: Final = len("20:18:42")
_MILLISECONDS: Final = len("20:18:42.123")
_INSTANT: Final = len("2026-11-27 20:18:42.123")

_ENDED: Final = {"error": "FAILED"}
_STYLES: Final = {"error": "red", "cancelled": "dim", "interrupted": "dim"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in a line: the widths of its columns, 0 for those that it has not.

    `width` is the terminal's; without one nothing is cut, and widths are the least.
    """

    width: int | None
    time: int
    agent: int
    session: int
    state: int = 0
    service: int = 0
    numbers: bool = True
    model: bool = True
    gap: str = "  "

    def fit(self, text: str, width: int, cut: Callable[[str, int], str] | None = None) -> str:
        """Return text in a column of that width."""
        text = _clean(text)
        if self.width is not None and _cells(text) > width:
            text = (cut or _cut)(text, width)
        return text + " " * (width - _cells(text))

    def left(self, when: str, kind: str, names: tuple[str, str, str, str]) -> list[str]:
        """Return the columns on the left; the names are of the agent, the session, the state and the service."""
        agent, session, state, service = names
        columns = [
            when.ljust(self.time),
            kind.ljust(_EVENT),
            self.fit(agent, self.agent),
            self.fit(session, self.session, _cut_inside),
        ]
        if self.state:
            columns += [self.fit(state, self.state), self.fit(service, self.service)]
        return columns

    def line(self, left: list[str], rest: str) -> str:
        """Return the columns on the left and what stands behind them, cut to the terminal."""
        line = self.gap.join([*left, rest]).rstrip()
        return line if self.width is None else _cut(line, self.width)


_PIPE: Final = Layout(None, _INSTANT, 12, 16, 12, 12)


def layout_of(width: int | None) -> Layout:
    """Return the layout for a terminal of `width` columns, or for none.

    What is taken off the width are the columns that hold no names, and the gaps; names share the rest.
    """
    if width is None:
        return _PIPE
    if width >= _WITH_STATE:
        room = width - 55
        agent, session, state = min(24, room * 14 // 85), min(32, room * 18 // 85), min(20, room * 14 // 85)
        return Layout(width, _MILLISECONDS, agent, session, state, min(20, room * 12 // 85))
    if width >= _WITH_MILLISECONDS:
        room = width - 51
        return Layout(width, _MILLISECONDS, min(16, room * 10 // 49), min(24, room * 15 // 49))
    if width >= _WITH_MODEL:
        room = width - 47
        return Layout(width, _SECONDS, room * 9 // 33, room * 14 // 33)
    return _narrow(width)


def _narrow(width: int) -> Layout:
    gap = "  " if width >= _WITH_GAPS else " "
    numbers = width >= _WITH_NUMBERS
    columns = [_SECONDS, _EVENT, _TOOK, *([_TOKENS, _TOKENS] if numbers else [])]
    room = max(8, width - sum(columns) - len(gap) * (len(columns) + 1))
    agent = room * 2 // 5
    return Layout(width, _SECONDS, agent, room - agent, numbers=numbers, model=False, gap=gap)


def heads(layout: Layout) -> str:
    """Return the line above the columns."""
    left = layout.left("TIME", "EVENT", ("AGENT", "SESSION", "STATE", "SERVICE"))
    return layout.line(left, _figures(layout, _tokens(layout, "IN", "OUT"), "TOOK", "MODEL/TOOL"))


def line_of(event: Event, service: str, layout: Layout) -> tuple[str, str]:
    """Return an event as one line, and its style."""
    when, agent = _time(event.time_us, layout), getattr(event, "agent", "")
    match event:
        case UsageEvent():
            kind, style = "request", _STYLES.get(event.status, "")
            rest = _request(event, layout)
        case OperationEvent():
            kind, style = event.kind, _STYLES.get(event.status, "")
            rest = _operation(event, layout)
        case TransitionEvent():
            kind, style = "state", "bold"
            rest = _transition(event)
        case ErrorEvent():
            kind, style = "error", "red"
            rest = _error(event)
        case _:
            assert_never(event)
    left = layout.left(when, kind, (agent, event.session, event.state, service))
    return layout.line(left, rest), style


def _request(event: UsageEvent, layout: Layout) -> str:
    tokens = (amount(event.input_tokens), amount(event.output_tokens))
    model = event.model or event.response_model
    took = duration(event.duration_us)
    if event.status == "ok":
        return _figures(layout, _tokens(layout, *tokens), took, _clean(model))
    used = f"{tokens[0]} in, {tokens[1]} out" if event.input_tokens or event.output_tokens else ""
    more = ", ".join(part for part in (event.error_type, used) if part)
    return _figures(layout, _ended(layout, event.status), took, _named(layout, model, more))


def _operation(event: OperationEvent, layout: Layout) -> str:
    name = event.name if event.name != event.agent else ""
    ended = "" if event.status == "ok" else event.status
    block = _ended(layout, ended)
    if not (ended or layout.model) and layout.numbers:
        block = layout.fit(name, len(block))
    return _figures(layout, block, duration(event.duration_us), _named(layout, name, event.error_type))


def _transition(event: TransitionEvent) -> str:
    after = f", after {duration(event.duration_us)}" if event.duration_us is not None else ""
    return _clean(f"{event.from_state or '(begins)'} → {event.to_state or '(ends)'}{after}")


def _error(event: ErrorEvent) -> str:
    # Messages of validators have several lines; in one they are still read as sentences.
    said = " ".join(event.message.split())
    model = f" ({event.model})" if event.model else ""
    return _clean(": ".join(part for part in (event.type, said) if part) + model)


def _figures(layout: Layout, block: str, took: str, name: str) -> str:
    """Return what stands behind the names: tokens or how it ended, how long it took, which model or tool it was."""
    parts = [block] if layout.numbers else []
    if not layout.numbers and block.strip():
        # Too narrow for both: that it failed is worth more than how long it took.
        return block.strip().rjust(_TOOK)
    return layout.gap.join([*parts, took.rjust(_TOOK), *([name] if layout.model else [])])


def _tokens(layout: Layout, tokens_in: str, tokens_out: str) -> str:
    return f"{tokens_in:>{_TOKENS}}{layout.gap}{tokens_out:>{_TOKENS}}" if layout.numbers else ""


def _ended(layout: Layout, status: str) -> str:
    return _ENDED.get(status, status).ljust(2 * _TOKENS + len(layout.gap))


def _named(layout: Layout, name: str, more: str) -> str:
    """Return a model or tool, and what else there is to say where there is room for it."""
    return _clean("  ".join(part for part in (name, more if layout.state else "") if part))


def _time(time_us: int, layout: Layout) -> str:
    seconds, rest_us = divmod(time_us, US_PER_S)
    if layout.time == _SECONDS:
        return _second(seconds)[11:]
    when = f"{_second(seconds)}.{rest_us // US_PER_MS:03d}"
    return when[11:] if layout.time == _MILLISECONDS else when


@lru_cache(maxsize=1_024)
def _second(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def day_of(time_us: int) -> str:
    """Return the day of an instant, in UTC."""
    return _second(time_us // US_PER_S)[:10]


def _clean(text: str) -> str:
    return text if text.isprintable() else harmless(text)


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _cut(text: str, width: int) -> str:
    if _cells(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…" if width > 0 else ""


def _cut_inside(text: str, width: int) -> str:
    """Cut where the middle is: sessions of one kind begin alike, and it is the end that tells them apart."""
    behind = set_cell_size(text[::-1], max(0, (width - 1) // 2)).strip()[::-1]
    before = set_cell_size(text, width - 1 - _cells(behind))
    return f"{before}…{behind}"


def head_of(namespace: str, day: str, parts: Iterator[str] | list[str]) -> str:
    """Return the first line: what is shown, of where, and how it ends."""
    of = f", {_clean(namespace)}" if namespace else ""
    return f"Sidestream tail{of}  {'; '.join([f'{day}, UTC', *parts])}"


class Screen:
    """Draws for a terminal: for the width that it has now, a line more where a new day begins."""

    def __init__(self, console: Console, day: str) -> None:
        self._console = console
        self._day = day
        self._layout = layout_of(console.width)
        self._paint = _paint(console)

    def opening(self, head: str) -> Iterator[str]:
        """Return the lines above everything; the first may fill several of the terminal."""
        first, _, rest = head.partition("  ")
        with self._console.capture() as captured:
            self._console.print(Text.assemble((first, "bold"), f"  {rest}"))
        yield captured.get().rstrip("\n")
        yield self._painted(heads(self._layout), "dim")

    def lines(self, event: Event, service: str) -> Iterator[str]:
        """Return an event's line, and before it what has changed since the last one: the day, the terminal's width."""
        if (day := day_of(event.time_us)) != self._day:
            self._day = day
            yield self._painted(_cut(f"{day}, UTC", self._layout.width or 0), "dim")
        line, style = line_of(event, service, self._layout)
        yield self._painted(line, style)

    def resized(self) -> str | None:
        """Take the terminal's width anew; return the heads of the columns where it has another one."""
        if self._console.width == self._layout.width:
            return None
        self._layout = layout_of(self._console.width)
        return self._painted(heads(self._layout), "dim")

    def _painted(self, line: str, style: str) -> str:
        before, after = self._paint[style]
        return f"{before}{line}{after}"


def _paint(console: Console) -> Mapping[str, tuple[str, str]]:
    """Return what goes before and behind a line of each style, as rich would write it to this terminal."""
    found: dict[str, tuple[str, str]] = {}
    for style in ("", "red", "bold", "dim"):
        with console.capture() as captured:
            console.print(Text("-", style=style), end="")
        before, _, after = captured.get().partition("-")
        found[style] = before, after
    return found


class Plain:
    """Draws for a pipe or a file: in full, each line with its whole date."""

    def opening(self, head: str) -> Iterator[str]:
        """Return the lines above everything."""
        yield head
        yield heads(_PIPE)

    def lines(self, event: Event, service: str) -> Iterator[str]:
        """Return an event's line."""
        yield line_of(event, service, _PIPE)[0]

    def resized(self) -> str | None:
        """Return nothing: a pipe has no width."""
        return None
