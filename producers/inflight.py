"""Operations that have begun and not ended: what only the application knows."""

from typing import Final

from pipeline.presence import OpenOperation

MAX_OPEN: Final = 10_000
"""Operations followed at once; more are recorded when they end, and not shown before."""

SHOWN_AFTER_US: Final = 5_000_000
SHOWN_AT_MOST: Final = 50


class OpenOperations:
    """Remembers what is open; beginning and ending are one dictionary step each, without a lock."""

    def __init__(self) -> None:
        self._open: dict[str, OpenOperation] = {}

    def begin(self, operation_id: str, name: str, agent: str, now_us: int) -> None:
        """Note that an operation begins; `now_us` is the wall clock."""
        if len(self._open) < MAX_OPEN:
            self._open[operation_id] = OpenOperation(name, agent, now_us)

    def end(self, operation_id: str) -> None:
        """Note that it has ended; an unknown one is passed over."""
        self._open.pop(operation_id, None)

    def older_than(self, now_us: int, age_us: int = SHOWN_AFTER_US) -> tuple[OpenOperation, ...]:
        """Return the oldest of those that have been open for `age_us` or longer."""
        found = [o for o in list(self._open.values()) if now_us - o.started_us >= age_us]
        return tuple(sorted(found, key=lambda o: o.started_us)[:SHOWN_AT_MOST])
