"""What the tasks report: a real worker in a thread, a broker in memory, a real SDK, no network, no Redis."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import httpx2
import openai
import pytest
from celery.contrib.testing import worker
from openai import OpenAI

import sidestream
from sidestream.testing import Captured

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-4o-2024-08-06",
    "status": "completed",
    "output": [],
    "usage": {"input_tokens": 1_000, "output_tokens": 200, "total_tokens": 1_200},
}


@pytest.fixture
def answers() -> list[httpx2.Response]:
    """What the model answers, one after the other; when there is nothing left, the last again."""
    return [httpx2.Response(200, json=RESPONSE)]


@pytest.fixture
def tasks(sidestream_events: Captured, answers: list[httpx2.Response], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tasks, imported while what they report is captured: so `configure`, in the module, does nothing."""
    module = importlib.import_module("examples.celery_app.tasks")

    def answer(_: httpx2.Request) -> httpx2.Response:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    monkeypatch.setattr(module, "client", lambda: OpenAI(api_key="none", max_retries=0, http_client=http))
    module.app.conf.update(
        broker_url="memory://",
        broker_transport_options={"polling_interval": 0.01},  # seconds
        result_backend="cache+memory://",
    )
    return module


def test_a_task_s_request_is_about_the_session_of_its_sender(tasks: ModuleType, sidestream_events: Captured) -> None:
    """Session, user and state travel with the message; the worker's thread knows none of them by itself."""
    send = importlib.import_module("examples.celery_app.send").send
    # Celery's own types say that it gives something to iterate over.
    with cast("AbstractContextManager[object]", worker.start_worker(tasks.app, perform_ping_check=False)):  # pyright: ignore[reportUnknownMemberType]
        send("ada", ["tides"])
        with sidestream.session_context("ada-talk-2", "ada"):
            tasks.outline.delay("moons").get(timeout=10)
    requests = sidestream_events.usage
    assert [(request.session, request.user) for request in requests] == [("ada-talk-1", "ada"), ("ada-talk-2", "ada")]
    assert (requests[0].agent, requests[0].state, requests[0].input_tokens) == ("outliner", "outlining", 1_000)
    assert not sidestream_events.errors


def test_a_task_that_fails_is_one_failed_request_and_one_error(
    tasks: ModuleType, answers: list[httpx2.Response], sidestream_events: Captured
) -> None:
    """The exception passes the request and the task; run in place, as tests without a worker do."""
    answers[:] = [httpx2.Response(400, json={"error": {"message": "You said: my secret plan"}})]
    with sidestream.session_context("ada-talk-3", "ada"), pytest.raises(openai.OpenAIError):
        tasks.outline.apply(args=["my secret plan"]).get()
    assert [(request.status, request.error_type) for request in sidestream_events.usage] == [
        ("error", "BadRequestError")
    ]
    assert [(error.type, error.code, error.session) for error in sidestream_events.errors] == [
        ("BadRequestError", "400", "ada-talk-3")
    ]
    assert "secret" not in repr(sidestream_events.events)


def test_each_try_of_a_task_is_a_request_of_its_own(
    tasks: ModuleType, answers: list[httpx2.Response], sidestream_events: Captured
) -> None:
    """Refused once and tried again: two requests, of which one failed, and the error of that one."""
    answers.insert(0, httpx2.Response(429, json={"error": {"message": "Slow down"}}))
    assert tasks.outline.apply(args=["tides"]).get() == ""
    assert [request.status for request in sidestream_events.usage] == ["error", "ok"]
    assert [error.type for error in sidestream_events.errors] == ["RateLimitError"]
