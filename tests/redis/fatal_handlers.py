"""Handlers with a planted fault that ends the process; each is built by name, also in another interpreter."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from consumers.contract import Slice
from consumers.folding import Folded
from consumers.handlers.metrics import MetricsHandler
from consumers.runtime import batch
from pipeline.events import UsageEvent
from pipeline.wire import Entry, Frame, FrameDecoder

FATAL = 13
"""Input tokens of the event that a handler here does not survive."""


class Segfaulting(MetricsHandler):
    """Reads address 0 on one number of tokens."""

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold, unless the fatal event is there."""
        for piece in slices:
            for _, event in piece.events():
                if isinstance(event, UsageEvent) and event.input_tokens == FATAL:
                    self.end()
        return super().fold(slices, budget)

    def end(self) -> None:
        """End this process."""
        ctypes.string_at(0)


class Hanging(Segfaulting):
    """Never comes back from the fatal event."""

    def end(self) -> None:
        """Turn for ever, without giving anybody else a turn."""
        print("folding", flush=True)  # noqa: T201 - whoever kills it listens
        if path := os.environ.get("PID_FILE"):
            Path(path).write_text(str(os.getpid()))
        while True:
            time.sleep(1)


class Exiting(Segfaulting):
    """Ends the process as a library that calls `exit` does."""

    def end(self) -> None:
        """End at once, with a code."""
        os._exit(7)


class Together(Segfaulting):
    """Dies of two fatal events in one batch, and of none alone."""

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold, unless two are there."""
        events = [event for piece in slices for _, event in piece.events()]
        if sum(isinstance(event, UsageEvent) and event.input_tokens == FATAL for event in events) > 1:
            self.end()
        return MetricsHandler.fold(self, slices, budget)


class Frugal(MetricsHandler):
    """Takes about two events a commit."""

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold within a small budget."""
        return super().fold(slices, min(budget, 8))


class Waiting(MetricsHandler):
    """Says that it has begun to fold, and waits to be killed from outside; only in a worker."""

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Fold in a trial, wait in a worker that is told to."""
        if not in_trial() and "WAITS" in os.environ:
            print("folding", flush=True)  # noqa: T201 - whoever kills it listens
            signal.pause()
        return super().fold(slices, budget)


class Loud(MetricsHandler):
    """Prints while it folds."""

    def fold(self, slices: Sequence[Slice], budget: int) -> Folded:
        """Print, and fold."""
        print("folding", flush=True)  # noqa: T201 - what is tested
        return super().fold(slices, budget)


def in_trial() -> bool:
    """Return whether this process is a trial of another."""
    return sys.argv[0].endswith("trial.py")


def ends_when_built() -> MetricsHandler:
    """Build a handler, but not in a trial: that ends of it, whatever it is to fold."""
    if in_trial():
        os._exit(3)
    return MetricsHandler()


def raises_when_built() -> MetricsHandler:
    """Build a handler, but not in a trial."""
    if in_trial():
        raise RuntimeError("no model here")
    return MetricsHandler()


class _EndingDecoder(FrameDecoder):
    """Does not survive one producer's frames."""

    def decode(self, entry: Entry) -> Frame:
        """End this process, or decode."""
        return _end() if entry.producer == "ee" * 16 else super().decode(entry)


def _end() -> NoReturn:
    os.kill(os.getpid(), signal.SIGABRT)
    raise AssertionError


def ends_of_decoding() -> MetricsHandler:
    """Build a handler beside a decoder that ends processes; in a trial alone, for a test's own process must live."""
    if in_trial():
        batch.FrameDecoder = _EndingDecoder
    return MetricsHandler()
