"""What is captured equals what the provider answered, request by request, through pydantic-ai's own model classes."""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import get_args

import httpx2
import msgspec
import pytest
from anthropic import AsyncAnthropic
from google.genai import Client
from google.genai.types import HttpOptions, HttpRetryOptions
from openai import AsyncOpenAI
from provider_server import WIRES, Answer, Answered, Ending, Finish, ProviderServer, Tokens, Wire
from pydantic_ai import Agent
from pydantic_ai.exceptions import (
    FallbackExceptionGroup,
    ModelAPIError,
    ModelHTTPError,
    ModelRequestTimeout,
    RunTimedOut,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import PartStartEvent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

import sidestream
from pipeline.events import OperationEvent, UsageEvent
from producers import pydantic_ai as watching
from sidestream.testing import Captured

Deck = Agent[None, str]

_PROMPT, _RULES, _COMPLETION, _ARGUMENT, _RESULT, _REASON = _CONTENT = (
    "asked-in-confidence",
    "ruled-in-confidence",
    "said-in-confidence",
    "looked-for-in-confidence",
    "found-in-confidence",
    "refused-in-confidence",
)
"""What must not be in any event: prompt, instructions, completion, a tool's argument and result, a provider's error."""

_CHAT, _RESPONSES, _ANTHROPIC, _GOOGLE = WIRES

_DATED = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-5": "gpt-5-2025-08-07",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "gemini-2.5-pro": "gemini-2.5-pro-preview-06-05",
}
"""Which model answers when one is asked."""

_ASKED = dict(zip((wire.name for wire in WIRES), _DATED, strict=True))

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Nothing here is encrypted: clients that read the machine's certificates, each anew, take ten times as long."""

_PLAIN_TOKENS = 1_000
"""Few enough for Anthropic's class to ask for a plain answer: by default it streams behind `run()`."""


@dataclass(frozen=True)
class Vendors:
    """pydantic-ai's model classes, in front of one server and over one client that is closed with the test."""

    server: ProviderServer
    http: httpx2.AsyncClient

    def model(self, wire: Wire, *, attempts: int = 1) -> Model:
        """Build the class for `wire`; its SDK sends a request at most `attempts` times."""
        asked = _ASKED[wire.name]
        if wire is _GOOGLE:
            retry = HttpRetryOptions(attempts=attempts, initial_delay=0.001, jitter=0.0)
            options = HttpOptions(
                base_url=self.server.url,
                httpx_async_client=self.http,
                client_args={"verify": _NO_TLS},
                async_client_args={"verify": _NO_TLS},
                retry_options=retry,
            )
            google = Client(vertexai=False, api_key="test-key", http_options=options)
            return GoogleModel(asked, provider=GoogleProvider(client=google))
        if wire is _ANTHROPIC:
            claude = AsyncAnthropic(
                api_key="test-key", base_url=self.server.url, http_client=self.http, max_retries=attempts - 1
            )
            return AnthropicModel(asked, provider=AnthropicProvider(anthropic_client=claude))
        client = AsyncOpenAI(
            api_key="test-key", base_url=f"{self.server.url}/v1", http_client=self.http, max_retries=attempts - 1
        )
        kind = OpenAIChatModel if wire is _CHAT else OpenAIResponsesModel
        return kind(asked, provider=OpenAIProvider(openai_client=client))

    def agent(self, wire: Wire, *answers: Answer, attempts: int = 1) -> Deck:
        """Build an agent whose next requests get `answers`."""
        self.script(wire, *answers)
        return planner(self.model(wire, attempts=attempts))

    def script(self, wire: Wire, *answers: Answer) -> None:
        """Let the provider's dated model give `answers`."""
        model = _DATED[_ASKED[wire.name]]
        self.server.script(wire, *(replace(answer, model=model) for answer in answers))


def planner(model: Model) -> Deck:
    """Build an agent with instructions and a tool."""
    agent = Agent(model, name="planner", instructions=_RULES, model_settings={"max_tokens": _PLAIN_TOKENS})

    @agent.tool_plain
    def look(topic: str) -> str:
        assert topic == _ARGUMENT
        return _RESULT

    return agent


@pytest.fixture
def told(sidestream_events: Captured) -> Generator[Captured]:
    """Observe all agents for one test: no hook of ours fails in it, no word of content is in an event."""
    before = watching.statistics().faults
    assert sidestream.instrument_pydantic_ai()
    yield sidestream_events
    watching.uninstrument()
    assert watching.statistics().faults == before
    assert words_in(sidestream_events, *_CONTENT) == []


@pytest.fixture
async def vendors(told: Captured) -> AsyncGenerator[Vendors]:
    """Serve, and close what the vendors' classes speak over."""
    # A transport of its own: the machine's proxies are not for loopback.
    transport = httpx2.AsyncHTTPTransport(verify=_NO_TLS)
    async with ProviderServer() as server, httpx2.AsyncClient(transport=transport, timeout=20.0) as http:
        yield Vendors(server, http)


# The ways to run an agent, and what is compared


async def _run(agent: Deck, _seen: asyncio.Event) -> None:
    await agent.run(_PROMPT)


async def _run_stream(agent: Deck, seen: asyncio.Event) -> None:
    async with agent.run_stream(_PROMPT) as stream:
        async for _ in stream.stream_text(delta=True, debounce_by=None):
            seen.set()


async def _run_stream_events(agent: Deck, seen: asyncio.Event) -> None:
    async with agent.run_stream_events(_PROMPT) as events:
        async for event in events:
            if isinstance(event, PartStartEvent):
                seen.set()


Way = Callable[[Deck, asyncio.Event], Awaitable[None]]
_STREAMS: tuple[Way, ...] = (_run_stream, _run_stream_events)
_WAYS: tuple[Way, ...] = (_run, *_STREAMS)


def _name(parameter: object) -> str:
    match parameter:
        case Wire():
            return parameter.name
        case Answer():
            return parameter.ending if parameter.code else f"{parameter.ending} without code"
        case _:
            return str(getattr(parameter, "__name__", parameter))


each_wire = pytest.mark.parametrize("wire", WIRES, ids=attrgetter("name"))
each_way = pytest.mark.parametrize("way", _WAYS, ids=attrgetter("__name__"))
each_stream = pytest.mark.parametrize("way", _STREAMS, ids=attrgetter("__name__"))


async def go(way: Way, agent: Deck) -> None:
    """Run `agent` to its end."""
    await way(agent, asyncio.Event())


def drawn(dice: random.Random, wire: Wire) -> Tokens:
    """Draw a count of each kind the format knows: often none or one, else up to a million."""
    counts = {kind: dice.choice((0, 1, dice.randrange(1_000_000))) for kind in wire.knows}
    return Tokens(**counts)


def some(wire: Wire, start: int = 11) -> Tokens:
    """Return a different count for each kind the format knows."""
    return Tokens(**{kind: start + 10 * place for place, kind in enumerate(wire.knows)})


def answered_tokens(tokens: Tokens) -> dict[str, int]:
    """Add up what was answered into the fields of an event."""
    return {
        "input": tokens.read,
        "output": tokens.made,
        "cache read": tokens.cached + tokens.cached_audio,
        "cache write": tokens.written + tokens.written_1h,
        "cache write 1h": tokens.written_1h,
        "reasoning": tokens.thought,
        "input audio": tokens.fresh_audio + tokens.cached_audio,
        "cache audio read": tokens.cached_audio,
        "output audio": tokens.spoken,
    }


def reported_tokens(event: UsageEvent) -> dict[str, int]:
    """Return what an event says, under the same names."""
    return {
        "input": event.input_tokens,
        "output": event.output_tokens,
        "cache read": event.cache_read_tokens,
        "cache write": event.cache_write_tokens,
        "cache write 1h": event.cache_write_1h_tokens,
        "reasoning": event.reasoning_tokens,
        "input audio": event.input_audio_tokens,
        "cache audio read": event.cache_audio_read_tokens,
        "output audio": event.output_audio_tokens,
    }


def answered_facts(answered: Answered) -> dict[str, object]:
    """Return all that the event of a whole answer should say."""
    answer = answered.answer
    finish = answer.finish
    if answer.tool and answered.wire in {_RESPONSES.name, _GOOGLE.name}:
        # These have no reason of their own for a call: the response is complete.
        finish = "stop"
    return {
        **answered_tokens(answered.told),
        "model": answered.asked,
        "response model": answer.model,
        "provider": answered.wire.split()[0],
        "finish": finish,
        "tier": "" if answered.wire == _ANTHROPIC.name else answer.tier,
        "tools": (answer.tool,) if answer.tool else (),
        "streamed": answered.streamed,
        "ended": ("ok", "", 1),
        "cost": None,
    }


def reported_facts(event: UsageEvent) -> dict[str, object]:
    """Return what an event says, under the same names."""
    return {
        **reported_tokens(event),
        "model": event.model,
        "response model": event.response_model,
        "provider": event.provider,
        "finish": event.finish_reason,
        "tier": event.service_tier,
        "tools": event.tools,
        "streamed": event.ttft_us is not None,
        "ended": (event.status, event.error_type, event.attempt),
        "cost": event.cost_nano_usd,
    }


def runs(told: Captured) -> list[OperationEvent]:
    """Return the runs, in the order of their ends."""
    return [event for event in told.operations if event.kind == "run"]


def words_in(told: Captured, *words: str) -> list[str]:
    """Return those of `words` that stand in the bytes of an event."""
    encoded = b"".join(msgspec.msgpack.encode(event) for event in told.events)
    return [word for word in words if word.encode() in encoded]


def a_call(tokens: Tokens, tier: str = "") -> Answer:
    """Call the tool."""
    return Answer(tokens, tool="look", arguments={"topic": _ARGUMENT}, finish="tool_call", tier=tier)


def words(tokens: Tokens, tier: str = "", finish: Finish = "stop", ending: Ending = "whole") -> Answer:
    """Say something, in more than one piece."""
    text = f"{_COMPLETION} and {_COMPLETION}"
    return Answer(tokens, text=text, tier=tier, finish=finish, ending=ending, error=_REASON)


def refused(status: int, retry_after_s: float | None = None) -> Answer:
    """Answer with an HTTP error."""
    return Answer(status=status, error=_REASON, retry_after_s=retry_after_s)


# Whole answers


@each_wire
@each_way
async def test_every_request_is_reported_as_it_was_answered(
    told: Captured, vendors: Vendors, wire: Wire, way: Way
) -> None:
    """All token kinds, both models, provider, tier, finish reason and tools: six runs with a tool, 12 requests."""
    dice = random.Random(f"{wire.name} {_name(way)}")  # noqa: S311 - repeatable on purpose
    agent = planner(vendors.model(wire))
    for _ in range(6):
        vendors.script(wire, a_call(drawn(dice, wire), "priority"), words(drawn(dice, wire), "flex"))
        await go(way, agent)
    answered = vendors.server.answered
    assert len(answered) == 12
    assert {one.streamed for one in answered} == {way is not _run}
    assert [reported_facts(event) for event in told.usage] == [answered_facts(one) for one in answered]
    assert [run.status for run in runs(told)] == ["ok"] * 6
    assert told.errors == []


async def test_requests_that_overlap_keep_their_own_numbers(told: Captured, vendors: Vendors) -> None:
    """Eight agents of four providers at once, half of them streaming: no number lands in another's request."""
    dice = random.Random(1)  # noqa: S311 - repeatable on purpose
    async with asyncio.TaskGroup() as group:
        for wire in WIRES:
            for way in (_run, _run_stream):
                agent = vendors.agent(wire, words(drawn(dice, wire)))
                group.create_task(go(way, agent))
    reported = [reported_facts(event) for event in told.usage]
    answered = [answered_facts(one) for one in vendors.server.answered]
    assert len(reported) == 8
    assert sorted(reported, key=repr) == sorted(answered, key=repr)


@each_wire
async def test_the_requests_of_a_run_add_up_to_what_the_agent_is_told(
    told: Captured, vendors: Vendors, wire: Wire
) -> None:
    """Input and output, added, are the run's usage as pydantic-ai knows it; its own guess of the cost is left out."""
    usage = (await vendors.agent(wire, a_call(some(wire)), words(some(wire, 503))).run(_PROMPT)).usage
    assert usage.requests == len(told.usage) == 2
    assert sum(event.input_tokens for event in told.usage) == usage.input_tokens
    assert sum(event.output_tokens for event in told.usage) == usage.output_tokens
    assert usage.cost
    assert [event.cost_nano_usd for event in told.usage] == [None, None]


async def test_what_anthropic_streams_behind_a_plain_run_is_reported_as_it_was_answered(
    told: Captured, vendors: Vendors
) -> None:
    """Without a small `max_tokens` the class streams by itself: the same tokens, and no time to first token."""
    vendors.script(_ANTHROPIC, words(some(_ANTHROPIC)))
    await Agent(vendors.model(_ANTHROPIC)).run(_PROMPT)
    (event,), (answered,) = told.usage, vendors.server.answered
    assert answered.streamed
    assert reported_facts(event) == {**answered_facts(answered), "streamed": False}


@each_wire
@pytest.mark.parametrize("way", [_run, _run_stream], ids=attrgetter("__name__"))
@pytest.mark.parametrize("finish", [finish for finish in get_args(Finish) if finish != "tool_call"])
async def test_why_a_model_stopped_is_reported(
    told: Captured, vendors: Vendors, wire: Wire, way: Way, finish: Finish
) -> None:
    """A limit and a content filter are told from an ordinary end, and are no failure of the request."""
    await go(way, vendors.agent(wire, words(some(wire), finish=finish)))
    assert [(event.finish_reason, event.status) for event in told.usage] == [(finish, "ok")]
    assert told.errors == []


@each_wire
@each_way
async def test_the_tier_that_served_a_request_is_reported_where_it_is_handed_on(
    told: Captured, vendors: Vendors, wire: Wire, way: Way
) -> None:
    """OpenAI's and Google's tiers arrive; pydantic-ai keeps Anthropic's `usage.service_tier` to itself."""
    await go(way, vendors.agent(wire, words(some(wire), tier="priority")))
    assert [event.service_tier for event in told.usage] == ["" if wire is _ANTHROPIC else "priority"]


@each_wire
async def test_a_filter_that_leaves_nothing_is_an_error_of_the_run_and_not_of_the_request(
    told: Captured, vendors: Vendors, wire: Wire
) -> None:
    """The request was answered and is billed; only the agent has nothing to go on with."""
    silent = replace(words(some(wire), finish="content_filter"), text="")
    with pytest.raises(UnexpectedModelBehavior):
        await vendors.agent(wire, silent).run(_PROMPT)
    (event,) = told.usage
    assert reported_tokens(event) == answered_tokens(silent.tokens)
    assert (event.status, event.finish_reason) == ("ok", "content_filter")
    assert [(error.type, error.operation) for error in told.errors] == [("ContentFilterError", "run")]


# Streams that do not reach their end


@each_wire
@each_stream
@pytest.mark.parametrize("ending", ["cut before usage", "cut after usage"])
async def test_a_stream_cut_in_the_middle_fails_with_the_tokens_told_before(
    told: Captured, vendors: Vendors, wire: Wire, way: Way, ending: Ending
) -> None:
    """A lost connection is one failed request and one error; what was counted until then counts, and no more."""
    agent = vendors.agent(wire, words(some(wire), ending=ending))
    with pytest.raises(ModelAPIError):
        await go(way, agent)
    (event,), (error,), (run,), (answered,) = told.usage, told.errors, runs(told), vendors.server.answered
    assert reported_tokens(event) == answered_tokens(answered.told)
    assert (event.status, event.error_type) == ("error", "ModelConnectionError")
    assert event.finish_reason == ("stop" if ending == "cut after usage" else "")
    assert event.response_model == answered.answer.model
    assert event.ttft_us is not None
    assert (error.type, error.operation, error.span_id) == ("ModelConnectionError", "chat", event.span_id)
    assert (run.status, run.error_type) == ("error", "ModelConnectionError")


@each_wire
@each_stream
async def test_a_stream_cut_after_a_tool_was_called_fails_the_second_request_alone(
    told: Captured, vendors: Vendors, wire: Wire, way: Way
) -> None:
    """The request before it keeps its tokens and its status."""
    agent = vendors.agent(wire, a_call(some(wire)), words(some(wire, 503), ending="cut before usage"))
    with pytest.raises(ModelAPIError):
        await go(way, agent)
    assert [event.status for event in told.usage] == ["ok", "error"]
    reported = [reported_tokens(event) for event in told.usage]
    assert reported == [answered_tokens(answered.told) for answered in vendors.server.answered]
    assert len(told.errors) == 1


@each_wire
@each_stream
async def test_a_stream_that_ends_early_but_in_order_is_whole_with_the_tokens_told(
    told: Captured, vendors: Vendors, wire: Wire, way: Way
) -> None:
    """Neither the SDKs nor pydantic-ai miss the rest of a body that ends properly, so nobody says it failed."""
    await go(way, vendors.agent(wire, words(some(wire), ending="ends before usage")))
    (event,), (answered,) = told.usage, vendors.server.answered
    assert reported_tokens(event) == answered_tokens(answered.told)
    assert (event.status, told.errors) == ("ok", [])


@each_wire
@each_stream
async def test_an_error_inside_a_stream_fails_it_with_the_tokens_told_before(
    told: Captured, vendors: Vendors, wire: Wire, way: Way
) -> None:
    """After status 200 a provider can still fail: one failed request, one error, and what was counted until then."""
    agent = vendors.agent(wire, replace(words(some(wire), ending="error inside"), error="busy"))
    with pytest.raises(ModelAPIError) as raised:
        await go(way, agent)
    (event,), (error,), (answered,) = told.usage, told.errors, vendors.server.answered
    assert reported_tokens(event) == answered_tokens(answered.told)
    assert (event.status, event.error_type) == ("error", raised.type.__name__)
    assert (error.type, error.span_id) == (raised.type.__name__, event.span_id)


async def test_what_a_failed_plain_response_cost_is_not_handed_on(told: Captured, vendors: Vendors) -> None:
    """OpenAI bills a failed response; pydantic-ai raises before it reads the usage, so the request shows none."""
    failed = replace(words(some(_RESPONSES), ending="error inside"), error="busy")
    with pytest.raises(ModelAPIError):
        await vendors.agent(_RESPONSES, failed).run(_PROMPT)
    assert [(reported_tokens(event), event.status) for event in told.usage] == [(answered_tokens(Tokens()), "error")]
    assert [error.code for error in told.errors] == ["invalid_prompt"]


# Someone stops it


@each_wire
@each_way
async def test_a_cancelled_run_cancels_its_request_with_the_tokens_told_before(
    told: Captured, vendors: Vendors, wire: Wire, way: Way
) -> None:
    """Cancelled in the middle of an answer: no error, and what was counted until then counts."""
    agent = vendors.agent(wire, words(some(wire), ending="hangs"))
    seen = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_task(way, agent, seen))
        await (vendors.server.hanging if way is _run else seen).wait()
        task.cancel()
    assert task.cancelled()
    (event,), (run,), (answered,) = told.usage, runs(told), vendors.server.answered
    assert reported_tokens(event) == answered_tokens(answered.told)
    assert (event.status, run.status, told.errors) == ("cancelled", "cancelled", [])


async def _task(way: Way, agent: Deck, seen: asyncio.Event) -> None:
    await way(agent, seen)


@each_wire
async def test_a_reader_who_leaves_interrupts_the_request_with_the_tokens_told_before(
    told: Captured, vendors: Vendors, wire: Wire
) -> None:
    """Who has read enough causes no error."""
    agent = vendors.agent(wire, words(some(wire), ending="hangs"))
    async with agent.run_stream(_PROMPT) as stream:
        async for _ in stream.stream_text(delta=True, debounce_by=None):
            break
    (event,), (run,), (answered,) = told.usage, runs(told), vendors.server.answered
    assert reported_tokens(event) == answered_tokens(answered.told)
    assert (event.status, run.status, told.errors) == ("interrupted", "interrupted", [])


@each_wire
async def test_a_run_that_takes_too_long_is_cancelled(told: Captured, vendors: Vendors, wire: Wire) -> None:
    """`run(timeout=...)` stops the request as a cancellation does: nobody failed."""
    with pytest.raises(RunTimedOut):
        await vendors.agent(wire, words(some(wire), ending="hangs")).run(_PROMPT, timeout=0.2)
    assert [event.status for event in told.usage] == ["cancelled"]
    assert [run.status for run in runs(told)] == ["cancelled"]
    assert told.errors == []


@each_wire
async def test_a_request_that_takes_too_long_fails(told: Captured, vendors: Vendors, wire: Wire) -> None:
    """The setting `request_timeout` makes a slow answer a failure, and one error."""
    agent = vendors.agent(wire, words(some(wire), ending="hangs"))
    with pytest.raises(ModelRequestTimeout):
        await agent.run(_PROMPT, model_settings={"request_timeout": 0.2})
    assert [(event.status, event.error_type) for event in told.usage] == [("error", "ModelRequestTimeout")]
    assert [error.type for error in told.errors] == ["ModelRequestTimeout"]


# HTTP errors, and who tries again


_CODES = {(_GOOGLE.name, 429): "RESOURCE_EXHAUSTED", (_GOOGLE.name, 500): "INTERNAL"}
"""Where the provider's error has a code, it stands for the HTTP status."""


@each_wire
@each_way
@pytest.mark.parametrize("status", [429, 500])
async def test_an_http_error_is_one_failed_request_and_one_error(
    told: Captured, vendors: Vendors, wire: Wire, way: Way, status: int
) -> None:
    """Its kind is the exception's, its code the provider's or the HTTP status; it has no tokens and no second try."""
    agent = vendors.agent(wire, refused(status, retry_after_s=0.01))
    with pytest.raises(ModelHTTPError) as raised:
        await go(way, agent)
    kind = {429: "ModelRateLimitError", 500: "ModelServerError"}[status]
    (event,), (error,), (run,) = told.usage, told.errors, runs(told)
    assert raised.value.status_code == status
    assert len(vendors.server.answered) == 1
    assert reported_tokens(event) == answered_tokens(Tokens())
    assert (event.status, event.error_type, event.attempt) == ("error", kind, 1)
    assert (event.model, event.provider, event.response_model) == (_ASKED[wire.name], wire.name.split()[0], "")
    assert (error.type, error.code) == (kind, _CODES.get((wire.name, status), str(status)))
    assert (error.operation, error.model, error.span_id) == ("chat", event.model, event.span_id)
    assert (run.status, run.error_type) == ("error", kind)


@each_wire
@each_way
async def test_what_an_sdk_tries_again_is_one_request(told: Captured, vendors: Vendors, wire: Wire, way: Way) -> None:
    """Retries inside an SDK are not seen: one request, as long as all tries together, with the last answer's tokens."""
    retried = (refused(429, 0.01), refused(500, 0.01))
    await go(way, vendors.agent(wire, *retried, words(some(wire)), attempts=3))
    assert [answered.answer.status for answered in vendors.server.answered] == [429, 500, 200]
    assert [reported_facts(event) for event in told.usage] == [answered_facts(vendors.server.answered[-1])]
    assert told.errors == []


@each_wire
async def test_an_sdk_that_gives_up_is_one_failed_request(told: Captured, vendors: Vendors, wire: Wire) -> None:
    """However often it tried, the last error is the only one."""
    agent = vendors.agent(wire, refused(429, 0.01), refused(500, 0.01), attempts=2)
    with pytest.raises(ModelHTTPError):
        await agent.run(_PROMPT)
    assert len(vendors.server.answered) == 2
    assert [(event.status, event.error_type) for event in told.usage] == [("error", "ModelServerError")]
    assert [error.type for error in told.errors] == ["ModelServerError"]


_AFTER = dict(zip(WIRES, (*WIRES[1:], WIRES[0]), strict=True))
"""The provider that answers where another failed."""


@each_wire
@each_way
async def test_a_fallback_is_a_failed_request_and_one_that_went_well(
    told: Captured, vendors: Vendors, wire: Wire, way: Way
) -> None:
    """Each attempt is reported with its own provider and models, and the one that failed is one error."""
    second = _AFTER[wire]
    vendors.script(wire, refused(500))
    vendors.script(second, words(some(second)))
    await go(way, planner(FallbackModel(vendors.model(wire), vendors.model(second))))
    (failed, event), (error,), (run,) = told.usage, told.errors, runs(told)
    assert (failed.model, failed.provider) == (_ASKED[wire.name], wire.name.split()[0])
    assert (failed.status, failed.error_type, failed.attempt) == ("error", "ModelServerError", 1)
    assert reported_tokens(failed) == answered_tokens(Tokens())
    assert reported_facts(event) == {**answered_facts(vendors.server.answered[-1]), "ended": ("ok", "", 2)}
    assert (error.type, error.model, error.span_id) == ("ModelServerError", failed.model, failed.span_id)
    assert run.status == "ok"


@each_wire
async def test_a_fallback_without_an_answer_is_as_many_failed_requests_as_there_were_models(
    told: Captured, vendors: Vendors, wire: Wire
) -> None:
    """The group of exceptions around them is no further request and no further error."""
    second = _AFTER[wire]
    vendors.script(wire, refused(500))
    vendors.script(second, refused(429))
    with pytest.raises(FallbackExceptionGroup):
        await planner(FallbackModel(vendors.model(wire), vendors.model(second))).run(_PROMPT)
    expected = [("ModelServerError", _ASKED[wire.name]), ("ModelRateLimitError", _ASKED[second.name])]
    assert [(event.error_type, event.model) for event in told.usage] == expected
    assert [(error.type, error.model) for error in told.errors] == expected
    assert [run.status for run in runs(told)] == ["error"]


# Content


@each_wire
@each_way
async def test_no_word_of_content_is_in_any_event(told: Captured, vendors: Vendors, wire: Wire, way: Way) -> None:
    """Prompt, instructions, completion, a tool's argument and result, and an error's sentence leave no trace."""
    await go(way, vendors.agent(wire, a_call(some(wire)), words(some(wire))))
    for fails in (refused(429), refused(500)):
        with pytest.raises(ModelHTTPError):
            await go(way, vendors.agent(wire, fails))
    assert (len(told.usage), len(told.errors)) == (4, 2)
    assert words_in(told, *_CONTENT) == []
    assert words_in(told, "planner", "look", "429") == ["planner", "look", "429"]


_FAILED = Answer(text="quoted-text", error="quoted-reason", ending="error inside")
_FAILED_WITHOUT_CODE = replace(_FAILED, code="")
_NO_JSON = replace(_FAILED, ending="no json")

_NO_ANSWERS = [
    *(pytest.param(wire, way, _FAILED) for wire in WIRES for way in _STREAMS),
    *(pytest.param(wire, _run, _NO_JSON) for wire in WIRES),
    # Only responses have failures in a plain body with status 200.
    pytest.param(_RESPONSES, _run, _FAILED),
    *(pytest.param(_RESPONSES, way, _FAILED_WITHOUT_CODE) for way in _WAYS),
]


@pytest.mark.parametrize(("wire", "way", "failed"), _NO_ANSWERS, ids=_name)
async def test_no_word_of_what_is_no_answer_is_in_any_event(
    told: Captured, vendors: Vendors, wire: Wire, way: Way, failed: Answer
) -> None:
    """An error after status 200, or a body that is not JSON: what pydantic-ai quotes of it is not taken over."""
    agent = vendors.agent(wire, replace(failed, tokens=some(wire)))
    with pytest.raises((ModelAPIError, UnexpectedModelBehavior)):
        await go(way, agent)
    assert (len(told.usage), len(told.errors)) == (1, 1)
    assert words_in(told, failed.text, failed.error) == []
