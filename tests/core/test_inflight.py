"""What is open: seen while it lasts, gone however it ends, and told apart from what died with its process."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from consumers.views.inflight import in_flight, oldest_first
from pipeline.events import Resource
from pipeline.keys import Keys
from pipeline.presence import OpenOperation, Presence
from producers import pydantic_ai as capture
from producers.inflight import MAX_OPEN, SHOWN_AFTER_US, SHOWN_OF_EACH_KIND, OpenOperations
from producers.ledger import Counts
from producers.telemetry import Telemetry
from producers.word import HEARTBEAT_S, PRESENCE_EVERY_S, Word

LONG_US = SHOWN_AFTER_US
MINUTE_US = 60_000_000


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Return telemetry that keeps what is reported, and watches all agents."""
    held = Telemetry()
    held.hold()
    assert capture.instrument(held)
    yield held
    capture.uninstrument()
    gc.collect()
    assert len(held.open_operations) == 0, "an operation was followed beyond its end"
    held.release()


def open_later(telemetry: Telemetry) -> list[OpenOperation]:
    """Return what would be shown as open a minute from now."""
    return list(telemetry.open_operations.older_than(time.time_ns() // 1000 + MINUTE_US))


async def test_a_model_that_hangs_is_seen_as_a_run_and_a_request(telemetry: Telemetry) -> None:
    """Both stand in the presence with their agent, model and session, by the ids that their events will have."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def hang(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        asked.set()
        await go_on.wait()
        return ModelResponse(parts=[TextPart("done")])

    agent = Agent(FunctionModel(hang, model_name="slow-1"), name="writer")
    with telemetry.session_context("session-1"):
        run = asyncio.ensure_future(agent.run("hello"))
    await asked.wait()
    found = {operation.kind: operation for operation in open_later(telemetry)}
    assert found.keys() == {"run", "request"}
    assert {operation.agent for operation in found.values()} == {"writer"}
    assert {operation.session for operation in found.values()} == {"session-1"}
    assert found["request"].model == "slow-1"
    assert found["request"].parent_id == found["run"].operation_id
    assert telemetry.open_operations.older_than(0) == (), "what is young is not shown"
    go_on.set()
    await run
    assert open_later(telemetry) == []
    ended = [getattr(event, "operation_id", "") for event in telemetry.held()]
    assert found["run"].operation_id in ended


async def test_a_tool_that_hangs_is_seen_and_a_cancelled_run_leaves_nothing(telemetry: Telemetry) -> None:
    """A run that is cancelled in the middle of a tool takes run and tool with it."""
    called = asyncio.Event()

    def call(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        assert messages
        return ModelResponse(parts=[ToolCallPart("look", {})])

    agent = Agent(FunctionModel(call), name="finder")

    @agent.tool_plain
    async def look() -> str:  # pyright: ignore[reportUnusedFunction] - the model calls it
        called.set()
        await asyncio.Event().wait()
        return ""

    run = asyncio.ensure_future(agent.run("hello"))
    await called.wait()
    assert {(o.kind, o.name) for o in open_later(telemetry)} == {("run", "finder"), ("tool", "look")}
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert open_later(telemetry) == []


async def test_many_runs_that_fail_or_are_cancelled_leave_nothing(telemetry: Telemetry) -> None:
    """Whichever way a hundred runs end, nothing is followed any more."""

    async def fail(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await asyncio.sleep(0)
        raise RuntimeError("no")

    agent = Agent(FunctionModel(fail), name="writer")
    runs = [asyncio.ensure_future(agent.run("hello")) for _ in range(100)]
    await asyncio.sleep(0)
    for run in runs[::2]:
        run.cancel()
    ends = await asyncio.gather(*runs, return_exceptions=True)
    assert all(isinstance(end, BaseException) for end in ends)
    assert open_later(telemetry) == []


async def _slowly(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
    for _ in range(1_000_000):
        await asyncio.sleep(0)
        yield "word "


async def test_a_stream_whose_reader_goes_away_leaves_nothing(telemetry: Telemetry) -> None:
    """An agent's events that nobody reads to the end: the generator is dropped after its first one."""
    events = _events(Agent(FunctionModel(stream_function=_slowly), name="writer"))
    assert await anext(events)
    assert {operation.kind for operation in open_later(telemetry)} == {"run", "request"}
    del events
    gc.collect()
    for _ in range(100):
        await asyncio.sleep(0)
    gc.collect()
    assert open_later(telemetry) == []


async def _events(agent: Agent[None, str]) -> AsyncIterator[object]:
    async with agent.run_stream_events("hello") as events:
        async for event in events:
            yield event


def test_what_no_kind_is_does_not_stop_the_word(telemetry: Telemetry) -> None:
    """An application may pass anything: the operation is shown without a kind."""
    with telemetry.operation("render", kind=[]):  # pyright: ignore[reportArgumentType] - what is tested
        assert [(o.kind, o.name) for o in open_later(telemetry)] == [("", "render")]


def test_a_word_before_any_event_costs_no_spinning() -> None:
    """Woken by an operation alone, the publisher looks each second; once it has spoken, each heartbeat."""
    word = Word(Keys("test"), "ab" * 16, Resource(), Counts(), lambda _: ())
    assert word.due_in_s(Counts(), 100.0) == PRESENCE_EVERY_S
    word.tried(100.0)
    assert word.due_in_s(Counts(), 102.0) == HEARTBEAT_S - 2
    assert word.due_in_s(Counts(offered=1), 100.5) == PRESENCE_EVERY_S / 2


def test_an_operation_of_the_application_is_seen_while_it_lasts(telemetry: Telemetry) -> None:
    """An `operation` that ends by an exception is no longer open; inside, the inner one names the outer."""

    def render() -> None:
        with telemetry.operation("render", agent="designer"), telemetry.operation("draw", kind="tool"):
            outer, inner = open_later(telemetry)
            assert (outer.kind, outer.name, outer.agent) == ("step", "render", "designer")
            assert (inner.kind, inner.parent_id) == ("tool", outer.operation_id)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        render()
    assert open_later(telemetry) == []


class Opened:
    """Something that is open."""

    def __init__(self, number: int, kind: str = "step") -> None:
        self.kind = kind
        self.started_us = number

    def open_operation(self) -> OpenOperation:
        """Say what it is."""
        return OpenOperation(f"operation-{self.started_us}\ud800", "", self.started_us, kind=self.kind)


def test_what_is_dropped_without_an_end_is_forgotten() -> None:
    """An operation whose object is gone is not open, and what is followed is bounded."""
    operations = OpenOperations()
    kept = [Opened(number) for number in range(MAX_OPEN + 10)]
    list(map(operations.begin, kept))
    assert len(operations) == MAX_OPEN
    kept.clear()
    assert len(operations) == 0
    operations.end(Opened(1))


def test_the_oldest_of_each_kind_are_shown() -> None:
    """Steps that are open for hours do not hide a request that hangs; names are made storable."""
    operations = OpenOperations()
    kept = [*(Opened(number) for number in range(100)), Opened(1000, "request")]
    for one in kept:
        operations.begin(one)
    found = operations.older_than(2 * LONG_US)
    assert [operation.kind for operation in found] == ["step"] * SHOWN_OF_EACH_KIND + ["request"]
    assert found[0].name == "operation-0?"


# What a reader says of them


def word(**more: object) -> Presence:
    """Return a word said at 1,000 s of the broker's clock, by a producer whose clock is an hour ahead."""
    hang = OpenOperation("chat", "writer", 4_570_000_000, kind="request", model="gpt-4o", operation_id="r1")
    plain: dict[str, object] = {
        "at_ms": 1_000_000,
        "clock_us": 4_600_000_000,
        "open_operations": (hang,),
        "service": "deckster",
        **more,
    }
    return Presence("ab" * 16, **plain)  # pyright: ignore[reportArgumentType] - plain values


def test_a_slow_call_of_a_living_producer_grows_older() -> None:
    """Its age is the producer's own, and goes on by the broker's clock: an hour between the two changes nothing."""
    [row] = in_flight(word(), "alive", 1_004_000)
    assert (row.state, row.open_ms, row.seen_ms, row.certain_ms) == ("open", 34_000, 4_000, 30_000)
    assert (row.operation.model, row.service) == ("gpt-4o", "deckster")


def test_what_a_dead_producer_had_open_is_unknown_and_does_not_grow() -> None:
    """Nobody can say whether it still runs: it is shown as it was when its producer spoke last."""
    [row] = in_flight(word(), "silent", 9_000_000)
    assert (row.state, row.open_ms, row.seen_ms, row.certain_ms) == ("unknown", 30_000, 8_000_000, 30_000)
    [fresh] = in_flight(word(), "alive", 1_000_000)
    assert [r.state for r in oldest_first([row, fresh])] == ["open", "unknown"]


@pytest.mark.parametrize("life", ["closed", "recovered"])
def test_who_said_goodbye_has_nothing_open(life: str) -> None:
    """A producer that closed, or whose spool was drained, waits for nothing."""
    assert in_flight(word(), life, 1_000_000) == []


def test_a_word_of_an_older_version_is_read() -> None:
    """Without the producer's clock and the newer fields the broker's clock stands in, and no age is negative."""
    old = msgspec.json.decode(
        b'[{"name": "render", "agent": "a", "started_us": 990000000}]', type=tuple[OpenOperation, ...]
    )
    [row] = in_flight(word(clock_us=0, open_operations=old), "alive", 1_000_000)
    assert (row.open_ms, row.operation.kind) == (10_000, "")
    ahead = (OpenOperation("render", "a", 2_000_000_000),)
    [row] = in_flight(word(clock_us=0, open_operations=ahead), "alive", 1_000_000)
    assert row.open_ms == 0
