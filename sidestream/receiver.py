"""A small OTLP receiver on loopback: stands in for Logfire in the demo and in tests, and counts what arrives.

`python -m sidestream.receiver --port 0 --ready-file F` writes its url to F and to standard output; at SIGTERM it prints
one line of JSON: requests, spans, distinct spans, spans by name, log records, metric points.

Keeps:
- A span is counted only in a request that was answered with 2xx, as the sender will understand it.
- It listens on 127.0.0.1 alone; it is no collector and forwards nothing.
"""

import argparse
import gzip
import json
import os
import signal
import sys
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR, socket
from types import TracebackType
from typing import Self, TypeAlias, cast

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Value: TypeAlias = str | int | float | bool | tuple[str, ...]

_POLL_S = 0.01
"""How soon the accepting thread sees that it is to stop."""

_ENDING = {signal.SIGTERM, signal.SIGINT}


@dataclass(frozen=True, slots=True)
class Reply:
    """How to answer a request.

    Args:
        status: HTTP status.
        retry_after: The header Retry-After, as text; empty sends none.
        rejected_spans: With 200: said in `partial_success`.
        reason: With `rejected_spans` its message, with an error the body.
        hang: Never answer; the connection stays open until the receiver stops.
        location: The header Location, for redirects.
        body: With 200: sent instead of a protobuf answer, as JSON.
    """

    status: int = 200
    retry_after: str = ""
    rejected_spans: int = 0
    reason: str = ""
    hang: bool = False
    location: str = ""
    body: str = ""


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it arrived; ids as hex, `parent_id` empty for a root, times in nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    status: int
    status_message: str
    attributes: dict[str, Value]
    resource: dict[str, Value]
    events: tuple[tuple[str, dict[str, Value]], ...] = ()


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One POST: its path, headers (names in lower case), uncompressed size and spans."""

    path: str
    headers: dict[str, str]
    size_bytes: int
    spans: tuple[ReceivedSpan, ...]


@dataclass(slots=True)
class Counts:
    """What was taken; a span that arrives twice is one of `distinct_spans`."""

    requests: int = 0
    spans: int = 0
    log_records: int = 0
    metric_points: int = 0
    by_name: Counter[str] = field(default_factory=Counter[str])
    distinct: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def summary(self) -> dict[str, object]:
        """Return the counts as plain values."""
        return {
            "requests": self.requests,
            "spans": self.spans,
            "distinct_spans": len(self.distinct),
            "by_name": dict(sorted(self.by_name.items())),
            "log_records": self.log_records,
            "metric_points": self.metric_points,
        }


Judge: TypeAlias = Callable[[ReceivedRequest], Reply]
"""Decides how a request is answered, where nothing else was ordered."""


class Receiver:
    """Serves on loopback in threads of its own, from entering to leaving it as a context.

    Args:
        port: 0 takes a free one.
        keep: Keep the requests themselves, not only their counts.
        judge: Answers each request; by default all is taken.

    Raises:
        OSError: The port is in use.
    """

    def __init__(self, *, port: int = 0, keep: bool = False, judge: Judge | None = None) -> None:
        self.judge: Judge = judge or _take
        self._keep = keep
        self._ordered: deque[Reply] = deque()
        self._requests: list[ReceivedRequest] = []
        self._counts = Counts()
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="otlp-receiver")

    @property
    def url(self) -> str:
        """The base url: what LOGFIRE_BASE_URL or OTEL_EXPORTER_OTLP_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """All requests so far, refused ones too; empty unless kept."""
        with self._lock:
            return list(self._requests)

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans so far, in the order of arrival, refused ones too; empty unless kept."""
        return [span for request in self.requests for span in request.spans]

    def answer_next(self, *replies: Reply) -> None:
        """Answer the next requests so, one each, before the judge is asked again."""
        with self._lock:
            self._ordered.extend(replies)

    def summary(self) -> dict[str, object]:
        """Return the counts of what was taken."""
        with self._lock:
            return self._counts.summary()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Read one POST, decide on it and count it."""
        try:
            request, logs, points = _read(path, headers, body)
        except (DecodeError, zlib.error, EOFError, OSError) as error:
            return Reply(HTTPStatus.BAD_REQUEST, reason=f"the body cannot be read: {error}")
        if request is None:
            return Reply(HTTPStatus.NOT_FOUND, reason="no such path")
        with self._lock:
            reply = self._ordered.popleft() if self._ordered else self.judge(request)
            if self._keep:
                self._requests.append(request)
            if reply.status == HTTPStatus.OK and not reply.hang:
                self._count(request, logs, points)
        return reply

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def _count(self, request: ReceivedRequest, logs: int, points: int) -> None:
        self._counts.requests += 1
        self._counts.spans += len(request.spans)
        self._counts.log_records += logs
        self._counts.metric_points += points
        self._counts.by_name.update(span.name for span in request.spans)
        self._counts.distinct.update((span.trace_id, span.span_id) for span in request.spans)


class _Server(ThreadingHTTPServer):
    """Knows its open connections, so that stopping leaves no thread waiting for a client's next word."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, receiver: Receiver, port: int) -> None:
        self.receiver = receiver
        self._open: set[socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over a client that was killed while it spoke; anything else is printed, as the library does."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]

    def process_request(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        """Remember a connection and serve it in a thread."""
        with self._open_lock:
            self._open.add(cast("socket", request))
        super().process_request(request, client_address)  # pyright: ignore[reportArgumentType]

    def shutdown_request(self, request: socket | tuple[bytes, socket]) -> None:
        """Forget a connection."""
        with self._open_lock:
            self._open.discard(cast("socket", request))
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close what is open."""
        with self._open_lock:
            for connection in self._open:
                try:
                    connection.shutdown(SHUT_RDWR)
                except OSError:
                    continue  # the client was faster


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    """Head and body leave in one write: as two they cost 40 ms an answer (Nagle and the delayed acknowledgement)."""

    def do_POST(self) -> None:
        receiver = cast("_Server", self.server).receiver
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = receiver.answer(self.path, headers, body)
        if reply.hang:
            receiver.stopping.wait()
            self.close_connection = True
            return
        self._reply(reply)

    def _reply(self, reply: Reply) -> None:
        content, content_type = _content(reply)
        try:
            self.send_response(reply.status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            if reply.retry_after:
                self.send_header("Retry-After", reply.retry_after)
            if reply.location:
                self.send_header("Location", reply.location)
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Stay silent: the counts are the log."""


def _content(reply: Reply) -> tuple[bytes, str]:
    if reply.status != HTTPStatus.OK:
        return reply.reason.encode(), "text/plain"
    if reply.body:
        return reply.body.encode(), "application/json"
    response = ExportTraceServiceResponse()
    if reply.rejected_spans:
        response.partial_success.rejected_spans = reply.rejected_spans
        response.partial_success.error_message = reply.reason
    return response.SerializeToString(), "application/x-protobuf"


def _take(_request: ReceivedRequest) -> Reply:
    return Reply()


def _read(path: str, headers: dict[str, str], body: bytes) -> tuple[ReceivedRequest | None, int, int]:
    """Return the request, its log records and its metric points; no request for a path that is none of OTLP's."""
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    spans: tuple[ReceivedSpan, ...] = ()
    logs = points = 0
    match path:
        case "/v1/traces":
            spans = _read_spans(body)
        case "/v1/logs":
            sent = ExportLogsServiceRequest.FromString(body)
            logs = sum(len(scope.log_records) for resource in sent.resource_logs for scope in resource.scope_logs)
        case "/v1/metrics":
            points = _count_points(body)
        case _:
            return None, 0, 0
    return ReceivedRequest(path, headers, len(body), spans), logs, points


def _read_spans(body: bytes) -> tuple[ReceivedSpan, ...]:
    sent = ExportTraceServiceRequest.FromString(body)
    return tuple(
        _read_span(span, _plain(group.resource.attributes))
        for group in sent.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    )


def _read_span(span: Span, resource: dict[str, Value]) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=span.status.code,
        status_message=span.status.message,
        attributes=_plain(span.attributes),
        resource=resource,
        events=tuple((event.name, _plain(event.attributes)) for event in span.events),
    )


def _plain(attributes: object) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in cast("list[KeyValue]", attributes)}


def _value(value: AnyValue) -> Value:
    if value.WhichOneof("value") == "array_value":
        return tuple(item.string_value for item in value.array_value.values)
    return cast("Value", getattr(value, value.WhichOneof("value") or "string_value"))


def _count_points(body: bytes) -> int:
    sent = ExportMetricsServiceRequest.FromString(body)
    points = 0
    for resource in sent.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                points += len(getattr(metric, kind).data_points) if kind else 0
    return points


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then print the summary."""
    parser = argparse.ArgumentParser(prog="python -m sidestream.receiver", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="file to write the url to, once it listens")
    parser.add_argument("--summary-file", type=Path, help="file to write the summary to as well, at the end")
    parser.add_argument("--status", type=int, default=200, help="answer every request so")
    options = parser.parse_args(arguments)
    # Blocked before any thread starts, so that only the wait below sees them, at whatever moment they come.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        receiver = Receiver(port=options.port, judge=lambda _request: Reply(options.status))
    except OSError as error:
        sys.stderr.write(f"sidestream.receiver: cannot listen on 127.0.0.1:{options.port}: {error.strerror}\n")
        return 3
    with receiver:
        _say(receiver.url, options.ready_file)
        signal.sigwait(_ENDING)
    _say(json.dumps(receiver.summary()), options.summary_file)
    return 0


def _say(line: str, file: Path | None) -> None:
    """Leave a line in a file, whole or not at all, and then print it: who reads the one finds the other."""
    if file is not None:
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.write_text(line + "\n", encoding="utf-8")
        draft.replace(file)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
