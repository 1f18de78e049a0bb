"""The peers of the call: each reports the same request the way its documentation says, exporting as in production.

Optional packages are imported by name and only where they are installed (extra `bench`), so `Any` stays here.
"""

import importlib
import importlib.util
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import logfire
import redis
from logfire import AdvancedOptions
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.traffic import AGENT, ANSWERING, MODEL

_USAGE: Final = {"input": 2048, "output": 180, "cache_read": 1024, "reasoning": 64}

ATTRIBUTES: Final[dict[str, str | int]] = {
    "gen_ai.agent.name": AGENT,
    "gen_ai.request.model": MODEL,
    "gen_ai.response.model": ANSWERING,
    "gen_ai.provider.name": "openai",
    "gen_ai.usage.input_tokens": _USAGE["input"],
    "gen_ai.usage.output_tokens": _USAGE["output"],
    "gen_ai.usage.cache_read.input_tokens": _USAGE["cache_read"],
    "gen_ai.usage.reasoning_tokens": _USAGE["reasoning"],
    "gen_ai.response.finish_reasons": "stop",
    "duration_us": 1_250_000,
    "ttft_us": 310_000,
    "status": "ok",
}
"""What our 12 arguments say, as attributes."""

FIELDS: Final[dict[Any, Any]] = dict(ATTRIBUTES)


@dataclass(frozen=True)
class Peer:
    """Another way to report one request.

    Args:
        name: What it is called in figures.
        call: Reports one request.
        flush: Waits until what was reported is exported, between rounds; the same courtesy as ours gets.
        about: How it is configured.
        span: The name its spans arrive under, empty where it sends none.
    """

    name: str
    call: Callable[[], object]
    flush: Callable[[], object]
    about: str
    span: str = ""


def installed(package: str) -> bool:
    """Return whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def _exporter(receiver_url: str) -> OTLPSpanExporter:
    return OTLPSpanExporter(endpoint=f"{receiver_url}/v1/traces")


@contextmanager
def logfire_configured(receiver_url: str) -> Generator[None]:
    """Configure Logfire with the batch processor and the OTLP exporter that it uses itself."""
    logfire.configure(
        send_to_logfire=False,
        console=False,
        metrics=False,
        service_name="bench",
        inspect_arguments=False,
        additional_span_processors=[BatchSpanProcessor(_exporter(receiver_url), schedule_delay_millis=500)],
        advanced=AdvancedOptions(log_record_processors=()),
    )
    try:
        yield
    finally:
        logfire.shutdown()


@contextmanager
def logfire_peers(receiver_url: str) -> Generator[list[Peer]]:
    """Configure Logfire, and report with its two ways."""
    about = (
        "configure(send_to_logfire=False, console=False, metrics=False), BatchSpanProcessor(500 ms) and OTLP/HTTP to a "
        "loopback receiver; without the pending spans that it also sends in production"
    )
    named: dict[str, Any] = {name.replace(".", "_"): value for name, value in ATTRIBUTES.items()}

    def span() -> None:
        with logfire.span("bench.logfire_span", _span_name="bench.logfire_span", **named):
            pass

    with logfire_configured(receiver_url):
        yield [
            Peer(
                "logfire.info",
                lambda: logfire.info("bench.logfire_info", **named),
                logfire.force_flush,
                about,
                "bench.logfire_info",
            ),
            Peer("logfire.span", span, logfire.force_flush, about, "bench.logfire_span"),
        ]


@contextmanager
def opentelemetry_peers(receiver_url: str) -> Generator[list[Peer]]:
    """Configure the bare OpenTelemetry SDK."""
    provider = TracerProvider(resource=Resource({"service.name": "bench"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(receiver_url)))
    tracer = provider.get_tracer("bench")

    def span() -> None:
        with tracer.start_as_current_span("bench.opentelemetry", attributes=ATTRIBUTES):
            pass

    about = "TracerProvider with BatchSpanProcessor (defaults) and OTLP/HTTP to a loopback receiver"
    try:
        yield [Peer("OpenTelemetry span", span, provider.force_flush, about, "bench.opentelemetry")]
    finally:
        provider.shutdown()


@contextmanager
def langfuse_peers(receiver_url: str) -> Generator[list[Peer]]:
    """Configure Langfuse's SDK, its own processor and queue, exporting to loopback instead of Langfuse."""
    provider = TracerProvider(resource=Resource({"service.name": "bench"}), shutdown_on_exit=False)
    client: Any = importlib.import_module("langfuse").Langfuse(
        public_key="pk-lf-bench",
        secret_key="sk-lf-bench",  # noqa: S106 - opens nothing
        base_url=receiver_url,
        tracer_provider=provider,
        span_exporter=_exporter(receiver_url),
    )
    metadata = {name: ATTRIBUTES[name] for name in ("duration_us", "ttft_us", "status")}

    def generation() -> None:
        client.start_observation(
            name="bench.langfuse", as_type="generation", model=MODEL, usage_details=_USAGE, metadata=metadata
        ).end()

    about = "Langfuse(...).start_observation(as_type='generation').end(), its own span processor, OTLP/HTTP to loopback"
    try:
        yield [Peer("Langfuse generation", generation, client.flush, about, "bench.langfuse")]
    finally:
        client.shutdown()
        provider.shutdown()


@contextmanager
def redis_peers(socket_path: str) -> Generator[list[Peer]]:
    """Connect redis-py: one XADD an event, awaited by the caller's thread."""
    client = redis.Redis(unix_socket_path=socket_path, retry=Retry(NoBackoff(), 0))
    try:
        yield [
            Peer(
                "redis-py XADD",
                lambda: client.xadd("bench", FIELDS),
                lambda: None,
                "redis.Redis on the unix socket, 12 fields, synchronous",
            )
        ]
    finally:
        client.close()


def quiet() -> None:
    """Keep the peers' own warnings (a full queue) out of the way: what did not arrive is counted at the receiver."""
    for name in ("opentelemetry", "langfuse", "logfire", "faststream"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
