"""What a page costs that is left open for ten minutes, in a real browser, while an application goes on.

Over 1,000 cells and 100,000 sessions; a worker counts 100 events a second that go on coming, so each update changes
something. Once a minute, after the browser has collected its garbage: the memory of the page's script and document,
how many elements it has; the memory of the process that serves it. Without a Chromium the page is a stream of changes
that nobody draws.
"""

import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import httpx

import sidestream
from benchmarks.harness import Run, main, say
from benchmarks.looked_at import KEYS, PARTITIONS, WHY, about, fill, page, resident_mib, spending
from benchmarks.surroundings import RealServer, real_server, running
from benchmarks.traffic import new_session, report, sizes
from tests.browser.chromium import Chromium, Tab, chromium, found_chromium

RATE: Final = 100
VIEWS: Final = ("overview", "sessions")
UPDATES: Final = "Number(document.documentElement.dataset.updates || 0)"
GROWTH_TARGET: Final = 1.5
_MIB: Final = 1 << 20
_HOLDS: Final = "what a page shows is drawn anew for each update; what nobody looked at for a minute is forgotten"


def measure(run: Run) -> None:
    """Leave pages open, and look at them once a minute."""
    sessions, minutes, minute_s = run.sized(100_000, 300), run.sized(10, 2), 0.5 if run.quick else 60.0
    run.configuration = {
        **about(sessions),
        "views": ", ".join(VIEWS),
        "minutes": minutes * minute_s / 60,
        "events a second meanwhile": RATE,
    }
    with real_server(aof=True) as server, ExitStack() as stack:
        run.server = server.about
        fill(run, server, sessions)
        stack.enter_context(running(server, KEYS, "worker", "--handlers", "metrics,cost"))
        stack.enter_context(_application(server))
        address, pid = stack.enter_context(page(server))
        if run.quick or found_chromium() is None:
            run.skip("in a browser", "a quick run starts none" if run.quick else "there is no Chromium here")
            for view in VIEWS:
                stack.enter_context(_stream(f"{address}live?view={view}"))
            _watch(run, server, pid, [], minutes, minute_s)
        else:
            browser = stack.enter_context(chromium())
            tabs = [_opened(browser, address, view) for view in VIEWS]
            _watch(run, server, pid, tabs, minutes, minute_s)


def _watch(run: Run, server: RealServer, pid: int, tabs: list[Tab], minutes: int, minute_s: float) -> None:  # noqa: PLR0913, PLR0917 - what is watched, and for how long
    looks: list[_Look] = []
    with spending(server, pid) as spent:
        for minute in range(minutes):
            time.sleep(minute_s)
            looks.append(_look(pid, tabs))
            say(f"  minute {minute + 1}: {looks[-1]}")
    first, last, count = looks[0], looks[-1], len(looks)
    run.figure("the page's process, resident, first minute", first.resident_mib, "MiB", 1, limited_by=WHY)
    run.figure("the page's process, resident, last minute", last.resident_mib, "MiB", 1, limited_by=WHY)
    spent.note(run, f"{len(VIEWS)} pages for {minutes * minute_s / 60:.2g} minutes", count, "the page's process")
    for tab, view in zip(tabs, VIEWS, strict=False):
        run.require(tab.complaints == [], f"{view}: {tab.complaints[:1]}")
    for place, view in enumerate(VIEWS[: len(tabs)]):
        run.require(last.updates[place] > count, f"{view}: it was told {last.updates[place]} times in {count} minutes")
        run.figure(f"{view}: updates drawn", last.updates[place], "updates", 1)
        run.figure(f"{view}: script and document, first minute", first.heap_mib[place], "MiB", 1)
        grown = last.heap_mib[place] / first.heap_mib[place]
        name = f"{view}: script and document, last minute to the first"
        run.at_most(GROWTH_TARGET, name, grown, "times", count, limited_by=_HOLDS)
        more = last.elements[place] / first.elements[place]
        run.at_most(
            GROWTH_TARGET, f"{view}: elements, last minute to the first", more, "times", count, limited_by=_HOLDS
        )


@dataclass(frozen=True)
class _Look:
    """What is held at one moment: by the page's process, and by each tab."""

    resident_mib: float
    heap_mib: tuple[float, ...]
    elements: tuple[int, ...]
    updates: tuple[int, ...]


def _look(pid: int, tabs: list[Tab]) -> _Look:
    for tab in tabs:
        tab.call("HeapProfiler.collectGarbage")
    return _Look(
        resident_mib(pid),
        tuple(round(tab.heap_bytes() / _MIB, 3) for tab in tabs),
        tuple(tab.ask("document.querySelectorAll('*').length") for tab in tabs),
        tuple(tab.ask(UPDATES) for tab in tabs),
    )


def _opened(browser: Chromium, address: str, view: str) -> Tab:
    tab = browser.tab()
    tab.resize(1280, 900)
    # Each counts as seen: a page that is hidden asks for nothing.
    tab.call("Emulation.setFocusEmulationEnabled", enabled=True)
    tab.open(f"{address}{'' if view == 'overview' else view}")
    tab.wait(f"{UPDATES} >= 1")
    return tab


@contextmanager
def _application(server: RealServer) -> Generator[None]:
    """Report events at a steady rate until it is left, each second about another session."""
    sidestream.configure(service="bench", redis_url=server.url, namespace=KEYS.namespace, partitions=PARTITIONS)
    stopping, some = threading.Event(), sizes(RATE // 10)

    def talk() -> None:
        session = new_session()
        turn = 0
        while not stopping.wait(0.1):
            turn += 1
            if turn % 10 == 0:
                session = new_session()
            with sidestream.session_context(session, "user-1", state="state-1"):
                report(some)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        sidestream.close()


@contextmanager
def _stream(address: str) -> Generator[None]:
    """Hold a stream of changes open, and read what comes."""
    stopping = threading.Event()

    def read() -> None:
        with httpx.stream("GET", address, trust_env=False, timeout=60) as answer:
            for _ in answer.iter_lines():
                if stopping.is_set():
                    return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main("left_open", __doc__, measure))
