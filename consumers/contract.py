"""What the runtime and a handler or sink know of each other."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from pipeline.events import Event
from pipeline.wire import Frame

WHOLE_ENTRY = -1
"""The index of a dead letter that stands for all events of its entry."""

MAX_RAW_BYTES = 16_384
"""Bytes of a bad event that a dead letter keeps."""


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


class DeadLetter(Struct, frozen=True):
    """An event, or with index -1 a whole entry, that a handler could not take, and why.

    `events` is what it stands for in the accounting; `code` is one word, `reason` a sentence for a person.
    """

    entry_id: str
    index: int
    events: int
    code: str
    reason: str
    raw: bytes = b""


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
