"""Shipping: one step of the publisher: connect, take in, seal, send, say that one is there.

Everything here runs on the publisher's thread. `Intake` encodes, `Delivery` and `Breaker` decide; this does the I/O,
and translates every trouble into a pause and one line in the log.

Keeps:
- Nothing is routed before the namespace's number of partitions is known, so nothing is ever routed twice.
- The publisher's lock is held while events change their place, never while they are encoded or compressed, Redis is
  waited for, or the disk is written to.
- With a spool, a frame is in its file before it is sent, and while Redis is away events are sealed into it.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline import limits
from pipeline.errors import RefusedError, SidestreamError, UnknownOutcomeError, UnreachableError
from pipeline.events import Origin
from pipeline.keys import Keys
from pipeline.log import say
from pipeline.presence import OpenOperation
from pipeline.retry import Breaker
from producers.appending import append_frames
from producers.buffer import Buffer
from producers.delivery import FRAME_AGE_S, MAX_OUTSTANDING_FRAMES, Delivery, Outcome
from producers.intake import Intake
from producers.ledger import Counts
from producers.link import Connector, Link
from producers.settings import PublishSettings
from producers.word import PRESENCE_EVERY_S, Word, without_buffered

if TYPE_CHECKING:
    from producers.spool import Spool, SpoolSettings
    from producers.spool_recovery import Recovery

LOG: Final = logging.getLogger("sidestream")

SEAL_AT_ONCE: Final = 16
"""Frames compressed between two looks at who waits."""

PROBE_FRAMES: Final = 1
"""What is sent to a server that has failed again and again, to find out whether it is back."""

SETTLE_TRIES: Final = 20
REFUSED_PAUSE_S: Final = 5.0
"""No try sooner can help: a person has to change something."""

HURRIED_PAUSE_S: Final = 0.1
"""Between tries while someone waits in `flush` or `close`."""


class Shipper:
    """The publisher's hands: `step` does what is due and returns how long nothing will be."""

    def __init__(
        self,
        settings: PublishSettings,
        find_url: Callable[[], str | None],
        buffer: Buffer,
        lock: threading.Condition,
        open_operations: Callable[[int], Sequence[OpenOperation]],
    ) -> None:
        self.intake = Intake(settings, buffer, lock)
        self.set_aside = 0
        """Events that can never be sent, and remain unknown."""
        self._settings = settings
        self._buffer = buffer
        self._ledger = buffer.ledger
        self._lock = lock
        self._open_operations = open_operations
        self._connector = Connector(settings.namespace, settings.partitions, find_url)
        self._spool: Spool | None = None
        self._handed_over = 0
        self._kept_at_s = float("-inf")
        self._breaker = Breaker()
        self._warned = ""
        self._last_error = ""
        self._counts = Counts()
        self._unknown_before = 0
        self._begin_as(os.urandom(16).hex(), Counts(), after=0)
        self._recovery = self._recovery_of(settings)

    def _begin_as(self, producer: str, base: Counts, *, after: int) -> None:
        settings = self._settings
        self._word = Word(Keys(settings.namespace), producer, settings.resource, base, self._open_operations)
        age_s = FRAME_AGE_S
        if settings.spool_dir:
            from producers.spool import SPOOL_AGE_S, Owner, Spool  # noqa: PLC0415 - sqlite is for those who spool

            age_s = SPOOL_AGE_S
            resource = settings.resource
            owner = Owner(
                producer=producer,
                namespace=settings.namespace,
                service=resource.service,
                version=resource.version,
                environment=resource.environment,
                instance=resource.instance,
                pid=os.getpid(),
                started_ms=self._word.started_ms,
                partitions=self._routed_by(),
            )
            self._spool = Spool(spool_settings(settings), owner)
        self.delivery = Delivery(producer, after, age_s)

    def _recovery_of(self, settings: PublishSettings) -> "Recovery | None":
        if not settings.spool_dir:
            return None
        from producers.spool_recovery import Recovery  # noqa: PLC0415 - as above

        return Recovery(spool_settings(settings).folder, Keys(settings.namespace), replicas=settings.replicas)

    def _routed_by(self) -> int:
        return self._connector.partitions or self._settings.partitions

    def step(self, now_s: float, *, hurry: bool) -> float | None:
        """Do what is due; return seconds until something will be, None when only an event or a heartbeat can be next.

        Args:
            now_s: A monotonic clock.
            hurry: Do not linger: someone waits for everything to be appended.
        """
        pause_s = self._pause_s(now_s, hurry=hurry)
        if pause_s > 0:
            return pause_s if self._spool is None else min(pause_s, self._keep(now_s, hurry=hurry))
        if self._buffer.held() or self.delivery.outstanding_frames():
            self._attempt(now_s, hurry=hurry)
        # Also after an outage with nothing left to send: the presence is then what finds that Redis is back.
        self._say(now_s)
        more = self._recover_others(now_s)
        pause_s = self._pause_s(now_s, hurry=hurry)
        if pause_s:
            return pause_s if self._spool is None else min(pause_s, self._spool.look_in_s)
        if more or self.delivery.outstanding_frames():
            return 0.0
        rest_s = self.intake.rest_s(now_s, hurry=hurry)
        # A long linger does not delay the word about what is buffered.
        return rest_s if rest_s is None else min(rest_s, PRESENCE_EVERY_S)

    @property
    def in_trouble(self) -> bool:
        """Whether Redis failed at the last try."""
        return self._breaker.failures > 0

    def _attempt(self, now_s: float, *, hurry: bool) -> None:
        if self._spool is not None and self._breaker.failures:
            self._keep(now_s, hurry=True)  # the try below may take seconds
        try:
            link = self._connector.connected()
        except SidestreamError as error:
            self._pause(error, now_s)
            return
        # Before anything is sent: a frame that lay here while the process was idle may have grown too old.
        self._renew(now_s)
        self._take_in(link.partitions, now_s, "live", hurry=hurry)
        self._store(now_s)
        self._send(link, now_s)

    # Sealing

    def _take_in(self, partitions: int, now_s: float, origin: Origin, *, hurry: bool) -> None:
        """Encode what waits, and seal what is full or has waited for long enough, as far as there is room."""
        room = self._room(now_s)
        if not room:
            return
        frames = self.intake.take(
            partitions, self.delivery.producer, now_s, most=min(room, SEAL_AT_ONCE), origin=origin, hurry=hurry
        )
        with self._lock:
            for frame in frames:
                self.delivery.seal(frame.partition, frame.count, self._settings.codec, frame.body, now_s)
            self.intake.sealed(frames)
            self._note_places()

    def _room(self, now_s: float) -> int:
        if self._spool is not None and self._spool.takes_more(now_s):
            return SEAL_AT_ONCE
        return self.delivery.room()

    def _renew(self, now_s: float) -> None:
        """Take a new producer id if a fence of the old one may soon be forgotten."""
        if not self.delivery.stale(now_s):
            return
        self._expire(now_s)
        if self.delivery.outstanding_frames() and not self._hand_over():
            return
        counts = without_buffered(self._settle() or self._counts)
        self._write(counts, now_s, closed=True)
        with self._lock:
            self._unknown_before += self.delivery.unknown()
            self._begin_as(os.urandom(16).hex(), counts, after=self.delivery.last_sealed())
            self._note_places()

    def _expire(self, now_s: float) -> None:
        with self._lock:
            gone = self.delivery.expire(now_s)
            self._note_places()
        if gone:
            if self._spool is not None:
                self._spool.set_aside(gone, "expired")
            self._report_set_aside(sum(sending.frame.count for sending in gone), "they are too old to be sent")

    # Spooling

    def _keep(self, now_s: float, *, hurry: bool) -> float:
        """Seal into the spool what waits while Redis is away; return seconds until there may be more."""
        if self._spool is None:
            return PRESENCE_EVERY_S
        full = self._buffer.held() >= limits.MAX_FRAME_EVENTS
        if hurry or full or now_s - self._kept_at_s >= self._spool.linger_s:
            self._kept_at_s = now_s
            self._renew(now_s)
            self._take_in(self._routed_by(), now_s, "spooled", hurry=hurry or not full)
        self._store(now_s)
        more = self._buffer.held() >= limits.MAX_FRAME_EVENTS and self._room(now_s) > 0
        return 0.0 if more else self._spool.look_in_s

    def _store(self, now_s: float) -> None:
        if self._spool is None:
            return
        stored = self._spool.store(self.delivery, now_s)
        with self._lock:
            self.delivery.stored(stored)
            self._note_places()
        self._spool.tell(self.delivery, now_s)

    def _refill(self, now_s: float) -> None:
        if self._spool is None:
            return
        with self._lock:
            missing = self._spool.refill(self.delivery, now_s)
            self._note_places()
        if missing:
            self._report_set_aside(missing, "the spool's file is damaged")
        self._expire(now_s)

    def _hand_over(self) -> bool:
        """Leave frames that are all in the file to whoever drains it: this process or another, under their own id."""
        spooled = self.delivery.spooled()
        if self._spool is None or self.delivery.unstored() or self.delivery.unknown():
            return False
        self._spool.close(self.delivery)
        self._handed_over += spooled
        return True

    def _recover_others(self, now_s: float) -> bool:
        """Send a batch of what a dead producer left; return whether there is more of it."""
        if self._recovery is None or self._connector.link is None or self._breaker.failures:
            return False
        try:
            return self._recovery.step(self._connector.link.server, now_s)
        except SidestreamError as error:
            self._pause(error, now_s)
            return False

    def safe_to(self) -> int:
        """Return the number up to which every frame is appended, or, while Redis is away, in the spool's file."""
        if self._spool is not None and self._breaker.failures:
            return self.delivery.safe_to()
        return self.delivery.acknowledged_to()

    def spooled_to(self) -> int:
        """Return the number up to which every frame is appended or in the spool's file; without a spool -1."""
        return self.delivery.safe_to() if self._spool is not None else -1

    def _note_places(self) -> None:
        self._ledger.spooled = self._handed_over + self.delivery.spooled()
        self._ledger.in_flight = self.delivery.in_flight()
        self._ledger.unknown = self._unknown_before + self.delivery.unknown()

    # Sending

    def _send(self, link: Link, now_s: float) -> None:
        self._refill(now_s)
        delivery = self.delivery
        sending = delivery.to_send(PROBE_FRAMES if self._breaker.probing else MAX_OUTSTANDING_FRAMES)
        if not sending:
            return
        try:
            answers = append_frames(
                link.server, link.keys, sending, by_text=delivery.need_text, replicas=self._settings.replicas
            )
        except SidestreamError as error:
            with self._lock:
                outcome = delivery.failed(sending, error)
                self._note_places()
            self._connector.disconnect()
        else:
            with self._lock:
                outcome = delivery.answered(sending, answers, now_s)
                self._account(outcome)
        self._conclude(outcome, now_s)

    def _account(self, outcome: Outcome) -> None:
        self._ledger.appended += outcome.appended
        self._ledger.lost += outcome.lost
        self._note_places()
        self._lock.notify_all()

    def _conclude(self, outcome: Outcome, now_s: float) -> None:
        if outcome.lost:
            say(LOG, logging.ERROR, "Redis has lost events that it had acknowledged", events=outcome.lost)
        if outcome.refused and self._spool is not None:
            self._spool.set_aside(outcome.refused, "refused")
        if outcome.set_aside:
            self._report_set_aside(sum(sending.frame.count for sending in outcome.refused), outcome.set_aside)
        if outcome.trouble is None:
            self._recover()
        else:
            self._pause(outcome.trouble, now_s)

    def _report_set_aside(self, events: int, why: str) -> None:
        if not self.set_aside:
            say(LOG, logging.ERROR, "frames were set aside that can never be sent", events=events, reason=why)
        self.set_aside += events

    # Trouble

    def _pause_s(self, now_s: float, *, hurry: bool) -> float:
        return self._breaker.pause_s(now_s, most_s=HURRIED_PAUSE_S if hurry else None)

    def _pause(self, error: SidestreamError, now_s: float) -> None:
        if error.code == "script_missing":
            return  # the next try sends the text
        text = self._settings.redact.redact(str(error), 200)
        self._last_error = f"{error.code}: {text}"
        refused = isinstance(error, RefusedError)
        draw = random.random()  # noqa: S311 - spreads tries, guards nothing
        self._breaker.failed(now_s, draw, least_s=REFUSED_PAUSE_S if refused else 0.0)
        if isinstance(error, (RefusedError, UnreachableError, UnknownOutcomeError)):
            self._connector.disconnect()
        if not self._warned or (refused and self._warned != error.code):
            self._warned = error.code
            sentence = "telemetry waits for Redis; events are buffered and the application goes on"
            say(LOG, logging.WARNING, sentence, code=error.code, error=text)

    def _recover(self) -> None:
        if self._warned:
            say(LOG, logging.INFO, "Redis is back; telemetry flows again", failures=self._breaker.failures)
        self._warned = ""
        self._breaker.succeeded()

    # Presence

    def _settle(self) -> Counts | None:
        for _ in range(SETTLE_TRIES):
            with self._lock:
                counts = self._ledger.settled(self._buffer.held, time.monotonic())
            if counts is not None:
                self._counts = counts
                return counts
            time.sleep(0)
        return None

    def _say(self, now_s: float) -> None:
        """Write a presence if one is due: once a second while something changes, else as a heartbeat."""
        if not self._word.wanted(now_s):
            return
        # Before the first event there is nothing to tell but what hangs already.
        if not self._connector.partitions and not self._open_operations(time.time_ns() // 1000):
            return
        counts = self._settle() or self._counts
        if self._word.has_news(counts, now_s):
            self._write(counts, now_s, closed=False)

    def say_last(self, now_s: float) -> None:
        """Write the presence that says goodbye, if there is a server to write it to."""
        if self._connector.link is not None:
            self._write(self._settle() or self._counts, now_s, closed=True)

    def _write(self, counts: Counts, now_s: float, *, closed: bool) -> None:
        self._word.tried(now_s)
        presence = self._word.presence(
            counts,
            self.delivery,
            partitions=self._connector.partitions,
            agents=self.intake.agents,
            last_error=self._last_error,
            closed=closed,
        )
        try:
            self._word.say(self._connector.connected().server, presence, counts)
        except SidestreamError as error:
            self._pause(error, now_s)
            return
        if not self.delivery.outstanding_frames():
            self._recover()

    def heartbeat_in_s(self, now_s: float) -> float:
        """Return seconds until a presence is due although nothing happens."""
        return self._word.due_in_s(self._counts, now_s)

    def close(self) -> None:
        """Let go of the connection, and of the spool: what is in it waits for a successor."""
        self._connector.disconnect()
        if self._recovery is not None:
            self._recovery.close()
        if self._spool is not None:
            self._spool.close(self.delivery)


def spool_settings(settings: PublishSettings) -> "SpoolSettings":
    """Return where the spool of a namespace is, and how it is kept."""
    from producers.spool import SpoolSettings  # noqa: PLC0415 - sqlite is for those who spool

    folder = Path(settings.spool_dir).expanduser() / settings.namespace
    return SpoolSettings(folder, settings.spool_bytes, settings.spool_fsync == "always")
