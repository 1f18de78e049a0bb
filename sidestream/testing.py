"""For an application's own tests: what it reported, typed, without Redis, thread or environment.

    from sidestream.testing import capture

    def test_the_outline_is_paid_for():
        with capture() as captured:
            outline("tides")
        [request] = captured.usage
        assert request.agent == "outliner"

With pytest there is a fixture of the same kind, `sidestream_events`, which comes with the installed package; see
docs/testing.md.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar

import sidestream
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent, check_event
from producers.refusals import half_character
from producers.telemetry import Telemetry

E = TypeVar("E", bound=Event)


class InvalidEventsError(AssertionError):
    """Something was reported that would be refused as invalid in production."""


class Captured:
    """What was reported so far, oldest first, as it would be stored: strings cut, secrets of errors taken out.

    Args:
        telemetry: What holds it.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._passed_over = 0
        self._kept: tuple[list[Event], list[str]] | None = None

    @property
    def events(self) -> list[Event]:
        """Everything that is valid."""
        held = self._held()
        return [event for event in map(_stored, held) if not isinstance(event, str)]

    @property
    def usage(self) -> list[UsageEvent]:
        """Requests to models."""
        return self._of(UsageEvent)

    @property
    def operations(self) -> list[OperationEvent]:
        """Agents' runs, tools and steps, each when it ended."""
        return self._of(OperationEvent)

    @property
    def transitions(self) -> list[TransitionEvent]:
        """Changes of a session's state."""
        return self._of(TransitionEvent)

    @property
    def errors(self) -> list[ErrorEvent]:
        """Errors, each exception once."""
        return self._of(ErrorEvent)

    @property
    def invalid(self) -> list[str]:
        """What would be refused in production, and why; empty is good."""
        if self._kept is not None:
            return self._kept[1]
        refused = self._telemetry.refusals()
        return [*refused, *(event for event in map(_stored, self._held()) if isinstance(event, str))]

    def clear(self) -> None:
        """Pass over what was reported so far."""
        self._passed_over = len(self._telemetry.held())

    def keep(self) -> None:
        """Take a copy: what was captured may be looked at after the telemetry has been released."""
        self._kept = self._held(), self.invalid

    def _held(self) -> list[Event]:
        return self._telemetry.held()[self._passed_over :] if self._kept is None else self._kept[0]

    def _of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def _stored(event: Event) -> Event | str:
    """Return an event as the wire hands it on, or why it cannot be stored."""
    try:
        stored = check_event(event)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return f"{type(event).__name__}: {error}"
    unwritable = half_character(stored)
    return f"{type(event).__name__}: {unwritable}" if unwritable else stored


@contextmanager
def capture(*, allow_invalid: bool = False) -> Generator[Captured]:
    """Hold what is reported inside the block instead of publishing it.

    `configure` does nothing meanwhile, and `flush` and `close` say yes: an application can be started as it is. What
    was configured before is closed, and telemetry is switched off afterwards. It is one for the process, so blocks do
    not nest.

    Args:
        allow_invalid: Do not mind what would be refused in production.

    Raises:
        InvalidEventsError: At the end of a block that raised nothing itself: something would be refused in production.
        RuntimeError: A block is open already.
    """
    __tracebackhide__ = True  # pytest shows what is wrong, not where we say so
    telemetry = sidestream.default_telemetry()
    if telemetry.holding:
        raise RuntimeError("what is reported is being captured already; capture blocks do not nest")
    telemetry.hold()
    captured = Captured(telemetry)
    try:
        yield captured
        if captured.invalid and not allow_invalid:
            raise InvalidEventsError("telemetry would refuse this in production:\n  " + "\n  ".join(captured.invalid))
    finally:
        captured.keep()
        telemetry.release()


__all__ = ["Captured", "InvalidEventsError", "capture"]
