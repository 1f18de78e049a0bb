"""A request by hand: timed, reported once however it ends, and seen while it is open."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest

import sidestream
from producers.requests import ModelRequest
from sidestream.testing import Captured

ANSWER = {"model": "deck-1-2026", "usage": {"prompt_tokens": 1_000, "completion_tokens": 200}}
WORDS = "a text that may quote the prompt"


class RefusedError(Exception):
    """What a vendor raises for an answer that says no."""

    status_code = 429

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.body = {"error": text}


def test_an_answered_request_is_one_event_with_its_time(sidestream_events: Captured) -> None:
    """What was asked holds; what answered stands beside it, with the tokens and the time to the first one."""
    with sidestream.model_request("writer", "deck-1", provider="deckai") as request:
        request.first_token()
        request.first_token()
        request.answered(sidestream.openai_usage(ANSWER))
    (usage,) = sidestream_events.usage
    assert (usage.agent, usage.model, usage.response_model, usage.provider) == (
        "writer",
        "deck-1",
        "deck-1-2026",
        "deckai",
    )
    assert (usage.input_tokens, usage.output_tokens, usage.status, usage.operation) == (1_000, 200, "ok", "chat")
    assert usage.duration_us is not None
    assert usage.ttft_us is not None
    assert 0 <= usage.ttft_us <= usage.duration_us
    assert usage.span_id == request.operation_id
    assert sidestream_events.errors == []


def test_a_failed_request_is_one_request_and_one_error(sidestream_events: Captured) -> None:
    """It goes on to the application unchanged; its HTTP status is the code, and the provider's words are not kept."""
    with (
        pytest.raises(RefusedError),
        sidestream.session_context("s-1"),
        sidestream.operation("outline"),
        sidestream.model_request("writer", "deck-1"),
    ):
        raise RefusedError(WORDS)
    (usage,), (error,) = sidestream_events.usage, sidestream_events.errors
    assert (usage.status, usage.error_type, usage.input_tokens) == ("error", "RefusedError", 0)
    assert (error.type, error.code, error.model, error.session) == ("RefusedError", "429", "deck-1", "s-1")
    assert error.span_id == usage.span_id
    assert WORDS not in repr((sidestream_events.errors, sidestream_events.operations))


@pytest.mark.parametrize(
    ("stop", "status"),
    [(asyncio.CancelledError, "cancelled"), (GeneratorExit, "interrupted"), (KeyboardInterrupt, "cancelled")],
)
def test_who_stops_a_request_makes_it_no_error(
    stop: type[BaseException], status: str, sidestream_events: Captured
) -> None:
    """Its tokens, as far as they were told, are kept."""
    request = sidestream.model_request("writer", "deck-1")
    with pytest.raises(stop), request:
        raise _answered(request, stop)
    (usage,) = sidestream_events.usage
    assert (usage.status, usage.error_type, usage.input_tokens) == (status, "", 1_000)
    assert sidestream_events.errors == []


def _answered(request: ModelRequest, stop: type[BaseException]) -> BaseException:
    request.answered(sidestream.openai_usage(ANSWER))
    return stop()


def test_a_reader_who_leaves_a_stream_interrupts_it(sidestream_events: Captured) -> None:
    """A generator that is closed before its end is one interrupted request."""

    def stream() -> Iterator[str]:
        with sidestream.model_request("writer", "deck-1") as request:
            for word in ("one", "two"):
                request.first_token()
                yield word

    words = stream()
    next(words)
    cast("Any", words).close()
    (usage,) = sidestream_events.usage
    assert usage.status == "interrupted"
    assert usage.ttft_us is not None


def test_inside_an_agent_s_operation_it_is_that_agent_s(sidestream_events: Captured) -> None:
    """A request belongs to the run and the operation that it is made in."""
    with sidestream.operation("deck", kind="run", agent="director") as run, sidestream.model_request("", "deck-1"):
        pass
    (usage,) = sidestream_events.usage
    assert (usage.agent, usage.run_id, usage.parent_id) == ("director", run.run_id, run.operation_id)


def test_while_it_is_open_it_is_seen(sidestream_events: Captured) -> None:
    """The presence record shows what a process asked for, and whom, and no more once it has ended."""
    telemetry = sidestream.default_telemetry()
    with sidestream.session_context("s-1"), sidestream.model_request("writer", "deck-1") as request:
        (row,) = telemetry.open_operations.older_than(request.started_us + 1, 0)
        assert (row.kind, row.name, row.agent, row.model, row.session) == ("request", "chat", "writer", "deck-1", "s-1")
    assert len(telemetry.open_operations) == 0


@pytest.mark.parametrize("answer", [None, 7, "text", {"agent": "x", 3: 4}, {"input_tokens": "many"}, {"no_field": 1}])
def test_whatever_an_application_hands_over_nothing_is_raised(answer: object) -> None:
    """What cannot be stored is counted as invalid, or left out."""
    telemetry = sidestream.Telemetry()
    telemetry.hold()
    with telemetry.model_request("writer", "deck-1") as request:
        request.answered(cast("Any", answer))
    counts = telemetry.statistics()
    telemetry.release()
    assert counts.offered == 1


def test_switched_off_it_does_nothing() -> None:
    """Without `configure` the block runs, and that is all."""
    with sidestream.Telemetry().model_request("writer", "deck-1") as request:
        request.first_token()
        request.answered(sidestream.openai_usage(ANSWER))
    assert request.operation_id == ""
