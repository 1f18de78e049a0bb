"""The five agents of Deckster: ordinary PydanticAI, and not a word about telemetry."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, RunContext
from pydantic_ai.toolsets import FunctionToolset, ToolsetTool, WrapperToolset

from examples.deckster import scripts
from examples.deckster.conversation import AGENT_OF_STATE, State
from examples.deckster.journal import JOURNAL
from examples.deckster.models import Conditions, Offer, OfflineModel

_ROOMY_SLIDES = 6
"""A deck with more slides gets a denser layout."""

Say = Callable[[str], Awaitable[None]]
"""Sends a piece of text to the user."""


class TemplateLibraryError(Exception):
    """The template library did not answer."""


class Questions(BaseModel):
    """What the clarifier still has to know."""

    enough: bool
    questions: list[str]


class Outline(BaseModel):
    """The slides of a deck, in order."""

    title: str
    slides: list[str]


class Review(BaseModel):
    """What the reviewer thinks of a deck."""

    approved: bool
    remarks: list[str]


@dataclass
class Deck:
    """What a presentation holds so far; agents and tools work on it."""

    brief: str = ""
    outline: str = ""
    text: str = ""


@dataclass(frozen=True)
class Result:
    """What came of a turn: the words for the user, and whether the presentation can move on."""

    text: str
    is_satisfied: bool = True


async def find_template(ctx: RunContext[Conditions], topic: str) -> str:
    """Find the template that suits a topic best."""
    await ctx.deps.wait(0.8)
    if ctx.deps.dice(JOURNAL.get(), "template").random() < ctx.deps.broken_ratio:
        raise TemplateLibraryError("the template library did not answer")
    return f"Template 'Clear', used for {topic}"


async def look_up_figures(ctx: RunContext[Conditions], topic: str) -> list[int]:
    """Look up the figures that belong to a topic."""
    await ctx.deps.wait(1.5)
    return [len(topic) * year for year in range(1, 6)]


async def pick_layout(ctx: RunContext[Conditions], slides: int) -> str:
    """Pick a layout for a number of slides."""
    await ctx.deps.wait(0.3)
    return "two columns" if slides > _ROOMY_SLIDES else "one column"


async def check_spelling(ctx: RunContext[Conditions], text: str) -> str:
    """Check the spelling of a text."""
    await ctx.deps.wait(0.5)
    return f"{len(text.split())} words, no mistakes"


class _Journalled(WrapperToolset[Conditions]):
    """Tools whose calls are written into the journal: a witness for the demo, not needed in an application."""

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Conditions], tool: ToolsetTool[Conditions]
    ) -> Any:  # noqa: ANN401 - the signature is PydanticAI's
        with JOURNAL.get().tool(name):
            return await super().call_tool(name, tool_args, ctx, tool)


class Team:
    """The agents, with models that answer under `conditions`."""

    def __init__(self, conditions: Conditions) -> None:
        def model(offer: Offer, script: scripts.Script) -> OfflineModel:
            return OfflineModel(offer, script, conditions)

        def tools(*functions: Callable[..., Awaitable[Any]]) -> list[_Journalled]:
            return [_Journalled(FunctionToolset(list(functions)))]

        self._conditions = conditions
        self.greeter = Agent(
            model(Offer("openai", "gpt-4o-mini", tokens_per_s=120, first_token_s=0.4), scripts.greet),
            name="greeter",
            deps_type=Conditions,
        )
        self.clarifier = Agent(
            model(Offer("anthropic", "claude-sonnet-4-5", tokens_per_s=70), scripts.clarify),
            name="clarifier",
            deps_type=Conditions,
            output_type=Questions,
        )
        self.outliner = Agent(
            model(Offer("google", "gemini-2.5-pro", tokens_per_s=120, reasoning_ratio=0.8), scripts.outline),
            name="outliner",
            deps_type=Conditions,
            output_type=Outline,
            toolsets=tools(find_template),
        )
        self.writer = Agent(
            model(Offer("openai", "gpt-4o", tokens_per_s=100), scripts.write),
            name="writer",
            deps_type=Conditions,
            toolsets=tools(look_up_figures, pick_layout),
        )
        self.reviewer = Agent(
            model(Offer("acme", "deck-llm-1", tokens_per_s=150), scripts.review),
            name="reviewer",
            deps_type=Conditions,
            output_type=Review,
            toolsets=tools(check_spelling),
        )

    async def work(self, state: State, deck: Deck, words: str, say: Say) -> Result:
        """Let the agent whose turn it is answer the user's words.

        Raises:
            ValueError: The presentation is done.
        """
        if state is State.DONE:
            raise ValueError("a presentation that is done needs no more work")
        with JOURNAL.get().run(AGENT_OF_STATE[state]):
            match state:
                case State.GREETING:
                    return await self._greet(words)
                case State.CLARIFYING:
                    return await self._clarify(deck, words)
                case State.OUTLINING:
                    return await self._outline(deck, words)
                case State.WRITING:
                    return await self._write(deck, words, say)
                case State.REVIEWING:
                    return await self._review(deck)

    async def _greet(self, words: str) -> Result:
        run = await self.greeter.run(words, deps=self._conditions)
        return Result(run.output)

    async def _clarify(self, deck: Deck, words: str) -> Result:
        run = await self.clarifier.run(f"{deck.brief}\n{words}", deps=self._conditions)
        deck.brief = f"{deck.brief}\n{words}".strip()
        return Result(" ".join(run.output.questions) or "I know enough.", is_satisfied=run.output.enough)

    async def _outline(self, deck: Deck, words: str) -> Result:
        run = await self.outliner.run(f"{deck.brief}\n{words}", deps=self._conditions)
        deck.outline = "\n".join([run.output.title, *run.output.slides])
        return Result(deck.outline)

    async def _write(self, deck: Deck, words: str, say: Say) -> Result:
        prompt = f"{deck.brief}\n{deck.outline}\n{words}"
        async with self.writer.run_stream(prompt, deps=self._conditions) as stream:
            async for piece in stream.stream_text(delta=True, debounce_by=None):
                await say(piece)
            deck.text = await stream.get_output()
        return Result(deck.text)

    async def _review(self, deck: Deck) -> Result:
        run = await self.reviewer.run(deck.text, deps=self._conditions)
        return Result(" ".join(run.output.remarks) or "Approved.", is_satisfied=run.output.approved)
