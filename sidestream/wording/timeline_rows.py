"""What is listed of one session, on the page and in a terminal: what happened, and the states it went through. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, assert_never

from msgspec import Struct

from consumers.views.inflight import InFlight
from consumers.views.live import STUCK_MS
from consumers.views.timeline import OneSession, Stay
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.units import US_PER_MS
from sidestream.wording.human import NOTHING, amount, duration, harmless

MOST_ROWS: Final = 200
_OK: Final = "ok"


class TimelineRow(Struct, frozen=True):
    """One thing that happened, or is open; `first` and `last` are its place (0-1) in the time that is shown."""

    at_us: int
    kind: str
    what: str
    agent: str
    input: str
    output: str
    took: str
    ended: str
    tone: str
    first: float
    last: float
    colour: str


class StayRow(Struct, frozen=True):
    """One stay in a state: since when, how long, and its part (0-1) of the time that is shown."""

    state: str
    from_us: int | None
    took: str
    going_on: bool
    first: float
    last: float


def timeline_of(look: OneSession, open_now: Sequence[InFlight], most: int = MOST_ROWS) -> list[TimelineRow]:
    """Return what happened in a session: what is open, then up to `most` events, the newest first."""
    shown = list(look.events[-most:])
    opened = [(look.now_us - row.open_ms * US_PER_MS, row) for row in open_now]
    first_us = min([*(_began_us(event) for event in shown), *(at_us for at_us, _ in opened)], default=look.now_us)
    last_us = look.now_us if opened else max((event.time_us for event in shown), default=look.now_us)
    wide_us = max(last_us - first_us, 1)

    def place(at_us: int) -> float:
        return (at_us - first_us) / wide_us

    rows = [_open(row, place(at_us)) for at_us, row in opened]
    return [*rows, *(_row(event, place(_began_us(event)), place(event.time_us)) for event in reversed(shown))]


def stays_of(look: OneSession, *, ended: bool) -> list[StayRow]:
    """Return the stays of a session, the newest first.

    Args:
        look: The session.
        ended: Whether it is in a state that no session leaves.
    """
    known = [at_us for stay in look.stays for at_us in (stay.from_us, stay.until_us) if at_us is not None]
    if not known:
        return []
    first_us = min(known)
    last_us = max(known) if ended else max(look.now_us, *known)
    return list(_stay_rows(look.stays, first_us, max(last_us - first_us, 1), last_us, ended=ended))[::-1]


def _stay_rows(stays: Sequence[Stay], first_us: int, wide_us: int, last_us: int, *, ended: bool) -> Iterator[StayRow]:
    for stay in stays:
        until_us = last_us if stay.going_on else stay.until_us
        took = NOTHING if stay.from_us is None or until_us is None else duration(until_us - stay.from_us)
        yield StayRow(
            state=stay.state,
            from_us=stay.from_us,
            took="ended here" if stay.going_on and ended else took,
            going_on=stay.going_on and not ended,
            first=((stay.from_us or first_us) - first_us) / wide_us,
            last=((until_us or stay.from_us or first_us) - first_us) / wide_us,
        )


def _began_us(event: Event) -> int:
    match event:
        case UsageEvent() | OperationEvent():
            return event.time_us - (event.duration_us or 0)
        case TransitionEvent() | ErrorEvent():
            return event.time_us
        case _:
            assert_never(event)


def _open(row: InFlight, first: float) -> TimelineRow:
    one = row.operation
    is_open = row.state == "open"
    return TimelineRow(
        at_us=0,
        kind=one.kind,
        what=_name(one.model or one.name),
        agent=one.agent,
        input="",
        output="",
        took=duration(row.open_ms * US_PER_MS),
        ended="still open" if is_open else f"its process was last seen {duration(row.seen_ms * US_PER_MS)} ago",
        tone="bad" if row.open_ms > STUCK_MS else "warn",
        first=first,
        last=1.0,
        colour="bad",
    )


def _row(event: Event, first: float, last: float) -> TimelineRow:
    kind, what, took, ended, tone, colour = _said(event)
    agent = "" if isinstance(event, TransitionEvent) or event.agent == what else event.agent
    used, made = _tokens(event)
    return TimelineRow(event.time_us, kind, what, agent, used, made, took, ended, tone, first, last, colour)


def _tokens(event: Event) -> tuple[str, str]:
    if not isinstance(event, UsageEvent) or not (event.input_tokens or event.output_tokens):
        return "", ""
    return amount(event.input_tokens), amount(event.output_tokens)


def _said(event: Event) -> tuple[str, str, str, str, str, str]:
    match event:
        case UsageEvent():
            more = f", attempt {event.attempt}" if event.attempt > 1 else ""
            ended, tone = _ended(event.status, event.error_type)
            return "request", _name(event.model or event.response_model) + more, _took(event), ended, tone, "c1"
        case OperationEvent():
            ended, tone = _ended(event.status, event.error_type)
            colour = {"run": "c3", "tool": "c6"}.get(event.kind, "c4")
            return event.kind, _name(event.name or event.agent), _took(event), ended, tone, colour
        case TransitionEvent():
            begun = _name(event.from_state) if event.from_state else "begins"
            what = f"{begun} \N{RIGHTWARDS ARROW} {_name(event.to_state)}"
            return "transition", what, "", f"visit {event.visit}" if event.visit > 1 else "", "", "c2"
        case ErrorEvent():
            said = f"{_name(event.type)}: {_name(event.message)}" if event.message else _name(event.type)
            return "error", said, "", "", "bad", "bad"
        case _:
            assert_never(event)


def _took(event: UsageEvent | OperationEvent) -> str:
    return duration(event.duration_us) if event.duration_us is not None else NOTHING


def _ended(status: str, error_type: str) -> tuple[str, str]:
    said = "failed" if status == "error" else status
    return (
        f"{said}: {_name(error_type)}" if error_type and status != _OK else said
    ), "bad" if status == "error" else ""


def _name(text: str) -> str:
    return harmless(text) or "(none)"
