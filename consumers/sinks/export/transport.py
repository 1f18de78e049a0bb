"""One POST of spans, and what its answer means; the retrying is the runtime's.

| answer | meaning |
|---|---|
| 2xx | taken, but for `partial_success.rejected_spans` |
| 400, 413 | these spans are refused: the caller splits |
| 408, 429, 5xx, no connection, no answer | `NotDeliveredError`, transient, with `retry_after_s` if it was told |
| 401, 403 | `PermanentError(code="unauthorized")`: it says nothing about the spans |
| any other | `PermanentError(code="refused_<status>")`: the endpoint is not what we take it for |

Redirects are never followed: a token must not travel to a host that nobody configured. The proxies and certificates of
the environment are honoured, except for a far side on this machine.

Source: https://opentelemetry.io/docs/specs/otlp/ (OTLP/HTTP response); 408 and every 5xx are retried, as Logfire asks.
"""

import gzip
import math
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import cast

import anyio.to_thread
import httpx
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from consumers.sinks.export.settings import ExportSettings
from pipeline.errors import PermanentError, TransientError

MAX_RETRY_AFTER_S = 3600.0
"""A longer wait is cut: whoever asks for more is asked again after an hour."""

_MAX_REASON_CHARS = 200
_GZIP_LEVEL = 1
"""Spans repeat their keys: level 1 shrinks 758 bytes a span to 108, level 6 to 101 in twice the time."""

_THREAD_BYTES = 64 * 1024
"""Larger bodies are compressed in a thread; below that the hop costs more than the work."""

_SPLIT = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
_RETRY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
_UNAUTHORIZED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


class NotDeliveredError(TransientError):
    """The far side took nothing, or did not say; `retry_after_s` is what it asked for, None if it asked for nothing.

    Codes: `unreachable` (nothing was sent), `unknown_outcome` (sent, no answer), `http_<status>`.
    """

    def __init__(self, message: str, *, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Answer(Struct, frozen=True):
    """What the far side said: `refused` is 400 or 413, or 0 if it took the spans, of which it dropped `rejected`."""

    refused: int = 0
    rejected: int = 0
    reason: str = ""


class Transport:
    """Posts requests; holds the connections."""

    def __init__(self, settings: ExportSettings) -> None:
        self._url = f"{settings.endpoint.rstrip('/')}/v1/traces"
        headers = {
            **settings.headers,
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "User-Agent": "sidestream",
        }
        if settings.token:
            headers["Authorization"] = settings.token
        self._client = httpx.AsyncClient(
            headers=headers, timeout=settings.timeout_s, follow_redirects=False, trust_env=not settings.loopback
        )

    async def post(self, body: bytes) -> Answer:
        """Send one ExportTraceServiceRequest.

        Raises:
            NotDeliveredError: See the table above.
            PermanentError: See the table above.
        """
        response = await self._send(await _compressed(body))
        status = response.status_code
        if response.is_success:
            return _accepted(response)
        if status in _SPLIT:
            return Answer(refused=status, reason=_reason(response))
        if status in _RETRY or response.is_server_error:
            raise NotDeliveredError(
                f"the far side answered {status}", code=f"http_{status}", retry_after_s=_retry_after_s(response)
            )
        if status in _UNAUTHORIZED:
            raise PermanentError(
                f"the far side refuses the token ({status}): check LOGFIRE_TOKEN or OTEL_EXPORTER_OTLP_HEADERS",
                code="unauthorized",
            )
        raise PermanentError(
            f"{self._url} answered {status}, no OTLP endpoint does: check its base url", code=f"refused_{status}"
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _send(self, body: bytes) -> httpx.Response:
        try:
            return await self._client.post(self._url, content=body)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            raise NotDeliveredError(f"no connection to the far side: {error!r}", code="unreachable") from error
        except (httpx.TimeoutException, httpx.TransportError, httpx.DecodingError) as error:
            raise NotDeliveredError(f"no answer from the far side: {error!r}", code="unknown_outcome") from error


async def _compressed(body: bytes) -> bytes:
    if len(body) < _THREAD_BYTES:
        return gzip.compress(body, _GZIP_LEVEL, mtime=0)
    return await anyio.to_thread.run_sync(lambda: gzip.compress(body, _GZIP_LEVEL, mtime=0))


def _accepted(response: httpx.Response) -> Answer:
    """Read `partial_success`; a body that is none says nothing, and 2xx stands."""
    message = ExportTraceServiceResponse()
    try:
        if "json" in response.headers.get("content-type", ""):
            json_format.Parse(response.content, message, ignore_unknown_fields=True)  # pyright: ignore[reportUnknownMemberType]
        else:
            message.ParseFromString(response.content)
    except (DecodeError, json_format.ParseError, UnicodeDecodeError):
        return Answer()
    partial = message.partial_success
    return Answer(rejected=max(0, partial.rejected_spans), reason=_cut(partial.error_message))


def _reason(response: httpx.Response) -> str:
    """Return the readable part of a refusal: OTLP asks for a google.rpc.Status, many send plain text or a page."""
    text = response.content.decode("utf-8", "replace")
    return _cut("".join(char if char.isprintable() else " " for char in text))


def _cut(text: str) -> str:
    return text.strip()[:_MAX_REASON_CHARS]


def _retry_after_s(response: httpx.Response) -> float | None:
    """Read Retry-After, seconds or a date (RFC 9110, 10.2.3); None if it is absent or neither."""
    text = cast("str", response.headers.get("retry-after", "")).strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None
