"""Delivery: which frame to send next, decided from the fence's answers.

Keeps:
- Sequences of a (producer, partition) start at 0 and have no hole; a sealed frame is sent as it is until it is
  acknowledged, in order.
- A GAP means that the server lost events only when the oldest frame not acknowledged meets it; otherwise a frame
  before it was refused, and everything is sent again.
- A frame whose answer did not come is `unknown` until a later try is answered OK or DUP.
- No frame older than half the fence's memory is sent: the fence may have been forgotten, and a missing fence must
  prove a rollback.

A frame that the server can never take (overlap, arguments) is set aside and stays `unknown`: another one with our
identity may have stored its events, so neither "appended" nor "lost" would be honest. It takes a second producer
under one id, or a changed script, to get there.

Decides only: no I/O, no clock.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pipeline.errors import RefusedError, ScriptMissingError, SidestreamError, UnknownOutcomeError
from pipeline.presence import Acknowledged
from pipeline.stream import FENCE_TTL_MS, Appended, SealedFrame

MAX_OUTSTANDING_FRAMES: Final = 64
"""Frames sealed and not acknowledged: 2.4 MB at a usual 76 bytes an event, and never more than 64 MB."""

MAX_BATCH_BYTES: Final = 4 << 20
"""Sent in one write: well below the server's limits, and answered long before the socket's time-out."""

FRAME_AGE_S: Final = FENCE_TTL_MS / 2000
"""Half the fence's memory."""

Answer: TypeAlias = Appended | SidestreamError


@dataclass(slots=True, eq=False)
class Sending:
    """A frame on its way, and the events before it that the server is known to have lost."""

    frame: SealedFrame
    sealed_at_s: float
    ordinal: int
    lost: int = 0
    unknown: bool = False


@dataclass(slots=True)
class _Lane:
    """One partition: frames not acknowledged, oldest first."""

    next_seq: int = 0
    acknowledged: int = 0
    used_at_s: float = 0.0
    frames: deque[Sending] = field(default_factory=deque[Sending])


@dataclass(slots=True)
class Outcome:
    """What the answers to one batch change, in events; `trouble` is the first error among them."""

    appended: int = 0
    lost: int = 0
    trouble: SidestreamError | None = None
    set_aside: str = ""


class Delivery:
    """The frames of one producer id that are sealed and not yet acknowledged.

    Args:
        producer: The id.
        after: The number of the last frame of the id before this one; frames are numbered through.
    """

    def __init__(self, producer: str, after: int = 0) -> None:
        self.producer = producer
        self.need_text = False
        self._lanes: dict[int, _Lane] = {}
        self._ordinal = after
        self._abandoned = 0

    def seal(self, partition: int, count: int, codec: str, body: bytes, now_s: float) -> None:
        """Give a frame its sequences."""
        lane = self._lanes.setdefault(partition, _Lane())
        frame = SealedFrame(partition, self.producer, lane.next_seq, count, codec, body)
        lane.next_seq = frame.next_seq
        lane.used_at_s = now_s
        self._ordinal += 1
        lane.frames.append(Sending(frame, now_s, self._ordinal))

    def stale(self, now_s: float) -> bool:
        """Return whether a partition was silent for so long that its fence may soon be forgotten."""
        return any(now_s - lane.used_at_s > FRAME_AGE_S for lane in self._lanes.values())

    def room(self) -> int:
        """Return how many more frames may be sealed."""
        return max(0, MAX_OUTSTANDING_FRAMES - self.outstanding_frames())

    def outstanding_frames(self) -> int:
        """Return frames sealed and not acknowledged."""
        return sum(len(lane.frames) for lane in self._lanes.values())

    def in_flight(self) -> int:
        """Return events sealed, and known not to be appended yet."""
        return sum(s.frame.count for lane in self._lanes.values() for s in lane.frames if not s.unknown)

    def unknown(self) -> int:
        """Return events that may or may not be appended."""
        sent = sum(s.frame.count for lane in self._lanes.values() for s in lane.frames if s.unknown)
        return sent + self._abandoned

    def last_sealed(self) -> int:
        """Return the number of the frame sealed last, counted from 1."""
        return self._ordinal

    def acknowledged_to(self) -> int:
        """Return the number up to which every frame has been acknowledged or set aside."""
        waiting = [lane.frames[0].ordinal for lane in self._lanes.values() if lane.frames]
        return min(waiting) - 1 if waiting else self._ordinal

    def acknowledged(self) -> Mapping[int, Acknowledged]:
        """Return, by partition, what is known of its fence."""
        return {
            number: Acknowledged(lane.acknowledged, sum(s.frame.count for s in lane.frames if s.unknown))
            for number, lane in sorted(self._lanes.items())
        }

    def to_send(self) -> list[Sending]:
        """Return what to send in the next write: every frame not acknowledged, in order, oldest first."""
        chosen: list[Sending] = []
        size = 0
        for lane in self._lanes.values():
            for sending in lane.frames:
                size += len(sending.frame.body)
                if chosen and size > MAX_BATCH_BYTES:
                    return chosen
                chosen.append(sending)
        return chosen

    def failed(self, sent: Sequence[Sending], error: SidestreamError) -> Outcome:
        """Take note that a whole batch was not answered."""
        if isinstance(error, UnknownOutcomeError):
            for sending in sent:
                sending.unknown = True
        return Outcome(trouble=error)

    def answered(self, sent: Sequence[Sending], answers: Sequence[Answer]) -> Outcome:
        """Take note of the answers to a batch, one for each frame."""
        outcome = Outcome()
        self.need_text = any(isinstance(answer, ScriptMissingError) for answer in answers)
        for sending, answer in zip(sent, answers, strict=True):
            lane = self._lanes[sending.frame.partition]
            oldest = bool(lane.frames) and lane.frames[0] is sending
            match answer:
                case Appended(answer="OK" | "DUP"):
                    self._acknowledge(lane, sending, outcome)
                case Appended(answer="GAP", next_seq=next_seq):
                    sending.lost = sending.frame.first_seq - next_seq if oldest else 0
                case Appended():
                    self._set_aside(lane, sending, outcome, "its sequences overlap what is stored")
                case RefusedError(code="bad_frame"):
                    self._set_aside(lane, sending, outcome, str(answer))
                case _:
                    outcome.trouble = outcome.trouble or answer
        return outcome

    def _acknowledge(self, lane: _Lane, sending: Sending, outcome: Outcome) -> None:
        lane.frames.remove(sending)
        lane.acknowledged = sending.frame.next_seq
        outcome.appended += sending.frame.count
        outcome.lost += sending.lost

    def _set_aside(self, lane: _Lane, sending: Sending, outcome: Outcome, why: str) -> None:
        lane.frames.remove(sending)
        self._abandoned += sending.frame.count
        outcome.set_aside = why

    def expire(self, now_s: float) -> int:
        """Set frames aside that are too old to be sent; return their events."""
        gone = 0
        for lane in self._lanes.values():
            while lane.frames and now_s - lane.frames[0].sealed_at_s > FRAME_AGE_S:
                gone += lane.frames.popleft().frame.count
        self._abandoned += gone
        return gone
