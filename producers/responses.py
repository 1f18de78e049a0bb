"""Responses of a vendor's SDK: the tokens, names and states in them, as arguments of `Telemetry.usage`.

Keeps:
- Everything is read by name, from objects and from plain JSON alike; no vendor's package is imported.
- Nothing is read but numbers, names and states. Of a refusal only that it is there; of a tool only its name.
- Nothing here raises. What is missing, or cannot be stored, counts 0 or "".
- For the same answer the figures are those that `producers.pydantic_ai` reports.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, TypedDict, cast

from pipeline import limits

_CHAT_REASONS: Final = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_call",
    "function_call": "tool_call",
    "content_filter": "content_filter",
}
"""OpenAI's `finish_reason` of a choice. Source: pydantic-ai 2.68, `CHAT_FINISH_REASON_MAP`."""

_RESPONSES_REASONS: Final = {
    "completed": "stop",
    "max_output_tokens": "length",
    "content_filter": "content_filter",
    "cancelled": "error",
    "failed": "error",
}
"""Why a response of the Responses API is incomplete, else its status. Source: `RESPONSES_FINISH_REASON_MAP`, ibid."""

_ANTHROPIC_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "compaction": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_call",
    "refusal": "content_filter",
}
"""Anthropic's `stop_reason`; `pause_turn` is no end. Source: `FINISH_REASON_MAP` of its Anthropic model, ibid."""

_NAME: Final = re.compile(r"[\w.:/@?-]{1,128}")
"""A tool's name: what has a blank in it, or is longer, was made up by a model and might be a sentence."""


class ResponseUsage(TypedDict):
    """What a response says of its request: arguments of `Telemetry.usage`."""

    model: str
    input_tokens: int
    output_tokens: int
    provider: str
    response_model: str
    finish_reason: str
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    reasoning_tokens: int
    input_audio_tokens: int
    cache_audio_read_tokens: int
    output_audio_tokens: int
    service_tier: str
    tools: tuple[str, ...]


def openai_usage(response: object, *, model: str = "", provider: str = "openai") -> ResponseUsage:
    """Return what OpenAI's answer says of its request, as arguments of `usage`.

        sidestream.usage("writer", **sidestream.openai_usage(response), duration_us=1_830_000)

    Takes a `ChatCompletion`, a `Response` of the Responses API, the last chunk of a stream with
    `stream_options={"include_usage": True}`, embeddings, or the JSON of one of them as a dictionary. Input tokens
    include those that were cached, output tokens those of reasoning, as OpenAI counts them. The last chunk of a stream
    has tokens, but neither the finish reason nor the tools, which came before it.

    It never raises. Anything else than the above gives no model and no tokens: `usage` counts such a request, and
    reports show it as unpriced. The `status` stays yours to say: an answer whose own status is `failed` has the finish
    reason `error`.

    Args:
        response: What the SDK returned.
        model: What was asked for; by default what the response says, which also stands in `response_model`.
        provider: Who runs the model, where that is another than OpenAI: `azure`, `groq`, `deepseek`, …; by this name
            and the model's its price is found.
    """
    usage = _read(response, "usage")
    details_in = _read(usage, "prompt_tokens_details", "input_tokens_details")
    details_out = _read(usage, "completion_tokens_details", "output_tokens_details")
    response_model = _text(_read(response, "model"))
    return ResponseUsage(
        model=_text(model) or response_model,
        input_tokens=_tokens(_read(usage, "prompt_tokens", "input_tokens")),
        output_tokens=_tokens(_read(usage, "completion_tokens", "output_tokens")),
        provider=_text(provider),
        response_model=response_model,
        finish_reason=_openai_reason(response),
        cache_read_tokens=_tokens(_read(details_in, "cached_tokens")),
        cache_write_tokens=_tokens(_read(details_in, "cache_write_tokens")),
        cache_write_1h_tokens=0,
        reasoning_tokens=_tokens(_read(details_out, "reasoning_tokens")),
        input_audio_tokens=_tokens(_read(details_in, "audio_tokens")),
        cache_audio_read_tokens=_tokens(_read(_read(details_in, "cached_tokens_details"), "audio_tokens")),
        output_audio_tokens=_tokens(_read(details_out, "audio_tokens")),
        service_tier=_text(_read(response, "service_tier")),
        tools=_names(_openai_tools(response)),
    )


def anthropic_usage(message: object, *, model: str = "", provider: str = "anthropic") -> ResponseUsage:
    """Return what Anthropic's answer says of its request, as arguments of `usage`.

        sidestream.usage("writer", **sidestream.anthropic_usage(message), duration_us=1_830_000)

    Takes a `Message`, what `stream.get_final_message()` returns, the `result.message` of a batch, or the JSON of one of
    them as a dictionary. Anthropic's `input_tokens` leave out what was read from a cache and written to one; here they
    are in it, and so are the tokens of a compaction. `cache_write_tokens` are all that were written, those kept for an
    hour included. The service tier is `fast` for an answer in fast mode, which has a price of its own.

    It never raises. Anything else than the above gives no model and no tokens: `usage` counts such a request, and
    reports show it as unpriced.

    Args:
        message: What the SDK returned.
        model: What was asked for; by default what the message says, which also stands in `response_model`.
        provider: Who runs the model, where that is another than Anthropic; by this name and the model's its price is
            found.
    """
    usage = _read(message, "usage")
    # Top-level figures leave compactions out. Source: Anthropic's documentation, "Compaction", "Understanding usage".
    passes = [
        usage,
        *(each for each in _each(_read(usage, "iterations")) if _text(_read(each, "type")) == "compaction"),
    ]
    cache_read = _sum(_read(each, "cache_read_input_tokens") for each in passes)
    cache_write = _sum(_read(each, "cache_creation_input_tokens") for each in passes)
    response_model = _text(_read(message, "model"))
    return ResponseUsage(
        model=_text(model) or response_model,
        input_tokens=_sum([*(_read(each, "input_tokens") for each in passes), cache_read, cache_write]),
        output_tokens=_sum(_read(each, "output_tokens") for each in passes),
        provider=_text(provider),
        response_model=response_model,
        finish_reason=_ANTHROPIC_REASONS.get(_text(_read(message, "stop_reason")), ""),
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        cache_write_1h_tokens=_sum(map(_kept_for_an_hour, passes)),
        reasoning_tokens=_tokens(_read(_read(usage, "output_tokens_details"), "thinking_tokens")),
        input_audio_tokens=0,
        cache_audio_read_tokens=0,
        output_audio_tokens=0,
        service_tier="fast" if _text(_read(usage, "speed")) == "fast" else _text(_read(usage, "service_tier")),
        tools=_names(
            _read(block, "name")
            for block in _each(_read(message, "content"))
            if _text(_read(block, "type")).endswith("tool_use")
        ),
    )


def _openai_reason(response: object) -> str:
    if (choices := _read(response, "choices")) is None:
        return _responses_reason(response)
    choice = next(iter(_each(choices)), None)
    if _text(_read(_read(choice, "message", "delta"), "refusal")):
        return "content_filter"
    return _CHAT_REASONS.get(_text(_read(choice, "finish_reason")), "")


def _responses_reason(response: object) -> str:
    parts = (part for item in _each(_read(response, "output")) for part in _each(_read(item, "content")))
    if any(_text(_read(part, "type")) == "refusal" for part in parts):
        return "content_filter"
    details = _read(response, "incomplete_details")
    word = _read(response, "status") if details is None else _read(details, "reason")
    return _RESPONSES_REASONS.get(_text(word), "")


def _openai_tools(response: object) -> Iterable[object]:
    """Give the names of the tools an answer asks for; a tool of OpenAI's own is named by its kind."""
    for choice in _each(_read(response, "choices")):
        said = _read(choice, "message", "delta")
        for call in _each(_read(said, "tool_calls")):
            yield _read(_read(call, "function", "custom"), "name")
        yield _read(_read(said, "function_call"), "name")
    for item in _each(_read(response, "output")):
        if (kind := _text(_read(item, "type"))).endswith("_call"):
            yield _text(_read(item, "name")) or kind.removesuffix("_call")


def _kept_for_an_hour(usage: object) -> int:
    """Return the tokens written to the cache for an hour: a part of all that were written, never more.

    At the end of a stream the SDK's sum may be renewed without this part of it.
    """
    hour = _tokens(_read(_read(usage, "cache_creation"), "ephemeral_1h_input_tokens"))
    return min(hour, _tokens(_read(usage, "cache_creation_input_tokens")))


def _read(value: object, *names: str) -> object:
    """Return what stands in `value` under the first of these names that is there; None where none is."""
    for name in names:
        # Whatever an object's attributes do when they are asked for.
        with suppress(Exception):
            plain = isinstance(value, Mapping)
            found: object = cast("Mapping[str, object]", value).get(name) if plain else getattr(value, name, None)
            if found is not None:
                return found
    return None


def _each(value: object) -> Sequence[object]:
    # Lists alone: whatever else can be iterated might never end.
    with suppress(Exception):
        return tuple(cast("Iterable[object]", value)) if isinstance(value, (list, tuple)) else ()
    return ()


def _tokens(value: object) -> int:
    # The very type: True is no count.
    return value if type(value) is int and 0 < value <= limits.MAX_TOKENS else 0


def _sum(values: Iterable[object]) -> int:
    return min(sum(map(_tokens, values)), limits.MAX_TOKENS)


def _text(value: object) -> str:
    # Half of a surrogate pair, which JSON can hold, cannot be stored; the request is worth more than the sign. And an
    # object may raise when it is asked for its class.
    with suppress(Exception):
        return str.encode(value, "utf-8", "replace").decode() if isinstance(value, str) else ""
    return ""


def _names(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(islice((name for name in map(_text, values) if _NAME.fullmatch(name)), limits.MAX_TOOLS))


__all__ = ["ResponseUsage", "anthropic_usage", "openai_usage"]
