"""Sealing: from events that were accepted to frames that never change.

Keeps:
- What is sealed decodes with the strict decoder that every worker uses first: no event can poison a frame.
- An event that cannot be stored is given back with the reason before any sequence is given, so that sequences have no
  hole.
- A frame holds at most the target of expanded bytes, unless a single event is larger.
"""

from dataclasses import dataclass, field
from typing import Final

import msgspec
import zstandard

from pipeline import limits
from pipeline.events import Event, Origin, Resource, check_event
from pipeline.wire import Body, Codec, FrameEncoder
from producers.buffer import KINDS

_UNWRITABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What msgspec raises for a value that is no field's; UnicodeEncodeError and ValidationError are ValueErrors."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The body of one frame, its sequence not yet given."""

    count: int
    body: bytes


@dataclass(slots=True)
class Sealed:
    """What became of a batch: bodies in order, and of what was no event its kind, the reason in a word, and in full."""

    bodies: list[Encoded] = field(default_factory=list[Encoded])
    invalid: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])


class Sealer:
    """Encodes and proves; one a thread, for its compressor must not be shared.

    Args:
        resource: Who speaks.
        codec: How bodies are written.
        origin: `spooled` for frames that are sealed while Redis is away: their bytes never change afterwards.
    """

    def __init__(self, resource: Resource, codec: Codec, origin: Origin = "live") -> None:
        self._encoder = FrameEncoder(resource, origin=origin, codec=codec)
        self._zstd = zstandard.ZstdDecompressor()
        self._msgpack = msgspec.msgpack.Decoder(Body)
        self._json = msgspec.json.Decoder(Body)

    @property
    def codec(self) -> Codec:
        """How bodies are written."""
        return self._encoder.codec

    def seal(self, events: list[Event]) -> Sealed:
        """Encode the events of one batch."""
        sealed = Sealed()
        self._seal(events, sealed, checked=False)
        return sealed

    def _seal(self, events: list[Event], sealed: Sealed, *, checked: bool) -> None:
        if not events:
            return
        try:
            body, size = self._proven(events)
        except _UNWRITABLE:
            if checked:
                self._halve(events, sealed, "unstorable")
            else:
                self._seal(_checked(events, sealed), sealed, checked=True)
            return
        too_large = size > limits.MAX_EXPANDED_BYTES or len(body) > limits.MAX_BODY_BYTES
        if too_large or (size > limits.TARGET_EXPANDED_BYTES and len(events) > 1):
            self._halve(events, sealed, "too_large")
        else:
            sealed.bodies.append(Encoded(len(events), body))

    def _halve(self, events: list[Event], sealed: Sealed, reason: str) -> None:
        if len(events) == 1:
            sealed.invalid.append((KINDS[type(events[0])], reason, "the event alone is larger than a frame may be"))
            return
        middle = len(events) // 2
        self._seal(events[:middle], sealed, checked=True)
        self._seal(events[middle:], sealed, checked=True)

    def _proven(self, events: list[Event]) -> tuple[bytes, int]:
        """Return a body and its expanded size, after reading it back."""
        body = self._encoder.encode(events)
        if self.codec == "json":
            self._json.decode(body)
            return body, len(body)
        plain = self._zstd.decompress(body)
        self._msgpack.decode(plain)
        return body, len(plain)


def _checked(events: list[Event], sealed: Sealed) -> list[Event]:
    good: list[Event] = []
    for event in events:
        try:
            good.append(check_event(event))
        except _UNWRITABLE as error:
            sealed.invalid.append((KINDS[type(event)], "arguments", str(error)))
    return good
