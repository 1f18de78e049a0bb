"""Events: facts about model calls, immutable, as the application reports them.

Keeps:
- No event has a field for a prompt, a completion, a tool's argument or a tool's result.
- Every field but `time_us` has a default; defaults are left out of the stored bytes, so a new field costs old frames
  nothing.
- Times are microseconds since 1970-01-01 UTC, of the *end* of what is reported; durations are microseconds; `None` is
  "nobody told us", which is not 0.

Vocabulary: a *request* is one model call (`UsageEvent`), an *operation* anything else that is timed (`OperationEvent`:
an agent's run, a tool, a step), a *transition* a change of the session's state, an *error* one exception, counted once.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from pipeline import limits

Status: TypeAlias = Literal["ok", "error", "cancelled", "interrupted"]
"""How a request or operation ended. Cancelled and interrupted are no errors: someone stopped it, or stopped reading."""

Origin: TypeAlias = Literal["live", "spooled", "backfill"]
"""How a frame came: at once, from a local spool after an outage, or from files, long after it happened."""

Name: TypeAlias = Annotated[str, Meta(max_length=limits.MAX_NAME_CHARS)]
Message: TypeAlias = Annotated[str, Meta(max_length=limits.MAX_MESSAGE_CHARS)]
Tokens: TypeAlias = Annotated[int, Meta(ge=0, le=limits.MAX_TOKENS)]
Duration: TypeAlias = Annotated[int, Meta(ge=0, le=limits.MAX_DURATION_US)]
Instant: TypeAlias = Annotated[int, Meta(ge=0, le=limits.MAX_TIME_US)]
NanoUsd: TypeAlias = Annotated[int, Meta(ge=0, le=limits.MAX_NANO_USD)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=limits.MAX_COUNT)]
Tags: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=limits.MAX_TAGS)]
Tools: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=limits.MAX_TOOLS)]


class UsageEvent(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="event", tag="usage"):
    """One request to a model.

    `input_tokens` includes cached and audio tokens, `output_tokens` includes reasoning; the kinds are parts of them,
    never added. `model` is what was asked for, `response_model` what answered. `cost_nano_usd` is the provider's own
    figure.
    """

    time_us: Instant
    agent: Name = ""
    model: Name = ""
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    duration_us: Duration | None = None
    session: Name = ""
    user: Name = ""
    tenant: Name = ""
    state: Name = ""
    tags: Tags = ()
    run_id: Name = ""
    parent_id: Name = ""
    trace_id: Name = ""
    span_id: Name = ""
    provider: Name = ""
    response_model: Name = ""
    operation: Name = "chat"
    status: Status = "ok"
    error_type: Name = ""
    finish_reason: Name = ""
    ttft_us: Duration | None = None
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    cache_write_1h_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0
    input_audio_tokens: Tokens = 0
    cache_audio_read_tokens: Tokens = 0
    output_audio_tokens: Tokens = 0
    attempt: Count = 1
    service_tier: Name = ""
    cost_nano_usd: NanoUsd | None = None
    tools: Tools = ()


class OperationEvent(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="event", tag="operation"):
    """Anything timed that is no request: an agent's run, a tool, a step the application names. It carries no tokens."""

    time_us: Instant
    name: Name = ""
    kind: Literal["run", "tool", "step"] = "step"
    duration_us: Duration = 0
    status: Status = "ok"
    agent: Name = ""
    error_type: Name = ""
    operation_id: Name = ""
    session: Name = ""
    user: Name = ""
    tenant: Name = ""
    state: Name = ""
    tags: Tags = ()
    run_id: Name = ""
    parent_id: Name = ""
    trace_id: Name = ""
    span_id: Name = ""


class TransitionEvent(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="event", tag="transition"):
    """A session left one state for another.

    `duration_us` is the time spent in `from_state`, None when this process was not told when it began. `visit` is the
    session's n-th visit to `to_state` that this process saw.
    """

    time_us: Instant
    from_state: Name = ""
    to_state: Name = ""
    duration_us: Duration | None = None
    visit: Count = 1
    session: Name = ""
    user: Name = ""
    tenant: Name = ""
    state: Name = ""
    tags: Tags = ()
    run_id: Name = ""
    parent_id: Name = ""
    trace_id: Name = ""
    span_id: Name = ""


class ErrorEvent(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="event", tag="error"):
    """One exception, reported at the innermost place that saw it; the message is redacted and cut."""

    time_us: Instant
    type: Name = ""
    message: Message = ""
    code: Name = ""
    agent: Name = ""
    model: Name = ""
    operation: Name = ""
    session: Name = ""
    user: Name = ""
    tenant: Name = ""
    state: Name = ""
    tags: Tags = ()
    run_id: Name = ""
    parent_id: Name = ""
    trace_id: Name = ""
    span_id: Name = ""


Event: TypeAlias = UsageEvent | OperationEvent | TransitionEvent | ErrorEvent
"""The four kinds; match on the class, `typing.assert_never` at the end."""


class Resource(Struct, frozen=True, omit_defaults=True):
    """Who speaks: once a frame, not once an event."""

    service: Name = ""
    version: Name = ""
    environment: Name = ""
    instance: Name = ""


def check_event(event: Event) -> Event:
    """Return `event` as the wire would hand it on: strings cut, types and limits checked.

    Raises:
        msgspec.ValidationError: A field has a wrong type or a number is out of its limits; the message names the field.
        TypeError: A value cannot be encoded at all.
    """
    # Bytes stay bytes, and are refused: as a string of base64 they would look like a name.
    fields = msgspec.to_builtins(event, builtin_types=(bytes, bytearray, memoryview))
    return convert_event(fields)


def convert_event(fields: object) -> Event:
    """Build an event from plain values, cutting what is only too long.

    Raises:
        msgspec.ValidationError: See `check_event`.
    """
    return msgspec.convert(_cut(fields), Event)


def convert_resource(fields: Mapping[str, str]) -> Resource:
    """Build a resource from plain texts, cutting what is too long and passing over what is unknown."""
    return msgspec.convert(_cut(dict(fields)), Resource)


def _cut(value: object, key: str = "") -> object:
    match value:
        case str():
            return value[: limits.MAX_MESSAGE_CHARS if key == "message" else limits.MAX_NAME_CHARS]
        case dict():
            return {k: _cut(v, str(k)) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case list() | tuple():
            most = limits.MAX_TOOLS if key == "tools" else limits.MAX_TAGS
            return [_cut(v) for v in value[:most]]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            return value
