"""For an application's own tests: what it reported, without a Redis.

with sidestream.testing.captured() as events:
    run_my_agent()
assert events()[0].agent == "director"
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import sidestream
from pipeline.events import Event


@contextmanager
def captured() -> Generator[Callable[[], list[Event]]]:
    """Hold what is reported inside the block; call what it gives to get the events so far, oldest first.

    Telemetry that was configured before is closed, and is switched off afterwards.
    """
    telemetry = sidestream.default_telemetry()
    telemetry.hold()
    try:
        yield telemetry.held
    finally:
        telemetry.release()
