"""`alerts ls`, `dlq ls`, `handler ls` and `status` as an operator types them: in a terminal's width, and in a pipe."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Generator

import pytest
from pipeline_states import HOSTILE, printed, rule
from support import Appender, spawned
from typer.testing import CliRunner, Result

from consumers.alerts.evaluate import RuleState, Transition
from consumers.alerts.store import Move, swap
from consumers.handlers.metrics import MetricsHandler
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.events import UsageEvent
from pipeline.keys import Keys
from pipeline.presence import Presence, PresenceWriter, agree_partitions
from sidestream.cli.alerts import rules_table, window
from sidestream.cli.app import app

NOW_US = time.time_ns() // 1_000
KEYS, OTHER = Keys("lists"), Keys("lists-2")
WIDTHS = ("60", "80", "120")


@pytest.fixture(scope="module")
def own_url() -> Generator[str]:
    """Spawn a server for this module."""
    with spawned("valkey", "--maxmemory-policy", "noeviction") as server:
        yield server.url


@pytest.fixture
def server(own_url: str) -> Generator[Server]:
    """Return a client of that server, which is empty."""
    client = Server(RedisSettings(own_url))
    client.call("FLUSHALL")
    yield client
    client.close()


@pytest.fixture
def typed(own_url: str) -> Callable[..., Result]:
    """Return what runs a command to its end, at 80 columns unless it is told otherwise."""

    def run(*arguments: str, columns: str | None = "80", namespace: str = KEYS.namespace) -> Result:
        environ = {"SIDESTREAM_REDIS_URL": own_url, "SIDESTREAM_NAMESPACE": namespace, "COLUMNS": columns}
        return CliRunner().invoke(app, arguments, env=environ)

    return run


def served(url: str, work: Callable[[AsyncServer], Awaitable[object]]) -> None:
    """Do something with an asynchronous client."""

    async def run() -> None:
        server = AsyncServer(RedisSettings(url))
        await work(server)
        await server.aclose()

    asyncio.run(run())


def fires(name: str, *, at: int = 0) -> Move:
    """Return a rule's way from nothing to firing."""
    state = RuleState(
        rule="h",
        status="firing",
        since_s=1_795_811_660 + at,
        watermark_s=1_795_811_674,
        value=139_482,
        threshold=40_000,
        window_s=300,
        incident=f"i-{name}",
    )
    moved = Transition(
        rule=name,
        to="firing",
        incident=f"i-{name}",
        reason="above",
        value=139_482,
        threshold=40_000,
        unit="tokens",
        window_s=300,
        watermark_s=1_795_811_674,
        severity="warning",
        summary="More tokens than usual: look for runaway agents.",
    )
    return Move(name, b"", state, moved)


def test_rules_that_fire_stand_first_and_the_worst_of_them_before_others() -> None:
    """And rule-2 before rule-10."""
    rows = [
        rule("rule-10"),
        rule("rule-2"),
        rule("budget", "pending"),
        rule("b", "firing"),
        rule("c", "firing", "critical"),
        rule("a", "firing", "info"),
    ]
    lines = printed(rules_table(rows), 78)
    assert [line.split()[0] for line in lines[1:]] == ["c", "b", "a", "budget", "rule-2", "rule-10"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(30, "30 s"), (300, "5 m"), (3_600, "1 h"), (5_400, "1 h 30 m"), (604_800, "7 d")]
)
def test_a_window_in_words(seconds: int, said: str) -> None:
    """As people say it."""
    assert window(seconds) == said


def test_a_value_has_its_unit_and_is_told_from_its_threshold() -> None:
    """Short, but in full where both would look the same."""
    rows = [
        rule("a", value=40_012),
        rule("b", value=2_000, threshold=10),
        rule("c", value=1_500_000, threshold=0, unit="us"),
    ]
    said = [" ".join(line.split()) for line in printed(rules_table(rows), 78)]
    assert "a inactive 40,012 40,000 tokens 5 m" in said[1]
    assert "b inactive 2.0k 10 tokens 5 m" in said[2]
    assert "c inactive 1.5 s 0 s 5 m" in said[3]


@pytest.mark.parametrize("columns", WIDTHS)
def test_alerts_in_a_terminal(server: Server, own_url: str, typed: Callable[..., Result], columns: str) -> None:
    """A rule and a time are never folded; a long name is cut; the summary has the lines that it needs."""
    names = ("high-token-usage", "writer budget", HOSTILE)

    async def plant(client: AsyncServer) -> None:
        for at, name in enumerate(names):
            assert await swap(client, KEYS, fires(name, at=at))

    served(own_url, plant)
    done = typed("alerts", "ls", columns=columns)
    lines = done.stdout.splitlines()
    assert lines[0] == "Alerts  3 of 3 fire; times are UTC"
    assert max(map(len, lines)) <= int(columns)
    assert "\x1b" not in done.stdout
    words = [" ".join(line.split()) for line in lines]
    assert [line for line in words if line.startswith("high-token-usage firing 139k 40.0k tokens")]
    if columns != "60":
        assert [line for line in words if line.startswith("writer budget firing") and "5 m 2026-11-27 20:34:21" in line]
    fired = lines[lines.index("What fired  newest first") + 2 :]
    assert len([line for line in fired if line.startswith("  20")]) == 3
    assert "runaway" in " ".join(fired)
    assert int(server.call("EXISTS", KEYS.alert_states())) == 1


def test_alerts_fail_only_where_that_is_asked_for(server: Server, own_url: str, typed: Callable[..., Result]) -> None:
    """Exit code 1 with `--fail` while a rule fires, also with `--json`; else 0."""
    assert server.call("DBSIZE") == 0
    nothing = typed("alerts", "ls", "--fail")
    assert (nothing.exit_code, nothing.stdout.startswith("No rule has been evaluated yet")) == (0, True)
    served(own_url, lambda client: swap(client, KEYS, fires("a")))
    codes = [typed("alerts", "ls", *options).exit_code for options in ([], ["--fail"], ["--fail", "--json"])]
    assert codes == [0, 1, 1]


@pytest.mark.parametrize("columns", WIDTHS)
def test_dead_letters_have_ids_that_can_be_copied(
    server: Server, own_url: str, typed: Callable[..., Result], columns: str
) -> None:
    """Whole, with handler and code, whatever else there is room for; `dlq show` takes one."""

    async def plant(client: AsyncServer) -> None:
        append = Appender(client, KEYS)
        for partition in (1, 2):
            await append.raw(b"\x00nonsense", 7, partition=partition)
        await Worker(client, KEYS, [FoldEffect(MetricsHandler())]).run_until_idle()

    served(own_url, plant)
    rows = json.loads(typed("dlq", "ls", "--json").stdout)["dead_letters"]
    lines = typed("dlq", "ls", columns=columns).stdout.splitlines()
    assert lines[0].startswith("Dead letters  2, newest first")
    assert max(map(len, lines)) <= int(columns)
    for row, line in zip(rows, lines[2:], strict=False):
        assert line.split()[:3] == [row["letter_id"], "metrics", row["code"]]
    assert len(lines) == 5
    assert typed("dlq", "show", lines[2].split()[0]).exit_code == 0
    said = " ".join(typed("status", columns=columns).stdout.split())
    assert "! Not in the figures: 14 dead-lettered (`sidestream dlq ls`)." in said
    assert " partition 1 0 0 0 7 " in said
    assert server.call("EXISTS", KEYS.partition(1).unit("metrics").dead_letters()) == 1


@pytest.mark.parametrize("columns", WIDTHS)
def test_handlers_in_a_terminal(server: Server, own_url: str, typed: Callable[..., Result], columns: str) -> None:
    """One line each, with what it holds; a time is whole or is not there."""
    long = "a-handler-with-a-long-name"

    async def plant(client: AsyncServer) -> None:
        await Appender(client, KEYS)([UsageEvent(NOW_US, agent="writer", model="gpt-4o", session="s")])
        await Worker(client, KEYS, [FoldEffect(MetricsHandler())]).run_until_idle()

    served(own_url, plant)
    server.call("HSET", KEYS.partition(0).handlers(), f"v1:{long}", "fold")
    lines = typed("handler", "ls", columns=columns).stdout.splitlines()
    assert lines[0].startswith("Handlers  what of the stream each holds")
    assert max(map(len, lines)) <= int(columns)
    assert [line.split()[0] for line in lines[2:]] == [long, "metrics"]
    if columns == "120":
        assert "the beginning" in lines[3]


def test_a_pipe_gets_plain_text_of_120_columns(server: Server, typed: Callable[..., Result]) -> None:
    """No colour, and ids in full."""
    PresenceWriter(KEYS, "ab" * 16).write(server, Presence("ab" * 16, service="deckster", instance="vm-" + "x" * 30))
    done = typed("status", columns=None)
    assert "\x1b" not in done.stdout
    assert "vm-" + "x" * 30 in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.endswith(" ")]


def test_an_empty_namespace_names_the_others(server: Server, typed: Callable[..., Result]) -> None:
    """Those that producers have begun; what only looks like one is left out. It is no finding."""
    for namespace in ("prod", OTHER.namespace):
        agree_partitions(server, Keys(namespace), 4)
    server.call("SET", "{Not a \x1b namespace:meta}", "x")
    done = typed("status")
    assert done.exit_code == 0
    assert "empty: nothing was ever published in the namespace lists" in done.stdout
    assert "! This Redis has other namespaces: lists-2, prod.\n  sidestream status --namespace lists-2" in done.stdout
    document = json.loads(typed("status", "--json").stdout)
    assert (document["verdict"], document["other_namespaces"]) == ("empty", ["lists-2", "prod"])


def test_events_that_nobody_counts_are_a_finding(server: Server, typed: Callable[..., Result]) -> None:
    """Also where no worker has ever run; the document says the same as the text."""
    now_ms = int(server.call("TIME")[0]) * 1_000
    server.call("XADD", KEYS.partition(3).stream(), f"{now_ms - 26_000}-0", "b", b"{}", "n", "53")
    done = typed("status")
    assert done.exit_code == 1
    assert "no worker: 53 events wait, the oldest for 2" in done.stdout
    assert "none has ever run here" in " ".join(done.stdout.split())
    document = json.loads(typed("status", "--json").stdout)
    assert (document["verdict"], document["waiting"]["events"]) == ("no_worker", 53)
    assert document["waiting"]["oldest_ms"] >= 26_000
    assert document["namespace"] == KEYS.namespace


def test_events_that_have_just_come_are_none(server: Server, typed: Callable[..., Result]) -> None:
    """While a worker is restarted a script is not woken; the text says it all the same."""
    server.call("XADD", KEYS.partition(3).stream(), "*", "b", b"{}", "n", "2")
    done = typed("status")
    assert done.exit_code == 0
    assert "no worker: 2 events wait" in done.stdout
