"""The pytest plugin of the installed package: the fixture `sidestream_events`.

A module by itself: pytest loads it at each start, and must not load the package for tests that do not ask for it.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from sidestream.testing import Captured


@pytest.fixture
def sidestream_events() -> "Generator[Captured]":
    """Capture what the application reports during one test; what production would refuse fails the test.

    See `sidestream.testing.Captured`: `usage`, `operations`, `transitions`, `errors`, `events`, `clear()`.
    """
    from sidestream.testing import capture  # noqa: PLC0415 - a run that does not ask for it does not pay for it

    with capture() as captured:
        yield captured
