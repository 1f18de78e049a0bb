"""The offline models look like what they stand for, and repeat themselves."""

from collections.abc import AsyncIterable

import pytest
from genai_prices import Usage, calc_price
from pydantic_ai import Agent
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import Model

from examples.deckster.agents import Team
from examples.deckster.journal import JOURNAL, Journal
from examples.deckster.models import Conditions, Offer, OfflineModel
from examples.deckster.scripts import Reply, greet

CALM = Conditions(pace=0, failing_ratio=0, stalled_ratio=0, cut_ratio=0)


def models_of(team: Team) -> dict[str, str]:
    """Return each model's provider."""
    agents = (team.greeter, team.clarifier, team.outliner, team.writer, team.reviewer)
    models = [agent.model for agent in agents if isinstance(agent.model, Model)]
    return {model.model_name: model.system for model in models}


def test_four_models_have_a_price_and_one_has_none() -> None:
    """Names that exist can be priced; the one that does not shows what unpriced looks like."""
    models = models_of(Team(CALM))
    assert models.pop("deck-llm-1") == "acme"
    assert len(models) == 4
    for name, provider in models.items():
        assert calc_price(Usage(input_tokens=1_000, output_tokens=10), name, provider_id=provider).total_price > 0
    with pytest.raises(LookupError):
        calc_price(Usage(input_tokens=1_000), "deck-llm-1", provider_id="acme")


async def test_the_same_seed_and_session_give_the_same_answer() -> None:
    """A run can be repeated; another session gets an answer of its own."""
    agent = Agent(OfflineModel(Offer("openai", "gpt-4o", tokens_per_s=100), greet, CALM))
    answers: list[str] = []
    for session_id in ("deck-1", "deck-1", "deck-2"):
        JOURNAL.set(Journal(session_id))
        answers.append((await agent.run("Hello")).output)
    assert answers[0] == answers[1] != answers[2]


async def test_usage_holds_cached_and_reasoning_tokens_inside_input_and_output() -> None:
    """The kinds of tokens lie inside the totals, as providers report them."""
    agent = Agent(OfflineModel(Offer("google", "gemini-2.5-pro", tokens_per_s=100, reasoning_ratio=0.5), greet, CALM))
    JOURNAL.set(Journal("deck"))
    await agent.run("Hello")
    usage = (await agent.run("Hello again")).usage
    assert 0 < usage.cache_read_tokens < usage.input_tokens
    assert 0 < usage.output_reasoning_tokens < usage.output_tokens


async def test_a_stream_that_is_left_early_has_reported_a_part_of_its_tokens() -> None:
    """The journal holds what the provider had reported by then: all of the input, some of the output."""
    model = OfflineModel(Offer("openai", "gpt-4o", tokens_per_s=100), lambda _: Reply(text="slide " * 200), CALM)
    outputs: list[int] = []
    for events_wanted in (3, 1_000):
        JOURNAL.set(Journal("deck"))
        async with model_request_stream(model, [ModelRequest.user_text_prompt("Hello")]) as stream:
            # The third event asks for the second piece, after which the first is reported.
            await take(stream, events_wanted)
        (entry,) = JOURNAL.get().entries
        assert entry["kind"] == "request"
        assert entry["input_tokens"] > 1_000
        outputs.append(entry["output_tokens"])
    assert 0 < outputs[0] < outputs[1] == 300


async def take(stream: AsyncIterable[object], wanted: int) -> None:
    """Take as many events from a stream as are wanted, or all there are."""
    async for _ in stream:
        wanted -= 1
        if not wanted:
            return
