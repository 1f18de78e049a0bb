"""What the service reports: FastAPI's own test client, a real SDK, real JSON, no network, no Redis."""

import json
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import httpx2
import pytest
from fastapi.testclient import TestClient
from openai import AsyncOpenAI

from examples.fastapi_app.app import api, app, openai_client
from sidestream.testing import Captured

Answer: TypeAlias = Callable[[httpx2.Request], httpx2.Response]

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_790_000_000,
    "model": "gpt-4o-2024-08-06",
    "status": "completed",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "High tide", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 1_000,
        "input_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 0},
        "output_tokens": 200,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 1_200,
    },
}
PLACE: dict[str, Any] = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
BEGUN: dict[str, Any] = RESPONSE | {"status": "in_progress", "output": [], "usage": None}
MESSAGE: dict[str, Any] = RESPONSE["output"][0]
STREAM: list[dict[str, Any]] = [
    {"type": "response.created", "response": BEGUN},
    {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE | {"content": []}},
    {"type": "response.content_part.added", "part": MESSAGE["content"][0] | {"text": ""}, **PLACE},
    {"type": "response.output_text.delta", "delta": "High ", **PLACE},
    {"type": "response.output_text.delta", "delta": "tide", **PLACE},
    {"type": "response.completed", "response": RESPONSE},
]


def answered(request: httpx2.Request) -> httpx2.Response:
    """Answer as OpenAI does, at once or in a stream."""
    if not json.loads(request.content).get("stream"):
        return httpx2.Response(200, json=RESPONSE)
    numbered = (each | {"sequence_number": number} for number, each in enumerate(STREAM))
    body = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in numbered)
    return httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})


def refused(_: httpx2.Request) -> httpx2.Response:
    """Refuse, and quote what was asked."""
    return httpx2.Response(400, json={"error": {"message": "You said: my secret plan"}})


def without_output(_: httpx2.Request) -> httpx2.Response:
    """Answer in a way that the application has not thought of."""
    return httpx2.Response(200, json=RESPONSE | {"output": None})


@pytest.fixture
def service(sidestream_events: Captured, request: pytest.FixtureRequest) -> Generator[TestClient]:
    """Run the service with a model that answers as the test says; what it reports is captured meanwhile."""
    answer: Answer = getattr(request, "param", answered)
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    api.dependency_overrides[openai_client] = lambda: AsyncOpenAI(api_key="none", max_retries=0, http_client=http)
    with TestClient(app, headers={"x-user": "ada"}, raise_server_exceptions=False) as client:
        yield client
    api.dependency_overrides.clear()


def test_a_request_is_about_the_session_in_its_path(service: TestClient, sidestream_events: Captured) -> None:
    """No call names it: the middleware does."""
    assert service.post("/talks/talk-1/outline?topic=tides").json() == {"talk": "talk-1", "outline": "High tide"}
    [request] = sidestream_events.usage
    assert (request.agent, request.session, request.user) == ("outliner", "talk-1", "ada")
    assert (request.input_tokens, request.cache_read_tokens, request.output_tokens) == (1_000, 400, 200)


def test_a_streamed_answer_is_reported_when_it_has_been_sent(service: TestClient, sidestream_events: Captured) -> None:
    """The body is written after the handler has returned, still inside the session and in the state it entered."""
    assert service.post("/talks/talk-2/write?plan=tides").text == "High tide"
    [request] = sidestream_events.usage
    [change] = sidestream_events.transitions
    assert (change.from_state, change.to_state, change.session) == ("outlining", "writing", "talk-2")
    assert (request.agent, request.session, request.state) == ("writer", "talk-2", "writing")
    assert (request.status, request.user) == ("ok", "ada")
    assert (request.input_tokens, request.finish_reason) == (1_000, "stop")


def test_a_websocket_is_about_its_session_until_the_client_leaves(
    service: TestClient, sidestream_events: Captured
) -> None:
    """Two messages, two requests; a client that leaves is no error."""
    with service.websocket_connect("/talks/talk-3/ws") as socket:
        for _ in range(2):
            socket.send_text("Go on")
            assert socket.receive_text() + socket.receive_text() == "High tide"
    assert [(request.session, request.user) for request in sidestream_events.usage] == [("talk-3", "ada")] * 2
    assert not sidestream_events.errors


@pytest.mark.parametrize("service", [refused], indirect=True)
def test_what_the_provider_refuses_is_one_failed_request_and_one_error(
    service: TestClient, sidestream_events: Captured
) -> None:
    """The user gets an answer, the report the failure, and nobody the provider's text."""
    assert service.post("/talks/talk-4/outline?topic=my+secret+plan").status_code == 503
    [request] = sidestream_events.usage
    [error] = sidestream_events.errors
    assert (request.status, request.error_type) == ("error", "BadRequestError")
    assert (error.type, error.code, error.session) == ("BadRequestError", "400", "talk-4")
    assert "secret" not in repr(sidestream_events.events)


@pytest.mark.parametrize("service", [without_output], indirect=True)
def test_what_fails_after_the_answer_is_one_error_and_the_request_went_well(
    service: TestClient, sidestream_events: Captured
) -> None:
    """An exception that nobody handles is reported by the middleware; the tokens were spent all the same."""
    assert service.post("/talks/talk-5/outline?topic=tides").status_code == 500
    assert [(request.status, request.input_tokens) for request in sidestream_events.usage] == [("ok", 1_000)]
    assert [(error.type, error.session) for error in sidestream_events.errors] == [("TypeError", "talk-5")]


def test_an_answer_below_500_is_no_error(service: TestClient, sidestream_events: Captured) -> None:
    """What a client did wrong asks no model and fails nothing."""
    assert service.post("/talks/talk-6/write?plan=").status_code == 422
    assert not sidestream_events.events
