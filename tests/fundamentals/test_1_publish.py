"""1. Publishing: an application reports, a stream carries.

Read these in order: each shows one idea, with a real server.
"""

import math
from collections.abc import Generator
from pathlib import Path

import pytest

import sidestream
from pipeline.connection import AsyncServer
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.stream import parse_entries
from pipeline.wire import FrameDecoder
from sidestream.testing import capture


@pytest.fixture
def app(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[sidestream.Telemetry]:
    """Configure telemetry as an application does at its start, and close it as it does at its end."""
    monkeypatch.chdir(tmp_path)
    yield sidestream.configure(service="deckster", redis_url=redis_url, namespace="test", linger_ms=1)
    sidestream.close()


async def read_all(server: AsyncServer, keys: Keys) -> list[Event]:
    """Return every event of every partition."""
    events: list[Event] = []
    for number in range(4):
        reply = await server.call("XRANGE", keys.partition(number).stream(), "-", "+")
        frames = [FrameDecoder().decode(entry.parse()) for entry in parse_entries(reply)]
        events += [event for frame in frames for event in frame.events if event is not None]
    return events


async def test_a_request_becomes_an_event_on_the_stream(
    app: sidestream.Telemetry, server: AsyncServer, keys: Keys
) -> None:
    """`usage` returns at once; `flush` waits until Redis has answered."""
    with sidestream.session_context("session-1", "user-1", state="outline"):
        assert sidestream.usage("director", "gpt-4o", 1200, 350, duration_us=812_000)
    assert sidestream.flush(5)
    [event] = await read_all(server, keys)
    assert isinstance(event, UsageEvent)
    assert (event.agent, event.model, event.input_tokens, event.output_tokens) == ("director", "gpt-4o", 1200, 350)
    assert (event.session, event.user, event.state) == ("session-1", "user-1", "outline")


async def test_close_publishes_what_is_left(app: sidestream.Telemetry, server: AsyncServer, keys: Keys) -> None:
    """Nothing that was accepted is lost by closing, and nothing is accepted afterwards."""
    for _ in range(100):
        sidestream.usage("director", "gpt-4o", 1)
    assert sidestream.close(5)
    assert len(await read_all(server, keys)) == 100
    assert not sidestream.usage("director", "gpt-4o", 1)


def test_a_transition_changes_the_state_of_later_events() -> None:
    """The state, how long the one before lasted and the n-th visit are known to whoever shares the session."""
    with capture() as captured:
        with sidestream.session_context("session-1", state="outline"):
            sidestream.track_state_transition("outline", "draft")
            sidestream.usage("writer", "gpt-4o")
            sidestream.track_state_transition("draft", "outline", "session-1")
        sidestream.track_state_transition("a", "b", "nobody told of this one")
        first, usage, second, third = captured.events
    assert isinstance(first, TransitionEvent)
    assert isinstance(second, TransitionEvent)
    assert isinstance(third, TransitionEvent)
    assert first.duration_us is not None
    assert usage.state == "draft"
    assert second.visit == 2
    assert third.duration_us is None


def test_an_operation_is_the_parent_of_what_happens_inside() -> None:
    """It is timed, and requests inside name it as their run."""
    with capture() as captured:
        with sidestream.operation("make slides", kind="run", agent="director"):
            sidestream.usage("", "gpt-4o", 5)
        usage, operation = captured.events
    assert isinstance(operation, OperationEvent)
    assert isinstance(usage, UsageEvent)
    assert usage.agent == operation.agent == "director"
    assert usage.run_id == operation.run_id == usage.parent_id == operation.operation_id
    assert operation.status == "ok"


def test_an_exception_is_reported_once_and_without_secrets() -> None:
    """One exception object gives one error, at the innermost place that saw it, however many operations it ends."""

    def fail() -> None:
        raise ConnectionError("redis://user:hunter2@host refused; token=abcdef123")

    with capture() as captured:
        with pytest.raises(ConnectionError), sidestream.operation("outer"), sidestream.operation("inner"):
            fail()
        error, inner, outer = captured.events
    assert isinstance(error, ErrorEvent)
    assert isinstance(inner, OperationEvent)
    assert isinstance(outer, OperationEvent)
    assert (error.type, error.operation) == ("ConnectionError", "inner")
    assert "hunter2" not in error.message
    assert "abcdef" not in error.message
    assert (inner.status, outer.status) == ("error", "error")
    assert inner.parent_id == outer.operation_id


def test_no_call_raises_whatever_it_is_given() -> None:
    """What cannot be stored is counted, not raised."""

    class Hostile(Exception):  # noqa: N818 - it is no error of ours
        def __str__(self) -> str:
            raise RuntimeError

    with capture(allow_invalid=True):
        assert not sidestream.usage(None, 3)  # pyright: ignore[reportArgumentType]
        assert not sidestream.error(Hostile())
        assert not sidestream.track_state_transition("a", "", "s")
        assert not sidestream.track_state_transition(object(), "b", "s")  # pyright: ignore[reportArgumentType]
        assert not sidestream.operation_done("x", duration_us=1, surprise=2)  # pyright: ignore[reportCallIssue]
        with sidestream.session_context(object(), tags=5):  # pyright: ignore[reportArgumentType]
            counts = sidestream.statistics()
    assert counts.invalid == counts.offered == 5


def test_without_configure_every_call_returns_at_once() -> None:
    """An application that does not configure telemetry pays nothing for having it in its code."""
    assert not sidestream.is_configured()
    assert not sidestream.usage("a", "m")
    with sidestream.operation("x"), sidestream.session_context("s"):
        assert not sidestream.emit(UsageEvent(time_us=1))
    assert sidestream.flush(0)
    assert sidestream.close(0)


def test_it_can_be_switched_off_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SIDESTREAM_ENABLED=false` is as if nobody had configured it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDESTREAM_ENABLED", "false")
    sidestream.configure(service="deckster")
    assert not sidestream.is_configured()
    assert not sidestream.usage("a", "m")


def test_a_wrong_setting_is_the_only_thing_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with its place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDESTREAM_LINGER_MS", "soon")
    with pytest.raises(sidestream.SettingsError, match="SIDESTREAM_LINGER_MS"):
        sidestream.configure()


def test_an_unknown_price_is_not_zero() -> None:
    """The guide's estimate says that it does not know."""
    assert math.isnan(sidestream.estimate_token_cost("a model of my own", 1000, 1000))
    assert sidestream.estimate_token_cost("gpt-4o", 1000, 1000) > 0


def test_without_a_token_everything_but_logfire_goes_on(
    app: sidestream.Telemetry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`configure_logfire` says once that there is no token, and raises for nothing."""
    monkeypatch.delenv("LOGFIRE_TOKEN", raising=False)
    assert not sidestream.configure_logfire(force=True)
    assert not sidestream.configure_logfire()
    assert caplog.text.count("LOGFIRE_TOKEN") == 1
    monkeypatch.setenv("LOGFIRE_TRACE_SAMPLE_RATE", "often")
    assert not sidestream.configure_logfire(force=True)
    assert sidestream.usage("a", "m")
