"""A trial: fold a batch in a process of its own, and say how far that came, or end of it.

`python -m consumers.runtime.trial <module>:<name>` builds a handler, reads a `Request`, folds, and writes an `Answer`.
No answer, or an exit code, means that it ended of what it was given.

Keeps:
- It changes nothing: no connection, no file. Whatever a handler prints goes to standard error.
- It ends by what it folds, and by its own clock; signals that are meant for the worker do not end it.
"""

import os
import pkgutil
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, cast

import msgspec
from msgspec import Struct

from consumers.folding import FoldHandler
from consumers.runtime.batch import Cursor, Decoder, outcome_of, portions_of, slices_of
from consumers.versions import ALL_DAYS, Days
from pipeline.wire import StoredEntry

_NOT_OURS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Sent to a worker and all it has started; a child that ended of them would blame an event."""


class Request(Struct, frozen=True):
    """What to fold: `events` of these entries from the cursor on; 0 only decodes them, no entries do nothing at all.

    `recipe` is the hash of the recipe that the worker has; `seconds` is when the process ends itself.
    """

    partition: int
    entries: Sequence[StoredEntry]
    cursor: Cursor
    events: int
    budget: int
    recipe: str
    seconds: int
    days: Days = ALL_DAYS


class Answer(Struct, frozen=True):
    """How many events were taken, or why this process can try nothing."""

    events: int = 0
    unfit: str = ""


def main() -> None:
    """Answer one request."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for name in _NOT_OURS:
        signal.signal(name, signal.SIG_IGN)
    # A search may end a dozen of processes; the worker that died before it has left its core.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    answer = msgspec.msgpack.encode(answer_to(sys.stdin.buffer.read(), sys.argv[1]))
    # Where the worker is gone, nobody wants to know.
    with suppress(BrokenPipeError), open(answers, "wb") as out:  # noqa: PTH123 - a descriptor has no path
        out.write(answer)


def answer_to(asked: bytes, factory: str) -> Answer:
    """Build the handler and fold with it."""
    try:
        request = msgspec.msgpack.decode(asked, type=Request)
    except msgspec.DecodeError as error:
        return Answer(unfit=f"half a request: the worker ended while it asked ({error})")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(request.seconds)
    try:
        handler = cast("Callable[[], FoldHandler]", pkgutil.resolve_name(factory))()
        recipe = handler.recipe().hash()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no event's doing, and goes to whoever asked
        return Answer(unfit=f"{factory}: {type(error).__name__}: {error}")
    if recipe != request.recipe:
        return Answer(unfit=f"{factory} has another recipe than the worker: it was replaced under its feet")
    return Answer(_fold(handler, request))


def _fold(handler: FoldHandler, request: Request) -> int:
    most = max(1, request.events)
    try:
        portions = portions_of(request.entries, request.cursor, Decoder(), request.partition, most)
        if not request.events:
            return 0
        outcome = outcome_of(portions, handler.fold(slices_of(portions, request.days), request.budget), request.cursor)
    except Exception:  # noqa: BLE001 - it ends no process; the worker meets it in its own way
        return request.events
    return outcome.events if outcome else 0


if __name__ == "__main__":
    main()
