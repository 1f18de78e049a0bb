"""Which events `sidestream tail` shows: its filters, in words too. Pure.

Keeps: one filter's values are alternatives, and different filters all have to hold.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pipeline.errors import SettingsError
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.units import US_PER_MS, US_PER_S, parse_duration_s
from pipeline.wire import Frame
from producers.pseudonyms import Pseudonyms
from sidestream.wording.human import harmless

Test: TypeAlias = Callable[[Event, Frame], bool]

_OPERATIONS: Final = ("run", "tool", "step")

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "request": ("request",),
    **{kind: (kind,) for kind in _OPERATIONS},
    "transition": ("transition",),
    "error": ("error",),
    "usage": ("request",),
    "operation": _OPERATIONS,
    "state": ("transition",),
}
"""What `--event` takes: the words of a line, and those of the wire; each with the kinds that it stands for."""

_LONGEST_SAID: Final = 40
_MILLISECONDS: Final = re.compile(r"([0-9]{1,9})ms", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are shown.

    Args:
        tests: What must all hold.
        said: The filters in words; empty where everything is shown.
    """

    tests: Sequence[Test] = ()
    said: str = ""

    def fits(self, event: Event, frame: Frame) -> bool:
        """Say whether an event is shown."""
        for test in self.tests:  # noqa: SIM110 - of a hundred thousand events a generator each is half a second
            if not test(event, frame):
                return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The filters as they were typed; nothing given matches everything."""

    kinds: Sequence[str] = ()
    agents: Sequence[str] = ()
    models: Sequence[str] = ()
    sessions: Sequence[str] = ()
    states: Sequence[str] = ()
    runs: Sequence[str] = ()
    users: Sequence[str] = ()
    tenants: Sequence[str] = ()
    services: Sequence[str] = ()
    environments: Sequence[str] = ()
    errors: bool = False
    slow: str | None = None

    def wanted(self, user_key: str | None = None) -> Wanted:
        """Return which events fit.

        Args:
            user_key: The secret of users' pseudonyms, where this command has it: then an id is found by them as well.

        Raises:
            SettingsError: A kind of event, or a duration, is none.
        """
        tests = [*self._kind_tests(), *self._name_tests(user_key), *self._frame_tests()]
        return Wanted(tests, "; ".join(self._said()))

    def _kind_tests(self) -> Iterable[Test]:
        for kind in self.kinds:
            if kind not in KINDS:
                raise SettingsError(f"--event: {kind!r} is none of {', '.join(KINDS)}")
        if self.kinds:
            kinds = frozenset(one for kind in self.kinds for one in KINDS[kind])
            yield lambda event, _: kind_of(event) in kinds
        if self.errors:
            yield lambda event, _: isinstance(event, ErrorEvent) or getattr(event, "status", "") == "error"
        if self.slow is not None:
            least_us, transitions = _slow_us(self.slow), bool(self.kinds)
            yield lambda event, _: _took_us(event, transitions=transitions) >= least_us

    def _name_tests(self, user_key: str | None) -> Iterable[Test]:
        if agents := frozenset(self.agents):
            yield lambda event, _: getattr(event, "agent", None) in agents
        if models := frozenset(self.models):
            yield lambda event, _: model_of(event) in models
        if sessions := frozenset(self.sessions):
            yield lambda event, _: event.session in sessions
        if states := frozenset(self.states):
            yield lambda event, _: not states.isdisjoint(_states_of(event))
        if runs := frozenset(self.runs):
            yield lambda event, _: event.run_id in runs or getattr(event, "operation_id", None) in runs
        if users := _known_as(self.users, user_key):
            yield lambda event, _: event.user in users
        if tenants := frozenset(self.tenants):
            yield lambda event, _: event.tenant in tenants

    def _frame_tests(self) -> Iterable[Test]:
        if services := frozenset(self.services):
            yield lambda _, frame: frame.resource.service in services
        if environments := frozenset(self.environments):
            yield lambda _, frame: frame.resource.environment in environments

    def _said(self) -> Iterable[str]:
        named = {
            "event": self.kinds,
            "agent": self.agents,
            "model": self.models,
            "session": self.sessions,
            "state": self.states,
            "run": self.runs,
            "user": self.users,
            "tenant": self.tenants,
            "service": self.services,
            "environment": self.environments,
        }
        for name, values in named.items():
            if values:
                yield f"{name} {' or '.join(_said(value) for value in values)}"
        if self.errors:
            yield "errors and what failed"
        if self.slow is not None:
            yield f"{self.slow} or longer"


def kind_of(event: Event) -> str:
    """Return an event's kind as people say it: request, run, tool, step, transition or error."""
    match event:
        case UsageEvent():
            return "request"
        case OperationEvent():
            return event.kind
        case TransitionEvent():
            return "transition"
        case ErrorEvent():
            return "error"


def model_of(event: Event) -> str | None:
    """Return the model that was asked for, else the one that answered; None of an event that has none."""
    return event.model or event.response_model if isinstance(event, UsageEvent) else getattr(event, "model", None)


def _states_of(event: Event) -> tuple[str, ...]:
    if isinstance(event, TransitionEvent):
        return event.from_state, event.to_state
    return (event.state,)


def _known_as(users: Sequence[str], key: str | None) -> frozenset[str]:
    """Return ids as events may have them: as they are, and as pseudonyms where the key is here."""
    pseudonyms = Pseudonyms(key) if key else None
    return frozenset(users) | {pseudonyms.of(user) for user in users if pseudonyms is not None}


def _took_us(event: Event, *, transitions: bool) -> int:
    """Return how long it took, -1 where that is unknown; a stay in a state is nothing that takes long by itself."""
    if isinstance(event, TransitionEvent) and not transitions:
        return -1
    took_us = getattr(event, "duration_us", None)
    return -1 if took_us is None else took_us


def _slow_us(text: str) -> int:
    if found := _MILLISECONDS.fullmatch(text):
        return int(found[1]) * US_PER_MS
    try:
        return parse_duration_s(text) * US_PER_S
    except ValueError as error:
        raise SettingsError(f"--slow: {error}, or 500ms") from None


def _said(value: str) -> str:
    if not value:
        return "(none)"
    clean = harmless(value)
    return clean if len(clean) <= _LONGEST_SAID else f"{clean[: _LONGEST_SAID - 1]}…"
