"""What the application with Anthropic's SDK reports: real clients, real JSON, no network."""

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

import sidestream
from examples.direct_sdk import anthropic_app
from examples.direct_sdk.tests.conftest import Json, events, transport
from sidestream.testing import Captured

MESSAGE: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5",
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "content": [{"type": "text", "text": "Tides"}],
    "usage": {
        "input_tokens": 500,
        "cache_read_input_tokens": 400,
        "cache_creation_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
        "output_tokens": 200,
    },
}
BEGUN: Json = MESSAGE | {"content": [], "stop_reason": None, "usage": MESSAGE["usage"] | {"output_tokens": 1}}
STREAM: list[Json] = [
    {"type": "message_start", "message": BEGUN},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "High "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "tide"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 200}},
    {"type": "message_stop"},
]
BROKEN = [*STREAM[:3], {"type": "error", "error": {"type": "overloaded_error", "message": "You said: my secret plan"}}]
REFUSED = httpx2.Response(529, json={"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


def client(response: httpx2.Response) -> Anthropic:
    """Return Anthropic's client, answered so."""
    return Anthropic(api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport(response)))


def async_client(response: httpx2.Response) -> AsyncAnthropic:
    """Return Anthropic's asynchronous client, answered so."""
    http = httpx2.AsyncClient(transport=transport(response))
    return AsyncAnthropic(api_key="none", max_retries=0, http_client=http)


def test_a_request_is_reported_with_what_was_cached(sidestream_events: Captured) -> None:
    """All that went in, and of it what came from the cache, was written to it, and is kept for an hour."""
    with sidestream.session_context("talk-1", "ada"):
        assert anthropic_app.outline(client(httpx2.Response(200, json=MESSAGE)), "tides") == "Tides"
    [request] = sidestream_events.usage
    assert (request.agent, request.session, request.provider) == ("outliner", "talk-1", "anthropic")
    assert (request.model, request.finish_reason, request.status) == ("claude-sonnet-5", "stop", "ok")
    assert (request.input_tokens, request.output_tokens) == (1_000, 200)
    assert (request.cache_read_tokens, request.cache_write_tokens, request.cache_write_1h_tokens) == (400, 100, 40)


async def test_an_awaited_request_is_reported_too(sidestream_events: Captured) -> None:
    """The asynchronous client."""
    await anthropic_app.review(async_client(httpx2.Response(200, json=MESSAGE)), "High tide")
    assert [(request.agent, request.input_tokens) for request in sidestream_events.usage] == [("reviewer", 1_000)]


def test_a_stream_is_one_request_with_a_time_to_its_first_token(sidestream_events: Captured) -> None:
    """The final message has the sum."""
    assert list(anthropic_app.write(client(events(*STREAM, named=True)), "Tides")) == ["High ", "tide"]
    [request] = sidestream_events.usage
    assert (request.input_tokens, request.output_tokens, request.finish_reason) == (1_000, 200, "stop")
    assert request.cache_write_1h_tokens == 40
    assert request.ttft_us is not None


def test_a_stream_that_is_left_has_cost_its_input(sidestream_events: Captured) -> None:
    """Anthropic tells the input first."""
    pieces = anthropic_app.write(client(events(*STREAM, named=True)), "Tides")
    assert next(pieces) == "High "
    pieces.close()
    [request] = sidestream_events.usage
    assert (request.status, request.input_tokens, request.output_tokens) == ("interrupted", 1_000, 1)
    assert not sidestream_events.errors


def test_a_stream_that_the_provider_breaks_is_a_failed_request(sidestream_events: Captured) -> None:
    """It is one error, it has cost its input, and nothing of what the provider says is kept."""
    with pytest.raises(anthropic.APIStatusError), sidestream.session_context("talk-1"):
        list(anthropic_app.write(client(events(*BROKEN, named=True)), "my secret plan"))
    [request] = sidestream_events.usage
    [error] = sidestream_events.errors
    assert (request.status, request.input_tokens) == ("error", 1_000)
    assert (error.type, error.agent, error.model) == (request.error_type, "writer", "claude-sonnet-5")
    assert "secret" not in repr(sidestream_events.events)


def test_a_refused_request_is_one_failed_request_and_one_error(sidestream_events: Captured) -> None:
    """The exception goes on to whoever asked."""
    with pytest.raises(anthropic.APIStatusError), sidestream.session_context("talk-1"):
        anthropic_app.outline(client(REFUSED), "tides")
    assert [(request.status, request.input_tokens) for request in sidestream_events.usage] == [("error", 0)]
    assert [(error.code, error.session) for error in sidestream_events.errors] == [("529", "talk-1")]


def test_the_whole_application(
    sidestream_events: Captured, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`configure` does nothing under the fixture, so the application is started as it is."""
    answers = iter([httpx2.Response(200, json=MESSAGE), events(*STREAM, named=True)])
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _: next(answers)))
    monkeypatch.setattr(anthropic_app, "Anthropic", lambda: Anthropic(api_key="none", http_client=http))
    monkeypatch.setattr(anthropic_app, "AsyncAnthropic", lambda: async_client(httpx2.Response(200, json=MESSAGE)))
    anthropic_app.main("tides")
    assert [request.agent for request in sidestream_events.usage] == ["outliner", "writer", "reviewer"]
    assert {request.session for request in sidestream_events.usage} == {"talk-1"}
    assert capsys.readouterr().out == "High tide\n\nTides\n"
