"""What PydanticAI's agents do becomes events: counted once, complete in their numbers, without a word of content."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from decimal import Decimal

import msgspec
import pytest
from collecting import Collected
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, use_span
from pydantic_ai import Agent, ModelRetry, RunContext, durable_exec
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.exceptions import ModelHTTPError, UnexpectedModelBehavior
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from pipeline.events import UsageEvent
from producers import pydantic_ai as capture
from producers.context import RUN, Context, enter_context, leave_context
from producers.inflight import OpenOperations
from producers.pydantic_ai import facts
from producers.pydantic_ai.ids import span_id_of
from producers.pydantic_ai.recorder import Recorder

logfire = pytest.importorskip("logfire")
from logfire.testing import TestExporter  # noqa: E402 - only where logfire is
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402

_PROMPT = ModelRequest.user_text_prompt("hello")
SECRET = "the-secret-of-the-deck"


class Priced(TestModel):
    """A model that reports every kind of token, a tier, and what it charged."""

    usage = RequestUsage(
        input_tokens=1_000,
        cache_read_tokens=400,
        cache_write_tokens=100,
        cache_write_1h_tokens=40,
        input_audio_tokens=30,
        cache_audio_read_tokens=10,
        output_tokens=200,
        output_reasoning_tokens=150,
        output_audio_tokens=20,
        cost=Decimal("0.0012345675"),
    )

    async def request(self, *_: object, **__: object) -> ModelResponse:
        """Answer as a real provider would."""
        return ModelResponse(
            parts=[TextPart(SECRET)],
            usage=self.usage,
            model_name="deck-1-2026-01-01",
            provider_name="deckai",
            provider_details={"service_tier": "priority"},
            finish_reason="stop",
        )


@pytest.fixture
def told() -> Iterator[Collected]:
    """Observe all agents for one test; none of our hooks may fail in it."""
    collected = Collected()
    before = capture.statistics().faults
    assert capture.instrument(collected)
    yield collected
    capture.uninstrument()
    # A test may have let Logfire into the slot after us, and that is not ours to take out.
    Agent.instrument_all(False)
    assert capture.statistics().faults == before
    assert RUN.get().run_id == ""
    gc.collect()  # what was left without an end goes with its object
    assert len(collected.open_operations) == 0


@pytest.fixture
def spans() -> Iterator[TestExporter]:
    """Configure Logfire without network; return what its spans are exported to."""
    exporter = TestExporter()
    logfire.configure(
        send_to_logfire=False,
        console=False,
        metrics=False,
        additional_span_processors=[SimpleSpanProcessor(exporter)],
    )
    yield exporter
    Agent.instrument_all(False)
    logfire.shutdown()


async def _words(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
    for word in ("one ", "two ", "three "):
        await asyncio.sleep(0)
        yield word


async def _never(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _read(agent: Agent[object, str], on_word: Callable[[str], object]) -> None:
    async with agent.run_stream("hello") as stream:
        async for word in stream.stream_text(delta=True, debounce_by=None):
            on_word(word)


def _look() -> str:
    return "x"


def _failing(error: BaseException) -> FunctionModel:
    async def fail(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        raise error

    return FunctionModel(fail, model_name="failing")


async def test_a_run_is_one_request_and_one_operation_with_every_number_the_model_reported(told: Collected) -> None:
    """All token kinds, both model names, provider, tier, finish reason and the provider's cost arrive unchanged."""
    await Agent(Priced(model_name="deck-1"), name="writer").run("hello")
    (request,) = told.requests
    (run,) = told.runs
    assert (request.agent, request.model, request.response_model) == ("writer", "deck-1", "deck-1-2026-01-01")
    assert (request.provider, request.finish_reason, request.service_tier) == ("deckai", "stop", "priority")
    assert (request.input_tokens, request.output_tokens, request.reasoning_tokens) == (1_000, 200, 150)
    assert (request.cache_read_tokens, request.cache_write_tokens, request.cache_write_1h_tokens) == (400, 100, 40)
    assert (request.input_audio_tokens, request.cache_audio_read_tokens, request.output_audio_tokens) == (30, 10, 20)
    assert request.cost_nano_usd == 1_234_568
    assert (request.status, request.attempt, request.ttft_us) == ("ok", 1, None)
    assert (run.name, run.agent, run.status) == ("writer", "writer", "ok")
    assert request.duration_us is not None
    assert 0 < request.duration_us <= run.duration_us
    assert len(told.events) == 2


async def test_request_and_run_make_a_tree(told: Collected) -> None:
    """A request names its run as parent and shares its trace; a parent's span follows from `parent_id`."""
    await Agent(TestModel(), name="writer").run("hello")
    (request,), (run,) = told.requests, told.runs
    assert request.parent_id == request.run_id == run.run_id == run.operation_id
    assert (len(request.trace_id), len(request.span_id)) == (32, 16)
    assert request.trace_id == run.trace_id
    assert span_id_of(request.parent_id) == run.span_id != request.span_id
    assert run.parent_id == ""


async def test_an_estimate_of_pydantic_ai_is_not_taken_for_a_provider_s_figure(told: Collected) -> None:
    """Cost that genai-prices guessed inside the application stays out: prices are ours to apply, and to change."""

    class Known(TestModel):
        async def request(self, *_: object, **__: object) -> ModelResponse:
            usage = RequestUsage(input_tokens=1_000, output_tokens=10)
            return ModelResponse(parts=[TextPart("x")], usage=usage, model_name="gpt-4o", provider_name="openai")

    result = await Agent(Known()).run("hello")
    assert result.usage.cost
    assert [(r.input_tokens, r.cost_nano_usd) for r in told.requests] == [(1_000, None)]


def test_a_synchronous_run_is_seen(told: Collected) -> None:
    """`run_sync` is a run like any other."""
    # pydantic-ai takes the thread's loop, and leaves one open where there is none.
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())
        result = Agent(TestModel(), name="sync").run_sync("hello")
    asyncio.set_event_loop(None)
    assert [(r.input_tokens, r.output_tokens) for r in told.requests] == [
        (result.usage.input_tokens, result.usage.output_tokens)
    ]
    assert [run.status for run in told.runs] == ["ok"]


async def test_a_streamed_run_reports_its_usage_and_the_time_to_the_first_token(told: Collected) -> None:
    """`run_stream` read to the end is an ordinary request with a time to first token."""
    async with Agent(FunctionModel(stream_function=_words), name="streamer").run_stream("hello") as stream:
        text = "".join([word async for word in stream.stream_text(delta=True, debounce_by=None)])
        usage = stream.usage
    (request,), (run,) = told.requests, told.runs
    assert text == "one two three "
    assert (request.input_tokens, request.output_tokens) == (usage.input_tokens, usage.output_tokens)
    assert (request.status, run.status) == ("ok", "ok")
    assert request.ttft_us is not None
    assert request.duration_us is not None
    assert request.ttft_us <= request.duration_us


async def test_streamed_events_and_iteration_are_seen(told: Collected) -> None:
    """`run_stream_events` and `iter` give one run and one request each."""
    async with Agent(FunctionModel(stream_function=_words), name="events").run_stream_events("hello") as events:
        assert [event async for event in events]
    async with Agent(TestModel(), name="steps").iter("hello") as run:
        assert [node async for node in run]
    assert [(r.agent, r.status) for r in told.requests] == [("events", "ok"), ("steps", "ok")]
    assert [(r.agent, r.status) for r in told.runs] == [("events", "ok"), ("steps", "ok")]


async def test_a_plain_run_is_not_switched_to_streaming(told: Collected) -> None:
    """A model that cannot stream answers an observed `run()`."""

    async def answer(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        return ModelResponse(parts=[TextPart("x")])

    assert (await Agent(FunctionModel(answer)).run("hello")).output == "x"
    assert [request.ttft_us for request in told.requests] == [None]


async def test_a_stream_left_early_is_interrupted_and_keeps_its_usage(told: Collected) -> None:
    """Who stops reading causes no error; what was counted until then counts."""
    async with Agent(FunctionModel(stream_function=_words)).run_stream("hello") as stream:
        async for _ in stream.stream_text(delta=True, debounce_by=None):
            break
    (request,), (run,) = told.requests, told.runs
    assert (request.status, run.status, told.errors) == ("interrupted", "interrupted", [])
    assert request.input_tokens > 0
    assert request.ttft_us is not None


async def test_a_stream_that_the_provider_breaks_is_a_failed_request(told: Collected) -> None:
    """The usage until the break counts, and the exception is one error, at the request."""

    async def broken(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        yield "one "
        raise ConnectionResetError("cut")

    words: list[str] = []
    with pytest.raises(ConnectionResetError):
        await _read(Agent(FunctionModel(stream_function=broken)), words.append)
    (request,), (error,), (run,) = told.requests, told.errors, told.runs
    assert (request.status, request.error_type, request.output_tokens) == ("error", "ConnectionResetError", 1)
    assert (error.type, error.message, error.span_id) == ("ConnectionResetError", "cut", request.span_id)
    assert (run.status, run.error_type) == ("error", "ConnectionResetError")


async def test_a_request_without_an_agent_that_the_provider_breaks_is_a_failed_request(told: Collected) -> None:
    """With no run around it the request itself knows that its stream broke."""

    async def broken(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        yield "one "
        raise ConnectionResetError("cut")

    async def read() -> None:
        async with model_request_stream(FunctionModel(stream_function=broken), [_PROMPT]) as stream:
            assert [event async for event in stream]

    with pytest.raises(ConnectionResetError):
        await read()
    assert [(r.status, r.output_tokens) for r in told.requests] == [("error", 1)]
    assert [e.message for e in told.errors] == ["cut"]


async def test_an_exception_of_the_reader_fails_the_run_and_interrupts_the_request(told: Collected) -> None:
    """The model did nothing wrong when the application's own code raised while reading."""
    seen: dict[str, str] = {}
    with pytest.raises(KeyError):
        await _read(Agent(FunctionModel(stream_function=_words)), seen.__getitem__)
    assert [r.status for r in told.requests] == ["interrupted"]
    assert [(r.status, r.error_type) for r in told.runs] == [("error", "KeyError")]
    assert [(e.type, e.operation) for e in told.errors] == [("KeyError", "run")]


async def test_tools_are_operations_inside_the_run(told: Collected) -> None:
    """A call of a tool is timed under its name; the response that asked for it names it."""
    agent = Agent(TestModel(), name="planner")

    @agent.tool_plain
    def find_slides(topic: str) -> str:
        return f"{SECRET} {topic}"

    await agent.run("hello")
    (tool,), (run,) = told.tools, told.runs
    assert [request.tools for request in told.requests] == [("find_slides",), ()]
    assert (tool.name, tool.agent, tool.status, tool.run_id) == ("find_slides", "planner", "ok", run.run_id)
    assert (tool.parent_id, tool.trace_id) == (run.operation_id, run.trace_id)
    assert tool.span_id == span_id_of(tool.operation_id)


async def test_a_tool_that_fails_is_one_error_at_the_tool(told: Collected) -> None:
    """The exception passes the tool and the run; it is counted at the innermost place only."""
    agent = Agent(TestModel(), name="planner")

    @agent.tool_plain
    def find_slides() -> str:
        raise LookupError("no slides")

    with pytest.raises(LookupError):
        await agent.run("hello")
    (error,), (tool,), (run,) = told.errors, told.tools, told.runs
    assert (error.type, error.message, error.operation, error.agent) == (
        "LookupError",
        "no slides",
        "find_slides",
        "planner",
    )
    assert (error.span_id, tool.status, run.status) == (tool.span_id, "error", "error")


async def test_a_tool_that_asks_for_another_try_is_no_error_event(told: Collected) -> None:
    """`ModelRetry` speaks to the model: the call failed, the run goes on, and its text stays out."""
    agent = Agent(TestModel(), name="planner", retries=2)
    tries: list[int] = []

    @agent.tool_plain
    def find_slides() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ModelRetry(SECRET)
        return "found"

    await agent.run("hello")
    assert [(t.status, t.error_type) for t in told.tools] == [("error", "ToolRetryError"), ("ok", "")]
    assert (told.errors, [run.status for run in told.runs]) == ([], ["ok"])


async def test_arguments_the_tool_refuses_are_a_failed_call(told: Collected) -> None:
    """A call that never ran is told apart by its error type."""

    async def wrong_first(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        arguments = {"number": SECRET} if len(messages) == 1 else {"number": 3}
        done = len(messages) == 5
        return ModelResponse(parts=[TextPart("done") if done else ToolCallPart("pick", arguments)])

    agent = Agent(FunctionModel(wrong_first))

    @agent.tool_plain
    def pick(number: int) -> int:
        return number

    await agent.run("hello")
    assert [(t.name, t.status, t.error_type) for t in told.tools] == [
        ("pick", "error", "validation"),
        ("pick", "ok", ""),
    ]
    assert told.errors == []


async def test_nested_agents_with_shared_usage_count_each_request_once(told: Collected) -> None:
    """The inner agent's requests carry its own run; the run hangs under the tool that started it."""
    inner = Agent(TestModel(), name="inner")
    outer = Agent(TestModel(), name="outer")

    @outer.tool
    async def ask(context: RunContext[object]) -> str:
        return (await inner.run("hello", usage=context.usage)).output

    result = await outer.run("hello")
    assert [request.agent for request in told.requests] == ["outer", "inner", "outer"]
    assert sum(request.input_tokens for request in told.requests) == result.usage.input_tokens
    (inner_run, outer_run), (tool,) = told.runs, told.tools
    assert [r.run_id for r in told.requests] == [outer_run.run_id, inner_run.run_id, outer_run.run_id]
    assert (inner_run.parent_id, tool.parent_id) == (tool.operation_id, outer_run.operation_id)
    assert len({event.trace_id for event in told.events}) == 1


async def test_runs_side_by_side_keep_their_requests_apart(told: Collected) -> None:
    """Many runs at once: each request belongs to its own run and trace."""
    agent = Agent(TestModel(), name="writer")
    await asyncio.gather(*(agent.run(str(n)) for n in range(10)))
    assert {r.run_id for r in told.requests} == {r.run_id for r in told.runs}
    assert len({r.trace_id for r in told.requests}) == 10


async def test_a_failed_request_is_a_usage_event_and_one_error(told: Collected) -> None:
    """The request, the run and the one error say the same type; the provider's body stays out."""
    error = ModelHTTPError(429, "deck-1", {"error": {"message": f"quota for {SECRET}"}})
    with pytest.raises(ModelHTTPError):
        await Agent(_failing(error), name="writer").run("hello")
    (request,), (reported,), (run,) = told.requests, told.errors, told.runs
    assert (request.status, request.error_type, request.model) == ("error", type(error).__name__, "failing")
    assert (request.input_tokens, request.duration_us is not None) == (0, True)
    assert (reported.message, reported.code) == ("HTTP status 429 from model deck-1", "429")
    assert (reported.model, reported.operation, reported.span_id) == ("failing", "chat", request.span_id)
    assert (run.status, run.error_type) == ("error", type(error).__name__)


async def test_a_fallback_reports_the_attempts_that_failed(told: Collected) -> None:
    """Every model that was asked is a request; a request that a fallback saved fails no run."""
    down = ModelHTTPError(503, "failing", SECRET)
    agent = Agent(FallbackModel(_failing(down), Priced(model_name="deck-1")), name="writer")
    await agent.run("hello")
    first, second = told.requests
    assert (first.model, first.status, first.attempt, first.error_type) == ("failing", "error", 1, type(down).__name__)
    assert (second.model, second.status, second.attempt) == ("deck-1", "ok", 2)
    assert [(e.type, e.model, e.message) for e in told.errors] == [(type(down).__name__, "failing", "")]
    assert (first.input_tokens, second.input_tokens) == (0, 1_000)
    assert [run.status for run in told.runs] == ["ok"]


async def test_a_fallback_that_runs_out_of_models_counts_each_attempt_and_nothing_more(told: Collected) -> None:
    """The group of exceptions stands for its attempts: no request and no error of its own."""
    errors = [ModelHTTPError(503, "a"), ModelHTTPError(500, "b")]
    with pytest.raises(ExceptionGroup):
        await Agent(FallbackModel(_failing(errors[0]), _failing(errors[1]))).run("hello")
    assert [(r.status, r.attempt) for r in told.requests] == [("error", 1), ("error", 2)]
    assert [e.type for e in told.errors] == [type(error).__name__ for error in errors]
    assert [run.status for run in told.runs] == ["error"]


async def test_a_cancelled_run_is_cancelled_and_no_error(told: Collected) -> None:
    """Cancelling the task that runs the agent ends the run and its request as cancelled."""
    entered = asyncio.Event()

    async def wait(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(Agent(FunctionModel(wait)).run("hello"))
    await entered.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert ([r.status for r in told.requests], [r.status for r in told.runs]) == (["cancelled"], ["cancelled"])
    assert told.requests[0].run_id == told.runs[0].run_id
    assert told.errors == []


async def test_a_cancelled_stream_keeps_its_usage(told: Collected) -> None:
    """Cancelled between two tokens, a stream reports what it had counted."""
    reading = asyncio.Event()

    async def read() -> None:
        async with Agent(FunctionModel(stream_function=_words)).run_stream("hello") as stream:
            async for _ in stream.stream_text(delta=True, debounce_by=None):
                reading.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    (request,), (run,) = told.requests, told.runs
    assert (request.status, run.status, told.errors) == ("cancelled", "cancelled", [])
    assert request.input_tokens > 0


async def test_a_run_out_of_time_is_cancelled(told: Collected) -> None:
    """`run(timeout=)` cancels what is inside."""
    with pytest.raises(Exception, match="timed out"):
        await Agent(FunctionModel(_never)).run("hello", timeout=0.01)
    assert ([r.status for r in told.requests], [r.status for r in told.runs]) == (["cancelled"], ["cancelled"])


async def test_events_carry_the_session_they_began_in(told: Collected) -> None:
    """Session, user, tenant, tags and state come from the context; without one they stay empty."""
    await Agent(TestModel()).run("hello")
    token = enter_context(Context("s-1", "u-1", "t-1", "drafting", ("beta",)))
    await Agent(TestModel()).run("hello")
    leave_context(token)
    assert {event.session for event in told.events[:2]} == {""}
    assert {(e.session, e.user, e.tenant, e.state, e.tags) for e in told.events[2:]} == {
        ("s-1", "u-1", "t-1", "drafting", ("beta",))
    }


async def test_no_content_enters_an_event(told: Collected) -> None:
    """Prompt, completion, tool arguments and results, refused output and provider bodies: none is in any byte."""

    async def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        call = ToolCallPart("look", {"word": SECRET}) if len(messages) == 1 else ToolCallPart("final_result", SECRET)
        return ModelResponse(parts=[TextPart(SECRET), call])

    agent = Agent(FunctionModel(answer), output_type=int, instructions=SECRET, name="writer")

    @agent.tool_plain
    def look(word: str) -> str:
        return word

    with pytest.raises(UnexpectedModelBehavior):
        await agent.run(SECRET)
    behaviour = UnexpectedModelBehavior(f"Unsupported response: {SECRET!r}", SECRET)
    with pytest.raises(UnexpectedModelBehavior):
        await Agent(_failing(behaviour)).run(SECRET)
    assert told.tools
    assert len(told.errors) == 2
    assert SECRET.encode() not in msgspec.msgpack.encode(told.events)


async def test_messages_of_errors_are_redacted(told: Collected) -> None:
    """A key in an exception's text does not leave the process."""
    key = "sk-abcdefgh12345678"
    with pytest.raises(RuntimeError):
        await Agent(_failing(RuntimeError(f"refused {key}"))).run("hello")
    assert [e.message for e in told.errors] == ["refused ***"]


async def test_under_a_durable_engine_work_is_reported_when_it_is_done_and_not_when_it_is_replayed(
    told: Collected,
) -> None:
    """A replayed request was reported when it ran; a failing one says so without a scope to see the exception leave."""
    if not hasattr(durable_exec, "replay_scope"):
        pytest.skip("this version of pydantic-ai cannot say that it replays")
    record_durable_unit, replay_scope = durable_exec.record_durable_unit, durable_exec.replay_scope

    async def served(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        record_durable_unit(executed=False)
        return ModelResponse(parts=[TextPart("from the journal")])

    with replay_scope():
        await Agent(FunctionModel(served)).run("hello")
    assert told.events == []
    with replay_scope():
        await Agent(TestModel()).run("hello")
        with pytest.raises(RuntimeError):
            await Agent(_failing(RuntimeError("down"))).run("hello")
    assert [(r.status, r.error_type) for r in told.requests] == [("ok", ""), ("error", "RuntimeError")]
    assert [(r.status, r.error_type) for r in told.runs] == [("ok", ""), ("error", "RuntimeError")]
    assert [e.message for e in told.errors] == ["down"]


async def test_requests_without_an_agent_are_seen(told: Collected) -> None:
    """`pydantic_ai.direct` reads the public slot: a request without a run."""
    await model_request(TestModel(), [_PROMPT])
    (request,) = told.events
    assert isinstance(request, UsageEvent)
    assert (request.run_id, request.parent_id, request.status) == ("", "", "ok")
    assert request.input_tokens > 0


@pytest.mark.parametrize("own", [False, True, InstrumentationSettings(include_content=False)])
async def test_an_agent_with_instrumentation_of_its_own_is_seen(
    told: Collected, own: bool | InstrumentationSettings
) -> None:
    """`agent.instrument = ...` speaks of OpenTelemetry; usage counts all the same, once."""
    agent = Agent(TestModel())
    agent.instrument = own
    await agent.run("hello")
    await agent.run("hello")
    assert (len(told.requests), len(told.runs)) == (2, 2)


def _break_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "finish", _raise)


def _break_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "start", _raise)


def _break_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "account", _raise)


def _break_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "usage_event", _raise)


def _break_emit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "emit", _raise)


def _break_following(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenOperations, "begin", _raise)


def _raise(*_: object, **__: object) -> None:
    raise ZeroDivisionError(SECRET)


@pytest.mark.parametrize(
    "broken", [_break_start, _break_finish, _break_account, _break_facts, _break_emit, _break_following]
)
@pytest.mark.parametrize("beside", [False, True])
async def test_no_fault_of_ours_breaks_a_run(
    broken: Callable[[pytest.MonkeyPatch], None], beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails in our hooks, alone or beside another instrumentation, runs go on and the faults are counted."""
    broken(monkeypatch)
    agent = Agent(TestModel(), tools=[_look])
    agent.instrument = InstrumentationSettings() if beside else None
    before = capture.statistics().faults
    assert capture.instrument(Collected())
    try:
        result = await agent.run("hello")
        async with Agent(FunctionModel(stream_function=_words)).run_stream("hello") as stream:
            assert await stream.get_output() == "one two three "
    finally:
        capture.uninstrument()
    assert result.output
    assert capture.statistics().faults > before


@pytest.mark.parametrize("first", ["logfire", "sidestream"])
async def test_logfire_goes_on_working_whoever_comes_first(first: str, spans: TestExporter) -> None:
    """Both see every run: Logfire's spans are the ones it makes without us, ours are counted once."""
    agent = Agent(TestModel(), name="writer", tools=[_look])
    logfire.instrument_pydantic_ai()
    await agent.run("hello")
    alone = [span["name"] for span in spans.exported_spans_as_dict()]
    Agent.instrument_all(False)
    spans.clear()
    collected = Collected()
    if first == "logfire":
        logfire.instrument_pydantic_ai()
        assert capture.instrument(collected)
    else:
        assert capture.instrument(collected)
        logfire.instrument_pydantic_ai()
    await agent.run("hello")
    capture.uninstrument()
    exported = spans.exported_spans_as_dict()
    assert [span["name"] for span in exported] == alone
    assert all("gen_ai.usage.input_tokens" in s["attributes"] for s in exported if s["name"].startswith("chat"))
    assert (len(collected.requests), len(collected.tools), len(collected.runs)) == (2, 1, 1)
    spans.clear()
    await agent.run("hello")
    assert [span["name"] for span in spans.exported_spans_as_dict()] == alone
    assert len(collected.runs) == 1


async def test_what_logfire_samples_out_is_counted(told: Collected) -> None:
    """A span that is not recording hides no tokens: sampling touches spans, never totals."""
    logfire.configure(send_to_logfire=False, console=False, metrics=False, sampling=logfire.SamplingOptions(head=0))
    logfire.instrument_pydantic_ai()
    await Agent(Priced(model_name="deck-1")).run("hello")
    with pytest.raises(RuntimeError):
        await Agent(_failing(RuntimeError("down"))).run("hello")
    logfire.shutdown()
    assert [(r.model, r.input_tokens, r.status) for r in told.requests] == [
        ("deck-1", 1_000, "ok"),
        ("failing", 0, "error"),
    ]
    assert [run.status for run in told.runs] == ["ok", "error"]
    assert len(told.errors) == 1


async def test_beside_logfire_a_fallback_names_the_model_that_answered(told: Collected, spans: TestExporter) -> None:
    """What pydantic-ai writes on Logfire's span reaches our event too."""
    logfire.instrument_pydantic_ai()
    await Agent(FallbackModel(_failing(ModelHTTPError(503, "failing")), Priced(model_name="deck-1"))).run("hello")
    assert [(r.model, r.attempt) for r in told.requests] == [("failing", 1), ("deck-1", 2)]
    assert spans.exported_spans_as_dict()


async def test_the_application_s_traces_stay_as_they_were(told: Collected, spans: TestExporter) -> None:
    """Spans the application opens inside tools hang under its own span, and no span of ours is among them."""
    agent = Agent(TestModel())

    @agent.tool_plain
    def look() -> str:
        get_current_span().set_attribute("seen", True)
        with logfire.span("inside"):
            return "x"

    with logfire.span("outside"):
        await agent.run("hello")
    inside, outside = spans.exported_spans_as_dict()
    assert (inside["name"], outside["name"]) == ("inside", "outside")
    assert inside["parent"]["span_id"] == outside["context"]["span_id"]
    assert outside["attributes"]["seen"] is True
    assert len(told.requests) == 2


async def test_a_model_finds_the_application_s_trace_around_its_request(told: Collected) -> None:
    """An unsampled or remote parent is handed on as it is: what the model calls joins the same trace."""
    seen: list[SpanContext] = []

    async def answer(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        seen.append(get_current_span().get_span_context())
        return ModelResponse(parts=[TextPart("x")])

    parent = SpanContext(trace_id=7, span_id=9, is_remote=True, trace_flags=TraceFlags(0))
    with use_span(NonRecordingSpan(parent)):
        await Agent(FunctionModel(answer)).run("hello")
    assert seen == [parent]
    assert len(told.requests) == 1
