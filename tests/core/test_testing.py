"""What applications test with: captured events are typed, complete and as stored, and nothing is left behind."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import sidestream
from pipeline.errors import SettingsError
from pipeline.events import ErrorEvent
from sidestream.testing import Captured, InvalidEventsError, capture

TESTS_OF_AN_APPLICATION = """
import sidestream

def begin():
    sidestream.configure("app", redis_url="redis://nobody:1", linger_ms=1)

def test_what_it_spent(sidestream_events):
    begin()
    assert sidestream.usage("writer", "gpt-4o", 10, 20)
    assert sidestream.flush(0.0) and sidestream.close(0.0)
    [request] = sidestream_events.usage
    assert (request.agent, request.output_tokens) == ("writer", 20)

def test_that_the_one_before_left_nothing(sidestream_events):
    assert sidestream_events.events == []

def test_what_production_would_refuse(sidestream_events):
    sidestream.usage("writer", "gpt-4o", -1)
"""


def test_events_are_typed_and_as_they_would_be_stored() -> None:
    """Lists by kind, oldest first; strings are cut and secrets taken out, as on the wire."""
    with capture() as captured:
        sidestream.usage("w" * 500, "gpt-4o", 1)
        with sidestream.session_context("s", state="outline"):
            sidestream.track_state_transition("outline", "draft")
        sidestream.error(ValueError("token=abcdef123"))
        sidestream.operation_done("render", duration_us=5)
    assert isinstance(captured, Captured)
    assert [len(captured.usage), len(captured.transitions), len(captured.errors), len(captured.operations)] == [1] * 4
    assert captured.usage[0].agent == "w" * 200
    assert captured.transitions[0].to_state == "draft"
    assert "abcdef" not in captured.errors[0].message
    assert len(captured.events) == 4, "it may be looked at after the block"


def test_what_production_would_refuse_fails_the_test() -> None:
    """Both what the call refuses at once and what only encoding finds; the block's own exception comes first."""

    def refused(error: Exception | None = None) -> None:
        with capture():
            sidestream.usage(None, "m")  # pyright: ignore[reportArgumentType]
            sidestream.usage("a", "m", -1)
            if error is not None:
                raise error

    with pytest.raises(InvalidEventsError, match=r"(?s)1 x usage:arguments.*Expected `int` >= 0"):
        refused()
    with pytest.raises(KeyError):
        refused(KeyError())
    with capture(allow_invalid=True) as captured:
        sidestream.usage("a", "m", -1)
        assert captured.events == []
    assert len(captured.invalid) == 1


def test_an_application_starts_and_ends_inside_without_redis_thread_or_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`configure` reads nothing, `flush` and `close` say yes at once, and no thread begins."""
    monkeypatch.setenv("SIDESTREAM_REDIS_URL", "nonsense")
    before = threading.active_count()
    with capture() as captured:
        sidestream.configure("app")
        sidestream.usage("a", "m", 1)
        assert sidestream.flush(0.0)
        assert sidestream.close(0.0)
        sidestream.usage("a", "m", 2)
        assert threading.active_count() == before
        assert [event.input_tokens for event in captured.usage] == [1, 2]
    assert not sidestream.usage("a", "m"), "it is switched off afterwards"


def test_what_was_reported_can_be_passed_over() -> None:
    """After `clear` only what follows is there."""
    with capture() as captured:
        sidestream.usage("a", "m", 1)
        captured.clear()
        sidestream.usage("a", "m", 2)
        assert [event.input_tokens for event in captured.usage] == [2]


def test_blocks_do_not_nest() -> None:
    """Telemetry is one for the process: a second block says so, and the first goes on."""
    with capture() as captured:
        with pytest.raises(RuntimeError, match="already"):
            capture().__enter__()
        sidestream.usage("a", "m", 1)
        assert len(captured.usage) == 1


def test_a_failing_test_looks_as_the_page_shows_it(tmp_path: Path) -> None:
    """docs/testing.md has the test, and what pytest says of it: passed, and an error at its teardown."""
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text("utf-8")
    [shown] = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "-1, 340" in block]
    (tmp_path / "test_app.py").write_text(f"import sidestream\n\n{code}", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    missing = [line for line in shown.splitlines() if line not in done.stdout]
    assert not missing, done.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_fixture_comes_with_the_package(tmp_path: Path, workers: str) -> None:
    """An application's tests ask for `sidestream_events`, alone or under xdist; each begins with nothing."""
    (tmp_path / "test_app.py").write_text(TESTS_OF_AN_APPLICATION, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert "2 passed, 1 error" in done.stdout or "3 passed, 1 error" in done.stdout, done.stdout
    assert "telemetry would refuse this in production" in done.stdout


def test_messages_are_captured_as_the_application_s_patterns_leave_them() -> None:
    """Given to `configure` inside, for every way an error comes in, and forgotten with the block."""
    with capture() as captured:
        sidestream.configure(redact=[r"CUST-\d+"])
        sidestream.error("ValueError", "no deck of CUST-12")
        sidestream.emit(ErrorEvent(1, "ValueError", "no deck of CUST-12, token=abc"))
    assert [error.message for error in captured.errors] == ["no deck of ***", "no deck of ***, token=***"]
    with capture() as captured:
        sidestream.error("ValueError", "no deck of CUST-12")
    assert [error.message for error in captured.errors] == ["no deck of CUST-12"]


def test_a_wrong_pattern_is_refused_while_captured_too() -> None:
    """An application's tests are where it should be found."""
    with capture(), pytest.raises(SettingsError, match=r"configure\(redact=…\): .*pattern \[0\]"):
        sidestream.configure(redact=["(a"])
