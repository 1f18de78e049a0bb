"""Events as OTLP spans: pure, the same bytes for the same frame, whoever encodes it and however often.

Keeps:
- Trace and span ids are functions of the event and its place, never random: what arrives twice is the same span.
- An attribute nobody told us is absent; an unknown price is no zero.
- Whether a span is sampled depends on its trace (else its session) and nothing else.

Which event becomes what:
- A request is a client span, an operation (run, tool, step) an internal span, both as long as they took.
- An error is a record of its own, of no length (Logfire shows it as a log), with an `exception` event and status ERROR.
  It is not hung on the request's span, for that may be in another frame, or have left already.
- A transition is such a record too, as the guide's `logfire.info("State transition", ...)` would have left.

Identity:
- `span_id` of a request is its own; of an error or transition it is the span it happened in. An operation is known by
  its `operation_id` first, because that is what the `parent_id` of everything inside names.
- An id of 16 (trace: 32) hex digits is used as it stands, any other name is hashed. A trace that was not given is the
  run's, else the parent operation's.
- Where an event has no id of its own, (producer, sequence, routing key, time) is hashed: sequences are per partition,
  and the routing key (session, else run) tells partitions apart.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple, Protocol, TypeAlias, assert_never, cast

from msgspec import Struct
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as OtlpResource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from pipeline import semconv
from pipeline.events import ErrorEvent, Event, OperationEvent, Resource, TransitionEvent, UsageEvent
from pipeline.units import NANO_PER_USD, US_PER_S
from pipeline.wire import Frame

Price: TypeAlias = Callable[[UsageEvent], int | None]
"""Nano-dollars of one request at its own time, None when its model is unknown; it raises nothing."""

SPAN_OVERHEAD_BYTES = 8
"""Tag and length of one span within a request, and of what holds it, rounded up."""

_NANO_PER_US = 1_000
_LOW_BITS = 0x7F
_MORE = 0x80
"""A varint holds seven bits a byte; the eighth says that more follow."""
_SCOPE = b"\x0a\x0c\x0a\x0asidestream"
"""ScopeSpans.scope with InstrumentationScope.name: field 1 of field 1."""


class SpanIds(NamedTuple):
    """16, 8 and 8 bytes; `parent` is empty for a root."""

    trace: bytes
    span: bytes
    parent: bytes


class EncodedSpan(Struct, frozen=True, gc=False):
    """A span as bytes, ready to be joined into a request, and the event it came from."""

    ids: SpanIds
    resource: bytes
    body: bytes
    frame: Frame
    index: int
    event: Event

    @property
    def size(self) -> int:
        """Bytes this span takes in a request at most, its resource counted as if it had it for itself."""
        return len(self.body) + len(self.resource) + 4 * SPAN_OVERHEAD_BYTES


class _KeyValues(Protocol):
    def add(self) -> KeyValue: ...


class _SpanEvents(Protocol):
    def add(self) -> Span.Event: ...


class _Strings(Protocol):
    def add(self, *, string_value: str) -> object: ...


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


def keeps(frame: Frame, index: int, event: Event, *, sample_rate: float, slow_us: int) -> bool:
    """Return whether the span of an event is sent: always if it failed or was slow, else by its trace.

    A trace id given by the application is compared as OpenTelemetry's TraceIdRatioBased sampler does, so that the
    application's own exporter keeps the same traces at the same rate.
    """
    if sample_rate >= 1 or _always(event, slow_us):
        return True
    given = _hex(event.trace_id, 16)
    if given is None and event.session:
        drawn = _hash(8, "session", event.session)
    else:
        drawn = (given or ids_of(frame, index, event).trace)[8:]
    return int.from_bytes(drawn, "big") < round(sample_rate * 2**64)


def encode_span(frame: Frame, index: int, event: Event, price: Price | None = None) -> EncodedSpan:
    """Encode the event at `index` of a frame.

    Raises:
        ValueError: A string or number cannot be written as protobuf.
    """
    ids = ids_of(frame, index, event)
    span = Span(trace_id=ids.trace, span_id=ids.span, parent_span_id=ids.parent)
    _put_times(span, event)
    put = _Attributes(cast("_KeyValues", span.attributes))
    match event:
        case UsageEvent():
            _request(span, put, event, price)
        case OperationEvent():
            _operation(span, put, event)
        case ErrorEvent():
            _error(span, put, event)
        case TransitionEvent():
            _transition(span, put, event)
        case _:
            assert_never(event)
    _context(put, event)
    if frame.origin != "live":
        put.text(semconv.SIDESTREAM_ORIGIN, frame.origin)
    return EncodedSpan(ids, encode_resource(frame.resource), _bytes(span), frame, index, event)


@lru_cache(maxsize=1024)
def encode_resource(resource: Resource) -> bytes:
    """Encode who speaks; a service without a name is `unknown_service`, as the conventions ask."""
    message = OtlpResource()
    put = _Attributes(cast("_KeyValues", message.attributes))
    put.text(semconv.SERVICE_NAME, resource.service or semconv.UNKNOWN_SERVICE)
    put.text(semconv.SERVICE_VERSION, resource.version)
    put.text(semconv.DEPLOYMENT_ENVIRONMENT_NAME, resource.environment)
    put.text(semconv.SERVICE_INSTANCE_ID, resource.instance)
    return _bytes(message)


def encode_request(spans: Sequence[EncodedSpan]) -> bytes:
    """Join spans into an ExportTraceServiceRequest.

    Spans are already bytes, so splitting a refused request costs no second encoding. Source: opentelemetry-proto,
    `trace/v1/trace.proto`: resource_spans = 1; resource = 1, scope_spans = 2; scope = 1, spans = 2.
    """
    parts: list[bytes] = []
    for resource, group in groupby(spans, key=lambda span: span.resource):
        scope_spans = _SCOPE + b"".join(_delimited(2, span.body) for span in group)
        parts.append(_delimited(1, _delimited(1, resource) + _delimited(2, scope_spans)))
    return b"".join(parts)


def ids_of(frame: Frame, index: int, event: Event) -> SpanIds:
    """Return the ids of an event's span; see the module's docstring for where they come from."""
    own, parent = _names(event)
    span = _span_id(own) if own else _identity(frame, index, event)
    above = _span_id(parent) if parent and parent != own else b""
    trace = _hex(event.trace_id, 16)
    if trace is None:
        root = event.run_id or event.parent_id or own
        trace = _hash(16, "trace", root) if root else _hash(16, "trace", span.hex())
    return SpanIds(trace, span, b"" if above == span else above)


def _names(event: Event) -> tuple[str, str]:
    """Return what a span is called by others, or nothing, and what its parent is called."""
    match event:
        case UsageEvent():
            return event.span_id if _hex(event.span_id, 8) else "", event.parent_id or event.run_id
        case OperationEvent(kind="run"):
            return event.operation_id or event.run_id or event.span_id, event.parent_id
        case OperationEvent():
            return event.operation_id or event.span_id, event.parent_id or event.run_id
        case ErrorEvent() | TransitionEvent():
            return "", event.span_id or event.parent_id or event.run_id
        case _:
            assert_never(event)


def _identity(frame: Frame, index: int, event: Event) -> bytes:
    route = event.session or event.run_id
    if frame.producer:
        return _hash(8, "event", frame.producer, str(frame.first_seq + index), route, str(event.time_us))
    return _hash(8, "foreign", frame.entry_id, str(index), route, str(event.time_us))


def _span_id(name: str) -> bytes:
    return _hex(name, 8) or _hash(8, "span", name)


def _hex(text: str, size: int) -> bytes | None:
    """Return the bytes of an id of `size` bytes, None if it is no such id or all zero, which means "none"."""
    if len(text) != 2 * size:
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    return data if len(data) == size and any(data) else None


def _hash(size: int, *parts: str) -> bytes:
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=size, person=b"sidestream-span").digest()


def _always(event: Event, slow_us: int) -> bool:
    match event:
        case UsageEvent() | OperationEvent():
            return event.status == "error" or (event.duration_us or 0) > slow_us
        case ErrorEvent():
            return True
        case TransitionEvent():
            return False
        case _:
            assert_never(event)


def started_us(event: Event) -> int:
    """Return when the span of an event begins; errors and transitions have no length."""
    if isinstance(event, UsageEvent | OperationEvent):
        return max(0, event.time_us - (event.duration_us or 0))
    return event.time_us


def _put_times(span: Span, event: Event) -> None:
    span.start_time_unix_nano = started_us(event) * _NANO_PER_US
    span.end_time_unix_nano = event.time_us * _NANO_PER_US


class _Attributes:
    """Adds attributes in place, absent ones not: 9 us for 16 of them, where copying in KeyValue objects took 26."""

    __slots__ = ("_into",)

    def __init__(self, into: _KeyValues) -> None:
        self._into = into

    def text(self, key: str, value: str) -> None:
        if value:
            attribute = self._into.add()
            attribute.key = key
            attribute.value.string_value = value

    def number(self, key: str, value: int) -> None:
        attribute = self._into.add()
        attribute.key = key
        attribute.value.int_value = value

    def tokens(self, key: str, value: int) -> None:
        if value:
            self.number(key, value)

    def real(self, key: str, value: float) -> None:
        attribute = self._into.add()
        attribute.key = key
        attribute.value.double_value = value

    def texts(self, key: str, values: Sequence[str]) -> None:
        if values:
            attribute = self._into.add()
            attribute.key = key
            strings = cast("_Strings", attribute.value.array_value.values)
            for value in values:
                strings.add(string_value=value)

    def logfire(self, span_type: str, level: int, message: str) -> None:
        self.text(semconv.LOGFIRE_MSG, message)
        self.text(semconv.LOGFIRE_SPAN_TYPE, span_type)
        self.number(semconv.LOGFIRE_LEVEL_NUM, level)


def _request(span: Span, put: _Attributes, event: UsageEvent, price: Price | None) -> None:
    span.kind = Span.SpanKind.SPAN_KIND_CLIENT
    span.name = f"{event.operation} {event.model}".rstrip()
    put.text(semconv.GEN_AI_OPERATION_NAME, event.operation)
    put.text(semconv.GEN_AI_PROVIDER_NAME, event.provider)
    put.text(semconv.GEN_AI_SYSTEM, event.provider)
    put.text(semconv.GEN_AI_REQUEST_MODEL, event.model)
    put.text(semconv.GEN_AI_RESPONSE_MODEL, event.response_model)
    put.texts(semconv.GEN_AI_RESPONSE_FINISH_REASONS, (event.finish_reason,) if event.finish_reason else ())
    if event.ttft_us is not None:
        put.real(semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, event.ttft_us / US_PER_S)
    _usage(put, event)
    # The provider's own figure wins over a price book.
    cost = event.cost_nano_usd if event.cost_nano_usd is not None or price is None else price(event)
    if cost is not None:
        put.real(semconv.OPERATION_COST, cost / NANO_PER_USD)
    if event.attempt > 1:
        put.number(semconv.SIDESTREAM_ATTEMPT, event.attempt)
    put.text(semconv.SIDESTREAM_SERVICE_TIER, event.service_tier)
    put.texts(semconv.SIDESTREAM_TOOLS, event.tools)
    _outcome(span, put, event, span.name)


def _usage(put: _Attributes, event: UsageEvent) -> None:
    put.number(semconv.GEN_AI_USAGE_INPUT_TOKENS, event.input_tokens)
    put.number(semconv.GEN_AI_USAGE_OUTPUT_TOKENS, event.output_tokens)
    put.tokens(semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, event.cache_read_tokens)
    put.tokens(semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, event.cache_write_tokens)
    put.tokens(semconv.GEN_AI_USAGE_CACHE_WRITE_1H_TOKENS, event.cache_write_1h_tokens)
    put.tokens(semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, event.reasoning_tokens)
    put.tokens(semconv.GEN_AI_USAGE_INPUT_AUDIO_TOKENS, event.input_audio_tokens)
    put.tokens(semconv.GEN_AI_USAGE_CACHE_AUDIO_READ_TOKENS, event.cache_audio_read_tokens)
    put.tokens(semconv.GEN_AI_USAGE_OUTPUT_AUDIO_TOKENS, event.output_audio_tokens)


def _operation(span: Span, put: _Attributes, event: OperationEvent) -> None:
    span.kind = Span.SpanKind.SPAN_KIND_INTERNAL
    match event.kind:
        case "run":
            agent = event.agent or event.name
            span.name = f"{semconv.INVOKE_AGENT} {agent}".rstrip()
            put.text(semconv.GEN_AI_OPERATION_NAME, semconv.INVOKE_AGENT)
            put.text(semconv.AGENT_NAME, agent)
            message = f"{agent} run".lstrip()
        case "tool":
            span.name = f"{semconv.EXECUTE_TOOL} {event.name}".rstrip()
            put.text(semconv.GEN_AI_OPERATION_NAME, semconv.EXECUTE_TOOL)
            put.text(semconv.GEN_AI_TOOL_NAME, event.name)
            message = f"running tool: {event.name}"
        case "step":
            span.name = message = event.name or "step"
        case _:
            assert_never(event.kind)
    _outcome(span, put, event, message)


def _outcome(span: Span, put: _Attributes, event: UsageEvent | OperationEvent, message: str) -> None:
    match event.status:
        case "ok":
            level = semconv.LEVEL_INFO
        case "error":
            level = semconv.LEVEL_ERROR
            span.status.code = Status.StatusCode.STATUS_CODE_ERROR
            span.status.message = event.error_type
            # `_OTHER` is what the conventions give an error whose type nobody told.
            put.text(semconv.ERROR_TYPE, event.error_type or "_OTHER")
        case "cancelled" | "interrupted":
            # Someone stopped it: no error, so the span's status stays unset.
            level = semconv.LEVEL_NOTICE
            put.text(semconv.SIDESTREAM_STATUS, event.status)
        case _:
            assert_never(event.status)
    put.logfire(semconv.LOGFIRE_SPAN, level, message)


def _error(span: Span, put: _Attributes, event: ErrorEvent) -> None:
    kind = event.type or "error"
    message = f"{kind}: {event.message}" if event.message else kind
    span.name = kind
    span.kind = Span.SpanKind.SPAN_KIND_INTERNAL
    span.status.code = Status.StatusCode.STATUS_CODE_ERROR
    span.status.message = message
    raised = cast("_SpanEvents", span.events).add()
    raised.name = semconv.EXCEPTION_EVENT
    raised.time_unix_nano = event.time_us * _NANO_PER_US
    details = _Attributes(cast("_KeyValues", raised.attributes))
    details.text(semconv.EXCEPTION_TYPE, kind)
    details.text(semconv.EXCEPTION_MESSAGE, event.message)
    put.text(semconv.ERROR_TYPE, kind)
    put.text(semconv.SIDESTREAM_ERROR_CODE, event.code)
    put.text(semconv.SIDESTREAM_ERROR_MODEL, event.model)
    put.text(semconv.SIDESTREAM_ERROR_OPERATION, event.operation)
    put.logfire(semconv.LOGFIRE_LOG, semconv.LEVEL_ERROR, message)


def _transition(span: Span, put: _Attributes, event: TransitionEvent) -> None:
    span.name = "State transition"
    span.kind = Span.SpanKind.SPAN_KIND_INTERNAL
    put.text(semconv.SIDESTREAM_FROM_STATE, event.from_state)
    put.text(semconv.SIDESTREAM_TO_STATE, event.to_state)
    put.number(semconv.SIDESTREAM_VISIT, event.visit)
    if event.duration_us is not None:
        put.number(semconv.SIDESTREAM_STATE_DURATION_US, event.duration_us)
    message = f"State transition {event.from_state or '?'} → {event.to_state or '?'}"
    put.logfire(semconv.LOGFIRE_LOG, semconv.LEVEL_INFO, message)


def _context(put: _Attributes, event: Event) -> None:
    put.text(semconv.GEN_AI_CONVERSATION_ID, event.session)
    put.text(semconv.USER_ID, event.user)
    put.text(semconv.GEN_AI_AGENT_CALL_ID, event.run_id)
    put.text(semconv.SIDESTREAM_TENANT, event.tenant)
    put.text(semconv.SIDESTREAM_STATE, event.state)
    put.texts(semconv.LOGFIRE_TAGS, event.tags)
    if not isinstance(event, TransitionEvent):
        put.text(semconv.GEN_AI_AGENT_NAME, event.agent)


def _delimited(field: int, payload: bytes) -> bytes:
    """Return a length-delimited protobuf field: its tag, its length as a varint, its bytes."""
    head = bytearray((field << 3 | 2,))
    length = len(payload)
    while length > _LOW_BITS:
        head.append(length & _LOW_BITS | _MORE)
        length >>= 7
    head.append(length)
    return bytes(head) + payload


def _bytes(message: object) -> bytes:
    return cast("_Message", message).SerializeToString()
