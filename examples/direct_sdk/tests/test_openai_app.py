"""What the application with OpenAI's SDK reports: real clients, real JSON, no network."""

import asyncio

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

import sidestream
from examples.direct_sdk import openai_app
from examples.direct_sdk.tests.conftest import Json, events, transport
from sidestream.testing import Captured

USAGE: Json = {
    "prompt_tokens": 1_000,
    "completion_tokens": 200,
    "total_tokens": 1_200,
    "prompt_tokens_details": {"cached_tokens": 400},
}
COMPLETION: Json = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Tides"}}],
    "usage": USAGE,
}
RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_790_000_000,
    "model": "gpt-4o-2024-08-06",
    "status": "completed",
    "output": [
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Too long", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 300, "output_tokens": 20, "total_tokens": 320},
}
REFUSED = httpx2.Response(429, json={"error": {"message": "Slow down. You said: my secret plan", "code": "rate"}})


def chunk(**fields: object) -> Json:
    """Return one chunk of a stream."""
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": COMPLETION["model"], **fields}


def piece(text: str, reason: str | None = None) -> Json:
    """Return a chunk with a piece of text."""
    return chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": reason}])


STREAM = [piece("High "), piece("tide", "stop"), chunk(choices=[], usage=USAGE)]


def client(response: httpx2.Response) -> OpenAI:
    """Return OpenAI's client, answered so."""
    return OpenAI(api_key="none", max_retries=0, http_client=httpx2.Client(transport=transport(response)))


def async_client(response: httpx2.Response) -> AsyncOpenAI:
    """Return OpenAI's asynchronous client, answered so."""
    return AsyncOpenAI(api_key="none", max_retries=0, http_client=httpx2.AsyncClient(transport=transport(response)))


def test_a_request_is_reported_with_its_tokens(sidestream_events: Captured) -> None:
    """One call, one event: whose it is, what was asked, what answered, what it took."""
    with sidestream.session_context("talk-1", "ada", state="outlining"):
        assert openai_app.outline(client(httpx2.Response(200, json=COMPLETION)), "tides") == "Tides"
    [request] = sidestream_events.usage
    assert (request.agent, request.session, request.user, request.state) == ("outliner", "talk-1", "ada", "outlining")
    assert (request.model, request.response_model, request.provider) == ("gpt-4o", "gpt-4o-2024-08-06", "openai")
    assert (request.input_tokens, request.cache_read_tokens, request.output_tokens) == (1_000, 400, 200)
    assert (request.status, request.finish_reason) == ("ok", "stop")
    assert request.duration_us
    assert not sidestream_events.errors


async def test_an_awaited_request_is_reported_too(sidestream_events: Captured) -> None:
    """The Responses API with the asynchronous client."""
    assert await openai_app.review(async_client(httpx2.Response(200, json=RESPONSE)), "High tide") == "Too long"
    [request] = sidestream_events.usage
    assert (request.agent, request.input_tokens, request.output_tokens) == ("reviewer", 300, 20)
    assert request.finish_reason == "stop"


def test_a_stream_is_one_request_with_a_time_to_its_first_token(sidestream_events: Captured) -> None:
    """What the SDK put together in the end has tokens, model and reason."""
    assert list(openai_app.write(client(events(*STREAM)), "Tides")) == ["High ", "tide"]
    [request] = sidestream_events.usage
    assert (request.agent, request.input_tokens, request.finish_reason) == ("writer", 1_000, "stop")
    assert request.ttft_us is not None
    assert request.duration_us is not None
    assert request.ttft_us <= request.duration_us


async def test_the_last_chunk_of_a_raw_stream_has_the_tokens(sidestream_events: Captured) -> None:
    """Without the SDK's own sum the reason is not known, the tokens are."""
    pieces = [text async for text in openai_app.shorten(async_client(events(*STREAM)), "A long text")]
    assert pieces == ["High ", "tide"]
    [request] = sidestream_events.usage
    assert (request.agent, request.output_tokens, request.finish_reason) == ("editor", 200, "")


def test_a_refused_request_is_one_failed_request_and_one_error(sidestream_events: Captured) -> None:
    """Whatever contexts the exception passes on its way out, and without a word of what it says."""
    with pytest.raises(openai.RateLimitError), sidestream.session_context("talk-1"):
        openai_app.outline(client(REFUSED), "my secret plan")
    [request] = sidestream_events.usage
    [error] = sidestream_events.errors
    assert (request.status, request.error_type, request.model) == ("error", "RateLimitError", "gpt-4o")
    assert (error.type, error.code, error.agent, error.session) == ("RateLimitError", "429", "outliner", "talk-1")
    assert "secret" not in repr(sidestream_events.events)


def test_a_reader_who_leaves_interrupts_the_request_and_is_no_error(sidestream_events: Captured) -> None:
    """OpenAI tells the tokens at the end of a stream only, so nobody knows them here."""
    pieces = openai_app.write(client(events(*STREAM)), "Tides")
    assert next(pieces) == "High "
    pieces.close()
    [request] = sidestream_events.usage
    assert (request.status, request.output_tokens) == ("interrupted", 0)
    assert not sidestream_events.errors


async def test_a_cancelled_request_is_no_error(sidestream_events: Captured) -> None:
    """The task that waits for an answer is cancelled."""
    asked = asyncio.Event()

    async def never(_: httpx2.Request) -> httpx2.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(never))
    waiting = asyncio.create_task(openai_app.review(AsyncOpenAI(api_key="none", http_client=http), "Tides"))
    await asked.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert [request.status for request in sidestream_events.usage] == ["cancelled"]
    assert not sidestream_events.errors


def test_the_whole_application(
    sidestream_events: Captured, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`configure` does nothing under the fixture, so the application is started as it is."""
    answers = iter([httpx2.Response(200, json=COMPLETION), events(*STREAM)])
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _: next(answers)))
    monkeypatch.setattr(openai_app, "OpenAI", lambda: OpenAI(api_key="none", http_client=http))
    monkeypatch.setattr(openai_app, "AsyncOpenAI", lambda: async_client(httpx2.Response(200, json=RESPONSE)))
    openai_app.main("tides")
    assert [request.agent for request in sidestream_events.usage] == ["outliner", "writer", "reviewer"]
    assert [request.state for request in sidestream_events.usage] == ["outlining", "writing", "reviewing"]
    assert capsys.readouterr().out == "High tide\n\nToo long\n"
