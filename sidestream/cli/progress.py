"""How far a long command is: a bar on a terminal, a line now and then through a pipe; on standard error."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S: Final = 5.0
_BAR_EVERY_S: Final = 0.1


class Told(Protocol):
    """Takes note of how many are done."""

    def __call__(self, done: int) -> None:
        """Take note."""
        ...


@contextmanager
def shown_progress(what: str, total: int) -> Generator[Told]:
    """Show how many of `total` are done; `what` names them, such as "lines read"."""
    if sys.stderr.isatty():
        yield from _bar(what, total)
    else:
        yield _Lines(what, total)


def _bar(what: str, total: int) -> Generator[Told]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total or None)
        last_s = time.monotonic()

        def told(done: int) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= _BAR_EVERY_S:
                last_s = time.monotonic()
                bar.update(task, completed=done)

        yield told


class _Lines:
    """A line every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._began_s = self._last_s = time.monotonic()

    def __call__(self, done: int) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= _LINE_EVERY_S:
            self._last_s = now_s
            of = f" of {self._total:,}" if self._total else ""
            rate = done / (now_s - self._began_s)
            sys.stderr.write(f"{done:,}{of} {self._what}, {rate:,.0f} a second\n")
