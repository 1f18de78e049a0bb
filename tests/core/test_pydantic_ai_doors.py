"""Every way into PydanticAI is watched, can be left again, and says so where it does not fit."""

import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType

import pytest
from collecting import Collected
from pydantic_ai import Agent, Embedder, ImageGenerator, direct
from pydantic_ai.capabilities.instrumentation import Instrumentation
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.embeddings import EmbeddingResult, TestEmbeddingModel
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.images import TestImageGenerationModel
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models.instrumented import InstrumentationSettings, InstrumentedModel
from pydantic_ai.models.test import TestModel

from pipeline.presence import Capture
from producers import pydantic_ai as capture
from producers.captures import captures
from producers.inflight import OpenOperations
from producers.pydantic_ai import facts
from producers.pydantic_ai.hook import Hook
from producers.pydantic_ai.recorder import Recorder

logfire = pytest.importorskip("logfire")
from logfire.testing import TestExporter  # noqa: E402 - only where logfire is
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402

_PROMPT = ModelRequest.user_text_prompt("hello")
SECRET = "the-secret-of-the-deck"

_PLACES: list[tuple[type | ModuleType, str, str]] = [
    (Agent, "_resolve_instrumentation_settings", "agents that are instrumented by themselves"),
    (Instrumentation, "for_run", "the capability"),
    (direct, "_prepare_model", "direct requests"),
    (Embedder, "_get_model", "embeddings"),
    (ImageGenerator, "_get_model", "images"),
]


class FailingEmbeddingModel(TestEmbeddingModel):
    """A model that its provider refuses."""

    async def embed(self, *_: object, **__: object) -> EmbeddingResult:
        """Fail as a provider does."""
        raise ModelHTTPError(429, "slow-embed", body=SECRET)


@pytest.fixture
def told() -> Iterator[Collected]:
    """Observe PydanticAI for one test; none of our hooks may fail in it."""
    collected = Collected()
    before = capture.statistics().faults
    assert capture.instrument(collected)
    yield collected
    capture.uninstrument()
    Agent.instrument_all(False)
    assert capture.statistics().faults == before
    assert len(collected.open_operations) == 0


async def test_an_embedding_is_a_request_with_its_tokens(told: Collected) -> None:
    """What an `Embedder` asks for is a request of its own kind: model, provider, tokens and time."""
    result = await Embedder(TestEmbeddingModel("text-embed-1", provider_name="deckai")).embed_query("one two three")
    (request,) = told.requests
    assert (request.operation, request.model, request.provider) == ("embeddings", "text-embed-1", "deckai")
    assert (request.input_tokens, request.status) == (result.usage.input_tokens, "ok")
    assert request.input_tokens > 0
    assert request.duration_us is not None


async def test_an_embedding_that_fails_is_a_failed_request_and_one_error(told: Collected) -> None:
    """A refusal of the provider counts, and its body is not read."""
    with pytest.raises(ModelHTTPError):
        await Embedder(FailingEmbeddingModel()).embed_documents([SECRET])
    (request,), (error,) = told.requests, told.errors
    assert (request.status, request.error_type) == ("error", "ModelHTTPError")
    assert (error.code, error.operation) == ("429", "embeddings")
    assert SECRET not in repr(told.events)


async def test_an_image_is_a_request_with_its_tokens(told: Collected) -> None:
    """What an `ImageGenerator` asks for is a request of its own kind; the prompt is not read."""
    generator = ImageGenerator(TestImageGenerationModel("image-1", provider_name="deckai"))
    result = await generator.generate(SECRET)
    (request,) = told.requests
    assert (request.operation, request.model, request.provider) == ("image_generation", "image-1", "deckai")
    assert (request.input_tokens, request.output_tokens) == (result.usage.input_tokens, result.usage.output_tokens)
    assert SECRET not in repr(told.events)


async def test_an_embedding_inside_a_tool_belongs_to_the_run(told: Collected) -> None:
    """The cost of a run is the sum of its requests: an embedding made by a tool is one of them."""
    agent = Agent(TestModel(), name="searcher")

    @agent.tool_plain
    async def look() -> int:
        return len((await Embedder(TestEmbeddingModel()).embed_query("slides about tides")).embeddings)

    await agent.run("hello")
    (run,), (tool,) = told.runs, told.tools
    (embedding,) = [request for request in told.requests if request.operation == "embeddings"]
    assert (embedding.agent, embedding.run_id, embedding.parent_id) == ("searcher", run.run_id, tool.operation_id)


async def test_an_overridden_embedding_model_is_seen_as_itself(told: Collected) -> None:
    """What a test puts in the model's place is what is reported, and what the model itself knows stays reachable."""
    embedder, other = Embedder(TestEmbeddingModel("first")), TestEmbeddingModel("second")
    with embedder.override(model=other):
        await embedder.embed_query("hello", settings={"dimensions": 4})
    assert [request.model for request in told.requests] == ["second"]
    assert (other.last_settings or {}).get("dimensions") == 4


async def _run_with_capability(settings: InstrumentationSettings) -> None:
    await Agent(TestModel(), capabilities=[Instrumentation(settings=settings)]).run("hello")


async def _run_with_instrumented_model(settings: InstrumentationSettings) -> None:
    await Agent(InstrumentedModel(TestModel(), settings)).run("hello")


async def _ask_instrumented_model(settings: InstrumentationSettings) -> None:
    await model_request(InstrumentedModel(TestModel(), settings), [_PROMPT])


async def _ask_with_settings(settings: InstrumentationSettings) -> None:
    await model_request(TestModel(), [_PROMPT], instrument=settings)


async def _ask_switched_off(_settings: InstrumentationSettings) -> None:
    await model_request(TestModel(), [_PROMPT], instrument=False)


async def _ask_for_a_stream(settings: InstrumentationSettings) -> None:
    async with model_request_stream(TestModel(), [_PROMPT], instrument=settings) as stream:
        async for _ in stream:
            pass


@pytest.mark.parametrize(
    "ask",
    [
        _run_with_capability,
        _run_with_instrumented_model,
        _ask_instrumented_model,
        _ask_with_settings,
        _ask_switched_off,
        _ask_for_a_stream,
    ],
)
async def test_instrumentation_of_the_application_s_own_hides_nothing(
    told: Collected, ask: Callable[[InstrumentationSettings], Awaitable[None]]
) -> None:
    """A capability, a wrapped model, settings of one call or none: each request counts once, each time."""
    settings = InstrumentationSettings(include_content=False)
    for count in (1, 2):
        await ask(settings)
        assert len(told.requests) == count
    assert all(request.status == "ok" and request.input_tokens for request in told.requests)


@pytest.mark.parametrize("first", ["logfire", "sidestream"])
async def test_logfire_s_spans_of_embeddings_stay_as_they_were(first: str) -> None:
    """Beside Logfire, in either order, each embedding and each run is what it was there, and counted once here."""
    exporter = TestExporter()
    logfire.configure(
        send_to_logfire=False,
        console=False,
        metrics=False,
        additional_span_processors=[SimpleSpanProcessor(exporter)],
    )
    collected = Collected()
    embedder = Embedder(TestEmbeddingModel())
    if first == "sidestream":
        assert capture.instrument(collected)
    logfire.instrument_pydantic_ai()
    Embedder.instrument_all()
    if first == "logfire":
        assert capture.instrument(collected)
    await embedder.embed_query("hello")
    await Agent(TestModel(), capabilities=[Instrumentation()]).run("hello")
    capture.uninstrument()
    Agent.instrument_all(False)
    Embedder.instrument_all(False)
    logfire.shutdown()
    names = [span["name"] for span in exporter.exported_spans_as_dict()]
    assert names == ["embeddings test", "chat test", "invoke_agent agent"]
    assert [request.operation for request in collected.requests] == ["embeddings", "chat"]


async def test_uninstrument_leaves_nothing_behind() -> None:
    """The slot and all doors are what they were, and nothing is reported any more."""
    slot, functions = vars(Agent)["_instrument_default"], [vars(owner)[name] for owner, name, _ in _PLACES]
    collected = Collected()
    for _ in range(3):
        assert capture.instrument(collected)
    assert capture.statistics() == capture.Statistics(instrumented=True, faults=capture.statistics().faults)
    capture.uninstrument()
    capture.uninstrument()
    assert vars(Agent)["_instrument_default"] == slot
    assert [vars(owner)[name] for owner, name, _ in _PLACES] == functions
    await Agent(TestModel()).run("hello")
    await Embedder(TestEmbeddingModel()).embed_query("hello")
    assert collected.events == []
    assert not capture.statistics().instrumented


async def test_what_others_wrapped_meanwhile_stays_and_only_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another library that wrapped our door keeps its wrap; after us it works as if we had never been there."""
    monkeypatch.setattr(Embedder, "_get_model", vars(Embedder)["_get_model"])  # puts it back in the end
    before, after = Collected(), Collected()
    assert capture.instrument(before)
    ours = vars(Embedder)["_get_model"]

    @functools.wraps(ours)
    def theirs(self: Embedder) -> object:
        return ours(self)

    setattr(Embedder, "_get_model", theirs)  # noqa: B010 - a private name of the vendor's
    capture.uninstrument()
    assert vars(Embedder)["_get_model"] is theirs
    await Embedder(TestEmbeddingModel()).embed_query("hello")
    assert before.events == []
    assert capture.instrument(after)
    await Embedder(TestEmbeddingModel()).embed_query("hello")
    capture.uninstrument()
    assert (before.events, len(after.requests)) == ([], 1)


@pytest.mark.parametrize(("owner", "name", "behind"), _PLACES)
async def test_a_door_that_we_do_not_know_stays_shut_and_is_said_once(
    owner: type | ModuleType, name: str, behind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a function has changed, a warning and the presence record say what is not observed; all else still is."""

    def changed(_self: object, _more: bool = False) -> object:
        return None

    monkeypatch.setattr(owner, name, changed)
    collected = Collected()
    with caplog.at_level(logging.WARNING):
        assert capture.instrument(collected)
    assert vars(owner)[name] is changed
    assert [vars(record)["unseen"] for record in caplog.records] == [behind]
    assert [(c.library, c.unseen) for c in captures()] == [("pydantic-ai", (behind,))]
    monkeypatch.undo()
    await Agent(TestModel()).run("hello")
    capture.uninstrument()
    assert len(collected.runs) == 1
    assert captures() == ()


def test_a_version_that_does_not_fit_at_all_is_said_and_taken_out_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that cannot be put in place leaves nothing behind, and the presence record says that nothing is seen."""
    functions = [vars(owner)[name] for owner, name, _ in _PLACES]
    monkeypatch.setattr(Hook, "watching", _raise)
    with caplog.at_level(logging.WARNING):
        assert not capture.instrument(Collected())
    assert len(caplog.records) == 1
    assert [c.unseen for c in captures()] == [("anything",)]
    capture.uninstrument()
    assert [vars(owner)[name] for owner, name, _ in _PLACES] == functions


def test_without_pydantic_ai_it_says_so_and_returns_false(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An application without the extra gets one warning and no exception."""
    monkeypatch.setitem(sys.modules, "producers.pydantic_ai.hook", None)
    with caplog.at_level(logging.WARNING):
        assert not capture.instrument(Collected())
    assert len(caplog.records) == 1
    capture.uninstrument()


def _raise(*_: object, **__: object) -> None:
    raise ZeroDivisionError(SECRET)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Recorder, "_open_request"),
        (Recorder, "_close_request"),
        (Recorder, "emit"),
        (facts, "usage_event"),
        (OpenOperations, "begin"),
        (OpenOperations, "end"),
        (Hook, "_watch"),
        (Hook, "_watched"),
        (Hook, "watching"),
    ],
)
async def test_no_fault_of_ours_breaks_what_goes_through_a_door(
    owner: type | ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails in our hooks, embeddings, images, capabilities and direct requests go on; faults are counted."""
    before = capture.statistics().faults
    assert capture.instrument(Collected())
    monkeypatch.setattr(owner, name, _raise)
    try:
        assert (await Embedder(TestEmbeddingModel()).embed_query("hello")).embeddings
        assert (await ImageGenerator(TestImageGenerationModel()).generate("hello")).images
        assert (await Agent(TestModel(), capabilities=[Instrumentation()]).run("hello")).output
        assert (await model_request(TestModel(), [_PROMPT], instrument=True)).parts
        with pytest.raises(ModelHTTPError):
            await Embedder(FailingEmbeddingModel()).embed_query("hello")
    finally:
        capture.uninstrument()
    assert capture.statistics().faults > before
    assert captures() == ()


async def test_the_presence_record_counts_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sees that observing failed, and how often, without the application's log."""
    assert capture.instrument(Collected())
    before = capture.statistics().faults
    monkeypatch.setattr(Recorder, "emit", _raise)
    await Embedder(TestEmbeddingModel()).embed_query("hello")
    (told,) = captures()
    capture.uninstrument()
    assert isinstance(told, Capture)
    assert (told.library, told.unseen, told.faults) == ("pydantic-ai", (), before + 1)
    assert told.version.startswith("2.")
