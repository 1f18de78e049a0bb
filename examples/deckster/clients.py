"""Visitors of Deckster: real WebSocket clients, and their own count of what happened.

Keeps:
- The count comes from what the server's protocol tells, never from Sidestream.
- Every session's entries are counted once and without a hole: each reply says which entry it begins with. What a
  visitor missed, because its connection dropped in the middle of a turn, it asks for when that has ended.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from examples.deckster.conversation import State
from examples.deckster.journal import Entry
from examples.deckster.ledger import ClientLedger, add, count, empty_ledger
from examples.deckster.visitors import Plan, plan_visitors

_TURNS_AT_MOST = 30
"""A session that has not come to its end by then never will."""
_TIMEOUT_S = 30.0

Progress = Callable[[ClientLedger], None]
"""Called after every turn with the count so far."""


class LedgerGapError(Exception):
    """A reply does not begin where the last one ended: the count would be wrong."""


class _Happened(TypedDict):
    """Entries of a session, and the number of the first of them."""

    first: int
    entries: list[Entry]


class _Reply(_Happened):
    """What the server says; `type` tells which of the rest is there."""

    type: str
    state: NotRequired[str]
    status: NotRequired[str]


@dataclass
class _Run:
    """What the visitors of a run share."""

    url: str
    http: httpx.AsyncClient
    ends_at: float
    ledger: ClientLedger
    progress: Progress


class _Visitor:
    """One visitor, walking a session through the states of a presentation."""

    def __init__(self, run: _Run, plan: Plan) -> None:
        self._run = run
        self._plan = plan
        self._state = State.GREETING
        self._heard = 0
        self._turns = 0
        self._whim_is_due = plan.whim != "none"

    async def walk(self) -> None:
        """Arrive, talk until the presentation is done or the run is over, and settle the count."""
        await asyncio.sleep(self._plan.arrives_s)
        address = f"{self._run.url}/ws/{self._plan.session_id}?user={self._plan.user_id}"
        while self._wants_more():
            async with connect(address, compression=None, open_timeout=_TIMEOUT_S, proxy=None) as connection:
                # A server that stops closes the connection; what it still did is asked for below.
                with suppress(ConnectionClosed):
                    await self._talk(connection)
            await self._catch_up()
        self._run.ledger["sessions"] += self._turns > 0

    def _wants_more(self) -> bool:
        has_left = self._plan.whim == "gives_up" and not self._whim_is_due
        is_over = asyncio.get_running_loop().time() >= self._run.ends_at or self._turns >= _TURNS_AT_MOST
        return not (has_left or is_over or self._state is State.DONE)

    async def _talk(self, connection: ClientConnection) -> None:
        hello = _read(await connection.recv())
        self._state = State(hello.get("state", self._state))
        while self._wants_more() and connection.close_code is None:
            await self._turn(connection)

    async def _turn(self, connection: ClientConnection) -> None:
        self._turns += 1
        await connection.send(json.dumps({"say": self._words()}))
        # Where an answer streams, the whim comes with its first piece; elsewhere at once.
        if self._state is not State.WRITING:
            await self._follow_whim(connection)
        async for text in connection:
            reply = _read(text)
            match reply["type"]:
                case "piece":
                    await self._follow_whim(connection)
                case "turn":
                    self._hear(reply)
                    self._state = State(reply.get("state", self._state))
                    count(self._run.ledger["turns"], reply.get("status", "unknown"))
                    self._run.progress(self._run.ledger)
                    return
                case _:
                    pass

    def _words(self) -> str:
        match self._state:
            case State.GREETING:
                return "Hello, I need a presentation."
            case State.CLARIFYING:
                return self._plan.brief
            case State.WRITING:
                return self._plan.wish
            case _:
                return "Go on."

    async def _follow_whim(self, connection: ClientConnection) -> None:
        if not self._whim_is_due or self._state is not self._plan.whim_state:
            return
        self._whim_is_due = False
        if self._plan.whim == "cancels":
            await connection.send(json.dumps({"cancel": True}))
        else:
            # No goodbye: the lid of the laptop closes.
            connection.transport.abort()
            count(self._run.ledger["turns"], "dropped")

    async def _catch_up(self) -> None:
        answer = await self._run.http.get(f"/ledger/{self._plan.session_id}", params={"after": self._heard})
        answer.raise_for_status()
        self._hear(cast("_Happened", answer.json()))

    def _hear(self, happened: _Happened) -> None:
        if happened["first"] != self._heard:
            raise LedgerGapError(f"{self._plan.session_id}: heard {self._heard} entries, told from {happened['first']}")
        for entry in happened["entries"]:
            add(self._run.ledger, entry)
        self._heard += len(happened["entries"])


def _read(text: str | bytes) -> _Reply:
    return cast("_Reply", json.loads(text))


async def drive(
    url: str, sessions: int = 40, seconds: float = 25.0, seed: int = 7, progress: Progress = lambda _: None
) -> ClientLedger:
    """Walk `sessions` visitors through Deckster at once, and return their count of what happened.

    Args:
        url: Where Deckster listens, such as `ws://127.0.0.1:8000`.
        sessions: How many visitors come.
        seconds: After this time no turn begins; those that run are waited for.
        seed: What the visitors' plans are drawn from.
        progress: Called after every turn.

    Raises:
        LedgerGapError: A reply was lost, so that the count would be wrong.
        ExceptionGroup: A visitor could not reach the server.
    """
    ends_at = asyncio.get_running_loop().time() + seconds
    base_url = url.replace("ws://", "http://", 1)
    async with httpx.AsyncClient(base_url=base_url, timeout=_TIMEOUT_S, trust_env=False) as http:
        run = _Run(url, http, ends_at, empty_ledger(), progress)
        async with asyncio.TaskGroup() as visitors:
            for plan in plan_visitors(sessions, seconds, seed):
                visitors.create_task(_Visitor(run, plan).walk())
    return run.ledger


def main() -> None:
    """Drive a server that is already running, and write down the count."""
    parser = argparse.ArgumentParser(prog="python -m examples.deckster.clients", description="Visitors of Deckster.")
    parser.add_argument("--url", default="ws://127.0.0.1:8000")
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where the count is written; without it, to the terminal")
    options = parser.parse_args()
    try:
        ledger = asyncio.run(drive(options.url, options.sessions, options.seconds, options.seed))
    except* (OSError, httpx.TransportError) as errors:
        sys.exit(f"cannot reach {options.url}: {errors.exceptions[0]}; is the server running?")
    text = json.dumps(ledger, indent=2, ensure_ascii=False)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
