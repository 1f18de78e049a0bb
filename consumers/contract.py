"""What the runtime and a handler or sink know of each other."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from consumers.letters import DeadLetter
from pipeline.events import Event
from pipeline.wire import Frame


class Slice(Struct, frozen=True):
    """The events `start` to `stop` (exclusive) of a frame: a batch may begin and end inside one."""

    frame: Frame
    start: int
    stop: int

    def events(self) -> Iterator[tuple[int, Event]]:
        """Iterate over (index, event), passing over what could not be decoded."""
        for index in range(self.start, self.stop):
            event = self.frame.events[index]
            if event is not None:
                yield index, event


class Sink(Protocol):
    """Has effects outside Redis; its cursor moves after the far side said yes."""

    name: str

    async def deliver(self, slices: Sequence[Slice]) -> Sequence[DeadLetter]:
        """Send a batch; return the events that the far side refused for good.

        Raises:
            TransientError: Nothing is known to have arrived; the same batch comes again.
            PermanentError: The far side refuses us, not these events (401, 403): the sink pauses.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
