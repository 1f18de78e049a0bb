"""Intake: from the buffer to frames that are ready to be sealed, a little at a time.

Keeps:
- Every event taken from the buffer counts as buffered until it is sealed or found invalid: places change under the
  publisher's lock, which is never held while events are encoded or compressed.
- What is done at one stretch under the interpreter's lock is short unless there is a backlog: `LOOK_EVENTS` events are
  encoded in about 0.1 ms, and a breath follows.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline import limits
from pipeline.events import Event, Origin
from producers.accumulator import LOOK_EVENTS, Accumulator, OpenFrame, Router
from producers.buffer import KINDS, Buffer
from producers.pseudonyms import Pseudonyms
from producers.sealing import Encoded, Sealer
from producers.settings import PublishSettings
from producers.word import Agents

LOG: Final = logging.getLogger("sidestream")

BACKLOG_EVENTS: Final = 4_000
"""From so many events on, keeping up comes before short stretches: they are more than a slow answer lets gather."""

MOST_AT_ONCE: Final = 8 * limits.MAX_FRAME_EVENTS

BREATH_S: Final = 0.0002
"""Between two stretches of work, so that an event loop that waits for the interpreter's lock gets it."""


@dataclass(frozen=True, slots=True)
class ReadyFrame:
    """A frame that has all but its sequences."""

    partition: int
    count: int
    body: bytes
    open: OpenFrame


class Intake:
    """Takes events in, and gives frames out.

    Args:
        settings: How to publish.
        buffer: Its one reader is this.
        lock: The publisher's: held while events change their place.
    """

    def __init__(self, settings: PublishSettings, buffer: Buffer, lock: threading.Condition) -> None:
        self.taken = 0
        """Events taken from the buffer since the beginning."""
        self.agents = Agents()
        self._buffer = buffer
        self._lock = lock
        self._router = Router()
        self._accumulator = Accumulator(settings.linger_ms / 1000)
        self._pseudonyms = Pseudonyms(settings.user_key) if settings.user_key else None
        self._sealers: dict[Origin, Sealer] = {
            origin: Sealer(settings.resource, settings.codec, origin) for origin in ("live", "spooled")
        }

    def has_sealed(self, target: int) -> bool:
        """Return whether the first `target` events taken from the buffer are all sealed, or were found invalid."""
        return self.taken >= target and self._buffer.elsewhere == 0

    def rest_s(self, now_s: float, *, hurry: bool) -> float | None:
        """Return seconds until there is something to encode or to seal, None when only an event can be next."""
        waiting = len(self._buffer.incoming)
        due_s = self._accumulator.due_in_s(now_s)
        if due_s is None and not waiting:
            return None
        if hurry or waiting > BACKLOG_EVENTS:
            return 0.0
        if waiting >= LOOK_EVENTS or due_s is None:
            return BREATH_S
        return max(BREATH_S, min(due_s, self._accumulator.look_in_s()))

    def take(  # noqa: PLR0913 - what a turn is about
        self, partitions: int, producer: str, now_s: float, *, most: int, origin: Origin, hurry: bool
    ) -> list[ReadyFrame]:
        """Encode what waits, and return the frames that are full or have waited for long enough; see `sealed`.

        Args:
            partitions: How many there are.
            producer: The id that events without session and run are routed by.
            now_s: A monotonic clock.
            most: Frames wanted; the others stay.
            origin: What the frames say of themselves.
            hurry: Do not wait for more events; who waits in `flush` waits for those before, not for those after.
        """
        if not (hurry and self._accumulator.events):
            self._encode_waiting(partitions, producer, now_s)
        sealer = self._sealers[origin]
        taken = self._accumulator.take(now_s, most, hurry=hurry)
        return [ReadyFrame(frame.partition, frame.count, sealer.seal(frame), frame) for frame in taken]

    def sealed(self, frames: Sequence[ReadyFrame]) -> None:
        """Take note that frames have got their sequences; called under the lock."""
        for frame in frames:
            self._accumulator.sealed(frame.open)
        self._buffer.held_elsewhere(self._accumulator.events)

    def _encode_waiting(self, partitions: int, producer: str, now_s: float) -> None:
        """Encode what waits, at most a few frames, in short stretches with a breath between unless it is a backlog."""
        for _ in range(MOST_AT_ONCE // LOOK_EVENTS):
            waiting = len(self._buffer.incoming)
            backlog = waiting > BACKLOG_EVENTS
            self._encode(partitions, producer, now_s, MOST_AT_ONCE if backlog else LOOK_EVENTS)
            if backlog or waiting < 2 * LOOK_EVENTS:
                return
            time.sleep(BREATH_S)

    def _encode(self, partitions: int, producer: str, now_s: float, most: int) -> None:
        buffer, accumulator = self._buffer, self._accumulator
        with self._lock:
            events = buffer.take(most)
            self.taken += len(events)
            buffer.held_elsewhere(accumulator.events + len(events))
        accumulator.arrived(len(events), now_s)
        self.agents.see(events)
        if self._pseudonyms is not None:
            events = self._pseudonyms.replaced(events)
        parts = self._router.split(events, partitions, producer)
        encoded = [(partition, self._encoded(some)) for partition, some in parts.items()]
        with self._lock:
            for partition, part in encoded:
                for kind, reason, why in part.invalid:
                    buffer.ledger.invalid(kind, reason, why=why)
                for piece in part.pieces:
                    accumulator.add(partition, piece, now_s)
            buffer.held_elsewhere(accumulator.events)

    def _encoded(self, events: list[Event]) -> Encoded:
        try:
            return self._sealers["live"].encode(events)
        except Exception:
            # A fault of ours: without this the events would be nowhere in the account.
            LOG.exception("events could not be encoded; they are counted invalid")
            return Encoded(invalid=[(KINDS[type(event)], "fault", "see the log") for event in events])
