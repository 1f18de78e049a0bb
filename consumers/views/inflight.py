"""What is open: operations that have begun and not ended, as producers last told, and what can be said of them now.

Keeps: a producer's clock is only ever compared with itself. An operation was so old when its producer spoke, by the
producer's clock; since then so much time has passed, by the broker's.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from pipeline.presence import OpenOperation, Presence


class InFlight(Struct, frozen=True):
    """An operation that has begun and of whose end nobody has heard.

    `state` is `open` while its producer is alive: the call is slow. It is `unknown` when the producer fell silent: it
    died, or cannot reach Redis; whether the call still runs nobody can say. `open_ms` is how long it has been open, of
    an unknown one how long it had been when its producer last spoke, `seen_ms` ago.
    """

    operation: OpenOperation
    producer: str
    service: str
    instance: str
    state: Literal["open", "unknown"]
    open_ms: int
    seen_ms: int

    @property
    def certain_ms(self) -> int:
        """For how long it was certainly open: a producer that died seconds ago still counts as alive."""
        return self.open_ms - self.seen_ms if self.state == "open" else self.open_ms


def in_flight(presence: Presence, life: str, now_ms: int) -> list[InFlight]:
    """Return what one producer has open, the oldest first; nothing for one that said goodbye, or was recovered.

    Args:
        presence: Its last word.
        life: `alive`, `silent`, `closed` or `recovered`.
        now_ms: The broker's clock.
    """
    if life not in {"alive", "silent"}:
        return []
    seen_ms = max(0, now_ms - presence.at_ms)
    # A word of before producers told their clock: the broker's stands in, as if the two agreed.
    clock_us = presence.clock_us or presence.at_ms * 1000
    return [
        InFlight(
            operation,
            presence.producer,
            presence.service,
            presence.instance,
            "open" if life == "alive" else "unknown",
            max(0, (clock_us - operation.started_us) // 1000) + (seen_ms if life == "alive" else 0),
            seen_ms,
        )
        for operation in presence.open_operations
    ]


def oldest_first(found: Sequence[InFlight]) -> list[InFlight]:
    """Return those that are certainly open before those of which nobody knows, the oldest of each first."""
    return sorted(found, key=lambda row: (row.state != "open", -row.open_ms))
