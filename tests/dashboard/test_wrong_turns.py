"""Addresses that nothing fits, systems in which next to nothing has happened, rules that nobody evaluates."""

import time

import pytest
from pages import asking, document, fold
from support import Appender

from consumers.alerts.engine import AlertEngine
from consumers.alerts.rules import Rule
from pipeline.connection import AsyncServer
from pipeline.events import TransitionEvent, UsageEvent
from pipeline.keys import Keys
from sidestream.dashboard import alerting
from sidestream.dashboard.address import VIEWS

NOW_US = time.time_ns() // 1_000
S = 1_000_000


def request(at_us: int, agent: str = "writer", state: str = "draft", tokens: int = 1_000) -> UsageEvent:
    """Return a request."""
    return UsageEvent(at_us, agent, "gpt-4o", tokens, 100, 2 * S, "deck-1", state=state)


@pytest.fixture
async def hours(append: Appender, server: AsyncServer, keys: Keys) -> None:
    """Count some hours of two agents in two states."""
    for hour in range(6):
        at_us = NOW_US - hour * 3_600 * S
        await append([request(at_us), request(at_us, "critic", "review")])
    moved = TransitionEvent(NOW_US, from_state="draft", to_state="review", duration_us=9 * S, session="deck-1")
    await append([moved])
    await fold(server, keys)


@pytest.mark.parametrize(
    "query", ["agent=writer", "model=gpt-4o", "state=draft", "agent=writer&state=review", "agent=x"]
)
async def test_every_filter_leaves_a_page(server: AsyncServer, keys: Keys, hours: None, query: str) -> None:
    """On each view, whatever it leaves of it."""
    async with asking(server, keys) as client:
        for view in VIEWS:
            path = "/" if view == "overview" else f"/{view}"
            assert (await client.get(f"{path}?{query}")).status_code == 200, view
            await document(client, view, f"&{query}")


async def test_where_nothing_fits_the_page_says_what_there_is(server: AsyncServer, keys: Keys, hours: None) -> None:
    """And how the filters are taken away; an empty range is another thing."""
    async with asking(server, keys) as client:
        nothing = (await client.get("/tokens?agent=nobody&state=draft")).text
        assert "Nothing fits these filters" in nothing
        assert "agents critic, writer; states review" in nothing
        assert "Nothing fits these filters" not in (await client.get("/tokens?agent=writer")).text
        versions = (await client.get("/states?before=9.9&after=1")).text
    assert "Nothing in this range is of version 9.9" in versions


async def test_a_parameter_counts_once_and_a_path_is_known(server: AsyncServer, keys: Keys) -> None:
    """Neither the first nor the last of two is meant."""
    async with asking(server, keys) as client:
        twice = await client.get("/tokens?agent=a&agent=b")
        assert (twice.status_code, "agent: is given twice" in twice.text) == (400, True)
        for path in ("/tokens/x", "/nothing"):
            missing = await client.get(path)
            assert (missing.status_code, "There is no such page" in missing.text) == (404, True)


async def test_after_the_first_events_every_view_is_drawn(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A session that has begun, and one request: nothing of it is unusual."""
    await append([TransitionEvent(NOW_US, from_state="", to_state="draft", session="deck-1"), request(NOW_US)])
    await fold(server, keys)
    async with asking(server, keys) as client:
        pages = {view: await client.get("/" if view == "overview" else f"/{view}") for view in VIEWS}
    assert {answer.status_code for answer in pages.values()} == {200}
    assert "its usual</span>" not in pages["overview"].text
    assert "end here" not in pages["states"].text


async def test_spending_is_held_against_hours_in_which_something_was_spent(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """An application that rests at night is not unusual every morning."""
    for hour in range(2, 8):
        await append([request(NOW_US - hour * 3_600 * S, tokens=1_000_000)])
    await append([request(NOW_US - 60 * S, tokens=80_000)])
    await fold(server, keys)
    async with asking(server, keys) as client:
        usual = (await client.get("/?range=24h")).text
        await append([request(NOW_US - 50 * S, tokens=3_000_000)])
        await fold(server, keys)
        unusual = (await client.get("/?range=24h")).text
    assert "its usual</span>" not in usual
    assert "its usual</span>" in unusual


async def test_rules_that_nobody_evaluates_are_said_to_be_old(
    server: AsyncServer, keys: Keys, hours: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they stand, on the overview, and in the pipeline."""
    engine = AlertEngine(server, keys, [Rule(name="budget", kind="tokens", threshold=1)], partitions=_one, grace_s=0.0)
    await engine.run_once()
    async with asking(server, keys) as client:
        paths = ("/", "/alerts", "/pipeline")
        fresh = [(await client.get(path)).text for path in paths]
        monkeypatch.setattr(alerting, "EVALUATED_LATE_S", -3_600)
        late = [(await client.get(path)).text for path in paths]
    assert not any("ot evaluated for" in text for text in fresh)
    assert "alerts not evaluated for" in late[0]
    assert "Not evaluated for" in late[1]
    assert "no worker with the handler" in late[2]


async def _one() -> int:
    return 4
