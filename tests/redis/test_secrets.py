"""No prompt, completion, tool argument, tool result or secret reaches Redis, a spool or a log, by whichever way."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, get_args

import anyio
import celery
import httpx
import openai
import pydantic
import pytest
from planting import ADDED_PATTERN, KINDS, Planted, bytes_in_files, bytes_in_logs, bytes_in_redis
from pydantic_ai import Agent, Embedder, ImageGenerator, ModelRetry
from pydantic_ai.embeddings import EmbeddingResult, TestEmbeddingModel
from pydantic_ai.exceptions import ModelHTTPError, UnexpectedModelBehavior
from pydantic_ai.images import TestImageGenerationModel
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from consumers.alerts.engine import AlertEngine
from consumers.alerts.rules import Rule
from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from pipeline.connection import AsyncServer
from pipeline.errors import UnreachableError
from pipeline.events import ErrorEvent
from pipeline.keys import DEFAULT_PARTITIONS, Keys
from pipeline.presence import read_partitions
from pipeline.redact import HIDDEN, Redactor
from pipeline.stream import read_after
from pipeline.wire import Codec, FrameDecoder
from producers import celery as celery_capture
from producers import pydantic_ai as pydantic_capture
from producers.asgi import DrainMiddleware
from producers.asgi_sessions import SessionMiddleware
from producers.settings import PublishSettings
from producers.telemetry import Telemetry

Answer = Callable[[list[ModelMessage], AgentInfo], Awaitable[ModelResponse]]
Way = Callable[[Telemetry, Planted], Awaitable[None] | None]

pytestmark = pytest.mark.one_server

RULES = [Rule(name="many tokens", kind="tokens", threshold=1, window_s=20)]


@pytest.fixture(params=get_args(Codec))
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> PublishSettings:
    """Return settings with a spool, an added pattern and a key for users, for each codec."""
    return PublishSettings(
        namespace="test",
        linger_ms=5,
        codec=request.param,
        user_key="a-secret-of-this-application",
        redact=Redactor((ADDED_PATTERN,)),
        spool_dir=str(tmp_path / "spool"),
    )


@pytest.fixture(autouse=True)
def nothing_observed() -> Iterator[None]:
    """Leave PydanticAI and Celery as they were."""
    yield
    pydantic_capture.uninstrument()
    celery_capture.instrument(Telemetry())


# By hand


def by_error(telemetry: Telemetry, planted: Planted) -> None:
    """Report errors by name, by exception, and with a message of their own."""
    for message in planted.secrets("error, message"):
        telemetry.error("ValueError", message)
    for message in planted.secrets("error, exception"):
        telemetry.error(ValueError(message))
    for message in planted.secrets("error, both"):
        telemetry.error(ValueError(planted.content("error, overruled text")), message)


def by_emit(telemetry: Telemetry, planted: Planted) -> None:
    """Hand over events that were built by hand, short and far too long."""
    for message in planted.secrets("emit"):
        telemetry.emit(ErrorEvent(1, "ValueError", message, session="by emit"))
        telemetry.emit(ErrorEvent(1, "ValueError", "x " * 245 + message + " y" * 5_000, session="by emit"))


def by_operation(telemetry: Telemetry, planted: Planted) -> None:
    """Raise inside operations."""
    for message in planted.secrets("operation"):
        with suppress(LookupError), telemetry.operation("render"):
            raise LookupError(message)


def by_session_context(telemetry: Telemetry, planted: Planted) -> None:
    """Raise inside sessions: secrets, and what quotes a provider's answer or a refused input."""
    answer = httpx.Response(400, request=httpx.Request("POST", "https://api.openai.com/v1/chat/completions"))
    of_openai = f"Error code: 400 - {planted.content('body of OpenAI')}"
    raised: list[Exception] = [*map(RuntimeError, planted.secrets("session_context"))]
    raised += [
        ModelHTTPError(400, "gpt-4o", {"error": {"message": planted.content("provider's body")}}),
        openai.BadRequestError(of_openai, response=answer, body=None),  # pyright: ignore[reportArgumentType] - any will do
        UnexpectedModelBehavior(f"Unsupported response: {planted.content('model behaviour')}"),
        ModelRetry(planted.content("a retry that nobody caught")),
    ]
    try:
        pydantic.TypeAdapter(int).validate_python(planted.content("refused input"))
    except pydantic.ValidationError as error:
        raised.append(error)
    for error in raised:
        with suppress(type(error)), telemetry.session_context("by session_context", planted.content("user")):
            raise error


def by_other_events(telemetry: Telemetry, planted: Planted) -> None:
    """Report what has no message, for a user whose id is not to be seen, and what is refused."""
    user = planted.content("user of other events")
    telemetry.usage("writer", "gpt-4o", 1200, 340, user=user)
    with telemetry.session_context("by other events", user, state="draft"):
        telemetry.usage("writer", "gpt-4o", 1200, 340, duration_us=5)
        telemetry.track_state_transition("draft", "done")
        telemetry.operation_done("render", duration_us=5)
        telemetry.error("ValueError")
    for message in planted.secrets("refused"):
        telemetry.usage("writer", "gpt-4o", status=message)  # pyright: ignore[reportArgumentType]
    telemetry.error(Unreadable(planted.secret("unreadable", "added pattern")))


class Unreadable(Exception):  # noqa: N818 - it is no error of ours
    """An exception that raises when it is asked for its text."""

    def __str__(self) -> str:
        raise ValueError(self.args[0])


async def by_middleware(telemetry: Telemetry, planted: Planted) -> None:
    """Raise in an ASGI application, and in the function that says whose a request is."""
    messages = [*planted.secrets("middleware"), *planted.secrets("middleware, source")]

    async def application(_scope: object, _receive: object, _send: object) -> None:
        await asyncio.sleep(0)
        raise RuntimeError(messages.pop(0))

    def user(_scope: object) -> str:
        raise ValueError(messages[-1])

    wrapped = SessionMiddleware(application, telemetry, session="/{session_id}", user=user)
    for _ in KINDS:
        scope: dict[str, object] = {"type": "http", "path": "/by middleware", "headers": []}
        with suppress(RuntimeError):
            await wrapped(scope, None, None)  # pyright: ignore[reportArgumentType] - nothing is read or sent
        messages.pop()


def by_celery(telemetry: Telemetry, planted: Planted) -> None:
    """Fail in a task, which is run here by Celery itself."""
    celery_capture.instrument(telemetry)
    task = failing_task()
    for message in planted.secrets("celery"):
        task.apply((planted.content("argument of a task"), message))


_TASKS = count(1)
"""Celery knows tasks by name, for the whole process."""


def failing_task() -> Any:  # noqa: ANN401 - Celery has no types
    """Return a task of an application without a broker."""
    application: Any = celery.Celery("secrets", set_as_current=False)

    def fail(argument: str, message: str) -> str:
        raise RuntimeError(message)

    return application.task(name=f"fail-{next(_TASKS)}")(fail)


async def by_faults_of_ours(telemetry: Telemetry, planted: Planted) -> None:
    """Let telemetry itself fail while a task's exception is handled, and when it is closed."""

    class Faulty(Telemetry):
        """Fails whenever it is called."""

        def error(self, *_: object, **__: object) -> bool:
            raise ZeroDivisionError(planted.content("text of a fault"))

        async def aclose(self, *_: object, **__: object) -> bool:
            raise ZeroDivisionError(planted.content("text of a fault at the end"))

    celery_capture.instrument(Faulty())
    failing_task().apply((planted.content("argument beside a fault"), planted.content("task's text beside a fault")))
    said = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"type": next(said)}

    async def send(_message: object) -> None:
        await asyncio.sleep(0)

    async def application(_scope: object, _receive: object, _send: object) -> None:
        await asyncio.sleep(0)
        raise RuntimeError(planted.content("text of a lifespan that is not supported"))

    await DrainMiddleware(application, Faulty())({"type": "lifespan"}, receive, send)
    telemetry.error("ValueError")


# PydanticAI


async def by_a_conversation(telemetry: Telemetry, planted: Planted) -> None:
    """Run an agent through prompts, thoughts, tools that fail in every way, refused output and an end in failure."""
    said: list[ModelResponse] = [
        ModelResponse(parts=[ThinkingPart(planted.content("thought")), TextPart(planted.content("completion"))])
    ]
    said += [
        ModelResponse(parts=[ToolCallPart(tool, {"word": planted.content("tool argument")})])
        for tool in ("look", "retry", "find")
    ]
    said.append(ModelResponse(parts=[ToolCallPart("look", {"words": planted.content("refused tool argument")})]))
    said.append(ModelResponse(parts=[ToolCallPart(planted.content("made-up tool"), {})]))
    said.append(ModelResponse(parts=[ToolCallPart("look", planted.content("arguments that are no JSON"))]))
    said += [ModelResponse(parts=[ToolCallPart("final_result", planted.content("refused output"))]) for _ in range(20)]
    answers = iter(said)

    async def answer(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        return next(answers)

    agent = Agent(
        FunctionModel(answer),
        name="converser",
        output_type=int,
        instructions=planted.content("instructions"),
        system_prompt=planted.content("system prompt"),
        retries=9,
    )

    @agent.tool_plain
    def look(word: str) -> str:
        return planted.content("tool result") + word

    @agent.tool_plain
    def retry(word: str) -> str:
        raise ModelRetry(planted.content("text of a ModelRetry") + word)

    @agent.tool_plain
    def find(word: str) -> dict[str, str]:
        return {word: planted.content("structured tool result")}

    with pytest.raises(UnexpectedModelBehavior):
        await agent.run(planted.content("prompt"))
    assert len(list(answers)) < 20, "it came to the refused output"


async def by_validators(telemetry: Telemetry, planted: Planted) -> None:
    """Refuse an output until the agent gives up, and fail in the validator itself."""
    agent = Agent(TestModel(custom_output_text=planted.content("output")), name="validated", retries=1)

    @agent.output_validator
    def validate(_output: str) -> str:
        raise ModelRetry(planted.content("text of a validator"))

    with pytest.raises(UnexpectedModelBehavior):
        await agent.run(planted.content("prompt of a validated run"))
    for message in planted.secrets("validator"):
        agent = Agent(TestModel(), name="failing validator")
        agent.output_validator(raising(RuntimeError(message)))
        with pytest.raises(RuntimeError):
            await agent.run("hello")


def raising(error: Exception) -> Callable[[str], str]:
    """Return a function that raises."""

    def fail(word: str) -> str:
        raise error

    return fail


async def by_tools(telemetry: Telemetry, planted: Planted) -> None:
    """Fail in tools, with a secret in the text, and with an attribute that looks like a code and is a text."""

    class WithCode(Exception):  # noqa: N818 - it is no error of ours
        code = planted.content("code that a tool ran")

    for error in [*map(RuntimeError, planted.secrets("tool")), WithCode("it did not compile")]:
        agent = Agent(TestModel(), name="tool user", tools=[raising(error)])
        with pytest.raises(type(error)):
            await agent.run(planted.content("prompt of a tool's run"))


async def by_models(telemetry: Telemetry, planted: Planted) -> None:
    """Fail in models: with a body, with a secret, within a fallback and when all of a fallback fail."""

    def refusal(what: str) -> ModelHTTPError:
        return ModelHTTPError(400, "gpt-4o", {"error": {"message": planted.content(what), "code": "invalid"}})

    for error in [refusal("body of a refusal"), *map(RuntimeError, planted.secrets("model"))]:
        with pytest.raises(type(error)):
            await Agent(failing(error), name="refused").run(planted.content("prompt of a refused run"))
    saved = FallbackModel(failing(refusal("body within a fallback")), TestModel())
    await Agent(saved, name="saved").run(planted.content("prompt of a saved run"))
    lost = FallbackModel(failing(refusal("body, first of a group")), failing(refusal("body, second of a group")))
    with pytest.raises(ExceptionGroup):
        await Agent(lost, name="lost").run(planted.content("prompt of a lost run"))
    error = UnexpectedModelBehavior(f"Unsupported: {planted.content('behaviour')}", planted.content("its body"))
    with pytest.raises(UnexpectedModelBehavior):
        await Agent(failing(error), name="misbehaving").run("hello")


def failing(error: Exception) -> FunctionModel:
    """Return a model that raises."""

    async def fail(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        raise error

    return FunctionModel(fail, model_name="failing")


async def by_streams(telemetry: Telemetry, planted: Planted) -> None:
    """Break streams after their first words, and leave one."""
    for message in planted.secrets("stream"):

        async def broken(_messages: list[ModelMessage], _info: AgentInfo, message: str = message) -> AsyncIterator[str]:
            await asyncio.sleep(0)
            yield planted.content("streamed word")
            raise ConnectionResetError(message)

        with pytest.raises(ConnectionResetError):
            async with Agent(FunctionModel(stream_function=broken), name="broken").run_stream("hello") as stream:
                assert [word async for word in stream.stream_text(delta=True, debounce_by=None)]

    async def words(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield planted.content("word of a stream that is left")

    async with Agent(FunctionModel(stream_function=words), name="left").run_stream("hello") as stream:
        async for _ in stream.stream_text(delta=True, debounce_by=None):
            break


async def by_embedders_and_images(telemetry: Telemetry, planted: Planted) -> None:
    """Embed and draw, and be refused."""
    error = ModelHTTPError(400, "embed", {"error": planted.content("body of a refused embedding")})

    class Refusing(TestEmbeddingModel):
        async def embed(self, *_: object, **__: object) -> EmbeddingResult:
            await asyncio.sleep(0)
            raise error

    await Embedder(TestEmbeddingModel()).embed_query(planted.content("embedded query"))
    with pytest.raises(ModelHTTPError):
        await Embedder(Refusing()).embed_documents([planted.content("embedded document")])
    await ImageGenerator(TestImageGenerationModel()).generate(planted.content("prompt of an image"))


WAYS: dict[str, Way] = {
    "by error": by_error,
    "by emit": by_emit,
    "by operation": by_operation,
    "by session_context": by_session_context,
    "by other events": by_other_events,
    "by middleware": by_middleware,
    "by celery": by_celery,
    "by faults of ours": by_faults_of_ours,
    "by a conversation": by_a_conversation,
    "by validators": by_validators,
    "by tools": by_tools,
    "by models": by_models,
    "by streams": by_streams,
    "by embedders and images": by_embedders_and_images,
}


async def go_every_way(telemetry: Telemetry, planted: Planted) -> None:
    """Plant secrets and content through every way into telemetry, each in a session that is named after it."""
    for name, way in WAYS.items():
        # What has no instrumentation must not need it.
        if name == "by a conversation":
            pydantic_capture.instrument(telemetry)
        with telemetry.session_context(name, planted.content(f"user, {name}")):
            going = way(telemetry, planted)
            if going is not None:
                await going


async def errors_by_session(server: AsyncServer, keys: Keys) -> dict[str, list[ErrorEvent]]:
    """Return the errors on the streams, by their session."""
    found: dict[str, list[ErrorEvent]] = {}
    for number in range(DEFAULT_PARTITIONS):
        for stored in await read_after(server, keys.partition(number), "-", inclusive=True, most=1000):
            for event in FrameDecoder().decode(stored.parse()).events:
                if isinstance(event, ErrorEvent):
                    found.setdefault(event.session, []).append(event)
    return found


async def consume(server: AsyncServer, keys: Keys) -> None:
    """Run what workers run over all that was published."""
    cost = CostHandler(Pricer(Catalogue(), PriceBook()), "test", "none")
    worker = Worker(server, keys, [FoldEffect(MetricsHandler()), FoldEffect(cost)])
    assert await worker.run_until_idle()

    async def partitions() -> int:
        return await read_partitions(server, keys)

    await AlertEngine(server, keys, RULES, partitions=partitions).run_once()


async def test_nothing_that_was_planted_is_found_anywhere(
    redis_url: str, server: AsyncServer, keys: Keys, settings: PublishSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """By no way in: not in Redis, raw or expanded, not in the spool, not in our log. What may be stored is found."""
    caplog.set_level(logging.DEBUG)
    planted, allowed = Planted(), Planted()
    redis_is_away = True

    def find_url() -> str:
        if redis_is_away:
            raise UnreachableError(
                planted.secret("Redis", "password of a url") + planted.secret("Redis", "added pattern")
            )
        return redis_url

    telemetry = Telemetry(settings, find_url)
    telemetry.usage(allowed.name("an agent"), "gpt-4o", 1, session="by other events")
    await go_every_way(telemetry, planted)
    assert telemetry.flush(20), "while Redis is away all of it goes to the spool"
    spool = Path(settings.spool_dir)
    in_files = bytes_in_files(spool, spool.with_name("copy"))
    redis_is_away = False
    with anyio.fail_after(20):
        while telemetry.statistics().spooled:  # noqa: ASYNC110 - what is waited for happens in Redis
            await anyio.sleep(0.01)
    assert telemetry.close(20)
    await consume(server, keys)
    in_redis = await bytes_in_redis(server)
    logging.getLogger("sidestream").info("control", extra={"agent": next(iter(allowed.markers))})
    in_logs = bytes_in_logs(caplog.records)
    assert b"unreachable: it failed with redis://***@cache" in in_redis, "the presence says what the trouble was"
    for place in (in_files, in_redis, in_logs):
        assert planted.found_in(place) == set()
        assert allowed.found_in(place) == {"an agent"}
    await check_that_every_way_was_gone(server, keys)


async def check_that_every_way_was_gone(server: AsyncServer, keys: Keys) -> None:
    """Assert that each way has left errors, and each kind of secret its mark where messages are kept."""
    errors = await errors_by_session(server, keys)
    assert errors.keys() == WAYS.keys()
    without_secrets = {"by other events", "by faults of ours", "by a conversation", "by embedders and images"}
    for way, found in errors.items():
        marked = sum(HIDDEN in error.message for error in found)
        assert marked == 0 if way in without_secrets else marked >= len(KINDS), way
