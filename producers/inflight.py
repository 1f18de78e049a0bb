"""Operations that have begun and not ended: what only the application knows.

Keeps:
- Beginning and ending are one step of a set each, without a lock: names are made storable when they are shown.
- What is open is held weakly. An operation that is dropped without an end (a generator nobody closes, a run that a
  durable engine replays) goes when its object goes, and nothing is followed for ever.
- Whoever asks may be another thread: it works on a copy.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol
from weakref import ReferenceType, ref

import msgspec

from pipeline import limits
from pipeline.presence import OpenOperation

MAX_OPEN: Final = 10_000
"""Operations followed at once; more are recorded when they end, and not shown before."""

SHOWN_AFTER_US: Final = 5_000_000
"""What ends sooner is nobody's concern, and is never in a presence."""

SHOWN_OF_EACH_KIND: Final = 25
"""By kind, or the steps that an application holds open for hours would hide the request that hangs."""


class Followed(Protocol):
    """What is followed while it is open."""

    @property
    def kind(self) -> str:
        """`run`, `request`, `tool` or `step`."""
        ...

    @property
    def started_us(self) -> int:
        """When it began, by the wall clock."""
        ...

    def open_operation(self) -> OpenOperation:
        """Say what it is; called by the publisher's thread while it is open."""
        ...


def _nobody() -> None:
    """Wake nobody."""


class OpenOperations:
    """Remembers what is open.

    Args:
        wake: Wakes who writes the presence; called once, when the first operation begins: it may hang before there was
            any event.
    """

    def __init__(self, wake: Callable[[], None] = _nobody) -> None:
        self._open: set[ReferenceType[Followed]] = set()
        self._wake = wake
        self._woken = False

    def begin(self, operation: Followed) -> None:
        """Note that an operation begins."""
        if len(self._open) < MAX_OPEN:
            # A reference is found again by what it refers to, and takes itself out when that is gone.
            self._open.add(ref(operation, self._open.discard))
        if not self._woken:
            self._woken = True
            self._wake()

    def end(self, operation: Followed) -> None:
        """Note that it has ended; an unknown one is passed over."""
        self._open.discard(ref(operation))

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def older_than(self, now_us: int, age_us: int = SHOWN_AFTER_US) -> tuple[OpenOperation, ...]:
        """Return those that have been open for `age_us` or longer: the oldest of each kind, oldest first."""
        living = [operation for reference in self._open.copy() if (operation := reference()) is not None]
        old = sorted((o for o in living if now_us - o.started_us >= age_us), key=lambda o: o.started_us)
        shown: Counter[str] = Counter()
        found: list[OpenOperation] = []
        for operation in old:
            kind = storable(operation.kind)
            shown[kind] += 1
            if shown[kind] <= SHOWN_OF_EACH_KIND:
                found.append(_storable(operation.open_operation()))
        return tuple(found)


def storable(name: str) -> str:
    """Return a name as it can be stored: cut, and without what UTF-8 cannot carry; what is no string is empty."""
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - an application may pass anything
        return ""
    return name[: limits.MAX_NAME_CHARS].encode("utf-8", "replace").decode()


def _storable(found: OpenOperation) -> OpenOperation:
    return msgspec.structs.replace(
        found,
        name=storable(found.name),
        agent=storable(found.agent),
        kind=storable(found.kind),
        model=storable(found.model),
        operation_id=storable(found.operation_id),
        run_id=storable(found.run_id),
        parent_id=storable(found.parent_id),
        session=storable(found.session),
    )
