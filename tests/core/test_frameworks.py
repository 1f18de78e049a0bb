"""Applications without PydanticAI: a vendor's response becomes the same event, and docs/frameworks.md is true."""

import ast
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeAlias, cast
from unittest.mock import MagicMock

import httpx2
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message
from anthropic.types.beta import BetaMessage
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic_ai import Agent
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

import sidestream
from consumers.catalogue import Catalogue, Pricer
from consumers.pricing import PriceBook
from pipeline import limits
from pipeline.events import UsageEvent, check_event
from producers import pydantic_ai
from producers.responses import ResponseUsage, anthropic_usage, openai_usage
from sidestream.testing import Captured

Json: TypeAlias = dict[str, Any]
NOW_US: Final = 1_796_000_000_000_000
SECRET: Final = "the-secret-of-the-deck"
ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/frameworks.md").read_text("utf-8")
BLOCKS: Final[list[str]] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

CALL: Final = {"id": "c1", "type": "function", "function": {"name": "find_slides", "arguments": SECRET}}
CHAT: Final[Json] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_790_000_000,
    "model": "gpt-4o-2024-08-06",
    "service_tier": "priority",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": SECRET, "tool_calls": [CALL]},
        }
    ],
    "usage": {
        "prompt_tokens": 1_000,
        "completion_tokens": 200,
        "total_tokens": 1_200,
        "prompt_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 100, "audio_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 150, "audio_tokens": 20},
    },
}
RESPONSE: Final[Json] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_790_000_000,
    "model": "gpt-5-2025-08-07",
    "status": "completed",
    "service_tier": "flex",
    "error": None,
    "incomplete_details": None,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": SECRET, "annotations": []}],
        },
        {"id": "f1", "type": "function_call", "call_id": "c1", "name": "find_slides", "arguments": "{}"},
    ],
    "usage": {
        "input_tokens": 1_000,
        "input_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 100},
        "output_tokens": 200,
        "output_tokens_details": {"reasoning_tokens": 150},
        "total_tokens": 1_200,
    },
}
MESSAGE: Final[Json] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5",
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "content": [
        {"type": "text", "text": SECRET},
        {"type": "tool_use", "id": "t1", "name": "find_slides", "input": {"topic": SECRET}},
    ],
    "usage": {
        "input_tokens": 500,
        "cache_read_input_tokens": 400,
        "cache_creation_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
        "output_tokens": 200,
        "output_tokens_details": {"thinking_tokens": 150},
        "service_tier": "standard",
    },
}
COMPACTION: Final = {
    "type": "compaction",
    "input_tokens": 70,
    "output_tokens": 7,
    "cache_read_input_tokens": 5,
    "cache_creation_input_tokens": 3,
    "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2},
}


def changed(wire: Json, **fields: object) -> Json:
    """Return a copy of an answer with other fields; `usage__x` is the field `x` of its usage."""
    copy = json.loads(json.dumps(wire))
    for name, value in fields.items():
        outer, _, inner = name.partition("__")
        target, key = (copy[outer], inner) if inner else (copy, outer)
        target[key] = value
    return copy


def ended(reason: str | None, **message: object) -> Json:
    """Return a chat completion that ended for this reason."""
    said = {"role": "assistant", "content": SECRET, **message}
    return changed(CHAT, choices=[{"index": 0, "finish_reason": reason, "message": said}])


def event_of(arguments: ResponseUsage) -> UsageEvent:
    """Return the event that `usage` makes of these arguments, as it would be stored."""
    stored = check_event(UsageEvent(time_us=NOW_US, agent="writer", **arguments))
    assert isinstance(stored, UsageEvent)
    return stored


# The figures


@pytest.mark.parametrize("as_sdk", [ChatCompletion.model_validate, dict], ids=["sdk", "json"])
def test_a_chat_completion_says_every_kind_of_token(as_sdk: Callable[[Json], object]) -> None:
    """OpenAI's totals include their parts; the SDK's object and its JSON say the same."""
    assert openai_usage(as_sdk(CHAT)) == {
        "model": "gpt-4o-2024-08-06",
        "input_tokens": 1_000,
        "output_tokens": 200,
        "provider": "openai",
        "response_model": "gpt-4o-2024-08-06",
        "finish_reason": "tool_call",
        "cache_read_tokens": 400,
        "cache_write_tokens": 100,
        "cache_write_1h_tokens": 0,
        "reasoning_tokens": 150,
        "input_audio_tokens": 30,
        "cache_audio_read_tokens": 0,
        "output_audio_tokens": 20,
        "service_tier": "priority",
        "tools": ("find_slides",),
    }


@pytest.mark.parametrize("as_sdk", [Response.model_validate, dict], ids=["sdk", "json"])
def test_an_answer_of_the_responses_api_says_the_same_under_its_own_names(as_sdk: Callable[[Json], object]) -> None:
    """Its tokens are called otherwise, and its status is the reason why it ended."""
    said = openai_usage(as_sdk(RESPONSE))
    assert (said["model"], said["finish_reason"], said["service_tier"]) == ("gpt-5-2025-08-07", "stop", "flex")
    assert (said["input_tokens"], said["cache_read_tokens"], said["cache_write_tokens"]) == (1_000, 400, 100)
    assert (said["output_tokens"], said["reasoning_tokens"], said["tools"]) == (200, 150, ("find_slides",))


@pytest.mark.parametrize("as_sdk", [Message.model_validate, BetaMessage.model_validate, dict])
def test_a_message_s_input_includes_what_was_cached(as_sdk: Callable[[Json], object]) -> None:
    """Anthropic leaves the cached tokens out of its input; those kept for an hour are a part of those written."""
    assert anthropic_usage(as_sdk(MESSAGE)) == {
        "model": "claude-sonnet-5",
        "input_tokens": 1_000,
        "output_tokens": 200,
        "provider": "anthropic",
        "response_model": "claude-sonnet-5",
        "finish_reason": "tool_call",
        "cache_read_tokens": 400,
        "cache_write_tokens": 100,
        "cache_write_1h_tokens": 40,
        "reasoning_tokens": 150,
        "input_audio_tokens": 0,
        "cache_audio_read_tokens": 0,
        "output_audio_tokens": 0,
        "service_tier": "standard",
        "tools": ("find_slides",),
    }


def test_the_last_chunk_of_a_stream_has_the_tokens() -> None:
    """With `include_usage` it has no choices any more, so neither tools nor a reason; earlier ones have no tokens."""
    delta = {"role": "assistant", "refusal": None, "tool_calls": [CALL | {"index": 0}]}
    middle = changed(CHAT, object="chat.completion.chunk", usage=None)
    middle["choices"] = [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]
    last = changed(CHAT, object="chat.completion.chunk", choices=[])
    said = openai_usage(ChatCompletionChunk.model_validate(last))
    assert (said["model"], said["input_tokens"], said["reasoning_tokens"]) == ("gpt-4o-2024-08-06", 1_000, 150)
    assert (said["finish_reason"], said["tools"]) == ("", ())
    said = openai_usage(ChatCompletionChunk.model_validate(middle))
    assert (said["input_tokens"], said["finish_reason"], said["tools"]) == (0, "tool_call", ("find_slides",))


def test_embeddings_have_input_alone() -> None:
    """Their usage has prompt tokens only."""
    wire: Json = {"object": "list", "model": "text-embedding-3-small", "data": [], "usage": {"prompt_tokens": 8}}
    said = openai_usage(CreateEmbeddingResponse.model_validate(changed(wire, usage__total_tokens=8)))
    assert (said["model"], said["input_tokens"], said["output_tokens"]) == ("text-embedding-3-small", 8, 0)


def test_cached_audio_is_read_where_openai_says_it() -> None:
    """The details of what was cached tell audio apart."""
    details = {"cached_tokens": 400, "audio_tokens": 30, "cached_tokens_details": {"audio_tokens": 10}}
    assert openai_usage(changed(CHAT, usage__prompt_tokens_details=details))["cache_audio_read_tokens"] == 10


def test_fast_mode_is_a_tier_of_its_own() -> None:
    """It has a price of its own, which the catalogue finds under this name."""
    assert anthropic_usage(Message.model_validate(changed(MESSAGE, usage__speed="fast")))["service_tier"] == "fast"
    pricer, prices = Pricer(Catalogue(), PriceBook()), dict[str, int]()
    for usage in ({"usage__service_tier": "batch"}, {"usage__speed": "standard"}, {"usage__speed": "fast"}):
        said = anthropic_usage(changed(MESSAGE, model="claude-opus-5", **usage))
        prices[said["service_tier"]] = pricer.price(event_of(said)).nano_usd or 0
    assert 0 < prices["batch"] < prices["standard"] < prices["fast"]


def test_an_hour_s_cache_is_no_more_than_all_that_was_written() -> None:
    """At the end of a stream the sum may be renewed without its part: a part above its whole could not be priced."""
    assert anthropic_usage(changed(MESSAGE, usage__cache_creation_input_tokens=10))["cache_write_1h_tokens"] == 10


def test_what_was_asked_for_and_who_runs_it_can_be_said() -> None:
    """The response knows neither the alias that was asked for nor who answers in OpenAI's or Anthropic's manner."""
    said = openai_usage(CHAT, model="gpt-4o", provider="azure")
    assert (said["model"], said["response_model"], said["provider"]) == ("gpt-4o", "gpt-4o-2024-08-06", "azure")
    said = anthropic_usage(MESSAGE, model="claude-sonnet-5", provider="google")
    assert (said["model"], said["provider"]) == ("claude-sonnet-5", "google")
    assert said["response_model"] == "claude-sonnet-5"


# Why it ended, and what it asks for


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (ended("stop"), "stop"),
        (ended("length"), "length"),
        (ended("tool_calls"), "tool_call"),
        (ended("function_call"), "tool_call"),
        (ended("content_filter"), "content_filter"),
        (ended("stop", refusal=SECRET), "content_filter"),
        (ended("eos"), ""),
        (ended(None), ""),
        (changed(CHAT, choices=[]), ""),
        (RESPONSE, "stop"),
        (changed(RESPONSE, status="failed"), "error"),
        (changed(RESPONSE, status="cancelled"), "error"),
        (changed(RESPONSE, status="queued"), ""),
        (changed(RESPONSE, status="incomplete"), ""),
        (changed(RESPONSE, status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "length"),
        (changed(RESPONSE, status="incomplete", incomplete_details={"reason": "content_filter"}), "content_filter"),
        (changed(RESPONSE, status="incomplete", incomplete_details={}), ""),
        (changed(RESPONSE, output=[{"content": [{"type": "refusal", "refusal": SECRET}]}]), "content_filter"),
    ],
)
def test_openai_s_word_for_the_end_becomes_ours(wire: Json, reason: str) -> None:
    """A refusal is the filter's; a word that nobody knows is none."""
    assert openai_usage(wire)["finish_reason"] == reason


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("compaction", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_call"),
        ("refusal", "content_filter"),
        ("pause_turn", ""),
        (None, ""),
        ("weather", ""),
    ],
)
def test_anthropic_s_word_for_the_end_becomes_ours(word: str | None, reason: str) -> None:
    """A turn that pauses has not ended."""
    assert anthropic_usage(changed(MESSAGE, stop_reason=word))["finish_reason"] == reason


def test_tools_are_named_and_nothing_of_their_arguments_is_read() -> None:
    """Functions, custom tools, the old function call and the vendors' own tools; at most as many as an event holds."""
    calls = [CALL, {"id": "c2", "type": "custom", "custom": {"name": "shell", "input": SECRET}}]
    old = {"name": "old_style", "arguments": SECRET}
    assert openai_usage(ended("stop", tool_calls=calls, function_call=old))["tools"] == (
        "find_slides",
        "shell",
        "old_style",
    )
    output = [
        {"type": "web_search_call", "status": "completed"},
        {"type": "mcp_call", "name": "look_up", "arguments": SECRET},
        {"type": "function_call_output", "name": "not a call"},
    ]
    assert openai_usage(changed(RESPONSE, output=output))["tools"] == ("web_search", "look_up")
    content = [{"type": kind, "name": kind} for kind in ("server_tool_use", "mcp_tool_use", "web_search_tool_result")]
    assert anthropic_usage(changed(MESSAGE, content=content))["tools"] == ("server_tool_use", "mcp_tool_use")
    assert len(openai_usage(ended("stop", tool_calls=[CALL] * 100))["tools"]) == limits.MAX_TOOLS


def test_no_content_is_in_what_is_read() -> None:
    """Neither text nor a tool's arguments nor a refusal."""
    for said in (openai_usage(CHAT), openai_usage(RESPONSE), anthropic_usage(MESSAGE)):
        assert SECRET not in repr(said)
    assert SECRET not in repr(openai_usage(ended("stop", refusal=SECRET)))


# The same as with PydanticAI


def answering(wire: Json) -> httpx2.AsyncClient:
    """Return a client to which everything is answered with this JSON."""
    return httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json=wire)))


def openai_client(wire: Json) -> AsyncOpenAI:
    """Return OpenAI's client, answered so."""
    return AsyncOpenAI(api_key="none", http_client=answering(wire), max_retries=0)


def chat_model(wire: Json) -> Model:
    """Return PydanticAI's model of the chat completions."""
    return OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=openai_client(wire)))


def responses_model(wire: Json) -> Model:
    """Return PydanticAI's model of the Responses API."""
    return OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(openai_client=openai_client(wire)))


def anthropic_model(wire: Json) -> Model:
    """Return PydanticAI's model of Anthropic's messages."""
    client = AsyncAnthropic(api_key="none", http_client=answering(wire), max_retries=0)
    # Few tokens at most, or PydanticAI streams the answer.
    few = ModelSettings(max_tokens=64)
    return AnthropicModel("claude-sonnet-5", provider=AnthropicProvider(anthropic_client=client), settings=few)


REFUSED: Final = [{"id": "m", "type": "message", "role": "assistant", "status": "completed"}]
ITERATIONS: Final = [COMPACTION, COMPACTION, COMPACTION | {"type": "message"}]


@pytest.mark.parametrize(
    ("model", "read", "wire"),
    [
        *(
            (chat_model, openai_usage, wire)
            for wire in (CHAT, *map(ended, ("stop", "length", "content_filter", "eos")))
        ),
        (chat_model, openai_usage, ended("stop", refusal=SECRET)),
        (
            chat_model,
            openai_usage,
            changed(CHAT, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
        ),
        (chat_model, openai_usage, changed(CHAT, usage=None)),
        (responses_model, openai_usage, RESPONSE),
        (responses_model, openai_usage, changed(RESPONSE, status="cancelled")),
        (
            responses_model,
            openai_usage,
            changed(RESPONSE, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ),
        (
            responses_model,
            openai_usage,
            changed(RESPONSE, output=[REFUSED[0] | {"content": [{"type": "refusal", "refusal": SECRET}]}]),
        ),
        *(
            (anthropic_model, anthropic_usage, changed(MESSAGE, stop_reason=word))
            for word in ("tool_use", "end_turn", "max_tokens", "refusal", "pause_turn")
        ),
        (anthropic_model, anthropic_usage, changed(MESSAGE, usage={"input_tokens": 5, "output_tokens": 6})),
        (anthropic_model, anthropic_usage, changed(MESSAGE, usage__cache_creation_input_tokens=10)),
        (anthropic_model, anthropic_usage, changed(MESSAGE, usage__iterations=ITERATIONS)),
    ],
)
async def test_the_same_answer_gives_the_same_event_with_pydantic_ai_and_without(
    sidestream_events: Captured,
    model: Callable[[Json], Model],
    read: Callable[..., ResponseUsage],
    wire: Json,
) -> None:
    """The same JSON, once through PydanticAI's model classes and once read directly, to the last token."""
    assert sidestream.instrument_pydantic_ai()
    try:
        await model_request(model(wire), [ModelRequest.user_text_prompt("hello")])
    finally:
        pydantic_ai.uninstrument()
        Agent.instrument_all(False)
    [theirs] = sidestream_events.usage
    ours = read(wire, model=theirs.model)
    if ours["provider"] == "anthropic":
        ours["service_tier"] = ""  # PydanticAI does not hand it on
    assert ours == {name: getattr(theirs, name) for name in ours}


# Whatever it gets


class Hostile:
    """Raises, whatever is asked of it, even of what class it is."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __bool__(self) -> bool:
        raise RuntimeError

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class HostileDict(dict[str, object]):
    """A mapping that raises when it is read."""

    def get(self, key: str, default: object = None, /) -> object:
        """Raise."""
        raise KeyError(key, default)


class HostileList(list[object]):
    """A list that raises when it is iterated over."""

    def __iter__(self) -> Any:  # noqa: ANN401 - it never gives anything
        raise RuntimeError


NAMES: Final = st.sampled_from(
    re.findall(r'"([a-z_0-9]+)"', (ROOT / "producers/responses.py").read_text("utf-8").split("def openai_usage")[1])
)
WORDS: Final = st.sampled_from(["stop", "refusal", "completed", "function_call", "tool_use", "compaction", "message"])
ANYTHING: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=5)
    | WORDS
    | st.text(st.characters(exclude_categories=()), max_size=300)
    | st.builds(Hostile)
    | st.builds(HostileDict)
    | st.just(HostileList([1])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES, inner, max_size=8)
        | st.dictionaries(NAMES, inner, max_size=8).map(lambda fields: SimpleNamespace(**fields))
    ),
    max_leaves=30,
)
ANSWER: Final = st.dictionaries(NAMES, ANYTHING, max_size=12).map(lambda fields: SimpleNamespace(**fields)) | ANYTHING


@given(ANSWER)
def test_whatever_it_gets_it_never_raises_and_gives_an_event_that_can_be_stored(answer: object) -> None:
    """No number is out of its limits, no string cannot be encoded."""
    event_of(openai_usage(answer))
    event_of(anthropic_usage(answer))


def _places(inside: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - JSON, at any depth
    """Give every place of a document, as what holds it and the key there."""
    for key in cast("Iterable[Any]", inside if isinstance(inside, dict) else range(len(inside))):
        yield inside, key
        if isinstance(inside[key], (dict, list)):
            yield from _places(inside[key])


@given(st.sampled_from([CHAT, RESPONSE, MESSAGE]), st.data())
def test_an_answer_that_is_damaged_anywhere_is_read_as_far_as_it_goes(wire: Json, data: st.DataObject) -> None:
    """One place of a true answer is replaced by anything."""
    damaged = changed(wire)
    place, key = data.draw(st.sampled_from(list(_places(damaged))))
    place[key] = data.draw(ANYTHING)
    event_of(openai_usage(damaged))
    event_of(anthropic_usage(damaged))


@pytest.mark.parametrize("wrong", [None, "<html>", 404, object(), MagicMock(), [], {}, {"error": {"message": "no"}}])
def test_what_is_no_response_is_a_request_without_model_and_tokens(wrong: object) -> None:
    """It is counted, not refused, and stands in the report as unpriced: who looks sees that something is missing."""
    for said in (openai_usage(wrong), anthropic_usage(wrong)):
        event = event_of(said)
        assert (event.model, event.response_model, event.input_tokens, event.output_tokens) == ("", "", 0, 0)
        priced = Pricer(Catalogue(), PriceBook()).price(event)
        assert (priced.nano_usd, priced.reason) == (None, "unknown_model")


def test_what_raises_when_it_is_read_counts_as_missing() -> None:
    """Whatever stands at a place of the answer, the others are read."""
    for hostile in (Hostile(), HostileDict(a=1), HostileList([1])):
        for wire in (CHAT, RESPONSE):
            said = openai_usage(dict.fromkeys(wire, hostile) | {"usage": wire["usage"]})
            assert (said["model"], said["output_tokens"], said["tools"]) == ("", 200, ())
        said = anthropic_usage(dict.fromkeys(MESSAGE, hostile) | {"usage": MESSAGE["usage"]})
        assert (said["model"], said["output_tokens"], said["tools"]) == ("", 200, ())


def test_a_count_that_cannot_be_is_none() -> None:
    """Negative, beyond every model, a fraction, a truth: 0, so that the request is stored for what it is."""
    for wrong in (-1, limits.MAX_TOKENS + 1, 1.5, True, "12", float("nan")):
        assert openai_usage(changed(CHAT) | {"usage": {"prompt_tokens": wrong}})["input_tokens"] == 0
    vast = dict.fromkeys(("input_tokens", "cache_read_input_tokens"), limits.MAX_TOKENS)
    assert anthropic_usage(changed(MESSAGE, usage=vast))["input_tokens"] == limits.MAX_TOKENS


def test_a_name_that_cannot_be_encoded_costs_a_sign_and_not_the_request() -> None:
    """JSON can hold half of a surrogate pair."""
    wire = json.loads(json.dumps(CHAT).replace("find_slides", "find\\ud800slides"))
    assert event_of(openai_usage(wire)).tools == ("find?slides",)


def test_one_call_reports_the_request(sidestream_events: Captured) -> None:
    """What is read goes into `usage` as it is, beside what only the application knows."""
    response = ChatCompletion.model_validate(CHAT)
    assert sidestream.usage("writer", **sidestream.openai_usage(response), duration_us=1_830_000, status="ok")
    message = Message.model_validate(MESSAGE)
    assert sidestream.usage("writer", **sidestream.anthropic_usage(message), ttft_us=12)
    first, second = sidestream_events.usage
    assert (first.agent, first.model, first.input_tokens, first.tools) == (
        "writer",
        "gpt-4o-2024-08-06",
        1_000,
        ("find_slides",),
    )
    assert (second.provider, second.cache_write_1h_tokens, second.ttft_us) == ("anthropic", 40, 12)


# The page


def test_the_page_has_its_blocks() -> None:
    """If none were found the tests below would prove nothing."""
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_page_compiles_and_names_what_there_is(block: str) -> None:
    """Each name used on `sidestream` exists, and is public."""
    used = {
        node.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sidestream"
    }
    assert used <= set(sidestream.__all__)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.startswith("# examples/")])
def test_a_block_that_names_its_file_stands_in_it(block: str) -> None:
    """Between its `...` each piece is in the tested example, line by line, however deep."""
    first, _, rest = block.partition("\n")
    source = re.sub(r"  # (pyright|noqa): .*", "", "\n" + (ROOT / first.removeprefix("# ")).read_text("utf-8"))
    for piece in re.split(r"^\.\.\.\n", rest, flags=re.MULTILINE):
        assert any("\n" + textwrap.indent(piece, " " * depth) in source for depth in range(0, 20, 4)), piece
