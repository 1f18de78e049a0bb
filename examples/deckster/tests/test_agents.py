"""The journal agrees with PydanticAI's own instrumentation, at whatever moment a turn is cancelled."""

import asyncio
from collections import Counter

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import Agent, InstrumentationSettings

from examples.deckster.agents import Deck, Team
from examples.deckster.conversation import State
from examples.deckster.journal import JOURNAL, Journal
from examples.deckster.models import Conditions

CALM = Conditions(pace=0, failing_ratio=0, stalled_ratio=0, cut_ratio=0, broken_ratio=0)
STORMY = Conditions(pace=0, failing_ratio=0.25, stalled_ratio=0, cut_ratio=0.5, broken_ratio=0.5)
KIND_OF_OPERATION = {"chat": "request", "invoke_agent": "run", "execute_tool": "tool"}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Collect the spans of PydanticAI's own instrumentation: a second witness."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider, include_content=False))
    return exporter


async def nobody(_piece: str) -> None:
    """Listen to nothing, but let others run, as a socket does."""
    await asyncio.sleep(0)


async def work_for(steps: int, team: Team, state: State, journal: Journal) -> bool:
    """Let an agent work, and cancel it after so many steps of the event loop; tell whether it was still at work."""

    async def turn() -> None:
        JOURNAL.set(journal)
        await team.work(state, Deck("What it is about", "Outline", "Text"), "Go on", nobody)

    task = asyncio.create_task(turn())
    for _ in range(steps):
        await asyncio.sleep(0)
    was_running = not task.done()
    if was_running:
        journal.cancel(task)
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
    return was_running


def count_entries(journal: Journal) -> Counter[str]:
    """Count what the journal holds; errors have no span of their own."""
    counts: Counter[str] = Counter(entry["kind"] for entry in journal.entries if entry["kind"] != "error")
    for entry in journal.entries:
        if entry["kind"] == "request":
            counts.update(input_tokens=entry["input_tokens"], output_tokens=entry["output_tokens"])
    return +counts


def count_spans(spans: InMemorySpanExporter) -> Counter[str]:
    """Count the same things in the spans."""
    counts: Counter[str] = Counter()
    for span in spans.get_finished_spans():
        facts = span.attributes or {}
        counts[KIND_OF_OPERATION[str(facts["gen_ai.operation.name"])]] += 1
        if facts["gen_ai.operation.name"] == "chat":
            counts["input_tokens"] += int(str(facts.get("gen_ai.usage.input_tokens", 0)))
            counts["output_tokens"] += int(str(facts.get("gen_ai.usage.output_tokens", 0)))
    return +counts


@pytest.mark.parametrize("conditions", [CALM, STORMY], ids=["calm", "stormy"])
@pytest.mark.parametrize("state", [state for state in State if state is not State.DONE])
async def test_a_turn_cancelled_at_any_step_is_written_down_as_it_happened(
    state: State, conditions: Conditions, spans: InMemorySpanExporter
) -> None:
    """After 0, 1, 2, … steps: requests, tokens, runs and tools are those that PydanticAI reports itself."""
    team, steps, was_running = Team(conditions), 0, True
    while was_running:
        spans.clear()
        journal = Journal("deck")
        was_running = await work_for(steps, team, state, journal)
        assert count_entries(journal) == count_spans(spans), f"cancelled after {steps} steps"
        steps += 1
    assert steps > 5


async def test_an_error_that_passes_through_request_and_run_is_one_error() -> None:
    """One exception object is one entry, though the request and the run both ended in it."""
    journal = Journal("deck")
    await work_for(1_000, Team(Conditions(pace=0, failing_ratio=1)), State.GREETING, journal)
    assert [entry["kind"] for entry in journal.entries] == ["error", "request", "run"]


async def test_a_presentation_that_is_done_needs_no_agent() -> None:
    """Work on it is refused before any agent runs."""
    with pytest.raises(ValueError, match="done"):
        await Team(CALM).work(State.DONE, Deck(), "More", nobody)
