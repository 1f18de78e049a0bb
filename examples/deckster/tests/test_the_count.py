"""The clients' count is exact, whatever fails, stalls, is cancelled or loses its connection."""

import json

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

from examples.deckster.app import Deckster
from examples.deckster.clients import LedgerGapError, drive
from examples.deckster.journal import Entry
from examples.deckster.ledger import ClientLedger, add, empty_ledger
from examples.deckster.models import Conditions
from examples.deckster.tests.conftest import Serve

STORMY = Conditions(seed=3, pace=0.01, failing_ratio=0.08, stalled_ratio=0.03, cut_ratio=0.15, broken_ratio=0.1)


def written_down(deckster: Deckster) -> ClientLedger:
    """Add up what the models, tools and sessions themselves wrote down."""
    ledger = empty_ledger()
    for session in deckster.sessions.values():
        for entry in session.journal.entries:
            add(ledger, entry)
    return ledger


async def test_a_stormy_day_is_counted_to_the_event(serve: Serve) -> None:
    """Refused, stalled and cut requests, cancelled turns and dropped connections: the clients miss nothing."""
    async with serve(STORMY) as (url, deckster):
        ledger = await drive(url, sessions=30, seconds=3, seed=3)
    expected = written_down(deckster) | {"sessions": ledger["sessions"], "turns": ledger["turns"]}
    assert ledger == expected
    assert ledger["sessions"] == len(deckster.sessions)
    # A storm that did not happen proves nothing.
    assert set(ledger["turns"]) == {"ok", "failed", "cancelled", "timed_out", "dropped"}
    assert ledger["by_error"].keys() == {"ModelHTTPError", "TemplateLibraryError"}
    assert ledger["transitions"] > ledger["sessions"]


async def test_a_calm_day_has_no_errors(serve: Serve) -> None:
    """What visitors cancel, and a connection that drops, is no error."""
    async with serve(Conditions(pace=0.01, failing_ratio=0, stalled_ratio=0, cut_ratio=0, broken_ratio=0)) as (url, _):
        ledger = await drive(url, sessions=8, seconds=1.5, seed=5)
    assert ledger["errors"] == ledger["run_errors"] == 0
    assert ledger["runs_by_status"].keys() == {"ok", "cancelled"}


async def test_the_count_so_far_is_shown_after_every_turn(serve: Serve) -> None:
    """A screen can follow the run while it lasts."""
    seen: list[int] = []
    async with serve(Conditions(pace=0.01)) as (url, _):
        ledger = await drive(url, sessions=3, seconds=1, progress=lambda so_far: seen.append(so_far["runs"]))
    assert seen == sorted(seen)
    assert 0 < seen[0] <= seen[-1] <= ledger["runs"]


async def test_a_lost_reply_is_an_error_and_not_a_wrong_count() -> None:
    """A reply that begins later than the last one ended stops the run."""

    async def forgetful(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "hello", "state": "greeting"}))
        await connection.recv()
        await connection.send(json.dumps({"type": "turn", "state": "done", "status": "ok", "first": 5, "entries": []}))
        await connection.wait_closed()

    async with serve_websockets(forgetful, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(ExceptionGroup) as caught:
            await drive(f"ws://127.0.0.1:{port}", sessions=1, seconds=1)
    assert caught.group_contains(LedgerGapError)


async def test_a_turn_cut_off_by_a_dropped_connection_is_in_the_ledger(serve: Serve) -> None:
    """The ledger waits for the end of the connection, so it tells of the turn that was cancelled by its end."""
    async with serve(Conditions(pace=10, failing_ratio=0, stalled_ratio=0)) as (url, _):
        async with connect(f"{url}/ws/deck-1?user=ada", proxy=None) as connection:
            await connection.recv()
            await connection.send(json.dumps({"say": "Hello"}))
            await connection.send(json.dumps({"say": "Hello?"}))
            # The second is refused because the first has begun: nothing else has to be waited for.
            assert json.loads(await connection.recv())["type"] == "refused"
            connection.transport.abort()
        entries = await ask_for_entries(url, "deck-1")
    assert [(entry["kind"], entry.get("status")) for entry in entries] == [
        ("request", "cancelled"),
        ("run", "cancelled"),
    ]


async def test_a_returning_user_finds_the_presentation_where_it_was(serve: Serve) -> None:
    """A session outlives its connections."""
    async with serve(Conditions(pace=0.01, failing_ratio=0, stalled_ratio=0)) as (url, _):
        for state in ("greeting", "clarifying"):
            async with connect(f"{url}/ws/deck-2?user=ada", proxy=None) as connection:
                assert json.loads(await connection.recv()) == {"type": "hello", "state": state}
                await connection.send(json.dumps({"say": "Hello"}))
                assert json.loads(await connection.recv())["status"] == "ok"


async def test_a_cancelled_turn_is_answered_with_what_was_done(serve: Serve) -> None:
    """The reply comes at once and carries the request and the run that were cut short."""
    async with (
        serve(Conditions(pace=10, failing_ratio=0, stalled_ratio=0)) as (url, _),
        connect(f"{url}/ws/deck-3?user=ada", proxy=None) as connection,
    ):
        await connection.recv()
        await connection.send(json.dumps({"say": "Hello"}))
        await connection.send(json.dumps({"cancel": True}))
        reply = json.loads(await connection.recv())
    assert (reply["status"], reply["state"], reply["first"]) == ("cancelled", "greeting", 0)
    assert [entry["kind"] for entry in reply["entries"]] == ["request", "run"]


async def test_an_unknown_session_has_no_ledger(serve: Serve) -> None:
    """Asking for a session that never was is answered with 404."""
    async with serve(Conditions()) as (url, _), httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{url.replace('ws', 'http', 1)}/ledger/nobody")
    assert answer.status_code == 404


async def ask_for_entries(url: str, session_id: str) -> list[Entry]:
    """Ask the server what happened in a session."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{url.replace('ws', 'http', 1)}/ledger/{session_id}")
    return answer.json()["entries"]
