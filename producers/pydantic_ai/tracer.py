"""A tracer that watches and passes on: what pydantic-ai opens spans with, in place of a real one.

Keeps:
- With no tracer behind it, no span exists: the application's current span stays current around runs and tools, and a
  request's placeholder shows the SpanContext of the application's span, so that children hang where they always hung.
- With a tracer behind it, every call reaches that one unchanged, and its span is the current one.
- Only the watching is guarded: what the tracer behind raises is raised, as it would be without us.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import context as otel_context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import Attributes, AttributeValue

from producers.pydantic_ai.recorder import Recorder
from producers.pydantic_ai.watches import Request, Watch

if TYPE_CHECKING:
    from opentelemetry.context import Context

_KEPT = ("gen_ai.request.model", "gen_ai.provider.name", "gen_ai.system")
"""The attributes a placeholder remembers: pydantic-ai reads them back, and none is content."""


class WatchedSpan(Span):
    """The span pydantic-ai gets: a watch on the operation, before the real span where there is one."""

    def __init__(self, recorder: Recorder, watch: Watch, inner: Span | None, *, recording: bool) -> None:
        self.watch = watch
        self.inner = inner
        self._recorder = recorder
        self._recording = recording
        self._context = (inner or get_current_span()).get_span_context()
        self._kept: dict[str, AttributeValue] = {}
        self._failed = False
        self._ended = False

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """What has been set: all of it where a real span remembers, else what pydantic-ai needs to read back."""
        return self._kept if self.inner is None else (getattr(self.inner, "attributes", None) or self._kept)

    def close(self, error: BaseException | None) -> None:
        """Stop watching, once."""
        if not self._ended:
            self._ended = True
            if self.inner is not None:
                # A fallback names the model that answers on the current span, which is the real one.
                self._recorder.safely(self._keep, self.attributes)
            self._recorder.safely(self._recorder.finish, self.watch, error)

    def end(self, end_time: int | None = None) -> None:
        """End both: called only for a span that was started without a scope, in the `finally` around its work."""
        leaving = sys.exception()
        # An exception that is being handled further out is not ours: a failure was said so, a cancellation never is.
        ours = self._failed or not isinstance(leaving, Exception)
        self.close(leaving if ours else None)
        if self.inner is not None:
            self.inner.end(end_time)

    def get_span_context(self) -> SpanContext:
        """Return the context of the real span, or of the application's current one."""
        return self._context

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Pass on, and keep who was asked."""
        self._recorder.safely(self._keep, attributes)
        if self.inner is not None:
            self.inner.set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Pass on, and keep who was asked."""
        if key in _KEPT:
            self._recorder.safely(self._keep, {key: value})
        if self.inner is not None:
            self.inner.set_attribute(key, value)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Pass on."""
        if self.inner is not None:
            self.inner.add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Pass on."""
        if self.inner is not None:
            self.inner.add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """Pass on."""
        if self.inner is not None:
            self.inner.update_name(name)

    def is_recording(self) -> bool:
        """Say what the real span says, and yes for a request: of one that is not recording we would not be told."""
        if self._recording or self.inner is None:
            return self._recording and not self._ended
        return self.inner.is_recording()

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Pass on, and remember a failure."""
        code = status.status_code if isinstance(status, Status) else status
        self._failed = self._failed or code is StatusCode.ERROR
        if self.inner is not None:
            self.inner.set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Pass on."""
        if self.inner is not None:
            self.inner.record_exception(exception, attributes, timestamp, escaped)

    def _keep(self, attributes: Mapping[str, AttributeValue]) -> None:
        kept = {key: attributes[key] for key in _KEPT if key in attributes}
        if kept:
            self._kept.update(kept)
            self.watch.set_attributes(cast("Mapping[str, object]", self._kept))


class _Scope(AbstractContextManager[Span]):
    """The `with` around one watched operation."""

    def __init__(self, recorder: Recorder, watch: Watch, real: AbstractContextManager[Span] | None) -> None:
        self._recorder = recorder
        self._watch = watch
        self._real = real
        self._span: WatchedSpan | None = None
        self._before: Context | None = None

    def __enter__(self) -> Span:
        inner = self._real.__enter__() if self._real is not None else None
        span = self._recorder.safely(self._open, inner)
        if span is not None:
            return span
        return inner if inner is not None else INVALID_SPAN

    def _open(self, inner: Span | None) -> Span:
        request = isinstance(self._watch, Request)
        span = WatchedSpan(self._recorder, self._watch, inner, recording=request)
        self._span = span
        if request and inner is None:
            # Only requests: there the framework writes to the current span. Around runs and tools it is the
            # application's code that does, and it must find its own.
            self._before = otel_context.get_current()
            otel_context.attach(set_span_in_context(span))
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._span is not None:
            self._span.close(error)
        if self._before is not None and get_current_span() is self._span:
            # Not detach: a stream may be closed in another task, where a token is not known.
            otel_context.attach(self._before)
        return self._real.__exit__(kind, error, trace) if self._real is not None else None


class WatchingTracer(Tracer):
    """A tracer that opens a watch for each operation of pydantic-ai's, and hands everything to `inner`."""

    def __init__(self, recorder: Recorder, inner: Tracer | None) -> None:
        self.inner = inner
        self._recorder = recorder
        self._behind = inner or NoOpTracer()

    def start_span(  # noqa: PLR0913, PLR0917 - the signature is OpenTelemetry's
        self,
        name: str,
        context: "Context | None" = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """Start a span without a scope: under a durable engine, which drops it when it only replays."""
        span = self._behind.start_span(
            name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
        )
        watch = self._watch(name, attributes)
        if watch is None:
            return span
        real = None if self.inner is None else span
        # With nobody behind us failures of runs and tools must be told too: here no scope sees them leave.
        return WatchedSpan(self._recorder, watch, real, recording=real is None or isinstance(watch, Request))

    def start_as_current_span(  # noqa: PLR0913, PLR0917 - the signature is OpenTelemetry's
        self,
        name: str,
        context: "Context | None" = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Any:  # noqa: ANN401 - OpenTelemetry's own type is a private class
        """Open a span for the length of a `with`."""
        real: AbstractContextManager[Span] | None = None
        if self.inner is not None:
            real = self.inner.start_as_current_span(
                name,
                context,
                kind,
                attributes,
                links,
                start_time,
                record_exception,
                set_status_on_exception,
                end_on_exit,
            )
        watch = self._watch(name, attributes)
        if watch is None:
            return real if real is not None else nullcontext(INVALID_SPAN)
        return _Scope(self._recorder, watch, real)

    def _watch(self, name: str, attributes: Attributes) -> Watch | None:
        return self._recorder.safely(self._recorder.start, name, dict(attributes or {}))
