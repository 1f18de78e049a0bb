"""The publisher's thread: sleeps, wakes, steps, and tells those who wait for it.

Keeps:
- Whoever waits (`flush`, `close`) waits on a condition with a deadline, never on Redis; the thread is a daemon, so a
  server that hangs holds up neither a caller nor the end of the process.
- The client library is imported on this thread: the first event of a process does not pay for it.
- Waking is one operation on a primitive lock: safe in a signal handler, and nothing to wait for.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline import limits
from pipeline.log import say
from pipeline.presence import OpenOperation
from producers import clock
from producers.buffer import NEVER, Buffer
from producers.ledger import Counts
from producers.settings import PublishSettings

if TYPE_CHECKING:
    from producers.shipping import Shipper

LOG: Final = logging.getLogger("sidestream")

LAST_WORD_RATIO: Final = 0.1
"""The part of `close`'s time that is kept for the last presence."""

_AFTER_FAULT_S: Final = 1.0
_RING_AT: Final = limits.MAX_FRAME_EVENTS
"""Events that wake the thread while it lets a frame fill."""

_SNAPSHOT_TRIES: Final = 50


@dataclass(slots=True, eq=False)
class _Waiter:
    """Waits for the events up to `target` (counted as they are taken), and then for the frames up to `ordinal`."""

    target: int
    set_aside: int
    ordinal: int | None = None
    done: bool = False
    clean: bool = False


class Publisher:
    """Turns what is in a buffer into appended frames, from a thread that begins with the first event.

    Args:
        settings: How to publish.
        find_url: Says where Redis is, or None; asked again at each connection.
        buffer: Its one reader is this.
        open_operations: Lists what has been open for long, at a wall-clock time in microseconds.
    """

    def __init__(
        self,
        settings: PublishSettings,
        find_url: Callable[[], str | None],
        buffer: Buffer,
        open_operations: Callable[[int], Sequence[OpenOperation]],
    ) -> None:
        self._settings = settings
        self._find_url = find_url
        self._buffer = buffer
        self._open_operations = open_operations
        self._lock = threading.Condition()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._shipper: Shipper | None = None
        self._waiters: list[_Waiter] = []
        self._stop = False
        self._last_counts = Counts()
        buffer.wake = self.wake

    def wake(self) -> None:
        """Wake the thread, starting it first if need be; never raises, never waits."""
        self._buffer.ring_at = NEVER
        if self._thread is None:
            self._start()
        self._ring()

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            return  # it rings already

    def _start(self) -> None:
        if not self._starting.acquire(blocking=False):
            return  # another thread is at it
        thread = threading.Thread(target=self._run, name="sidestream-publisher", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No thread can be had now (the interpreter ends, or a limit): the next event asks again.
            self._buffer.ring_at = 0
            self._starting.release()
            return
        self._thread = thread

    @property
    def producer(self) -> str:
        """The id it speaks under; empty before its thread has begun."""
        shipper = self._shipper
        return shipper.delivery.producer if shipper is not None else ""

    def statistics(self) -> Counts:
        """Return where this process's events are: one snapshot, the one before while calls never pause."""
        for _ in range(_SNAPSHOT_TRIES):
            with self._lock:
                counts = self._buffer.ledger.settled(self._buffer.held, time.monotonic())
            if counts is not None:
                self._last_counts = counts
                break
            time.sleep(0)
        return self._last_counts

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was offered before is appended; return whether it was, in time."""
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            shipper = self._shipper
            taken, aside = (shipper.intake.taken, shipper.set_aside) if shipper is not None else (0, 0)
            waiter = _Waiter(taken + len(self._buffer.incoming), aside)
            if waiter.target == 0:
                return True
            self._waiters.append(waiter)
            try:
                self.wake()
                self._lock.wait_for(lambda: waiter.done, max(0.0, deadline_s - time.monotonic()))
            finally:
                self._waiters.remove(waiter)
        return (waiter.done and waiter.clean) or self._is_spooled(waiter)

    def _is_spooled(self, waiter: _Waiter) -> bool:
        """Return whether what was waited for is appended, or in the spool's file, from which a successor sends it."""
        with self._lock:
            shipper = self._shipper
            if shipper is None or not shipper.intake.has_sealed(waiter.target) or shipper.set_aside != waiter.set_aside:
                return False
            return shipper.spooled_to() >= (waiter.ordinal or shipper.delivery.last_sealed())

    def close(self, timeout_s: float) -> bool:
        """Flush, write the last presence and end the thread; return whether everything was appended in time."""
        deadline_s = time.monotonic() + timeout_s
        clean = self.flush(timeout_s * (1 - LAST_WORD_RATIO))
        self._stop = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._ring()
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if not clean:
            left = self.statistics()
            say(
                LOG,
                logging.ERROR,
                "telemetry closes before everything was appended, and these events are left",
                buffered=left.buffered,
                in_flight=left.in_flight,
                unknown=left.unknown,
            )
        return clean

    def _run(self) -> None:
        from producers.shipping import Shipper  # noqa: PLC0415 - redis and zstandard take 100 ms, not of the caller's

        shipper = self._shipper = Shipper(
            self._settings, self._find_url, self._buffer, self._lock, self._open_operations
        )
        while not self._stop:
            self._rest(shipper, self._step(shipper))
        try:
            shipper.say_last(clock.now_s())
            shipper.close()
        except Exception:
            LOG.exception("telemetry could not say goodbye")

    def _step(self, shipper: "Shipper") -> float | None:
        try:
            wait_s = shipper.step(clock.now_s(), hurry=bool(self._waiters))
        except Exception:
            # A fault of ours must not end telemetry for the life of the process; the account shows what is stuck.
            LOG.exception("the publisher met an error of its own; it goes on")
            wait_s = _AFTER_FAULT_S
        self._tell(shipper)
        return wait_s

    def _rest(self, shipper: "Shipper", wait_s: float | None) -> None:
        if wait_s == 0.0:
            return
        if wait_s is None:
            self._buffer.ring_at = 0
            wait_s = shipper.heartbeat_in_s(clock.now_s())
        elif not shipper.in_trouble:
            self._buffer.ring_at = _RING_AT
        if len(self._buffer.incoming) > self._buffer.ring_at:
            wait_s = 0.0  # they came before the mark was up, and did not ring
        self._bell.acquire(timeout=wait_s)
        self._buffer.ring_at = NEVER

    def _tell(self, shipper: "Shipper") -> None:
        if not self._waiters:
            return
        with self._lock:
            for waiter in self._waiters:
                if waiter.ordinal is None and shipper.intake.has_sealed(waiter.target):
                    waiter.ordinal = shipper.delivery.last_sealed()
                if waiter.ordinal is not None and shipper.safe_to() >= waiter.ordinal:
                    waiter.done, waiter.clean = True, shipper.set_aside == waiter.set_aside
            self._lock.notify_all()
