"""What a PydanticAI run pays for being observed: processor time of the process, and time of its event loop's thread.

The same runs, by turns in one process: plain, observed by us, and by Logfire's own instrumentation with content (as it
comes) and without. The model answers at once, so that what is left is what the run costs by itself. Processor time is
that of all threads until everything is published or exported; the event loop's is that of the thread the runs are on.
"Added" is the median of the differences to the plain round of the same turn.
"""

import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import logfire
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

import sidestream
from benchmarks.harness import Run, main, say
from benchmarks.peers import logfire_configured, quiet
from benchmarks.surroundings import RealServer, real_server, receiver
from benchmarks.traffic import new_session

HISTORY: Final = 40
MESSAGE_CHARS: Final = 2_000
TOOLS: Final = 3
CHUNKS: Final = 100
FLUSH_S: Final = 30.0
SHARE: Final = 0.5
"""Of what Logfire's own instrumentation adds: the target."""

_WHY: Final = (
    "pydantic-ai's own hooks around every step, which run for any instrumentation; two context variables a step"
)

Ask = Callable[["Agent[None, str]"], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """One kind of run, and the events that it is."""

    name: str
    agent: "Agent[None, str]"
    ask: Ask
    events: int


@dataclass(frozen=True)
class Cost:
    """What one run took, in microseconds."""

    cpu_us: float
    loop_us: float


@dataclass(frozen=True)
class Observer:
    """Someone who looks on."""

    name: str
    begin: Callable[[], object]
    flush: Callable[[], object]
    end: Callable[[], object]


def measure(run: Run) -> None:
    """Let every observer see every kind of run, by turns."""
    quiet()
    turns, runs = run.sized(15, 1), run.sized(40, 3)
    run.configuration = {
        "turns": turns,
        "runs a turn": runs,
        "history": f"{HISTORY} messages of {MESSAGE_CHARS:,} characters",
        "tools": f"{TOOLS} calls of a tool in one answer, then the result",
        "stream": f"{CHUNKS} chunks, read one by one",
        "model": "FunctionModel, answers at once",
        "Logfire": "instrument_pydantic_ai(), BatchSpanProcessor(500 ms), OTLP/HTTP to a loopback receiver",
        "ours": "linger 200 ms, 4 partitions, AOF everysec",
    }
    with real_server(aof=True) as server, receiver() as otlp, logfire_configured(otlp.url):
        run.server = server.about
        observers = _observers()
        with _configured(server):
            for case in _cases():
                _compare(run, case, observers, turns, runs)


@contextmanager
def _configured(server: RealServer) -> Generator[None]:
    sidestream.configure(service="bench", redis_url=server.url, namespace="bench", close_timeout_s=FLUSH_S)
    try:
        yield
    finally:
        sidestream.close()


def _observers() -> dict[str, Observer]:
    def nothing() -> None:
        Agent.instrument_all(False)

    return {
        "plain": Observer("plain", nothing, nothing, nothing),
        "ours": Observer(
            "ours",
            sidestream.instrument_pydantic_ai,
            partial(sidestream.flush, FLUSH_S),
            sidestream.uninstrument_pydantic_ai,
        ),
        "Logfire": Observer("Logfire", logfire.instrument_pydantic_ai, logfire.force_flush, nothing),
        "Logfire, no content": Observer(
            "Logfire, no content",
            partial(logfire.instrument_pydantic_ai, include_content=False),
            logfire.force_flush,
            nothing,
        ),
    }


def _compare(run: Run, case: Case, observers: dict[str, Observer], turns: int, runs: int) -> None:
    say(f"  {case.name}")
    costs: dict[str, list[Cost]] = {name: [] for name in observers}
    before = sidestream.statistics().appended
    for _ in range(turns):
        for name, observer in observers.items():
            costs[name].append(_observed(case, observer, runs))
    seen, due = sidestream.statistics().appended - before, turns * (runs + 1) * case.events
    run.require(seen == due, f"{case.name}: {due} events were due, {seen} were appended")
    samples = turns * runs
    for what in ("cpu", "loop"):
        plain = [getattr(cost, f"{what}_us") for cost in costs["plain"]]
        label = {"cpu": "processor", "loop": "event loop"}[what]
        run.figure(f"{case.name}: plain, {label}", statistics.median(plain), "us", samples)
        added = {
            name: statistics.median(getattr(c, f"{what}_us") - p for c, p in zip(costs[name], plain, strict=True))
            for name in observers
            if name != "plain"
        }
        for name, value in added.items():
            run.figure(f"{case.name}: added by {name}, {label}", value, "us", samples)
        for name in ("Logfire", "Logfire, no content"):
            ratio = added["ours"] / max(1.0, added[name])
            run.at_most(SHARE, f"{case.name}: ours ÷ {name}, {label}", ratio, "", samples, limited_by=_WHY)


def _observed(case: Case, observer: Observer, runs: int) -> Cost:
    observer.begin()
    try:
        with sidestream.session_context(new_session(), "user-1"):
            anyio.run(_some_runs, case, 1)
            observer.flush()
            cpu_ns = time.process_time_ns()
            loop_ns = anyio.run(_some_runs, case, runs)
            observer.flush()
            cpu_ns = time.process_time_ns() - cpu_ns
    finally:
        observer.end()
    return Cost(cpu_ns / runs / 1000, loop_ns / runs / 1000)


async def _some_runs(case: Case, runs: int) -> int:
    started_ns = time.thread_time_ns()
    for _ in range(runs):
        await case.ask(case.agent)
    return time.thread_time_ns() - started_ns


_USAGE: Final = RequestUsage(input_tokens=1_200, output_tokens=300)
_PROMPT: Final = "Outline a talk about tides"


async def _answer(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart("Ten slides about tides.")], usage=_USAGE)


async def _call_tools(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if len(messages) > 1:
        return await _answer(messages, info)
    return ModelResponse(parts=[ToolCallPart("look_up", {"what": "tides"}) for _ in range(TOOLS)], usage=_USAGE)


async def _stream(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
    for _ in range(CHUNKS):
        yield "tide "


def look_up(what: str) -> str:
    """Look something up."""
    return f"{what}: twice a day"


def _history() -> list[ModelMessage]:
    history: list[ModelMessage] = []
    for _ in range(HISTORY // 2):
        history += [ModelRequest.user_text_prompt("x" * MESSAGE_CHARS), ModelResponse([TextPart("y" * MESSAGE_CHARS)])]
    return history


async def _ask(agent: "Agent[None, str]", history: list[ModelMessage] | None = None) -> None:
    await agent.run(_PROMPT, message_history=history)


async def _read(agent: "Agent[None, str]") -> None:
    async with agent.run_stream(_PROMPT) as result:
        async for _ in result.stream_text(delta=True, debounce_by=None):
            pass


def _cases() -> list[Case]:
    return [
        Case("one request", Agent(FunctionModel(_answer), name="short"), _ask, 2),
        Case("long history", Agent(FunctionModel(_answer), name="long"), partial(_ask, history=_history()), 2),
        Case("tools", Agent(FunctionModel(_call_tools), name="tools", tools=[look_up]), _ask, 3 + TOOLS),
        Case("stream", Agent(FunctionModel(stream_function=_stream), name="stream"), _read, 2),
    ]


if __name__ == "__main__":
    sys.exit(main("agent_run", __doc__, measure))
