"""The report on a real server: what was appended and folded is what it says, and it says what it misses."""

import re
import time
from pathlib import Path
from typing import cast, get_args

import msgspec
import pytest
from rich.console import Console
from support import Appender

from consumers.alerts.rules import Where
from consumers.catalogue import Catalogue, Pricer
from consumers.handlers.cost import CostHandler
from consumers.handlers.metrics import MetricsHandler
from consumers.pricing import PriceBook
from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker
from consumers.state import OTHER, Caps
from consumers.views.report import EVERYTHING, By, Range, Report, read_report
from consumers.views.report_json import report_json
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.presence import Presence, PresenceWriter
from sidestream.cli.look.filters import why_nothing
from sidestream.cli.look.report_text import report_text

NOW_S = int(time.time())
NOW_US = NOW_S * 1_000_000


def usage(tokens: int = 1_000, *, agent: str = "writer", model: str = "gpt-4o", run: str = "run-1") -> UsageEvent:
    """Return a request that ended well."""
    return UsageEvent(
        NOW_US,
        agent=agent,
        model=model,
        input_tokens=tokens,
        output_tokens=100,
        duration_us=1_200_000,
        ttft_us=300_000,
        session=f"session-of-{agent}",
        state="draft",
        run_id=run,
    )


def run_of(agent: str = "writer", *, status: str = "ok", duration_us: int = 1_300_000) -> OperationEvent:
    """Return an agent's run."""
    fields = {"time_us": NOW_US, "name": agent, "agent": agent, "kind": "run", "status": status, "state": "draft"}
    return msgspec.convert({**fields, "duration_us": duration_us, "operation_id": "run-1"}, OperationEvent)


def worker_of(server: AsyncServer, keys: Keys, *, caps: Caps | None = None, cost: bool = True) -> Worker:
    """Return a worker with the handlers that a report reads."""
    pricer = Pricer(Catalogue(), PriceBook())
    effects = [FoldEffect(MetricsHandler(caps))]
    if cost:
        effects.append(FoldEffect(CostHandler(pricer, pricer.catalogue.version, pricer.book.hash, caps)))
    return Worker(server, keys, effects)


async def read(
    server: AsyncServer, keys: Keys, by: By = "agent", *, most: int = 10, where: Where = EVERYTHING
) -> Report:
    """Read the report up to now: what is lost stands at the hour of the broker, which may have turned meanwhile."""
    now_s = int(time.time())
    since_s = NOW_S - 3600
    return await read_report(server, keys, since_s=since_s, until_s=None, by=by, now_s=now_s, most=most, where=where)


def printed(report: Report, width: int = 80) -> str:
    """Return what a terminal of `width` columns shows."""
    return printed_with(report, width, "")


def printed_with(report: Report, width: int, why_nothing: str) -> str:
    """Return the same, where it is known why nothing fits the filters."""
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(report_text(report, width, why_nothing))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


async def test_the_report_says_what_was_appended(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Requests, tokens, money, runs, transitions and errors, each once."""
    events: list[Event] = [
        usage(),
        usage(3_000, agent="director", run="run-2"),
        run_of(),
        run_of("director", status="error", duration_us=9_000_000),
        TransitionEvent(NOW_US, from_state="draft", to_state="review", duration_us=5_000_000, session="s"),
        ErrorEvent(NOW_US, type="TimeoutError", agent="director", session="session-of-director"),
    ]
    await append(events)
    await append([usage(500, model="deck-writer-7b", run="run-3")], partition=2)
    await worker_of(server, keys).run_until_idle()
    report = await read(server, keys)
    totals = report.totals
    assert (totals.requests, totals.total_tokens, totals.runs, totals.errors) == (3, 4_800, 2, 1)
    assert (totals.priced_requests, totals.unpriced_requests, totals.unpriced_tokens) == (2, 1, 600)
    # gpt-4o: $2.50 and $10 a million tokens.
    assert totals.cost_nano_usd == 4_000 * 2_500 + 200 * 10_000
    assert totals.run_error_ratio == 0.5
    assert [(group.name, group.figures.requests) for group in report.groups] == [("director", 1), ("writer", 2)]
    assert [(run.run_id, run.cost_nano_usd) for run in report.expensive] == [
        ("run-2", 8_500_000),
        ("run-1", 3_500_000),
        ("run-3", None),
    ]
    assert report.slowest[0].duration_us == 9_000_000
    assert report.completeness.complete(report.covered.from_s)


@pytest.mark.parametrize("by", ["agent", "model", "state", "tenant", "service"])
async def test_groups_add_up_to_the_totals(server: AsyncServer, keys: Keys, append: Appender, by: By) -> None:
    """Whatever the dimension: no request is in two groups, and none is missing."""
    for partition in range(4):
        await append(
            [usage(agent=f"agent-{n}", model=f"gpt-4o{'-mini' * (n % 2)}") for n in range(5)], partition=partition
        )
    await worker_of(server, keys).run_until_idle()
    report = await read(server, keys, by)
    assert sum(group.figures.requests for group in report.groups) == report.totals.requests == 20
    assert sum(group.figures.cost_nano_usd for group in report.groups) == report.totals.cost_nano_usd > 0


async def test_tenants_and_services_are_told_apart(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """As every joint dimension: all figures, those of events without a tenant too."""
    await append([msgspec.structs.replace(usage(), tenant="acme"), usage(3_000), ErrorEvent(NOW_US, type="E")])
    await worker_of(server, keys).run_until_idle()
    tenants = await read(server, keys, "tenant")
    assert [(group.name, group.figures.requests, group.figures.errors) for group in tenants.groups] == [
        ("", 1, 1),
        ("acme", 1, 0),
    ]
    assert re.search(r"TENANT .*\n +\(none\) .*\n +acme ", printed(tenants))
    services = await read(server, keys, "service")
    assert [(group.name, group.figures.requests) for group in services.groups] == [(append.resource.service, 2)]


async def test_filters_narrow_what_joint_cells_hold_and_the_rest_says_so(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Headline and breakdown are of one agent and model; sessions and errors of all, operations of the agent."""
    await append([usage(), usage(3_000, agent="director", run="run-2"), usage(500, model="gpt-4o-mini", run="run-3")])
    await append([run_of(), run_of("director"), ErrorEvent(NOW_US, type="E", agent="director")], partition=1)
    await worker_of(server, keys).run_until_idle()
    of_agent = await read(server, keys, where=Where(agent="writer"))
    assert (of_agent.totals.requests, of_agent.totals.runs, of_agent.totals.errors) == (2, 1, 0)
    assert [group.name for group in of_agent.groups] == ["writer"]
    assert {run.agent for run in of_agent.expensive} == {row.agent for row in of_agent.slowest} == {"writer"}
    assert of_agent.not_narrowed == ["top_errors"]
    assert "Only agent writer." in printed(of_agent)
    both = await read(server, keys, "session", where=Where(agent="writer", model="gpt-4o"))
    assert (both.totals.requests, both.totals.runs, len(both.rows)) == (1, 0, 2)
    assert both.not_narrowed == ["groups", "top_errors", "expensive_operations", "slowest_operations"]
    text = printed(both)
    assert text.count("Not narrowed by the filters") == 2
    assert text.count("Narrowed by agent alone") == 2
    document = msgspec.json.decode(report_json(both))
    assert document["filters"] == {"agent": "writer", "model": "gpt-4o"}
    assert document["not_narrowed"] == both.not_narrowed


async def test_a_filter_that_nothing_fits_says_which_names_there_are(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """The busiest first, five at most; where each fits something they are told to fit nothing together."""
    await append([usage(agent=f"agent-{number}") for number in range(7)])
    await append([usage(agent="busy"), usage(agent="busy"), usage(agent="other", model="gpt-4o-mini")], partition=1)
    await worker_of(server, keys).run_until_idle()
    asked = Range(NOW_S - 3600, NOW_S + 60)

    async def why(**filters: str) -> str:
        return await why_nothing(server, keys, Where(**filters), asked, NOW_S + 60)

    nobody = await why(agent="nobody")
    assert nobody == (
        "No event of this time is of agent nobody. Names are exact; agents in this time: "
        "busy, agent-0, agent-1, agent-2, agent-3 and 4 more (`sidestream report --by agent` lists them)."
    )
    assert "environments in this time: test." in await why(environment="production")
    assert await why(tenant="acme") == "No event of this time is of tenant acme: none has a tenant."
    both = await why(agent="busy", model="gpt-4o-mini")
    assert both == "No event of this time is of agent busy and model gpt-4o-mini at once."
    assert not await why(agent="busy")
    text = printed_with(await read(server, keys, where=Where(agent="nobody")), 80, nobody)
    assert "agents in this time" in text
    assert "instrument_pydantic_ai" not in text
    assert "instrument_pydantic_ai" in printed_with(await read(server, keys, where=Where(agent="nobody")), 80, "")


@pytest.mark.parametrize("by", ["state", "session", "user", "tag", "tenant"])
async def test_what_no_event_carries_is_said_and_how_to_carry_it(
    server: AsyncServer, keys: Keys, append: Appender, by: By
) -> None:
    """No empty place, and no table of one row without a name."""
    await append([msgspec.structs.replace(usage(), session="", state="")])
    await worker_of(server, keys).run_until_idle()
    text = " ".join(printed(await read(server, keys, by)).split())
    assert f"By {by} No event carries a {by} in this time. An application says it: sidestream.session_context(" in text
    assert "(none)" not in text.partition(f"By {by}")[2].partition("Most expensive")[0]


async def test_a_range_that_has_ended_is_reported_as_such(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """What happened after it is not in it; one that goes on ends now, not with its last window."""
    await append([usage(), msgspec.structs.replace(usage(), time_us=NOW_US - 3_600_000_000)])
    await worker_of(server, keys).run_until_idle()
    now_s = int(time.time())
    since_s, until_s = NOW_S - 7_200, NOW_S - 1_800
    past = await read_report(server, keys, since_s=since_s, until_s=until_s, by="agent", now_s=now_s)
    assert past.totals.requests == 1
    assert "now" not in printed(past).splitlines()[0]
    assert re.match(r"Sidestream report  \S+ \S+ to now \(\d\d:\d\d:\d\d UTC\)", printed(await read(server, keys)))


async def test_by_state_it_says_what_a_visit_takes(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """How often, how long, and tokens and cost of one; what belongs to no state has no visits."""
    moves = [
        TransitionEvent(NOW_US, from_state="draft", to_state="review", duration_us=second * 1_000_000, session="s")
        for second in (1, 2, 30)
    ]
    await append([usage(), usage(), *moves, msgspec.structs.replace(usage(), state="")])
    await worker_of(server, keys).run_until_idle()
    report = await read(server, keys, "state")
    text = printed(report)
    assert re.search(
        r"STATE +VISITS +P50 +P95 +TOKENS +COST\n +draft +3 +2\.. s +\d\d\.\d s +733 +\$0\.0023\d*\n", text
    )
    rows = {row["name"]: row for row in msgspec.json.decode(report_json(report))["groups"]}
    assert (rows["draft"]["visits"], rows["draft"]["tokens_a_visit"]) == (3, 733)
    assert rows["draft"]["cost_a_visit"]["nano_usd"] == round(2 * 3_500_000 / 3)
    assert rows["draft"]["time_in_state"]["count"] == 3
    assert rows[""]["visits"] is None
    assert rows["review"]["time_in_state"]["p50_us"] is None


async def test_sessions_are_whole_hours_and_the_dearest_stands_first(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A session is a marginal: fewer figures, wider windows, and the report says which."""
    await append(
        [usage(agent="small"), usage(90_000, agent="big"), usage(50_000, agent="free", model="deck-writer-7b")]
    )
    await worker_of(server, keys).run_until_idle()
    report = await read(server, keys, "session", most=2)
    assert report.groups == []
    assert [row.name for row in report.rows] == ["session-of-big", "session-of-small"]
    everyone = (await read(server, keys, "session")).rows
    assert [(row.name, row.total_tokens, row.cost_nano_usd) for row in everyone[-1:]] == [
        ("session-of-free", 50_100, None)
    ]
    assert report.names.from_s % 3600 == 0
    assert report.names.from_s <= report.asked.from_s
    assert "in whole hours" in printed(report)


async def test_what_a_cap_hides_is_counted_and_shown(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Everything over the cap stands in one row that says so."""
    await append([usage(agent=f"agent-{n}", run=f"run-{n}") for n in range(6)])
    await worker_of(server, keys, caps=Caps(cells=2, names=2)).run_until_idle()
    report = await read(server, keys)
    assert report.groups[-1].name == OTHER
    assert sum(group.figures.requests for group in report.groups) == 6
    assert report.expensive[-1].run_id == OTHER
    assert sum(run.requests for run in report.expensive) == 6
    assert "other (over the cap)" in printed(report)


async def test_an_empty_system_says_what_to_do(server: AsyncServer, keys: Keys) -> None:
    """No event, no worker: no crash, no zero that looks like a figure, and the next step."""
    report = await read(server, keys)
    assert report.empty
    assert report.completeness.as_of_ms is None
    assert "sidestream worker" in printed(report)
    document = msgspec.json.decode(report_json(report))
    assert document["as_of"] is document["totals"]["cost"] is document["totals"]["requests"] is None
    assert document["completeness"]["complete"] is False


async def test_a_handler_that_never_ran_leaves_its_figures_unknown(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Without `cost` there is no cost, which is not $0."""
    await append([usage()])
    await worker_of(server, keys, cost=False).run_until_idle()
    report = await read(server, keys)
    text = printed(report)
    assert "unknown" in text
    assert "cost has never run" in text
    assert "$0" not in text
    document = msgspec.json.decode(report_json(report))
    assert document["totals"]["requests"]["count"] == 1
    assert document["totals"]["cost"] is document["expensive_operations"] is None


async def test_a_report_without_a_known_price_says_unpriced(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Never $0, in no place."""
    await append([usage(model="deck-writer-7b")])
    await worker_of(server, keys).run_until_idle()
    report = await read(server, keys)
    assert "$0" not in printed(report, 120)
    assert "unpriced" in printed(report)
    totals = msgspec.json.decode(report_json(report))["totals"]
    assert totals["cost"]["usd"] is totals["cost"]["nano_usd"] is None
    assert totals["cost"]["unpriced_tokens"] == 1_100


async def test_unread_events_hold_as_of_back(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """`as_of` is the time of the oldest entry that is not committed, and the events behind are counted."""
    worker = worker_of(server, keys)
    await worker.run_until_idle()
    entry_id = await append([usage(), usage()])
    await append([usage()], partition=1)
    report = await read(server, keys)
    assert report.completeness.as_of_ms == int(entry_id.partition("-")[0])
    assert [handler.outstanding for handler in report.completeness.handlers] == [3, 3]
    assert "metrics is 3 events behind" in printed(report, 120)
    await worker.run_until_idle()
    after = (await read(server, keys)).completeness
    assert after.as_of_ms is not None
    assert after.as_of_ms >= int(entry_id.partition("-")[0])
    assert [handler.outstanding for handler in after.handlers] == [0, 0]


async def test_what_is_missing_is_said(redis_url: str, server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Dead letters, and what producers shed, lost or took with them."""
    await append.raw(b"\x00nonsense", 7)
    await worker_of(server, keys).run_until_idle()
    producer = "cd" * 16
    losses = {"shed:usage:full": 4, "invalid:error:limits": 1, "lost": 2}
    publisher = Server(RedisSettings(redis_url))
    last_word = Presence(producer, offered=8, shed=4, invalid=1, unknown=3, losses=losses, closed=1)
    PresenceWriter(keys, producer).write(publisher, last_word)
    publisher.close()
    completeness = (await read(server, keys)).completeness
    assert completeness.losses.total == 7
    assert completeness.at_risk == 3
    assert not completeness.complete(0)
    text = printed(await read(server, keys), 120)
    assert "1 dead letter of metrics" in text
    assert "4 events shed by the applications" in text
    assert "usage:full 4" in text
    assert "At least 2 events lost by Redis" in text, "its producer is gone"
    assert completeness.losses.lost_at_least
    assert "Up to 3 events" in text


async def test_what_redis_lost_of_living_producers_is_exact(
    redis_url: str, server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Each of them has met the gap, or will: nobody is gone who could not tell."""
    await append([usage()])
    await worker_of(server, keys).run_until_idle()
    producer = "cd" * 16
    publisher = Server(RedisSettings(redis_url))
    PresenceWriter(keys, producer).write(publisher, Presence(producer, losses={"lost": 2}))
    publisher.close()
    report = await read(server, keys)
    assert (report.completeness.losses.lost, report.completeness.losses.lost_at_least) == (2, False)
    assert "! 2 events lost by Redis" in printed(report, 120)


async def test_names_from_outside_change_nothing_but_text(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Markup, escape sequences and line ends in a name are shown, not obeyed."""
    await append([usage(agent="[bold red]x[/]\x1b[2J\nfake row", run='","run')])
    await worker_of(server, keys).run_until_idle()
    for width in (80, 120):
        text = printed(await read(server, keys), width)
        assert "\x1b" not in text
        assert "[bold red]x[/]" in text
        assert not any(line.startswith("fake row") for line in text.splitlines())


@pytest.mark.parametrize("by", get_args(By))
async def test_a_report_fits_its_terminal(server: AsyncServer, keys: Keys, append: Appender, by: By) -> None:
    """Nothing is wider than the terminal, and no number is cut, however long the names are."""
    long = "a-very-long-name-of-something-that-nobody-would-type-twice-" * 2
    tagged = msgspec.structs.replace(usage(12_345_678, agent=long, run=long), user=long, tags=(long,))
    await append([tagged, run_of(long, duration_us=7_260_000_000), ErrorEvent(NOW_US, type=long)])
    await worker_of(server, keys).run_until_idle()
    report = await read(server, keys, by)
    for width in (30, 40, 60, 80, 120, 200):
        lines = printed(report, width).splitlines()
        assert all(len(line) <= width for line in lines)
        assert any("$30.87" in line for line in lines)
        assert any("2 h 01 m" in line for line in lines)
        assert not any(re.search(r"[$\d]…", line) for line in lines), "no number is cut"
        # Where there is a name to show, it has room.
        assert by in {"error", "model", "state", "service", "tenant"} or any(
            line.startswith("  a-very-long") for line in lines
        )


async def test_the_document_is_the_one_that_is_described(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Every key of the JSON document is named in docs/report-json.md, and money is no float."""
    await append([msgspec.structs.replace(usage(), user="ada", tags=("beta",)), run_of(), ErrorEvent(NOW_US, type="E")])
    await worker_of(server, keys).run_until_idle()
    words = re.findall(r"\w+", (Path(__file__).parents[2] / "docs" / "report-json.md").read_text("utf-8"))
    for by in get_args(By):
        document = msgspec.json.decode(report_json(await read(server, keys, by)))
        assert document["schema"] == "sidestream.report/1"
        assert document["totals"]["cost"]["nano_usd"] == 3_500_000
        assert document["totals"]["cost"]["usd"] == "0.003500000"
        for key in _keys_of(document):
            assert key in words, key


def _keys_of(value: object) -> set[str]:
    match value:
        case dict():
            named = cast("dict[str, object]", value)
            inner = {key for part in named.values() for key in _keys_of(part)}
            return set(named) | inner
        case list():
            return {key for part in cast("list[object]", value) for key in _keys_of(part)}
        case _:
            return set()


async def test_users_and_tags_are_as_sessions(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The same figures by another name; a request with two tags counts for each."""
    request = msgspec.structs.replace(usage(), user="ada", tags=("beta", "eu"))
    await append([request, msgspec.structs.replace(request, user="bob", tags=("eu",)), usage()])
    await worker_of(server, keys).run_until_idle()
    users, tags = (await read(server, keys, "user")).rows, (await read(server, keys, "tag")).rows
    assert [(row.name, row.requests, row.cost_nano_usd) for row in users] == [
        ("ada", 1, 3_500_000),
        ("bob", 1, 3_500_000),
    ]
    assert [(row.name, row.requests, row.total_tokens) for row in tags] == [("eu", 2, 2_200), ("beta", 1, 1_100)]
    assert "By user  in whole hours" in printed(await read(server, keys, "user"))


async def test_errors_are_counted_by_type(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The most frequent first, each with its part of all; every report names the first few."""
    types = ["TimeoutError"] * 6 + ["RateLimitError"] * 3 + [f"Rare{number}Error" for number in range(6)]
    await append([ErrorEvent(NOW_US, type=name) for name in types], partition=1)
    await append([ErrorEvent(NOW_US, type="TimeoutError"), usage()], partition=2)
    await worker_of(server, keys).run_until_idle()
    report = await read(server, keys, "error", most=2)
    assert [(row.name, row.errors, row.share) for row in report.errors] == [
        ("TimeoutError", 7, 7 / 16),
        ("RateLimitError", 3, 3 / 16),
    ]
    assert (report.left_out.count, report.left_out.at_least) == (6, False)
    document = msgspec.json.decode(report_json(report))
    assert document["groups"][0] == {"name": "TimeoutError", "over_cap": False, "errors": 7, "share": 0.4375}
    assert document["groups_left_out"] == {"count": 6, "at_least": False}
    text = printed(report)
    assert "TimeoutError        7  43.8 %" in text
    assert "and 6 more; --most 8" in text
    default = printed(await read(server, keys))
    assert re.search(r"Errors  in whole hours.*\n\s+ERROR +COUNT +SHARE\n\s+TimeoutError +7", default)
    assert "and 3 more; --by error" in default


async def test_a_list_that_is_cut_says_by_how_much(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """And how to see the rest."""
    await append([usage(agent=f"agent-{number}") for number in range(12)])
    await worker_of(server, keys).run_until_idle()
    assert "and 7 more; --most 12" in printed(await read(server, keys, "session", most=5))
    whole = await read(server, keys, "session", most=12)
    assert (len(whole.rows), whole.left_out.count) == (12, 0)
    assert "more" not in printed(whole).partition("By session")[2].partition("Most expensive")[0]


async def test_direct_requests_have_figures_that_say_so(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Where there was no agent run, failures and times are of requests, and a line says which."""
    failed = msgspec.structs.replace(usage(agent="direct"), status="error")
    await append([usage(agent="direct"), failed])
    await worker_of(server, keys).run_until_idle()
    text = printed(await read(server, keys))
    assert "REQUEST TIME" in text
    assert re.search(r"direct .* 50.0 % +1\.2 s +1\.2 s", text)
    assert "FAILED, RESPONSE and P95 are of requests: there was no agent run." in text
    await append([run_of()], partition=1)
    await worker_of(server, keys).run_until_idle()
    text = printed(await read(server, keys))
    assert "RESPONSE TIME" in text
    assert re.search(r"direct .* 50.0 % +1\.2 s", text)
    assert re.search(r"writer .* 0 % +1\.3 s", text)
    assert "FAILED, RESPONSE and P95 of direct are of requests: no agent run there." in text


async def test_what_cost_nothing_for_want_of_requests_is_no_0(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A session that only moved on has no cost; what has no name and nothing to show has no row."""
    moved = OperationEvent(NOW_US, name="tool", kind="run", session="moved-on")
    await append([moved, ErrorEvent(NOW_US, type="E", session="failed"), TransitionEvent(NOW_US, to_state="x")])
    await worker_of(server, keys).run_until_idle()
    report = await read(server, keys, "session")
    assert "$0" not in printed(report)
    assert re.search(r"moved-on +– +0 +0 +1 +0", printed(report))  # noqa: RUF001 - as it is shown
    by_model = await read(server, keys, "model")
    assert [group.name for group in by_model.groups] == [""], "an error has no model here"
    assert "No request was made in this time." in printed(by_model)


async def test_a_sum_of_nothing_beside_what_has_no_price_is_unpriced(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A request that failed before it used a token costs nothing: no `$0+` stands for what nobody knows."""
    failed = msgspec.structs.replace(usage(0), output_tokens=0, status="error")
    await append([failed, usage(model="deck-writer-7b"), msgspec.structs.replace(failed, user="ada")])
    await worker_of(server, keys).run_until_idle()
    for by in ("agent", "session"):
        text = printed(await read(server, keys, by), 120)
        assert "$0+" not in text
        assert re.search(r"(writer|session-of-writer) +unpriced", text)


@pytest.mark.parametrize(("since_s", "until_s"), [(NOW_S, NOW_S), (0, 1)], ids=["empty", "too old"])
async def test_a_range_without_time_is_refused(server: AsyncServer, keys: Keys, since_s: int, until_s: int) -> None:
    """An empty range, and one older than anything kept, are mistakes of who asks."""
    with pytest.raises(ValueError, match="range"):
        await read_report(server, keys, since_s=since_s, until_s=until_s, by="agent", now_s=NOW_S)


async def test_everything_since_the_beginning_can_be_asked_for(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """A range that begins before anything is kept, or ends beyond all time, is cut to where something may be."""
    await append([usage()])
    await worker_of(server, keys).run_until_idle()
    report = await read_report(server, keys, since_s=-(10**14), until_s=10**14, by="agent", now_s=NOW_S)
    assert report.totals.requests == 1
    assert msgspec.json.decode(report_json(report))["range"]["asked"]["from"] == "1970-01-01T00:00:00Z"
    assert "It begins later than asked" in printed(report)
