"""The clock that ages are measured by: monotonic, and it goes on while the machine sleeps.

`time.monotonic` stands still while Linux is suspended: a laptop that slept for a week would send frames that the fence
has forgotten, and take it for a rollback of the server.
"""

import time
from typing import Final

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux counts sleep in CLOCK_BOOTTIME only; CLOCK_MONOTONIC of macOS includes it."""


def now_s() -> float:
    """Return seconds since some moment of this boot."""
    return time.clock_gettime(_CLOCK)
