"""When to try again: exponential back-off, and a circuit breaker that stops sending to what does not answer.

Time and randomness are arguments, so every branch is testable without waiting.
"""

from dataclasses import dataclass
from typing import Literal

OPEN_AFTER = 3
"""Failures in a row that open the circuit: one may be a restart, two its echo."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between tries: doubling from `first_s` to `most_s`, each drawn from the upper half of its range."""

    first_s: float = 0.05
    most_s: float = 5.0

    def pause_s(self, failures: int, draw: float) -> float:
        """Return seconds to wait after the n-th failure in a row (from 1); `draw` is uniform in [0, 1)."""
        span = min(self.most_s, self.first_s * 2 ** min(failures - 1, 30))
        return span * (0.5 + draw / 2)


class Breaker:
    """A circuit breaker: closed while tries succeed, open while one must wait, half open for the one try that decides.

    Before `open_after` failures in a row it only paces: the next try may send everything. From then on the next try is
    a probe: its caller sends as little as possible, so that a server that hangs or is overloaded is not given the whole
    backlog again at each try.

    Args:
        backoff: The pauses.
        open_after: Failures in a row after which tries are probes.
    """

    def __init__(self, backoff: Backoff | None = None, open_after: int = OPEN_AFTER) -> None:
        self.failures = 0
        """In a row."""
        self._backoff = backoff or Backoff()
        self._open_after = open_after
        self._since_s = 0.0
        self._until_s = 0.0

    def failed(self, now_s: float, draw: float, *, least_s: float = 0.0) -> None:
        """Take note of a failure.

        Args:
            now_s: A monotonic clock.
            draw: Uniform in [0, 1): spreads the tries of many.
            least_s: The least to wait, where trying sooner cannot help.
        """
        self.failures += 1
        self._since_s = now_s
        self._until_s = now_s + max(least_s, self._backoff.pause_s(self.failures, draw))

    def succeeded(self) -> None:
        """Take note that a try went well: the circuit closes."""
        self.failures = 0

    def pause_s(self, now_s: float, *, most_s: float | None = None) -> float:
        """Return seconds until the next try; `most_s` is the longest that someone in a hurry waits between two."""
        if not self.failures:
            return 0.0
        until_s = self._until_s if most_s is None else min(self._until_s, self._since_s + most_s)
        return max(0.0, until_s - now_s)

    def state(self, now_s: float) -> Literal["closed", "open", "half_open"]:
        """Return the state of the circuit."""
        if self.failures < self._open_after:
            return "closed"
        return "open" if now_s < self._until_s else "half_open"

    @property
    def probing(self) -> bool:
        """Whether the next try is to be a small one."""
        return self.failures >= self._open_after
