"""`sidestream top` and `states` on a real server: the figures of the report, what asks for somebody, what fits."""

import re
import time

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType
from support import Appender

from consumers.alerts.rules import Severity, Where
from consumers.alerts.store import AlertRow
from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.views.inflight import InFlight
from consumers.views.machine import read_machine
from consumers.views.report import Range, read_report
from consumers.views.states_json import machine_json
from consumers.views.top import Top, TopReader
from consumers.views.top_json import top_json
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.presence import OpenOperation, Presence, PresenceWriter
from sidestream.cli.look.filters import why_nothing
from sidestream.cli.look.states_text import states_text
from sidestream.cli.look.top_text import Order, top_text

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


SIZES = [
    (40, 24),
    (60, 24),
    (80, 24),
    (120, 24),
    (200, 24),
    (80, 50),
    (130, 40),
    (200, 60),
    (80, 10),
    (40, 8),
    (25, 24),
]


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_top_fits_its_terminal(
    server: AsyncServer, keys: Keys, append: Appender, width: int, height: int
) -> None:
    """Nothing is wider, nothing hangs out at the bottom, and names from outside are text."""
    for number in range(30):
        await append(events(agent=f"{number}-[bold]{LONG}\x1b[2J", session=f"{number}-{LONG}"))
    await fold(server, keys)
    top = await TopReader(server, keys).read()
    # Below the least width the screen cuts.
    width = max(width, 30)
    lines = printed(top_text(top, width, height, foot="q ends it"), width)
    assert all(len(line) <= width for line in lines)
    assert len(lines) == height
    assert lines[-1] == "q ends it"
    assert "\x1b" not in "".join(lines)
    assert height < 24 or any("[bold]" in line for line in lines), "an agent is there even in the smallest"
    text = "\n".join(lines)
    named = len(re.findall(r"^ +\d+-\[bold\]", text, re.MULTILINE))
    hidden = f", and {30 - named} more" if named < 30 else ""
    assert height < 24 or width >= 120 or f"Agents, last hour{hidden}\n" in text


def rule(number: int, severity: Severity = "warning") -> AlertRow:
    """Return a rule that fires."""
    return AlertRow(
        rule=f"rule-{number}", status="firing", severity=severity, value=65_214, threshold=10_000, unit="tokens",
        window_s=300, since_s=int(time.time()), watermark_s=0, incident="i",
    )  # fmt: skip


def hanging(number: int = 1) -> InFlight:
    """Return a request that has been open for a minute."""
    operation = OpenOperation("chat", "writer", 0, kind="request", model="gpt-4o", session=f"deck-{number}")
    return InFlight(operation, "p", "deckster", "i", "open", 70_000 + number, 0)


async def looked(server: AsyncServer, keys: Keys, append: Appender) -> Top:
    """Return a look at five agents, one session each."""
    for number in range(5):
        await append(events(agent=f"agent-{number}", session=f"deck-{number}"), partition=number % 4)
    await fold(server, keys)
    return await TopReader(server, keys).read()


async def test_many_alerts_leave_room_for_the_rest(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Three lines, the worst first, each cut; then how many there are besides."""
    top = await looked(server, keys, append)
    rules = [rule(number, "critical" if number == 11 else "warning") for number in range(12, 0, -1)]
    for width in (40, 60, 80, 120, 200):
        lines = printed(top_text(replace(top, alerts=rules), width, 24, foot="q ends it"), width)
        first = next(place for place, line in enumerate(lines) if line.startswith("Alerts"))
        said = [line.split()[0] for line in [lines[first].removeprefix("Alerts"), *lines[first + 1 : first + 4]]]
        assert said == ["rule-11", "rule-1", "rule-2", "and"]
        assert lines[first + 3].strip().startswith("and 9 more: `sidestream alerts")
        assert any(line.startswith("Agents, last hour") for line in lines)
        assert any(line.startswith("Pipeline  0 workers") for line in lines)
        assert (len(lines), lines[-1]) == (24, "q ends it")
    wide = printed(top_text(replace(top, alerts=rules), 120, 24), 120)
    about = r"Alerts  rule-11 fires \(critical\): 65.2k over 10.0k tokens in 5 m, since \d\d:\d\d$"
    assert any(re.match(about, line) for line in wide)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
async def test_what_hangs_is_seen_on_a_small_terminal(
    server: AsyncServer, keys: Keys, append: Appender, width: int
) -> None:
    """First of all lists; each of these has its rows, whose names stay, and says what it leaves out."""
    top = await looked(server, keys, append)
    status = replace(top.status, in_flight=[hanging(number) for number in range(9)])
    sessions = [replace(row, standing="stuck" if place < 2 else "active") for place, row in enumerate(top.sessions)]
    lines = printed(top_text(replace(top, status=status, sessions=sessions), width, 24, foot="q"), width)
    text = "\n".join(lines)
    assert re.search(r"Open for long, and \d more.*\n  WHAT .*\n  request gpt-4o .*1 m 10 s", text)
    assert re.search(r"Sessions(, and \d more)?  2 stuck, 3 active", text)
    shown = sum(bool(re.search(r"deck-\d +.*(stuck|active)", line)) for line in lines)
    assert ("Sessions  2 stuck" in text) == (shown == 5), "what is left out is said"
    assert re.search(r"deck-\d +.*stuck", text)
    assert re.search(r"AGENT +COST↓.*\n.*agent-\d +\$0\.0035", text)
    assert text.index("Open for long") < text.index("Sessions") or width >= 120
    assert text.index("Open for long") < text.index("Agents")


async def test_what_waits_is_no_news_while_all_is_complete(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """It comes and goes with each look; where counting is late, it says why."""
    top = await looked(server, keys, append)
    waits = replace(top, completeness=replace(top.completeness, waiting=2))
    assert "still with the applications" not in "\n".join(printed(top_text(waits, 80), 80))
    late = replace(waits, now_s=top.now_s + 60)
    text = "\n".join(printed(top_text(late, 80), 80))
    assert "behind: Counting is" in text
    assert "! 2 events are still with the applications." in text


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
async def test_the_verdict_has_its_place_on_one_line(
    server: AsyncServer, keys: Keys, append: Appender, width: int
) -> None:
    """Whatever else there is no room for."""
    top = replace(await looked(server, keys, append), namespace="a-namespace-with-a-long-name")
    for stale, verdict in ((False, "complete"), (True, "stale")):
        lines = printed(top_text(top, width, 24, stale=stale), width)
        assert re.match(f"Sidestream top .*{verdict}", lines[0])
        assert not lines[1].startswith("missing")


async def test_an_unknown_cost_is_not_said_to_be_spent(server: AsyncServer, keys: Keys) -> None:
    """Nobody has counted it."""
    text = "\n".join(printed(top_text(await TopReader(server, keys).read(), 80, 24), 80))
    assert "unknown" in text
    assert "never counted" in text
    assert "spent" not in text


@pytest.mark.parametrize(
    ("order", "agents"),
    [
        ("cost", ["dear", "busy", "slow"]),
        ("tokens", ["busy", "dear", "slow"]),
        ("requests", ["busy", "dear", "slow"]),
        ("failed", ["slow", "dear", "busy"]),
        ("p95", ["slow", "dear", "busy"]),
    ],
)
async def test_agents_are_ordered_by_what_is_asked_for(
    server: AsyncServer, keys: Keys, append: Appender, order: Order, agents: list[str]
) -> None:
    """The heading says by what."""
    usages = [
        UsageEvent(NOW_US, "dear", "gpt-4o", 5_000, 0, 1_000_000),
        *[UsageEvent(NOW_US, "busy", "gpt-4o-mini", 9_000, 0, 500_000)] * 3,
        UsageEvent(NOW_US, "slow", "gpt-4o-mini", 1_000, 0, 9_000_000, status="error"),
    ]
    await append(usages)
    await fold(server, keys)
    lines = printed(top_text(await TopReader(server, keys).read(), 80, 24, order=order), 80)
    head = next(place for place, line in enumerate(lines) if line.startswith("  AGENT"))
    assert f"{order.upper()}↓" in lines[head]
    assert [line.split()[0] for line in lines[head + 1 : head + 4]] == agents


async def test_states_say_who_is_where_and_compare_versions(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Visits, ways, sessions, and two versions side by side; what a filter does not narrow says so."""
    await append(events())
    append.producer, append.resource = "cd" * 16, replace(append.resource, version="2")
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
    for width in (60, 80, 120, 200):
        lines = printed(states_text(machine, width), width)
        assert all(len(line) <= width for line in lines)
        assert any(re.match(r"  draft +1 +1 .*1\.1k +\$0\.0035$", line) for line in lines)
        assert any(re.match(r" +2 +2 ", line) for line in lines)
    for width in (30, 40):
        lines = printed(states_text(machine, width), width)
        assert all(len(line) <= width for line in lines)
        assert any(re.match(r"  draft +3\b", line) for line in lines), "the name stays"
        assert not any(re.search(r"[\d$]…", line) for line in lines), "no number is cut"
    where = Where(state="draft")
    narrowed = await read_machine(server, keys, since_s=now_s - 7_200, now_s=now_s, where=where)
    assert ([state.name for state in narrowed.states], narrowed.not_narrowed) == (["draft"], ["transitions"])
    assert any("Not narrowed by the filters" in line for line in printed(states_text(narrowed, 80), 80))
    nope = await read_machine(server, keys, since_s=now_s - 7_200, now_s=now_s, where=Where(state="nope"))
    why = await why_nothing(server, keys, Where(state="nope"), Range(now_s - 7_200, now_s + 1), now_s)
    text = " ".join(printed(states_text(nope, 80, why), 80))
    assert "No event of this time is of state nope. Names are exact; states in this time: draft, review." in text
    assert "FROM" not in text


async def test_without_states_it_says_how_to_have_some(server: AsyncServer, keys: Keys) -> None:
    """No worker, then no state: never an empty table."""
    now_s = int(time.time())
    machine = await read_machine(server, keys, since_s=now_s - 60, now_s=now_s)
    assert "sidestream worker" in "\n".join(printed(states_text(machine, 80), 80))
    assert msgspec.json.decode(machine_json(machine))["states"] is None
    await fold(server, keys)
    machine = await read_machine(server, keys, since_s=now_s - 60, now_s=now_s)
    assert "track_state_transition" in "\n".join(printed(states_text(machine, 80), 80))
