"""Facts: what is read from pydantic-ai's responses and exceptions, as numbers, names and states, never as content.

Everything is read by name with a default, because these classes change from version to version.
"""

import re
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Final, TypedDict, cast

from msgspec import Struct

from pipeline import limits
from pipeline.events import Status, UsageEvent
from pipeline.units import seconds_to_us, usd_to_nano
from producers.exceptions import own_words

_WORD = re.compile(r"[\w.:/@-]{1,128}")
"""A name: what has a blank in it, or is longer, was made up by a model or is no code but a text."""

_STATUS: Final = re.compile(r" status_code: (\d{3}),")
"""How the text of a failed attempt begins where there was an answer."""


class Stamp(TypedDict):
    """The fields every event shares: whose it is, and where it stands in the tree."""

    session: str
    user: str
    tenant: str
    state: str
    tags: tuple[str, ...]
    run_id: str
    parent_id: str
    trace_id: str
    span_id: str


class Asked(Struct, frozen=True):
    """What was asked for, and of which model."""

    model: str = ""
    provider: str = ""
    operation: str = "chat"


class Timing(Struct, frozen=True):
    """Whose request it was, when it ended and how long it took."""

    agent: str
    ended_us: int
    duration_us: int


class Outcome(Struct, frozen=True):
    """How a request ended."""

    status: Status
    error_type: str = ""
    attempt: int = 1
    ttft_us: int | None = None


class Attempt(Struct, frozen=True):
    """A request that failed before another model, or another try, answered in its place."""

    asked: Asked
    ended_us: int
    duration_us: int
    error_type: str
    raised: bool
    usage: object
    code: str = ""


def text(value: object) -> str:
    """Return `value` where it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def word(value: object) -> str:
    """Return `value` where it is one word, else an empty string: a name that a model wrote might be a sentence."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def duration_us(seconds: object) -> int | None:
    """Convert seconds to microseconds; None when nobody measured."""
    return seconds_to_us(seconds) if isinstance(seconds, (int, float)) and seconds >= 0 else None


def state_of(response: object) -> str:
    """Return the state of a response: complete, incomplete, suspended or interrupted."""
    return text(getattr(response, "state", ""))


def usage_event(timing: Timing, asked: Asked, source: object | None, outcome: Outcome, stamp: Stamp) -> UsageEvent:
    """Build the event of one request.

    Args:
        timing: Whose and when.
        asked: The model asked.
        source: What carries the `usage`: a response, a failed attempt, or None when nothing came back.
        outcome: How it ended.
        stamp: Session and place in the tree.
    """
    usage: object = getattr(source, "usage", None)
    return UsageEvent(
        time_us=timing.ended_us,
        agent=timing.agent,
        model=asked.model,
        input_tokens=_tokens(usage, "input_tokens"),
        output_tokens=_tokens(usage, "output_tokens"),
        duration_us=timing.duration_us,
        provider=text(getattr(source, "provider_name", "")) or asked.provider,
        response_model=text(getattr(source, "model_name", "")),
        operation=asked.operation,
        status=outcome.status,
        error_type=outcome.error_type,
        finish_reason=text(getattr(source, "finish_reason", "")),
        ttft_us=outcome.ttft_us,
        cache_read_tokens=_tokens(usage, "cache_read_tokens"),
        cache_write_tokens=_tokens(usage, "cache_write_tokens"),
        cache_write_1h_tokens=_tokens(usage, "cache_write_1h_tokens"),
        reasoning_tokens=_tokens(usage, "output_reasoning_tokens"),
        input_audio_tokens=_tokens(usage, "input_audio_tokens"),
        cache_audio_read_tokens=_tokens(usage, "cache_audio_read_tokens"),
        output_audio_tokens=_tokens(usage, "output_audio_tokens"),
        attempt=outcome.attempt,
        service_tier=_service_tier(source),
        cost_nano_usd=_reported_cost(source, usage),
        tools=_tools_asked_for(source),
        **stamp,
    )


def _tokens(usage: object, name: str) -> int:
    value: object = getattr(usage, name, 0)
    return value if isinstance(value, int) and value > 0 else 0


def _service_tier(source: object) -> str:
    """Return the tier; Anthropic's fast mode, which has a price of its own, is one."""
    found: object = getattr(source, "provider_details", None)
    if not isinstance(found, Mapping):
        return ""
    details = cast("Mapping[str, object]", found)
    return "fast" if details.get("speed") == "fast" else text(details.get("service_tier"))


def _reported_cost(source: object, usage: object) -> int | None:
    """Return what the provider says the request cost, in nano-dollars.

    pydantic-ai fills an unset cost with an estimate of its own (genai-prices as installed in the application), which no
    provider reported and which would stand in the way of a repricing: a cost equal to that estimate is left out.
    """
    cost: object = getattr(usage, "cost", None)
    if not isinstance(cost, Decimal) or not cost.is_finite() or cost < 0:
        return None
    estimate: object = None
    with suppress(Exception):
        # LookupError without a price, ValueError for usage without sense: then nobody but the provider knew.
        estimate = getattr(getattr(source, "cost")(), "total_price", None)  # noqa: B009 - a vendor's method, by name
    return None if cost == estimate else usd_to_nano(cost)


def _tools_asked_for(source: object) -> tuple[str, ...]:
    parts: object = getattr(source, "parts", ())
    calls = (part for part in cast("Iterable[object]", parts) if _kind_of(part).endswith("tool-call"))
    return tuple(word(getattr(part, "tool_name", "")) for part in islice(calls, limits.MAX_TOOLS))


def _kind_of(part: object) -> str:
    return text(getattr(part, "part_kind", ""))


def failed_attempts(response: object) -> list[Attempt]:
    """Return the attempts a fallback made before `response` came."""
    return _attempts(getattr(response, "failed_attempts", None))


def lists_every_attempt(error: BaseException | None) -> bool:
    """Tell whether `error` is a fallback's group, which stands for its attempts and no request of its own."""
    return isinstance(error, BaseExceptionGroup) and bool(getattr(cast("object", error), "attempts", ()))


def attempts_of(error: BaseException | None) -> list[Attempt]:
    """Return the attempts made before `error`; on another error than a fallback's group they ride along privately."""
    attempts: object = getattr(error, "attempts", None) or getattr(error, "_pydantic_ai_failed_attempts", None)
    return _attempts(attempts)


def _attempts(values: object) -> list[Attempt]:
    if not isinstance(values, (list, tuple)):
        return []
    return [_attempt(value) for value in cast("Iterable[object]", values)]


def _attempt(value: object) -> Attempt:
    started, lasted = getattr(value, "timestamp", None), getattr(value, "duration", None)
    lasted_us = lasted // timedelta(microseconds=1) if isinstance(lasted, timedelta) else 0
    started_us = round(started.timestamp() * 1_000_000) if isinstance(started, datetime) else 0
    raised = getattr(value, "outcome", "") == "error"
    # "Type: message"; the message may quote the provider's answer.
    kind, _, message = text(getattr(value, "error", "")).partition(":")
    status = _STATUS.match(message)
    asked = Asked(text(getattr(value, "model_name", "")), text(getattr(value, "provider_name", "")))
    return Attempt(
        asked,
        started_us + lasted_us,
        lasted_us,
        word(kind) if raised else "rejected",
        raised,
        getattr(value, "usage", None),
        status[1] if raised and status else "",
    )


def raised_by_model(error: BaseException) -> bool:
    """Tell whether `error` came out of a model's stream, and not from whoever was reading it."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(text(frame.f_globals.get("__name__")).startswith("pydantic_ai.models") for frame, _ in frames)


def error_code(error: BaseException) -> str:
    """Return a word of low cardinality for `error`: a provider's code, else an HTTP status."""
    code: object = getattr(error, "provider_error_code", None) or getattr(error, "code", None)
    status: object = getattr(error, "status_code", None)
    return word(code) or (str(status) if isinstance(status, int) else "")


def error_message(error: BaseException) -> str:
    """Return the text of `error` without content: where it may quote a model or a tool, that is left out.

    Secrets are taken out, and it is cut, where the event comes in.
    """
    with suppress(Exception):
        return own_words(error)
    return ""
