"""Captures: the libraries that this process observes, and how well that goes, for the presence record.

Process-wide, as the hooks are: a library has one set of them, whoever put them in place.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pipeline.presence import Capture

_TELLING: Final[dict[str, Callable[[], Capture | None]]] = {}


def announce(library: str, tell: Callable[[], Capture | None]) -> None:
    """Ask `tell` how the capture of `library` goes, at each word about this process; None while nothing is observed."""
    _TELLING[library] = tell


def captures() -> tuple[Capture, ...]:
    """Return how each capture goes."""
    found: list[Capture] = []
    for tell in list(_TELLING.values()):
        with suppress(Exception):  # a word is never left unsaid for it
            told = tell()
            if told is not None:
                found.append(told)
    return tuple(found)
