"""Shipping: one step of the publisher, with its connection: connect, seal, send, say that one is there.

Everything here runs on the publisher's thread. `Delivery` and `Buffer` decide; this does the I/O, and translates every
trouble into a pause and one line in the log.

Keeps:
- Nothing is sealed before the namespace's number of partitions is known, so nothing is ever routed twice.
- The publisher's lock is held while events change their place, never while Redis is waited for, or the disk is
  written to.
- With a spool, a frame is in its file before it is sent, and while Redis is away events are sealed into it.
"""

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline import limits
from pipeline.connection import RedisSettings, Reply, Server, server_facts
from pipeline.errors import RefusedError, SidestreamError, UnknownOutcomeError, UnreachableError
from pipeline.events import Event
from pipeline.keys import Keys
from pipeline.presence import OpenOperation, Presence, PresenceWriter, agree_partitions
from pipeline.redact import redact
from pipeline.retry import Backoff
from producers.buffer import KINDS, Buffer
from producers.delivery import FRAME_AGE_S, Delivery, Outcome, append_commands, as_answer
from producers.ledger import Counts
from producers.sealing import Sealed, Sealer
from producers.settings import PublishSettings

if TYPE_CHECKING:
    from producers.spool import Spool, SpoolSettings
    from producers.spool_recovery import Recovery

LOG: Final = logging.getLogger("sidestream")

PRESENCE_EVERY_S: Final = 1.0
HEARTBEAT_S: Final = 5.0
"""A presence is repeated this often although nothing has changed."""

SEAL_AT_ONCE: Final = 8
"""Frames sealed under one hold of the lock: about 6 ms."""

SETTLE_TRIES: Final = 20
AGENTS_SHOWN: Final = 100
REFUSED_PAUSE_S: Final = 5.0
HURRIED_PAUSE_S: Final = 0.1
"""Between tries while someone waits in `flush` or `close`."""


@dataclass(slots=True)
class _Link:
    """The connection, and what is known of its other end."""

    server: Server
    keys: Keys
    partitions: int = 0


@dataclass(slots=True)
class _Trouble:
    """Failures in a row, and since when to wait; one warning a stretch."""

    failures: int = 0
    since_s: float = 0.0
    until_s: float = 0.0
    warned: str = ""
    last_error: str = ""

    def pause_s(self, now_s: float, *, hurry: bool) -> float:
        """Return seconds to wait before the next try."""
        until_s = min(self.until_s, self.since_s + HURRIED_PAUSE_S) if hurry else self.until_s
        return max(0.0, until_s - now_s)


@dataclass(slots=True)
class _Word:
    """What was last said in a presence."""

    at_s: float = float("-inf")
    counts: Counts = field(default_factory=Counts)
    base: Counts = field(default_factory=Counts)
    started_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


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
        self.taken = 0
        """Events taken from the buffer since the beginning."""
        self.set_aside = 0
        """Events that can never be sent, and remain unknown."""
        self._settings = settings
        self._find_url = find_url
        self._buffer = buffer
        self._ledger = buffer.ledger
        self._lock = lock
        self._open_operations = open_operations
        self._sealer = Sealer(settings.resource, settings.codec)
        self._away_sealer = Sealer(settings.resource, settings.codec, "spooled")
        self._spool: Spool | None = None
        self._handed_over = 0
        self._kept_at_s = float("-inf")
        self._link: _Link | None = None
        self._trouble = _Trouble()
        self._backoff = Backoff()
        self._agents: set[str] = set()
        self._counts = Counts()
        self._partitions = 0
        self._inspected = False
        self._unknown_before = 0
        self._begin_as(os.urandom(16).hex(), Counts(), after=0)
        self._recovery = self._recovery_of(settings)

    def _begin_as(self, producer: str, base: Counts, *, after: int) -> None:
        self._word = _Word(base=base)
        self._writer = PresenceWriter(Keys(self._settings.namespace), producer)
        age_s = FRAME_AGE_S
        if self._settings.spool_dir:
            from producers.spool import SPOOL_AGE_S, Owner, Spool  # noqa: PLC0415 - sqlite is for those who spool

            age_s = SPOOL_AGE_S
            resource = self._settings.resource
            owner = Owner(
                producer=producer,
                namespace=self._settings.namespace,
                service=resource.service,
                version=resource.version,
                environment=resource.environment,
                instance=resource.instance,
                pid=os.getpid(),
                started_ms=self._word.started_ms,
                partitions=self._routed_by(),
            )
            self._spool = Spool(spool_settings(self._settings), owner)
        self.delivery = Delivery(producer, after, age_s)

    def _recovery_of(self, settings: PublishSettings) -> "Recovery | None":
        if not settings.spool_dir:
            return None
        from producers.spool_recovery import Recovery  # noqa: PLC0415 - as above

        return Recovery(spool_settings(settings).folder, Keys(settings.namespace))

    def _routed_by(self) -> int:
        return self._partitions or self._settings.partitions

    def step(self, now_s: float, *, hurry: bool) -> float | None:
        """Do what is due; return seconds until something will be, None when only an event or a heartbeat can be next.

        Args:
            now_s: A monotonic clock.
            hurry: Do not linger: someone waits for everything to be appended.
        """
        pause_s = self._trouble.pause_s(now_s, hurry=hurry)
        if pause_s > 0:
            return pause_s if self._spool is None else min(pause_s, self._keep(now_s, hurry=hurry))
        due_s = 0.0 if hurry and self._buffer.incoming else self._buffer.due_in_s(now_s)
        if due_s == 0.0 or self.delivery.outstanding_frames():
            self._attempt(now_s, drain=due_s == 0.0)
            due_s = self._buffer.due_in_s(now_s)
        # Also after an outage with nothing left to send: the presence is then what finds that Redis is back.
        self._say(now_s)
        if self._recover_others(now_s):
            due_s = 0.0
        pause_s = self._trouble.pause_s(now_s, hurry=hurry)
        if due_s is not None:
            due_s = min(due_s, PRESENCE_EVERY_S)  # a long linger does not delay the word about what is buffered
        if pause_s and self._spool is not None:
            return min(pause_s, self._spool.look_in_s)
        return pause_s or (0.0 if self.delivery.outstanding_frames() else due_s)

    def _attempt(self, now_s: float, *, drain: bool) -> None:
        if self._spool is not None and self._trouble.failures:
            self._keep(now_s, hurry=drain)  # the try below may take seconds
        try:
            link = self._connected()
        except SidestreamError as error:
            self._pause(error, now_s)
            return
        # Before anything is sent: a frame that lay here while the process was idle may have grown too old.
        self._renew(now_s)
        if drain:
            self._seal(link.partitions, now_s)
        self._store(now_s)
        self._send(link, now_s)

    # Connecting

    def _connected(self) -> _Link:
        """Return the connection, after a first exchange with the server.

        Raises:
            SidestreamError: There is no server, or it does not let us in.
        """
        if self._link is None:
            url = self._find_url()
            if url is None:
                raise UnreachableError(
                    "no Redis is known: set SIDESTREAM_REDIS_URL, or start `sidestream worker`, which brings a server"
                )
            self._link = self._open(url)
        return self._link

    def _open(self, url: str) -> _Link:
        link = _Link(Server(RedisSettings(url)), Keys(self._settings.namespace))
        try:
            link.partitions = agree_partitions(link.server, link.keys, self._settings.partitions)
            self._inspect(link.server)
        except SidestreamError:
            link.server.close()
            raise
        self._partitions = link.partitions
        return link

    def _inspect(self, server: Server) -> None:
        info: Reply | SidestreamError = server.batch([["INFO"]])[0]
        if self._inspected or isinstance(info, SidestreamError):
            return  # a user who may not ask for INFO may still append
        self._inspected = True
        for problem in server_facts(info).problems():
            LOG.warning("this Redis is not fit to carry telemetry", extra={"problem": problem})

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.server.close()
            self._link = None

    # Sealing

    def _seal(self, partitions: int, now_s: float, sealer: Sealer | None = None) -> None:
        self._renew(now_s)
        sealer = sealer or self._sealer
        most = min(self._room(now_s), SEAL_AT_ONCE)
        if most == 0:
            return
        with self._lock:
            for batch in self._buffer.drain(partitions, self.delivery.producer, most):
                self.taken += len(batch.events)
                self._see(batch.events)
                sealed = self._proven(batch.events, sealer)
                for kind, reason, why in sealed.invalid:
                    self._ledger.invalid(kind, reason, why=why)
                for body in sealed.bodies:
                    self.delivery.seal(batch.partition, body.count, sealer.codec, body.body, now_s)
            self._note_places()

    def _room(self, now_s: float) -> int:
        if self._spool is not None and self._spool.takes_more(now_s):
            return SEAL_AT_ONCE
        return self.delivery.room()

    def _proven(self, events: list[Event], sealer: Sealer) -> Sealed:
        try:
            return sealer.seal(events)
        except Exception:
            # A fault of ours: without this the events of the batch would be nowhere in the account.
            LOG.exception("a batch could not be sealed; its events are counted invalid")
            return Sealed(invalid=[(KINDS[type(event)], "fault", "see the log") for event in events])

    def _see(self, events: list[Event]) -> None:
        for event in events:
            agent: object = getattr(event, "agent", "")
            if len(self._agents) < AGENTS_SHOWN and isinstance(agent, str) and agent not in self._agents:
                self._agents.add(agent[: limits.MAX_NAME_CHARS].encode("utf-8", "replace").decode())

    def _renew(self, now_s: float) -> None:
        """Take a new producer id if a fence of the old one may soon be forgotten."""
        if not self.delivery.stale(now_s):
            return
        self._expire(now_s)
        if self.delivery.outstanding_frames() and not self._hand_over():
            return
        counts = _without_buffered(self._settle() or self._counts)
        self._write(counts, now_s, closed=1)
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
        full = len(self._buffer.incoming) >= limits.MAX_FRAME_EVENTS
        if hurry or full or now_s - self._kept_at_s >= self._spool.linger_s:
            self._kept_at_s = now_s
            self._seal(self._routed_by(), now_s, self._away_sealer)
        self._store(now_s)
        more = len(self._buffer.incoming) >= limits.MAX_FRAME_EVENTS and self._room(now_s) > 0
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
        if self._recovery is None or self._link is None or self._trouble.failures:
            return False
        try:
            return self._recovery.step(self._link.server, now_s)
        except SidestreamError as error:
            self._pause(error, now_s)
            return False

    def safe_to(self) -> int:
        """Return the number up to which every frame is appended, or, while Redis is away, in the spool's file."""
        if self._spool is not None and self._trouble.failures:
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

    def _send(self, link: _Link, now_s: float) -> None:
        self._refill(now_s)
        sending = self.delivery.to_send()
        if not sending:
            return
        try:
            replies = link.server.batch(append_commands(self.delivery, link.keys, sending))
        except SidestreamError as error:
            with self._lock:
                outcome = self.delivery.failed(sending, error)
                self._note_places()
            self._disconnect()
        else:
            with self._lock:
                outcome = self.delivery.answered(sending, [as_answer(reply) for reply in replies], now_s)
                self._account(outcome)
        self._conclude(outcome, now_s)

    def _account(self, outcome: Outcome) -> None:
        self._ledger.appended += outcome.appended
        self._ledger.lost += outcome.lost
        self._note_places()
        self._lock.notify_all()

    def _conclude(self, outcome: Outcome, now_s: float) -> None:
        if outcome.lost:
            LOG.error("Redis has lost events that it had acknowledged", extra={"events": outcome.lost})
        if outcome.refused and self._spool is not None:
            self._spool.set_aside(outcome.refused, "refused")
        if outcome.set_aside:
            self._report_set_aside(sum(sending.frame.count for sending in outcome.refused), outcome.set_aside)
        if outcome.trouble is not None:
            self._pause(outcome.trouble, now_s)
        elif outcome.appended:
            self._recover()

    def _report_set_aside(self, events: int, why: str) -> None:
        if not self.set_aside:
            LOG.error("frames were set aside that can never be sent", extra={"reason": why, "events": events})
        self.set_aside += events

    # Trouble

    def _pause(self, error: SidestreamError, now_s: float) -> None:
        trouble = self._trouble
        if error.code == "script_missing":
            return  # the next try sends the text
        trouble.failures += 1
        trouble.last_error = f"{error.code}: {redact(str(error), 200)}"
        pause_s = self._backoff.pause_s(trouble.failures, random.random())  # noqa: S311 - spreads tries, guards nothing
        if isinstance(error, RefusedError):
            pause_s = REFUSED_PAUSE_S
        if isinstance(error, (RefusedError, UnreachableError, UnknownOutcomeError)):
            self._disconnect()
        trouble.since_s, trouble.until_s = now_s, now_s + pause_s
        if trouble.warned == "" or (isinstance(error, RefusedError) and trouble.warned != error.code):
            trouble.warned = error.code
            LOG.warning(
                "telemetry waits for Redis; events are buffered and the application goes on: %s",
                trouble.last_error,
                extra={"code": error.code, "error": trouble.last_error},
            )

    def _recover(self) -> None:
        if self._trouble.warned:
            LOG.info("Redis is back; telemetry flows again", extra={"failures": self._trouble.failures})
        self._trouble = _Trouble(last_error=self._trouble.last_error)

    # Presence

    def _settle(self) -> Counts | None:
        for _ in range(SETTLE_TRIES):
            with self._lock:
                counts = self._ledger.settled(lambda: len(self._buffer.incoming), time.monotonic())
            if counts is not None:
                self._counts = counts
                return counts
            time.sleep(0)
        return None

    def _say(self, now_s: float) -> None:
        """Write a presence if one is due: once a second while something changes, else as a heartbeat."""
        if not self._partitions or now_s - self._word.at_s < PRESENCE_EVERY_S:
            return
        counts = self._settle() or self._counts
        if counts != self._word.counts or now_s - self._word.at_s >= HEARTBEAT_S:
            self._write(counts, now_s, closed=0)

    def say_last(self, now_s: float) -> None:
        """Write the presence that says goodbye, if there is a server to write it to."""
        if self._link is not None:
            self._write(self._settle() or self._counts, now_s, closed=1)

    def _write(self, counts: Counts, now_s: float, *, closed: int) -> None:
        self._word.at_s = now_s
        try:
            server = self._connected().server
            self._writer.write(server, self._presence(counts.since(self._word.base), closed))
        except SidestreamError as error:
            self._pause(error, now_s)
            return
        self._word.counts = counts
        if not self.delivery.outstanding_frames():
            self._recover()

    def _presence(self, counts: Counts, closed: int) -> Presence:
        resource = self._settings.resource
        return Presence(
            producer=self.delivery.producer,
            service=resource.service,
            version=resource.version,
            environment=resource.environment,
            instance=resource.instance,
            pid=os.getpid(),
            host=socket.gethostname(),
            library=_library_version(),
            started_ms=self._word.started_ms,
            offered=counts.offered,
            invalid=counts.invalid,
            shed=counts.shed,
            buffered=counts.buffered,
            spooled=counts.spooled,
            in_flight=counts.in_flight,
            unknown=counts.unknown,
            appended=counts.appended,
            lost=counts.lost,
            losses=counts.losses,
            acknowledged=self.delivery.acknowledged(),
            partitions=self._partitions,
            agents=tuple(sorted(self._agents - {""})),
            last_error=self._trouble.last_error,
            open_operations=tuple(self._open_operations(time.time_ns() // 1000)),
            closed=closed,
        )

    def heartbeat_in_s(self, now_s: float) -> float:
        """Return seconds until a presence is due although nothing happens."""
        changed = self._counts != self._word.counts or self._word.counts.offered == 0
        every_s = PRESENCE_EVERY_S if changed else HEARTBEAT_S
        return max(0.05, self._word.at_s + every_s - now_s)

    def close(self) -> None:
        """Let go of the connection, and of the spool: what is in it waits for a successor."""
        self._disconnect()
        if self._recovery is not None:
            self._recovery.close()
        if self._spool is not None:
            self._spool.close(self.delivery)


def _without_buffered(counts: Counts) -> Counts:
    """Return the counts of a producer whose buffered events the next one takes over."""
    return replace(counts, offered=counts.offered - counts.buffered, buffered=0)


def _library_version() -> str:
    try:
        return metadata.version("sidestream")
    except metadata.PackageNotFoundError:
        return ""


def spool_settings(settings: PublishSettings) -> "SpoolSettings":
    """Return where the spool of a namespace is, and how it is kept."""
    from producers.spool import SpoolSettings  # noqa: PLC0415 - sqlite is for those who spool

    folder = Path(settings.spool_dir).expanduser() / settings.namespace
    return SpoolSettings(folder, settings.spool_bytes, settings.spool_fsync == "always")
