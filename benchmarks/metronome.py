"""Writes the clock to standard output at a steady pace, from a process of its own: what an event loop should hear.

`python -m benchmarks.metronome INTERVAL_US`. The receiving loop compares each time with its own clock: both are the
machine's monotonic one. Timers of the loop itself would not do: epoll rounds them up to a millisecond, which is more
than what is measured.
"""

import os
import struct
import sys
import time
from typing import Final

TICK: Final = struct.Struct("=q")
"""One tick: `perf_counter_ns` when it was due or, if this process was late, when it was sent."""


def main(interval_us: int) -> None:
    """Tick until the process is ended, or nobody listens."""
    out, interval_ns = sys.stdout.fileno(), interval_us * 1000
    due_ns = time.perf_counter_ns()
    while True:
        due_ns = max(due_ns + interval_ns, time.perf_counter_ns())
        time.sleep(max(0, due_ns - time.perf_counter_ns()) / 1e9)
        # The time of sending: that this process woke late is no fault of the loop it writes to.
        os.write(out, TICK.pack(time.perf_counter_ns()))


if __name__ == "__main__":
    main(int(sys.argv[1]))
