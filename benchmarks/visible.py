"""How long after it was reported an event is in what a report reads, at 100, 1,000 and 10,000 events a second.

This process reports, as an application does, through the public call; a worker, a process of its own, folds and
commits metrics and cost. A third thread asks every few milliseconds how many events the state of `metrics` holds. The
k-th event is visible when the state holds k: a count knows no order between partitions, so a single one may be visible
a little earlier or later than its place says. Then the same at 5,000 a second, behind a history of 2 million events,
before and while `sidestream replay run` computes that history anew in a third process.
"""

import statistics
import sys
import threading
import time
from bisect import bisect_left
from typing import Final

import sidestream
from benchmarks.counting import LOADS, fill, make_events
from benchmarks.harness import Run, main, quantile, say
from benchmarks.surroundings import RealServer, connected, real_server, running
from benchmarks.traffic import CALL_SHAPE, new_session, report, sizes
from pipeline.connection import Server
from pipeline.keys import Keys

RATES: Final = (100, 1_000, 10_000)
PARTITIONS: Final = 4
LINGER_MS: Final = 200
TICK_S: Final = 0.005
LOOK_S: Final = 0.003
PATIENCE_S: Final = 30.0
TARGET_MS: Final = 500.0
REPLAYED_RATE: Final = 5_000
REPLAYED_MS: Final = 1_000.0
_SHARED: Final = "two cores for the server, the worker, the reporter and the replay, which takes what they leave"
KEYS: Final = Keys("bench")
_WHY: Final = "linger (20 to 200 ms: how long a frame waits for others), then one read, one fold and one commit"


def measure(run: Run) -> None:
    """Report at each rate for some seconds."""
    seconds = 0.5 if run.quick else 10.0
    rates = (1_000,) if run.quick else RATES
    run.configuration = {
        "partitions": PARTITIONS,
        "linger_ms": LINGER_MS,
        "codec": "mz",
        "aof": "everysec",
        "worker": "one process, handlers metrics and cost",
        "seconds a rate": seconds,
        "looked at every": f"{LOOK_S * 1000:g} ms",
        "event_shape": CALL_SHAPE,
    }
    for rate in rates:
        with real_server(aof=True) as server, running(server, KEYS, "worker", "--handlers", "metrics,cost"):
            run.server = server.about
            say(f"  {rate:,}/s")
            _rate(run, server, rate, seconds)
    _beside_a_replay(run, seconds)


def _beside_a_replay(run: Run, seconds: float) -> None:
    """Report at one rate, first alone and then while history is computed anew."""
    some = make_events(LOADS[0], run.sized(100_000, 2_000))
    history = len(some) * run.sized(20, 1)
    with real_server(aof=True) as server, running(server, KEYS, "worker", "--handlers", "metrics"):
        for _ in range(history // len(some)):
            fill(run, server, some)
        say(f"  behind {history:,} events")
        held = _rate(run, server, REPLAYED_RATE, seconds, history, ", before a replay")
        say("  beside a replay")
        with running(server, KEYS, "replay", "run", "--handler", "metrics") as replay:
            _rate(run, server, REPLAYED_RATE, seconds, held, ", while history is replayed")
            if not run.quick:
                run.require(replay.poll() is None, "the replay ended before the measurement did")
            run.require(replay.wait(timeout=10 * PATIENCE_S) == 0, "the replay failed")


def _rate(  # noqa: PLR0913, PLR0917 - how fast, how long, behind what, under what name
    run: Run, server: RealServer, rate: int, seconds: float, held: int = 0, what: str = ""
) -> int:
    """Report at a rate behind `held` events, note how long each took; return how many are counted then."""
    some = sizes(1_000)
    sidestream.configure(
        service="bench",
        redis_url=server.url,
        namespace=KEYS.namespace,
        partitions=PARTITIONS,
        linger_ms=LINGER_MS,
        close_timeout_s=PATIENCE_S,
    )
    watch = _Watch(server)
    try:
        with sidestream.session_context(new_session(), "user-1"):
            report(some[:1])
        run.require(watch.waits_for(held + 1), "the worker never began")
        reported = _report(rate, seconds)
        run.require(watch.waits_for(held + 1 + len(reported)), f"{rate}/s: not every event became visible in time")
        counts = sidestream.statistics()
        run.require(counts.shed + counts.invalid == 0, f"{rate}/s: events were shed")
    finally:
        sidestream.close()
        watch.stop()
    waited_ms = sorted((watch.seen_s(held + 1 + place + 1) - at_s) * 1_000 for place, at_s in enumerate(reported))
    name = f"{rate:,}/s{what}"
    run.figure(f"{name}: p50", statistics.median(waited_ms), "ms", len(waited_ms), limited_by=_WHY)
    if what:
        run.at_most(REPLAYED_MS, f"{name}: p99", quantile(waited_ms, 0.99), "ms", len(waited_ms), limited_by=_SHARED)
    elif rate == max(RATES):
        run.at_most(TARGET_MS, f"{name}: p99", quantile(waited_ms, 0.99), "ms", len(waited_ms), limited_by=_WHY)
    else:
        run.figure(f"{name}: p99", quantile(waited_ms, 0.99), "ms", len(waited_ms), limited_by=_WHY)
    run.figure(f"{name}: max", waited_ms[-1], "ms", len(waited_ms))
    return held + 1 + len(reported)


def _report(rate: int, seconds: float) -> list[float]:
    """Report at a rate, spread over sessions; return when each was reported."""
    some, at_s = sizes(1_000), list[float]()
    sessions = [new_session() for _ in range(100)]
    started_s = time.perf_counter()
    while (now_s := time.perf_counter()) < started_s + seconds:
        due = int((now_s - started_s) * rate) - len(at_s)
        if due > 0:
            with sidestream.session_context(sessions[len(at_s) % len(sessions)], "user-1", state="drafting"):
                taken = report(some[:due])
            at_s += [now_s] * taken
        time.sleep(TICK_S)
    return at_s


class _Watch:
    """Asks how many events the state holds, over and over, from a thread and a connection of its own."""

    def __init__(self, server: RealServer) -> None:
        self._held: list[int] = [0]
        self._at_s: list[float] = [0.0]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(server,), daemon=True)
        self._thread.start()

    def _look(self, server: RealServer) -> None:
        with connected(server.url) as client:
            while not self._stopping.wait(LOOK_S):
                held = self._ask(client)
                if held > self._held[-1]:
                    self._at_s.append(time.perf_counter())
                    self._held.append(held)

    @staticmethod
    def _ask(client: Server) -> int:
        cursors = [KEYS.partition(number).unit("metrics").cursor() for number in range(PARTITIONS)]
        replies = client.batch([["HGET", cursor, "committed"] for cursor in cursors])
        return sum(int(reply or 0) for reply in replies if isinstance(reply, bytes))

    def waits_for(self, count: int) -> bool:
        """Wait until so many events are there; False when they never come."""
        deadline_s = time.perf_counter() + PATIENCE_S
        while self._held[-1] < count and time.perf_counter() < deadline_s:
            time.sleep(0.01)
        return self._held[-1] >= count

    def seen_s(self, count: int) -> float:
        """Return when the state held so many events for the first time."""
        return self._at_s[bisect_left(self._held, count)]

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()


if __name__ == "__main__":
    sys.exit(main("visible", __doc__, measure))
