"""One session, event by event: as the stream tells it, on the page and in its document."""

import time

import msgspec
from pages import asking, document, fold
from support import Appender

from consumers.views.timeline import MOST_KEPT, Stay, TimelineFollower, stays_of
from pipeline.connection import AsyncServer, RedisSettings, Server
from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys, partition_of
from pipeline.presence import OpenOperation, Presence, PresenceWriter

S = 1_000_000
NOW_US = time.time_ns() // 1_000
HOSTILE = "<script>alert(1)</script> & \"'/?#%\N{RIGHT-TO-LEFT OVERRIDE}"


def place_of(session: str) -> int:
    """Return the partition where a session's events come."""
    return partition_of(session, 4)


def happened(session: str, at_us: int = NOW_US - 60 * S) -> list[Event]:
    """Return what a short session tells."""
    return [
        TransitionEvent(at_us, from_state="", to_state="draft", session=session),
        UsageEvent(at_us + 5 * S, "writer", "gpt-4o", 900, 100, 4 * S, session, state="draft"),
        ErrorEvent(at_us + 6 * S, type="ToolError", message="it broke", agent="writer", session=session),
        OperationEvent(at_us + 7 * S, "writer", "run", 6 * S, "error", "writer", "ToolError", session=session),
        TransitionEvent(at_us + 8 * S, from_state="draft", to_state="review", duration_us=8 * S, session=session),
    ]


async def test_it_tells_one_session_alone_in_the_order_of_its_events(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Others are passed over, entries that nobody can read too; a later look adds what has come since."""
    follower, number = TimelineFollower(server, keys, "mine"), place_of("mine")
    assert await follower.look(4) == []
    assert (follower.since_ms, follower.whole) == (None, True)
    await append(happened("mine")[3:], partition=number)
    await append.raw(b"\x00nonsense", 1, partition=number)
    await append([*happened("other"), *happened("mine")[:3]], partition=number)
    assert await follower.look(4) == happened("mine")
    assert await follower.look(4) == happened("mine")
    await append([ErrorEvent(NOW_US, type="Late", session="mine")], partition=number)
    assert [type(event) for event in await follower.look(4)][-1] is ErrorEvent
    assert (follower.resource.service, follower.left_out, follower.whole) == ("deckster", 0, True)


async def test_a_name_in_json_is_found_however_it_is_written(server: AsyncServer, keys: Keys) -> None:
    """Entries of a bare XADD may escape any letter."""
    name = "sitzung-\N{LATIN SMALL LETTER A WITH DIAERESIS}"
    line = rb'{"v":1,"events":[{"event":"error","time_us":5,"type":"E","session":"sitzung-\u00e4"}]}'
    await server.call("XADD", keys.partition(place_of(name)).stream(), "*", "b", line)
    assert [event.time_us for event in await TimelineFollower(server, keys, name).look(4)] == [5]


async def test_of_many_events_the_newest_are_kept(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """How many there were besides is said."""
    follower, number = TimelineFollower(server, keys, "s"), place_of("s")
    for first in range(0, MOST_KEPT + 500, 500):
        await append([UsageEvent((first + n) * S, session="s") for n in range(500)], partition=number)
    events = await follower.look(4)
    assert (len(events), follower.left_out) == (MOST_KEPT, 500)
    assert events[0].time_us == 500 * S


def test_stays_are_what_transitions_tell() -> None:
    """From when until when; what nobody told is None."""
    assert stays_of(happened("s", 0)) == [Stay("draft", 0, 8 * S), Stay("review", 8 * S, None, going_on=True)]
    assert stays_of([UsageEvent(S, state="draft")]) == []
    begins_within = [TransitionEvent(9 * S, from_state="draft", to_state="review", duration_us=4 * S)]
    assert stays_of(begins_within)[0] == Stay("draft", 5 * S, 9 * S)
    jumps = [
        TransitionEvent(S, from_state="", to_state="draft"),
        TransitionEvent(9 * S, from_state="review", to_state="done"),
        TransitionEvent(10 * S, from_state="done", to_state=""),
    ]
    assert stays_of(jumps) == [Stay("draft", S, None), Stay("review", None, 9 * S), Stay("done", 9 * S, 10 * S)]


async def test_the_page_tells_one_session(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Where it stands, its states, what happened, newest first; its document says the same."""
    await append(happened("deck-1"), partition=place_of("deck-1"))
    await fold(server, keys)
    async with asking(server, keys) as client:
        page = (await client.get("/session?session=deck-1")).text
        found = (await document(client, "session", "&session=deck-1"))["session"]
        listed = (await client.get("/sessions")).text
        overview = await client.get("/?session=deck-1")
    assert 'href="/session?session=deck-1"' in listed
    assert page.index("draft → review") < page.index("ToolError: it broke") < page.index("begins → draft")
    assert "sidestream tail --session deck-1" in page
    assert "<select" not in page, "neither range nor filters apply"
    assert [event["event"] for event in found["events"]] == ["transition", "usage", "error", "operation", "transition"]
    assert found["stays"] == [msgspec.to_builtins(stay) for stay in stays_of(happened("deck-1"))]
    assert (found["stands"]["tokens"], found["stands"]["errors"], found["left_out"]) == (1_000, 1, 0)
    assert found["whole"] is True
    assert overview.status_code == 400, "a parameter of this view alone"


async def test_names_from_outside_are_text(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """In the address, in the page, and in the command that it offers."""
    await append(happened(HOSTILE), partition=place_of(HOSTILE))
    await fold(server, keys)
    async with asking(server, keys) as client:
        answer = await client.get("/session", params={"session": HOSTILE})
        listed = (await client.get("/sessions")).text
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text + listed
    assert "it broke" in answer.text
    link = listed.partition('<th scope="row"><a class="pick id" href="')[2].partition('"')[0]
    async with asking(server, keys) as client:
        assert "it broke" in (await client.get(link.replace("&amp;", "&"))).text


async def test_a_session_that_hangs_in_its_first_request_is_there(
    redis_url: str, server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """Nothing of it is on the stream yet: what is open tells of it, in the list and on its own page."""
    hang = OpenOperation("chat", "writer", NOW_US - 90 * S, "request", "gpt-4o", "op-1", session="deck-hangs")
    producer = Server(RedisSettings(redis_url))
    PresenceWriter(keys, "cd" * 16).write(producer, Presence("cd" * 16, service="deckster", open_operations=(hang,)))
    producer.close()
    await append(happened("deck-1"), partition=place_of("deck-1"))
    await fold(server, keys)
    async with asking(server, keys) as client:
        rows = (await document(client, "sessions"))["sessions"]["rows"]
        page = (await client.get("/session?session=deck-hangs")).text
    assert (rows[0]["session"], rows[0]["standing"]) == ("deck-hangs", "stuck")
    assert "still open" in page
    assert "gpt-4o" in page


async def test_a_session_that_nobody_knows_is_said_to_be(server: AsyncServer, keys: Keys) -> None:
    """And one that is not named is a wrong address."""
    async with asking(server, keys) as client:
        page = await client.get("/session?session=nobody")
        assert "tells nothing of a session of this name" in page.text
        assert (await client.get("/session")).status_code == 400
        assert (await client.get("/session?session=" + "x" * 201)).status_code == 400


async def test_sessions_are_listed_by_how_they_stand(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """The tiles lead there; what was counted of those that are listed is read, however long ago they were heard of."""
    old_us = NOW_US - 3_000 * S
    for number in range(60):
        name = f"deck-{number}"
        await append(happened(name, NOW_US - 30 * S), partition=place_of(name))
    await append(happened("deck-old", old_us)[:3], partition=place_of("deck-old"))
    await fold(server, keys)
    async with asking(server, keys) as client:
        everyone = (await document(client, "sessions"))["sessions"]
        quiet = (await document(client, "sessions", "&standing=quiet"))["sessions"]["rows"]
        page = (await client.get("/sessions?standing=quiet")).text
        assert (await client.get("/sessions?standing=lost")).status_code == 400
        assert (await client.get("/tokens?standing=quiet")).status_code == 400
    assert everyone["of_stream"] == 61
    assert [(row["session"], row["tokens"], row["errors"]) for row in quiet] == [("deck-old", 1_000, 1)]
    assert 'href="/sessions?standing=ended"' in page
    assert 'href="/tokens"' in page, "another view does not know it"
