"""The page says what the report says: the same figures for the same range, in the document and in the HTML."""

import html
import re
import time
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from deckster_day import Day, append_day
from pages import asking, document, fold
from support import Appender

from consumers.views.report import By, read_report
from consumers.views.report_json import report_json
from pipeline.connection import AsyncServer
from pipeline.events import ErrorEvent, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from sidestream.dashboard.address import VIEWS, instant
from sidestream.wording.human import amount, dollars, percent

NOW_S = int(time.time())
FROM_S, UNTIL_S = NOW_S - 5 * 3_600, NOW_S + 1
FIXED = f"&from={instant(FROM_S)}&until={instant(UNTIL_S)}"
SHARED = ("range", "totals", "groups", "top_errors", "expensive_operations", "slowest_operations")
"""What of a report does not depend on the instant of the look."""


@pytest.fixture
async def day(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Count some hours of an application."""
    await append_day(append, Day(NOW_S * 1_000_000, sessions=40, hours=4))
    await fold(server, keys)


async def report(server: AsyncServer, keys: Keys, by: By) -> dict[str, Any]:
    """Return the document of `report --json` for the same range."""
    found = await read_report(server, keys, since_s=FROM_S, until_s=UNTIL_S, by=by, now_s=int(time.time()))
    return cast("dict[str, Any]", msgspec.json.decode(report_json(found)))


@pytest.mark.parametrize(
    ("view", "bys"),
    [
        ("overview", ["agent"]),
        ("tokens", ["agent"]),
        ("performance", ["agent", "state"]),
        ("cost", ["agent", "model", "session"]),
        ("sessions", ["session"]),
        ("states", ["state"]),
    ],
)
async def test_each_view_says_what_the_report_says(
    server: AsyncServer, keys: Keys, day: None, view: str, bys: list[By]
) -> None:
    """Totals, breakdowns and lists are those of `report --json`, to the last digit."""
    async with asking(server, keys) as client:
        found = await document(client, view, FIXED)
    assert list(found["reports"]) == bys
    for by in bys:
        expected = await report(server, keys, by)
        assert {key: found["reports"][by][key] for key in SHARED} == {key: expected[key] for key in SHARED}
        assert found["reports"][by]["completeness"]["complete"] is True


async def test_the_page_shows_the_figures_of_the_report(server: AsyncServer, keys: Keys, day: None) -> None:
    """Not only the document: what people read is the same number."""
    expected = await report(server, keys, "agent")
    totals = expected["totals"]
    async with asking(server, keys) as client:
        overview = (await client.get(f"/?{FIXED[1:]}")).text
        tokens = (await client.get(f"/tokens?{FIXED[1:]}")).text
        cost = (await client.get(f"/cost?{FIXED[1:]}")).text
    assert f'<p class="value">{totals["requests"]["count"]:,}</p>' in overview
    assert f'<p class="value">{percent(totals["runs"]["error_ratio"])}</p>' in overview
    assert f'<p class="value">{amount(totals["tokens"]["total"])}</p>' in tokens
    assert f'<p class="value">{dollars(totals["cost"]["nano_usd"])}+</p>' in cost
    for group in expected["groups"]:
        assert f">{group['name']}</a>" in tokens
        assert amount(group["tokens"]["total"]) in tokens
    for run in expected["expensive_operations"]:
        assert run["run_id"] in tokens


async def test_a_trend_adds_up_to_the_total(server: AsyncServer, keys: Keys, day: None) -> None:
    """No window is in two steps, and none is left out."""
    async with asking(server, keys) as client:
        for query in (FIXED, "&range=1h", "&range=24h", "&range=7d"):
            found = await document(client, "cost", query)
            totals, points = found["reports"]["agent"]["totals"], found["trend"]["points"]
            assert sum(point["requests"] for point in points) == totals["requests"]["count"] > 0
            assert sum(point["tokens"] for point in points) == totals["tokens"]["total"]
            assert sum(point["cost"]["nano_usd"] or 0 for point in points) == totals["cost"]["nano_usd"]
            assert 1 < len(points) <= 170


async def test_a_trend_adds_up_however_old_its_windows_are(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Minutes are kept for two days, hours for ninety, days for two years: no event is twice in a line, or nowhere."""
    ages_s = [60, 4_000, 90_000, 3 * 86_400, 40 * 86_400, 89 * 86_400, 95 * 86_400, 200 * 86_400, 700 * 86_400]
    await append([UsageEvent((NOW_S - age) * 1_000_000, agent="a", model="gpt-4o", input_tokens=7) for age in ages_s])
    await fold(server, keys)
    ends = [(0, 60), (0, 7_200), (3_600, 86_400), (0, 50 * 3_600), (0, 9 * 86_400), (2 * 86_400, 5 * 86_400)]
    ends += [(39 * 86_400, 41 * 86_400), (0, 100 * 86_400), (94 * 86_400, 96 * 86_400), (0, 720 * 86_400)]
    async with asking(server, keys) as client:
        for until, since in ends:
            query = f"&from={instant(NOW_S - since - 30)}&until={instant(NOW_S - until + 1)}"
            found = await document(client, "tokens", query)
            total = found["reports"]["agent"]["totals"]["requests"]["count"]
            assert sum(point["requests"] for point in found["trend"]["points"]) == total, query
            assert total >= sum(until <= age <= since for age in ages_s)


async def test_a_filter_leaves_what_it_names(server: AsyncServer, keys: Keys, day: None) -> None:
    """The totals of an agent are its row in the breakdown; what a filter cannot narrow says so."""
    async with asking(server, keys) as client:
        whole = await document(client, "tokens", FIXED)
        for group in whole["reports"]["agent"]["groups"]:
            narrowed = await document(client, "tokens", f"{FIXED}&agent={group['name']}")
            totals = narrowed["reports"]["agent"]["totals"]
            assert totals["tokens"] == group["tokens"]
            assert totals["cost"] == group["cost"]
            assert totals["runs"] == group["runs"]
            runs = narrowed["reports"]["agent"]["expensive_operations"]
            assert {run["agent"] for run in runs} == {group["name"]}
            assert narrowed["not_narrowed"] == ["groups by session", "top_errors", "transitions"]
        page = (await client.get("/cost?agent=writer")).text
        assert "Not narrowed by the filters" in page
        assert '<option value="writer" selected>' in page
        several = await document(client, "tokens", f"{FIXED}&agent=writer&state=drafting&service=deckster")
        assert several["reports"]["agent"]["totals"]["requests"]["count"] > 0
        nothing = await document(client, "tokens", f"{FIXED}&agent=nobody")
        assert nothing["reports"]["agent"]["totals"]["requests"]["count"] == 0


async def test_states_are_analysed_by_visit_and_by_version(server: AsyncServer, keys: Keys, day: None) -> None:
    """Visits, stays, tokens and cost of a visit; transitions; the two versions side by side."""
    async with asking(server, keys) as client:
        found = await document(client, "states", "&range=24h")
    states = {state["name"]: state for state in found["states"]}
    drafting, done = states["drafting"], states["done"]
    assert drafting["visits"] == max(drafting["entered"], drafting["left"]) > 0
    assert 0 < drafting["time_in_state"]["p50_us"] <= drafting["time_in_state"]["p95_us"]
    group = next(g for g in found["reports"]["state"]["groups"] if g["name"] == "drafting")
    assert drafting["tokens_a_visit"] == round(group["tokens"]["total"] / drafting["visits"])
    assert states["review"]["cost_a_visit"]["nano_usd"] is None, "nobody knows its model's price"
    assert (done["left"], done["time_in_state"]["p50_us"]) == (0, None)
    rows = found["transitions"]["rows"]
    assert sum(row["count"] for row in rows) == found["reports"]["state"]["totals"]["transitions"]
    assert sum(row["count"] for row in rows if row["to"] == "drafting") == drafting["entered"]
    assert found["comparison"] is None, "all of these hours are of one version"


async def test_two_versions_of_a_service_are_compared(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Each has its own visits; together they are all of them."""
    await append_day(append, Day(NOW_S * 1_000_000, sessions=60, hours=20))
    await fold(server, keys)
    async with asking(server, keys) as client:
        found = await document(client, "states", "&range=24h&before=1.4.2&after=1.5.0")
        page = (await client.get("/states?range=24h&before=1.4.2&after=1.5.0")).text
    assert {use["version"] for use in found["versions"]} == {"1.4.2", "1.5.0"}
    both = {change["name"]: change for change in found["comparison"]["states"]}
    entered = {state["name"]: state["entered"] for state in found["states"]}
    for name, change in both.items():
        assert sum(side["entered"] for side in (change["before"], change["after"]) if side) == entered[name]
    assert "Two versions of the service" in page


async def test_sessions_stand_where_the_stream_says(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """State, since when, last error from the stream; tokens and cost counted."""
    await append_day(append, Day(NOW_S * 1_000_000, sessions=40, hours=4))
    hung = UsageEvent(
        (NOW_S - 5) * 1_000_000, agent="writer", model="gpt-4o", input_tokens=1_000, session="s", state="a"
    )
    await append([hung, ErrorEvent((NOW_S - 4) * 1_000_000, type="Timeout", session="s", agent="writer")])
    await fold(server, keys)
    async with asking(server, keys) as client:
        found = await document(client, "sessions")
    rows = {row["session"]: row for row in found["sessions"]["rows"]}
    row = rows["s"]
    assert (row["state"], row["in_state_us"], row["last_error"]) == ("a", None, "Timeout")
    assert (row["standing"], row["tokens"], row["errors"]) == ("active", 1_000, 1)
    assert row["cost"]["nano_usd"] == 1_000 * 2_500
    done = [row for row in rows.values() if row["state"] == "done"]
    assert done
    assert {row["standing"] for row in done} == {"ended"}
    assert all(row["in_state_us"] is not None for row in done)
    sessions = found["reports"]["session"]["groups"]
    for group in sessions:
        if group["name"] in rows:
            assert rows[group["name"]]["tokens"] == group["tokens"]


async def test_the_document_is_the_one_that_is_described(server: AsyncServer, keys: Keys, day: None) -> None:
    """Every key is named in docs/dashboard.md, docs/report-json.md or docs/json.md; money is no float."""
    docs = Path(__file__).parents[2] / "docs"
    words = {
        word
        for page in ("dashboard.md", "report-json.md", "json.md")
        for word in re.findall(r"\w+", (docs / page).read_text("utf-8"))
    }
    async with asking(server, keys) as client:
        for view in VIEWS:
            found = await document(client, view)
            assert (found["schema"], found["view"]) == ("sidestream.view/1", view)
            assert keys_of(found) - words == set()


def keys_of(value: object) -> set[str]:
    """Return the keys of a document; not those that are names themselves."""
    match value:
        case dict():
            named = cast("dict[str, object]", value)
            inner = {key for name, part in named.items() if name not in NAMED for key in keys_of(part)}
            return set(named) | inner
        case list():
            return {key for part in cast("list[object]", value) for key in keys_of(part)}
        case _:
            return set()


NAMED = {"losses", "acknowledged", "filters", "choices"}


async def test_html_is_whole_on_every_view(server: AsyncServer, keys: Keys, day: None) -> None:
    """Every part has its id once, charts have a table, and nothing has a style or a script of its own."""
    async with asking(server, keys) as client:
        for view in VIEWS:
            page = (await client.get(f"/{'' if view == 'overview' else view}")).text
            ids = re.findall(r'\sid="([^"]+)"', page)
            assert len(ids) == len(set(ids)), view
            assert not re.search(r"\son\w+=|\sstyle=|<style", page)
            assert re.findall(r"<script[^>]*>", page) == re.findall(r'<script src="/assets/[^"]+" defer>', page)
            assert page.count("As a table") == page.count('class="plot"')
            assert page.count("<section") == page.count("</section>")
            parts = cast("dict[str, str]", (await client.get(f"/parts?view={view}")).json())
            assert {f"p-{name}" for name in parts} == set(re.findall(r'<section [^>]*id="(p-[^"]+)"', page))


async def test_names_from_outside_change_nothing_but_text(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Markup, quotes, template syntax, controls and changes of direction are shown, on every view, and not obeyed."""
    evil = "<script>alert(1)</script>\"'{{7*7}}\u202e\x1b[2J"
    request = UsageEvent(
        NOW_S * 1_000_000, agent=evil, model=evil, input_tokens=10, session=evil, state=evil, run_id=evil
    )
    fields = dict.fromkeys(("agent", "name", "session", "state", "operation_id"), evil)
    run = msgspec.convert({"event": "operation", "time_us": NOW_S * 1_000_000, "kind": "run", **fields}, OperationEvent)
    moved = TransitionEvent(NOW_S * 1_000_000, from_state=evil, to_state="end", duration_us=1_000_000, session=evil)
    await append([request, run, moved, ErrorEvent(NOW_S * 1_000_000, type=evil, session=evil, agent=evil)])
    await append.raw(b"\x00nonsense", 1)
    await fold(server, keys)
    shown = html.escape("<script>alert(1)</script>\"'{{7*7}}")
    async with asking(server, keys) as client:
        for view in VIEWS:
            page = (await client.get(f"/{'' if view == 'overview' else view}?range=1h")).text
            assert "<script>alert" not in page
            # What a form sends back is the name itself.
            seen = re.sub(r' value="[^"]*"', "", page)
            assert "\u202e" not in seen
            assert "\x1b" not in seen
            if view not in {"alerts", "pipeline"}:
                assert re.sub("&#34;", "&quot;", page).count(shown.replace("&#x27;", "&#39;")) > 0, view
        narrowed = await client.get("/", params={"agent": evil, "range": "1h"})
        assert "<script>alert" not in narrowed.text
        assert await document(client, "tokens", "&range=1h")


async def test_the_page_says_what_is_in_its_figures(server: AsyncServer, keys: Keys, day: None) -> None:
    """Prices that are missing, scopes of lists, sums of the pipeline, what does not apply: in words, beside them."""
    async with asking(server, keys) as client:
        pages = {view: (await client.get(f"/{'' if view == 'overview' else view}")).text for view in VIEWS}
        sessions = await document(client, "sessions")
        narrowed = (await client.get("/alerts?agent=writer")).text
        inert = (await client.get("/sessions?agent=writer")).text
    assert re.search(r"prices: [\d.]+ % of requests", pages["cost"])
    assert "estimated from the price list genai-prices" in pages["cost"]
    assert "$ per M tokens" in pages["cost"]
    assert f"of {sessions['sessions']['of_stream']:,} sessions" in pages["sessions"]
    assert "<select" not in pages["alerts"]
    assert "Range and filters do not apply here" in narrowed
    assert re.search(r'<select name="agent" disabled>', inert)
    assert '<input type="hidden" name="agent" value="writer">' in inert
    assert re.search(
        r"entered</td>.*?counted \+ 0 dead letters \+ 0 skipped \+ 0 still to count", pages["pipeline"], re.DOTALL
    )
    assert "so far" in pages["overview"]
    assert "Nothing has been open for more than 30 s" in pages["overview"]


async def test_sessions_are_those_of_the_range(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """One that was heard of before it is none of them."""
    now_us = int(time.time()) * 1_000_000
    for session, age_s in (("new", 60), ("old", 7_200)):
        await append([UsageEvent(now_us - age_s * 1_000_000, session=session, state="a", agent="b", model="gpt-4o")])
    await fold(server, keys)
    async with asking(server, keys) as client:
        hour = await document(client, "sessions", "&range=1h")
        day = await document(client, "sessions", "&range=24h")
    assert [row["session"] for row in hour["sessions"]["rows"]] == ["new"]
    assert {row["session"] for row in day["sessions"]["rows"]} == {"new", "old"}
