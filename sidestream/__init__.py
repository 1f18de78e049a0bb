"""LLM telemetry beside the hot path.

    import sidestream

    sidestream.configure(service="deckster")
    sidestream.instrument_pydantic_ai()
    with sidestream.session_context("session-1", "user-1"):
        ...  # agents run; every request, run and tool call becomes an event

`configure` raises on a wrong setting, a middleware on a source that it cannot read. No other call raises that fits its
signature, whatever the arguments hold; one that does not fit is Python's own TypeError. Only `flush` and `close` wait
for Redis. Before `configure` nothing is done, but that one warning says so.
"""

# ruff: noqa: E402 - the neighbours are looked at before one of them is imported
from sidestream._neighbours import check_neighbours

check_neighbours()

import logging
import math
import threading
from typing import TYPE_CHECKING, Final, cast

from pipeline.errors import SettingsError, SidestreamError
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.log import say
from producers.asgi import App
from producers.asgi import DrainMiddleware as _DrainMiddleware
from producers.asgi_sessions import SessionMiddleware as _SessionMiddleware
from producers.responses import anthropic_usage, openai_usage
from producers.telemetry import Telemetry
from sidestream.settings import load_settings, read_setting, switched_off

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.redact import Redactor
    from producers.asgi_sessions import Source

_LOG: Final = logging.getLogger("sidestream")

_default: Final = Telemetry()
"""The process's telemetry: switched off until `configure`, and the same object ever after."""

emit: Final = _default.emit
usage: Final = _default.usage
error: Final = _default.error
track_state_transition: Final = _default.track_state_transition
operation: Final = _default.operation
model_request: Final = _default.model_request
operation_done: Final = _default.operation_done
session_context: Final = _default.session_context
context_headers: Final = _default.context_headers
flush: Final = _default.flush
close: Final = _default.close
aflush: Final = _default.aflush
aclose: Final = _default.aclose
statistics: Final = _default.statistics


def default_telemetry() -> Telemetry:
    """Return the process's telemetry, on which the functions of this module act."""
    return _default


def _say_not_configured() -> None:
    if not switched_off():
        _LOG.warning("nothing is configured: call sidestream.configure(service=...); until then nothing is reported")


_default.when_forgotten = _say_not_configured


class _Told:
    """What has been decided or said once in this process."""

    configured = False
    logfire: bool | None = None
    unpriced = False


_configuring: Final = threading.RLock()


def configure(  # noqa: PLR0913 - the settings, each by its name
    service: str | None = None,
    *,
    version: str | None = None,
    environment: str | None = None,
    redis_url: str | None = None,
    namespace: str | None = None,
    partitions: int | None = None,
    linger_ms: int | None = None,
    buffer_events: int | None = None,
    buffer_bytes: int | None = None,
    append_level: str | None = None,
    user_key: str | None = None,
    redact: "Sequence[str] | None" = None,
    codec: str | None = None,
    close_timeout_s: float | None = None,
    spool_dir: str | None = None,
    spool_bytes: int | None = None,
    spool_fsync: str | None = None,
    enabled: bool | None = None,
) -> Telemetry:
    """Switch the process's telemetry on, and return it.

    What is not given is read from the environment (`SIDESTREAM_…`), then from `sidestream.toml`. A second call closes
    what the first one began. Inside `sidestream.testing.capture` it does nothing.

    Args:
        service: The application's name.
        version: Its version; also `APP_VERSION`.
        environment: Where it runs; also `LOGFIRE_ENVIRONMENT`.
        redis_url: `redis://`, `rediss://` or `unix://`; by default the embedded server, if one runs.
        namespace: Keeps applications and environments on one Redis apart.
        partitions: Streams to spread sessions over (1-1024).
        linger_ms: Milliseconds an event waits for others of its frame at most (0-10,000).
        buffer_events: Events held at most while Redis is slow or away (100-10,000,000).
        buffer_bytes: Bytes that they may take, as estimated (1 MiB to 1 TiB; docs/publishing.md says by what); by
            default 1,664 for each of `buffer_events`.
        user_key: A secret of at least 16 characters: users' ids are stored as hashes keyed by it.
        redact: Regular expressions: what they match is taken out of messages of errors too (docs/privacy.md).
        append_level: `appended`, or `replicated(n)`: an event counts when n replicas have it too.
        codec: `mz` or `json`.
        close_timeout_s: Seconds that closing waits for Redis (0-300).
        spool_dir: Folder on a local disk for what Redis has not got yet; by default there is no spool.
        spool_bytes: What it may take there a process (256 KiB to 1 TiB).
        spool_fsync: `always` or `interval`.
        enabled: False leaves it switched off.

    Raises:
        SettingsError: A setting is wrong or unknown; the message names it and its place.
    """
    given: dict[str, object] = {
        "service": service,
        "version": version,
        "environment": environment,
        "redis_url": redis_url,
        "namespace": namespace,
        "partitions": partitions,
        "linger_ms": linger_ms,
        "buffer_events": buffer_events,
        "buffer_bytes": buffer_bytes,
        "append_level": append_level,
        "user_key": user_key,
        "redact": redact,
        "codec": codec,
        "close_timeout_s": close_timeout_s,
        "spool_dir": spool_dir,
        "spool_bytes": spool_bytes,
        "spool_fsync": spool_fsync,
        "enabled": enabled,
    }
    if _default.holding:  # a test captures what is reported: no environment, no Redis, but messages as they would be
        if redact is not None:
            _default.redact_with(cast("Redactor", read_setting("redact", "configure(redact=…)", redact)))
        return _default
    settings = load_settings({name: value for name, value in given.items() if value is not None})
    with _configuring:
        _default.when_forgotten = None
        if settings.enabled:
            _default.configure(settings.publish, _finder(settings.redis_url))
        else:
            _default.close()
        _Told.configured = True
    return _default


def _finder(url: str | None) -> "Callable[[], str | None]":
    if url is not None:
        return lambda: url
    return _embedded_url


def _embedded_url() -> str | None:
    from sidestream.embedded import socket_url  # noqa: PLC0415 - asked by the publisher's thread

    return socket_url()


def configure_logfire(force: bool = False) -> bool:
    """Set up what the guide's `configure_logfire` sets up; return whether anything goes to Logfire.

    Reads `LOGFIRE_TOKEN`, `LOGFIRE_ENVIRONMENT`, `LOGFIRE_CONSOLE`, `LOGFIRE_TRACE_SAMPLE_RATE`,
    `LOGFIRE_SEND_TO_LOGFIRE` and `APP_VERSION`. Calls `configure` if nobody did. Never raises.

    Args:
        force: Do it again, although it was done.
    """
    from sidestream.logfire import set_up_logfire  # noqa: PLC0415 - only for those who call it

    with _configuring:
        if _Told.logfire is not None and not force:
            return _Told.logfire
        if not _Told.configured:
            try:
                configure()
            except SidestreamError as wrong:
                say(_LOG, logging.WARNING, "telemetry is not configured", error=wrong)
        _Told.logfire = set_up_logfire(_default.service)
        return _Told.logfire


def is_configured() -> bool:
    """Return whether `configure` was called, and left telemetry switched on."""
    return _default.enabled


def instrument_pydantic_ai() -> bool:
    """Report every request, run and tool call of PydanticAI's agents; return whether they are observed."""
    try:
        from producers.pydantic_ai import instrument  # noqa: PLC0415 - only for those who call it
    except ImportError as missing:
        say(_LOG, logging.WARNING, "pydantic-ai cannot be observed", error=missing)
        return False
    return instrument(_default)


def uninstrument_pydantic_ai() -> None:
    """Observe PydanticAI no more; runs that are under way are reported to their end."""
    try:
        from producers.pydantic_ai import uninstrument  # noqa: PLC0415 - only for those who call it
    except ImportError:
        return
    uninstrument()


class DrainMiddleware(_DrainMiddleware):
    """ASGI middleware: publishes what is buffered, and says goodbye, at the lifespan's shutdown.

    Args:
        app: The application, with a lifespan of its own or without.
        timeout_s: Seconds the shutdown may wait for Redis; by default the setting `close_timeout_s`.
    """

    def __init__(self, app: App, timeout_s: float | None = None) -> None:
        super().__init__(app, _default, timeout_s)


class SessionMiddleware(_SessionMiddleware):
    """ASGI middleware: each request and WebSocket runs in the context of its session; drains as `DrainMiddleware` does.

    A source is a route template (`/ws/{session_id}`), `header:NAME`, `query:NAME`, `cookie:NAME` or a function of the
    scope; of several, the first that says something holds. An exception that nobody handles is reported once.

    Args:
        app: The application.
        session: Where the session's id comes from.
        user: Where the user's id comes from.
        tenant: Where the tenant comes from.
        timeout_s: Seconds the shutdown may wait for Redis; by default the setting `close_timeout_s`.

    Raises:
        SettingsError: A source cannot be read; the message names it.
    """

    def __init__(
        self,
        app: App,
        *,
        session: "Source | Sequence[Source]",
        user: "Source | Sequence[Source]" = (),
        tenant: "Source | Sequence[Source]" = (),
        timeout_s: float | None = None,
    ) -> None:
        super().__init__(app, _default, session=session, user=user, tenant=tenant, timeout_s=timeout_s)


def instrument_celery(app: object = None) -> bool:
    """Let a Celery task's events say whose its caller's are, and drain when a worker ends or recycles a process.

    Args:
        app: Your Celery application, if you like to name it: the hooks are Celery's signals, which serve all of them.

    Returns:
        Whether that is arranged.
    """
    del app
    try:
        from producers.celery import instrument  # noqa: PLC0415 - only for those who call it
    except ImportError as missing:
        say(_LOG, logging.WARNING, "celery cannot be observed", error=missing)
        return False
    return instrument(_default)


def estimate_token_cost(model: str, input_tokens: int, output_tokens: int) -> float:
    """Return dollars for the tokens at today's price; NaN when the price is not known, for that is not 0."""
    try:
        from consumers.catalogue import estimate_usd  # noqa: PLC0415 - needs an extra
    except ImportError:
        if not _Told.unpriced:
            _Told.unpriced = True
            _LOG.warning("costs cannot be estimated without prices: pip install 'sidestream[worker]'")
        return math.nan
    return estimate_usd(model, input_tokens, output_tokens)


__all__ = [
    "DrainMiddleware",
    "ErrorEvent",
    "Event",
    "OperationEvent",
    "SessionMiddleware",
    "SettingsError",
    "SidestreamError",
    "Telemetry",
    "TransitionEvent",
    "UsageEvent",
    "aclose",
    "aflush",
    "anthropic_usage",
    "close",
    "configure",
    "configure_logfire",
    "context_headers",
    "default_telemetry",
    "emit",
    "error",
    "estimate_token_cost",
    "flush",
    "instrument_celery",
    "instrument_pydantic_ai",
    "is_configured",
    "model_request",
    "openai_usage",
    "operation",
    "operation_done",
    "session_context",
    "statistics",
    "track_state_transition",
    "uninstrument_pydantic_ai",
    "usage",
]
