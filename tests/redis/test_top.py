"""`sidestream top` and `states` on a real server: the figures of the report, what asks for somebody, what fits."""

import re
import time

import msgspec
import pytest
from rich.console import Console, RenderableType
from support import Appender

from consumers.alerts.rules import Where
from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.views.machine import read_machine
from consumers.views.report import read_report
from consumers.views.states_json import machine_json
from consumers.views.top import TopReader
from consumers.views.top_json import top_json
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.presence import OpenOperation, Presence, PresenceWriter
from sidestream.cli.states_text import states_text
from sidestream.cli.top_text import top_text

NOW_US = time.time_ns() // 1_000
LONG = "a-very-long-name-of-something-that-nobody-would-type-twice-" * 2


def events(*, agent: str = "writer", session: str = "deck-1", at_us: int = NOW_US) -> list[Event]:
    """Return a visit to a state: a request, its run, a failure, the way in and the way out."""
    return [
        TransitionEvent(at_us, from_state="", to_state="draft", session=session),
        UsageEvent(
            at_us, agent, "gpt-4o", 1_000, 100, 1_200_000, session=session, state="draft", run_id=f"r-{session}"
        ),
        OperationEvent(
            at_us, name=agent, agent=agent, kind="run", duration_us=2_000_000, session=session, state="draft"
        ),
        ErrorEvent(at_us, type="TimeoutError", agent=agent, session=session, state="draft"),
        TransitionEvent(at_us, from_state="draft", to_state="review", duration_us=30_000_000, session=session),
    ]


async def fold(server: AsyncServer, keys: Keys) -> None:
    """Count everything that lies on the stream."""
    pricer = Pricer(Catalogue(), PriceBook())
    cost = CostHandler(pricer, pricer.catalogue.version, pricer.book.hash)
    await Worker(server, keys, [FoldEffect(MetricsHandler()), FoldEffect(cost)]).run_until_idle()


def printed(part: RenderableType, width: int) -> list[str]:
    """Return the lines that a terminal of `width` columns shows."""
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(part)
    return [line.rstrip() for line in capture.get().splitlines()]


async def test_top_says_what_the_report_says(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The hour is a report of an hour; "now" is its last minutes, by the hour and by the second."""
    await append(events())
    await append(events(agent="director", session="deck-2", at_us=NOW_US - 1_800_000_000))
    await fold(server, keys)
    top = await TopReader(server, keys).read()
    since_s = top.now_s - 3_600
    report = await read_report(server, keys, since_s=since_s, until_s=None, by="agent", now_s=top.now_s)
    assert top.hour == report.totals
    assert top.agents == report.groups
    assert (top.now.requests, top.hour.requests) == (1, 2)
    assert top.hourly_nano_usd == 3_500_000 * 3_600 // top.seconds
    document = msgspec.json.decode(top_json(top))
    assert document["schema"] == "sidestream.top/1"
    assert document["now"]["requests_per_second"] == 1 / top.seconds
    assert document["hour"]["cost"]["nano_usd"] == report.totals.cost_nano_usd == 7_000_000
    assert document["complete"] is True
    text = printed(top_text(top, 80), 80)
    assert "complete: Nothing is known to be missing." in " ".join(text[:2])
    assert any(re.match(r"  writer +\$0\.0035 +1\.1k +1 +0 % +2\.0 s", line) for line in text)


async def test_top_says_what_is_wrong_first(redis_url: str, server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Events that wait, a dead letter, a session with an operation that does not end, and Redis that is away."""
    reader = TopReader(server, keys)
    nothing = printed(top_text(await reader.read(), 80), 80)
    assert "unknown: Up to when everything is counted is unknown" in " ".join(nothing[:2])
    assert any("start one with `sidestream worker`" in line for line in nothing)
    await append(events())
    await append.raw(b"\x00nonsense", 7, partition=1)
    await fold(server, keys)
    hang = OpenOperation("chat", "writer", NOW_US - 70_000_000, kind="request", model="gpt-4o", session="deck-1")
    client = Server(RedisSettings(redis_url))
    PresenceWriter(keys, "cd" * 16).write(client, Presence("cd" * 16, service="deckster", open_operations=(hang,)))
    client.close()
    await append(events(session="deck-3"), partition=2)
    top = await reader.read()
    assert (top.sessions[0].seen.session, top.sessions[0].standing) == ("deck-1", "stuck")
    flows = {flow.name: flow for flow in top.flows}
    assert (flows["metrics"].outstanding, flows["metrics"].dead_letters) == (5, 1)
    text = printed(top_text(top, 100), 100)
    assert "incomplete: Something is missing from these figures." in text[0]
    assert any(line.startswith("! 1 dead letter of metrics: see `sidestream dlq ls`.") for line in text)
    assert any(re.match(r"  request gpt-4o +writer +deck-1 +\d+ m \d\d s +open", line) for line in text)
    assert "stale: Redis does not answer" in printed(top_text(top, 100, stale=True), 100)[0]


@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 24), (80, 50), (130, 30), (200, 60)])
async def test_top_fits_its_terminal(
    server: AsyncServer, keys: Keys, append: Appender, width: int, height: int
) -> None:
    """Nothing is wider, nothing hangs out at the bottom, and names from outside are text."""
    for number in range(30):
        await append(events(agent=f"{number}-[bold]{LONG}\x1b[2J", session=f"{number}-{LONG}"))
    await fold(server, keys)
    top = await TopReader(server, keys).read()
    lines = printed(top_text(top, width, height, foot="q ends it"), width)
    assert all(len(line) <= width for line in lines)
    assert len(lines) <= height
    assert lines[-1] == "q ends it"
    assert "\x1b" not in "".join(lines)
    assert any("[bold]" in line for line in lines), "an agent is there even in the smallest"


async def test_states_say_who_is_where_and_compare_versions(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Visits, ways, sessions, and two versions side by side; what a filter does not narrow says so."""
    await append(events())
    append.producer, append.resource = "cd" * 16, msgspec.structs.replace(append.resource, version="2")
    await append(events(session="deck-2"), partition=1)
    await append(events(session="deck-4", at_us=NOW_US - 3_000_000_000), partition=1)
    await fold(server, keys)
    now_s, pair = int(time.time()), ("1", "2")
    machine = await read_machine(server, keys, since_s=now_s - 7_200, now_s=now_s, pair=pair)
    assert [(state.name, state.visits, state.tokens_a_visit) for state in machine.states] == [
        ("draft", 3, 1_100),
        ("review", 3, 0),
    ]
    assert {(edge.from_state, edge.to_state, edge.count) for edge in machine.edges.edges} == {
        ("", "draft", 3),
        ("draft", "review", 3),
    }
    assert {row.seen.session: row.standing for row in machine.sessions} == dict.fromkeys(
        ("deck-1", "deck-2", "deck-4"), "ended"
    )
    document = msgspec.json.decode(machine_json(machine))
    assert document["schema"] == "sidestream.states/1"
    assert document["comparison"]["states"][0]["before"]["visits"] == 1
    for width in (60, 80, 120):
        lines = printed(states_text(machine, width), width)
        assert all(len(line) <= width for line in lines)
        assert any(re.match(r"  draft +1 +1 .*1\.1k +\$0\.0035$", line) for line in lines)
        assert any(re.match(r" +2 +2 ", line) for line in lines)
    where = Where(state="draft")
    narrowed = await read_machine(server, keys, since_s=now_s - 7_200, now_s=now_s, where=where)
    assert ([state.name for state in narrowed.states], narrowed.not_narrowed) == (["draft"], ["transitions"])
    assert any("Not narrowed by the filters" in line for line in printed(states_text(narrowed, 80), 80))


async def test_without_states_it_says_how_to_have_some(server: AsyncServer, keys: Keys) -> None:
    """No worker, then no state: never an empty table."""
    now_s = int(time.time())
    machine = await read_machine(server, keys, since_s=now_s - 60, now_s=now_s)
    assert "sidestream worker" in "\n".join(printed(states_text(machine, 80), 80))
    assert msgspec.json.decode(machine_json(machine))["states"] is None
    await fold(server, keys)
    machine = await read_machine(server, keys, since_s=now_s - 60, now_s=now_s)
    assert "track_state_transition" in "\n".join(printed(states_text(machine, 80), 80))
