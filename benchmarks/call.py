"""What one call costs the caller: the public `usage()` with the publisher running, beside what others would pay.

Each call is timed by itself with `perf_counter_ns`; what the clock itself takes is measured and stated, not
subtracted. Back to back: rounds of calls as fast as they come, the publisher encoding beside them, each round after
the flush of the one before (no queue of ours or of a peer ever overflows). Paced: ten calls each millisecond, so that
most of them meet a cold cache and a publisher at work.
"""

import importlib
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

import anyio

import sidestream
import sidestream.testing
from benchmarks.harness import Run, main, quantile
from benchmarks.peers import (
    FIELDS,
    Peer,
    installed,
    langfuse_peers,
    logfire_peers,
    opentelemetry_peers,
    quiet,
    redis_peers,
)
from benchmarks.surroundings import RealServer, Receiver, real_server, receiver
from benchmarks.traffic import AGENT, ANSWERING, CALL_SHAPE, MODEL, Size, new_session, report, sizes

PARTITIONS: Final = 4
LINGER_MS: Final = 200
PACE_S: Final = 0.001
PACED_CALLS: Final = 10
FLUSH_S: Final = 30.0
LEAST_BEYOND: Final = 4.9
"""Samples beyond a quantile, below which it is an anecdote (five, and what floats make of it)."""

_TARGETS: Final = {"p50": 1_000.0, "p99": 10_000.0}
_QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_LIMITS: Final = {
    "p50": "CPython: 12 keyword arguments, two context variables, the clock, one struct of 33 fields",
    "p99": "the publisher's turns under the interpreter's lock, and the processor's caches",
    "p99.9": "the interpreter's switch interval (5 ms) while the publisher encodes, and the machine's other work",
}


def measure(run: Run) -> None:
    """Time ours first, then each peer, all in this process."""
    quiet()
    with real_server(aof=True) as server, receiver() as otlp:
        run.server = server.about
        run.configuration = {
            "partitions": PARTITIONS,
            "linger_ms": LINGER_MS,
            "codec": "mz",
            "aof": "everysec",
            "buffer_events": 50_000,
            "event_shape": CALL_SHAPE,
            "clock": "perf_counter_ns around each call, its own cost included",
        }
        _clock(run)
        ours_ns = _ours(run, server)
        _memory(run)
        _peers(run, server, otlp, ours_ns)


def _clock(run: Run) -> None:
    clock, calls = time.perf_counter_ns, run.sized(200_000, 2_000)
    took = sorted(-(clock() - clock()) for _ in range(calls))
    run.figure("the clock around nothing, p50", quantile(took, 0.5), "ns", calls)


def _ours(run: Run, server: RealServer) -> float:
    sidestream.configure(
        service="bench",
        redis_url=server.url,
        namespace="bench",
        partitions=PARTITIONS,
        linger_ms=LINGER_MS,
        close_timeout_s=FLUSH_S,
    )
    try:
        with sidestream.session_context(new_session(), "user-1", tenant="acme", state="drafting"):
            report(sizes(1_000))
            _settle(run)
            alone = _back_to_back(run)
            _paced(run)
            _amortised(run)
        counts = sidestream.statistics()
        run.configuration["events_offered"] = counts.offered
        run.require(counts.offered == counts.appended, f"of {counts.offered} calls {counts.appended} were appended")
        run.require(counts.shed + counts.invalid == 0, "calls were shed: that is another, cheaper way")
    finally:
        sidestream.close()
    return alone


def _settle(run: Run) -> None:
    run.require(sidestream.flush(FLUSH_S), "Redis did not answer in time")


def _back_to_back(run: Run) -> float:
    rounds, calls = run.sized(20, 2), run.sized(20_000, 500)
    some = sizes(calls)
    took: list[int] = []
    for _ in range(rounds):
        took += _timed(some)
        _settle(run)
    ordered = sorted(took)
    _spread(run, "usage(), back to back", ordered, ours=True, targets=_TARGETS)
    return quantile(ordered, 0.5)


def _paced(run: Run) -> None:
    ticks = run.sized(5_000, 50)
    some = sizes(PACED_CALLS)
    took: list[int] = []
    due_s = time.perf_counter()
    for _ in range(ticks):
        took += _timed(some)
        due_s += PACE_S
        time.sleep(max(0.0, due_s - time.perf_counter()))
    _settle(run)
    _spread(run, f"usage(), paced {PACED_CALLS / PACE_S:,.0f}/s", sorted(took), ours=True, targets={})


def _amortised(run: Run) -> None:
    rounds, calls = run.sized(20, 2), run.sized(20_000, 500)
    some = sizes(calls)
    each_ns: list[float] = []
    for _ in range(rounds):
        started_ns = time.perf_counter_ns()
        taken = report(some)
        each_ns.append((time.perf_counter_ns() - started_ns) / calls)
        run.require(taken == calls, "a call found no room")
        _settle(run)
    name = "usage(), time of a tight loop ÷ calls, median of rounds"
    run.figure(name, statistics.median(each_ns), "ns", rounds * calls, limited_by=_LIMITS["p50"])


def _timed(some: Sequence[Size]) -> list[int]:
    """Time each of some calls, in line: a wrapper would cost a tenth of what it measures."""
    usage, clock = sidestream.usage, time.perf_counter_ns
    took: list[int] = []
    add = took.append
    for size in some:
        tokens_in, tokens_out, cached, thought = (
            size.input_tokens,
            size.output_tokens,
            size.cached_tokens,
            size.reasoning_tokens,
        )
        duration_us, ttft_us = size.duration_us, size.ttft_us
        started_ns = clock()
        usage(
            AGENT,
            MODEL,
            tokens_in,
            tokens_out,
            duration_us=duration_us,
            ttft_us=ttft_us,
            provider="openai",
            response_model=ANSWERING,
            finish_reason="stop",
            status="ok",
            cache_read_tokens=cached,
            reasoning_tokens=thought,
        )
        add(clock() - started_ns)
    return took


def _spread(run: Run, name: str, ordered: Sequence[float], *, ours: bool, targets: dict[str, float]) -> None:
    for label, share in _QUANTILES.items():
        beyond = len(ordered) * (1 - share)
        run.require(run.quick or beyond >= LEAST_BEYOND, f"{name}: {len(ordered)} samples are too few for {label}")
        value = quantile(ordered, share)
        if label in targets:
            run.at_most(targets[label], f"{name}, {label}", value, "ns", len(ordered), limited_by=_LIMITS[label])
        else:
            why = _LIMITS[label] if ours else ""
            run.figure(f"{name}, {label}", value, "ns", len(ordered), limited_by=why)


def _memory(run: Run) -> None:
    """Count what a buffered event keeps, without a publisher that would free it meanwhile."""
    calls = run.sized(20_000, 500)
    some = sizes(calls)
    with sidestream.testing.capture(), sidestream.session_context(new_session(), "user-1"):
        report(some[:100])
        before = sys.getallocatedblocks()
        report(some)
        blocks = sys.getallocatedblocks() - before
    with sidestream.testing.capture(), sidestream.session_context(new_session(), "user-1"):
        tracemalloc.start()
        report(some)
        kept_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    why = "the event's struct and its time; strings and numbers are the caller's own"
    run.figure("usage(), allocated blocks a call keeps", blocks / calls, "blocks", calls, limited_by=why)
    run.figure("usage(), allocated bytes a call keeps", kept_bytes / calls, "bytes", calls, limited_by=why)


def _peers(run: Run, server: RealServer, otlp: Receiver, ours_ns: float) -> None:
    calls: dict[str, int] = {}
    about: dict[str, str] = {}
    with ExitStack() as stack:
        peers = stack.enter_context(logfire_peers(otlp.url)) + stack.enter_context(opentelemetry_peers(otlp.url))
        if installed("langfuse"):
            peers += stack.enter_context(langfuse_peers(otlp.url))
        else:
            run.skip("Langfuse generation", "langfuse is not installed (extra `bench`)")
        peers += stack.enter_context(redis_peers(str(server.path)))
        for peer in peers:
            calls[peer.span] = _peer(run, peer, ours_ns)
            about[peer.name] = peer.about
    if installed("faststream"):
        _ratio(run, "FastStream publish, awaited", anyio.run(_faststream, run, server.url), ours_ns)
        about["FastStream publish, awaited"] = "RedisBroker.publish(dict of 12, stream=...), on the unix socket"
    else:
        run.skip("FastStream publish, awaited", "faststream is not installed (extra `bench`)")
    run.configuration |= {f"peer: {name}": text for name, text in about.items()}
    arrived = otlp.stop()
    for span, offered in calls.items():
        if span:
            run.require(arrived.get(span, 0) > 0, f"none of the {offered} spans {span} arrived")
            run.figure(f"{span}: spans that arrived, of those reported", arrived.get(span, 0) / offered, "", offered)


def _peer(run: Run, peer: Peer, ours_ns: float) -> int:
    rounds, calls, warm = run.sized(5, 1), run.sized(1_000, 30), run.sized(200, 5)
    clock, call = time.perf_counter_ns, peer.call
    for _ in range(warm):
        call()
    took: list[int] = []
    for _ in range(rounds):
        peer.flush()
        for _ in range(calls):
            started_ns = clock()
            call()
            took.append(clock() - started_ns)
    peer.flush()
    _ratio(run, peer.name, sorted(took), ours_ns)
    return warm + rounds * calls


def _ratio(run: Run, name: str, ordered: Sequence[float], ours_ns: float) -> None:
    _spread(run, name, ordered, ours=False, targets={})
    ratio, samples = quantile(ordered, 0.5) / ours_ns, len(ordered)
    title = f"{name} ÷ usage(), p50"
    if name == "logfire.info":
        run.at_least(100, title, ratio, "times", samples, limited_by=_LIMITS["p50"])
    else:
        run.figure(title, ratio, "times", samples)


async def _faststream(run: Run, url: str) -> list[float]:
    calls, clock = run.sized(5_000, 30), time.perf_counter_ns
    broker: Any = importlib.import_module("faststream.redis").RedisBroker(url, logger=None)
    await broker.connect()
    took: list[float] = []
    try:
        for _ in range(calls):
            started_ns = clock()
            await broker.publish(FIELDS, stream="bench-faststream")
            took.append(clock() - started_ns)
    finally:
        await broker.stop()
    return sorted(took)


if __name__ == "__main__":
    sys.exit(main("call", __doc__, measure))
