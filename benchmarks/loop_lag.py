"""How much later an application's event loop reacts when it reports 100, 1,000 or 10,000 events a second.

A metronome, a process of its own, writes a tick to the loop each millisecond; the lag is how much later the loop reads
it. Each tick also brings the events due in that millisecond, reported in line as an application would. Redis is up,
slow (a proxy delivers replies 100 ms late), hung (SIGSTOP) and refused (a port where nobody listens).

Beside it: the same loop reporting nothing (the baseline: the quieter of two, before and after, at each rate), and
awaiting redis.asyncio's XADD for each event. "Added" is p99 less the baseline's p99 at that rate.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import anyio
import redis.asyncio
from anyio.abc import TaskGroup
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import sidestream
from benchmarks.harness import ROOT, Run, main, quantile, say
from benchmarks.metronome import TICK
from benchmarks.peers import FIELDS
from benchmarks.surroundings import START_S, RealServer, delayed, real_server, refusing
from benchmarks.traffic import CALL_SHAPE, Size, new_session, report, sizes

TICK_US: Final = 1_000
DELAY_MS: Final = 100
PARTITIONS: Final = 4
LINGER_MS: Final = 200
RATES: Final = (100, 1_000, 10_000)
ADDED_MS: Final = 0.5
AWAITING: Final = 100
"""Calls of redis.asyncio under way at most, each on a connection; beyond it events are left out, and counted."""

CLOSE_S: Final = 0.3
FLUSH_S: Final = 10.0
_WHY: Final = (
    "the calls themselves, and the publisher's turns under the interpreter's lock; two cores for three processes"
)

Report = Callable[[int], None]
"""Reports so many events, from the loop."""


@dataclass(frozen=True)
class Case:
    """What is reported to, in which state, at which rate, for how many seconds."""

    state: str
    rate: int
    seconds: float

    @property
    def name(self) -> str:
        """What its figures are called."""
        return f"{self.state}, {self.rate:,}/s"

    @property
    def away(self) -> bool:
        """Whether nothing that is reported can be appended."""
        return self.state in {"Redis hung", "Redis refused"}


@dataclass
class Heard:
    """What the loop heard: lags in nanoseconds, oldest first, and events it was due to report."""

    lags_ns: list[int] = field(default_factory=list[int])
    due: int = 0

    def lag_ms(self, share: float) -> float:
        """Return a quantile of the lag in milliseconds."""
        return quantile(sorted(self.lags_ns), share) / 1e6


def measure(run: Run) -> None:
    """Measure each state of Redis at each rate, between two baselines."""
    seconds = 0.25 if run.quick else 6.0
    rates = (1_000,) if run.quick else RATES
    run.configuration = {
        "partitions": PARTITIONS,
        "linger_ms": LINGER_MS,
        "codec": "mz",
        "aof": "everysec",
        "buffer_events": 50_000,
        "tick_us": TICK_US,
        "seconds_a_case": seconds,
        "slow": f"replies {DELAY_MS} ms late",
        "peer: redis.asyncio XADD": f"awaited in a task an event, at most {AWAITING} at once, no retries, unix socket",
        "event_shape": CALL_SHAPE,
    }
    for rate in rates:
        _rate(run, rate, seconds)


def _rate(run: Run, rate: int, seconds: float) -> None:
    before = anyio.run(_listen, _nothing, rate, seconds)
    heard = {case.name: found for case, found in _states(run, rate, seconds)}
    after = anyio.run(_listen, _nothing, rate, seconds)
    # The quieter one: a disturbed baseline would flatter everything that is compared with it.
    baseline = min(before, after, key=lambda found: found.lag_ms(0.99))
    quiet = baseline.lag_ms(0.99) <= ADDED_MS
    run.require(run.quick or quiet, f"at {rate:,}/s the baseline's p99 is above {ADDED_MS} ms: the machine is too busy")
    _figures(run, f"baseline at {rate:,}/s", baseline, None)
    for name, found in heard.items():
        _figures(run, name, found, baseline)


def _states(run: Run, rate: int, seconds: float) -> Iterator[tuple[Case, Heard]]:
    with ExitStack() as stack:
        server = stack.enter_context(real_server(aof=True))
        run.server = server.about
        urls = {
            "Redis up": server.url,
            "Redis slow": stack.enter_context(delayed(server.path, DELAY_MS)),
            "Redis refused": stack.enter_context(refusing()),
        }
        for state, url in urls.items():
            case = Case(state, rate, seconds)
            yield case, _ours(run, case, url)
        case = Case("redis.asyncio XADD, Redis up", rate, seconds)
        yield case, anyio.run(_awaiting, run, server, case)
    with real_server(aof=True) as server:
        case = Case("Redis hung", rate, seconds)
        yield case, _ours(run, case, server.url, freeze=server)


def _ours(run: Run, case: Case, url: str, *, freeze: RealServer | None = None) -> Heard:
    some = sizes(1_000)
    sidestream.configure(
        service="bench",
        redis_url=url,
        namespace="bench",
        partitions=PARTITIONS,
        linger_ms=LINGER_MS,
        close_timeout_s=CLOSE_S,
    )
    say(f"  {case.name}")
    try:
        with sidestream.session_context(new_session(), "user-1", tenant="acme", state="drafting"):
            report(some[:1])
            # Connected, its imports done, before anyone listens; a refused one has tried at least once.
            reachable = case.state != "Redis refused"
            answered = sidestream.flush(FLUSH_S if reachable else CLOSE_S)
            run.require(answered == reachable, f"{case.name}: the first flush said {answered}")
            if freeze is not None:
                freeze.process.send_signal(signal.SIGSTOP)
            heard = anyio.run(_listen, partial(_usage, some), case.rate, case.seconds)
        _account(run, case.name, heard, away=case.away)
    finally:
        sidestream.close()
    return heard


def _account(run: Run, name: str, heard: Heard, *, away: bool) -> None:
    if not away:
        run.require(sidestream.flush(FLUSH_S), f"{name}: the last flush was not answered in time")
    counts = sidestream.statistics()
    run.require(counts.offered == heard.due + 1, f"{name}: {heard.due} events were due, {counts.offered} were offered")
    run.require(counts.offered == counts.accounted(), f"{name}: the account does not balance")
    if away:
        run.require(counts.appended <= 1, f"{name}: Redis was not away")
        run.figure(f"{name}: shed, the buffer being full", counts.shed, "events", counts.offered)
    else:
        run.require(counts.appended == counts.offered, f"{name}: {counts.offered - counts.appended} not appended")


def _usage(some: list[Size], count: int) -> None:
    report(some[:count])


def _nothing(_count: int) -> None:
    """Report nothing."""


async def _listen(report_some: Report, rate: int, seconds: float) -> Heard:
    """Hear a metronome for some seconds, reporting at each tick what is due since the one before."""
    heard, loop, done = Heard(), asyncio.get_running_loop(), anyio.Event()
    ticks = round(seconds * 1e6 / TICK_US)
    with _metronome() as metronome:
        assert metronome.stdout is not None
        source = metronome.stdout.fileno()

        def hear() -> None:
            # One tick a turn of the loop: after a stall each is as late as it is.
            tick = os.read(source, TICK.size)
            if len(tick) < TICK.size:
                loop.remove_reader(source)  # the metronome has ended: an end is readable for ever
                done.set()
                return
            (sent_ns,) = TICK.unpack(tick)
            heard.lags_ns.append(time.perf_counter_ns() - sent_ns)
            due = len(heard.lags_ns) * TICK_US * rate // 1_000_000 - heard.due
            heard.due += due
            if due:
                report_some(due)
            if len(heard.lags_ns) >= ticks:
                loop.remove_reader(source)
                done.set()

        loop.add_reader(source, hear)
        try:
            with anyio.fail_after(START_S + 10 * seconds):
                await done.wait()
        finally:
            loop.remove_reader(source)
    if len(heard.lags_ns) < ticks:
        raise RuntimeError(f"the metronome ended after {len(heard.lags_ns)} of {ticks} ticks")
    return heard


@contextmanager
def _metronome() -> Generator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "benchmarks.metronome", str(TICK_US)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=0)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def _awaiting(run: Run, server: RealServer, case: Case) -> Heard:
    client = redis.asyncio.Redis(
        unix_socket_path=str(server.path), retry=Retry(NoBackoff(), 0), max_connections=AWAITING
    )
    heard = Heard()
    waited_ns: list[int] = []
    left_out = under_way = 0

    async def add() -> None:
        nonlocal under_way
        started_ns = time.perf_counter_ns()
        await client.xadd("bench", FIELDS)
        waited_ns.append(time.perf_counter_ns() - started_ns)
        under_way -= 1

    def start(group: TaskGroup, count: int) -> None:
        nonlocal under_way, left_out
        for _ in range(count):
            if under_way >= AWAITING:
                left_out += 1
            else:
                under_way += 1
                group.start_soon(add)

    try:
        async with anyio.create_task_group() as group:
            heard = await _listen(partial(start, group), case.rate, case.seconds)
    finally:
        await client.aclose()
    name = case.name
    run.figure(f"{name}: what the caller waits, p99", quantile(sorted(waited_ns), 0.99) / 1e6, "ms", len(waited_ns))
    run.figure(f"{name}: left out, too many under way", left_out, "events", heard.due)
    return heard


def _figures(run: Run, name: str, heard: Heard, baseline: Heard | None) -> None:
    samples = len(heard.lags_ns)
    for label, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        run.figure(f"{name}: lag {label}", heard.lag_ms(share), "ms", samples)
    if baseline is None:
        return
    added_ms = heard.lag_ms(0.99) - baseline.lag_ms(0.99)
    if name.endswith(" 10,000/s") and name.startswith("Redis"):
        run.at_most(ADDED_MS, f"{name}: added to p99", added_ms, "ms", samples, limited_by=_WHY)
    else:
        run.figure(f"{name}: added to p99", added_ms, "ms", samples)


if __name__ == "__main__":
    sys.exit(main("loop_lag", __doc__, measure))
