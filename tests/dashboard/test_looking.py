"""What looking costs, how a page stays up to date, and what it says when it cannot."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import httpx
import pytest
from deckster_day import Day, append_day
from pages import asking, document, fold
from support import Appender, RealServer, spawned
from test_figures_of_the_page import NOW_S

from pipeline.connection import AsyncServer, RedisSettings, parse_info
from pipeline.errors import UnknownOutcomeError, UnreachableError
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from sidestream.dashboard.address import VIEWS, parse_address
from sidestream.dashboard.serve import listen, spoken_address
from sidestream.dashboard.settings import DashboardSettings
from sidestream.dashboard.shared import BURST_S, Shared
from sidestream.dashboard.sources import Sources
from sidestream.dashboard.view import read_view
from sidestream.embedded import EmbeddedError

START_S = 20.0


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        """Return it."""
        return self.now_s


async def test_one_read_serves_all_who_look_within_a_second() -> None:
    """Ten at once, and others a little later, get the same value; after a second it is read anew."""
    clock, reads = Clock(), list[int]()
    shared = Shared(clock)

    async def read() -> int:
        reads.append(len(reads))
        await anyio.lowlevel.checkpoint()
        return len(reads)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(shared.get, "key", read)
    clock.now_s += 0.9
    assert (await shared.get("key", read)).value == len(reads) == 1
    clock.now_s += 0.2
    assert (await shared.get("key", read)).value == len(reads) == 2


async def test_reading_takes_a_tenth_of_the_time_at_most() -> None:
    """What is slow to read is read more rarely, and all that is looked at counts together."""
    clock, spent_s = Clock(), 0.0
    shared = Shared(clock)

    async def read() -> None:
        nonlocal spent_s
        clock.now_s += 0.5
        spent_s += 0.5

    began_s = clock.now_s
    while clock.now_s < began_s + 200:
        for key in ("one", "two", "three"):
            await shared.get(key, read)
        clock.now_s += 0.1
    assert shared.interval_s() == 15.0
    assert spent_s / (clock.now_s - began_s) <= 0.11


async def test_a_value_that_cannot_be_read_anew_stays_with_its_age() -> None:
    """It is old, and says so; one that never was is an error."""
    clock = Clock()
    shared = Shared(clock)

    async def read() -> str:
        return "value"

    async def fail() -> str:
        raise UnreachableError("away")

    assert (await shared.get("key", read)).error is None
    clock.now_s += 60
    held = await shared.get("key", fail)
    assert (held.value, held.age_s) == ("value", 60)
    assert isinstance(held.error, UnreachableError)
    with pytest.raises(UnreachableError):
        await shared.get("other", fail)


async def test_while_redis_is_away_one_tries_and_the_others_get_what_is_held() -> None:
    """At once, and said to be old; when it is back, so are they."""
    clock, tried = Clock(), list[str]()
    shared, begun, go = Shared(clock), anyio.Event(), anyio.Event()

    async def read() -> str:
        return "value"

    async def hang() -> str:
        tried.append("hang")
        begun.set()
        await go.wait()
        raise UnknownOutcomeError("no answer")

    async def never() -> str:
        raise AssertionError

    async def fail() -> str:
        tried.append("fail")
        raise UnreachableError("away")

    for key in ("one", "two"):
        await shared.get(key, read)
    clock.now_s += 10
    fresh = (await shared.get("two", read)).stamp
    clock.now_s += 10
    assert (await shared.get("one", fail)).error
    held = await shared.get("two", never)
    assert (held.value, isinstance(held.error, UnreachableError)) == ("value", True)
    assert held.stamp != fresh, "whoever has drawn it draws it anew"
    with pytest.raises(UnreachableError):
        await shared.get("three", never)
    clock.now_s += 10
    async with anyio.create_task_group() as group:
        group.start_soon(shared.get, "one", hang)
        await begun.wait()
        with anyio.fail_after(START_S):
            assert (await shared.get("two", never)).error
        go.set()
    clock.now_s += 10
    assert (await shared.get("one", read)).error is None
    assert (await shared.get("two", read)).error is None
    assert tried == ["fail", "hang"]


async def test_an_embedded_server_that_is_gone_is_brought_back() -> None:
    """As the command line does; a server that cannot be brought back is no other error."""
    called = list[int]()

    def revive() -> None:
        called.append(1)
        raise EmbeddedError("no")

    async def fail() -> str:
        raise UnreachableError("away")

    with pytest.raises(UnreachableError):
        await Shared(revive=revive).get("key", fail)
    assert called == [1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (DashboardSettings(port=0), r"http://127\.0\.0\.1:\d+/"),
        (
            DashboardSettings(host="0.0.0.0", port=0, token="x" * 16),  # noqa: S104 - what is refused without a token
            r"port \d+ on every address of .*, for whoever signs in",
        ),
        (DashboardSettings(port=0, proxy_header="X-User"), r"http://127\.0\.0\.1:\d+/, for whom the proxy lets in"),
    ],
)
def test_the_command_says_where_it_is_and_who_may_look(settings: DashboardSettings, said: str) -> None:
    """An address that nobody can open is none."""
    with listen(settings) as listener:
        assert re.fullmatch(said, spoken_address(listener, settings))


async def test_what_is_new_has_its_own_share_of_the_time() -> None:
    """Some of it at once, as when a page is opened; whoever asks for ever other ranges waits."""
    clock, spent_s = Clock(), 0.0
    shared = Shared(clock)

    async def read() -> None:
        nonlocal spent_s
        clock.now_s += 0.5
        spent_s += 0.5

    for number in range(6):
        await shared.get(number, read)
    assert spent_s == BURST_S
    refused = 0
    for number in range(6, 40):
        clock.now_s += 1
        with anyio.move_on_after(0.01) as scope:
            await shared.get(number, read)
        refused += scope.cancelled_caught
    assert spent_s <= BURST_S + (clock.now_s - 1_000) / 10 + 0.5
    assert refused > 20


async def test_what_was_read_lately_waits_for_nobody() -> None:
    """A slow read of another range does not hold up those whose figures are there."""
    shared, begun, go = Shared(), anyio.Event(), anyio.Event()

    async def read() -> int:
        return 1

    async def slow() -> int:
        begun.set()
        await go.wait()
        return 2

    await shared.get("there", read)
    async with anyio.create_task_group() as group:
        group.start_soon(shared.get, "slow", slow)
        await begun.wait()
        with anyio.fail_after(START_S):
            assert (await shared.get("there", slow)).value == 1
        go.set()


async def test_what_is_kept_is_bounded() -> None:
    """Whoever asks for ever other ranges pushes out the oldest."""
    shared = Shared(most=8)

    async def read() -> int:
        return 1

    for number in range(100):
        await shared.get(number, read)
    assert held_by(shared) == 8


async def test_what_nobody_asks_for_is_let_go() -> None:
    """A range that was looked at once does not stay in memory."""
    clock = Clock()
    shared = Shared(clock)

    async def read() -> int:
        return 1

    await shared.get("once", read)
    for _ in range(10):
        clock.now_s += 20
        await shared.get("often", read)
    assert held_by(shared) == 1


def held_by(shared: Shared) -> int:
    """Return how many values are kept: the bound is the point, not the name."""
    return len(shared._slots)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


async def test_ten_open_pages_cost_redis_what_one_costs(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Counted in commands, filters and all; and nothing is written."""
    await append_day(append, Day(NOW_S * 1_000_000, sessions=10, hours=2))
    await fold(server, keys)
    sources = Sources(server, keys, Shared(every_s=1_000))

    async def commands() -> dict[str, int]:
        fields = parse_info(await server.call("INFO", "commandstats"))
        return {name: int(text.partition("calls=")[2].partition(",")[0]) for name, text in fields.items()}

    async def spent(addresses: list[str]) -> int:
        await server.call("CONFIG", "RESETSTAT")
        async with anyio.create_task_group() as group:
            for agent in addresses:
                for view in ("overview", "cost", "states"):
                    group.start_soon(read_view, sources, parse_address(view, {"service": agent} if agent else {}))
        found = await commands()
        writing = {"hset", "set", "xadd", "zadd", "hincrby", "del", "expire", "pexpire", "xtrim", "xdel"}
        assert not {name.removeprefix("cmdstat_") for name in found} & writing
        return sum(count for name, count in found.items() if "info" not in name and "config" not in name)

    assert await spent([""]) > 100
    assert await spent([""] * 10) == 0, "all of it was read by the first"
    assert await spent(["deckster"] * 10) == 0, "a filter is applied to what was read"


async def test_an_empty_system_says_what_to_do(server: AsyncServer, keys: Keys) -> None:
    """No event, no worker: no crash, no zero that looks like a figure, and the next step."""
    async with asking(server, keys) as client:
        for view in VIEWS:
            page = (await client.get(f"/{'' if view == 'overview' else view}")).text
            assert "unknown" in page
            assert "$0" not in page
            if view not in {"alerts", "pipeline"}:
                assert "sidestream worker" in page
                assert "sidestream.configure" in page
        found = await document(client, "overview")
        assert found["trust"]["verdict"] == "unknown"
        assert found["reports"]["agent"]["totals"]["cost"] is found["pace"]["hourly_now"]["nano_usd"] is None


async def test_a_time_without_events_is_not_an_empty_system(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Workers run, and nothing happened: the page offers a longer time."""
    await append([UsageEvent((NOW_S - 5 * 3_600) * 1_000_000, agent="writer", model="gpt-4o", input_tokens=10)])
    await fold(server, keys)
    async with asking(server, keys) as client:
        page = (await client.get("/?range=1h")).text
        assert "Nothing happened in this time" in page
        assert '<a href="/?range=7d">7d</a>' in page


async def test_what_is_missing_looks_incomplete(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A word, a sign and a sentence, on every view."""
    await append.raw(b"\x00nonsense", 7)
    await append([UsageEvent(NOW_S * 1_000_000, agent="writer", model="gpt-4o", input_tokens=10)])
    await fold(server, keys)
    async with asking(server, keys) as client:
        for view in VIEWS:
            page = (await client.get(f"/{'' if view == 'overview' else view}")).text
            assert '<span class="badge incomplete">incomplete</span>' in page
            assert "1 dead letter of metrics" in page
        found = await document(client, "pipeline")
        assert found["trust"]["verdict"] == "incomplete"
        letters = cast("list[dict[str, Any]]", found["pipeline"]["dead_letters"])
        assert {letter["handler"] for letter in letters} == {"metrics", "cost"}


@pytest.mark.one_server
async def test_when_redis_goes_away_the_last_figures_look_stale(keys: Keys) -> None:
    """They stay, and say from when they are; a range that was never read is an error, not a zero."""
    with spawned("valkey") as real:
        server = AsyncServer(RedisSettings(real.url))
        append = Appender(server, keys)
        await append([UsageEvent(NOW_S * 1_000_000, agent="writer", model="gpt-4o", input_tokens=1_234)])
        await fold(server, keys)
        async with asking(server, keys) as client:
            assert '<p class="value">1,234</p>' not in (await client.get("/")).text
            before = (await client.get("/tokens")).text
            assert '<p class="value">1.2k</p>' in before
            real.process.kill()
            real.process.wait()
            after = await client.get("/tokens")
            assert after.status_code == 200
            assert '<p class="value">1.2k</p>' in after.text
            assert '<span class="badge stale">stale</span>' in after.text
            assert "Redis does not answer" in after.text
            never = await client.get("/tokens?range=1h")
            assert (never.status_code, "Redis cannot be read" in never.text) == (503, True)
            assert (await client.get("/api/view?view=tokens&range=1h")).json()["error"]
        await server.aclose()


@contextmanager
def served(real_server: RealServer, keys: Keys, folder: Path, *options: str) -> Generator[tuple[str, Any]]:
    """Run the command as people do, and give the page's address and the process."""
    ready = folder / "address"
    command = [sys.executable, "-m", "sidestream", "dashboard", "--port", "0", "--ready-file", str(ready), *options]
    where = ["--redis-url", real_server.url, "--namespace", keys.namespace]
    process = subprocess.Popen([*command, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
    try:
        with anyio.from_thread.start_blocking_portal() as portal:
            portal.call(_exists, ready, process)
        yield ready.read_text("utf-8"), process
    finally:
        process.kill()
        process.communicate()


async def _exists(file: Path, process: subprocess.Popen[bytes]) -> None:
    with anyio.fail_after(START_S):
        while not await anyio.Path(file).exists():
            assert process.poll() is None, process.communicate()
            await anyio.sleep(0.02)


async def test_an_open_page_is_told_what_changes(
    real_server: RealServer, server: AsyncServer, keys: Keys, append: Appender, tmp_path: Path
) -> None:
    """Over a real connection: at first all parts, then those that an event has changed; SIGTERM ends it at once."""
    await append([UsageEvent(NOW_S * 1_000_000, agent="writer", model="gpt-4o", input_tokens=1_000)])
    await fold(server, keys)
    with served(real_server, keys, tmp_path) as (address, process):
        async with (
            httpx.AsyncClient(base_url=address, trust_env=False, timeout=START_S) as client,
            client.stream("GET", "/live?view=tokens") as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.aiter_lines()
            first = await _parts(lines)
            assert '<p class="value">1.0k</p>' in first["tile-total"]
            await append([UsageEvent(NOW_S * 1_000_000, agent="writer", model="gpt-4o", input_tokens=2_000)])
            await fold(server, keys)
            with anyio.fail_after(START_S):
                while "3.0k" not in (await _parts(lines)).get("tile-total", ""):
                    pass
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(START_S):
                async for _ in lines:
                    pass
        assert process.wait(START_S) in {0, -signal.SIGTERM}
        out, errors = process.communicate()
        assert address.encode() in out
        assert b"Traceback" not in errors


async def _parts(lines: Any) -> dict[str, str]:  # noqa: ANN401 - httpx does not name it
    with anyio.fail_after(START_S):
        async for line in lines:
            if line.startswith("data: {"):
                return cast("dict[str, str]", json.loads(line.removeprefix("data: ")))
    raise AssertionError("the stream has ended")


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--token"),  # noqa: S104
        (["--token", "short"], "16 characters"),
        (["--host", "203.0.113.1", "--token", "a-token-of-24-characters"], "cannot listen"),
    ],
)
def test_the_command_refuses_what_is_unsafe(
    real_server: RealServer, tmp_path: Path, options: list[str], said: str
) -> None:
    """In one sentence, with exit code 2."""
    command = [sys.executable, "-m", "sidestream", "dashboard", "--port", "0", "--redis-url", real_server.url, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
