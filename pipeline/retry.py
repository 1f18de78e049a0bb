"""When to try again: exponential back-off, each pause drawn from the upper half of its range.

Time and randomness are arguments, so every branch is testable without waiting.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between tries: doubling from `first_s` to `most_s`, each drawn from the upper half of its range."""

    first_s: float = 0.05
    most_s: float = 5.0

    def pause_s(self, failures: int, draw: float) -> float:
        """Return seconds to wait after the n-th failure in a row (from 1); `draw` is uniform in [0, 1)."""
        span = min(self.most_s, self.first_s * 2 ** min(failures - 1, 30))
        return span * (0.5 + draw / 2)
