"""Models that answer offline, yet look like their providers: names, usage, latency, streaming and failures.

Each states a real provider and model, so that a price can be found for it; one is known to nobody and stays unpriced.
Everything that looks like chance is drawn from the seed, the session and the number of the request: the same seed gives
the same day, whatever the order in which sessions are served.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    ModelResponseStreamEvent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from examples.deckster.journal import JOURNAL, Journal, Outcome
from examples.deckster.scripts import Asked, Reply, Script

_CHARACTERS_PER_TOKEN = 4
_TOKENS_A_TOOL = 60
"""What the definition of one tool adds to a prompt."""
_TOKENS_INSTRUCTIONS = 1_100
"""The house rules of slide making, which a real agent would send with every request."""
_CACHED_TOKENS = 1_024
"""What a provider keeps of the instructions; from the second request of a session on it is read from the cache."""
_CHARACTERS_A_PIECE = 160
_STALL_S = 120.0
"""Longer than anyone's patience: a stalled request ends when the application gives up."""


@dataclass(frozen=True)
class Conditions:
    """How the providers behave today.

    Args:
        seed: What every draw of chance starts from.
        pace: Seconds waited for each second a real provider would take.
        failing_ratio: Requests refused with 429 or 500, of all requests.
        stalled_ratio: Requests that get no answer in time, of all requests.
        cut_ratio: Streams that the provider breaks off in the middle, of all streams.
        broken_ratio: Searches of the template library that fail, of all of them.
    """

    seed: int = 7
    pace: float = 0.05
    failing_ratio: float = 0.03
    stalled_ratio: float = 0.005
    cut_ratio: float = 0.05
    broken_ratio: float = 0.04

    def dice(self, journal: Journal, what: str) -> random.Random:
        """Return a source of chance for `what` happens at this point of a session: the same whenever it is repeated."""
        key = f"{self.seed}/{journal.session_id}/{journal.requests_begun}/{what}"
        return random.Random(key)  # noqa: S311 - chance that can be repeated, not a secret

    async def wait(self, real_s: float) -> None:
        """Wait as long as the real thing would take, at the day's pace."""
        with JOURNAL.get().at_work():
            await asyncio.sleep(real_s * self.pace)


@dataclass(frozen=True)
class Offer:
    """A model as its provider offers it; reasoning is the share of its output that nobody sees."""

    provider: str
    model: str
    tokens_per_s: float
    first_token_s: float = 0.6
    reasoning_ratio: float = 0.0


@dataclass(frozen=True)
class _Answer:
    """What a request is going to bring, decided before it begins to wait."""

    parts: list[ModelResponsePart]
    usage: RequestUsage
    first_token_s: float
    writing_s: float
    refusal: ModelHTTPError | None
    is_cut: bool


class OfflineModel(Model):
    """A model that is offered as `offer` and says what `script` tells it to."""

    def __init__(self, offer: Offer, script: Script, conditions: Conditions) -> None:
        super().__init__()
        self._offer = offer
        self._script = script
        self._day = conditions

    @property
    def model_name(self) -> str:
        """Return the model's name, as its provider writes it."""
        return self._offer.model

    @property
    def system(self) -> str:
        """Return the provider's name."""
        return self._offer.provider

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Answer at once, after the time it takes."""
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        journal = JOURNAL.get()
        with journal.request(self.system, self.model_name) as outcome:
            answer = self._answer(journal, messages, parameters)
            await self._day.wait(answer.first_token_s)
            if answer.refusal:
                raise answer.refusal
            await self._day.wait(answer.writing_s)
            _report(answer.usage, outcome)
        return ModelResponse(
            parts=answer.parts,
            usage=answer.usage,
            model_name=self.model_name,
            provider_name=self.system,
            finish_reason="tool_call" if isinstance(answer.parts[0], ToolCallPart) else "stop",
        )

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,  # noqa: ARG002 - the signature is PydanticAI's
    ) -> AsyncGenerator[StreamedResponse]:
        """Answer in pieces."""
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        journal = JOURNAL.get()
        with journal.request(self.system, self.model_name) as outcome:
            answer = self._answer(journal, messages, parameters)
            await self._day.wait(answer.first_token_s)
            if answer.refusal:
                raise answer.refusal
            stream = _OfflineStream(parameters, self._offer, self._day, answer)
            try:
                yield stream
            finally:
                # Whatever ended the stream, this is what the provider had reported by then.
                _report(stream.usage, outcome)
                if stream.failure:
                    outcome.status = "error"
                    journal.error(stream.failure)

    def _answer(self, journal: Journal, messages: list[ModelMessage], parameters: ModelRequestParameters) -> _Answer:
        day, dice = self._day, self._day.dice(journal, "request")
        parts = _parts(self._script(_asked(messages, dice)), parameters)
        is_first = journal.requests_begun == 1
        usage = _usage(messages, parts, parameters, self._offer, cached_tokens=0 if is_first else _CACHED_TOKENS)
        first_token_s = self._offer.first_token_s * dice.uniform(0.6, 1.8)
        return _Answer(
            parts=parts,
            usage=usage,
            first_token_s=_STALL_S if dice.random() < day.stalled_ratio else first_token_s,
            writing_s=usage.output_tokens / self._offer.tokens_per_s,
            refusal=self._refusal(dice) if dice.random() < day.failing_ratio else None,
            is_cut=dice.random() < day.cut_ratio,
        )

    def _refusal(self, dice: random.Random) -> ModelHTTPError:
        return ModelHTTPError(status_code=dice.choice((429, 500)), model_name=self.model_name)


@dataclass
class _OfflineStream(StreamedResponse):
    """An answer that arrives in pieces.

    The provider reports a piece's tokens after the piece, as real ones do; so a stream that is left early, or broken
    off by the provider, has reported a part of them.
    """

    _offer: Offer
    _day: Conditions
    _answer: _Answer
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    failure: ModelHTTPError | None = field(default=None, init=False)

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        pieces = list(_pieces(self._answer.parts))
        for number, piece in enumerate(pieces, start=1):
            await self._day.wait(self._answer.writing_s / len(pieces))
            for event in self._events(piece):
                yield event
            self._usage = _share(self._answer.usage, number, len(pieces))
            if self._answer.is_cut and number * 2 >= len(pieces) > 1:
                # 529: overloaded, the way a provider breaks off a stream that had begun well.
                self.failure = ModelHTTPError(status_code=529, model_name=self.model_name)
                raise self.failure
        self.finish_reason = "tool_call" if isinstance(self._answer.parts[0], ToolCallPart) else "stop"

    def _events(self, piece: ModelResponsePart) -> list[ModelResponseStreamEvent]:
        if isinstance(piece, TextPart):
            return list(self._parts_manager.handle_text_delta(vendor_part_id="text", content=piece.content))
        return [self._parts_manager.handle_part(vendor_part_id=None, part=piece)]

    async def close_stream(self) -> None:
        """Close nothing: there is no connection."""

    @property
    def model_name(self) -> str:
        return self._offer.model

    @property
    def provider_name(self) -> str:
        return self._offer.provider

    @property
    def provider_url(self) -> None:
        return None

    @property
    def timestamp(self) -> datetime:
        return self._began


def _asked(messages: list[ModelMessage], dice: random.Random) -> Asked:
    parts = list(itertools.chain.from_iterable(message.parts for message in messages))
    prompts = [part.content for part in parts if isinstance(part, UserPromptPart) and isinstance(part.content, str)]
    return Asked("\n".join(prompts), any(isinstance(part, ToolReturnPart) for part in parts), dice)


def _parts(reply: Reply, parameters: ModelRequestParameters) -> list[ModelResponsePart]:
    """Put a reply into the parts a provider would send; a structured output is a call of the output tool."""
    calls = list(reply.tools)
    if reply.output is not None:
        calls.append((parameters.output_tools[0].name, reply.output))
    return [ToolCallPart(name, dict(arguments)) for name, arguments in calls] or [TextPart(reply.text)]


def _pieces(parts: list[ModelResponsePart]) -> Iterator[ModelResponsePart]:
    for part in parts:
        if isinstance(part, TextPart):
            for start in range(0, len(part.content), _CHARACTERS_A_PIECE):
                yield TextPart(part.content[start : start + _CHARACTERS_A_PIECE])
        else:
            yield part


def _usage(
    messages: list[ModelMessage],
    parts: list[ModelResponsePart],
    parameters: ModelRequestParameters,
    offer: Offer,
    *,
    cached_tokens: int,
) -> RequestUsage:
    """Count tokens as providers do: the input includes what was cached, the output what was only thought."""
    prompt_tokens = sum(_tokens(part) for message in messages for part in message.parts)
    tool_tokens = _TOKENS_A_TOOL * len(parameters.function_tools + parameters.output_tools)
    visible_tokens = sum(_tokens(part) for part in parts)
    reasoning_tokens = round(visible_tokens * offer.reasoning_ratio)
    return RequestUsage(
        input_tokens=_TOKENS_INSTRUCTIONS + tool_tokens + prompt_tokens,
        cache_read_tokens=cached_tokens,
        output_tokens=visible_tokens + reasoning_tokens,
        output_reasoning_tokens=reasoning_tokens,
    )


def _tokens(part: ModelRequestPart | ModelResponsePart) -> int:
    match part:
        case UserPromptPart() | TextPart() | ToolReturnPart():
            text = str(part.content)
        case ToolCallPart():
            text = part.tool_name + part.args_as_json_str()
        case _:
            text = ""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def _share(usage: RequestUsage, done: int, of: int) -> RequestUsage:
    """Return the usage reported after `done` of `of` pieces: all of the input, a part of the output."""
    return replace(
        usage,
        output_tokens=usage.output_tokens * done // of,
        output_reasoning_tokens=usage.output_reasoning_tokens * done // of,
    )


def _report(usage: RequestUsage, outcome: Outcome) -> None:
    outcome.input_tokens, outcome.output_tokens = usage.input_tokens, usage.output_tokens
