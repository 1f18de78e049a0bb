"""Where a session stands, as the stream tells."""

import pytest
from support import Appender

from consumers import measures as code
from consumers.histogram import observe
from consumers.views.inflight import InFlight
from consumers.views.live import LiveLook, live_sessions
from consumers.views.report import Range
from consumers.views.sessions import SessionFollower, SessionSeen
from consumers.views.states import states_of
from pipeline.connection import AsyncServer
from pipeline.events import ErrorEvent, OperationEvent, TransitionEvent, UsageEvent
from pipeline.keys import Keys
from pipeline.presence import OpenOperation

S = 1_000_000


async def look(follower: SessionFollower) -> dict[str, SessionSeen]:
    """Return the sessions by name."""
    return {seen.session: seen for seen in await follower.look(4)}


async def test_a_transition_says_state_and_since_when(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """A run that began before it and ended after it does not take the session back."""
    follower = SessionFollower(server, keys)
    assert await look(follower) == {}
    assert follower.since_ms is None
    await append([UsageEvent(10 * S, session="s", state="draft", agent="writer")], partition=1)
    seen = (await look(follower))["s"]
    assert (seen.state, seen.since_us, seen.agent) == ("draft", None, "writer"), "since when nobody told"
    await append(
        [
            TransitionEvent(20 * S, from_state="draft", to_state="review", session="s"),
            OperationEvent(21 * S, kind="run", session="s", state="draft", agent="writer"),
        ],
        partition=1,
    )
    seen = (await look(follower))["s"]
    assert (seen.state, seen.since_us, seen.last_us, seen.first_us) == ("review", 20 * S, 21 * S, 10 * S)
    assert follower.since_ms is not None


async def test_the_last_error_is_the_latest_by_its_own_time(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """Whatever order they arrive in."""
    follower = SessionFollower(server, keys)
    await append([ErrorEvent(9 * S, type="Late", session="s"), ErrorEvent(5 * S, type="Early", session="s")])
    seen = (await look(follower))["s"]
    assert (seen.last_error, seen.last_error_us, seen.errors) == ("Late", 9 * S, 2)


async def test_each_look_reads_only_what_has_come_since(server: AsyncServer, keys: Keys, append: Appender) -> None:
    """No event is taken twice, and unreadable entries are passed over."""
    follower = SessionFollower(server, keys)
    for number in range(3):
        await append([ErrorEvent((number + 1) * S, type="E", session="s")])
        await append.raw(b"\x00nonsense", 1)
        assert (await look(follower))["s"].errors == number + 1
        assert (await look(follower))["s"].errors == number + 1


def test_who_asks_for_somebody_for_longest_comes_first() -> None:
    """Stuck before long, each the longest first, whether its figures were read or not; then who was heard of last."""
    now_us = 10_000 * S

    def seen(name: str, since_s: int, last_s: int) -> SessionSeen:
        return SessionSeen(name, "deckster", since_s * S, last_s * S, "draft", since_s * S)

    stays = {code.TRANSITIONS: 40}
    observe(stays, code.VISIT_US, [60 * S] * 30)
    sessions = [
        seen("long", 9_700, 9_990),
        seen("longer", 8_500, 8_600),
        seen("before", 9_980, 9_985),
        seen("lately", 9_990, 9_995),
        seen("hangs", 9_900, 9_900),
    ]
    hang = OpenOperation("chat", "writer", 0, session="hangs")
    row = InFlight(hang, "ab" * 16, "deckster", "vm:1", "open", 100_000, 0)
    states = states_of({("deckster", "1", "", "", "", "", "draft", "ok"): stays}, {})
    found = live_sessions(LiveLook(now_us, 0, sessions, {}, Range(0, 1)), states, [row])
    assert [(one.seen.session, one.standing) for one in found] == [
        ("hangs", "stuck"),
        ("longer", "long"),
        ("long", "long"),
        ("lately", "active"),
        ("before", "active"),
    ]


@pytest.mark.one_server
async def test_after_too_much_it_begins_again_from_the_newest(
    server: AsyncServer, keys: Keys, append: Appender
) -> None:
    """It would rather say "unknown" than something that was true before."""
    follower = SessionFollower(server, keys)
    await append([UsageEvent(S, session="old", state="draft")])
    assert set(await look(follower)) == {"old"}
    for number in range(2_100):
        await append([UsageEvent((number + 2) * S, session=f"s-{number}", state="draft")])
    seen = await look(follower)
    assert "old" not in seen
    assert "s-2099" in seen
    assert 1_900 <= len(seen) <= 2_100
