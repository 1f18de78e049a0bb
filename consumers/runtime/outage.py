"""Outages: how a loop of the worker meets trouble; said once, and once that it is over."""

import logging
import random
from typing import Final

from pipeline.errors import PermanentError, SidestreamError
from pipeline.retry import Backoff

log = logging.getLogger("sidestream.worker")

PAUSE_S: Final = 60.0
"""How long a unit rests at most after an error that repeating cannot mend (a revoked token, a newer recipe)."""

REFUSED: Final = Backoff(first_s=1.0, most_s=PAUSE_S)
"""Pauses after an error that repeating cannot mend: an operator may."""


class Outage:
    """Says once that something (a unit, the leases, a task) is in trouble of some kind, and once that it goes on."""

    def __init__(self, what: str) -> None:
        self.backoff = Backoff()
        self._what = what
        self._failures = 0
        self._said = ""

    def seen(self, error: SidestreamError) -> float:
        """Note a failure; return how many seconds to wait: what the far side asked for, else by back-off."""
        self._failures += 1
        about = {"what": self._what, "code": error.code, "reason": str(error)}
        if isinstance(error, PermanentError):
            if self._is_news(error.code):
                log.error("It rests: repeating cannot mend this", extra=about)
            return REFUSED.pause_s(self._failures, random.random())  # noqa: S311 - jitter, no secret
        if self._is_news("waits"):
            log.warning("Waiting: no answer from Redis, or from where a sink delivers", extra=about)
        asked_s: float | None = getattr(error, "retry_after_s", None)
        return asked_s or self.backoff.pause_s(self._failures, random.random())  # noqa: S311 - jitter, no secret

    def fault(self, error: Exception) -> float:
        """Note a fault of ours; return how many seconds to wait."""
        self._failures += 1
        if self._is_news(repr(error)):
            log.error("It failed, and goes on from where it stood", exc_info=error, extra={"what": self._what})
        return self.backoff.most_s

    def over(self) -> None:
        """Note a success."""
        if self._failures:
            log.info("Going on", extra={"what": self._what, "failures": self._failures})
        self._failures = 0
        self._said = ""

    def _is_news(self, kind: str) -> bool:
        is_news, self._said = kind != self._said, kind
        return is_news
