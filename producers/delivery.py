"""Delivery: which frame to send next, decided from the fence's answers.

Keeps:
- Sequences of a (producer, partition) start at 0 and have no hole; a sealed frame is sent as it is until it is
  acknowledged, in order.
- A GAP means that the server lost events only when the oldest frame not acknowledged meets it; otherwise a frame
  before it was refused, and everything is sent again.
- A frame whose answer did not come is `unknown` until a later try is answered OK or DUP.
- No frame older than half the fence's memory is sent: the fence may have been forgotten, and a missing fence must
  prove a rollback.
- Frames leave memory for the spool newest first and come back oldest first: what is sent is always the oldest.

A frame that the server can never take (overlap, arguments) is set aside and stays `unknown`: another one with our
identity may have stored its events, so neither "appended" nor "lost" would be honest. It takes a second producer
under one id, or a changed script, to get there.

Where there is a spool, the sealed frames are three runs, by ordinal: the window (in memory, on its way; it may be in
the file too), then the parked (in the file alone), then those behind (in memory alone, until the file takes them).

Decides only: no I/O, no clock.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pipeline.errors import (
    NotReplicatedError,
    RefusedError,
    ScriptMissingError,
    SidestreamError,
    UnknownOutcomeError,
)
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
    stored: bool = False
    """Whether the spool's file has it."""


@dataclass(slots=True)
class _Parked:
    """Frames that the spool alone holds: the ordinals `first` to `last`."""

    first: int
    last: int
    frames: int = 0
    events: int = 0


@dataclass(slots=True)
class _Lane:
    """One partition: frames not acknowledged, oldest first."""

    next_seq: int = 0
    acknowledged: int = 0
    touched_at_s: float = 0.0
    """When the fence was last known to be touched; at first, when the first frame was sealed."""
    frames: deque[Sending] = field(default_factory=deque[Sending])


@dataclass(slots=True)
class Outcome:
    """What the answers to one batch change, in events; `trouble` is the first error among them."""

    appended: int = 0
    lost: int = 0
    trouble: SidestreamError | None = None
    set_aside: str = ""
    refused: list[Sending] = field(default_factory=list[Sending])


class Delivery:
    """The frames of one producer id that are sealed and not yet acknowledged.

    Args:
        producer: The id.
        after: The number of the last frame of the id before this one; frames are numbered through.
        age_s: How old a frame may be and still be sent.
    """

    def __init__(self, producer: str, after: int = 0, age_s: float = FRAME_AGE_S) -> None:
        self.producer = producer
        self.need_text = False
        self._age_s = age_s
        self._parked: _Parked | None = None
        self._behind: deque[Sending] = deque()
        self._lanes: dict[int, _Lane] = {}
        self._ordinal = after
        self._abandoned = 0

    def seal(self, partition: int, count: int, codec: str, body: bytes, now_s: float) -> None:
        """Give a frame its sequences."""
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane(touched_at_s=now_s)
        frame = SealedFrame(partition, self.producer, lane.next_seq, count, codec, body)
        lane.next_seq = frame.next_seq
        self._ordinal += 1
        sending = Sending(frame, now_s, self._ordinal)
        if self._parked is not None or self._behind or self._in_window() >= MAX_OUTSTANDING_FRAMES:
            self._behind.append(sending)
        else:
            lane.frames.append(sending)

    def stale(self, now_s: float) -> bool:
        """Return whether a partition's fence was left alone for so long that it may soon be forgotten.

        Appending alone touches the fence: frames that are sealed and kept do not.
        """
        return any(now_s - lane.touched_at_s > FRAME_AGE_S for lane in self._lanes.values())

    def room(self) -> int:
        """Return how many more frames may be sealed and kept in memory."""
        return max(0, MAX_OUTSTANDING_FRAMES - self._in_window() - len(self._behind))

    def _in_window(self) -> int:
        return sum(len(lane.frames) for lane in self._lanes.values())

    def _in_memory(self) -> list[Sending]:
        window = [sending for lane in self._lanes.values() for sending in lane.frames]
        return [*window, *self._behind]

    def outstanding_frames(self) -> int:
        """Return frames sealed and not acknowledged."""
        parked = self._parked.frames if self._parked is not None else 0
        return self._in_window() + parked + len(self._behind)

    def in_flight(self) -> int:
        """Return events sealed, in memory alone, and known not to be appended yet."""
        return sum(s.frame.count for s in self._in_memory() if not s.unknown and not s.stored)

    def spooled(self) -> int:
        """Return events that are in the spool's file, and known not to be appended yet."""
        parked = self._parked.events if self._parked is not None else 0
        return parked + sum(s.frame.count for s in self._in_memory() if s.stored and not s.unknown)

    def unknown(self) -> int:
        """Return events that may or may not be appended."""
        return sum(s.frame.count for s in self._in_memory() if s.unknown) + self._abandoned

    def last_sealed(self) -> int:
        """Return the number of the frame sealed last, counted from 1."""
        return self._ordinal

    def acknowledged_to(self) -> int:
        """Return the number up to which every frame has been acknowledged or set aside."""
        waiting = [lane.frames[0].ordinal for lane in self._lanes.values() if lane.frames]
        if self._parked is not None:
            waiting.append(self._parked.first)
        if self._behind:
            waiting.append(self._behind[0].ordinal)
        return min(waiting) - 1 if waiting else self._ordinal

    def safe_to(self) -> int:
        """Return the number up to which every frame is acknowledged, set aside, or in the spool's file."""
        unsafe = self.unstored()
        return unsafe[0].ordinal - 1 if unsafe else self._ordinal

    def acknowledged(self) -> Mapping[int, Acknowledged]:
        """Return, by partition, what is known of its fence."""
        return {
            number: Acknowledged(lane.acknowledged, sum(s.frame.count for s in lane.frames if s.unknown))
            for number, lane in sorted(self._lanes.items())
        }

    def to_send(self, most: int = MAX_OUTSTANDING_FRAMES) -> list[Sending]:
        """Return what to send in the next write: frames not acknowledged, in order, oldest first, at most `most`."""
        chosen: list[Sending] = []
        size = 0
        for lane in self._lanes.values():
            for sending in lane.frames:
                size += len(sending.frame.body)
                if len(chosen) == most or (chosen and size > MAX_BATCH_BYTES):
                    return chosen
                chosen.append(sending)
        return chosen

    def failed(self, sent: Sequence[Sending], error: SidestreamError) -> Outcome:
        """Take note that a whole batch was not answered."""
        if isinstance(error, UnknownOutcomeError):
            for sending in sent:
                sending.unknown = True
        return Outcome(trouble=error)

    def answered(self, sent: Sequence[Sending], answers: Sequence[Answer], now_s: float = 0.0) -> Outcome:
        """Take note of the answers to a batch, one for each frame."""
        outcome = Outcome()
        self.need_text = any(isinstance(answer, ScriptMissingError) for answer in answers)
        for sending, answer in zip(sent, answers, strict=True):
            lane = self._lanes[sending.frame.partition]
            oldest = bool(lane.frames) and lane.frames[0] is sending
            match answer:
                case Appended(answer="OK" | "DUP"):
                    self._acknowledge(lane, sending, outcome)
                    lane.touched_at_s = max(lane.touched_at_s, now_s)
                case Appended(answer="GAP", next_seq=next_seq):
                    sending.lost = sending.frame.first_seq - next_seq if oldest else 0
                case Appended():
                    self._set_aside(lane, sending, outcome, "its sequences overlap what is stored")
                case NotReplicatedError():
                    # Stored, and it may be lost with the primary: not what "acknowledged" promises here.
                    sending.unknown = True
                    outcome.trouble = outcome.trouble or answer
                case RefusedError(code="bad_frame"):
                    self._set_aside(lane, sending, outcome, str(answer))
                case _:
                    outcome.trouble = outcome.trouble or answer
        self._move_up()
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
        outcome.refused.append(sending)

    def expire(self, now_s: float) -> list[Sending]:
        """Set frames aside that are too old to be sent, and return them; those parked are looked at as they return."""
        gone: list[Sending] = []
        for lane in self._lanes.values():
            while lane.frames and now_s - lane.frames[0].sealed_at_s > self._age_s:
                gone.append(lane.frames.popleft())
        self._abandoned += sum(sending.frame.count for sending in gone)
        self._move_up()
        return gone

    # The spool

    def unstored(self) -> list[Sending]:
        """Return the frames that the spool's file has not got, oldest first."""
        return sorted((s for s in self._in_memory() if not s.stored), key=lambda sending: sending.ordinal)

    def stored(self, sendings: Sequence[Sending]) -> None:
        """Take note that the file has these, the oldest of `unstored`; those behind the window leave memory."""
        for sending in sendings:
            sending.stored = True
        while self._behind and self._behind[0].stored:
            self._park(self._behind.popleft())

    def _park(self, sending: Sending) -> None:
        if self._parked is None:
            self._parked = _Parked(sending.ordinal, sending.ordinal)
        self._parked.last = sending.ordinal
        self._parked.frames += 1
        self._parked.events += sending.frame.count

    def inherit(self, first: int, last: int, frames: int, events: int) -> None:
        """Take over the frames of a file that another process left, as if they had been parked here."""
        self._ordinal = last
        self._parked = _Parked(first, last, frames, events) if frames else None

    def wanted(self) -> tuple[int, int] | None:
        """Return the ordinal to read the file from and how many frames, None while the window has enough."""
        room = MAX_OUTSTANDING_FRAMES - self._in_window()
        if self._parked is None or room < MAX_OUTSTANDING_FRAMES // 2:
            return None
        return self._parked.first, room

    def admit(self, sendings: Sequence[Sending]) -> int:
        """Take parked frames back, the next in order; return the events of those that the file should have had.

        None at all means that the file has no more.
        """
        parked = self._parked
        if parked is None:
            return 0
        for sending in sendings:
            lane = self._lanes.setdefault(sending.frame.partition, _Lane())
            lane.next_seq = max(lane.next_seq, sending.frame.next_seq)
            lane.frames.append(sending)
            parked.frames -= 1
            parked.events -= sending.frame.count
            parked.first = sending.ordinal + 1
        if sendings and parked.first <= parked.last:
            return 0
        self._parked = None
        missing = max(0, parked.events)
        self._abandoned += missing
        self._move_up()
        return missing

    def _move_up(self) -> None:
        """Let those behind into the window, where nothing parked stands before them."""
        while self._parked is None and self._behind and self._in_window() < MAX_OUTSTANDING_FRAMES:
            sending = self._behind.popleft()
            self._lanes[sending.frame.partition].frames.append(sending)

    def stored_totals(self) -> tuple[int, int, float]:
        """Return frames and events that the file has and that are not acknowledged, and when the oldest was sealed."""
        held = [s for s in self._in_memory() if s.stored]
        parked = self._parked or _Parked(0, 0)
        oldest_s = min((s.sealed_at_s for s in held), default=0.0)
        return parked.frames + len(held), parked.events + sum(s.frame.count for s in held), oldest_s

    def forget_stored(self) -> None:
        """Take note that the spool's file can no longer be relied on: what memory holds, memory alone holds."""
        for sending in self._in_memory():
            sending.stored = False
