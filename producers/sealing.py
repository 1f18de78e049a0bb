"""Sealing: from events that were accepted to frames that never change.

Keeps:
- What is encoded decodes with the strict decoder that every worker uses first: no event can poison a frame.
- An event that cannot be stored is given back with the reason before any sequence is given, so that sequences have no
  hole.
- A piece holds at most `PIECE_EVENTS`, and `PIECE_BYTES` unless a single event is larger.
"""

from dataclasses import dataclass, field
from typing import Final

from pipeline import limits
from pipeline.events import Event, Origin, Resource, check_event
from pipeline.wire import Codec, FrameEncoder
from producers.accumulator import OpenFrame, Piece
from producers.buffer import KINDS
from producers.refusals import half_character

PIECE_EVENTS: Final = limits.MAX_FRAME_EVENTS // 2
"""Two fill a frame: a backlog leaves in frames that are quite full."""

PIECE_BYTES: Final = limits.TARGET_EXPANDED_BYTES // 4

_UNWRITABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What msgspec raises for a value that is no field's; UnicodeEncodeError and ValidationError are ValueErrors."""


@dataclass(slots=True)
class Encoded:
    """What became of some events: pieces in order, and of what was no event its kind, the reason in a word, in full."""

    pieces: list[Piece] = field(default_factory=list[Piece])
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

    @property
    def codec(self) -> Codec:
        """How bodies are written."""
        return self._encoder.codec

    def seal(self, frame: OpenFrame) -> bytes:
        """Return the body of a frame that is full enough."""
        return self._encoder.join(frame.pieces, frame.count)

    def encode(self, events: list[Event]) -> Encoded:
        """Encode events of one partition, and prove that they decode."""
        encoded = Encoded()
        for start in range(0, len(events), PIECE_EVENTS):
            self._encode(events[start : start + PIECE_EVENTS], encoded, checked=False)
        return encoded

    def _encode(self, events: list[Event], encoded: Encoded, *, checked: bool) -> None:
        if not events:
            return
        try:
            # Proven before it is compressed: what zstd does with bytes does not depend on what they say.
            data = self._encoder.encode_piece(events)
            self._encoder.check_piece(data, len(events))
        except _UNWRITABLE as error:
            if checked:
                self._halve(events, encoded, "unstorable", half_character(events[0]) or str(error))
            else:
                self._encode(_checked(events, encoded), encoded, checked=True)
            return
        if len(data) > (PIECE_BYTES if len(events) > 1 else limits.TARGET_EXPANDED_BYTES):
            self._halve(events, encoded, "too_large", "the event alone is larger than a frame may be")
        else:
            encoded.pieces.append(Piece(len(events), data))

    def _halve(self, events: list[Event], encoded: Encoded, reason: str, why: str) -> None:
        """Encode each half by itself; of one event that is left alone, say why it cannot be stored."""
        if len(events) == 1:
            encoded.invalid.append((KINDS[type(events[0])], reason, why))
            return
        middle = len(events) // 2
        self._encode(events[:middle], encoded, checked=True)
        self._encode(events[middle:], encoded, checked=True)


def _checked(events: list[Event], encoded: Encoded) -> list[Event]:
    good: list[Event] = []
    for event in events:
        try:
            good.append(check_event(event))
        except _UNWRITABLE as error:
            encoded.invalid.append((KINDS[type(event)], "arguments", str(error)))
    return good
