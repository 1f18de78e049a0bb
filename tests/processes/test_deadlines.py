"""`flush` and `close` keep their deadline to within 100 ms, whatever Redis does."""

import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
from support import RealServer, spawned

from producers.settings import PublishSettings
from producers.telemetry import Telemetry

TOLERANCE_S = 0.1


@pytest.fixture
def hung() -> Generator[Telemetry]:
    """Return telemetry whose server stands still, after it has answered once."""
    with spawned("valkey") as server, opened(server.url) as telemetry:
        telemetry.usage("a", "m")
        assert telemetry.flush(5)
        with stopped(server):
            telemetry.usage("a", "m")
            yield telemetry
            telemetry.close(0)


@pytest.fixture
def refused() -> Generator[Telemetry]:
    """Return telemetry whose server refuses connections."""
    with opened("redis://127.0.0.1:1") as telemetry:
        telemetry.usage("a", "m")
        yield telemetry
        telemetry.close(0)


@contextmanager
def opened(url: str) -> Generator[Telemetry]:
    """Open telemetry for a block."""
    telemetry = Telemetry(PublishSettings(namespace="test", linger_ms=5), lambda: url)
    yield telemetry
    telemetry.close(0)


@contextmanager
def stopped(server: RealServer) -> Generator[None]:
    """Stop the server's process for a block."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def seconds_of(call: Callable[[float], bool], timeout_s: float) -> float:
    """Return how long a call took that cannot succeed."""
    began_s = time.monotonic()
    assert not call(timeout_s)
    return time.monotonic() - began_s


@pytest.mark.parametrize("how", ["hung", "refused"])
@pytest.mark.parametrize("timeout_s", [0.0, 0.3, 1.0])
def test_flush_and_close_keep_their_deadline(how: str, timeout_s: float, request: pytest.FixtureRequest) -> None:
    """With Redis hung, and with nobody there, both return False, no later than a tenth of a second after the time."""
    telemetry: Telemetry = request.getfixturevalue(how)
    assert timeout_s <= seconds_of(telemetry.flush, timeout_s) < timeout_s + TOLERANCE_S
    assert seconds_of(telemetry.close, timeout_s) < timeout_s + TOLERANCE_S
    assert telemetry.statistics().offered == telemetry.statistics().accounted()


@pytest.mark.parametrize("how", ["hung", "refused"])
async def test_aflush_and_aclose_keep_it_too(how: str, request: pytest.FixtureRequest) -> None:
    """Awaiting them takes no longer, once what they import and the thread they wait in are there."""
    telemetry: Telemetry = request.getfixturevalue(how)
    await telemetry.aflush(0)
    for call in (telemetry.aflush, telemetry.aclose):
        began_s = time.monotonic()
        assert not await call(0.3)
        # Twice the tolerance: the loop, the thread and the server share two cores with another test.
        assert time.monotonic() - began_s < 0.3 + 2 * TOLERANCE_S, call
