"""A telemetry that keeps what it is given."""

from dataclasses import dataclass, field
from typing import TypeVar

from msgspec.structs import replace

from pipeline.events import ErrorEvent, Event, OperationEvent, UsageEvent, check_event
from pipeline.redact import redact
from producers.inflight import OpenOperations

E = TypeVar("E", bound=Event)


@dataclass
class Collected:
    """A telemetry that keeps what it is given, as the wire would hand it on."""

    events: list[Event] = field(default_factory=list[Event])
    open_operations: OpenOperations = field(default_factory=OpenOperations)
    enabled: bool = True

    def emit(self, event: Event) -> bool:
        """Keep `event`."""
        if isinstance(event, ErrorEvent):
            event = replace(event, message=redact(event.message))
        self.events.append(check_event(event))
        return True

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def requests(self) -> list[UsageEvent]:
        """The requests, in order."""
        return self.of(UsageEvent)

    @property
    def errors(self) -> list[ErrorEvent]:
        """The errors, in order."""
        return self.of(ErrorEvent)

    @property
    def runs(self) -> list[OperationEvent]:
        """The runs, in order of their ends."""
        return [event for event in self.of(OperationEvent) if event.kind == "run"]

    @property
    def tools(self) -> list[OperationEvent]:
        """The tool calls, in order of their ends."""
        return [event for event in self.of(OperationEvent) if event.kind == "tool"]
