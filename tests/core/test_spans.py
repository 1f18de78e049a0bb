"""Events become OTLP spans: names, ids, parents, attributes, and which are sampled."""

import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from consumers.sinks.export.spans import encode_request, encode_span, ids_of, keeps
from pipeline import semconv
from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.wire import Frame
from sidestream.receiver import ReceivedSpan, Receiver, Reply

T = 1_700_000_000_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def frame_of(*events: Event, producer: str = "p" * 32, first_seq: int = 0, service: str = "deckster") -> Frame:
    """Build a decoded frame."""
    resource = Resource(service, "1.0", "test", "host-1")
    return Frame("1-0", producer, first_seq, resource, "live", list(events))


def span_of(event: Event, price: int | None = None) -> ReceivedSpan:
    """Encode one event and read it back as a receiver does."""
    encoded = encode_span(frame_of(event), 0, event, None if price is None else lambda _event: price)
    with Receiver(keep=True) as receiver:
        assert receiver.answer("/v1/traces", {}, encode_request([encoded])) == Reply()
        return receiver.spans[0]


def test_a_request_carries_what_the_genai_views_read() -> None:
    """Tokens, models, provider, session, agent and cost stand under the names of the conventions."""
    span = span_of(
        UsageEvent(
            time_us=T,
            agent="outline",
            model="gpt-4o",
            response_model="gpt-4o-2024-08-06",
            provider="openai",
            input_tokens=1200,
            output_tokens=300,
            cache_read_tokens=1000,
            reasoning_tokens=50,
            duration_us=2_000_000,
            ttft_us=250_000,
            finish_reason="stop",
            session="s-1",
            user="u-1",
            state="OUTLINE",
            run_id="r-1",
            tags=("beta",),
            cost_nano_usd=1_500_000,
        )
    )
    assert span.name == "chat gpt-4o"
    assert (span.kind, span.status) == (3, 0)
    assert (span.start_ns, span.end_ns) == ((T - 2_000_000) * 1000, T * 1000)
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 1200,
        "gen_ai.usage.output_tokens": 300,
        "gen_ai.usage.cache_read.input_tokens": 1000,
        "gen_ai.usage.reasoning.output_tokens": 50,
        "operation.cost": 0.0015,
        "logfire.msg": "chat gpt-4o",
        "logfire.span_type": "span",
        "logfire.level_num": 9,
        "gen_ai.conversation.id": "s-1",
        "user.id": "u-1",
        "gen_ai.agent.call.id": "r-1",
        "gen_ai.agent.name": "outline",
        "sidestream.state": "OUTLINE",
        "logfire.tags": ("beta",),
    }
    assert span.resource == {
        "service.name": "deckster",
        "service.version": "1.0",
        "deployment.environment.name": "test",
        "service.instance.id": "host-1",
    }


def test_the_providers_cost_wins_and_an_unknown_price_is_absent() -> None:
    """A price book fills in only what the provider did not say; unknown is no zero."""
    assert span_of(UsageEvent(T, cost_nano_usd=5), price=7).attributes["operation.cost"] == 5e-9
    assert span_of(UsageEvent(T), price=7).attributes["operation.cost"] == 7e-9
    assert "operation.cost" not in span_of(UsageEvent(T)).attributes


def test_a_failed_request_has_status_error_and_a_cancelled_one_has_not() -> None:
    """An error sets status, level and error.type; who stops a request causes no error."""
    failed = span_of(UsageEvent(T, status="error", error_type="RateLimit"))
    assert (failed.status, failed.status_message) == (2, "RateLimit")
    assert failed.attributes["error.type"] == "RateLimit"
    assert failed.attributes["logfire.level_num"] == 17
    cancelled = span_of(UsageEvent(T, status="cancelled"))
    assert cancelled.status == 0
    assert "error.type" not in cancelled.attributes
    assert cancelled.attributes["sidestream.status"] == "cancelled"


def test_runs_tools_and_steps_are_named_as_the_conventions_ask() -> None:
    """invoke_agent and execute_tool are low-cardinality names; a step keeps its own."""
    run = span_of(OperationEvent(T, kind="run", agent="outline", duration_us=5))
    tool = span_of(OperationEvent(T, kind="tool", name="search", agent="outline"))
    step = span_of(OperationEvent(T, kind="step", name="render"))
    assert [span.name for span in (run, tool, step)] == ["invoke_agent outline", "execute_tool search", "render"]
    assert run.attributes["logfire.msg"] == "outline run"
    assert run.attributes["agent_name"] == run.attributes["gen_ai.agent.name"] == "outline"
    assert tool.attributes["gen_ai.tool.name"] == "search"
    assert "gen_ai.operation.name" not in step.attributes


def test_an_error_is_a_record_of_its_own_with_an_exception_event() -> None:
    """Type and message stand where every backend looks for exceptions."""
    span = span_of(ErrorEvent(T, type="ValueError", message="no slides", code="E1", run_id="r-1"))
    assert span.events == (("exception", {"exception.type": "ValueError", "exception.message": "no slides"}),)
    assert span.status == 2
    assert span.attributes["logfire.span_type"] == "log"
    assert span.start_ns == span.end_ns == T * 1000


def test_a_transition_is_a_record_and_an_unknown_duration_is_absent() -> None:
    """Both states are told; nobody invents how long the first one lasted."""
    span = span_of(TransitionEvent(T, from_state="IDEA", to_state="OUTLINE", session="s-1"))
    assert span.attributes["logfire.msg"] == "State transition IDEA → OUTLINE"
    assert "sidestream.state.duration_us" not in span.attributes


def test_requests_tools_and_errors_nest_in_their_run() -> None:
    """Everything that names the run by parent_id or run_id has its span as parent and its trace."""
    run = OperationEvent(T, kind="run", operation_id="0192-run", run_id="0192-run")
    inside: list[Event] = [
        UsageEvent(T, run_id="0192-run", parent_id="0192-run"),
        UsageEvent(T, run_id="0192-run"),
        OperationEvent(T, kind="tool", run_id="0192-run", operation_id="t"),
        ErrorEvent(T, run_id="0192-run"),
    ]
    above = ids_of(frame_of(run), 0, run)
    assert above.parent == b""
    for event in inside:
        ids = ids_of(frame_of(event), 0, event)
        assert ids.parent == above.span
        assert ids.trace == above.trace
        assert ids.span != above.span


def test_ids_that_were_given_are_used_as_they_stand() -> None:
    """A trace started elsewhere goes on here under the same ids."""
    event = UsageEvent(T, trace_id=TRACE, span_id=SPAN, parent_id="00f067aa0ba902b7")
    ids = ids_of(frame_of(event), 0, event)
    assert (ids.trace.hex(), ids.span.hex(), ids.parent.hex()) == (TRACE, SPAN, "00f067aa0ba902b7")


@pytest.mark.parametrize("wrong", ["", "0" * 32, "xyz", TRACE[:-1], TRACE[:-2] + "zz", " " * 32])
def test_a_trace_id_that_is_none_is_derived(wrong: str) -> None:
    """All zero means none, and text that is no id never breaks a span."""
    event = UsageEvent(T, trace_id=wrong)
    ids = ids_of(frame_of(event), 0, event)
    assert len(ids.trace) == 16
    assert any(ids.trace)


def test_ids_are_the_same_each_time_and_differ_between_events() -> None:
    """A span's identity is producer, sequence and routing key, however often and by whom it is encoded."""
    events: list[Event] = [UsageEvent(T), UsageEvent(T), UsageEvent(T, session="other")]
    first = [ids_of(frame_of(*events), index, event) for index, event in enumerate(events)]
    again = [ids_of(frame_of(*events), index, event) for index, event in enumerate(events)]
    assert first == again
    assert len({ids.span for ids in first}) == 3
    assert ids_of(frame_of(events[1], first_seq=1), 0, events[1]) == first[1]
    # The same sequence of the same producer in another partition belongs to another session.
    assert ids_of(frame_of(events[2]), 0, events[2]).span != first[0].span


def test_foreign_events_take_their_identity_from_their_entry() -> None:
    """A bare XADD has no producer; its entry id and index stand in."""
    event = UsageEvent(T)
    spans = {ids_of(frame_of(event, event, producer=""), index, event).span for index in (0, 1)}
    assert len(spans) == 2


def test_a_request_groups_spans_by_resource_and_reads_back() -> None:
    """The joined bytes are one well-formed ExportTraceServiceRequest."""
    event = UsageEvent(T, agent="a" * 190, model="m" * 190)
    spans = [
        encode_span(frame_of(event, first_seq=seq, service=service), 0, event)
        for service in ("one", "two")
        for seq in range(300)
    ]
    sent = ExportTraceServiceRequest.FromString(encode_request(spans))
    assert [len(group.scope_spans[0].spans) for group in sent.resource_spans] == [300, 300]
    assert sent.resource_spans[0].scope_spans[0].scope.name == "sidestream"
    assert sum(span.size for span in spans) >= len(encode_request(spans))


@given(st.integers(0, 2**64 - 1), st.floats(0, 1))
def test_a_given_trace_is_sampled_as_opentelemetry_does(low: int, rate: float) -> None:
    """The lower 64 bits of the trace id are compared with the rate, as TraceIdRatioBased compares them."""
    event = UsageEvent(T, trace_id=f"{1:016x}{low:016x}", session="s")
    kept = keeps(frame_of(event), 0, event, sample_rate=rate, slow_us=10)
    assert kept is (rate >= 1 or low < round(rate * 2**64))


def test_a_session_is_sampled_as_a_whole() -> None:
    """Without a trace id the session decides, so that what is kept can be read as a story."""

    def kept(session: str, index: int) -> bool:
        event = UsageEvent(T + index, session=session, run_id=f"{session}-{index}")
        return keeps(frame_of(event), 0, event, sample_rate=0.1, slow_us=10)

    sessions = [f"s-{number}" for number in range(1000)]
    assert all(kept(session, 0) is kept(session, 1) for session in sessions)
    assert 60 < sum(kept(session, 0) for session in sessions) < 140


def test_errors_and_slow_operations_are_kept_at_rate_zero() -> None:
    """Sampling never hides a failure or what took too long; exactly at the limit is not slow."""
    always: list[Event] = [
        ErrorEvent(T),
        UsageEvent(T, status="error"),
        UsageEvent(T, duration_us=31_000_000),
        OperationEvent(T, duration_us=31_000_000),
    ]
    never: list[Event] = [
        UsageEvent(T, duration_us=30_000_000),
        UsageEvent(T),
        TransitionEvent(T, duration_us=90_000_000),
    ]

    def kept(event: Event) -> bool:
        return keeps(frame_of(event), 0, event, sample_rate=0, slow_us=30_000_000)

    assert [kept(event) for event in always] == [True] * 4
    assert [kept(event) for event in never] == [False] * 3


OURS = {semconv.GEN_AI_AGENT_CALL_ID, semconv.METRIC_TIME_TO_FIRST_CHUNK}


def names() -> list[str]:
    """Return every attribute or metric name of the module."""
    return [
        str(value) for value in vars(semconv).values() if isinstance(value, str) and "." in value and " " not in value
    ]


def test_genai_names_are_those_of_the_pinned_conventions() -> None:
    """Each gen_ai name is in the conventions' package, or one that pydantic-ai made."""
    attributes = vars(importlib.import_module("opentelemetry.semconv._incubating.attributes.gen_ai_attributes"))
    metrics = vars(importlib.import_module("opentelemetry.semconv._incubating.metrics.gen_ai_metrics"))
    known = {value for value in (*attributes.values(), *metrics.values()) if isinstance(value, str)}
    ours = {name for name in names() if name.startswith("gen_ai.") and ".details." not in name}
    assert ours - known <= OURS


def test_no_name_is_one_that_logfire_scrubs() -> None:
    """A key with one of these words would arrive as "[Scrubbed due to ...]"."""
    words = ("password", "secret", "auth", "credential", "session", "cookie", "csrf", "jwt", "ssn")
    assert [name for name in names() if any(word in name for word in words)] == []
