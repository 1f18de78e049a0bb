"""What looking costs: how long each view of the web page takes, and what open pages ask of Redis.

The page is served by the command, in a process of its own, over 1,000 cells and 100,000 sessions. A first look is the
first request of a fresh process, when nothing has been read; later ones find what others have read. Pages left open
are streams of changes, as browsers hold them.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Final

import anyio
import httpx

from benchmarks.harness import Run, main, quantile
from benchmarks.looked_at import AGENTS, WHY, Spent, about, fill, page, resident_mib, spending
from benchmarks.surroundings import RealServer, real_server
from sidestream.dashboard.address import VIEWS

FIRST_TARGET_MS: Final = 2_000.0


def measure(run: Run) -> None:
    """Fill a server, then look."""
    sessions, seconds = run.sized(100_000, 300), 0.3 if run.quick else 30.0
    run.configuration = {**about(sessions), "seconds of open pages": seconds}
    with real_server(aof=True) as server:
        run.server = server.about
        fill(run, server, sessions)
        for view in VIEWS[:1] if run.quick else VIEWS:
            _look(run, server, view, "/" if view == "overview" else f"/{view}")
        _look(run, server, "one session", f"/session?session={_some_session(server)}")
        with page(server) as (address, pid):
            _check(run, address, sessions)
            _open(run, server, (address, pid), [], seconds)
            _open(run, server, (address, pid), ["view=overview"], seconds)
            if not run.quick:
                _open(run, server, (address, pid), ["view=overview"] * 10, seconds)
                mixed = [f"view={view}" for view in VIEWS] + ["view=tokens&agent=agent-1", "view=cost&range=1h"]
                _open(run, server, (address, pid), mixed, seconds)


def _some_session(server: RealServer) -> str:
    """Return the name of a session that the stream tells of."""
    with page(server) as (address, _):
        found = httpx.get(f"{address}api/view?view=sessions", trust_env=False, timeout=60).json()
    return str(found["sessions"]["rows"][0]["session"])


def _look(run: Run, server: RealServer, view: str, path: str) -> None:
    with page(server) as (address, _), httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        first_ms, size = _timed(client, path)
        later = sorted(_timed(client, path)[0] for _ in range(run.sized(50, 3)))
    run.at_most(FIRST_TARGET_MS, f"{view}: first look", first_ms, "ms", 1, limited_by=WHY)
    run.figure(f"{view}: later looks, p50", statistics.median(later), "ms", len(later))
    run.figure(f"{view}: later looks, p95", quantile(later, 0.95), "ms", len(later))
    run.figure(f"{view}: page, before compression", size, "bytes", 1)


def _timed(client: httpx.Client, path: str) -> tuple[float, int]:
    started_s = time.perf_counter()
    answer = client.get(path)
    took_ms = (time.perf_counter() - started_s) * 1_000
    answer.raise_for_status()
    return took_ms, len(answer.content)


def _check(run: Run, address: str, sessions: int) -> None:
    """See that the page shows what was filled in."""
    answer = httpx.get(f"{address}api/view?view=tokens", trust_env=False, timeout=60).json()
    agents, requests = answer["choices"]["agent"], answer["reports"]["agent"]["totals"]["requests"]["count"]
    run.require(len(agents) == AGENTS, f"the page knows {len(agents)} agents, not {AGENTS}")
    # Those that were dated a day ago have left the range meanwhile.
    run.require(requests > 1.9 * sessions, f"the page shows {requests} requests of {2 * sessions}")


def _open(run: Run, server: RealServer, served: tuple[str, int], queries: Sequence[str], seconds: float) -> None:
    """Leave pages open for a while, and see what they ask of Redis and of the process that serves them."""
    address, pid = served
    spent, told = anyio.run(_leave_open, server, address, pid, queries, seconds)
    kinds = len(set(queries))
    what = f"{len(queries)} pages open" if len(queries) != 1 else "1 page open"
    what += f", {kinds} views and filters" if kinds > 1 else ""
    run.require(all(told), f"{what}: {told.count(0)} were told nothing")
    spent.note(run, what, max(1, len(queries)), "the page's process")
    run.figure(f"{what}: the page's process, resident", resident_mib(pid), "MiB", 1, limited_by=WHY)


async def _leave_open(
    server: RealServer, address: str, pid: int, queries: Sequence[str], seconds: float
) -> tuple[Spent, list[int]]:
    """Return what it cost, and how often each page was told something."""
    told, spent = [0] * len(queries), Spent()
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=60, limits=limits) as client,
        anyio.create_task_group() as group,
    ):
        for place, query in enumerate(queries):
            group.start_soon(_listen, client, query, told, place)
        # The first look is measured by itself.
        await anyio.sleep(min(seconds, 5.0))
        with spending(server, pid) as spent:
            await anyio.sleep(seconds)
        group.cancel_scope.cancel()
    return spent, told


async def _listen(client: httpx.AsyncClient, query: str, told: list[int], place: int) -> None:
    async with client.stream("GET", f"/live?{query}") as answer:
        async for line in answer.aiter_lines():
            told[place] += line.startswith("event:")


if __name__ == "__main__":
    sys.exit(main("dashboard", __doc__, measure))
