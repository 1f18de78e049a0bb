"""The spool: sealed frames in a local file, so that they outlive the process and an outage of Redis.

Keeps:
- Write-ahead: a frame is in the file before it is sent, and goes from it after the server said OK or DUP. A process
  that dies leaves every frame whose answer it had not seen; its successor sends them again, and the fence decides.
- The file is a run of frames without a hole: a frame is written after all before it, or not at all. So a successor
  never meets a gap that no server made.
- A full file is no trouble of the application: frames then stay in memory as if there were no spool, and when memory is
  full too, events are shed and counted.
- Only the publisher's thread comes here.

What `spool_fsync` buys: with `always` a frame that counts as spooled survives `kill -9`, an outage of Redis and a crash
of the machine. With `interval` it survives `kill -9` and the outage; a crash of the machine takes what was written
since the last fsync, at most about a second. Events in the buffer (a linger, half a second while Redis is away) are
not spooled, and die with the process.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from pipeline.errors import SidestreamError
from pipeline.log import say
from producers.delivery import MAX_BATCH_BYTES, Delivery, Sending
from producers.spool_file import (
    Owner,
    SpoolError,
    SpoolFile,
    SpoolFullError,
    StoredFrame,
    disk_bytes,
    has_owner,
    spool_files,
)

LOG: Final = logging.getLogger("sidestream")

SPOOL_AGE_S: Final = 3 * 24 * 3600.0
"""An older frame is set aside. The fence remembers 8 days: more than twice as long."""

AWAY_LINGER_S: Final = 0.5
"""While Redis is away nobody waits for a frame, and larger ones are kinder to the disk."""

AWAY_LOOK_S: Final = 0.1
"""How often the buffer is looked at meanwhile: a full frame does not wait, or a busy application would overflow it."""

SYNC_EVERY_S: Final = 1.0
"""How often `interval` fsyncs, and how soon delivered frames leave the file when nothing else is written."""

FULL_PAUSE_S: Final = 1.0
BROKEN_PAUSE_S: Final = 30.0
LEAST_BYTES: Final = 1 << 18
"""Less than this is no room worth a file."""


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """Where and how much.

    Args:
        folder: Of this namespace.
        limit_bytes: Of one producer's file with its log, less what files of dead producers take in the folder.
        always: Whether each write is fsynced before its frames are sent.
    """

    folder: Path
    limit_bytes: int
    always: bool = True


class Spool:
    """The file of one producer id, made when its first frame is written.

    While Redis is away, `look_in_s` is how often the buffer is looked at, and `linger_s` how long a frame that is not
    full waits for more.
    """

    look_in_s: Final = AWAY_LOOK_S
    linger_s: Final = AWAY_LINGER_S

    def __init__(self, settings: SpoolSettings, owner: Owner) -> None:
        self._settings = settings
        self._owner = owner
        self._file: SpoolFile | None = None
        self._retry_at_s = float("-inf")
        self._synced_at_s = float("-inf")
        self._dirty = False
        self._trimmed = 0
        self._given_up = False
        self._warned = ""

    def takes_more(self, now_s: float) -> bool:
        """Return whether frames may be sealed for it although memory has no room."""
        return not self._given_up and now_s >= self._retry_at_s

    def store(self, delivery: Delivery, now_s: float) -> Sequence[Sending]:
        """Write what the file has not got, and forget what was delivered; return the frames it has now."""
        waiting = delivery.unstored()
        if not self.takes_more(now_s) or not (waiting or self._is_due(delivery, now_s)):
            return ()
        try:
            return self._write(self._opened(waiting), delivery, waiting, now_s)
        except SpoolFullError as error:
            self._retry_at_s = now_s + FULL_PAUSE_S
            self._warn(error, "the spool is full; frames stay in memory")
        except SidestreamError as error:
            self._fail(error, delivery, now_s)
        return ()

    def _is_due(self, delivery: Delivery, now_s: float) -> bool:
        """Return whether a write is due although no frame waits: an fsync, or room to be given back."""
        if self._file is None or now_s - self._synced_at_s < SYNC_EVERY_S:
            return False
        return self._dirty or delivery.acknowledged_to() > self._trimmed

    def _opened(self, waiting: Sequence[Sending]) -> SpoolFile | None:
        if self._file is None and waiting:
            folder = self._settings.folder
            # What dead producers left counts against us, so that an application that crashes over and over while Redis
            # is away does not fill the disk.
            left = sum(disk_bytes(path) for path in spool_files(folder) if not has_owner(path))
            mine = self._settings.limit_bytes - left
            if mine < LEAST_BYTES:
                raise SpoolFullError(f"files of producers that are gone take {left} bytes")
            self._file = SpoolFile.create(folder, self._owner, mine)
        return self._file

    def _write(
        self, file: SpoolFile | None, delivery: Delivery, waiting: Sequence[Sending], now_s: float
    ) -> Sequence[Sending]:
        if file is None:
            return ()
        sync = self._settings.always or now_s - self._synced_at_s >= SYNC_EVERY_S
        trim_to = delivery.acknowledged_to()
        behind_s = time.time() - now_s
        frames = [StoredFrame(s.ordinal, int((s.sealed_at_s + behind_s) * 1000), s.frame) for s in waiting]
        taken = _as_many_as_fit(file, frames, trim_to, sync=sync)
        self._dirty = not sync
        self._trimmed = trim_to
        if sync:
            self._synced_at_s = now_s
        if taken < len(frames):
            self._retry_at_s = now_s + FULL_PAUSE_S
            self._warn(
                SpoolFullError("its limit is reached, or the disk's"), "the spool is full; frames stay in memory"
            )
        else:
            self._warned = ""
        return waiting[:taken]

    def tell(self, delivery: Delivery, now_s: float) -> None:
        """Say beside the file what it holds, for `sidestream spool ls`."""
        if self._file is None:
            return
        frames, events, oldest_s = delivery.stored_totals()
        if (frames, events) != (self._owner.frames, self._owner.events):
            oldest_ms = int((time.time() - now_s + oldest_s) * 1000) if frames else 0
            self._owner = replace(self._owner, frames=frames, events=events, oldest_ms=oldest_ms)
            self._file.say(self._owner)

    def refill(self, delivery: Delivery, now_s: float) -> int:
        """Bring parked frames back into memory; return the events of those that the file no longer has."""
        wanted = delivery.wanted()
        if wanted is None or self._file is None:
            return 0
        try:
            return read_back(self._file, delivery, now_s)
        except SidestreamError as error:
            self._fail(error, delivery, now_s)
            return delivery.admit([])

    def set_aside(self, sendings: Sequence[Sending], reason: str) -> None:
        """Keep frames in the file that are never to be sent."""
        if self._file is not None:
            keep_aside(self._file, sendings, reason)

    def _fail(self, error: SidestreamError, delivery: Delivery, now_s: float) -> None:
        """Go on without the file; one that could not even be made is tried again."""
        self._retry_at_s = now_s + BROKEN_PAUSE_S
        if self._file is not None:
            self._given_up = True
            delivery.forget_stored()
        self._warn(error, "the spool cannot be used; frames stay in memory")

    def _warn(self, error: SidestreamError, what: str) -> None:
        if self._warned != error.code:
            self._warned = error.code
            say(LOG, logging.WARNING, what, folder=self._settings.folder, code=error.code, error=error)

    def close(self, delivery: Delivery) -> None:
        """Leave the file to a successor, or remove it if everything in it was delivered."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            if self._given_up:
                file.rename("broken")
            elif delivery.outstanding_frames() == 0:
                finish_file(file)
            else:
                frames, events, _ = delivery.stored_totals()
                file.close()
                say(LOG, logging.INFO, "frames stay in the spool for the next process", frames=frames, events=events)
        except SidestreamError as error:
            self._warn(error, "the spool could not be closed well; its file stays")


def _as_many_as_fit(file: SpoolFile, frames: Sequence[StoredFrame], trim_to: int, *, sync: bool) -> int:
    """Write the first frames, fewer if there is no room; return how many.

    Raises:
        SpoolFullError: Not even for one, nor for forgetting what was delivered.
    """
    count = len(frames)
    while True:
        try:
            file.write(frames[:count], trim_to=trim_to, sync=sync)
        except SpoolFullError:
            if count == 0:
                raise
            count //= 2
        else:
            return count


def read_back(file: SpoolFile, delivery: Delivery, now_s: float) -> int:
    """Read parked frames into the window while it wants some; return the events of those that were damaged or missing.

    Raises:
        SidestreamError: The file cannot be read.
    """
    missing = 0
    while (wanted := delivery.wanted()) is not None:
        behind_s = time.time() - now_s
        stored, damaged = file.read(delivery.producer, wanted[0], wanted[1], MAX_BATCH_BYTES)
        if damaged:
            file.set_aside(damaged, "broken")
        sendings = [
            Sending(one.frame, min(now_s, one.sealed_ms / 1000 - behind_s), one.ordinal, stored=True) for one in stored
        ]
        missing += delivery.admit(sendings)
    return missing


def keep_aside(file: SpoolFile, sendings: Sequence[Sending], reason: str) -> None:
    """Mark frames in the file that are never to be sent; if that fails they are gone with the rest, and counted."""
    try:
        file.set_aside([sending.ordinal for sending in sendings], "expired" if reason == "expired" else "refused")
    except SidestreamError as error:
        say(LOG, logging.WARNING, "frames could not be set aside", code=error.code, error=error)


def finish_file(file: SpoolFile) -> Path | None:
    """Remove a file whose frames were delivered; where some were set aside, rename it and return its new path.

    Raises:
        SpoolError: It can be neither read nor renamed.
    """
    reasons = file.reasons()
    if not reasons:
        file.remove()
        return None
    return file.rename("expired" if "expired" in reasons else min(reasons))


__all__ = ["Owner", "Spool", "SpoolError", "SpoolSettings"]
