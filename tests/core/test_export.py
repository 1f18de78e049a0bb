"""The export sink against a real receiver on loopback: every class of answer, and what is known afterwards."""

import json
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from consumers.contract import Sink, Slice
from consumers.sinks.export import (
    ExportSettings,
    ExportSink,
    ExportStatistics,
    NotDeliveredError,
    from_environ,
    off_reason,
)
from consumers.sinks.export.settings import LOGFIRE_MAX_AGE_US, LOGFIRE_MAX_AHEAD_US
from consumers.sinks.export.sink import MAX_REQUEST_BYTES, MAX_REQUEST_SPANS
from pipeline.errors import PermanentError, SettingsError
from pipeline.events import Event, OperationEvent, Resource, UsageEvent
from pipeline.wire import Frame
from sidestream.receiver import ReceivedRequest, Receiver, Reply

T = 1_700_000_000_000_000
HOUR_US = 3_600_000_000


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Serve on loopback and keep what arrives."""
    with Receiver(keep=True) as running:
        yield running


@asynccontextmanager
async def sink_to(
    url: str, clock_us: Callable[[], int] | None = None, **settings: object
) -> AsyncGenerator[ExportSink, None]:
    """Open a sink, and close it."""
    sink = ExportSink(replace(ExportSettings(url), **settings), clock_us=clock_us)
    try:
        yield sink
    finally:
        await sink.aclose()


def slices_of(*events: Event, size: int = 500) -> list[Slice]:
    """Cut events into frames as they come from a stream."""
    frames = [
        Frame(f"{first + 1}-0", "p" * 32, first, Resource("deckster"), "live", events[first : first + size])
        for first in range(0, len(events), size)
    ]
    return [Slice(frame, 0, frame.count) for frame in frames]


def requests_of(count: int) -> list[Slice]:
    """Return slices of many requests, told apart by their model."""
    return slices_of(*(UsageEvent(T, model=f"m-{number}") for number in range(count)))


def refuse(status: int, *models: str) -> Callable[[ReceivedRequest], Reply]:
    """Return a judge that refuses requests which hold one of these models."""

    def judge(request: ReceivedRequest) -> Reply:
        bad = any(span.attributes.get("gen_ai.request.model") in models for span in request.spans)
        return Reply(status, reason="bad span") if bad else Reply()

    return judge


def events_are_accounted_for(statistics: ExportStatistics) -> bool:
    """Check the identity of the sink's docstring."""
    handled = statistics.delivered + statistics.sampled_out + statistics.too_old + statistics.too_new
    return statistics.events == handled + statistics.refused


async def test_a_batch_arrives_once_with_the_token_as_it_stands(receiver: Receiver) -> None:
    """One POST of gzip'd protobuf to /v1/traces, Authorization without Bearer."""
    async with sink_to(receiver.url + "/", token="pylf_v1_us_x", headers={"X-Team": "a"}) as sink:
        checked: Sink = sink
        assert await checked.deliver(requests_of(700)) == []
    [request] = receiver.requests
    assert request.path == "/v1/traces"
    assert request.headers["authorization"] == "pylf_v1_us_x"
    assert request.headers["x-team"] == "a"
    assert request.headers["content-encoding"] == "gzip"
    assert receiver.summary()["distinct_spans"] == 700
    assert sink.statistics() == ExportStatistics(events=700, delivered=700, requests=1)


async def test_a_slice_sends_only_its_part_of_a_frame(receiver: Receiver) -> None:
    """Events before start, from stop on, and undecodable ones are not sent."""
    events: list[Event | None] = [UsageEvent(T, model=f"m-{number}") for number in range(6)]
    events[3] = None
    frame = Frame("1-0", "p", 0, Resource(), "live", events)
    async with sink_to(receiver.url) as sink:
        await sink.deliver([Slice(frame, 2, 5)])
    assert [span.attributes["gen_ai.request.model"] for span in receiver.spans] == ["m-2", "m-4"]


async def test_large_batches_are_split_by_spans_and_by_bytes(receiver: Receiver) -> None:
    """No request has more spans or bytes than its limit, and nothing is left out."""
    wide = UsageEvent(T, model="m" * 200, tools=("t" * 200,) * 64)
    async with sink_to(receiver.url) as sink:
        await sink.deliver(requests_of(MAX_REQUEST_SPANS + 1))
        await sink.deliver(slices_of(*([wide] * 500)))
    sizes = [len(request.spans) for request in receiver.requests]
    assert sizes[:2] == [MAX_REQUEST_SPANS, 1]
    assert len(sizes) == 4
    assert sum(sizes[2:]) == 500
    assert all(request.size_bytes <= MAX_REQUEST_BYTES for request in receiver.requests)


async def test_a_partial_success_is_read_counted_and_logged(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """200 may still mean that spans were dropped; nobody says which, so none is sent again."""
    receiver.answer_next(Reply(rejected_spans=3, reason="too old"))
    async with sink_to(receiver.url) as sink:
        with caplog.at_level(logging.WARNING):
            assert await sink.deliver(requests_of(10)) == []
    assert sink.statistics() == ExportStatistics(events=10, delivered=10, rejected=3, requests=1)
    [record] = caplog.records
    assert vars(record)["rejected_spans"] == 3
    assert vars(record)["reason"] == "too old"


@pytest.mark.parametrize(
    ("body", "rejected"),
    [('{"partialSuccess": {"rejectedSpans": "2"}}', 2), ("{}", 0), ("not json", 0), ('{"partialSuccess": 7}', 0)],
)
async def test_a_json_answer_is_read_too(receiver: Receiver, body: str, rejected: int) -> None:
    """Some backends answer JSON whatever was sent; what cannot be read says nothing."""
    receiver.answer_next(Reply(body=body))
    async with sink_to(receiver.url) as sink:
        assert await sink.deliver(requests_of(5)) == []
        assert sink.statistics().rejected == rejected


@pytest.mark.parametrize(
    ("reply", "code", "retry_after_s"),
    [
        (Reply(429, retry_after="7"), "http_429", 7.0),
        (Reply(429, retry_after="999999"), "http_429", 3600.0),
        (Reply(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), "http_429", 0.0),
        (Reply(429, retry_after="soon"), "http_429", None),
        (Reply(429, retry_after="nan"), "http_429", None),
        (Reply(408), "http_408", None),
        (Reply(500), "http_500", None),
        (Reply(503, retry_after="2"), "http_503", 2.0),
    ],
)
async def test_a_busy_far_side_is_transient(
    receiver: Receiver, reply: Reply, code: str, retry_after_s: float | None
) -> None:
    """408, 429 and 5xx ask for the same batch again, after what they say."""
    receiver.answer_next(reply)
    async with sink_to(receiver.url) as sink:
        with pytest.raises(NotDeliveredError) as raised:
            await sink.deliver(requests_of(3))
        assert (raised.value.code, raised.value.retry_after_s) == (code, retry_after_s)
        assert sink.statistics() == ExportStatistics(requests=0)
        assert await sink.deliver(requests_of(3)) == []
    assert sink.statistics() == ExportStatistics(events=3, delivered=3, requests=1)


async def test_a_batch_that_comes_again_sends_only_what_was_not_taken(receiver: Receiver) -> None:
    """A far side that takes one request at a time is caught up with, and gets nothing twice."""
    batch = requests_of(3 * MAX_REQUEST_SPANS)
    receiver.answer_next(Reply(), Reply(429), Reply(), Reply(429), Reply())
    async with sink_to(receiver.url) as sink:
        for _ in range(2):
            with pytest.raises(NotDeliveredError):
                await sink.deliver(batch)
        assert await sink.deliver(batch) == []
    assert receiver.summary()["spans"] == 3 * MAX_REQUEST_SPANS
    assert receiver.summary()["distinct_spans"] == 3 * MAX_REQUEST_SPANS
    assert sink.statistics() == ExportStatistics(events=6000, delivered=6000, requests=3)


async def test_a_replayed_batch_has_the_same_span_ids(receiver: Receiver) -> None:
    """A worker that dies before its commit sends again; the far side sees the same spans."""
    for _ in range(2):
        async with sink_to(receiver.url) as sink:
            await sink.deliver(requests_of(50))
    assert receiver.summary()["spans"] == 100
    assert receiver.summary()["distinct_spans"] == 50


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_pauses_the_sink(receiver: Receiver, status: int) -> None:
    """It is permanent and says nothing about the events: no dead letter, nothing counted."""
    receiver.answer_next(Reply(status))
    async with sink_to(receiver.url, token="secret-token") as sink:
        with pytest.raises(PermanentError) as raised:
            await sink.deliver(requests_of(3))
    assert raised.value.code == "unauthorized"
    assert "secret-token" not in str(raised.value)
    assert sink.statistics().events == 0


@pytest.mark.parametrize("status", [404, 405, 302])
async def test_an_endpoint_that_is_none_is_permanent_and_redirects_are_not_followed(
    receiver: Receiver, status: int
) -> None:
    """A token never travels to a host that nobody configured."""
    with Receiver(keep=True) as elsewhere:
        receiver.answer_next(Reply(status, location=f"{elsewhere.url}/v1/traces"))
        async with sink_to(receiver.url, token="t") as sink:
            with pytest.raises(PermanentError) as raised:
                await sink.deliver(requests_of(3))
        assert elsewhere.requests == []
    assert raised.value.code == f"refused_{status}"


@pytest.mark.parametrize("status", [400, 413])
async def test_a_refused_span_is_found_by_halving_and_dead_lettered(receiver: Receiver, status: int) -> None:
    """The others of the request arrive, and the dead letter names entry, index and reason."""
    receiver.judge = refuse(status, "m-3", "m-1234")
    async with sink_to(receiver.url) as sink:
        dead = await sink.deliver(requests_of(2000))
    assert [(letter.entry_id, letter.index, letter.events, letter.code) for letter in dead] == [
        ("1-0", 3, 1, f"refused_{status}"),
        ("1001-0", 234, 1, f"refused_{status}"),
    ]
    assert "bad span" in dead[0].reason
    assert json.loads(dead[1].body)["events"][0]["model"] == "m-1234"
    assert receiver.summary()["distinct_spans"] == 1998
    assert sink.statistics().refused == 2
    assert events_are_accounted_for(sink.statistics())
    assert sink.statistics().requests < 60


@pytest.mark.parametrize("status", [400, 413])
async def test_a_far_side_that_refuses_everything_is_permanent(receiver: Receiver, status: int) -> None:
    """When not one span is taken the request is wrong: no event is blamed for it."""
    receiver.judge = lambda _request: Reply(status, reason="wrong tenant")
    async with sink_to(receiver.url) as sink:
        with pytest.raises(PermanentError, match="wrong tenant") as raised:
            await sink.deliver(requests_of(2000))
    assert raised.value.code == f"refused_{status}"
    assert sink.statistics().events == 0
    assert len(receiver.requests) < 60


async def test_a_far_side_that_hangs_is_an_unknown_outcome(receiver: Receiver) -> None:
    """After the time-out nobody knows whether it took the spans."""
    receiver.answer_next(Reply(hang=True))
    async with sink_to(receiver.url, timeout_s=0.2) as sink:
        with pytest.raises(NotDeliveredError) as raised:
            await sink.deliver(requests_of(3))
    assert raised.value.code == "unknown_outcome"


async def test_no_listener_is_unreachable() -> None:
    """Nothing was sent; the runtime tries again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    async with sink_to(f"http://127.0.0.1:{port}") as sink:
        with pytest.raises(NotDeliveredError) as raised:
            await sink.deliver(requests_of(3))
    assert raised.value.code == "unreachable"


async def test_what_logfire_would_drop_is_counted_and_not_sent(receiver: Receiver) -> None:
    """Older than 24 h at its start or more than 1 h ahead: handled, counted, no dead letter."""
    events = [
        UsageEvent(T - 24 * HOUR_US, model="oldest"),
        UsageEvent(T - 24 * HOUR_US - 1),
        OperationEvent(T - 23 * HOUR_US, duration_us=2 * HOUR_US),
        UsageEvent(T + HOUR_US, model="newest"),
        UsageEvent(T + HOUR_US + 1),
    ]
    async with sink_to(
        receiver.url, lambda: T, max_age_us=LOGFIRE_MAX_AGE_US, max_ahead_us=LOGFIRE_MAX_AHEAD_US
    ) as sink:
        assert await sink.deliver(slices_of(*events)) == []
    assert [span.attributes["gen_ai.request.model"] for span in receiver.spans] == ["oldest", "newest"]
    assert sink.statistics() == ExportStatistics(events=5, delivered=2, too_old=2, too_new=1, requests=1)


async def test_sampled_spans_are_counted_and_a_batch_without_spans_sends_nothing(receiver: Receiver) -> None:
    """At rate 0 only errors and slow operations leave; an empty request is none."""
    failed = UsageEvent(T, status="error", model="failed")
    async with sink_to(receiver.url, sample_rate=0.0) as sink:
        assert await sink.deliver(requests_of(9)) == []
        assert receiver.requests == []
        assert await sink.deliver(slices_of(failed, UsageEvent(T))) == []
    assert [span.attributes["gen_ai.request.model"] for span in receiver.spans] == ["failed"]
    assert sink.statistics() == ExportStatistics(events=11, delivered=1, sampled_out=10, requests=1)


async def test_loopback_ignores_the_environments_proxy(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector on this machine is reached directly, whatever HTTP_PROXY says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    async with sink_to(receiver.url) as sink:
        await sink.deliver(requests_of(1))
    assert receiver.summary()["spans"] == 1


@pytest.mark.parametrize(
    ("token", "url"),
    [
        ("pylf_v1_us_abc", "https://logfire-us.pydantic.dev"),
        ("pylf_v1_eu_abc", "https://logfire-eu.pydantic.dev"),
        ("pylf_v2_stagingeu_abc", "https://logfire-eu.pydantic.info"),
        ("pylf_v1_mars_abc", "https://logfire-us.pydantic.dev"),
        ("abc", "https://logfire-us.pydantic.dev"),
    ],
)
def test_the_tokens_region_names_the_base_url(token: str, url: str) -> None:
    """As Logfire's SDK reads it; LOGFIRE_BASE_URL overrides."""
    settings = from_environ({"LOGFIRE_TOKEN": token})
    assert settings is not None
    assert (settings.endpoint, settings.token) == (url, token)
    assert settings.max_age_us == LOGFIRE_MAX_AGE_US
    assert token not in repr(settings)
    own = from_environ({"LOGFIRE_TOKEN": token, "LOGFIRE_BASE_URL": "https://logfire.example"})
    assert own is not None
    assert own.endpoint == "https://logfire.example"


def test_an_otlp_endpoint_is_used_without_a_token() -> None:
    """Any backend: its headers are url-decoded, and no limit of Logfire's applies."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, x-team = c",
        "LOGFIRE_TRACE_SAMPLE_RATE": "0.25",
    }
    settings = from_environ(env)
    assert settings is not None
    assert settings.headers == {"api-key": "a b", "x-team": "c"}
    assert (settings.sample_rate, settings.max_age_us, settings.loopback) == (0.25, None, True)
    off = {**env, "LOGFIRE_TOKEN": "t", "LOGFIRE_SEND_TO_LOGFIRE": "false"}
    assert from_environ(off) == settings


@pytest.mark.parametrize(
    ("env", "named"),
    [({}, "neither LOGFIRE_TOKEN"), ({"LOGFIRE_TOKEN": "t", "LOGFIRE_SEND_TO_LOGFIRE": "False"}, "SEND_TO_LOGFIRE")],
)
def test_export_that_is_off_says_why(env: dict[str, str], named: str) -> None:
    """The worker prints the reason once."""
    assert from_environ(env) is None
    assert named in off_reason(env)
    assert off_reason({"LOGFIRE_TOKEN": "t"}) == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOGFIRE_TRACE_SAMPLE_RATE", "ten"),
        ("LOGFIRE_TRACE_SAMPLE_RATE", "1.1"),
        ("LOGFIRE_TRACE_SAMPLE_RATE", "nan"),
        ("LOGFIRE_SEND_TO_LOGFIRE", "maybe"),
        ("LOGFIRE_TOKEN", "one, two"),
        ("LOGFIRE_TOKEN", "pylf\r\nX-Evil: 1"),
        ("LOGFIRE_BASE_URL", "logfire.example"),
        ("LOGFIRE_BASE_URL", "https://logfire.example/?a=b"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://host:99999"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "novalue"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%0d%0aX: 1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: str) -> None:
    """The message names the variable, and no secret."""
    base = (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
        if name.startswith("OTEL")
        else {"LOGFIRE_TOKEN": "token"}
    )
    with pytest.raises(SettingsError, match=name) as raised:
        from_environ({**base, name: value})
    assert "one, two" not in str(raised.value)
    assert "Evil" not in str(raised.value)


@pytest.mark.parametrize("changed", [{"sample_rate": 2.0}, {"timeout_s": 0.0}, {"endpoint": "x"}, {"token": "a b"}])
def test_settings_in_code_are_checked_too(changed: dict[str, object]) -> None:
    """A wrong field is named as well."""
    with pytest.raises(SettingsError, match=next(iter(changed))):
        replace(ExportSettings("http://localhost"), **changed)


@contextmanager
def ended_at_last(process: subprocess.Popen[str]) -> Generator[subprocess.Popen[str], None, None]:
    """Leave no process behind, whatever the test finds."""
    with process:
        try:
            yield process
        finally:
            process.kill()


async def test_the_receiver_runs_as_a_program_and_sums_up_at_sigterm(tmp_path: Path) -> None:
    """It says where it listens, takes spans, and at SIGTERM prints one line of JSON and ends with 0."""
    command = [sys.executable, "-m", "sidestream.receiver", "--ready-file", str(tmp_path / "url")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - a test may wait
    with ended_at_last(started) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert (tmp_path / "url").read_text(encoding="utf-8").strip() == url
        async with sink_to(url) as sink:
            await sink.deliver(slices_of(UsageEvent(T, model="m"), UsageEvent(T, model="m")))
        process.terminate()
        summary = json.loads(process.stdout.readline())
        assert process.wait() == 0
    assert summary["spans"] == summary["distinct_spans"] == 2
    assert summary["by_name"] == {"chat m": 2}


def test_the_receiver_says_when_its_port_is_in_use() -> None:
    """One sentence and exit code 3, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-m", "sidestream.receiver", "--port", str(server.getsockname()[1])]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert "cannot listen" in ended.stderr
    assert "Traceback" not in ended.stderr
